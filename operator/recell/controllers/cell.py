"""The Cell controller: looks at a cell, shows what it sees, and starts a run where the policy says so.

Promises: one status write at most, and none when nothing changed; measured numbers never cause a write.
It moves no traffic and touches no workload except for their label; what is retired is left to `retirement`.
Automatic runs have names that follow from the cell and the onset of its failure, so making one twice makes one.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from recell.api import Cell, RecoveryRun
from recell.api.cell import Blocked, CellPhase, CellRecovery, CellStatus, Failure, Share
from recell.api.failure import FailureType, Verdict
from recell.api.meta import (
    ANNOTATION_TARGET_UID,
    FINALIZER,
    LABEL_INCIDENT,
    LABEL_MADE_BY,
    LABEL_ORIGIN,
    LABEL_TARGET,
    LABEL_TARGET_KIND,
    ObjectMeta,
    percent_text,
)
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_run import DecisionInputs, RecoveryRunSpec, TargetKind, TargetRef, Trigger
from recell.controllers import status
from recell.controllers.finalizers import drop_finalizer
from recell.controllers.observer import CellObserver, router_of
from recell.controllers.programming import MOMENT, Programming
from recell.controllers.retirement import Retirements, news
from recell.domain import limits, matrix, placement, provisioning, runs
from recell.domain.health import HealthState, Level
from recell.engine.admission import started
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
        active, last = self._runs(cell)
        failure = self._stable(cell, self._observer.failure(cell.key))
        phase = _phase(cell, accepted, state, placed.spec if placed else None, active)
        wanted: dict[str, status.Wanted] = {
            "Accepted": (accepted.ok, accepted.reason, accepted.message),
            "Available": (state.level is not Level.FAILED, state.level.value, _why(failure)),
            "Ready": (phase is CellPhase.HEALTHY, phase.value, _why(failure) or accepted.message),
            "Reconciling": (phase is CellPhase.RECOVERING, phase.value, ""),
            "Stalled": (not accepted.ok, accepted.reason, "" if accepted.ok else accepted.message),
            **retired,
        }
        return CellStatus(
            observed_generation=cell.metadata.generation,
            phase=phase,
            share=self._share(cell),
            failure=failure,
            recovery=self._recovery(cell, state, allowance, active, last),
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

    @staticmethod
    def _stable(cell: Cell, failure: Failure | None) -> Failure | None:
        """The failure as written first, until another check fails too: figures that come and go cause no write."""
        old = cell.status.failure
        if old is None or failure is None:
            return failure
        same = (old.type, old.impact, old.data_integrity) == (failure.type, failure.impact, failure.data_integrity)
        return old if same and _failed(failure) <= _failed(old) else failure

    def _runs(self, cell: Cell) -> tuple[RecoveryRun | None, RecoveryRun | None]:
        """The active run and the one that ended last."""
        own = self._store.runs_of(TargetKind.CELL, cell.key)
        active = next((run for run in own if started(run)), None)
        ended = [run for run in own if run.phase.ended and run.status.finished_at is not None]
        last = max(ended, key=lambda run: (run.status.finished_at, run.metadata.name), default=None)
        return active, last

    def _shown(self, cell: Cell, state: HealthState, blocked: Blocked | None) -> Blocked | None:
        """A block is shown while it matters: the cell has failed, or a person has to lift it."""
        if blocked is None or blocked.reason == "RunActive":
            return None
        if state.level is not Level.FAILED:
            return blocked if blocked.reason in LIFTED_BY_PERSON else None
        failure = self._observer.failure(cell.key)
        if failure is None or blocked.reason != "Observe":
            return blocked
        choice = matrix.decide(_inputs(failure), self._store.policy_for(cell).spec)
        message = f"{choice.strategy} would be started. {blocked.message} ({choice.message})"
        return Blocked(reason=blocked.reason, message=message[:1024])

    def _recovery(
        self,
        cell: Cell,
        state: HealthState,
        known: limits.Allowance,
        active: RecoveryRun | None,
        last: RecoveryRun | None,
    ) -> CellRecovery | None:
        blocked = self._shown(cell, state, known.blocked)
        if active is None and last is None and blocked is None and not known.attempts:
            return None
        return CellRecovery(
            active_run=active.metadata.name if active else None,
            last_run=last.metadata.name if last else None,
            attempts=known.attempts,
            next_allowed_at=known.next_allowed_at,
            blocked=blocked,
        )

    async def _show(self, cell: Cell, wanted: CellStatus) -> None:
        answer = await status.show(self._api, self._store, cell, wanted)
        if answer is not None and (blocked := news(cell.status.conditions, wanted.conditions)):
            self._events.emit(answer, "DeletionBlocked", f"{blocked.reason}: {blocked.message}", warning=True)
        if answer is not None and wanted.phase is not cell.status.phase and wanted.phase is not None:
            bad = wanted.phase in (CellPhase.FAILED, CellPhase.DEGRADED, CellPhase.UNKNOWN)
            self._events.emit(answer, wanted.phase.value, _why(wanted.failure) or wanted.phase.value, warning=bad)

    # --- starting a run --------------------------------------------------------------------------

    def _allowance(self, cell: Cell) -> limits.Allowance:
        namespace, router_key = cell.metadata.namespace, router_of(cell)
        policy, router = self._store.policy_for(cell), self._store.router(router_key)
        placed = self._switchboard.current(router_key)
        return limits.blocked(
            cell,
            policy.spec,
            self._clock.now(),
            lineage=self._lineage(cell),
            active=[run for run in self._store.open_runs(namespace) if started(run) and self._is_of(run, router_key)],
            freezes=self._store.freezes_in(namespace),
            state=self._observer.health(cell.key),
            failure=self._observer.failure(cell.key),
            spec=placed.spec if placed else None,
            policy_name=policy.metadata.name or "(built in)",
            router_labels=router.metadata.labels if router else None,
            max_concurrent_runs=self._store.router_policy(router_key).spec.limits.max_concurrent_runs,
        )

    def _lineage(self, cell: Cell) -> list[RecoveryRun]:
        """Runs for the cell and for those that it descends from: a replacement does not begin anew (rule 26)."""
        line = cell.metadata.labels.get(LABEL_ORIGIN)
        names = {cell.metadata.name}
        if line is not None:
            siblings = self._store.cells_of(router_of(cell))
            names |= {line, *(name for name, c in siblings.items() if c.metadata.labels.get(LABEL_ORIGIN) == line)}
        namespace = cell.metadata.namespace
        return [run for name in sorted(names) for run in self._store.runs_of(TargetKind.CELL, (namespace, name))]

    def _is_of(self, run: RecoveryRun, router: Key) -> bool:
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
        onset = state.failing_since or state.since
        names = {run.metadata.name for run in own}
        tries = (runs.automatic_run_name(cell.metadata.name, onset, attempt) for attempt in count(1))
        run = _automatic(cell, next(name for name in tries if name not in names), failure)
        made = await self._records.create(run)
        log.info("a run starts by itself", extra={"run": made.metadata.name, "cell": cell.metadata.name})


def _inputs(failure: Failure) -> DecisionInputs:
    return DecisionInputs(type=failure.type, impact=failure.impact, data_integrity=failure.data_integrity)


def _automatic(cell: Cell, name: str, failure: Failure) -> RecoveryRun:
    return RecoveryRun(
        metadata=ObjectMeta(
            name=name,
            namespace=cell.metadata.namespace,
            labels={
                LABEL_MADE_BY: "recell",
                LABEL_TARGET_KIND: TargetKind.CELL,
                LABEL_TARGET: cell.metadata.name,
                LABEL_INCIDENT: name,
            },
            annotations={ANNOTATION_TARGET_UID: cell.metadata.uid},
            finalizers=[FINALIZER],
        ),
        spec=RecoveryRunSpec(
            target_ref=TargetRef(kind=TargetKind.CELL, name=cell.metadata.name),
            trigger=Trigger.AUTOMATIC,
            reason=f"{failure.type}, impact {failure.impact}, data {failure.data_integrity}: {_why(failure)}"[:512],
        ),
    )


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
    if failure is None:
        return ""
    failed = [e for e in failure.evidence if e.verdict is Verdict.FAILED]
    return "; ".join(f"{e.check}: {e.message}" for e in failed)[:1024]


def _failed(failure: Failure) -> set[str]:
    return {e.check for e in failure.evidence if e.verdict is Verdict.FAILED}
