"""The contract of the Traffic port, kept by implementations of the Gateway API that others wrote."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hack.localnode import versions
from tests.contract.conftest import CHECKS, CLASSES, FREEZING, IN_FLIGHT, REJECTING, Plane
from tests.contract.test_traffic import *  # noqa: F403 - the very tests, on another data plane
from tests.fakes.ports import free_port
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.conftest import program
from tests.gateway.envoy import Envoy, EnvoyGateway
from tests.gateway.plane import GatewayPlane
from tests.router.rig import Load


@contextlib.asynccontextmanager
async def by_traefik(cluster: GatewayCluster, folder: Path) -> AsyncIterator[GatewayPlane]:
    port, traefik = free_port(), program("traefik")
    cells = {name: await cluster.cell(name) for name in ("a", "b")}
    async with contextlib.AsyncExitStack() as stack:
        proxies = [
            await stack.enter_async_context(Traefik(cluster, traefik, name, number=number, metrics_port=port))
            for number, name in enumerate(NAMES, start=1)
        ]
        lacks = frozenset({REJECTING, CHECKS, IN_FLIGHT, FREEZING})
        await cluster.turn_away()
        yield GatewayPlane(cluster, proxies, cells, metrics=proxies[0].figures, shedding=SHEDDING, lacks=lacks)


@contextlib.asynccontextmanager
async def by_envoy(cluster: GatewayCluster, folder: Path) -> AsyncIterator[GatewayPlane]:
    port, programs = free_port(), (program("envoy-gateway"), program("envoy"))
    cells = {name: await cluster.cell(name) for name in ("a", "b")}
    async with contextlib.AsyncExitStack() as stack:
        control = await stack.enter_async_context(EnvoyGateway(cluster, *programs, versions.ENVOY, folder))
        proxies = [
            await stack.enter_async_context(Envoy(cluster, control, name, number=number, metrics_port=port))
            for number, name in enumerate(NAMES, start=1)
        ]
        lacks = frozenset({REJECTING, CHECKS, FREEZING})
        await cluster.turn_away()
        yield GatewayPlane(cluster, proxies, cells, metrics=proxies[0].figures, shedding=SHEDDING, lacks=lacks)


NAMES = ("one", "two")
SHEDDING = {"classes": CLASSES}
IMPLEMENTATIONS = {"traefik": by_traefik, "envoy": by_envoy}


@pytest.fixture(params=IMPLEMENTATIONS)
async def plane(
    request: pytest.FixtureRequest, cluster: GatewayCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Plane]:
    if request.param == "envoy":
        request.getfixturevalue("envoy_gateway_api")
    async with IMPLEMENTATIONS[request.param](cluster, tmp_path) as made:
        monkeypatch.setattr("tests.contract.test_traffic.ROUTER", made.key)
        load = Load(tuple(gateway.port for gateway in made.gateways), clients=8, pause=0.05, within=120)
        async with load:
            try:
                yield made
            finally:
                made.speak()
                for cell in cluster.cells.values():
                    cell.hung = False
                await made.stop()
