"""May a replaced cell be deleted? What its run proved about it, and every proof that is needed (rules 6, 7, 8).

Promises: pure; one proof that is missing, not known or about another object is enough to keep the cell. The record
stands on the Cell itself, so that it outlives the run; times in it come from the run's own record, so that writing
it twice is writing it once.

Must not: take a backup for the successor's that the cell's own list has too, nor one from before the successor had
everything; believe the record alone: the Placement has to say the same of this very Cell.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from pydantic import AwareDatetime, Field, ValidationError

from recell.api.cell import Blocked, Cell, WorkloadKind
from recell.api.meta import ANNOTATION_RETIRED, Model, timestamp
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_freeze import RecoveryFreeze
from recell.api.recovery_run import RecoveryRun
from recell.domain import limits, placement
from recell.domain.data import Backup
from recell.domain.health import HealthState, Level
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.domain.wording import clipped, listed

SKEW = timedelta(seconds=10)
"""As far as the clock of whoever makes backups may be off: beyond 5 s of its own skew the operator does nothing
(rule 30), and another clock may be as far off in the other direction."""

KEPT, RETAINED, SUCCESSOR_UNKNOWN = "Kept", "Retained", "SuccessorUnknown"
BACKUP_PENDING, NO_BACKUP = "BackupPending", "NoBackup"
PATIENT = frozenset({KEPT, RETAINED, SUCCESSOR_UNKNOWN, BACKUP_PENDING})
"""Reasons that are as somebody wanted it, or pass by themselves: no news."""


class Claim(Model):
    """A volume claim of one of the cell's StatefulSets."""

    name: str
    uid: str


class Retirement(Model):
    """The annotation `recell.dev/retired` of a Cell that was replaced."""

    successor: str
    """Name of the Cell that took its place."""
    successor_uid: str
    """A Cell made anew under that name has nothing of this one."""
    until: AwareDatetime | None = None
    """Not deleted before; None: people delete it."""
    complete: bool
    """Every customer is proven to be at the successor: counts known, none failed; or there was nothing to move."""
    conflicts: int = Field(ge=0)
    """Writes that were made elsewhere and that nobody has merged."""
    promoted_at: AwareDatetime
    """The successor had every customer that was moved by then."""
    by: str
    """Name of the run."""
    claims: list[Claim] | None = None
    """What is deleted of the StatefulSets' claims, recorded before the first deletion: a StatefulSet that is gone
    cannot tell. None: nothing was deleted yet."""

    @property
    def due(self) -> datetime | None:
        """When it may be deleted at the earliest: a backup that begins then is surely from after the promotion."""
        return None if self.until is None else max(self.until, self.promoted_at + 2 * SKEW)

    def text(self) -> str:
        """The annotation's value; the same for equal ones."""
        return json.dumps(self.to_dict(), sort_keys=True)


def retirement_of(cell: Cell) -> Retirement | None:
    """What stands on the Cell. Raises ValueError where that cannot be read."""
    text = cell.metadata.annotations.get(ANNOTATION_RETIRED)
    if text is None:
        return None
    try:
        return Retirement.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"annotation {ANNOTATION_RETIRED}: {field}: {first['msg']}".replace(": :", ":")) from error


@dataclass(frozen=True)
class Backups:
    """What a data provider told."""

    successors: Sequence[Backup] | None = None
    own: frozenset[str] | None = None
    """Ids of those of the cell itself, listed after the successor's: where both are kept in one place, each is in both
    lists, and none of them proves that there is another place."""
    told: str = ""
    """Why they are not known, or why another one was not made."""


@dataclass(frozen=True)
class Situation:
    """What is known at one moment. None is not known, and never proves anything."""

    cell: Cell
    retirement: Retirement
    now: datetime
    shared: bool | None = None
    """All cells of the Router share their data: there is none in the cell."""
    placement: PlacementSpec | None = None
    workloads: tuple[WorkloadState, ...] = ()
    successor: Cell | None = None
    health: HealthState | None = None
    """Of the successor."""
    freeze: RecoveryFreeze | None = None
    """One that is in force for the cell, the successor or their Router."""
    runs: Sequence[RecoveryRun] = ()
    """Those of the cell and of the successor that have not ended."""
    backups: Backups = Backups()

    @property
    def hour(self) -> int:
        """Number of the hour since the cell may go; 0 before."""
        due = self.retirement.due
        return 0 if due is None or self.now < due else (self.now - due) // timedelta(hours=1)


def blocked(s: Situation) -> Blocked | None:
    """Why the cell must not be deleted now, and who can do what about it; None: every proof is there."""
    return withheld(s) or unprotected(s)


def withheld(s: Situation) -> Blocked | None:
    """All but the backup, about which a data provider has to be asked."""
    checks = (
        _time(s),
        _paused(s),
        _frozen(s),
        _busy(s),
        _another(s),
        _home(s),
        _incomplete(s),
        _conflicting(s),
        _running(s),
        _successor_gone(s),
        _successor_unwell(s),
    )
    return next((found for found in checks if found is not None), None)


def unprotected(s: Situation) -> Blocked | None:
    """Without a verified backup of the successor the cell may have the last copy."""
    there, promoted = s.retirement.successor, s.retirement.promoted_at
    if s.shared:
        return None
    successors, told = s.backups.successors, s.backups.told
    if successors is None or s.backups.own is None:
        why = told or "nobody has told which there are"
        return _blocked(NO_BACKUP, f"Whether Cell {there} has a verified backup of its own is not known: {why}")
    if any(_why_not(backup, s) is None for backup in successors):
        return None
    newest = sorted(successors, key=lambda backup: backup.at, reverse=True)[:5]
    seen = listed(f"{b.id} of {timestamp(b.at)} ({_why_not(b, s)})" for b in newest) or "there is none"
    return _blocked(
        NO_BACKUP,
        f"Cell {there} has no complete, verified backup from after {timestamp(promoted)}, when it had taken over:"
        f" {seen}. {f'{told}. ' if told else ''}Have one made and verified",
    )


def _why_not(backup: Backup, s: Situation) -> str | None:
    """Why the backup does not prove that what the cell has is elsewhere too; None: it does."""
    if not backup.complete:
        return "incomplete"
    if not backup.verified:
        return "not verified"
    if s.backups.own is None or backup.id in s.backups.own:
        return f"in the list of Cell {s.cell.metadata.name} too"
    if backup.at < s.retirement.promoted_at + SKEW:
        return "too old"
    if backup.at > s.now + SKEW:
        return "from the future: some clock is wrong"
    return None


def _blocked(reason: str, message: str) -> Blocked:
    return Blocked(reason=reason, message=clipped(message))


def _lists(spec: PlacementSpec, name: str, uid: str) -> bool:
    return any((cell.name, cell.uid) == (name, uid) for cell in spec.cells)


def _time(s: Situation) -> Blocked | None:
    name, due = s.cell.metadata.name, s.retirement.due
    if due is None:
        told = f"Kept as the policy said (replacement.decommission Keep): delete Cell {name} yourself"
        return _blocked(KEPT, told)
    if s.now < due:
        return _blocked(RETAINED, f"Kept until {timestamp(due)}")
    return None


def _paused(s: Situation) -> Blocked | None:
    name = s.cell.metadata.name
    return _blocked("Paused", f"Cell {name} has spec.paused: nothing is deleted") if s.cell.spec.paused else None


def _frozen(s: Situation) -> Blocked | None:
    if s.freeze is None:
        return None
    return _blocked("Frozen", f"Nothing is deleted. {limits.frozen_message(s.freeze)}")


def _busy(s: Situation) -> Blocked | None:
    if not s.runs:
        return None
    names = listed(sorted(run.metadata.name for run in s.runs))
    return _blocked("RunActive", f"{names} has to end first")


def _another(s: Situation) -> Blocked | None:
    """The record is about this Cell only if the Placement, which nobody but the operator writes, says the same."""
    name, r, spec = s.cell.metadata.name, s.retirement, s.placement
    if spec is None or s.shared is None:
        router = s.cell.spec.router_ref.name
        return _blocked("PlacementMissing", f"Nobody can say who has the customers: see Router {router}")
    by_hand = f"If Cell {name} is not needed, delete it yourself"
    if not _lists(spec, name, s.cell.metadata.uid):
        told = f"The Placement does not know this Cell {name} (UID {s.cell.metadata.uid}): it was made anew. {by_hand}"
        return _blocked("UnknownProvenance", told)
    held = any(h.cell == name and h.state is HoldState.RETIRED and h.holder.name == r.by for h in spec.holds)
    following = next((entry.successor for entry in spec.successors if entry.cell == name), None)
    if held and following in (r.successor, None):  # None: it was nobody's home
        return None
    return _blocked(
        "NotRetired",
        f"The Placement does not say that run {r.by} replaced Cell {name} by {r.successor}: the annotation"
        f" {ANNOTATION_RETIRED} is of an earlier time. {by_hand}",
    )


def _home(s: Situation) -> Blocked | None:
    name, spec = s.cell.metadata.name, s.placement
    if spec is None:
        return None
    slots, index = len(placement.slots_of(spec, name)), placement.index_of(spec, name)
    pins = [pin.customer for pin in spec.pins if pin.home == index]
    if not slots and not pins:
        return None
    have = listed(part for part in (f"{slots} slots" if slots else "", f"{len(pins)} pins" if pins else "") if part)
    return _blocked("StillHome", f"Cell {name} is still the home of {have}: move those customers first")


def _incomplete(s: Situation) -> Blocked | None:
    if s.retirement.complete:
        return None
    name, r = s.cell.metadata.name, s.retirement
    return _blocked(
        "MoveIncomplete",
        f"Run {r.by} did not prove that every customer of Cell {name} is at {r.successor}: see its result, and delete"
        f" Cell {name} yourself once you know",
    )


def _conflicting(s: Situation) -> Blocked | None:
    name, r = s.cell.metadata.name, s.retirement
    if not r.conflicts:
        return None
    return _blocked(
        "Conflicts",
        f"Run {r.by} left {r.conflicts} conflicts between Cell {name} and {r.successor}: merge them by its result, then"
        f" delete Cell {name} yourself",
    )


def _running(s: Situation) -> Blocked | None:
    """Somebody uses what runs. A DaemonSet cannot be stopped but by its deletion."""
    for state in s.workloads:
        if state.phase is WorkloadPhase.UNKNOWN:
            return _blocked("WorkloadsUnknown", f"{state.ref} cannot be seen: {state.message}")
        if state.phase is WorkloadPhase.NOT_FOUND or state.ref.kind is WorkloadKind.DAEMON_SET:
            continue
        # Who stopped it watches its pods go; of one that a person stopped only the counts are known.
        gone = state.pods == 0 or (state.pods is None and state.stop_token is None)
        if state.desired != 0 or state.ready or not gone:
            stopped, stop = "been scaled to zero", "scale it down"
            if state.ref.kind is WorkloadKind.CRON_JOB:
                stopped, stop = "been suspended until no pod was left", "suspend it"
            told = f"{state.ref} has not {stopped} ({state.message}): {stop} if nobody uses it"
            return _blocked("StillRunning", told)
    return None


def _successor_gone(s: Situation) -> Blocked | None:
    name, r, spec = s.cell.metadata.name, s.retirement, s.placement
    found = s.successor
    if found is None or found.metadata.name != r.successor or found.metadata.uid != r.successor_uid:
        told = "is not there any more"
    elif found.metadata.deletion_timestamp is not None:
        told = "is being deleted"
    elif spec is None or not _lists(spec, r.successor, r.successor_uid):
        told = "is not listed in the Placement"
    elif held := next((h for h in spec.holds if h.cell == r.successor and h.state in placement.FIRM), None):
        told = f"is itself {held.state.lower()} ({held.reason})"
    else:
        return None
    return _blocked(
        "SuccessorMissing",
        f"Cell {r.successor}, which took its place, {told}: delete Cell {name} yourself once you know that the data of"
        " its customers is elsewhere",
    )


def _successor_unwell(s: Situation) -> Blocked | None:
    level = s.health.level if s.health else Level.UNKNOWN
    if level is Level.HEALTHY:
        return None
    reason = SUCCESSOR_UNKNOWN if level is Level.UNKNOWN else "SuccessorUnwell"
    return _blocked(reason, f"Cell {s.retirement.successor} has to be Healthy first; it is {level}")
