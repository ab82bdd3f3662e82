"""What the operator wrote, as the API server's audit log has it: with the server's own times.

Promises: entries in the order in which the server finished them, accepted ones only, also across a cut of the log.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from hack.stage import Stage

WRITES = ("create", "update", "patch", "delete", "deletecollection")
OPERATOR = "system:serviceaccount:recell-system:recell"


@dataclass(frozen=True)
class Write:
    verb: str
    resource: str
    subresource: str
    name: str
    namespace: str
    at: float
    """When the server had the request, in seconds of the epoch."""
    took: float
    """Seconds until the server had answered."""

    @property
    def what(self) -> str:
        return f"{self.verb} {self.resource}{'/' + self.subresource if self.subresource else ''}"

    @property
    def kind(self) -> str:
        """What it is for."""
        if self.resource == "leases":
            return "leases"
        if self.resource == "events":
            return "events"
        if self.subresource == "status":
            return "status"
        if self.resource in ("cells", "routers", "recoveryruns"):
            return "metadata"
        return "effects"


class Audit:
    """Entries from the moment on in which it was made; `again()` starts anew."""

    def __init__(self, stage: Stage, user: str = OPERATOR) -> None:
        self._path = Path(stage.hack_cluster("audit-log").strip())
        self._user = user
        self.again()

    def again(self) -> None:
        self._from = self._path.stat().st_size
        self._file = self._path.stat().st_ino

    def writes(self) -> list[Write]:
        return list(self._writes())

    def _writes(self) -> Iterator[Write]:
        mark = json.dumps(self._user).encode()
        for line in self._lines():
            if mark not in line:
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the last line is still being written
            if entry["user"]["username"] != self._user or entry["verb"] not in WRITES:
                continue
            if entry.get("stage") != "ResponseComplete" or entry["responseStatus"].get("code", 500) >= 300:
                continue
            ref = entry["objectRef"]
            at, end = _seconds(entry["requestReceivedTimestamp"]), _seconds(entry["stageTimestamp"])
            yield Write(
                entry["verb"],
                ref["resource"],
                ref.get("subresource", ""),
                ref.get("name", ""),
                ref.get("namespace", ""),
                at,
                end - at,
            )

    def _lines(self) -> Iterator[bytes]:
        begin = self._from
        for path in self._parts():
            with path.open("rb") as file:
                file.seek(begin)
                yield from file
            begin = 0

    def _parts(self) -> list[Path]:
        """The file in which the reading began, and those that followed it."""
        older = sorted(self._path.parent.glob(f"{self._path.stem}-*{self._path.suffix}"))
        paths = [*older, self._path]
        begun = next((i for i, path in enumerate(paths) if path.stat().st_ino == self._file), len(older))
        return paths[begun:]


def by_kind(writes: Iterable[Write]) -> dict[str, int]:
    return dict(Counter(write.kind for write in writes))


def by_what(writes: Iterable[Write]) -> dict[str, int]:
    return dict(Counter(write.what for write in writes).most_common())


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
