"""Status by server-side apply: one field manager, the complete subtree, no write when nothing changed.

The conditions of other controllers in the same list are neither read as ours nor written.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from recell.api import Cell, CellTemplate, RecoveryPolicy, Router
from recell.api.meta import Condition, ConditionStatus, Model, set_condition
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import OWN
from recell.providers.kube.store import KubeStore

Shown = Cell | Router | RecoveryPolicy | CellTemplate
"""Kinds whose status is written this way."""
Wanted = tuple[bool | ConditionStatus, str, str]
"""Status, reason, message of a condition."""


def conditions(
    present: list[Condition], wanted: Mapping[str, Wanted], generation: int, now: datetime
) -> list[Condition]:
    """Our conditions, in the order of `wanted`; the transition time is kept while the status is the same."""
    ours = [c for c in present if c.type in wanted]
    for name, (status, reason, message) in wanted.items():
        ours = set_condition(
            ours, now, type=name, status=status, reason=reason, message=message[:1024], generation=generation
        )
    order = list(wanted)
    return sorted(ours, key=lambda c: order.index(c.type))


async def show(api: Api, store: KubeStore, present: Shown, wanted: Model) -> Object | None:
    """Make `wanted` the object's status. Returns the object as written; None: it said so already."""
    if not differs(present.status, wanted):
        return None
    kind, resource = type(present), OWN[type(present)]
    namespace, name = present.key
    body = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {"name": name, "namespace": namespace},
        "status": wanted.to_dict(),
    }
    answer = await api.apply(resource.status(namespace, name), body)
    store.put(kind, answer)
    return answer


def differs(present: Model, wanted: Model) -> bool:
    """Would an apply of `wanted` change `present`? Others' conditions do not count."""
    old, new = present.to_dict(), wanted.to_dict()
    types = {c["type"] for c in new.get("conditions", ())}
    mine = {c["type"]: c for c in old.get("conditions", ()) if c["type"] in types}
    theirs = {c["type"]: c for c in new.get("conditions", ())}
    return mine != theirs or _rest(old) != _rest(new)


def _rest(status: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in status.items() if key != "conditions"}
