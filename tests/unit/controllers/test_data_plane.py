"""The objects of a router and its fallback in the cluster: applied once, and never against what a person switched."""

import copy
from typing import Any

import pytest

from recell.api import Router
from recell.api.placement import PlacementMode
from recell.controllers.data_plane import HAProxyDataPlane
from recell.domain.fallback import Entry, Table
from recell.domain.observation import Pods
from recell.engine.errors import Conflict, NotFound
from recell.providers.kube.paths import parse
from recell.providers.routing.haproxy.fallback import fallback_selector
from recell.providers.routing.haproxy.objects import Surroundings
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from recell.runtime.clock import SystemClock
from tests.unit.routing.builders import router

KEY = ("fleet", "shop")
TABLE = Table((Entry("a", "10.0.0.1", 80), Entry("b", "10.0.0.2", 80)))
PRIMARY, FALLBACK = PlacementMode.PRIMARY, PlacementMode.FALLBACK
AROUND = Surroundings(image="recell/router:1", operator_namespace="recell-system")


class Server:
    """Objects by kind and name; versions rise, and an apply with an old one conflicts."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.writes: list[str] = []
        self._version = 100

    async def apply(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        place = parse(path)
        slot = (place.resource, place.name)
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != self.objects[slot]["metadata"]["resourceVersion"]:
            raise Conflict(f"{place} changed")
        return self._keep(slot, copy.deepcopy(body), "apply")

    async def merge_patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        place = parse(path)
        found = copy.deepcopy(self.objects[place.resource, place.name])
        template = body["spec"].get("template", {}).get("metadata", {}).get("annotations", {})
        if template:
            found["spec"]["template"]["metadata"].setdefault("annotations", {}).update(template)
        found["spec"]["selector"] = body["spec"].get("selector", found["spec"].get("selector"))
        return self._keep((place.resource, place.name), found, "patch")

    async def delete(self, path: str, *, uid: str | None = None) -> dict[str, Any]:
        place = parse(path)
        slot = (place.resource, place.name)
        if slot not in self.objects:
            raise NotFound(str(place))
        if uid not in (None, self.objects[slot]["metadata"]["uid"]):
            raise Conflict(f"{place} is another one")
        self.writes.append(f"delete {place.resource}/{place.name}")
        return self.objects.pop(slot)

    def _keep(self, slot: tuple[str, str], obj: dict[str, Any], how: str) -> dict[str, Any]:
        self._version += 1
        obj["metadata"] |= {"resourceVersion": str(self._version), "uid": f"uid-{slot[1]}"}
        self.objects[slot] = obj
        self.writes.append(f"{how} {slot[0]}/{slot[1]}")
        return obj


class Scene:
    def __init__(self) -> None:
        self.server = Server()
        self.plane = self.new()

    def new(self) -> HAProxyDataPlane:
        """As a process that has just started, with complete copies."""
        clock, api = SystemClock(), self.server
        anything: Any = api
        traffic = HAProxyTraffic(clock, on_change=lambda _: None)
        plane = HAProxyDataPlane(anything, clock, ("",), traffic, AROUND, lambda key: {}, on_change=lambda _: None)
        for (resource, _), obj in api.objects.items():
            if resource in ("services", "deployments"):
                plane._live[obj["kind"]].put(obj)
        return plane

    @staticmethod
    def router(**spec: Any) -> Router:
        made = router()
        body = {**made.spec.to_dict(), "fallback": {}, **spec}
        return Router.model_validate({"metadata": made.metadata, "spec": body})

    def service(self) -> dict[str, Any]:
        return self.server.objects["services", "shop"]

    def by_hand(self, pods: dict[str, str]) -> None:
        """kubectl patch service."""
        changed = copy.deepcopy(self.service())
        changed["spec"]["selector"] = pods
        self.server._keep(("services", "shop"), changed, "kubectl")


async def ensure(plane: HAProxyDataPlane, of: Router, table: Table) -> None:
    await plane.ensure(of)
    await plane.ensure_fallback(of, table)


async def test_everything_is_applied_once() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    made = {write.partition("/")[2] for write in scene.server.writes}
    assert {"shop", "shop-router", "shop-fallback"} == made
    before = list(scene.server.writes)
    await ensure(scene.plane, scene.router(), TABLE)
    assert scene.server.writes == before
    await ensure(scene.plane, scene.router(), Table(TABLE.entries[:1]))
    assert scene.server.writes[len(before) :] == ["apply deployments/shop-fallback"]


async def test_without_a_table_the_fallback_stays_as_it_is() -> None:
    scene = Scene()
    await scene.plane.ensure(scene.router())
    assert not [write for write in scene.server.writes if "fallback" in write]
    assert scene.plane.fallback(KEY) is None


async def test_a_new_operator_takes_whom_the_service_selects_for_the_truth() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    scene.by_hand(fallback_selector("shop"))
    fresh = scene.new()
    assert fresh.switch.at(KEY) is FALLBACK
    await ensure(fresh, scene.router(), TABLE)
    assert scene.service()["spec"]["selector"] == fallback_selector("shop")
    assert fresh.switch.at(KEY) is FALLBACK


async def test_what_is_behind_cannot_take_back_what_a_person_switched_just_now() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    scene.by_hand(fallback_selector("shop"))
    changed = scene.router(haproxy={"customerKey": {"type": "Host"}, "service": {"port": 8080}})
    changed.metadata.generation = 2
    with pytest.raises(Conflict):
        await ensure(scene.plane, changed, TABLE)
    assert scene.service()["spec"]["selector"] == fallback_selector("shop")


async def test_both_sides_are_told_as_their_deployments_say() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    state = scene.plane.fallback(KEY)
    assert state is not None
    assert (state.order, state.table, state.pods, state.current) == (("a", "b"), TABLE.id, Pods(2, 0), False)
    deployment = scene.server.objects["deployments", "shop-fallback"]
    deployment["status"] = {"observedGeneration": 0, "replicas": 2, "updatedReplicas": 2, "readyReplicas": 2}
    scene.plane._live["Deployment"].put(scene.server._keep(("deployments", "shop-fallback"), deployment, "status"))
    state = scene.plane.fallback(KEY)
    assert state is not None
    assert (state.pods, state.current) == (Pods(2, 2), True)
    primary = scene.plane.primary(KEY)
    assert primary is not None
    assert (primary.uid, primary.restarted_by, primary.rolled_out) == ("uid-shop-router", None, False)


async def test_a_restart_is_one_write_and_outlives_whatever_else_is_applied() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    for _ in range(2):
        await scene.plane.restart(scene.router(), "token-1")
    assert scene.server.writes.count("patch deployments/shop-router") == 1
    primary = scene.plane.primary(KEY)
    assert primary is not None
    assert primary.restarted_by == "token-1"


async def test_a_router_is_made_anew_once() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    await scene.plane.renew(scene.router(), "uid-shop-router")
    await scene.plane.renew(scene.router(), "uid-shop-router")
    assert scene.server.writes.count("delete deployments/shop-router") == 1
    await ensure(scene.plane, scene.router(), TABLE)
    assert scene.server.writes.count("apply deployments/shop-router") == 2
    await scene.plane.renew(scene.router(), "another")
    assert ("deployments", "shop-router") in scene.server.objects


async def test_a_fallback_that_is_no_longer_asked_for_goes() -> None:
    scene = Scene()
    await ensure(scene.plane, scene.router(), TABLE)
    without = scene.router(fallback={"enabled": False})
    await scene.plane.remove_fallback(without)
    left = {name for _, name in scene.server.objects if name == "shop-fallback"}
    assert left == set()
    assert ("services", "shop-router") not in scene.server.objects
    assert ("deployments", "shop-router") in scene.server.objects


async def test_what_turns_requests_away_is_made_once_and_taken_away_whole() -> None:
    scene = Scene()
    shop = scene.router()
    assert not scene.plane.turns_away(KEY)
    assert scene.plane.turn_away(KEY) is None
    await scene.plane.remove_turn_away(shop)
    await scene.plane.ensure_turn_away(shop)
    made = list(scene.server.writes)
    assert made == [
        "apply networkpolicies/shop-turn-away",
        "apply deployments/shop-turn-away",
        "apply poddisruptionbudgets/shop-turn-away",
        "apply services/shop-shed",
        "apply services/shop-circuit-open",
    ]
    assert scene.plane.turns_away(KEY)
    assert scene.plane.turn_away(KEY) == Pods(desired=2, ready=0)
    await scene.plane.ensure_turn_away(shop)
    assert scene.server.writes == made
    fresh = scene.new()
    await fresh.remove_turn_away(shop)
    assert scene.server.objects == {}
    assert scene.server.writes[-1] == "delete deployments/shop-turn-away"
