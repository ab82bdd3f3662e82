"""Two vantage points, as the controllers act on them (rule 12): what only the operator sees starts no run."""

from typing import Any

import pytest

from recell.api import Cell, Placement, RecoveryPolicy, RecoveryRun, Router
from recell.api.placement import PlacementSpec
from recell.controllers.cell import CellController
from recell.controllers.observer import CellObserver
from recell.controllers.programming import Programming
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.retirement import Retirements
from recell.controllers.storms import Storms
from recell.domain import placement
from recell.domain.health import Level
from recell.domain.observation import CellTraffic, ProbeResult, RouterTraffic
from recell.domain.placement import Candidate, Routing
from tests.unit.controllers.server import Server, Surroundings

ROUTER = ("fleet", "shop")
CELLS = "abc"


class Scene(Surroundings):
    """Three probed cells that serve, the real observer over what probes and routers tell, and whoever starts runs."""

    def __init__(self) -> None:
        server = Server()
        super().__init__(server)
        haproxy = {"customerKey": {"type": "Header", "name": "x"}}
        server.add(Router, "shop", {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy})
        detection = {"withoutIntegrityChecks": "Intact"}
        server.add(RecoveryPolicy, "default", {"mode": "Automatic", "detection": detection})
        for name in CELLS:
            backend = {"type": "Service", "service": {"name": name, "port": 80}}
            spec = {"routerRef": {"name": "shop"}, "backend": backend, "health": {"probe": {}}}
            server.add(Cell, name, spec)
        router = server.router(ROUTER)
        assert router is not None
        candidates = [Candidate(n, f"uid-{n}", "10.0.0.1", 80, 100) for n in CELLS]
        spec: PlacementSpec = placement.initial(Routing.of(router), candidates, epoch=1)
        server.add(Placement, "shop", spec.to_dict())
        self.unreached: set[str] = set()
        """Cells whose probes fail from the operator."""
        self.known = False
        """The prober knows that it reaches nobody."""
        self.failing: set[str] = set()
        """Cells at which the routers see every request fail."""
        anything: Any = self
        store: Any = server
        self.observer = CellObserver(store.clock, store, anything, anything, anything, anything, anything)
        records = RunRecords(store, store)
        retirements = Retirements(
            store.clock, store, store, anything, anything, Protection(anything), anything, anything, anything
        )
        self.storms = Storms(store.clock, store, self.observer, anything, anything, records)
        self.cells = CellController(
            store.clock, store, store, anything, anything, self.observer, Programming(store.clock, anything, anything),
            anything, records, retirements, self.storms, anything,
        )  # fmt: skip

    # Cluster, switchboard

    def states(self, cell: Cell) -> tuple[Any, ...]:
        return ()

    def endpoints(self, cell: Cell) -> None:
        return None

    def current(self, router: tuple[str, str]) -> Placement | None:
        return self.server.placement(router)

    # Probes

    def probe(self, cell: tuple[str, str]) -> ProbeResult:
        now, ok = self.server.clock.now(), cell[1] not in self.unreached
        message = "HTTP 200" if ok else "no connection"
        return ProbeResult(ok=ok, message=message, at=now, since=now, operator_cut_off=self.known and not ok)

    def integrity(self, cell: tuple[str, str]) -> None:
        return None

    def set_target(self, cell: Cell, address: Any) -> None:
        """Probed, or not."""

    # Traffic

    def observed(self, router: Any, *, window: float, not_before: Any = None) -> RouterTraffic:
        now = self.server.clock.now()
        figures = {name: self._served(name in self.failing) for name in CELLS}
        return RouterTraffic(now, now, 2, figures)

    @staticmethod
    def _served(failing: bool) -> CellTraffic:
        rate = 1.0 if failing else 0.0
        return CellTraffic(100, 10, 100 if failing else 0, 0, 0.05, pod_error_rates=(rate, rate), check_up=not failing)

    async def pass_time(self, seconds: int) -> list[RecoveryRun]:
        for _ in range(seconds):
            for name in CELLS:
                await self.cells.reconcile(("fleet", name))
            router = self.server.router(ROUTER)
            assert router is not None
            await self.storms.detect(router, self.server.cells_of(ROUTER))
            self.server.clock.advance(1)
        return list(self.server.runs_in("fleet"))

    def seen(self) -> list[Level | None]:
        states = (self.observer.health(("fleet", name)) for name in CELLS)
        return [state.level if state else None for state in states]


@pytest.mark.parametrize("known", [True, False])
async def test_an_operator_that_reaches_nobody_starts_nothing_while_customers_are_served(known: bool) -> None:
    scene = Scene()
    await scene.pass_time(30)
    scene.unreached, scene.known = set(CELLS), known
    assert await scene.pass_time(300) == []
    assert Level.FAILED not in scene.seen()
    if known:
        assert scene.seen() == [Level.HEALTHY] * 3, "whose fault it is, is known"


async def test_nor_for_the_one_cell_that_it_does_not_reach() -> None:
    scene = Scene()
    await scene.pass_time(30)
    scene.unreached = {"b"}
    assert await scene.pass_time(300) == []
    assert scene.seen() == [Level.HEALTHY, Level.DEGRADED, Level.HEALTHY]


async def test_what_the_routers_see_too_starts_a_run() -> None:
    scene = Scene()
    await scene.pass_time(30)
    scene.unreached = scene.failing = {"b"}
    (run,) = await scene.pass_time(60)
    assert (run.spec.target_ref.name, run.spec.trigger) == ("b", "Automatic")
