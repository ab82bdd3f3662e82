"""Storm detection: failures of several cells of a router become one run that recovers them together.

Promises: nothing is written but the run, whose name follows from the router and the onset of the first failure, so that
making one twice makes one. A failure that all cells may share starts nothing either: its run asks a person, and
critically (rule 10).
"""

import logging
from collections.abc import Mapping

from recell.api import Cell, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import FailureType, Strategy
from recell.api.recovery_run import DecisionInputs, RunPhase, StatedFailure, TargetKind
from recell.controllers.automatic import automatic
from recell.controllers.observer import CellObserver, states_of
from recell.domain import failure as failures
from recell.domain import limits, matrix, runs
from recell.domain.health import HealthState
from recell.engine import admission
from recell.engine.ports import Clock, Records, Switchboard, Traffic
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)


class Storms:
    def __init__(
        self,
        clock: Clock,
        store: KubeStore,
        observer: CellObserver,
        traffic: Traffic,
        switchboard: Switchboard,
        records: Records,
    ) -> None:
        self._clock = clock
        self._store = store
        self._observer = observer
        self._traffic = traffic
        self._switchboard = switchboard
        self._records = records

    async def detect(self, router: Router, cells: Mapping[str, Cell]) -> None:
        """Start a run where several cells failed together and the policy says so."""
        found = self._failure(router, cells)
        if found is None or self._choice(router, found).strategy is not Strategy.EMERGENCY_SCALING:
            return
        own = self._runs(router)
        if any(not run.phase.ended for run in own) or self.allowance(router, cells).blocked is not None:
            return
        taken = {run.metadata.name for run in own}
        name = runs.next_automatic_run_name(f"{router.metadata.name}-cascade", found.since, taken)
        run = automatic(router, name, found)
        stated = StatedFailure(type=found.type, impact=found.impact, data_integrity=found.data_integrity)
        spec = run.spec.model_copy(update={"strategy": Strategy.EMERGENCY_SCALING, "failure": stated})
        made = await self._records.create(run.model_copy(update={"spec": spec}))
        log.warning("several cells failed at once", extra={"run": made.metadata.name, "router": router.metadata.name})

    def allowance(self, router: Router, cells: Mapping[str, Cell]) -> limits.Allowance:
        """Whether a run for several cells may start by itself now."""
        policy, placed = self._store.router_policy(router.key), self._switchboard.current(router.key)
        return limits.router_blocked(
            router,
            policy.spec,
            self._clock.now(),
            several=True,
            state=self._together(router, cells),
            runs=self._runs(router),
            every=self._store.runs_of(TargetKind.ROUTER, router.key),
            freezes=self._store.freezes_in(router.metadata.namespace),
            spec=placed.spec if placed else None,
            policy_name=policy.metadata.name or "(built in)",
        )

    def aborted(self, router: Router) -> RecoveryRun | None:
        """The run for several cells that a person aborted, as long as that holds."""
        runs = self._runs(router)
        if all(run.phase is not RunPhase.ABORTED for run in runs):
            return None  # as nearly always; each cell asks, and what follows looks at all of them
        state = self._together(router, self._store.cells_of(router.key))
        every = self._store.runs_of(TargetKind.ROUTER, router.key)
        return limits.aborted_for_cells(router, self._clock.now(), state=state, runs=runs, every=every)

    def _together(self, router: Router, cells: Mapping[str, Cell]) -> HealthState:
        placed = self._switchboard.current(router.key)
        spec = placed.spec if placed else None
        return failures.together(cells, states_of(self._observer, cells), spec, self._clock.now())

    def _failure(self, router: Router, cells: Mapping[str, Cell]) -> Failure | None:
        placed = self._switchboard.current(router.key)
        known = {name: self._observer.failure(cell.key) for name, cell in cells.items()}
        states = states_of(self._observer, cells)
        failed = failures.failed_cells(states, placed.spec if placed else None)
        if not all(self._observer.settled(cells[name]) for name in failed):
            return None
        policy = self._store.router_policy(router.key).spec
        return failures.of_cells(
            {name: found for name in failed if (found := known[name]) is not None},
            states,
            placed.spec if placed else None,
            self._traffic.observed(router.key, window=10.0),
            policy,
            self._observer.broken(router.key),
        )

    def _choice(self, router: Router, found: Failure) -> matrix.Choice:
        """A shared cause is asked about as a storm: which of them it is, a person decides."""
        kind = FailureType.MULTIPLE_CELL if found.type is FailureType.SYSTEMIC else found.type
        inputs = DecisionInputs(type=kind, impact=found.impact, data_integrity=found.data_integrity)
        return matrix.decide(inputs, self._store.router_policy(router.key).spec)

    def _runs(self, router: Router) -> list[RecoveryRun]:
        return [run for run in self._store.runs_of(TargetKind.ROUTER, router.key) if admission.about_cells(run)]
