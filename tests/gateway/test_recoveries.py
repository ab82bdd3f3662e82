"""CellRestart and TrafficDrainAndReplace over a Router of type Gateway: the whole operator, a real Traefik and a real
Envoy, and customers who notice nothing."""

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from recell.api import Cell, CellTemplate, Placement, RecoveryPolicy, RecoveryRun, Router
from recell.api.meta import ANNOTATION_RESTART
from recell.domain import placement
from recell.providers.kube.paths import DEPLOYMENTS, OWN
from tests.cluster.conftest import Kubectl, image_of
from tests.fakes.eventually import eventually
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.conftest import program
from tests.gateway.envoy import Envoy
from tests.gateway.operator import FEATURES, OperatorProcess
from tests.router.rig import Load
from tests.router.rig.load import ask

pytestmark = pytest.mark.usefixtures("crds")

Object = dict[str, Any]
CELLS = ("a", "b", "c")
QUICK = {
    "mode": "Observe",
    "detection": {"failedAfter": "3s", "healthyAfter": "3s", "window": "6s", "withoutIntegrityChecks": "Intact"},
    "steps": {"drainIncrements": 3, "incrementInterval": "2s", "stabilityDuration": "4s"},
    "validation": {"duration": "6s"},
}
"""The defaults but for waits."""
WEB = """
import http.server, os

class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("X-Cell", os.environ["CELL"])
        self.end_headers()
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""
"""What a made cell runs."""


def template(image: str) -> Object:
    container = {
        "name": "web",
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", WEB],
        "env": [{"name": "CELL", "value": "$(CELL)"}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
    }
    labels = {"app": "$(CELL)"}
    pod = {"metadata": {"labels": labels}, "spec": {"containers": [container]}}
    return {
        "cell": {
            "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(CELL)-web"}],
            "health": {"probe": {"path": "/", "interval": "1s"}},
        },
        "objects": [
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "$(CELL)"},
                "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "$(CELL)-web"},
                "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod},
            },
        ],
    }


class Fleet:
    """Cells behind the Router `shop`."""

    def __init__(self, cluster: GatewayCluster, image: str) -> None:
        self.cluster, self._image = cluster, image
        self.names: list[str] = []

    async def put(self, kind: Any, name: str, spec: Object) -> None:
        await self.cluster.put(OWN[kind], name, {"spec": spec})

    async def get(self, kind: Any, name: str) -> Any:
        return kind.model_validate(await self.cluster.api.get(OWN[kind].path(self.cluster.namespace, name)))

    async def cell(self, name: str, **more: Any) -> None:
        """`more` goes into its spec."""
        await self.cluster.cell(name)
        self.names.append(name)
        pod = {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [{"name": "web", "image": self._image, "imagePullPolicy": "Never"}]},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": {"app": name}}, "template": pod}
        await self.cluster.put(DEPLOYMENTS, f"{name}-web", {"spec": spec})
        cell = {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": name, "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-web"}],
            "health": {"probe": {"path": "/", "interval": "1s"}},
            "templateRef": {"name": "cell"},
        }
        await self.put(Cell, name, cell | more)

    async def healthy(self) -> bool:
        return all([(await self.get(Cell, name)).status.phase == "Healthy" for name in self.names])

    async def programmed(self) -> bool:
        router = await self.get(Router, "shop")
        return any(c.type == "Programmed" and c.status == "True" for c in router.status.conditions)

    async def ended(self) -> Any:
        run = await self.get(RecoveryRun, "by-hand")
        return run if run.phase.ended else None

    async def end(self) -> None:
        """The operator has ended, and its rights end with the namespace: nobody else takes its finalizers away."""
        for kind in (Cell, Router, RecoveryRun):
            resource = OWN[kind]
            for found in (await self.cluster.api.list(resource.collection(self.cluster.namespace))).items:
                path = resource.path(self.cluster.namespace, found["metadata"]["name"])
                await self.cluster.api.merge_patch(path, {"metadata": {"finalizers": []}})

    async def run(self, strategy: str) -> Any:
        """Of cell b, from its creation to its end."""
        before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
        asked = {"targetRef": {"kind": "Cell", "name": "b"}, "strategy": strategy}
        await self.put(RecoveryRun, "by-hand", {**asked, "startWhen": "Always", "startBefore": before})
        return await eventually(self.ended, "the run ends", deadline=240)

    async def limits(self, found: list[int]) -> None:
        """The cell's limit whenever it is another one, until cancelled."""
        while True:
            placed = await self.get(Placement, "shop")
            percent = placement.limit(placed.spec, "b")
            if not found or found[-1] != percent:
                found.append(percent)
            await asyncio.sleep(0.1)


@pytest.fixture
async def fleet(cluster: GatewayCluster, kubectl: Kubectl) -> Fleet:
    made = Fleet(cluster, image_of(kubectl, "pause"))
    await made.put(CellTemplate, "cell", template(image_of(kubectl, "recell/operator")))
    for name in CELLS:
        await made.cell(name)
    await made.put(RecoveryPolicy, "default", QUICK)
    return made


def recell(cluster: GatewayCluster, *arguments: str) -> str:
    command = [sys.executable, "-c", "from recell.cli.main import main; main()", *arguments]
    more = ["-n", cluster.namespace, "--kubeconfig", str(cluster.kubeconfig)]
    return subprocess.run([*command, *more], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("verification", ["Observed", "Resolved"])
async def test_a_cell_is_restarted_and_customers_notice_nothing(
    fleet: Fleet, proxy: Traefik | Envoy, kubeconfig: Path, kubectl: Kubectl, tmp_path: Path, verification: str
) -> None:
    figures = {"metrics": proxy.figures} if verification == "Observed" else {}
    gateway = {"parentRefs": [{"name": "one"}], **figures}
    await fleet.put(Router, "shop", {"type": "Gateway", "customerData": "Shared", "gateway": gateway})
    async with operating(fleet, kubeconfig, kubectl, tmp_path):
        await _restart(fleet, proxy, verification)


async def test_a_cell_is_replaced_and_customers_notice_nothing(
    fleet: Fleet, proxy: Traefik | Envoy, kubeconfig: Path, kubectl: Kubectl, tmp_path: Path
) -> None:
    """The made cell is real pods behind a Service; the route carries it from its first increment on."""
    gateway = {"parentRefs": [{"name": "one"}], "metrics": proxy.figures}
    await fleet.put(Router, "shop", {"type": "Gateway", "customerData": "Shared", "gateway": gateway})
    async with operating(fleet, kubeconfig, kubectl, tmp_path):
        await serves(fleet, proxy)
        load = Load((proxy.port,), clients=6, pause=0.02, limit=60_000, within=240)
        async with load:
            await asyncio.sleep(8)
            run = await fleet.run("TrafficDrainAndReplace")
            await asyncio.sleep(3)
            ended = time.monotonic() - 2
        assert run.phase == "Succeeded", run.status.to_dict()
        made = run.status.result.replacement
        assert made.startswith("b-")
        assert load.errors == []
        assert {status for _, _, status, _ in load.answers} == {200}
        assert set(load.cells_since(ended)) == {"a", "c", made}
        stopped = await fleet.cluster.api.get(DEPLOYMENTS.path(fleet.cluster.namespace, "b-web"))
        assert stopped["spec"]["replicas"] == 0


CLASSES = {"classes": [{"name": "bulk", "priority": 10, "matches": [{"pathPrefix": "/export"}]}]}


async def test_what_is_shed_is_turned_away_by_pods_of_the_operators_until_it_expires(
    fleet: Fleet, proxy: Traefik | Envoy, kubeconfig: Path, kubectl: Kubectl, tmp_path: Path
) -> None:
    """And what turns away is there before, and gone once the Router names no classes any more."""
    api, namespace = fleet.cluster.api, fleet.cluster.namespace
    gateway = {"parentRefs": [{"name": "one"}], "metrics": proxy.figures}
    router = {"type": "Gateway", "customerData": "Shared", "gateway": gateway}
    await fleet.put(Router, "shop", {**router, "shedding": CLASSES})
    features = f"{FEATURES},features.gatewayShedding=true,features.routerFailover=true"
    async with operating(fleet, kubeconfig, kubectl, tmp_path, features):
        await serves(fleet, proxy)

        async def able() -> bool:
            return (await fleet.get(Router, "shop")).status.capabilities == ["Shedding", "CircuitBreakers"]

        await eventually(able, "it can shed", deadline=60)
        loads = {path: Load((proxy.port,), clients=4, pause=0.01, within=120, path=path) for path in ("/export", "/")}
        async with loads["/export"] as bulk, loads["/"] as other:
            await asyncio.sleep(2)
            ends = time.time() + 10
            entry = {
                "class": "bulk",
                "percent": 50,
                "expiresAt": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ends)),
                "holder": {"kind": "Person", "name": "test"},
            }
            await api.merge_patch(OWN[Placement].path(namespace, "shop"), {"spec": {"shedding": [entry]}})
            begun = time.monotonic()
            await eventually(
                lambda: bulk.cells_since(begun)["shed"] > 50, "some of it is shed", deadline=ends - time.time()
            )
            await asyncio.sleep(max(0.0, ends - time.time()) + 6)
            lifted = time.monotonic()
            await asyncio.sleep(3)
        assert bulk.cells_since(lifted)["shed"] == 0, "the operator ends it"
        assert bulk.errors == other.errors == []
        assert set(other.statuses) == {200}
        assert {who for _, _, status, who in bulk.answers if status != 200} == {"shed"}
        await api.merge_patch(OWN[Router].path(namespace, "shop"), {"spec": {"shedding": None}})

        async def gone() -> bool:
            listing = await api.list(DEPLOYMENTS.collection(namespace), fields="metadata.name=shop-turn-away")
            return not listing.items

        await eventually(gone, "it goes with the classes", deadline=30)
        assert len((await fleet.cluster.route())["spec"]["rules"]) == 1


@contextlib.asynccontextmanager
async def operating(
    fleet: Fleet, kubeconfig: Path, kubectl: Kubectl, folder: Path, features: str = FEATURES
) -> AsyncIterator[None]:
    namespace, router_image = fleet.cluster.namespace, image_of(kubectl, "recell/router")
    try:
        async with OperatorProcess.of(
            kubeconfig, kubectl, namespace, program("helm"), folder, features=features, router_image=router_image
        ) as operator:
            try:
                yield
            except AssertionError:
                print(operator.words[-20_000:])
                raise
    finally:
        await fleet.end()


async def serves(fleet: Fleet, proxy: Traefik | Envoy) -> None:
    await eventually(fleet.healthy, "every cell is Healthy", deadline=180)
    await eventually(fleet.programmed, "the route is in force")

    async def obeyed() -> bool:
        return (await ask(proxy.port)).status == 200

    await eventually(obeyed, "the implementation routes as it has accepted to")


async def _restart(fleet: Fleet, proxy: Traefik | Envoy, verification: str) -> None:
    cluster = fleet.cluster
    await serves(fleet, proxy)
    router = await fleet.get(Router, "shop")
    assert (router.status.verification, router.status.capabilities) == (verification, [])
    seen: list[int] = []
    watching = asyncio.create_task(fleet.limits(seen))
    load = Load((proxy.port,), clients=6, pause=0.02, limit=60_000, within=240)
    async with load:
        await asyncio.sleep(8)
        run = await fleet.run("CellRestart")
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert run.phase == "Succeeded", run.status.to_dict()
    assert seen == [100, 83, 67, 50, 67, 83, 100]
    deployment = await cluster.api.get(DEPLOYMENTS.path(cluster.namespace, "b-web"))
    assert ANNOTATION_RESTART in deployment["spec"]["template"]["metadata"]["annotations"]
    assert not load.errors
    assert {status for _, _, status, _ in load.answers} == {200}
    drained = next(step for step in run.status.steps if step.name == "drain-traffic")
    assert ("this router counts no traffic" in drained.message) is (verification == "Resolved"), drained.message
    # Beside the loop, in which the cells answer the operator's probes.
    told = await asyncio.to_thread(recell, cluster, "status")
    assert "Ready, 3 of 3 cells healthy" in " ".join(told.split())
    shown = json.loads(await asyncio.to_thread(recell, cluster, "where", "anybody", "-o", "json"))
    assert set(shown["routers"][0]["anywhere"]) == set(CELLS)
