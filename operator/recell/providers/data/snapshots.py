"""What VolumeSnapshots say, and which of them are a backup of a cell.

Promises: pure functions over JSON. A backup has exactly one snapshot of each claim of the cell, or it is told as
incomplete; whoever made them counts, save those that are being deleted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from recell.api.meta import LABEL_BACKUP
from recell.domain.data import Backup, newest
from recell.providers.kube.api import Object

CUT_OFF = timedelta(seconds=1)
"""creationTime is written to the second, cut off: what was committed up to a second later may be in the snapshot, and
nothing later than asked may be restored (rule 9)."""


@dataclass(frozen=True)
class Snapshot:
    name: str
    claim: str
    """Empty where it was not made from a claim, but brought from elsewhere."""
    group: str
    """The backup that it belongs to, by its label; empty without one."""
    ready: bool
    at: datetime
    """Nothing that was committed later is in it. Of one that was not taken yet: when it was asked for."""
    size: str
    """Quantity: the least size of a volume that is made from it; empty where that is not told."""
    problem: str
    """What its controller says went wrong last; it goes on trying."""
    deleting: bool


def read(obj: Object) -> Snapshot:
    metadata, status = obj["metadata"], obj.get("status") or {}
    taken = status.get("creationTime")
    asked = metadata.get("creationTimestamp")
    return Snapshot(
        name=metadata["name"],
        claim=obj["spec"]["source"].get("persistentVolumeClaimName") or "",
        group=(metadata.get("labels") or {}).get(LABEL_BACKUP) or "",
        ready=bool(status.get("readyToUse") and taken),
        at=moment(taken) + CUT_OFF if taken else moment(asked),
        size=str(status.get("restoreSize") or ""),
        problem=str((status.get("error") or {}).get("message") or ""),
        deleting=bool(metadata.get("deletionTimestamp")),
    )


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@dataclass(frozen=True)
class Taken:
    """A backup as its snapshots are."""

    id: str
    snapshots: tuple[Snapshot, ...]

    def missing(self, claims: Sequence[str]) -> str:
        """Why it cannot be restored from, for people; empty: it can."""
        for claim in claims:
            found = [s for s in self.snapshots if s.claim == claim]
            if len(found) != 1:
                return f"it has {len(found) or 'no'} snapshot{'s' if found else ''} of claim {claim}"
            if not found[0].ready:
                why = f": {found[0].problem}" if found[0].problem else ""
                return f"VolumeSnapshot {found[0].name} is not ready to use{why}"
        return ""

    def of(self, claim: str) -> Snapshot:
        return next(s for s in self.snapshots if s.claim == claim)

    @property
    def at(self) -> datetime:
        """As late as its latest snapshot."""
        return max(s.at for s in self.snapshots)


def taken(objects: Iterable[Object], claims: Sequence[str], since: Mapping[str, datetime]) -> list[Taken]:
    """The backups of these claims, newest first. `since`: a claim's data begins there; what is earlier is another's.

    Of one claim each snapshot is a backup, and its name the id. Of several, those are that carry the same label.
    """
    groups: dict[str, list[Snapshot]] = {}
    for snapshot in map(read, objects):
        if snapshot.deleting or snapshot.claim not in claims:
            continue
        if snapshot.claim in since and snapshot.at <= since[snapshot.claim]:
            continue
        id = snapshot.name if len(claims) == 1 else snapshot.group
        if id:
            groups.setdefault(id, []).append(snapshot)
    found = [Taken(id, tuple(members)) for id, members in groups.items()]
    return sorted(found, key=lambda each: (each.at, each.id), reverse=True)


def backups(found: Sequence[Taken], claims: Sequence[str]) -> tuple[Backup, ...]:
    return newest(Backup(each.id, each.at, complete=not each.missing(claims)) for each in found)
