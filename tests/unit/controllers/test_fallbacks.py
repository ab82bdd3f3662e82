"""The fallback while nobody needs it: its table is kept true; and whom customers reach is what the switch says."""

from collections.abc import Mapping
from typing import Any

import pytest

from recell.api import Cell, RecoveryRun, Router
from recell.api.meta import timestamp
from recell.api.placement import Hold, Holder, HoldState, PlacementMode
from recell.controllers.fallbacks import Fallbacks
from recell.controllers.programming import Programming
from recell.controllers.switchboard import PlacementSwitchboard
from recell.domain import fallback, placement
from recell.domain.fallback import Table
from recell.domain.health import HealthState, Level
from recell.domain.observation import Asked, FallbackState, Pods
from recell.domain.placement import Candidate, Routing
from tests.unit.controllers.server import Server, Surroundings

KEY = ("fleet", "shop")
ANN = Holder(kind="Person", name="ann")
PRIMARY, FALLBACK = PlacementMode.PRIMARY, PlacementMode.FALLBACK


class Routers:
    """What is known of the router, and its switches."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.level = Level.HEALTHY
        self.side: PlacementMode | None = PRIMARY
        self.alone = True
        self.standby: FallbackState | None = None
        self.made: list[tuple[str, ...] | None] = []
        self.kept = 0

    async def ensure_fallback(self, router: Router, table: Table) -> None:
        self.made.append(table.order)

    async def remove_fallback(self, router: Router) -> None:
        self.made.append(None)

    def health(self, router: tuple[str, str]) -> HealthState:
        return HealthState(self.level, self.server.clock.now())

    def fallback(self, router: tuple[str, str]) -> FallbackState | None:
        return self.standby

    def fenced(self, router: tuple[str, str]) -> bool:
        return self.alone

    def at(self, router: tuple[str, str]) -> PlacementMode | None:
        return self.side

    async def keep(self, router: Router) -> None:
        self.kept += 1


class Scene:
    def __init__(self, **router: Any) -> None:
        self.server = Server()
        self.around = Surroundings(self.server)
        haproxy = {"customerKey": {"type": "Header", "name": "x"}}
        spec = {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy, "fallback": {}, **router}
        self.server.add(Router, "shop", spec)
        for name in "abcd":
            backend = {"type": "Service", "service": {"name": name, "port": 80}}
            self.server.add(Cell, name, {"routerRef": {"name": "shop"}, "backend": backend})
            self.around.levels[name] = Level.HEALTHY
        anything: Any = self.around
        store: Any = self.server
        self.board = PlacementSwitchboard(store, store, anything)
        self.routers = Routers(self.server)
        self.fallbacks = Fallbacks(
            store.clock,
            store,
            anything,
            self.routers,
            self.routers,
            self.routers,
            self.board,
            Programming(store.clock, anything, self.board),
        )

    async def placed(self) -> "Scene":
        candidates = [Candidate(name, f"uid-{name}", f"10.0.0.{n}", 80, 100) for n, name in enumerate("abcd", start=1)]
        await self.board.create(KEY, placement.initial(self.routing, candidates, epoch=1))
        return self

    @property
    def router(self) -> Router:
        found = self.server.router(KEY)
        assert found is not None
        return found

    @property
    def routing(self) -> Routing:
        return Routing.of(self.router)

    @property
    def cells(self) -> Mapping[str, Cell]:
        return self.server.cells_of(KEY)

    @property
    def spec(self) -> Any:
        found = self.server.placement(KEY)
        assert found is not None
        return found.spec

    def table(self) -> Table:
        found = self.fallbacks.table(self.router, self.cells)
        assert found is not None
        return found

    def stands_by(self, *order: str, ready: int = 2, current: bool = True, unanswered: int = 0) -> None:
        now = self.server.clock.now()
        asked = Asked(20, unanswered, "no answer within 2 s", now, now)
        self.routers.standby = FallbackState(order, "id", Pods(2, ready), current, asked)

    async def hold(self, name: str) -> None:
        hold = Hold(cell=name, max_percent=0, state=HoldState.ISOLATED, holder=ANN, reason="", since=self.now)
        await self.board.change(KEY, lambda spec: placement.hold(spec, self.routing, hold))

    @property
    def now(self) -> Any:
        return self.server.clock.now()

    def condition(self, type: str) -> tuple[object, str, str]:
        return self.fallbacks.conditions(self.router, self.server.placement(KEY))[type]


# --- the table


async def test_nothing_is_asked_for_nothing_is_made() -> None:
    scene = await Scene(fallback=None).placed()
    assert scene.fallbacks.table(scene.router, scene.cells) is None
    assert scene.fallbacks.conditions(scene.router, scene.server.placement(KEY)) == {}
    scene = await Scene(fallback={"enabled": False}).placed()
    scene.routers.side = FALLBACK
    await scene.fallbacks.keep(scene.router, scene.cells)
    assert scene.routers.made == [], "customers need it"
    scene.routers.side = PRIMARY
    await scene.fallbacks.keep(scene.router, scene.cells)
    assert scene.routers.made == [None], "one that was made before goes"
    scene = await Scene().placed()
    await scene.fallbacks.keep(scene.router, scene.cells)
    assert (scene.routers.made, scene.routers.kept) == ([("a", "b", "c", "d")], 1)


async def test_while_all_is_well_the_table_follows_the_cells() -> None:
    scene = await Scene().placed()
    assert scene.table().order == ("a", "b", "c", "d")
    scene.stands_by("a", "b", "c", "d")
    scene.around.levels["b"] = Level.FAILED
    assert scene.table().order == ("a", "c", "d")
    await scene.hold("c")
    assert scene.table().order == ("a", "d")


async def test_while_the_router_is_not_well_only_isolation_changes_it() -> None:
    scene = await Scene().placed()
    scene.stands_by("a", "b", "c")
    scene.routers.level = Level.DEGRADED
    scene.around.levels["b"] = Level.FAILED
    assert scene.table().order == ("a", "b", "c"), "neither b leaves nor d comes"
    await scene.hold("c")
    assert scene.table().order == ("a", "b")


# --- who serves


async def test_a_switch_by_hand_is_taken_as_the_truth_and_recorded() -> None:
    scene = await Scene().placed()
    scene.stands_by("d", "a", "b")
    scene.routers.side = FALLBACK
    scene.routers.alone = False
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.mode is FALLBACK
    active = scene.spec.fallback
    assert (active.order, active.holder.kind, active.dual_routing) == (["d", "a", "b"], "Person", True)
    assert scene.condition("FallbackActive")[0] is True
    assert "recell recover router/shop --always" in scene.condition("FallbackActive")[2]
    assert scene.condition("DualRouting")[0] is True
    before = list(scene.server.writes)
    await scene.fallbacks.agree(scene.router)
    assert scene.server.writes == before, "nothing is written when nothing changed"
    scene.routers.alone = True
    scene.server.clock.advance(5)
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.fallback.dual_routing is False
    scene.routers.side = PRIMARY
    await scene.fallbacks.agree(scene.router)
    assert (scene.spec.mode, scene.spec.fallback) == (PRIMARY, None)


async def test_what_is_not_known_changes_nothing() -> None:
    scene = await Scene().placed()
    scene.routers.side = None
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.mode is PRIMARY
    scene.routers.side = FALLBACK
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.mode is PRIMARY, "nobody can say in which order cells stand behind it"


@pytest.mark.parametrize("side", [PRIMARY, FALLBACK])
async def test_while_a_run_works_on_the_router_it_alone_says_who_serves(side: PlacementMode) -> None:
    scene = await Scene().placed()
    scene.stands_by("a", "b", "c", "d")
    scene.server.add(RecoveryRun, "r1", {"targetRef": {"kind": "Router", "name": "shop"}})
    scene.server.change(RecoveryRun, "r1", {"status": {"phase": "Draining", "startedAt": timestamp(scene.now)}})
    if side is PRIMARY:
        await scene.board.change(KEY, lambda spec: fallback.activate(spec, "abcd", ANN, scene.now))
    scene.routers.side = side
    before = scene.spec.mode
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.mode is before
    scene.server.change(RecoveryRun, "r1", {"status": {"phase": "Succeeded"}})
    await scene.fallbacks.agree(scene.router)
    assert scene.spec.mode is side


# --- whether it could be used


@pytest.mark.parametrize(
    ("how", "ready", "words"),
    [
        ({}, True, "stands by with 2 cells"),
        ({"ready": 0}, False, "none of its 2 pods is ready"),
        ({"current": False}, False, "just getting another table"),
        ({"unanswered": 15}, False, "15 of 20 requests got no answer"),
        ({"unanswered": 2}, True, "stands by"),
    ],
)
async def test_readiness_says_what_is_in_the_way(how: Any, ready: bool, words: str) -> None:
    scene = await Scene().placed()
    scene.stands_by("a", "b", **how)
    status, _, message = scene.condition("FallbackReady")
    assert status is ready
    assert words in message


async def test_a_fallback_that_is_not_there_is_not_ready() -> None:
    scene = await Scene().placed()
    assert scene.condition("FallbackReady")[:2] == (False, "NotMade")
    assert scene.condition("FallbackActive")[:2] == (False, "StandsBy")
    assert scene.fallbacks.serving(KEY) == 0
