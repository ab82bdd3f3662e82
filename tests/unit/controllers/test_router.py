"""The Router controller: Placement is true to the cells and never invented anew; no customer is dropped silently."""

from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell, Placement, Router
from recell.api.meta import ANNOTATION_FORCE, ANNOTATION_PLACEMENT_UID, FINALIZER
from recell.api.placement import REJECT, Hold, Holder, HoldState, decode_table
from recell.controllers.programming import Programming
from recell.controllers.router import RouterController
from recell.controllers.status import Wanted
from recell.controllers.switchboard import PlacementSwitchboard
from recell.domain import placement, shedding
from recell.domain.health import Level
from recell.domain.placement import Routing
from recell.engine.errors import BadInput, Forbidden, Reverted
from recell.engine.ports import Key
from tests.unit.controllers.server import Server, Surroundings

KEY = ("fleet", "shop")
GATEWAY = {"type": "Gateway", "haproxy": None, "gateway": {"parentRefs": [{"name": "public"}]}}


class Overload:
    """What answers in place of the cells; `order` is what was asked, and of the data plane."""

    def __init__(self) -> None:
        self.ready: Wanted | None = None
        self.order: list[str] = []

    async def ensure(self, router: Router) -> None:
        self.order.append("ensure")

    async def tidy(self, router: Router) -> None:
        self.order.append("tidy")

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, Wanted]:
        return {"SheddingReady": self.ready} if self.ready is not None else {}


class Scene:
    def __init__(self, *cells: str, **router: Any) -> None:
        self.server = Server()
        self.overload = Overload()
        self.around = Surroundings(self.server)
        haproxy = {"customerKey": {"type": "Header", "name": "x"}, **(router.pop("haproxy", None) or {})}
        if router.get("type", "HAProxy") == "HAProxy":
            router["haproxy"] = haproxy
        self.server.add(Router, "shop", {"type": "HAProxy", "customerData": "Shared", **router})
        for name in cells:
            self.cell(name)
        anything: Any = self.around
        store: Any = self.server
        self.board = PlacementSwitchboard(store, store, anything)
        self.controller = RouterController(
            store.clock,
            store,
            store,
            anything,
            anything,
            anything,
            Programming(store.clock, anything, self.board),
            self.board,
            anything,
            anything,
            anything,
            anything,
            self.overload,
            anything,
            anything,
        )

    def cell(self, name: str, level: Level = Level.HEALTHY, **more: Any) -> None:
        backend = {"type": "Service", "service": {"name": name, "port": 80}}
        self.server.add(Cell, name, {"routerRef": {"name": "shop"}, "backend": backend, **more})
        self.around.levels[name] = level

    async def settle(self) -> None:
        for _ in range(6):
            await self.controller.reconcile(KEY)

    @property
    def spec(self) -> Any:
        placed = self.server.placement(KEY)
        assert placed is not None
        return placed.spec

    def condition(self, type: str) -> Any:
        router = self.server.router(KEY)
        assert router is not None
        return next(c for c in router.status.conditions if c.type == type)

    def share(self, name: str) -> float:
        return placement.share(self.spec, name)


async def test_customers_are_divided_at_the_start_and_everything_is_said() -> None:
    scene = Scene("a", "b", "c")
    await scene.settle()
    assert [round(scene.share(n), 2) for n in "abc"] == [0.33, 0.33, 0.33]
    assert scene.condition("Ready").reason == "Serving"
    assert scene.server.read(Router, "shop")["metadata"]["annotations"][ANNOTATION_PLACEMENT_UID]
    assert all(FINALIZER in scene.server.read(Cell, n)["metadata"]["finalizers"] for n in "abc")


async def test_nothing_is_written_when_nothing_changed() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    before = list(scene.server.writes)
    await scene.settle()
    assert scene.server.writes == before


async def test_it_waits_for_the_initial_cells() -> None:
    scene = Scene("a", haproxy={"initialCells": ["a", "b"]})
    await scene.settle()
    assert scene.server.placement(KEY) is None
    assert scene.condition("Ready").reason == "WaitingForCells"
    assert "b" in scene.condition("Ready").message
    scene.cell("b")
    await scene.settle()
    assert round(scene.share("b"), 2) == 0.5


async def test_a_lost_placement_waits_for_a_person() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    del scene.server.objects["placements", "fleet", "shop"]
    await scene.settle()
    assert scene.server.placement(KEY) is None
    assert scene.condition("Stalled").reason == "PlacementMissing"
    assert "recell placement init shop" in scene.condition("Stalled").message


async def test_a_restored_placement_is_put_above_everything_that_the_pods_saw() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    old = scene.server.objects.pop(("placements", "fleet", "shop"))
    scene.server.add(Placement, "shop", old["spec"], uid="restored")
    await scene.settle()
    assert scene.spec.epoch > old["spec"]["epoch"]
    assert scene.server.read(Router, "shop")["metadata"]["annotations"][ANNOTATION_PLACEMENT_UID] == "restored"


async def test_a_cell_joins_once_it_is_healthy() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    scene.cell("c", Level.DEGRADED)
    await scene.settle()
    assert {c.name for c in scene.spec.cells} == {"a", "b"}
    scene.around.levels["c"] = Level.HEALTHY
    await scene.settle()
    assert round(scene.share("c"), 2) == 0.33


async def test_a_cell_that_comes_back_under_an_isolated_name_gets_nothing() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    hold = Hold(
        cell="b",
        max_percent=0,
        state=HoldState.ISOLATED,
        holder=Holder(kind="Person", name="ann"),
        reason="odd",
        since=scene.server.clock.now(),
    )
    router = scene.server.router(KEY)
    assert router is not None
    routing = Routing.of(router)
    await scene.board.change(KEY, lambda spec: placement.hold(spec, routing, hold))
    scene.server.delete_softly(Cell, "b")
    await scene.settle()
    scene.server.objects.pop(("cells", "fleet", "b"), None)
    scene.cell("b")
    scene.server.change(Cell, "b", {"metadata": {"uid": "another"}})
    await scene.settle()
    assert "b" not in {c.name for c in scene.spec.cells} or scene.share("b") == 0
    assert "isolated or retired" in scene.condition("Accepted").message


async def test_a_deleted_cell_goes_only_after_its_customers_moved() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    scene.server.delete_softly(Cell, "b")
    await scene.settle()
    assert ("cells", "fleet", "b") not in scene.server.objects
    assert scene.share("a") == 1.0


async def test_a_cell_with_the_only_copy_of_its_customers_data_stays_until_somebody_insists() -> None:
    scene = Scene("a", "b", customerData="InCell", haproxy={"initialCells": ["a", "b"]})
    await scene.settle()
    scene.server.delete_softly(Cell, "b")
    await scene.settle()
    assert ("cells", "fleet", "b") in scene.server.objects
    assert "still the home" in scene.condition("Accepted").message
    scene.server.change(Cell, "b", {"metadata": {"annotations": {ANNOTATION_FORCE: "true"}}})
    await scene.settle()
    assert ("cells", "fleet", "b") not in scene.server.objects
    assert REJECT in decode_table(scene.spec.homes)


async def test_a_deleted_router_stays_while_customers_depend_on_it_and_its_placement_stays_for_ever() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    assert "ownerReferences" not in scene.server.read(Placement, "shop")["metadata"]
    scene.server.delete_softly(Router, "shop")
    await scene.settle()
    assert scene.condition("Stalled").reason == "StillHome"
    scene.server.change(Router, "shop", {"metadata": {"annotations": {ANNOTATION_FORCE: "true"}}})
    await scene.settle()
    assert ("routers", "fleet", "shop") not in scene.server.objects
    assert scene.server.placement(KEY) is not None


async def test_a_deleted_router_that_stays_still_moves_its_customers() -> None:
    scene = Scene("a", "b", **GATEWAY)
    await scene.settle()
    scene.server.delete_softly(Router, "shop")
    router = scene.server.router(KEY)
    assert router is not None
    wanted = Hold(
        cell="b", max_percent=0, state=HoldState.DRAINING, holder=Holder(kind="Person", name="ann"), reason="odd",
        since=scene.server.clock.now(),
    )  # fmt: skip
    placed = await scene.board.change(KEY, lambda spec: placement.hold(spec, Routing.of(router), wanted))
    await scene.settle()
    assert scene.around.told is not None
    assert scene.around.told.metadata.generation == placed.metadata.generation


async def test_in_a_namespace_that_ends_nothing_is_held_up() -> None:
    scene = Scene("a", "b", customerData="InCell", haproxy={"initialCells": ["a", "b"]})
    await scene.settle()
    scene.server.terminating.add("fleet")
    for name in "ab":
        scene.server.delete_softly(Cell, name)
    scene.server.delete_softly(Router, "shop")
    await scene.settle()
    assert not [slot for slot in scene.server.objects if slot[0] in ("cells", "routers")]


@pytest.mark.parametrize(("word", "share"), [("Ignore", 0.5), ("Shift", 0.0)])
async def test_health_alone_moves_traffic_only_if_the_router_says_so(word: str, share: float) -> None:
    scene = Scene("a", "b", onUnhealthy=word)
    await scene.settle()
    scene.around.levels["b"] = Level.FAILED
    await scene.settle()
    assert scene.share("b") == share
    scene.around.levels["b"] = Level.HEALTHY
    await scene.settle()
    assert scene.share("b") == 0.5


async def test_shift_moves_nobody_onto_the_few_that_are_left_and_says_why() -> None:
    scene = Scene("a", "b", "c", onUnhealthy="Shift")
    await scene.settle()
    home = scene.spec.serving
    scene.around.levels["a"] = Level.FAILED
    await scene.settle()
    assert [scene.share(name) for name in "abc"] == [0, *(pytest.approx(0.5, abs=0.02),) * 2]
    scene.around.levels["b"] = Level.FAILED
    await scene.settle()
    assert (scene.spec.holds, scene.spec.serving) == ([], home)
    ready = scene.condition("Ready")
    assert (ready.status, ready.reason) == ("True", "SharedCause")
    assert "2 of 3 cells failed at once (a and b)" in ready.message
    before = list(scene.server.writes)
    await scene.settle()
    assert scene.server.writes == before, "nothing goes back and forth"
    scene.around.levels["b"] = Level.HEALTHY
    await scene.settle()
    assert [scene.share(name) for name in "abc"] == [0, *(pytest.approx(0.5, abs=0.02),) * 2]
    assert scene.condition("Ready").reason == "Serving"


async def test_shift_moves_nobody_while_a_dependency_of_all_does_not_answer() -> None:
    scene = Scene("a", "b", "c", onUnhealthy="Shift")
    await scene.settle()
    scene.around.levels["a"] = Level.FAILED
    scene.around.broke = ("payments",)
    await scene.settle()
    assert scene.spec.holds == []
    assert "payments" in scene.condition("Ready").message
    scene.around.broke = ()
    await scene.settle()
    assert scene.share("a") == 0.0


async def test_no_healthy_cell_and_no_pods_are_said_and_the_table_stays() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    table = scene.spec.serving
    scene.around.levels = {"a": Level.FAILED, "b": Level.FAILED}
    await scene.settle()
    assert scene.condition("Ready").reason == "NoHealthyCell"
    scene.around.pods = 0
    await scene.settle()
    assert scene.condition("Ready").reason == "NoRouterPods"
    assert scene.spec.serving == table


async def test_weight_zero_everywhere_keeps_the_table() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    table = scene.spec.serving
    for name in "ab":
        scene.server.change(Cell, name, {"spec": {"weight": 0}})
    await scene.settle()
    assert scene.spec.serving == table
    assert scene.condition("Ready").reason == "AllWeightsZero"


async def test_weight_zero_everywhere_at_the_start_is_refused_with_a_reason() -> None:
    scene = Scene()
    for name in "ab":
        scene.cell(name, weight=0)
    await scene.settle()
    assert scene.server.placement(KEY) is None
    assert scene.condition("Stalled").reason == "NoWeight"


async def test_a_cell_without_an_address_is_named_and_the_others_serve() -> None:
    scene = Scene("a", "b")
    scene.around.unreachable["b"] = BadInput("spec.backend.service.port: Service b has no port 81")
    await scene.settle()
    assert scene.share("a") == 1.0
    assert "spec.backend.service.port" in scene.condition("Accepted").message


async def test_a_hold_that_nobody_works_on_is_said_and_kept() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    router = scene.server.router(KEY)
    assert router is not None
    routing = Routing.of(router)
    hold = Hold(
        cell="b",
        max_percent=50,
        state=HoldState.DRAINING,
        holder=Holder(kind="RecoveryRun", name="gone", uid="gone"),
        reason="increment",
        since=scene.server.clock.now(),
    )
    await scene.board.change(KEY, lambda spec: placement.hold(spec, routing, hold))
    await scene.settle()
    assert scene.condition("OrphanedHold").status == "True"
    assert "recell return b" in scene.condition("OrphanedHold").message
    assert scene.spec.holds[0].max_percent == 50


async def test_a_new_leader_raises_the_epoch_first() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    scene.around.epoch = 9
    await scene.settle()
    assert scene.spec.epoch == 9


async def test_what_the_pods_refuse_is_said() -> None:
    scene = Scene("a")
    scene.around.complaints = "pod x refuses the Placement: older"
    await scene.settle()
    assert scene.condition("PlacementStale").status == "True"


async def test_what_is_shed_is_shown_and_what_has_expired_leaves_the_record() -> None:
    scene = Scene("a", "b")
    await scene.settle()
    assert scene.condition("Shedding").status == "False"
    run, now = Holder(kind="RecoveryRun", name="storm", uid="u"), scene.server.clock.now()
    later = now + timedelta(seconds=30)

    def change(spec: Any) -> Any:
        spec = shedding.shed(spec, {"bulk": 40}, holder=run, until=later, renew_before=now)
        return shedding.open_circuits(spec, ["a"], 90, holder=run, until=later, renew_before=now)

    await scene.board.change(KEY, change)
    await scene.settle()
    assert scene.condition("Shedding").message == "40 % of bulk for storm"
    assert scene.condition("CircuitsOpen").message == "90 % of a for storm"
    scene.server.clock.advance(31)
    await scene.settle()
    assert (scene.spec.shedding, scene.spec.open_circuits) == ([], [])
    assert [scene.condition(name).status for name in ("Shedding", "CircuitsOpen")] == ["False", "False"]


async def test_what_a_router_can_do_and_prove_is_said() -> None:
    for spec, verification, capabilities in (
        ({}, "Observed", ["StickyCustomers", "Pins", "Reject", "ReadOnly", "Shedding", "CircuitBreakers"]),
        (GATEWAY, "Resolved", []),
    ):
        scene = Scene("a", "b", **spec)
        await scene.settle()
        status = scene.server.read(Router, "shop")["status"]
        assert (status["verification"], status["capabilities"]) == (verification, capabilities)


async def test_a_gateway_can_shed_once_what_answers_instead_of_the_cells_is_ready() -> None:
    scene = Scene("a", "b", **GATEWAY, shedding={"defaultSheddable": True})
    scene.overload.ready = (False, "NotReady", "No pod is ready")
    await scene.settle()
    assert scene.server.read(Router, "shop")["status"]["capabilities"] == []
    assert scene.condition("SheddingReady").message == "No pod is ready"
    scene.overload.ready = (True, "Ready", "2 pods answer")
    await scene.settle()
    assert scene.server.read(Router, "shop")["status"]["capabilities"] == ["Shedding", "CircuitBreakers"]


async def test_it_is_there_before_a_route_may_name_it_and_goes_after(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene("a", "b", **GATEWAY)

    async def tell(router: Key, placed: Placement | None) -> None:
        scene.overload.order.append("tell")

    monkeypatch.setattr(scene.around, "tell", tell)
    await scene.controller.reconcile(KEY)
    assert scene.overload.order == ["ensure", "tell", "tidy"]


async def test_what_expires_is_looked_at_when_it_does() -> None:
    scene = Scene("a", "b", **GATEWAY)
    await scene.settle()
    now = scene.server.clock.now()
    run = Holder(kind="RecoveryRun", name="storm", uid="u")
    ends = now + timedelta(seconds=3)
    await scene.board.change(
        KEY, lambda spec: shedding.shed(spec, {"bulk": 40}, holder=run, until=ends, renew_before=now)
    )
    assert await scene.controller.reconcile(KEY) == 3.0
    scene.server.clock.advance(3)
    assert await scene.controller.reconcile(KEY) == 5.0
    assert scene.spec.shedding == []


DNS = {"type": "DNS", "haproxy": None, "dns": {"hostname": "shop.example.com", "routingPolicy": "Simple"}}


async def test_a_dns_router_publishes_public_addresses_and_says_how_far_it_is() -> None:
    scene = Scene("a", "b", **DNS)
    scene.around.public = {"a": (("2001:db8::1", 80), ("192.0.2.1", 80)), "b": (("192.0.2.2", 80),)}
    scene.around.in_force = False
    scene.around.progresses = "ns1 still answers 192.0.2.9 for A shop.example.com, which no serving cell has"
    await scene.settle()
    assert [c.address for c in scene.spec.cells] == ["192.0.2.1", "192.0.2.2"]
    assert "ns1 still answers 192.0.2.9" in scene.condition("Programmed").message
    assert "2 name servers serve 2 cells" in scene.condition("Ready").message
    scene.around.pods = 0
    await scene.settle()
    assert (scene.condition("Ready").status, scene.condition("Ready").reason) == ("False", "NotResolved")


@pytest.mark.parametrize(("router", "stays"), [({}, False), (DNS, True)])
async def test_a_deleted_cell_goes_once_nothing_sends_it_anything_which_silent_name_servers_do_not_prove(
    router: dict[str, Any], stays: bool
) -> None:
    scene = Scene("a", "b", **router)
    await scene.settle()
    scene.around.pods, scene.around.in_force = 0, False
    scene.server.delete_softly(Cell, "a")
    await scene.settle()
    assert (("cells", "fleet", "a") in scene.server.objects) is stays
    scene.around.pods, scene.around.in_force = 2, True
    await scene.settle()
    assert ("cells", "fleet", "a") not in scene.server.objects


async def test_a_cell_without_a_public_address_or_of_another_kind_is_refused_with_the_next_step() -> None:
    scene = Scene("a", "b", "c", **DNS)
    scene.around.public = {"a": (("192.0.2.1", 80),), "b": (("b.elb.example.com", 80),)}
    scene.around.unreachable["c"] = BadInput("spec.backend.service.name: Service shop/web is of type ClusterIP")
    await scene.settle()
    assert [c.name for c in scene.spec.cells] == ["a"]
    refused = scene.condition("Accepted").message
    assert "b.elb.example.com is a host name, but the Router publishes A records" in refused
    assert "Cell c: spec.backend.service.name: Service shop/web is of type ClusterIP" in refused


async def test_a_cell_that_the_router_cannot_reach_is_refused_and_the_others_serve() -> None:
    scene = Scene("a", "b", **GATEWAY)
    scene.cell("c", backend={"type": "Address", "address": {"host": "10.0.0.9", "port": 80}})
    await scene.settle()
    assert {c.name for c in scene.spec.cells} == {"a", "b"}
    assert "c: spec.backend.type is Address" in scene.condition("Accepted").message


async def test_a_cell_too_many_is_refused_and_the_others_serve() -> None:
    scene = Scene(*"abcdefghijklmnop", **GATEWAY)
    await scene.settle()
    scene.cell("q")
    await scene.settle()
    assert len(scene.spec.cells) == 16
    assert scene.condition("Accepted").reason == "CellsRefused"
    assert "q: the customers of this Router are shared by 16 cells already" in scene.condition("Accepted").message


async def test_what_the_data_plane_may_not_do_is_shown_and_the_rest_goes_on() -> None:
    scene = Scene("a", "b")
    scene.around.refused = Forbidden('grant verb "patch" on resource "httproutes"')
    await scene.settle()
    assert scene.condition("Stalled").reason == "Forbidden"
    assert 'grant verb "patch"' in scene.condition("Accepted").message
    assert scene.share("a") == 0.5
    scene.around.refused = None
    await scene.settle()
    assert scene.condition("Stalled").status == "False"


@pytest.mark.parametrize("where", ["ensure", "tell"])
async def test_who_keeps_changing_back_what_the_router_needs_is_named_until_that_ends(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = Scene("a", "b", **GATEWAY)
    await scene.settle()
    told = "HTTPRoute fleet/shop was put back 2 times and changed again, last by argocd-controller: it is left as it is"

    async def undone(*_: Any) -> None:
        raise Reverted(told)

    with monkeypatch.context() as meddling:
        meddling.setattr(scene.around, where, undone)
        await scene.settle()
        stalled = scene.condition("Stalled")
        assert (stalled.status, stalled.reason, stalled.message) == ("True", "Reverted", told)
        assert (scene.condition("Accepted").reason, scene.condition("Accepted").message) == ("Reverted", told)
        assert scene.condition("Reconciling").status == "False", "nothing goes on until that tool is told"
    await scene.settle()
    assert scene.condition("Stalled").status == "False"
