"""What the operator gets to know: the result in the termination message, the progress in the log.

Promises: a result has at most LIMIT bytes; names and conflicts give way first, and the message says that they did.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LIMIT = 4096
_NAMES = 20


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Leave the result where the kubelet takes it from."""
    path.write_text(fit(result), encoding="utf-8")


def fit(result: dict[str, Any]) -> str:
    """The result as JSON that fits."""
    customers = dict(result.get("customers") or {})
    names, conflicts = list(customers.get("names", ()))[:_NAMES], list(result.get("conflicts", ()))[:_NAMES]
    message = str(result.get("message", ""))
    while True:
        shortened = dict(result)
        if customers:
            shortened["customers"] = {**customers, "names": names} if "names" in customers else customers
        if "conflicts" in result:
            shortened["conflicts"] = conflicts
        if message:
            shortened["message"] = message
        text = json.dumps(shortened, ensure_ascii=False)
        if len(text.encode()) <= LIMIT:
            return text
        if conflicts or names:
            (conflicts if len(conflicts) >= len(names) else names).pop()
        elif message:
            message = message[: len(message) * 3 // 4]
        else:
            raise ValueError(f"a result of {len(text)} characters cannot be shortened")


def progress(done: int, of: int) -> None:
    """One line of progress; the last one counts."""
    print(f'recell-progress {{"done": {done}, "of": {of}}}', flush=True)


def say(text: str) -> None:
    """One line for people."""
    print(f"shop-data: {text}", flush=True)
