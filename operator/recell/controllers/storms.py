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
        found = self._failure(router, cells) if self._settled(router, cells) else None
        if found is None or not self._recovers_together(router, found):
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

    def leaves_to_cells(self, router: Router, cells: Mapping[str, Cell]) -> bool:
        """Does the Router's policy not have them recovered together, whatever a cell's own policy says?"""
        if not self._settled(router, cells):
            return False
        found = self._failure(router, cells)
        return found is None or not self._recovers_together(router, found)

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

    def _settled(self, router: Router, cells: Mapping[str, Cell]) -> bool:
        return all(self._observer.settled(cells[name]) for name in self._failed(router, cells))

    def _failed(self, router: Router, cells: Mapping[str, Cell]) -> tuple[str, ...]:
        placed = self._switchboard.current(router.key)
        return failures.failed_cells(states_of(self._observer, cells), placed.spec if placed else None)

    def _failure(self, router: Router, cells: Mapping[str, Cell]) -> Failure | None:
        placed = self._switchboard.current(router.key)
        known = {name: self._observer.failure(cell.key) for name, cell in cells.items()}
        states, failed = states_of(self._observer, cells), self._failed(router, cells)
        policy = self._store.router_policy(router.key).spec
        return failures.of_cells(
            {name: found for name in failed if (found := known[name]) is not None},
            states,
            placed.spec if placed else None,
            self._traffic.observed(router.key, window=10.0),
            policy,
            self._observer.broken(router.key),
        )

    def _recovers_together(self, router: Router, found: Failure) -> bool:
        """A shared cause is asked about as a storm too: which of them it is, a person decides."""
        policy = self._store.router_policy(router.key).spec
        inputs = (
            DecisionInputs(type=kind, impact=found.impact, data_integrity=found.data_integrity)
            for kind in {found.type, FailureType.MULTIPLE_CELL}
        )
        choices = (matrix.decide(each, policy, TargetKind.CELL) for each in inputs)
        return any(choice.strategy is Strategy.EMERGENCY_SCALING for choice in choices)

    def _runs(self, router: Router) -> list[RecoveryRun]:
        return [run for run in self._store.runs_of(TargetKind.ROUTER, router.key) if admission.about_cells(run)]
