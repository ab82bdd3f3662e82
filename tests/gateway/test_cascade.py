"""CascadeRecovery over a Router of type Gateway: the whole operator, a real Traefik and a real Envoy; two of four cells
fail under a load that the other two cannot bear."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from recell.api import CellTemplate, Placement, RecoveryPolicy, RecoveryRun, Router
from recell.providers.kube.paths import OWN
from tests.cluster.conftest import Kubectl, image_of
from tests.fakes.eventually import eventually
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.envoy import Envoy
from tests.gateway.operator import FEATURES
from tests.gateway.test_recoveries import QUICK, Fleet, operating, serves, template
from tests.router.rig import Load

pytestmark = pytest.mark.usefixtures("crds")

BEARS = 60
"""Requests per second of each cell: of some 150, four bear their part easily, two do not."""
POLICY = {**QUICK, "mode": "Automatic", "cascade": {"stabilityBetween": "3s", "maxEmergencyCells": 0}}
SHEDDING = {
    "classes": [
        {"name": "order", "priority": 500, "sheddable": False, "matches": [{"pathPrefix": "/orders"}]},
        {"name": "export", "priority": 10, "matches": [{"pathPrefix": "/export"}]},
    ]
}


@pytest.fixture
async def fleet(cluster: GatewayCluster, kubectl: Kubectl, proxy: Traefik | Envoy) -> AsyncIterator[Fleet]:
    made = Fleet(cluster, image_of(kubectl, "pause"))
    capacity = {"requestsPerSecond": BEARS}
    of_cells = template(image_of(kubectl, "recell/operator"))
    of_cells["cell"]["capacity"] = capacity
    await made.put(CellTemplate, "cell", of_cells)
    for name in ("a", "b", "c", "d"):
        await made.cell(name, capacity=capacity, priority=500 if name == "d" else 100)
    await made.put(RecoveryPolicy, "default", POLICY)
    gateway = {"parentRefs": [{"name": "one"}], "metrics": proxy.figures}
    await made.put(
        Router, "shop", {"type": "Gateway", "customerData": "Shared", "gateway": gateway, "shedding": SHEDDING}
    )
    yield made
    for served in cluster.cells.values():
        served.failing = False


async def runs(fleet: Fleet) -> list[RecoveryRun]:
    listing = await fleet.cluster.api.list(OWN[RecoveryRun].collection(fleet.cluster.namespace))
    return [RecoveryRun.model_validate(found) for found in listing.items]


async def test_what_matters_is_served_while_two_of_four_cells_are_brought_back(
    fleet: Fleet, proxy: Traefik | Envoy, kubeconfig: Path, kubectl: Kubectl, tmp_path: Path
) -> None:
    async def able() -> bool:
        return (await fleet.get(Router, "shop")).status.capabilities == ["Shedding", "CircuitBreakers"]

    async def cascade() -> RecoveryRun | None:
        return next((run for run in await runs(fleet) if run.spec.target_ref.kind == "Router"), None)

    async def shed() -> Any:
        return (await fleet.get(Placement, "shop")).spec.shedding

    async def ended() -> RecoveryRun | None:
        run = await cascade()
        return run if run is not None and run.phase.ended else None

    features = f"{FEATURES},features.gatewayShedding=true"
    async with operating(fleet, kubeconfig, kubectl, tmp_path, features):
        await serves(fleet, proxy)
        await eventually(able, "it can shed", deadline=60)
        orders = Load((proxy.port,), clients=3, pause=0.045, limit=60_000, within=500, path="/orders")
        exports = Load((proxy.port,), clients=5, pause=0.045, limit=60_000, within=500, path="/export")
        async with orders, exports:
            await asyncio.sleep(10)
            for name in ("b", "d"):
                fleet.cluster.cells[name].failing = True
            await eventually(cascade, "a run for the Router appears", deadline=60)
            await eventually(shed, "what is too much is shed", deadline=60)
            begun = time.monotonic() + 3
            run = await eventually(ended, "the run ends", deadline=400)
            await asyncio.sleep(4)
            over = time.monotonic() - 2
        assert run.phase == "Succeeded", run.status.to_dict()
        assert run.status.result is not None
        told = run.status.result.cascade
        assert told is not None
        assert (told.total, told.recovered) == (2, 2)
        children = [each for each in await runs(fleet) if each.spec.escalated_from == run.metadata.name]
        children.sort(key=lambda each: (each.metadata.creation_timestamp, each.metadata.name))
        assert [each.spec.target_ref.name for each in children] == ["d", "b"], "by priority"
        meanwhile = [status for at, _, status, _ in orders.answers if at > begun]
        print(f"{time.monotonic() - begun:.0f} s; orders {orders.statuses}; exports {exports.statuses}")
        assert len(meanwhile) > 100
        assert sum(status != 200 for status in meanwhile) / len(meanwhile) < 0.01
        assert orders.cells_since(0)["shed"] == 0
        assert exports.cells_since(begun)["shed"] > 0
        assert {status for at, _, status, _ in [*orders.answers, *exports.answers] if at > over} == {200}
        spec = (await fleet.get(Placement, "shop")).spec
        assert (spec.shedding, spec.open_circuits) == ([], [])
