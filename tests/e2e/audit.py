"""What was really written to the API server: its audit log, not our own records."""

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hack.stage import Stage

Entry = dict[str, Any]
OPERATOR = "system:serviceaccount:recell-system:recell"


class Audit:
    """Entries from now on."""

    def __init__(self, stage: Stage) -> None:
        self._path = Path(stage.hack_cluster("audit-log").strip())
        self._begun = self._path.open("rb")
        self._from = self._begun.seek(0, os.SEEK_END)
        weakref.finalize(self, self._begun.close)

    def entries(self) -> Iterator[Entry]:
        """Accepted writes, in the order in which the server finished them."""
        return (entry for entry in self._answered() if 200 <= entry.get("responseStatus", {}).get("code", 0) < 300)

    def answers(self, user: str, code: int) -> int:
        """How many writes of this user the server answered so."""
        return sum(
            entry["user"]["username"] == user and entry.get("responseStatus", {}).get("code") == code
            for entry in self._answered()
        )

    def _answered(self) -> Iterator[Entry]:
        for line in self._lines():
            try:
                entry: Entry = json.loads(line)
            except ValueError:
                continue  # the last line is still being written
            if entry.get("stage") == "ResponseComplete":
                yield entry

    def _lines(self) -> Iterator[bytes]:
        """Of the log that was written to then, and of the one that the server may have begun since."""
        with self._path.open("rb") as now:
            begun_anew = not os.path.sameopenfile(self._begun.fileno(), now.fileno())
            self._begun.seek(self._from)
            yield from self._begun
            if begun_anew:
                yield from now

    def created(self) -> list[tuple[str, str]]:
        """What the operator made, as resource and name, in order."""
        return [
            (
                entry["objectRef"]["resource"],
                entry["objectRef"].get("name") or entry["responseObject"]["metadata"]["name"],
            )
            for entry in self.entries()
            if entry["user"]["username"] == OPERATOR and entry["responseStatus"]["code"] == 201
        ]

    def writes(self, resource: str, name: str, subresource: str = "") -> list[Entry]:
        found = []
        for entry in self.entries():
            ref = entry.get("objectRef", {})
            here = (ref.get("resource"), ref.get("name"), ref.get("subresource", ""))
            if here == (resource, name, subresource) and entry["verb"] in ("create", "update", "patch", "delete"):
                found.append(entry)
        return found

    def limits(self, router: str, cell: str) -> list[int | None]:
        """The cell's limit after each write of the Placement that changed it; None: no hold."""
        found: list[int | None] = []
        for entry in self.writes("placements", router):
            spec = (entry.get("requestObject") or {}).get("spec") or {}
            held = [h["maxPercent"] for h in spec.get("holds", ()) if h["cell"] == cell]
            now = min(held, default=None)
            if not found or found[-1] != now:
                found.append(now)
        return found
