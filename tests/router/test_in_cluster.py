"""A Router's objects on a real cluster, under PodSecurity `restricted`: served, switched, rolled, removed.

Its Placement is made by hand, and applied as the operator writes it. The image is built as users build it.
"""

import asyncio
import json
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from recell.api import Cell, Placement, Router
from recell.api.meta import LABEL_ROUTER
from recell.api.placement import REJECT, encode_table
from recell.providers.access import RouterAccess
from recell.providers.kube.api import Api
from recell.providers.kube.paths import PLACEMENTS
from recell.providers.routing.dns.resolving import NameServers
from recell.providers.routing.haproxy.objects import Surroundings, name_of, router_objects, selector
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from recell.runtime.clock import SystemClock
from tests.router.rig import Load, ask, placement, spread
from tests.router.rig.load import slot_of

ROOT = Path(__file__).parents[2]
IMAGE = "recell/router:0.1.0"
NAMESPACE = "router-test"
KEY = (NAMESPACE, "shop")
CELL = """
import http.server, os
class Cell(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-Cell", os.environ["CELL"])
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(("", 8080), Cell).serve_forever()
"""
ROUTER = {
    "apiVersion": "recell.dev/v1alpha1",
    "kind": "Router",
    "metadata": {"name": "shop", "namespace": NAMESPACE},
    "spec": {
        "type": "HAProxy",
        "customerData": "Shared",
        "haproxy": {"customerKey": {"type": "Header", "name": "x-customer-id"}, "replicas": 2},
    },
}

Kubectl = Callable[..., str]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module")
def kubectl(kubeconfig: Path) -> Kubectl:
    def run(*arguments: str, stdin: object = None, within: float = 300) -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            input=json.dumps(stdin) if stdin is not None else None,
            capture_output=True,
            text=True,
            timeout=within,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


def apply(kubectl: Kubectl, obj: dict[str, Any]) -> None:
    kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=recell", "-f", "-", stdin=obj)


def cell_pod(name: str) -> dict[str, Any]:
    confined = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "cell",
        "image": IMAGE,
        "command": ["python3", "-c", CELL],
        "env": [{"name": "CELL", "value": name}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "securityContext": confined,
    }
    user = {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"terminationGracePeriodSeconds": 1, "securityContext": user, "containers": [container]},
    }


class Installed:
    """The router in the cluster, its cells, and the stream of figures from its pods."""

    def __init__(self, kubectl: Kubectl, router: Router, cells: dict[str, tuple[int, str, int]]) -> None:
        self.kubectl = kubectl
        self.router = router
        self.cells = cells
        self.changed = asyncio.Event()
        self.traffic = HAProxyTraffic(self, on_change=lambda key: self.changed.set())
        self.uid = ""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    def pods(self) -> dict[str, tuple[str, bool]]:
        """Name -> IP, ready and not leaving."""
        labels = ",".join(f"{k}={v}" for k, v in selector("shop").items())
        listed = json.loads(self.kubectl("-n", NAMESPACE, "get", "pods", "-l", labels, "-o", "json"))["items"]
        found = {}
        for pod in listed:
            ready = any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
            if ip := pod["status"].get("podIP"):
                found[pod["metadata"]["name"]] = (ip, ready and not pod["metadata"].get("deletionTimestamp"))
        return found

    def write(self, table: list[int], *, epoch: int = 1) -> int:
        """Create or change the Placement; returns its generation."""
        obj = placement(self.cells, table, generation=0, epoch=epoch)
        obj["metadata"] = {"name": "shop", "namespace": NAMESPACE}
        apply(self.kubectl, obj)
        made = json.loads(self.kubectl("-n", NAMESPACE, "get", "placement", "shop", "-o", "json"))
        self.uid = made["metadata"]["uid"]
        self.traffic.set_placement(KEY, Placement.model_validate(made))
        return int(made["metadata"]["generation"])

    async def applied(self, generation: int, *, epoch: int = 1, within: float = 180) -> None:
        async with asyncio.timeout(within):
            while not (
                (seen := self.traffic.applied(KEY)) and seen.pods == 2 and seen.covers(self.uid, epoch, generation)
            ):
                self.traffic.set_pods(KEY, self.pods())
                await asyncio.sleep(0.2)


@pytest.fixture(scope="module")
def namespace(kubectl: Kubectl) -> Iterator[str]:
    if "RECELL_TEST_KUBECONFIG" not in os.environ:
        cluster = os.environ.get("RECELL_TEST_CLUSTER", "recell-test")
        command = ["--name", cluster, "--tag", IMAGE, "--file", "router/Dockerfile", "--context", "router"]
        subprocess.run([str(ROOT / "hack" / "cluster"), "build-image", *command], cwd=ROOT, timeout=1200, check=True)
    kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    named = ("crd/routers.recell.dev", "crd/placements.recell.dev")
    kubectl("wait", "--for=condition=Established", *named, "--timeout=120s")
    enforced = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn")}
    kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", within=240)
    apply(kubectl, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforced}})
    yield NAMESPACE
    kubectl("-n", NAMESPACE, "delete", "router,placement", "--all", "--ignore-not-found")
    kubectl("delete", "namespace", NAMESPACE, within=240)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installed(kubectl: Kubectl, namespace: str) -> AsyncIterator[Installed]:
    names = ("cell-a", "cell-b")
    for name in names:
        apply(kubectl, cell_pod(name))
    apply(kubectl, ROUTER)
    router = Router.model_validate(json.loads(kubectl("-n", namespace, "get", "router", "shop", "-o", "json")))
    for obj in router_objects(router, Surroundings(IMAGE, "default")):
        apply(kubectl, obj)
    cells = {}
    for index, name in enumerate(names):
        kubectl("-n", namespace, "wait", "--for=condition=Ready", f"pod/{name}", "--timeout=240s")
        ip = kubectl("-n", namespace, "get", "pod", name, "-o", "jsonpath={.status.podIP}")
        cells[name] = (index, ip, 8080)
    made = Installed(kubectl, router, cells)
    try:
        yield made
    finally:
        await made.traffic.stop()


OPEN = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "open-to-this-test", "namespace": NAMESPACE},
    "spec": {
        "podSelector": {"matchLabels": selector("shop")},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"protocol": "TCP", "port": 8405}]}],
    },
}
"""This process is no pod of the operator, and is kept out without it."""


async def reaches(ip: str, port: int) -> bool:
    try:
        async with asyncio.timeout(3):
            _, writer = await asyncio.open_connection(ip, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def test_only_the_operator_gets_at_the_agents_and_haproxys_ports(installed: Installed) -> None:
    await eventually(lambda: len(installed.pods()) == 2)
    for ip, _ in installed.pods().values():
        await _eventually_reached(ip, 8080)
        assert not await reaches(ip, 8404)
        assert not await reaches(ip, 8405)
    apply(installed.kubectl, OPEN)
    for ip, _ in installed.pods().values():
        await _eventually_reached(ip, 8405)
        assert not await reaches(ip, 8404)


async def _eventually_reached(ip: str, port: int) -> None:
    deadline = time.monotonic() + 180
    while not await reaches(ip, port):
        assert time.monotonic() < deadline, f"{ip}:{port} is closed"


async def test_pods_are_ready_only_once_there_is_a_placement(installed: Installed) -> None:
    kubectl = installed.kubectl
    deployment = f"deployment/{name_of('shop')}"
    await eventually(lambda: len(installed.pods()) == 2)
    running = '{.items[*].status.containerStatuses[?(@.name=="haproxy")].started}'
    await eventually(
        lambda: (
            kubectl("-n", NAMESPACE, "get", "pods", "-l", f"{LABEL_ROUTER}=shop", "-o", f"jsonpath={running}")
            == "true true"
        )
    )
    assert not any(ready for _, ready in installed.pods().values())
    generation = installed.write(spread(1024, 0, 1))
    kubectl("-n", NAMESPACE, "rollout", "status", deployment, "--timeout=240s")
    await installed.applied(generation)
    for ip, _ in installed.pods().values():
        for customer in (b"alice", b"bob", b"carol"):
            answer = await ask(8080, ("x-customer-id", customer), address=ip)
            assert answer.cell == ("cell-a", "cell-b")[slot_of(customer, 1024) % 2]
            assert answer.headers["x-router"] in installed.pods()


async def test_the_customers_way_in_is_tried_slot_by_slot(
    installed: Installed, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invented customer lands where HAProxy's own hash puts it: one slot is rejected, and only that."""
    monkeypatch.setattr("recell.providers.access.TIMEOUT", 60.0)
    backend = {"type": "Service", "service": {"name": "cell-a", "port": 80}}
    spec = {"routerRef": {"name": "shop"}, "backend": backend, "health": {"probe": {"path": "/deep/healthz"}}}
    cell = Cell.model_validate({"metadata": {"name": "cell-a", "namespace": NAMESPACE}, "spec": spec})
    table = spread(1024, 0, 1)
    table[700] = REJECT
    await installed.applied(installed.write(table))
    api = await Api.connect(str(kubeconfig))
    access = RouterAccess(api, clock := SystemClock(), NameServers(clock))
    try:
        for slot in (0, 1, 699, 701, 1023):
            tried = await access.try_slot(installed.router, cell, slot)
            assert tried.ok, tried.message
        rejected = await access.try_slot(installed.router, cell, 700)
        assert (rejected.ok, "status 503 in " in rejected.message) == (False, True)
    finally:
        await api.close()


async def test_every_change_is_told_by_every_pod(installed: Installed, kubeconfig: Path) -> None:
    """Prints how long it takes from the PATCH to the report of the last pod, through three processes and back."""
    api = await Api.connect(str(kubeconfig))
    took = []
    for turn in range(40):
        table = encode_table(spread(1024, turn % 2))
        begin = time.monotonic()
        made = await api.merge_patch(PLACEMENTS.path(*KEY), {"spec": {"serving": table, "homes": table}})
        generation = made["metadata"]["generation"]
        async with asyncio.timeout(120):
            while not ((seen := installed.traffic.applied(KEY)) and seen.covers(installed.uid, 1, generation)):
                installed.changed.clear()
                await installed.changed.wait()
        took.append(time.monotonic() - begin)
    await api.close()
    took.sort()
    print(f"PATCH -> told by both pods: median {took[20] * 1000:.0f} ms, worst of 40 {took[-1] * 1000:.0f} ms")


async def test_the_agent_may_read_its_own_placement_and_nothing_else(installed: Installed) -> None:
    who = f"--as=system:serviceaccount:{NAMESPACE}:{name_of('shop')}"
    assert_can = installed.kubectl("auth", "can-i", "watch", "placements.recell.dev/shop", who, "-n", NAMESPACE)
    assert assert_can.strip() == "yes"
    for verb, what in (
        ("get", "placements.recell.dev/other"),
        ("update", "placements.recell.dev/shop"),
        ("get", "routers.recell.dev/shop"),
        ("get", "secrets"),
        ("list", "pods"),
    ):
        with pytest.raises(AssertionError):
            installed.kubectl("auth", "can-i", verb, what, who, "-n", NAMESPACE)


async def test_a_rollout_of_the_router_loses_no_request(installed: Installed) -> None:
    generation = await asyncio.to_thread(installed.write, spread(1024, 0, 1))
    await installed.applied(generation)
    service = installed.kubectl("-n", NAMESPACE, "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}")
    deployment = f"deployment/{name_of('shop')}"
    async with Load((80,), clients=4, pause=0.02, address=service) as load:
        await eventually(lambda: len(load.answers) > 100)
        await asyncio.to_thread(installed.kubectl, "-n", NAMESPACE, "rollout", "restart", deployment)
        command = ("-n", NAMESPACE, "rollout", "status", deployment, "--timeout=240s")
        await asyncio.to_thread(installed.kubectl, *command)
        await asyncio.sleep(4)
    assert load.errors == []
    assert set(load.statuses) == {200}
    assert len(installed.pods()) >= 2


async def test_an_haproxy_that_ends_is_started_again_with_the_last_table(installed: Installed) -> None:
    """In a container of its own each process has number 1: a new one must be told from the old all the same."""
    generation = await asyncio.to_thread(installed.write, spread(1024, 1))
    await installed.applied(generation)
    name, ip = next((name, ip) for name, (ip, ready) in sorted(installed.pods().items()) if ready)
    end = "import os, signal; os.kill(1, signal.SIGUSR1)"
    installed.kubectl("-n", NAMESPACE, "exec", name, "-c", "haproxy", "--", "python3", "-c", end)
    restarts = "jsonpath={.status.containerStatuses[?(@.name=='haproxy')].restartCount}"
    await eventually(lambda: installed.kubectl("-n", NAMESPACE, "get", "pod", name, "-o", restarts) == "1")
    await eventually(lambda: installed.pods()[name][1])
    installed.traffic.set_pods(KEY, installed.pods())
    await installed.applied(generation)
    assert (await ask(8080, ("x-customer-id", b"alice"), address=ip)).cell == "cell-b"
    generation = await asyncio.to_thread(installed.write, spread(1024, 0))
    await installed.applied(generation)
    assert (await ask(8080, ("x-customer-id", b"alice"), address=ip)).cell == "cell-a"


async def test_applying_the_same_objects_again_changes_nothing(installed: Installed) -> None:
    def versions() -> str:
        kinds = "deployment,service,serviceaccount,role,rolebinding,poddisruptionbudget,networkpolicy"
        shown = "jsonpath={range .items[*]}{.kind} {.metadata.name} {.metadata.generation} {.metadata.uid}{'\\n'}{end}"
        return installed.kubectl("-n", NAMESPACE, "get", kinds, "-l", f"{LABEL_ROUTER}=shop", "-o", shown)

    before = versions()
    assert before.count("\n") == 7
    for obj in router_objects(installed.router, Surroundings(IMAGE, "default")):
        live = installed.kubectl("-n", NAMESPACE, "get", obj["kind"], obj["metadata"]["name"], "-o", "json")
        annotations = json.loads(live)["metadata"]["annotations"]
        assert annotations["recell.dev/content"] == obj["metadata"]["annotations"]["recell.dev/content"]
        apply(installed.kubectl, {**obj, "metadata": {**obj["metadata"]}})
    assert versions() == before


async def test_a_deleted_placement_leaves_the_pods_serving(installed: Installed) -> None:
    generation = await asyncio.to_thread(installed.write, spread(1024, 1))
    await installed.applied(generation)
    await asyncio.to_thread(installed.kubectl, "-n", NAMESPACE, "delete", "placement", "shop")
    await eventually(lambda: "keeps the last table" in installed.traffic.complaint(KEY))
    for ip, _ in installed.pods().values():
        assert (await ask(8080, ("x-customer-id", b"alice"), address=ip)).cell == "cell-b"
    # Made again, it is a stranger until its epoch says that a leader stands behind it.
    await asyncio.to_thread(installed.write, spread(1024, 0))
    await eventually(lambda: "another object" in installed.traffic.complaint(KEY))
    generation = await asyncio.to_thread(installed.write, spread(1024, 0), epoch=2)
    await installed.applied(generation, epoch=2)
    for ip, _ in installed.pods().values():
        assert (await ask(8080, ("x-customer-id", b"alice"), address=ip)).cell == "cell-a"


async def test_deleting_the_router_takes_its_objects_and_leaves_the_placement(installed: Installed) -> None:
    await asyncio.to_thread(installed.kubectl, "-n", NAMESPACE, "delete", "router", "shop")
    await eventually(lambda: installed.pods() == {})
    kinds = "deployment,service,role,rolebinding,serviceaccount,networkpolicy,poddisruptionbudget"
    labelled = ("-n", NAMESPACE, "get", kinds, "-l", f"{LABEL_ROUTER}=shop", "-o", "name")
    await eventually(lambda: installed.kubectl(*labelled) == "")
    assert "shop" in installed.kubectl("-n", NAMESPACE, "get", "placements", "-o", "name")


async def eventually(condition: Callable[[], Any], within: float = 180.0) -> None:
    """As the rig's, for conditions that ask the cluster: they run beside the loop, a few times a second."""
    ends = time.monotonic() + within
    while True:
        last_look = time.monotonic() >= ends
        if await asyncio.to_thread(condition):
            return
        assert not last_look, f"did not happen within {within} s"
        await asyncio.sleep(0.2)
