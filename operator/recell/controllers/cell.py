"""The Cell controller: looks at a cell, shows what it sees, and starts a run where the policy says so.

Promises: one status write at most, and none when nothing changed; measured numbers never cause a write.
It moves no traffic and touches no workload except for their label; what is retired is left to `retirement`.
Automatic runs have names that follow from the cell and the onset of its failure, so making one twice makes one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from recell.api import Cell, RecoveryRun
from recell.api.cell import Blocked, CellPhase, CellRecovery, CellStatus, Failure, Share
from recell.api.failure import FailureType, Strategy
from recell.api.meta import percent_text
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_run import DecisionInputs, TargetKind, Trigger
from recell.controllers import status
from recell.controllers.automatic import active_and_last, automatic, recovery, shown_block, stable, why
from recell.controllers.finalizers import drop_finalizer
from recell.controllers.observer import CellObserver, router_of
from recell.controllers.programming import MOMENT, Programming
from recell.controllers.retirement import Retirements, news
from recell.controllers.storms import Storms
from recell.domain import limits, matrix, placement, provisioning, runs
from recell.domain.health import HealthState, Level
from recell.domain.observation import Reach
from recell.engine.admission import cascade_of, started
from recell.engine.errors import BadInput, Forbidden, NotFound
from recell.engine.ports import Clock, Key, Records, Switchboard
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)

LIFTED_BY_PERSON = frozenset({"AbortedByPerson", "UnknownProvenance", "Isolated", "Retired"})
"""Blocks that are shown on a cell that is well, too."""
LOOK_AT_FAILING = 2.0
"""Seconds between two looks at a cell that is not well: how bad it is decides what is done."""
LOOK_AGAIN = 60.0
"""Seconds until a cell is looked at that nothing woke: a verdict about its data may have become too old."""


class Cluster(Protocol):
    async def ensure_labels(self, cell: Cell) -> None: ...

    def address_of(self, cell: Cell) -> tuple[str, int]: ...

    def reach(self, cell: Cell) -> Reach | None: ...


class Probes(Protocol):
    def set_target(self, cell: Cell, address: tuple[str, int] | None) -> None: ...

    def drop(self, cell: Key) -> None: ...


class Events(Protocol):
    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False) -> None: ...


@dataclass(frozen=True)
class _Acceptance:
    ok: bool
    reason: str
    message: str


class CellController:
    def __init__(
        self,
        clock: Clock,
        api: Api,
        store: KubeStore,
        cluster: Cluster,
        probes: Probes,
        observer: CellObserver,
        programming: Programming,
        switchboard: Switchboard,
        records: Records,
        retirements: Retirements,
        storms: Storms,
        events: Events,
    ) -> None:
        self._clock = clock
        self._api = api
        self._store = store
        self._cluster = cluster
        self._probes = probes
        self._observer = observer
        self._programming = programming
        self._switchboard = switchboard
        self._records = records
        self._retirements = retirements
        self._storms = storms
        self._events = events
        self._judged: dict[Key, tuple[tuple[str, int, str, int], str | None]] = {}
        """Why no cell like it can be made, and of which cell and template that was said."""

    async def reconcile(self, key: Key) -> float | None:
        cell = self._store.cell(key)
        if cell is None:
            self._judged.pop(key, None)
            self._observer.forget(key)
            self._probes.drop(key)
            self._retirements.forget(key)
            return None
        if cell.metadata.deletion_timestamp is not None and self._store.router(router_of(cell)) is None:
            await self._let_go(cell)
            return None
        accepted = await self._accept(cell)
        state, again = self._observer.look(cell)
        allowance = self._allowance(cell)
        retired = await self._retirements.look(cell)
        if retired.deleted:
            return MOMENT
        wanted = self._status(cell, accepted, state, allowance, retired.conditions)
        await self._start_run(cell, state, allowance)
        if self._about_to_start(cell):
            return MOMENT
        await self._show(cell, wanted)
        return self._look_again(cell, [again, retired.again], allowance)

    def _about_to_start(self, cell: Cell) -> bool:
        """A run was just made and starts at once: then there is more to show, in one write."""
        now = self._clock.now()
        return any(
            not started(run) and run.metadata.creation_timestamp is not None
            and (now - run.metadata.creation_timestamp).total_seconds() < MOMENT
            for run in self._store.runs_of(TargetKind.CELL, cell.key)
            if run.spec.trigger is Trigger.AUTOMATIC and not run.phase.ended
        )  # fmt: skip

    def _look_again(self, cell: Cell, again: Sequence[float | None], allowance: limits.Allowance) -> float:
        """Seconds until time alone may change what there is to do or to show."""
        waits = [LOOK_AGAIN, *again]
        if self._observer.failure(cell.key) is not None:
            waits.append(LOOK_AT_FAILING)
        if self._programming.under_way(router_of(cell)):
            waits.append(MOMENT)
        if allowance.next_allowed_at is not None:
            waits.append(max(0.1, (allowance.next_allowed_at - self._clock.now()).total_seconds()))
        return min(wait for wait in waits if wait is not None)

    async def _let_go(self, cell: Cell) -> None:
        """A deleted Cell whose Router is gone gets no requests that could be lost: nothing keeps it."""
        self._observer.forget(cell.key)
        self._probes.drop(cell.key)
        await drop_finalizer(self._api, CELLS.path(*cell.key), cell)

    async def _accept(self, cell: Cell) -> _Acceptance:
        """Can this cell work at all? Also labels its workloads and points the probes at it."""
        if self._store.router(router_of(cell)) is None:
            self._probes.set_target(cell, None)
            name = cell.spec.router_ref.name
            return _Acceptance(False, "RouterNotFound", f"spec.routerRef: there is no Router {name} in this namespace")
        try:
            await self._cluster.ensure_labels(cell)
            address = self._cluster.address_of(cell)
        except (BadInput, NotFound, Forbidden) as error:
            self._probes.set_target(cell, None)
            return _Acceptance(False, error.reason, str(error))
        self._probes.set_target(cell, address)
        return _Acceptance(True, "Accepted", f"Reached at {address[0]}:{address[1]}{self._irreplaceable(cell)}")

    def _irreplaceable(self, cell: Cell) -> str:
        """Why no cell like this one could be made; it works all the same. Empty: nothing is known against it."""
        ref = cell.spec.template_ref
        if ref is None:
            return ""
        template = self._store.template((cell.metadata.namespace, ref.name))
        if template is None:
            return f"; it cannot be replaced: there is no CellTemplate {ref.name} (spec.templateRef)"
        about = (cell.metadata.uid, cell.metadata.generation, template.metadata.uid, template.metadata.generation)
        known = self._judged.get(cell.key)
        if known is None or known[0] != about:
            known = self._judged[cell.key] = (about, provisioning.unfit(cell, template))
        why = known[1]
        return f"; it cannot be replaced: {why}" if why else ""

    # --- what is shown ---------------------------------------------------------------------------

    def _status(
        self,
        cell: Cell,
        accepted: _Acceptance,
        state: HealthState,
        allowance: limits.Allowance,
        retired: Mapping[str, status.Wanted],
    ) -> CellStatus:
        now = self._clock.now()
        placed = self._switchboard.current(router_of(cell))
        active, last = active_and_last(self._store.runs_of(TargetKind.CELL, cell.key))
        seen = self._observer.failure(cell.key)
        failure = stable(cell.status.failure, seen, state)
        why = _why(failure if seen is not None else None)
        phase = _phase(cell, accepted, state, placed.spec if placed else None, active)
        reach = self._cluster.reach(cell)
        wanted: dict[str, status.Wanted] = {
            "Accepted": (accepted.ok, accepted.reason, accepted.message),
            "Available": (state.level is not Level.FAILED, state.level.value, why),
            "Ready": (phase is CellPhase.HEALTHY, phase.value, why or self._unseen(cell) or accepted.message),
            "Reconciling": (phase is CellPhase.RECOVERING, phase.value, ""),
            **({} if reach is None else {"ClusterReachable": (reach.ok, reach.reason, reach.message)}),
            "Stalled": (not accepted.ok, accepted.reason, "" if accepted.ok else accepted.message),
            **retired,
        }
        return CellStatus(
            observed_generation=cell.metadata.generation,
            phase=phase,
            share=self._share(cell),
            failure=failure,
            recovery=recovery(CellRecovery, allowance, self._shown(cell, state, allowance.blocked), active, last),
            conditions=status.conditions(cell.status.conditions, wanted, cell.metadata.generation, now),
        )

    def _share(self, cell: Cell) -> Share | None:
        """What Placement says; as shown before while the pods are just about to apply it."""
        placed, shown = self._switchboard.current(router_of(cell)), cell.status.share
        name = cell.metadata.name
        if placed is None or all(c.name != name for c in placed.spec.cells):
            return None
        asked = percent_text(placement.share(placed.spec, name))
        if self._programming.in_force(router_of(cell)):
            return Share(asked=asked, applied=asked)
        if shown is not None and self._programming.under_way(router_of(cell)):
            return shown
        return Share(asked=asked, applied=shown.applied if shown else None)

    def _shown(self, cell: Cell, state: HealthState, blocked: Blocked | None) -> Blocked | None:
        return shown_block(
            state,
            self._observer.failure(cell.key),
            blocked,
            lifted_by_person=LIFTED_BY_PERSON,
            decide=lambda failure: self._choice(cell, failure),
        )

    async def _show(self, cell: Cell, wanted: CellStatus) -> None:
        answer = await status.show(self._api, self._store, cell, wanted)
        if answer is not None and (blocked := news(cell.status.conditions, wanted.conditions)):
            self._events.emit(answer, "DeletionBlocked", f"{blocked.reason}: {blocked.message}", warning=True)
        if answer is not None and wanted.phase is not cell.status.phase and wanted.phase is not None:
            bad = wanted.phase in (CellPhase.FAILED, CellPhase.DEGRADED, CellPhase.UNKNOWN)
            told = _why(wanted.failure) or self._unseen(cell) or wanted.phase.value
            self._events.emit(answer, wanted.phase.value, told, warning=bad)

    def _unseen(self, cell: Cell) -> str:
        """Why the cell's own cluster cannot be looked into; empty: it can, or there is none."""
        reach = self._cluster.reach(cell)
        return reach.message if reach is not None and not reach.ok else ""

    # --- starting a run --------------------------------------------------------------------------

    def _allowance(self, cell: Cell) -> limits.Allowance:
        namespace, router_key = cell.metadata.namespace, router_of(cell)
        policy, router = self._store.policy_for(cell), self._store.router(router_key)
        placed, siblings = self._switchboard.current(router_key), self._store.cells_of(router_key)
        state = self._observer.health(cell.key)
        failed = state is not None and state.level is Level.FAILED
        return limits.blocked(
            cell,
            policy.spec,
            self._clock.now(),
            lineage=self._lineage(cell, siblings),
            active=[run for run in self._store.open_runs(namespace) if started(run) and self._is_of(run, router_key)],
            freezes=self._store.freezes_in(namespace),
            state=state,
            failure=self._observer.failure(cell.key),
            spec=placed.spec if placed else None,
            policy_name=policy.metadata.name or "(built in)",
            router_labels=router.metadata.labels if router else None,
            cascade=cascade_of(cell, self._store.runs_of(TargetKind.ROUTER, router_key)),
            aborted=self._storms.aborted(router) if router else None,
            max_concurrent_runs=self._store.router_policy(router_key).spec.limits.max_concurrent_runs,
            about_to_fail=self._about_to_fail(cell, siblings) if failed else (),
        )

    def _about_to_fail(self, cell: Cell, siblings: Mapping[str, Cell]) -> list[str]:
        """Other cells of the Router with evidence from two places that has not lasted yet."""
        states = {name: self._observer.health(c.key) for name, c in siblings.items() if name != cell.metadata.name}
        return [name for name, s in states.items() if s and s.failed_since and s.level is not Level.FAILED]

    def _lineage(self, cell: Cell, siblings: Mapping[str, Cell]) -> list[RecoveryRun]:
        """Runs for the cell and for those that it descends from (rule 26)."""
        names = provisioning.lineage(cell, siblings.values())
        namespace = cell.metadata.namespace
        return [run for name in sorted(names) for run in self._store.runs_of(TargetKind.CELL, (namespace, name))]

    def _is_of(self, run: RecoveryRun, router: Key) -> bool:
        if run.spec.target_ref.kind is not TargetKind.CELL:
            return False
        target = self._store.cell((run.metadata.namespace, run.spec.target_ref.name))
        return target is not None and router_of(target) == router

    async def _start_run(self, cell: Cell, state: HealthState, allowance: limits.Allowance) -> None:
        failure = self._observer.failure(cell.key)
        if failure is None or not self._observer.settled(cell):
            return
        if state.level is not Level.FAILED and failure.type is not FailureType.DATA_CORRUPTION:
            return
        own = [
            run
            for run in self._store.runs_of(TargetKind.CELL, cell.key)
            if run.spec.trigger is not Trigger.MANUAL or started(run)
        ]
        if any(not run.phase.ended for run in own) or allowance.blocked is not None:
            return
        if self._choice(cell, failure).strategy is Strategy.EMERGENCY_SCALING and self._recovered_by_router(cell):
            return
        onset, taken = state.failing_since or state.since, {run.metadata.name for run in own}
        name = runs.next_automatic_run_name(cell.metadata.name, onset, taken)
        made = await self._records.create(automatic(cell, name, failure))
        log.info("a run starts by itself", extra={"run": made.metadata.name, "cell": cell.metadata.name})

    def _recovered_by_router(self, cell: Cell) -> bool:
        """Does the Router's run recover it, together with the others? If not, a run of its own asks a person."""
        router = self._store.router(router_of(cell))
        return router is None or not self._storms.leaves_to_cells(router, self._store.cells_of(router.key))

    def _choice(self, cell: Cell, failure: Failure) -> matrix.Choice:
        inputs = DecisionInputs(type=failure.type, impact=failure.impact, data_integrity=failure.data_integrity)
        return matrix.decide(inputs, self._store.policy_for(cell).spec, TargetKind.CELL)


def _phase(
    cell: Cell, accepted: _Acceptance, state: HealthState, placed: PlacementSpec | None, active: RecoveryRun | None
) -> CellPhase:
    name = cell.metadata.name
    states = {h.state for h in placed.holds if h.cell == name} if placed else set()
    if HoldState.RETIRED in states:
        return CellPhase.RETIRED
    if active is not None:
        return CellPhase.RECOVERING
    if HoldState.ISOLATED in states or HoldState.QUARANTINED in states:
        return CellPhase.ISOLATED
    if not accepted.ok:
        return CellPhase.UNKNOWN
    if state.level is Level.FAILED:
        return CellPhase.FAILED
    if placed is None or all(c.name != name for c in placed.cells):
        return CellPhase.JOINING
    return {
        Level.HEALTHY: CellPhase.HEALTHY,
        Level.DEGRADED: CellPhase.DEGRADED,
        Level.UNKNOWN: CellPhase.UNKNOWN,
    }[state.level]


def _why(failure: Failure | None) -> str:
    return why(failure)[:1024] if failure is not None else ""
