"""Routers of type Gateway on an API server and an implementation in memory: what is written, when, and what is said."""

import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest

from recell.api import Cell, Placement, Router
from recell.engine.errors import BadInput, Forbidden, NotFound, RecellError, Reverted
from recell.engine.ports import Key
from recell.providers.kube.paths import HTTP_ROUTES
from recell.providers.routing.gateway import data_plane
from recell.providers.routing.gateway.data_plane import GatewayDataPlane
from recell.providers.routing.gateway.figures import Figures
from recell.providers.routing.gateway.route import ANNOTATION_PLACEMENT, parents
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.router.rig import placement
from tests.unit.routing.played_gateway import NAMESPACE, PlayedGateway, RouteApi, router_spec

KEY = (NAMESPACE, "shop")
PATH = HTTP_ROUTES.path(*KEY)
EVEN = [slot % 2 for slot in range(1024)]
ALL_B = [1] * 1024
CELLS: Mapping[str, tuple[int, str, int]] = {"a": (0, "10.0.0.1", 80), "b": (1, "10.0.0.2", 80)}


class Scene:
    def __init__(self, served: PlayedGateway) -> None:
        self.served = served
        self.api = RouteApi(served)
        self.changes: list[Key] = []
        self.turns_away = True
        self.spec: dict[str, Any] = {}
        """What the Router says beside its Gateways."""
        api: Any = self.api
        clock = SystemClock()
        self.plane = GatewayDataPlane(
            api,
            clock,
            [NAMESPACE],
            self.cells,
            Figures(api, clock),
            turns_away=lambda key: self.turns_away,
            on_change=self.changes.append,
        )

    def cells(self, router: Key) -> Mapping[str, Cell]:
        return {
            name: Cell.model_validate(
                {
                    "metadata": {"name": name, "namespace": NAMESPACE},
                    "spec": {
                        "routerRef": {"name": "shop"},
                        "backend": {"type": "Service", "service": {"name": name, "port": 80}},
                    },
                }
            )
            for name in CELLS
        }

    def router(self, uid: str = "router-uid", **gateway: Any) -> Router:
        metadata = {"name": "shop", "namespace": NAMESPACE, "uid": uid}
        return Router.model_validate({"metadata": metadata, "spec": router_spec(**gateway) | self.spec})

    async def write(self, table: list[int], generation: int, **more: Any) -> Placement:
        placed = Placement.model_validate(placement(CELLS, table, generation=generation, **more))
        await self.plane.ensure(self.router())
        await self.plane.tell(KEY, placed)
        return placed

    async def until(self, condition: Callable[[], Any]) -> None:
        await eventually(condition, "what the test waits for")

    def in_force(self, placed: Placement) -> bool:
        seen = self.plane.applied(KEY)
        return seen is not None and seen.covers(placed.metadata.uid, placed.spec.epoch, placed.metadata.generation)

    @property
    def route(self) -> Any:
        return self.served.objects[PATH]

    @property
    def weights(self) -> Mapping[str, int]:
        return {ref["name"]: ref["weight"] for ref in self.route["spec"]["rules"][0].get("backendRefs", [])}

    def meddle(self, weight: int = 1) -> None:
        """Somebody else writes the weights."""
        spec = {"rules": [{"backendRefs": [{"name": "a", "port": 80, "weight": weight}]}]}
        metadata = self.route["metadata"]
        managers = [{"manager": "argocd", "time": "2026-11-26T00:00:00Z", "fieldsV1": {"f:spec": {"f:rules": {}}}}]
        changed = {**metadata, "generation": metadata["generation"] + 1, "managedFields": managers}
        self.served.put(PATH, self.route | {"metadata": changed, "spec": self.route["spec"] | spec})


@pytest.fixture
async def scene(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    monkeypatch.setattr(data_plane, "SYNC_WITHIN", 60.0)
    made = Scene(PlayedGateway())
    yield made
    await made.plane.stop()


async def test_a_placement_is_in_force_once_every_gateway_has_taken_it_up(scene: Scene) -> None:
    scene.served.frozen = True
    placed = await scene.write(EVEN, 1)
    assert scene.weights == {"a": 512, "b": 512}
    assert not scene.in_force(placed)
    scene.served.frozen = False
    scene.served.take_up(PATH)
    await scene.until(lambda: scene.in_force(placed))
    assert scene.changes
    assert scene.plane.serving(KEY) == 2
    assert scene.plane.complaint(KEY) == ""


async def test_nothing_is_written_when_nothing_changed(scene: Scene) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    before = len(scene.served.writes)
    for _ in range(3):
        await scene.write(EVEN, 1)
    assert len(scene.served.writes) == before


async def test_a_change_that_moves_nobody_is_in_force_at_once_and_changes_no_weight(scene: Scene) -> None:
    first = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(first))
    generation = scene.route["metadata"]["generation"]
    scene.served.frozen = True
    second = await scene.write(EVEN, 2)
    assert scene.in_force(second)
    assert scene.route["metadata"]["generation"] == generation


async def test_what_others_change_is_put_back_and_after_the_second_time_said_and_left(scene: Scene) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    for _ in range(data_plane.REVERTS):
        scene.meddle()
        await scene.until(lambda: not scene.in_force(placed))
        await scene.write(EVEN, 1)
        assert scene.weights == {"a": 512, "b": 512}
        await scene.until(lambda: scene.in_force(placed))
    scene.meddle()
    await scene.until(lambda: not scene.in_force(placed))
    with pytest.raises(Reverted, match=r"HTTPRoute fleet/shop was put back 2 times and changed again, last by argocd"):
        await scene.write(EVEN, 1)
    assert scene.weights == {"a": 1}
    asked = scene.api.calls
    with pytest.raises(Reverted):
        await scene.write(EVEN, 1)
    assert scene.api.calls == asked, "whose it is, is asked once"
    changed = await scene.write(ALL_B, 2)
    assert scene.weights == {"b": 1024}, "what is new is tried again"
    await scene.until(lambda: scene.in_force(changed))


async def test_what_stayed_for_long_is_put_back_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    monkeypatch.setattr(data_plane, "STEADY", 0.0)
    for _ in range(data_plane.REVERTS + 2):
        scene.meddle()
        await scene.until(lambda: not scene.in_force(placed))
        await scene.write(EVEN, 1)
        await scene.until(lambda: scene.in_force(placed))


async def test_a_route_that_lost_its_label_is_still_its_routers(scene: Scene) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    metadata = {name: value for name, value in scene.route["metadata"].items() if name != "labels"}
    scene.served.put(PATH, scene.route | {"metadata": metadata})
    await scene.until(lambda: scene.plane.serving(KEY) == 0)
    await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))


async def test_a_route_that_was_deleted_is_made_again(scene: Scene) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    scene.served.remove(PATH)
    await scene.until(lambda: scene.plane.serving(KEY) == 0)
    assert scene.plane.applied(KEY) is None
    await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))


async def test_a_route_of_somebody_else_is_not_touched(scene: Scene) -> None:
    theirs = {"metadata": {"name": "shop", "namespace": NAMESPACE, "generation": 1}, "spec": {"rules": [{}]}}
    scene.served.frozen = True
    scene.served.put(PATH, theirs)
    with pytest.raises(BadInput, match=r"HTTPRoute fleet/shop is there already and was not made for this Router"):
        await scene.write(EVEN, 1)
    assert scene.route["spec"] == {"rules": [{}]}


async def test_what_the_gateways_refuse_is_said_and_is_not_in_force(scene: Scene) -> None:
    scene.served.unresolved = {"status": "False", "reason": "RefNotPermitted", "message": "not granted"}
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.plane.complaint(KEY))
    assert "ReferenceGrant" in scene.plane.complaint(KEY)
    assert not scene.in_force(placed)


async def test_a_gateway_that_says_nothing_is_complained_about_in_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.served.frozen = True
    await scene.write(EVEN, 1)
    assert scene.plane.complaint(KEY) == ""
    monkeypatch.setattr(data_plane, "SILENT_FOR", 0.0)
    assert "Gateway fleet/one, Gateway fleet/two said nothing about the HTTPRoute" in scene.plane.complaint(KEY)


async def test_an_older_placement_changes_nothing(scene: Scene) -> None:
    placed = await scene.write(EVEN, 5, epoch=3)
    await scene.until(lambda: scene.in_force(placed))
    for generation, epoch, uid in ((6, 2, "placement-1"), (4, 3, "placement-1"), (7, 3, "restored")):
        await scene.write(ALL_B, generation, epoch=epoch, uid=uid)
        assert scene.weights == {"a": 512, "b": 512}
        assert "is older or another one" in scene.plane.complaint(KEY)
    await scene.write(ALL_B, 8, epoch=4, uid="restored")
    assert scene.weights == {"b": 1024}


async def test_a_write_that_was_decided_before_the_successors_changes_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader is stopped between its look and its write; the next one writes; then it wakes (rule 2)."""
    await scene.write(EVEN, generation=4)
    await scene.until(lambda: scene.plane.applied(KEY))
    stale = scene.plane.routes.get(KEY)
    successor = Scene(scene.served)
    await successor.write(ALL_B, generation=5, epoch=9)
    monkeypatch.setattr(scene.plane.routes, "get", lambda key: stale)
    await scene.plane.tell(KEY, Placement.model_validate(placement(CELLS, EVEN, generation=6)))
    assert scene.route["metadata"]["annotations"][ANNOTATION_PLACEMENT] == "placement-1/9/5"
    assert scene.weights == {"b": 1024}
    assert "is older or another one" in scene.plane.complaint(KEY)
    await successor.plane.stop()


async def test_a_new_process_takes_over_what_it_finds(scene: Scene) -> None:
    placed = await scene.write(EVEN, 1)
    await scene.until(lambda: scene.in_force(placed))
    generation = scene.route["metadata"]["generation"]
    other = Scene(scene.served)
    try:
        await other.write(EVEN, 1)
        await other.until(lambda: other.in_force(placed))
    finally:
        await other.plane.stop()
    assert scene.route["metadata"]["generation"] == generation
    assert scene.route["metadata"]["annotations"][ANNOTATION_PLACEMENT] == "placement-1/1/1"


class Refusing(RouteApi):
    """The watch is refused as well."""

    async def _call(self) -> None:
        await super()._call()
        if self.refused is not None:
            raise self.refused


@pytest.mark.parametrize(
    ("refused", "raised", "said"),
    [
        (NotFound("the server could not find the requested resource"), BadInput, "install the Gateway API's CRDs"),
        (Forbidden('grant verb "list"'), Forbidden, r"features\.gatewayApi of the chart"),
    ],
)
async def test_a_cluster_without_the_api_or_the_right_is_said(
    refused: Exception, raised: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane, "SYNC_WITHIN", 0.1)
    scene = Scene(PlayedGateway())
    api: Any = Refusing(scene.served)
    api.refused = refused
    clock = SystemClock()
    plane = GatewayDataPlane(
        api,
        clock,
        [NAMESPACE],
        scene.cells,
        Figures(api, clock),
        turns_away=lambda key: False,
        on_change=lambda key: None,
    )
    try:
        with contextlib.suppress(RecellError):
            await plane.ensure(scene.router())
        await eventually(lambda: plane.routes.trouble is not None, "the refusal is seen")
        with pytest.raises(raised, match=said):
            await plane.ensure(scene.router())
        await plane.tell(KEY, Placement.model_validate(placement(CELLS, EVEN, generation=1)))
        assert (plane.applied(KEY), plane.serving(KEY), scene.served.writes) == (None, 0, [])
    finally:
        await plane.stop()


async def test_nothing_is_watched_before_there_is_such_a_router(scene: Scene) -> None:
    scene.plane.start()
    await scene.plane.wait_synced()
    assert scene.api.calls == 0


# What is turned away

FAR = "2100-01-01T00:00:00Z"
SHEDDING = {"shedding": {"classes": [{"name": "bulk", "matches": [{"pathPrefix": "/export"}]}]}}


async def test_what_is_shed_is_in_the_route_only_once_there_is_something_that_answers(scene: Scene) -> None:
    scene.spec, scene.turns_away = SHEDDING, False
    await scene.write(EVEN, 1, shed={"bulk": (50, FAR)})
    assert scene.weights == {"a": 512, "b": 512}
    scene.turns_away = True
    await scene.write(EVEN, 1, shed={"bulk": (50, FAR)})
    assert scene.weights == {"a": 1, "b": 1, "shop-shed": 2, "shop-circuit-open": 0}
    await scene.write(EVEN, 2)
    assert scene.weights == {"a": 512, "b": 512}


async def test_behind_envoy_what_turns_requests_away_comes_and_goes_with_next_to_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_plane, "SETTLED_AFTER", 600.0)
    scene.spec = SHEDDING | {"gateway": scene.router(port=9).spec.to_dict()["gateway"]}
    faint = {"a": 1_000_000, "b": 1_000_000, "shop-shed": 1, "shop-circuit-open": 1}
    await scene.write(EVEN, 1)
    shed = await scene.write(EVEN, 2, shed={"bulk": (50, FAR)})
    assert scene.weights == faint
    await scene.until(lambda: parents(scene.route).current)
    assert not scene.in_force(shed), "only its place is there"
    await scene.write(EVEN, 2, shed={"bulk": (50, FAR)})
    assert scene.weights == {"a": 1, "b": 1, "shop-shed": 2, "shop-circuit-open": 0}
    await scene.until(lambda: scene.in_force(shed))
    lifted = await scene.write(EVEN, 3)
    assert scene.weights == faint
    written = len(scene.served.writes)
    await scene.write(EVEN, 3)
    assert len(scene.served.writes) == written
    await scene.until(lambda: scene.in_force(lifted))
    monkeypatch.setattr(data_plane, "SETTLED_AFTER", 0.0)
    await scene.write(EVEN, 3)
    assert scene.weights == {"a": 512, "b": 512}
    await scene.until(lambda: scene.in_force(lifted))


async def test_classes_that_no_rules_can_stand_for_are_said_and_customers_go_where_they_should(scene: Scene) -> None:
    expression = [{"matches": [{"path": {"type": "RegularExpression", "value": "/v[0-9]+"}}]}]
    scene.spec = SHEDDING
    await scene.plane.ensure(scene.router(rules=expression))
    placed = Placement.model_validate(placement(CELLS, ALL_B, generation=1))
    with pytest.raises(BadInput, match=r"RegularExpression /v\[0-9\]\+ takes requests for /export.*nothing is shed"):
        await scene.plane.tell(KEY, placed)
    assert scene.weights == {"b": 1024}
    await scene.until(lambda: scene.in_force(placed))
    written = len(scene.served.writes)
    with pytest.raises(BadInput):
        await scene.plane.tell(KEY, placed)
    assert len(scene.served.writes) == written
