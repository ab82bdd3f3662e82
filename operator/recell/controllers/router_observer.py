"""What is known about routers themselves, put together from watches, probes and agents: the `Routers` port.

Promises: reading never waits; health has its hysteresis, which lives in memory: after a take-over it is built
anew, and until one detection period has passed nothing is started (rule 12).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from recell.api import Router
from recell.api.cell import Failure
from recell.api.meta import seconds
from recell.api.placement import PlacementMode
from recell.domain import health, router_health
from recell.domain.health import HealthState
from recell.domain.observation import (
    Asked,
    FallbackState,
    Landed,
    Pods,
    PrimaryState,
    Processes,
    RouterObservation,
    RouterTraffic,
)
from recell.engine.errors import NotFound
from recell.engine.ports import Clock, Key
from recell.providers.kube.store import KubeStore
from recell.providers.routing.asking import WayIn, land, way_in

UNEASY = 1.0
"""Seconds between two looks at a router that left a request unanswered: the next ones decide."""


class Workloads(Protocol):
    def pods(self, router: Key) -> Pods | None: ...

    def way_in(self, router: Key, side: PlacementMode | None = None) -> tuple[str, int] | None: ...

    def fallback(self, router: Key) -> FallbackState | None: ...

    def primary(self, router: Key) -> PrimaryState | None: ...

    async def restart(self, router: Router, token: str) -> None: ...

    async def renew(self, router: Router, uid: str) -> None: ...


class Agents(Protocol):
    def processes(self, router: Key) -> Processes | None: ...

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None: ...

    def let_go(self, router: Key, uid: str, epoch: int, generation: int) -> bool: ...


class Probes(Protocol):
    def set_way(self, router: Key, way: WayIn | None, *, side: PlacementMode | None = None) -> None: ...

    def asked(self, router: Key, window: float, *, side: PlacementMode | None = None) -> Asked | None: ...


class RouterObserver:
    def __init__(
        self,
        clock: Clock,
        store: KubeStore,
        workloads: Workloads,
        agents: Agents,
        probes: Probes,
        *,
        cut_off: Callable[[], bool],
        at: Callable[[Key], PlacementMode | None],
    ) -> None:
        """`cut_off`: does whatever the operator probes elsewhere fail from here? `at`: whom do customers reach?"""
        self._clock = clock
        self._store = store
        self._workloads = workloads
        self._agents = agents
        self._probes = probes
        self._cut_off = cut_off
        self._at = at
        self._states: dict[Key, HealthState] = {}
        self._failures: dict[Key, Failure] = {}
        self._first_look: dict[Key, float] = {}

    def observe(self, router: Key) -> RouterObservation:
        window = seconds(self._store.router_policy(router).spec.detection.window)
        relieved = self._relieved(router)
        asked = self._probes.asked(router, window, side=PlacementMode.PRIMARY if relieved else None)
        return RouterObservation(
            asked=replace(asked, operator_cut_off=self._cut_off()) if asked else None,
            pods=self._workloads.pods(router),
            processes=self._agents.processes(router),
            traffic=self._agents.observed(router, window=window),
            usual=self._agents.observed(router, window=router_health.USUAL),
            relieved=relieved,
        )

    def look(self, router: Router) -> tuple[HealthState, float | None]:
        """Look at a router: its health by now, and after how many seconds time alone changes it."""
        key, now = router.key, self._clock.now()
        policy = self._store.router_policy(key).spec
        self._first_look.setdefault(key, self._clock.monotonic())
        self._point(router)
        seen = self.observe(key)
        evidence = router_health.assess(seen, policy, now)
        known = self._states.get(key) or health.recalled(router.status.failure, now)
        state = self._states[key] = health.advance(known, evidence, policy, now, judge=router_health.judged)
        failure = router_health.derive(state, evidence, seen, now)
        if failure is None:
            self._failures.pop(key, None)
        else:
            self._failures[key] = failure
        waits = [health.next_look(state, policy, now), UNEASY if seen.asked and seen.asked.unanswered else None]
        return state, min((wait for wait in waits if wait is not None), default=None)

    def _relieved(self, router: Key) -> bool:
        """No customers are sent here, or those that are are told to leave."""
        placed = self._store.placement(router)
        told = placed is not None and placed.spec.mode is PlacementMode.FALLBACK
        return told or self._at(router) is PlacementMode.FALLBACK

    def _point(self, router: Router) -> None:
        """The operator's requests go where the customers' do, and to the side that stands by.

        Any other would be counted as traffic of the cells.
        """
        self._probes.set_way(router.key, self._way_in(router))
        relieved = self._relieved(router.key)
        for side, asked in ((PlacementMode.PRIMARY, relieved), (PlacementMode.FALLBACK, router.spec.has_fallback)):
            self._probes.set_way(router.key, self._way_in(router, side) if asked else None, side=side)

    def _way_in(self, router: Router, side: PlacementMode | None = None) -> WayIn | None:
        where = self._workloads.way_in(router.key, side)
        return way_in(router, where, self._store.cells_of(router.key)) if where is not None else None

    # --- the two sides

    def fallback(self, router: Key) -> FallbackState | None:
        found = self._workloads.fallback(router)
        if found is None:
            return None
        window = seconds(self._store.router_policy(router).spec.detection.window)
        return replace(found, asked=self._probes.asked(router, window, side=PlacementMode.FALLBACK))

    def primary(self, router: Key) -> PrimaryState | None:
        return self._workloads.primary(router)

    def fenced(self, router: Key) -> bool:
        placed = self._store.placement(router)
        return placed is not None and self._agents.let_go(
            router, placed.metadata.uid, placed.spec.epoch, placed.metadata.generation
        )

    async def restart(self, router: Router, token: str) -> None:
        await self._workloads.restart(router, token)

    async def renew(self, router: Router, uid: str) -> None:
        await self._workloads.renew(router, uid)

    async def land(self, router: Router, side: PlacementMode, customers: Sequence[str]) -> Sequence[Landed]:
        way = self._way_in(router, side)
        if way is None:
            raise NotFound(f"Router {router.metadata.name} has no Service there yet")
        return await land(way, customers)

    def settled(self, router: Key) -> bool:
        """Has the router been looked at for one detection period?"""
        first = self._first_look.get(router)
        period = seconds(self._store.router_policy(router).spec.detection.window)
        return first is not None and self._clock.monotonic() - first >= period

    def health(self, router: Key) -> HealthState | None:
        return self._states.get(router)

    def failure(self, router: Key) -> Failure | None:
        return self._failures.get(router)

    def forget(self, router: Key) -> None:
        for side in (None, *PlacementMode):
            self._probes.set_way(router, None, side=side)
        for known in (self._states, self._failures, self._first_look):
            known.pop(router, None)
