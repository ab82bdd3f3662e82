"""Two real clusters on one machine: the operator, the Router and a cell in one, another cell's workloads in the other.

The other cluster knows the operator by a ServiceAccount with the rights of manifests/remote-cluster.yaml, no more.
"""

import base64
import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hack.stage import ROOT, SHOP, SYSTEM, Stage
from tests.unit.delivery.programs import program

HERE, THERE = "recell-r1", "recell-r2"
OPERATOR = "recell/operator:0.1.0"
"""Its Python serves the cells' customers too."""
ROUTER = "recell/router:0.1.0"
SECRET = "cluster-b"
FAR = "cell-b"

WEB = """
import http.server

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("", 8080), Answer).serve_forever()
"""


def web(cell: str) -> list[dict[str, Any]]:
    """A cell's Deployment of two pods that lose no request when they are rolled, and its Service."""
    labels = {"app": cell}
    container = {
        "name": "web",
        "image": OPERATOR,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c", WEB],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1},
        "lifecycle": {"preStop": {"sleep": {"seconds": 3}}},
    }
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 5}}
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": f"{cell}-web", "namespace": SHOP},
            "spec": {"replicas": 2, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": cell, "namespace": SHOP},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
    ]


def recell(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": SHOP}
    return {"apiVersion": "recell.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def cell(name: str, backend: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return recell(
        "Cell",
        name,
        routerRef={"name": "shop"},
        backend=backend,
        workloads=[{"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-web"}],
        capacity={"requestsPerSecond": 500},
        health={"probe": {"path": "/", "interval": "1s"}},
        **spec,
    )


POLICY = recell(
    "RecoveryPolicy",
    "default",
    mode="Automatic",
    detection={
        "failedAfter": "3s",
        "healthyAfter": "5s",
        "window": "6s",
        "minimumRequests": 10,
        "latency": "5s",
        "withoutIntegrityChecks": "Intact",
    },
    limits={"cooldown": "0s", "maxAttempts": 100},
    steps={"drainIncrements": 3, "incrementInterval": "2s", "stabilityDuration": "6s"},
)


@dataclass
class Load:
    """What customers saw."""

    requests: int = 0
    failures: list[str] = field(default_factory=list)


class Clusters:
    def __init__(self, say: Callable[[str], None]) -> None:
        self.here, self.there = Stage(HERE, say), Stage(THERE, say)

    def up(self) -> None:
        for stage in (self.here, self.there):
            stage.up()
            stage.hack_cluster(
                "build-image", "--tag", OPERATOR, "--file", str(ROOT / "Dockerfile"), "--context", str(ROOT)
            )
        router = ROOT / "router"
        self.here.hack_cluster(
            "build-image", "--tag", ROUTER, "--file", str(router / "Dockerfile"), "--context", str(router)
        )
        self.here.install_operator()
        self._grant_secret()

    def down(self) -> None:
        for stage in (self.here, self.there):
            stage.hack_cluster("down")

    def _grant_secret(self) -> None:
        """What the chart adds with features.remoteClusters."""
        values = {"features": {"remoteClusters": True}, "remoteClusters": {"secrets": [SECRET]}}
        command = [program("helm"), "template", "recell", str(ROOT / "helm/recell"), "-n", SYSTEM, "--values", "-"]
        rendered = subprocess.run(
            [*command, "--show-only", "templates/rbac.yaml"],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
        self.here.apply(rendered.stdout)

    def open(self) -> None:
        self.there.kubectl("apply", "-f", str(ROOT / "manifests" / "remote-cluster.yaml"))
        self.there.apply(yaml.safe_dump_all(web(FAR)))
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHOP}}
        key = {"type": "Header", "name": "x-customer-id"}
        router = recell(
            "Router", "shop", type="HAProxy", customerData="Shared", haproxy={"customerKey": key, "replicas": 1}
        )
        self.here.apply(yaml.safe_dump_all([namespace, *web("cell-a")]))
        for stage, name in ((self.here, "cell-a"), (self.there, FAR)):
            stage.kubectl("-n", SHOP, "rollout", "status", f"deployment/{name}-web", "--timeout=120s", within=150)
        self.give_credentials()
        near = {"type": "Service", "service": {"name": "cell-a", "port": 80}}
        far = {"type": "Address", "address": {"host": self.address_there(), "port": 80}}
        cluster = {"kubeconfigSecretRef": {"name": SECRET}}
        cells = [cell("cell-a", near), cell(FAR, far, cluster=cluster)]
        self.here.apply(yaml.safe_dump_all([POLICY, *cells, router]))
        self.here.eventually("both cells are Healthy", self.all_healthy, within=180)
        self.here.eventually(
            "the Router is Ready", lambda: self.here.condition("router", "shop", "Ready") == "True", within=120
        )

    # Looking

    def address_there(self) -> str:
        found = self.there.kubectl("-n", SHOP, "get", "service", FAR, "-o", "jsonpath={.spec.clusterIP}")
        return found.strip()

    def all_healthy(self) -> bool:
        return all(self.here.phase(name) == "Healthy" for name in ("cell-a", FAR))

    def condition(self, name: str = FAR) -> tuple[str, str, str]:
        """ClusterReachable."""
        conditions = (self.here.get("cell", name).get("status") or {}).get("conditions") or []
        found = next((c for c in conditions if c["type"] == "ClusterReachable"), {})
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def deployment(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.there.kubectl("-n", SHOP, "get", "deployment", f"{FAR}-web", "-o", "json")
        )
        return found

    def operator_pods(self) -> list[dict[str, Any]]:
        return [p for p in self.here.all("pods", SYSTEM) if not p["metadata"].get("deletionTimestamp")]

    def logs(self) -> str:
        names = [pod["metadata"]["name"] for pod in self.operator_pods()]
        return "".join(self.here.kubectl("-n", SYSTEM, "logs", name) for name in names)

    # Acting

    def new_account(self) -> None:
        """Every token of the old one is refused from now on."""
        self.there.kubectl("-n", SHOP, "delete", "serviceaccount", "recell")
        self.there.kubectl("-n", SHOP, "create", "serviceaccount", "recell")

    def give_credentials(self) -> str:
        """A new token of the account there, in the Secret here."""
        token = self.there.kubectl("-n", SHOP, "create", "token", "recell", "--duration=1h").strip()
        admin = yaml.safe_load(Path(self.there.kubeconfig).read_text())
        self.put_secret(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "there",
                "contexts": [{"name": "there", "context": {"cluster": "there", "user": "recell"}}],
                "clusters": [{"name": "there", "cluster": admin["clusters"][0]["cluster"]}],
                "users": [{"name": "recell", "user": {"token": token}}],
            }
        )
        return token

    def put_secret(self, kubeconfig: dict[str, Any]) -> None:
        held = base64.b64encode(yaml.safe_dump(kubeconfig).encode()).decode()
        metadata = {"name": SECRET, "namespace": SHOP}
        self.here.apply(
            json.dumps({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": {"kubeconfig": held}})
        )

    @contextmanager
    def load(self, *, rate: float = 40.0) -> Iterator[Load]:
        """Customers of the Router, from the machine, until the context ends."""
        address = self.here.kubectl(
            "-n", SHOP, "get", "service", "shop", "-o", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}"
        )
        load, ended = Load(), threading.Event()

        def ask() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                request = urllib.request.Request(
                    f"http://{address.strip()}/", headers={"x-customer-id": f"c-{number % 300}"}
                )
                try:
                    with urllib.request.urlopen(request, timeout=10) as answer:
                        answer.read()
                except (urllib.error.URLError, OSError) as error:
                    load.failures.append(f"{time.strftime('%H:%M:%S')} {error}")
                load.requests += 1
                time.sleep(4 / rate)

        askers = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
        for asker in askers:
            asker.start()
        try:
            yield load
        finally:
            ended.set()
            for asker in askers:
                asker.join(timeout=15)
