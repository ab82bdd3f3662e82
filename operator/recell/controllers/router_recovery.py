"""A router's own failure and recoveries: what its status shows of them, and the run that starts by itself.

Promises: nothing is written here but the automatic run, whose name follows from the router and the onset of its
failure, so that making one twice makes one. The Router controller shows the rest in its one write.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from recell.api import RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import Strategy
from recell.api.recovery_run import DecisionInputs, TargetKind
from recell.api.router import RouterRecovery
from recell.controllers.automatic import active_and_last, automatic, recovery, shown_block, stable
from recell.controllers.router_observer import RouterObserver
from recell.controllers.storms import Storms
from recell.domain import fallback, limits, matrix, runs
from recell.domain.health import HealthState, Level
from recell.engine.admission import about_cells
from recell.engine.ports import Clock, Key, Records, Switchboard
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)

LIFTED_BY_PERSON = frozenset({"AbortedByPerson", "FallbackActive"})
"""Blocks that are shown on a router that is well, too."""
LOOK_AT_FAILING = 1.0
"""Seconds between two looks at a router that is not well: everybody is without service."""


@dataclass(frozen=True)
class Told:
    """What the Router's status shows."""

    failure: Failure | None
    recovery: RouterRecovery | None
    again: float | None
    """Seconds until time alone changes it."""


class RouterRecoveries:
    def __init__(
        self,
        clock: Clock,
        store: KubeStore,
        observer: RouterObserver,
        switchboard: Switchboard,
        records: Records,
        storms: Storms,
    ) -> None:
        self._clock = clock
        self._store = store
        self._observer = observer
        self._switchboard = switchboard
        self._records = records
        self._storms = storms

    async def look(self, router: Router) -> Told:
        """Look, and start a run where the policy says so."""
        state, again = self._observer.look(router)
        failure = self._observer.failure(router.key)
        own = self._store.runs_of(TargetKind.ROUTER, router.key)
        itself = [run for run in own if not about_cells(run)]  # what is done for its cells holds nothing back
        allowance = self._allowance(router, state, failure, itself, own)
        await self._start_run(router, state, failure, allowance, own)
        for_cells = self._held_for_cells(router, own)
        waits = [again, LOOK_AT_FAILING if failure is not None else None]
        for lifted_at in (allowance.next_allowed_at, for_cells.next_allowed_at if for_cells else None):
            if lifted_at is not None:
                waits.append(max(0.1, (lifted_at - self._clock.now()).total_seconds()))
        return Told(
            failure=stable(router.status.failure, failure, state),
            recovery=self._recovery(router, state, failure, allowance, for_cells, own),
            again=min((wait for wait in waits if wait is not None), default=None),
        )

    def forget(self, router: Key) -> None:
        self._observer.forget(router)

    def _allowance(
        self,
        router: Router,
        state: HealthState | None,
        failure: Failure | None,
        about: Sequence[RecoveryRun],
        own: Sequence[RecoveryRun],
    ) -> limits.Allowance:
        policy, placed = self._store.router_policy(router.key), self._switchboard.current(router.key)
        return limits.router_blocked(
            router,
            policy.spec,
            self._clock.now(),
            runs=about,
            every=own,
            freezes=self._store.freezes_in(router.metadata.namespace),
            state=state,
            failure=failure,
            spec=placed.spec if placed else None,
            policy_name=policy.metadata.name or "(built in)",
        )

    async def _start_run(
        self,
        router: Router,
        state: HealthState,
        failure: Failure | None,
        allowance: limits.Allowance,
        own: Sequence[RecoveryRun],
    ) -> None:
        if failure is None or state.level is not Level.FAILED or not self._observer.settled(router.key):
            return
        if allowance.blocked is not None:
            return
        onset, taken = state.failing_since or state.since, {run.metadata.name for run in own}
        name = runs.next_automatic_run_name(router.metadata.name, onset, taken, TargetKind.ROUTER)
        made = await self._records.create(automatic(router, name, failure))
        log.info("a run starts by itself", extra={"run": made.metadata.name, "router": router.metadata.name})

    def _held_for_cells(self, router: Router, own: Sequence[RecoveryRun]) -> limits.Allowance | None:
        """What keeps the next run for several cells from starting, if a person can lift it: that needs to be shown."""
        if not any(about_cells(run) for run in own):
            return None
        found = self._storms.allowance(router, self._store.cells_of(router.key))
        lifted_by_person = found.blocked is not None and found.blocked.reason in limits.ACKNOWLEDGEABLE
        return found if lifted_by_person else None

    def _recovery(
        self,
        router: Router,
        state: HealthState,
        failure: Failure | None,
        known: limits.Allowance,
        for_cells: limits.Allowance | None,
        own: Sequence[RecoveryRun],
    ) -> RouterRecovery | None:
        def decide(failure: Failure) -> matrix.Choice:
            inputs = DecisionInputs(type=failure.type, impact=failure.impact, data_integrity=failure.data_integrity)
            why = fallback.unavailable(router, self._observer.fallback(router.key), failure.impact)
            without = {Strategy.ACTIVATE_FALLBACK_ROUTING: why} if why else matrix.NOTHING
            policy = self._store.router_policy(router.key).spec
            return matrix.decide(inputs, policy, TargetKind.ROUTER, unavailable=without)

        blocked = shown_block(state, failure, known.blocked, lifted_by_person=LIFTED_BY_PERSON, decide=decide)
        if blocked is None and for_cells is not None:
            blocked, known = for_cells.blocked, replace(known, next_allowed_at=for_cells.next_allowed_at)
        return recovery(RouterRecovery, known, blocked, *active_and_last(own))
