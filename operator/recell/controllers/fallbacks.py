"""A router's fallback while nobody needs it, and the truth about who serves.

Promises: while all is well the fallback's table is kept true to the cells, so that it needs nobody at the worst moment.
Whom customers reach is what the switch says, whoever made it say so: without a run at work on the router, Placement
follows it, and never the other way round. Whether the router itself still serves somebody beside it is recorded.
"""

from collections.abc import Mapping
from typing import Protocol

from recell.api import Cell, Placement, Router
from recell.api.meta import timestamp
from recell.api.placement import Holder, PlacementMode
from recell.api.recovery_run import TargetKind
from recell.controllers.observer import CellObserver
from recell.controllers.programming import Programming
from recell.controllers.status import Wanted
from recell.domain import fallback
from recell.domain.fallback import Table
from recell.domain.health import HealthState, Level
from recell.domain.observation import FallbackState
from recell.domain.placement import PERSON, Routing
from recell.engine.admission import started
from recell.engine.ports import Clock, Key, Switchboard
from recell.providers.kube.store import KubeStore

BY_HAND = Holder(kind=PERSON, name="by-hand")
"""Who switched where no run did: nobody signs a Service."""


class Routers(Protocol):
    def health(self, router: Key) -> HealthState | None: ...

    def fallback(self, router: Key) -> FallbackState | None: ...

    def fenced(self, router: Key) -> bool: ...


class Pods(Protocol):
    async def ensure_fallback(self, router: Router, table: Table) -> None: ...

    async def remove_fallback(self, router: Router) -> None: ...


class Switches(Protocol):
    def at(self, router: Key) -> PlacementMode | None: ...

    async def keep(self, router: Router) -> None: ...


class Fallbacks:
    def __init__(
        self,
        clock: Clock,
        store: KubeStore,
        cells: CellObserver,
        routers: Routers,
        pods: Pods,
        switches: Switches,
        switchboard: Switchboard,
        programming: Programming,
    ) -> None:
        self._clock = clock
        self._store = store
        self._cells = cells
        self._routers = routers
        self._pods = pods
        self._switches = switches
        self._switchboard = switchboard
        self._programming = programming

    async def keep(self, router: Router, cells: Mapping[str, Cell]) -> None:
        """The fallback that the Router asks for is there, with the newest table, and so is what leads there; one that
        it does not ask for is not, once no customer goes through it.

        Raises Forbidden with what to grant, and as `Switches.keep` does.
        """
        table = self.table(router, cells)
        if table is not None:
            await self._pods.ensure_fallback(router, table)
        if router.spec.has_fallback:
            await self._switches.keep(router)
        elif self._switches.at(router.key) is not PlacementMode.FALLBACK:
            await self._pods.remove_fallback(router)

    def table(self, router: Router, cells: Mapping[str, Cell]) -> Table | None:
        """What the fallback's pods should have; None: nothing is asked for, or nothing can be said."""
        placed = self._switchboard.current(router.key)
        if placed is None or not router.spec.has_fallback:
            return None
        state, known = self._routers.fallback(router.key), self._routers.health(router.key)
        order = state.order if state is not None else ()
        failed = {name for name, cell in cells.items() if self._failed(cell)}
        if order and (known is None or known.level is not Level.HEALTHY):
            # Just now it may be needed: its pods do not change because cells come and go.
            failed = {name for name in cells if name not in order}
        return fallback.table_of(placed.spec, Routing.of(router), cells, failed, order)

    def _failed(self, cell: Cell) -> bool:
        state = self._cells.health(cell.key)
        return state is not None and state.level is Level.FAILED

    async def agree(self, router: Router) -> None:
        """Placement says who serves, as it is."""
        placed = self._switchboard.current(router.key)
        if placed is None:
            return
        spec = placed.spec
        if spec.mode is PlacementMode.FALLBACK and not self._programming.under_way(router.key):
            alone = self._routers.fenced(router.key)
            if spec.fallback is not None and spec.fallback.dual_routing == alone:
                await self._switchboard.change(router.key, lambda now: fallback.fenced(now, dual_routing=not alone))
        if any(started(run) for run in self._store.runs_of(TargetKind.ROUTER, router.key)):
            return
        at, now = self._switches.at(router.key), self._clock.now()
        if at is PlacementMode.FALLBACK and spec.mode is PlacementMode.PRIMARY:
            state = self._routers.fallback(router.key)
            if state is not None and state.order:
                order = state.order
                await self._switchboard.change(
                    router.key, lambda spec: fallback.activate(spec, order, BY_HAND, now, dual_routing=True)
                )
        elif at is PlacementMode.PRIMARY and spec.mode is PlacementMode.FALLBACK:
            await self._switchboard.change(router.key, fallback.deactivate)

    # --- what is shown

    def serving(self, router: Key) -> int:
        """Pods of the fallback that are ready."""
        state = self._routers.fallback(router)
        return state.pods.ready if state is not None else 0

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, Wanted]:
        """Of a router that has a fallback, or whose customers go through one."""
        active = placed.spec.fallback if placed is not None else None
        if active is None and not router.spec.has_fallback:
            return {}
        shown: dict[str, Wanted] = {}
        if router.spec.has_fallback:
            shown["FallbackReady"] = self._readiness(router)
        name = router.metadata.name
        if active is None:
            shown["FallbackActive"] = (False, "StandsBy", "")
            shown["DualRouting"] = (False, "None", "")
            return shown
        since, by = timestamp(active.since), f"{active.holder.kind} {active.holder.name}"
        shown["FallbackActive"] = (
            True,
            "Active",
            f"Customers go through the fallback since {since}, switched by {by}; {len(active.order)} cells stand behind"
            f" it. Back, once the router is well: kubectl recell recover router/{name} --always"
            " --strategy ActivateFallbackRouting",
        )
        shown["DualRouting"] = (
            active.dual_routing,
            "NotFenced" if active.dual_routing else "Fenced",
            "Not every pod of the router itself was heard to let its customers go: some may be served by it still"
            if active.dual_routing
            else "",
        )
        return shown

    def _readiness(self, router: Router) -> Wanted:
        state = self._routers.fallback(router.key)
        if state is None:
            return (False, "NotMade", "The fallback's Deployment is not there yet, or no cell could stand behind it")
        if state.obstacle:
            return (False, "NotReady", f"The fallback cannot be used: {state.obstacle}"[:1024])
        return (True, "Ready", f"It stands by with {len(state.order)} cells")
