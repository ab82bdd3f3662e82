"""Requests of customers through a real Traefik follow the shares, and nobody notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from recell.providers.access import RouterAccess
from recell.providers.kube.paths import NAMESPACES, SERVICES
from recell.providers.routing.dns.resolving import NameServers
from recell.runtime.clock import SystemClock
from tests.contract.conftest import IN_FLIGHT
from tests.fakes.ports import free_port
from tests.gateway.cluster import GRANTS, GatewayCluster, Traefik
from tests.gateway.plane import GatewayPlane
from tests.router.rig import Load
from tests.router.rig.load import ask

EVEN = [slot % 2 for slot in range(1024)]
QUARTER = [0 if slot % 4 == 0 else 1 for slot in range(1024)]
ALL_A, ALL_B = [0] * 1024, [1] * 1024


@pytest.fixture
async def proxy(cluster: GatewayCluster, traefik: Path) -> AsyncIterator[Traefik]:
    async with Traefik(cluster, traefik, "one", number=1, metrics_port=free_port()) as made:
        yield made


@pytest.fixture
async def plane(cluster: GatewayCluster, proxy: Traefik) -> AsyncIterator[GatewayPlane]:
    cells = {name: await cluster.cell(name) for name in ("a", "b")}
    metrics = {"type": "Traefik", "podSelector": {"app": "traefik"}, "port": proxy.metrics[1]}
    made = GatewayPlane(cluster, [proxy], cells, metrics=metrics, lacks=frozenset({IN_FLIGHT}))
    yield made
    await made.stop()


async def shares(port: int, requests: int = 400) -> Counter[str]:
    """Who answered so many requests."""
    answers = await asyncio.gather(*(ask(port, ("x-customer-id", str(n).encode())) for n in range(requests)))
    return Counter(answer.cell or str(answer.status) for answer in answers)


async def test_requests_follow_the_shares_and_a_drain_loses_none(plane: GatewayPlane, proxy: Traefik) -> None:
    await plane.shift(ALL_A, 1)
    load = Load((proxy.port,), clients=6, pause=0.01, within=60)
    async with load:
        assert await shares(proxy.port) == {"a": 400}
        for generation, (table, part) in enumerate(((EVEN, 200), (QUARTER, 100), (ALL_B, 0)), start=2):
            await plane.shift(table, generation)
            found = await shares(proxy.port)
            assert abs(found["a"] - part) <= 20, found
            assert found["a"] + found["b"] == 400
        await plane.shift(EVEN, 5)
        assert abs((await shares(proxy.port))["a"] - 200) <= 20
    assert not load.errors
    assert len(load.answers) > 500
    assert {status for _, _, status, _ in load.answers} == {200}


async def test_what_traefik_counts_is_what_the_cells_got(plane: GatewayPlane, proxy: Traefik) -> None:
    await plane.shift(QUARTER, 1)
    load = Load((proxy.port,), clients=4, pause=0.02, within=60)
    async with load:
        begin = plane.now()
        before = {name: cell.total for name, cell in plane.cluster.cells.items()}
        await plane.until(lambda: plane.plane.observed(plane.key, window=6, not_before=begin))
        seen = await plane.until(
            lambda: (
                (plane.now() - begin).total_seconds() > 5
                and plane.plane.observed(plane.key, window=5, not_before=begin)
            )
        )
        got = {name: cell.total - before[name] for name, cell in plane.cluster.cells.items()}
    part = seen.cells["a"].requests / seen.requests
    assert abs(part - got["a"] / sum(got.values())) < 0.05
    assert abs(seen.requests_per_second - sum(got.values()) / 5) < 0.4 * seen.requests_per_second
    assert seen.cells["a"].in_flight is None
    assert plane.plane.unseen(plane.key) == ""


async def test_while_nobody_may_serve_nobody_is_asked(plane: GatewayPlane, proxy: Traefik) -> None:
    await plane.shift(EVEN, 1)
    await shares(proxy.port, 20)
    await plane.shift([0xFFFF] * 1024, 2)
    before = {name: cell.total for name, cell in plane.cluster.cells.items()}
    assert await shares(proxy.port, 40) == {"500": 40}
    assert {name: cell.total for name, cell in plane.cluster.cells.items()} == before
    await plane.shift(EVEN, 3)
    assert (await shares(proxy.port, 40))["500"] == 0


async def test_a_cell_in_another_namespace_needs_a_grant_and_the_router_says_so(
    cluster: GatewayCluster, proxy: Traefik
) -> None:
    elsewhere = f"{cluster.namespace}-cells"
    await cluster.put(NAMESPACES, elsewhere, {})
    cells = {"a": await cluster.cell("a"), "b": await cluster.cell("b", namespace=elsewhere)}
    plane = GatewayPlane(cluster, [proxy], cells)
    try:
        placed = plane.placed(EVEN, generation=1)
        await plane.tell(placed)
        complaint = await plane.until(lambda: plane.plane.complaint(plane.key))
        assert "RefNotPermitted" in complaint
        assert f"let a ReferenceGrant in the Service's namespace allow HTTPRoutes of namespace {cluster.namespace}" in (
            complaint
        )
        assert not plane.in_force(placed)
        source = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": cluster.namespace}
        grant = {"spec": {"from": [source], "to": [{"group": "", "kind": "Service"}]}}
        await cluster.put(GRANTS, "shop", grant, namespace=elsewhere)
        await plane.until(lambda: plane.in_force(placed))
        await asyncio.sleep(plane.lag)
        assert abs((await shares(proxy.port))["b"] - 200) <= 20
    finally:
        await plane.stop()


async def test_a_cell_whose_service_is_gone_can_be_drained(plane: GatewayPlane, proxy: Traefik) -> None:
    await plane.shift(EVEN, 1)
    await plane.cluster.api.delete(SERVICES.path(plane.cluster.namespace, "a"))
    await plane.until(lambda: "BackendNotFound" in plane.plane.complaint(plane.key))
    await plane.shift(ALL_B, 2)
    assert plane.plane.complaint(plane.key) == ""
    assert await shares(proxy.port, 40) == {"b": 40}


async def test_a_gateway_that_takes_no_routes_is_said(plane: GatewayPlane, proxy: Traefik) -> None:
    await proxy.listen(False)
    placed = plane.placed(EVEN, generation=1)
    await plane.tell(placed)
    complaint = await plane.until(lambda: plane.plane.complaint(plane.key))
    assert "does not accept the HTTPRoute" in complaint
    assert plane.plane.serving(plane.key) == 0
    await proxy.listen(True)
    await plane.until(lambda: plane.in_force(placed))


async def test_nothing_is_written_when_nothing_changed_and_the_server_adds_nothing(plane: GatewayPlane) -> None:
    placed = await plane.shift(EVEN, 1)
    before = await plane.cluster.route()
    await plane.tell(placed)
    again = GatewayPlane(plane.cluster, plane.gateways, plane._cells, metrics=plane.block["metrics"])
    try:
        await again.tell(placed)  # a new process, which knows of nothing
        await again.until(lambda: again.in_force(placed))
    finally:
        await again.stop()
    after = await plane.cluster.route()
    assert after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]
    wanted: Any = before["spec"]
    assert set(wanted) == {"parentRefs", "rules"}
    assert set(wanted["rules"][0]) == {"matches", "backendRefs"}


async def test_the_customers_way_in_is_tried_through_the_gateway(plane: GatewayPlane, proxy: Traefik) -> None:
    await plane.shift(ALL_A, 1)
    access = RouterAccess(plane.cluster.api, clock := SystemClock(), NameServers(clock))
    tried = await access.try_slot(plane.router, plane._cells["a"], 7)
    assert tried.ok, tried.message
    assert f"Gateway {plane.cluster.namespace}/one" in tried.message
    assert plane.cluster.cells["a"].total > 0
