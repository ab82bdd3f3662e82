"""A JSON merge patch applied as an API server does it (RFC 7386), for the servers in memory."""

import copy
from typing import Any


def merged(target: Any, patch: Any) -> Any:
    """`target` with the patch; neither is changed, nothing is shared with either."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    base = copy.deepcopy(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            base.pop(name, None)
        else:
            base[name] = merged(base.get(name), value)
    return base
