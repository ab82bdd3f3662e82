"""Shedding by weights over a real Traefik and a real Envoy: a part of a class is turned away, nobody else notices."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from recell.providers.routing.gateway.data_plane import SETTLED_AFTER
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.envoy import Envoy
from tests.gateway.plane import GatewayPlane
from tests.router.rig import Load, eventually
from tests.router.rig.load import Answer, ask

EVEN = [slot % 2 for slot in range(1024)]
FAR = "2100-01-01T00:00:00Z"
SHEDDING = {
    "classes": [
        {
            "name": "checkout",
            "matches": [
                {"header": {"name": "X-Priority", "value": "high"}},
                {"pathPrefix": "/checkout", "methods": ["POST", "PUT"]},
            ],
        },
        {"name": "bulk", "matches": [{"header": {"name": "X-Priority", "value": "low"}}, {"pathPrefix": "/export"}]},
    ]
}


@pytest.fixture
async def plane(cluster: GatewayCluster, proxy: Traefik | Envoy) -> AsyncIterator[GatewayPlane]:
    cells = {name: await cluster.cell(name) for name in ("a", "b")}
    await cluster.turn_away()
    made = GatewayPlane(cluster, [proxy], cells, metrics=proxy.figures, shedding=SHEDDING)
    yield made
    await made.stop()


async def asked(port: int, path: str, method: str, priority: str) -> Answer:
    headers = [("X-Priority", priority.encode())] if priority else []
    return await ask(port, *headers, ("Content-Length", b"0"), method=method, path=path)


async def test_which_class_a_request_is_of(plane: GatewayPlane, proxy: Traefik | Envoy) -> None:
    """Everything is shed but by class, so the answer says which class it was: the first that matches, although an
    implementation takes the most specific match."""
    cases = [
        ("/", "GET", "", "default"),
        ("/checkout/1", "POST", "", "checkout"),
        ("/checkout", "PUT", "", "checkout"),
        ("/checkout", "GET", "", "default"),
        ("/checkouts", "POST", "", "default"),
        ("/checkout", "POST", "low", "checkout"),
        ("/checkout", "GET", "low", "bulk"),
        ("/export", "GET", "", "bulk"),
        ("/export/all?page=2", "GET", "", "bulk"),
        ("/exported", "GET", "", "default"),
        ("/export", "GET", "high", "checkout"),
        ("/export/all", "POST", "high", "checkout"),
        ("/", "GET", "low", "bulk"),
        ("/", "GET", "LOW", "default"),
        ("/", "GET", "lowest", "default"),
    ]
    for generation, only in enumerate(("checkout", "bulk", "default"), start=1):
        await plane.shift(EVEN, generation, shed={only: (100, FAR)})
        for path, method, priority, expected in cases:
            answer = await asked(proxy.port, path, method, priority)
            shed = (answer.status, answer.reason) == (503, "shed")
            assert shed == (expected == only), (path, method, priority, only, answer)


async def test_a_part_of_a_class_is_shed_under_load_and_nobody_else_notices(
    plane: GatewayPlane, proxy: Traefik | Envoy
) -> None:
    await plane.shift(EVEN, 1)
    paths = {"bulk": "/export/all", "default": "/"}
    loads = {
        name: Load((proxy.port,), clients=4, pause=0.005, limit=200_000, within=150, path=path)
        for name, path in paths.items()
    }
    async with loads["bulk"] as bulk, loads["default"] as other:
        for generation, percent in enumerate((10, 40, 100), start=2):
            await plane.shift(EVEN, generation, shed={"bulk": (percent, FAR)})
            begun, begin = time.monotonic(), plane.now()
            await eventually(lambda since=begun: sum(bulk.cells_since(since).values()) > 1500, 60)
            told = bulk.cells_since(begun)
            assert abs(told["shed"] / sum(told.values()) - percent / 100) < 0.03, told
            if percent < 100:
                assert abs(told["a"] / (told["a"] + told["b"]) - 0.5) < 0.06, told
            seen = await plane.until(
                lambda since=begin: (
                    (plane.now() - since).total_seconds() > 4
                    and plane.plane.observed(plane.key, window=4, not_before=since)
                )
            )
            assert abs(seen.classes["bulk"].shed / seen.classes["bulk"].requests - percent / 100) < 0.04
            assert (seen.classes["default"].shed, seen.classes["default"].failures) == (0, 0)
            assert {name: cell.failures for name, cell in seen.cells.items()} == {"a": 0, "b": 0}
            assert seen.requests + seen.classes["bulk"].shed == pytest.approx(
                seen.classes["bulk"].requests + seen.classes["default"].requests, rel=0.1
            )
        refused = await ask(proxy.port, path="/export")
        assert (refused.status, refused.reason) == (503, "shed")
        assert 5 <= int(refused.headers["retry-after"]) <= 14
        assert refused.body.startswith(b"shed: there is more to do than the service can bear")
        placed = await plane.shift(EVEN, 9)
        await asyncio.sleep(SETTLED_AFTER)
        await plane.tell(placed)  # what turned away leaves the route
        await plane.until(lambda: plane.in_force(placed))
        await asyncio.sleep(plane.lag)
        for rule in (await plane.cluster.route())["spec"]["rules"]:
            assert [ref["weight"] for ref in rule["backendRefs"]] == [512, 512]
        lifted = time.monotonic()
        await eventually(lambda: sum(bulk.cells_since(lifted).values()) > 500, 60)
        assert bulk.cells_since(lifted)["shed"] == 0
    for load in loads.values():
        assert load.errors == []
    assert set(other.statuses) == {200}
    assert [(at, status) for at, _, status, who in bulk.answers if status != 200 and who != "shed"] == []


async def test_an_open_circuit_spares_its_cell_in_every_class(plane: GatewayPlane, proxy: Traefik | Envoy) -> None:
    await plane.shift(EVEN, 1, circuits={"a": (90, FAR)})
    for path in ("/", "/export"):
        answers = await asyncio.gather(*(ask(proxy.port, path=path) for _ in range(400)))
        who = [answer.cell or answer.reason for answer in answers]
        assert abs(who.count("a") - 20) <= 15
        assert abs(who.count("b") - 200) <= 50  # five times the deviation of a fair coin
        assert who.count("circuit-open") == 400 - who.count("a") - who.count("b")
