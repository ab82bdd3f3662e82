"""Isolation on a cluster that enforces NetworkPolicies: who reaches whom before, while and after it is in force."""

import asyncio
import json
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from recell.api import Cell
from recell.api.failure import Verdict
from recell.domain.data import Isolated
from recell.providers.kube.api import Api, Object
from recell.providers.kube.consent import Consent
from recell.providers.kube.isolation import KubeIsolation
from recell.providers.kube.paths import NETWORK_POLICIES
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import ROOT, Kubectl
from tests.conftest import CLUSTER
from tests.fakes.eventually import eventually

IMAGE = "recell/router:0.1.0"
"""It has Python in it, and is small."""
PORT = 8080
LISTEN = f"""
import socketserver
class Greeting(socketserver.BaseRequestHandler):
    def handle(self): self.request.sendall(b"hello")
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(("", {PORT}), Greeting).serve_forever()
"""
CONNECT = f"""
import socket, sys
try:
    with socket.create_connection((sys.argv[1], {PORT}), 3) as made: print(made.recv(5).decode())
except OSError as error: print(type(error).__name__)
"""
RESOLVE = "import socket; print(socket.gethostbyname('kubernetes.default.svc'))"


def listening(labels: dict[str, str]) -> Object:
    container = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", LISTEN],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }
    return {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}


def workload(kind: str, name: str, replicas: int) -> Object:
    labels = {"app": name}
    spec: Object = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": listening(labels)}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def pod(name: str, labels: dict[str, str]) -> Object:
    made = listening(labels)
    made["metadata"]["name"] = name
    return {"apiVersion": "v1", "kind": "Pod"} | made


class Stage:
    """A cell with a web and a database of two, a data job's pod, and a stranger; all listen on `PORT`."""

    def __init__(self, kubectl: Kubectl, namespace: str) -> None:
        self._kubectl, self.namespace = kubectl, namespace
        self.addresses: dict[str, str] = {}
        self.cell = Cell.model_validate(
            {
                "metadata": {"name": "a", "namespace": namespace, "uid": "a"},
                "spec": {
                    "routerRef": {"name": "shop"},
                    "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
                    "workloads": [
                        {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
                        {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"},
                    ],
                },
            }
        )

    def kubectl(self, *arguments: str, stdin: object = None) -> str:
        text = json.dumps(stdin) if stdin is not None else None
        return self._kubectl("-n", self.namespace, *arguments, stdin=text)

    def open(self) -> None:
        items = [
            workload("Deployment", "web", 1),
            workload("StatefulSet", "db", 2),
            pod("job", {"recell.dev/data-job": "true"}),
            pod("stranger", {"app": "stranger"}),
        ]
        self.kubectl("create", "-f", "-", stdin={"apiVersion": "v1", "kind": "List", "items": items})
        self.kubectl("rollout", "status", "deployment/web", "--timeout=150s")
        self.kubectl("rollout", "status", "statefulset/db", "--timeout=150s")
        self.kubectl("wait", "--for=condition=Ready", "pod/job", "pod/stranger", "--timeout=150s")
        for found in json.loads(self.kubectl("get", "pods", "-o", "json"))["items"]:
            labels = found["metadata"].get("labels") or {}
            name = "web" if labels.get("app") == "web" else found["metadata"]["name"]
            self.addresses[name] = found["status"]["podIP"]

    def inside(self, who: str, program: str, *arguments: str) -> str:
        where = "deployment/web" if who == "web" else who
        return self.kubectl("exec", where, "--", "python3", "-c", program, *arguments).strip()

    async def reaches(self, who: str, whom: str) -> bool:
        told = await asyncio.to_thread(self.inside, who, CONNECT, self.addresses[whom])
        return told == "hello"

    async def all_reach(self, *pairs: tuple[str, str]) -> set[tuple[str, str]]:
        """Those that reach."""
        answers = await asyncio.gather(*(self.reaches(*pair) for pair in pairs))
        return {pair for pair, answered in zip(pairs, answers, strict=True) if answered}


@pytest.fixture(scope="module")
def stage(kubectl: Kubectl, namespace: str) -> Iterator[Stage]:
    if "RECELL_TEST_KUBECONFIG" not in os.environ:
        arguments = ["--name", CLUSTER, "--tag", IMAGE, "--file", "router/Dockerfile", "--context", "router"]
        subprocess.run([ROOT / "hack" / "cluster", "build-image", *arguments], cwd=ROOT, timeout=1200, check=True)
    made = Stage(kubectl, namespace)
    made.open()
    yield made
    made.kubectl("delete", "deployment,statefulset,pod", "--all", "--wait=false")


@pytest.fixture
async def isolation(kubeconfig: Path, stage: Stage) -> AsyncIterator[KubeIsolation]:
    api = await Api.connect(str(kubeconfig))
    consent = Consent(api, SystemClock(), (stage.namespace,), on_change=lambda key: None)
    made = KubeIsolation(api, consent, doubt=lambda: "")
    yield made
    await made.lift(stage.cell)
    stage.kubectl("delete", "networkpolicy", "--all")
    await api.close()


KEPT = {("job", "web"), ("job", "db-0"), ("db-0", "db-1"), ("db-1", "db-0"), ("db-0", "job"), ("web", "job")}
CUT = {
    ("stranger", "web"),
    ("stranger", "db-0"),
    ("web", "db-0"),
    ("db-0", "web"),
    ("db-0", "stranger"),
    ("web", "stranger"),
}


async def test_only_data_jobs_and_a_workloads_own_pods_get_through(stage: Stage, isolation: KubeIsolation) -> None:
    every = tuple(KEPT | CUT)
    await eventually(lambda: everybody(stage, every), "everybody gets through")
    before = await isolation.tried(stage.cell)
    assert (before.verdict, "is not there" in before.message) == (Verdict.FAILED, True)

    await isolation.isolate(stage.cell)
    first = versions(stage)
    await isolation.isolate(stage.cell)
    assert versions(stage) == first
    passed = await eventually(lambda: tried(isolation, stage, Verdict.PASSED), "nothing can be connected to")
    assert f"port {PORT}" in passed.message
    assert await stage.all_reach(*every) <= KEPT
    await eventually(lambda: everybody(stage, tuple(KEPT)), "and they get through as before")
    assert stage.inside("db-0", RESOLVE), "replicas find each other by name"

    await isolation.lift(stage.cell)
    await isolation.lift(stage.cell)
    await eventually(lambda: everybody(stage, every), "everybody gets through again")
    assert versions(stage) == {}


async def test_what_somebody_else_opens_is_found(stage: Stage, isolation: KubeIsolation) -> None:
    await isolation.isolate(stage.cell)
    await eventually(lambda: tried(isolation, stage, Verdict.PASSED), "nothing can be connected to")
    stage.kubectl("create", "-f", "-", stdin=opening({"podSelector": {"matchLabels": {"app": "stranger"}}}))
    await eventually(lambda: stage.reaches("stranger", "db-0"), "policies add up")
    opened = await isolation.tried(stage.cell)
    assert opened.verdict is Verdict.FAILED, "although this process is no stranger, and gets no connection"
    assert f"NetworkPolicy theirs of namespace {stage.namespace}" in opened.message
    stage.kubectl("replace", "-f", "-", stdin=opening({"ipBlock": {"cidr": "0.0.0.0/0"}}))
    await eventually(lambda: connected(isolation, stage), "and from here")


def opening(who: Object) -> Object:
    """Somebody else's policy that lets these reach the database."""
    return {
        "apiVersion": NETWORK_POLICIES.api_version,
        "kind": "NetworkPolicy",
        "metadata": {"name": "theirs"},
        "spec": {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": [{"from": [who]}]},
    }


def versions(stage: Stage) -> dict[str, str]:
    items = json.loads(stage.kubectl("get", "networkpolicies", "-o", "json"))["items"]
    return {item["metadata"]["name"]: item["metadata"]["resourceVersion"] for item in items}


async def tried(isolation: KubeIsolation, stage: Stage, wanted: Verdict) -> Isolated | None:
    seen = await isolation.tried(stage.cell)
    return seen if seen.verdict is wanted else None


async def connected(isolation: KubeIsolation, stage: Stage) -> bool:
    return (await isolation.tried(stage.cell)).message.startswith("connected to pod db-")


async def everybody(stage: Stage, pairs: tuple[tuple[str, str], ...]) -> bool:
    return await stage.all_reach(*pairs) == set(pairs)
