"""Retired cells: kept until their time is up, deleted once it is proven that nobody needs what they have.

Promises
- Every proof is looked for anew at each look and before each deletion (rules 4, 6, 8); the Cell, its successor and
  the Placement are read from the API server before the first one. What is missing is said in the condition
  DeletionBlocked of the Cell, with who can do what about it; the data provider is asked once an hour at most.
- Workloads first, then the claims that they had, then what else was made for the cell, the Cell last: whoever goes
  on after a crash finds by it what is left. Claims are recorded on the Cell before the first deletion.
- What Git owns is never deleted: the condition RemoveFromGit names it, and nothing goes before its workloads have.
- Placement keeps the hold Retired and the successor, so that pins and names stay what they were.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from recell.api import Cell, Placement
from recell.api.cell import Blocked
from recell.api.meta import ANNOTATION_RETIRED, Condition, ConditionStatus, find_condition
from recell.api.placement import HoldState
from recell.api.recovery_run import TargetKind
from recell.controllers.observer import router_of
from recell.controllers.protection import Protection
from recell.controllers.status import Wanted
from recell.domain import decommission, limits
from recell.domain.decommission import BACKUP_PENDING, NO_BACKUP, PATIENT, RETAINED, Claim, Situation
from recell.domain.health import HealthState
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.domain.placement import Routing
from recell.domain.wording import clipped, listed
from recell.engine.errors import BadInput, Forbidden, NotFound
from recell.engine.ports import Clock, Key, Leadership
from recell.providers.kube.api import Api, Object
from recell.providers.kube.ownership import owner_of
from recell.providers.kube.paths import CELLS, PLACEMENTS
from recell.providers.kube.remains import CellRemains
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)

DELETION_BLOCKED, REMOVE_FROM_GIT = "DeletionBlocked", "RemoveFromGit"
FOUND_AFTERWARDS = frozenset({NO_BACKUP, REMOVE_FROM_GIT, BadInput.__name__, Forbidden.__name__, NotFound.__name__})
"""Reasons that are found only once a data provider has answered: while it is asked again, they are shown on."""
LOOK_AT_DATA = 10.0
"""Seconds until a provider that is at work is looked at; what it does for another Cell wakes that one."""
LOOK_AT_DELETION = 2.0
"""Seconds until it is seen whether what was deleted is gone."""


class Cluster(Protocol):
    def states(self, cell: Cell) -> tuple[WorkloadState, ...]: ...


class Health(Protocol):
    def health(self, cell: Key) -> HealthState | None: ...


class Events(Protocol):
    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False) -> None: ...


@dataclass(frozen=True)
class Seen:
    """What there is to show of a retired cell, and when to look again."""

    conditions: Mapping[str, Wanted] = field(default_factory=dict)
    again: float | None = None
    """Seconds; None: when something changes."""
    deleted: bool = False
    """The Cell was told to go: nothing more is shown on it."""


@dataclass(frozen=True)
class _Step:
    """How far the deletion is."""

    blocked: Blocked | None
    """None: it goes on."""
    again: float | None = None
    deleted: bool = False


class Retirements:
    def __init__(
        self,
        clock: Clock,
        api: Api,
        store: KubeStore,
        cluster: Cluster,
        health: Health,
        protection: Protection,
        remains_of: Callable[[Cell], CellRemains],
        leadership: Leadership,
        events: Events,
    ) -> None:
        self._clock = clock
        self._api = api
        self._store = store
        self._cluster = cluster
        self._health = health
        self._protection = protection
        self._remains_of = remains_of
        self._leadership = leadership
        self._events = events
        self._left_to_git: dict[Key, tuple[int, Blocked]] = {}
        """Cells of which nothing but the Cell is left, which Git owns, and the hour in which that was seen."""

    async def look(self, cell: Cell) -> Seen:
        """One look at a cell: nothing unless a run replaced it. Raises Conflict, Retryable and Fenced."""
        recorded = ANNOTATION_RETIRED in cell.metadata.annotations
        if not recorded or cell.metadata.deletion_timestamp is not None or not self._retired(cell):
            self.forget(cell.key)
            return Seen()
        step = await self._step(cell)
        return Seen(self._conditions(cell, step.blocked), step.again, step.deleted)

    def forget(self, cell: Key) -> None:
        self._protection.forget(cell)
        self._left_to_git.pop(cell, None)

    def _retired(self, cell: Cell) -> bool:
        placed = self._store.placement(router_of(cell))
        name, state = cell.metadata.name, HoldState.RETIRED
        return placed is not None and any((h.cell, h.state) == (name, state) for h in placed.spec.holds)

    async def _step(self, cell: Cell) -> _Step:
        s = self._situation(cell.key)
        if isinstance(s, Blocked):
            return _Step(s)
        if block := decommission.withheld(s):
            due = s.retirement.due if block.reason == RETAINED else None
            return _Step(block, (due - s.now).total_seconds() if due else None)
        if git := self._owned_workloads(s.cell):
            return _Step(_git_first(git))
        hour, left = self._left_to_git.get(cell.key, (-1, None))
        if hour == s.hour:
            return _Step(left)
        if (why := self._obstacle(s)) is not None:
            return _Step(_as_shown(cell) or _blocked("Obstacle", why), LOOK_AT_DATA)
        told = await self._protection.of(s)
        if isinstance(told, str):
            shown = _as_shown(cell)
            stays = shown is not None and shown.reason in FOUND_AFTERWARDS
            return _Step(shown if stays else _blocked(BACKUP_PENDING, told), LOOK_AT_DATA)
        proven = replace(s, backups=told)
        if block := decommission.unprotected(proven):
            return _Step(block)
        try:
            await self._read_anew(proven)
            return await self._delete(proven)
        except _Stopped as stopped:
            return _Step(stopped.blocked)
        except (Forbidden, BadInput, NotFound) as error:
            return _Step(_blocked(error.reason, str(error)))

    # --- what is known ---------------------------------------------------------------------------

    def _situation(self, key: Key) -> Situation | Blocked:
        """As memory has it; backups are not in it."""
        cell = self._store.cell(key)
        if cell is None:
            return _blocked("NotFound", "The Cell is gone")
        try:
            retirement = decommission.retirement_of(cell)
        except ValueError as error:
            return _blocked("Unreadable", f"{error}. Remove it, and delete the Cell yourself")
        if retirement is None:
            return _blocked("NotRetired", "Somebody took the record of the replacement away")
        router, now = self._store.router(router_of(cell)), self._clock.now()
        placed = self._store.placement(router_of(cell))
        successor = self._store.cell((key[0], retirement.successor))
        labels = [found.metadata.labels for found in (cell, successor, router) if found is not None]
        both = [key, (key[0], retirement.successor)]
        return Situation(
            cell=cell,
            retirement=retirement,
            now=now,
            shared=Routing.of(router).shared if router is not None else None,
            placement=placed.spec if placed else None,
            workloads=self._cluster.states(cell),
            successor=successor,
            health=self._health.health((key[0], retirement.successor)),
            freeze=limits.frozen(self._store.freezes_in(key[0]), labels, now, running=False),
            runs=[run for of in both for run in self._store.runs_of(TargetKind.CELL, of) if not run.phase.ended],
        )

    def _obstacle(self, s: Situation) -> str | None:
        if s.placement is not None and s.placement.epoch > self._leadership.epoch:
            return f"the Placement has epoch {s.placement.epoch}: another leader wrote it"
        return self._leadership.obstacle()

    # --- deleting --------------------------------------------------------------------------------

    async def _read_anew(self, s: Situation) -> None:
        """What the proofs are about, as the API server has it now. Raises NotFound when some of it is gone."""
        namespace, name = s.cell.key
        for kind, path in (
            (Cell, CELLS.path(namespace, name)),
            (Cell, CELLS.path(namespace, s.retirement.successor)),
            (Placement, PLACEMENTS.path(*router_of(s.cell))),
        ):
            self._store.put(kind, await self._api.get(path))

    def _require(self, proven: Situation) -> Cell:
        """The Cell as it is, if every proof is there again, but what the provider told, which is an hour old at the
        most, and the workloads, which are read beside this. Raises _Stopped."""
        s = self._situation(proven.cell.key)
        if isinstance(s, Blocked):
            raise _Stopped(s)
        if s.cell.metadata.uid != proven.cell.metadata.uid or s.cell.metadata.deletion_timestamp is not None:
            raise _Stopped(_blocked("NotFound", "The Cell is gone"))
        if block := decommission.blocked(replace(s, workloads=(), backups=proven.backups)):
            raise _Stopped(block)
        return s.cell

    async def _delete(self, proven: Situation) -> _Step:
        cell = self._require(proven)
        remains = self._remains_of(cell)
        workloads, others = await remains.workloads(cell), await remains.others(cell)
        if git := [f"{w['kind']}/{w['metadata']['name']} ({owner})" for w in workloads if (owner := owner_of(w))]:
            return _Step(_git_first(git))
        claims = await self._recorded(proven, workloads)
        for workload in workloads:
            self._require(proven)
            await remains.delete(workload)
        if workloads:
            return _Step(None, LOOK_AT_DELETION)
        for claim in claims:
            self._require(proven)
            await remains.delete_claim(cell, claim)
        for other in others:
            self._require(proven)
            await remains.delete(other)
        return await self._delete_cell(proven)

    async def _recorded(self, proven: Situation, workloads: Sequence[Object]) -> Sequence[Claim]:
        """The claims that go, written down before anything does: afterwards nobody could tell. Raises Conflict."""
        cell = self._require(proven)
        retirement = decommission.retirement_of(cell) or proven.retirement
        if retirement.claims is None:
            claims = await self._remains_of(cell).claims(cell, workloads)
            retirement = retirement.model_copy(update={"claims": claims})
            metadata = {
                "uid": cell.metadata.uid,
                "resourceVersion": cell.metadata.resource_version,
                "annotations": {ANNOTATION_RETIRED: retirement.text()},
            }
            self._store.put(Cell, await self._api.merge_patch(CELLS.path(*cell.key), {"metadata": metadata}))
        return retirement.claims or ()

    async def _delete_cell(self, proven: Situation) -> _Step:
        cell, successor = self._require(proven), proven.retirement.successor
        raw = self._store.raw(Cell, cell.key)
        if raw is None:
            return _Step(None, deleted=True)
        if owner := owner_of(raw):
            told = f"Remove Cell {cell.metadata.name} from Git ({owner}): nothing else is left of it"
            left = _blocked(REMOVE_FROM_GIT, told)
            self._left_to_git[cell.key] = (proven.hour, left)
            return _Step(left)
        await self._api.delete(CELLS.path(*cell.key), uid=cell.metadata.uid)
        self._events.emit(raw, "Decommissioned", f"Deleted with all that it had: {successor} took its place")
        log.info("a retired cell was deleted", extra={"cell": cell.metadata.name, "successor": successor})
        return _Step(None, deleted=True)

    # --- what is shown ---------------------------------------------------------------------------

    def _conditions(self, cell: Cell, block: Blocked | None) -> dict[str, Wanted]:
        git = self._owned_workloads(cell)
        raw = self._store.raw(Cell, cell.key)
        if raw is not None and (owner := owner_of(raw)):
            git.append(f"Cell/{cell.metadata.name} ({owner})")
        deleting = (False, "Deleting", "Every proof is there that nobody needs it")
        return {
            DELETION_BLOCKED: (True, block.reason, block.message) if block else deleting,
            REMOVE_FROM_GIT: (
                bool(git),
                "OwnedByGit" if git else "None",
                f"Remove from Git what is not to be made again: {listed(git, 16)}" if git else "",
            ),
        }

    def _owned_workloads(self, cell: Cell) -> list[str]:
        states = self._cluster.states(cell)
        return [
            f"{state.ref} ({state.owned_by})"
            for state in states
            if state.owned_by and state.phase is not WorkloadPhase.NOT_FOUND
        ]


class _Stopped(Exception):
    """A proof is missing by now."""

    def __init__(self, blocked: Blocked) -> None:
        super().__init__(blocked.reason)
        self.blocked = blocked


def news(before: Sequence[Condition], after: Sequence[Condition]) -> Condition | None:
    """Why the deletion is blocked, where that is another reason than was shown before, and one for people."""
    old, new = find_condition([*before], DELETION_BLOCKED), find_condition([*after], DELETION_BLOCKED)
    if new is None or new.status is not ConditionStatus.TRUE or new.reason in PATIENT:
        return None
    return new if old is None or old.reason != new.reason else None


def _blocked(reason: str, message: str) -> Blocked:
    return Blocked(reason=reason, message=clipped(message))


def _git_first(owned: Sequence[str]) -> Blocked:
    return _blocked(REMOVE_FROM_GIT, f"Remove {listed(owned)} from Git first; the rest is deleted then")


def _as_shown(cell: Cell) -> Blocked | None:
    shown = find_condition(cell.status.conditions, DELETION_BLOCKED)
    if shown is None or shown.status is not ConditionStatus.TRUE:
        return None
    return Blocked(reason=shown.reason, message=shown.message)
