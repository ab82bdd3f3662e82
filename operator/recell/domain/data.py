"""Moving and restoring data: what is asked of a provider, what it answers, and what follows from that.

Promises: pure values and functions. A count that nobody told stays None: nothing is invented. A backup or
point later than what is asked for is never chosen (rules 3, 8, 9).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from recell.api.cell import Cell
from recell.api.failure import Verdict
from recell.domain.wording import listed

MOST_BACKUPS = 20
"""That a provider tells of one cell; older ones are left out."""
MOST_SLOTS = 16384
"""Of a Router (`Router.spec.slots`): no text makes more."""
_RANGE = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)


class Operation(StrEnum):
    INVENTORY = "Inventory"
    """Which backups exist."""
    ACCESSIBLE = "Accessible"
    """Can the cell's data be read?"""
    MIGRATE = "Migrate"
    """Copy customers from the cell to another one; their writes are stopped at the cell and stay so."""
    RESTORE = "Restore"
    """Restore customers of the cell from a backup to another cell."""
    CHECK = "CheckIntegrity"
    """Is the cell's data intact?"""
    BACKUP = "Backup"
    """Make a backup of the cell."""
    ABANDON = "Abandon"
    """Undo a migration that was not routed: writes go on at the cell, the copies go."""


@dataclass(frozen=True)
class Request:
    """One effect on data. The same request again is the same effect: a provider does it once."""

    operation: Operation
    key: str
    """Names the effect; a DNS label."""
    cell: Cell
    """The one that it is about: source of a migration or restore; the one that is checked or backed up."""
    target: Cell | None = None
    """The one that is written to."""
    slots: tuple[int, ...] = ()
    """Customers, as slots."""
    slot_count: int = 0
    backup: str = ""
    """Id of the backup to restore from."""
    not_after: datetime | None = None
    """Nothing committed later is restored; None: as late as possible."""


class Progress(StrEnum):
    RUNNING = "Running"
    DONE = "Done"
    """It ended; the answer's other fields say how."""
    FAILED = "Failed"
    """It cannot be done; the message says why and what to do."""
    UNSUPPORTED = "Unsupported"
    """The cell names no means for it."""


@dataclass(frozen=True)
class Backup:
    """Something that data can be restored from."""

    id: str
    at: datetime
    """The earliest moment that it can be restored to."""
    complete: bool = True
    verified: bool = False


@dataclass(frozen=True)
class Customers:
    """Counts as the provider told them; None is not told."""

    expected: int | None = None
    """From the source or the backup's own manifest, never from what arrived."""
    done: int | None = None
    failed: int = 0
    names: tuple[str, ...] = ()
    """Some of those that failed."""
    slots: tuple[int, ...] = ()
    """Those with a customer that failed."""
    whole: bool = False
    """The provider proved that all that the backup held is there, as one: nobody counted customers."""

    @property
    def complete(self) -> bool | None:
        """All there; None where nothing was expected or told: 0 of 0 proves nothing (rule 8)."""
        if self.failed:
            return False
        if self.whole:
            return True
        if not self.expected or self.done is None:
            return None
        return self.done >= self.expected


@dataclass(frozen=True)
class Answer:
    """How far a request is. Only the fields of its operation are set."""

    progress: Progress
    message: str = ""
    done: int | None = None
    of: int | None = None
    """Progress while it runs."""
    accessible: bool | None = None
    when_stopped: bool = False
    """Of Accessible: once the cell is stopped, a backup can be made of what it left behind."""
    intact: bool | None = None
    backups: tuple[Backup, ...] = ()
    until: datetime | None = None
    """Latest moment that anything can be restored to, where it is known."""
    customers: Customers = field(default_factory=Customers)
    records: int | None = None
    recovery_point: datetime | None = None
    conflicts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Isolated:
    """Whether a cell's pods can still be reached."""

    verdict: Verdict
    """Failed: something was reached. Inconclusive: there was nothing to try."""
    message: str


@dataclass(frozen=True)
class Chosen:
    backup: Backup
    not_after: datetime | None
    point: datetime
    """What the restore is expected to bring back to; the answer to the restore says what it did."""


@dataclass(frozen=True)
class NoneReachable:
    message: str


def choose(
    backups: Sequence[Backup],
    until: datetime | None,
    *,
    not_after: datetime | None,
    wanted: str | None = None,
    tried: Iterable[str] = (),
    as_it_is: bool = False,
) -> Chosen | NoneReachable:
    """The newest complete backup, none that was tried, not later than `not_after`.

    With `wanted` that one and no other. `until` is how late continuous archiving reaches, if there is any; a backup
    that is restored `as_it_is` is taken no further than it has to be.
    """
    left_out = set(tried)
    usable = [
        b
        for b in sorted(backups, key=lambda b: b.at, reverse=True)
        if b.complete and b.id not in left_out and (not_after is None or b.at <= not_after)
    ]
    if wanted is not None:
        usable = [b for b in usable if b.id == wanted]
    if not usable:
        return NoneReachable(_none(backups, until, not_after, wanted, left_out))
    best = usable[0]
    if as_it_is:
        return Chosen(best, best.at, best.at)
    latest = max(best.at, until) if until is not None else best.at
    point = latest if not_after is None else max(best.at, min(latest, not_after))
    return Chosen(best, not_after, point)


def _none(
    backups: Sequence[Backup],
    until: datetime | None,
    not_after: datetime | None,
    wanted: str | None,
    tried: set[str],
) -> str:
    if not backups:
        return "There is no backup"
    ordered = sorted(backups, key=lambda b: b.at, reverse=True)
    told = listed(
        f"{b.id} of {b.at:%Y-%m-%dT%H:%M:%SZ}"
        + ("" if b.complete else " (incomplete)")
        + (" (tried)" if b.id in tried else "")
        for b in ordered[:10]
    )
    asked = f" not later than {not_after:%Y-%m-%dT%H:%M:%SZ}" if not_after is not None else ""
    named = f" named {wanted}" if wanted is not None else ""
    reach = f"; points up to {until:%Y-%m-%dT%H:%M:%SZ} can be reached from them" if until is not None else ""
    return f"No backup{named} to restore from{asked}. There are: {told}{reach}"


def newest(backups: Iterable[Backup]) -> tuple[Backup, ...]:
    """Those that are told, the newest first."""
    return tuple(sorted(backups, key=lambda backup: backup.at, reverse=True)[:MOST_BACKUPS])


def latest_safe(
    asked: datetime | None,
    last_passed: datetime | None,
    first_evidence: datetime | None,
    skew: timedelta,
) -> datetime | None:
    """The latest point that is not known to be corrupted (rule 9).

    First evidence is not first corruption: without a time that a person asked for it is the last check that
    passed, less the margin for clocks that differ; without any check, the first evidence less the margin.
    """
    if asked is not None:
        return asked
    if last_passed is not None:
        return last_passed - skew
    if first_evidence is not None:
        return first_evidence - skew
    return None


def loss(point: datetime | None, stopped: datetime | None) -> timedelta | None:
    """How much committed time a restore to the point loses; None where one of the two is not known."""
    if point is None or stopped is None:
        return None
    return max(timedelta(0), stopped - point)


def ranges(slots: Iterable[int]) -> str:
    """Slots as people and Jobs read them: `0-511,700`."""
    parts: list[str] = []
    begin = end = None
    for slot in sorted(set(slots)):
        if end is not None and slot == end + 1:
            end = slot
            continue
        if begin is not None:
            parts.append(f"{begin}-{end}" if end != begin else str(begin))
        begin = end = slot
    if begin is not None:
        parts.append(f"{begin}-{end}" if end != begin else str(begin))
    return ",".join(parts)


def from_ranges(text: str) -> tuple[int, ...]:
    """The inverse of `ranges`. Raises ValueError with the part that is wrong."""
    slots: set[int] = set()
    for part in filter(None, text.split(",")):
        match = _RANGE.fullmatch(part)
        begin, end = (int(match[1]), int(match[2] or match[1])) if match else (0, -1)
        if not begin <= end < MOST_SLOTS:
            raise ValueError(f"{part!r} is neither a slot nor a range of slots such as 0-511")
        slots.update(range(begin, end + 1))
    return tuple(sorted(slots))
