"""The stage for demos and end-to-end tests: cluster, images, operator, the example shop, and load on it.

Promises: every function may be repeated; each waits with a deadline and says what it waited for. It uses
the same means as a user: hack/cluster, kubectl, the manifests of this tree.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from kubernetes import client, config
from urllib3.exceptions import HTTPError

from recell.providers.kube.paths import DEPLOYMENTS, DNS_ENDPOINTS, HTTP_ROUTES, LEASES, OWN, PODS, SERVICES

ROOT = Path(__file__).resolve().parents[1]
SYSTEM = "recell-system"
SHOP = "shop"
CELLS = ("cell-a", "cell-b", "cell-c")
IMAGES = {
    "recell/operator:0.1.0": ("Dockerfile", "."),
    "recell/router:0.1.0": ("router/Dockerfile", "router"),
    "recell/shop-web:dev": ("examples/shop/Dockerfile", "examples/shop"),
    "recell/shop-load:dev": ("examples/shop/Dockerfile", "examples/shop"),
    "recell/shop-postgres:dev": ("examples/shop/postgres/Dockerfile", "examples/shop/postgres"),
    "recell/shop-archive:dev": ("examples/shop/archive/Dockerfile", "examples/shop/archive"),
}

BEARS = 60
"""Requests per second of each cell where they are scarce: of 150, four bear their part easily, two do not."""
SHEDDING = {
    "classes": [
        {"name": "order", "priority": 500, "sheddable": False, "matches": [{"methods": ["POST"]}]},
        {"name": "history", "priority": 10, "matches": [{"pathPrefix": "/orders", "methods": ["GET"]}]},
    ],
    "defaultPriority": 100,
    "defaultSheddable": True,
}

READ = {
    name: resource
    for resource in (*OWN.values(), PODS, LEASES, DEPLOYMENTS, SERVICES, HTTP_ROUTES, DNS_ENDPOINTS)
    for name in (resource.plural, resource.kind.lower())
}

Object = dict[str, Any]


class StageError(RuntimeError):
    """A command failed or a wait ran out; the message has the command's own words."""


class Stage:
    """One cluster with Recell and the shop on it."""

    def __init__(self, cluster: str = "recell", say: Callable[[str], None] = lambda _: None) -> None:
        self.cluster = cluster
        self._say = say
        self._kubeconfig: str | None = os.environ.get("RECELL_TEST_KUBECONFIG")
        self._client: client.ApiClient | None = None

    # --- commands --------------------------------------------------------------------------------

    def hack_cluster(self, *arguments: str, within: float = 1200, show: bool = False) -> str:
        command = [sys.executable, str(ROOT / "hack" / "cluster"), arguments[0], "--name", self.cluster, *arguments[1:]]
        return _run(command, within=within, show=show)

    @property
    def kubeconfig(self) -> str:
        if self._kubeconfig is None:
            self._kubeconfig = self.hack_cluster("kubeconfig").strip()
        return self._kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, within: float = 120) -> str:
        return _run(["kubectl", "--kubeconfig", self.kubeconfig, *arguments], stdin=stdin, within=within)

    def _await(self, *arguments: str) -> None:
        """A command of kubectl that waits itself, for as long as a busy machine may need."""
        self.kubectl(*arguments, "--timeout=400s", within=420)

    def recell(self, *arguments: str, within: float = 600, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The command line, as a user runs it."""
        command = [str(Path(sys.executable).parent / "recell"), *arguments, "--kubeconfig", self.kubeconfig]
        done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
        if check and done.returncode != 0:
            raise StageError(f"recell {' '.join(arguments)}: exit {done.returncode}: {done.stderr or done.stdout}")
        return done

    def get(self, kind: str, name: str, namespace: str = SHOP) -> Object:
        return self._read(READ[kind].path(namespace, name))

    def all(self, kind: str, namespace: str = SHOP, *, labels: str = "") -> list[Object]:
        items: list[Object] = self._read(READ[kind].collection(namespace), labels=labels)["items"]
        return items

    def _read(self, path: str, *, labels: str = "") -> Object:
        """By a connection that stays: what is waited for is read several times a second."""
        if self._client is None:
            self._client = config.new_client_from_config(self.kubeconfig)
        url = self._client.configuration.host + path + (f"?{urlencode({'labelSelector': labels})}" if labels else "")
        try:
            answer = self._client.call_api(
                "GET", url, header_params={"Accept": "application/json"}, _request_timeout=30
            )
            text = answer.read()
        except (client.ApiException, HTTPError) as error:
            raise StageError(f"GET {path}: {error}") from error
        if answer.status != 200:
            raise StageError(f"GET {path}: {answer.status} {text.decode(errors='replace')[:300]}")
        found: Object = json.loads(text)
        return found

    def apply(self, text: str) -> None:
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=text)

    def patch(self, kind: str, name: str, body: Object, *, namespace: str = SHOP, subresource: str = "") -> None:
        more = [f"--subresource={subresource}"] if subresource else []
        self.kubectl("-n", namespace, "patch", kind, name, "--type=merge", "-p", json.dumps(body), *more)

    # --- setting up ------------------------------------------------------------------------------

    def up(self) -> None:
        if self._kubeconfig is None:
            self._say("cluster")
            self.hack_cluster("up", show=True)

    def build_images(self, *parts: str) -> None:
        """All of them, or those of these parts, as `shop-load`."""
        for tag, (file, context) in IMAGES.items():
            if parts and tag.partition("/")[2].partition(":")[0] not in parts:
                continue
            self._say(f"image {tag}")
            self.hack_cluster("build-image", "--tag", tag, "--file", str(ROOT / file), "--context", str(ROOT / context))

    def install_operator(self) -> None:
        self.build_images("operator", "router")
        self._say("operator")
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
        for resource in OWN.values():
            self.kubectl("wait", "--for=condition=Established", f"crd/{resource.full_name}", "--timeout=110s")
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", str(ROOT / "manifests"))
        self._await("-n", SYSTEM, "rollout", "status", "deployment")

    def restart_operator(self) -> None:
        self.kubectl("-n", SYSTEM, "rollout", "restart", "deployment")
        self._await("-n", SYSTEM, "rollout", "status", "deployment")

    def remove_operator(self) -> None:
        self._await("delete", "-k", str(ROOT / "manifests"), "--ignore-not-found")

    def open_shop(self, policy: Object | None = None, *, data: str = "shared") -> None:
        """Three cells, a Router, a policy. `data`: shared, one database for all cells, so that each can serve every
        customer; or incell, a database in each cell, an archive of their backups, and the Jobs that move data."""
        self.build_images("shop-web", "shop-load", "shop-postgres", *(["shop-archive"] if data == "incell" else []))
        self._say(f"shop ({data})")
        manifests = str(ROOT / "examples/shop/manifests" / data)
        self.kubectl("apply", "--server-side", "--force-conflicts", "-k", manifests)
        databases = [f"{cell}-db" for cell in CELLS] + ["shop-archive"] if data == "incell" else ["shop-db"]
        workloads = [f"statefulset/{name}" for name in databases] + [f"deployment/{cell}-web" for cell in CELLS]
        for workload in (*workloads, "deployment/load"):
            self._await("-n", SHOP, "rollout", "status", workload)
        self._say("cells, router, policy")
        if policy is not None:
            self.apply(json.dumps(policy))
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "examples/shop/recell" / data))
        self.eventually("every cell is Healthy", self.all_healthy, within=400)
        self.eventually("the Router is Ready", lambda: self.condition("router", "shop", "Ready") == "True", within=400)

    def add_cell(self, name: str) -> None:
        """One more cell like cell-c for a shop with one database; nobody is at home there but by weight."""
        shop = ROOT / "examples/shop"
        rendered = self.kubectl("kustomize", str(shop / "manifests/shared/cell-c"))
        self.apply(rendered.replace("cell-c", name))
        self._await("-n", SHOP, "rollout", "status", f"deployment/{name}-web")
        cells = (shop / "recell/shared/cells.yaml").read_text().split("---\n")
        self.apply(next(cell for cell in cells if "name: cell-c" in cell).replace("cell-c", name))
        self.eventually(f"{name} is Healthy", lambda: self.phase(name) == "Healthy", within=400)

    def make_scarce(self, cascade: Object) -> None:
        """A shop with one database gets a fourth cell, cells that bear little, and request classes of which orders may
        not be turned away; `cascade` goes into the policy."""
        self.add_cell("cell-d")
        for cell in (*CELLS, "cell-d"):
            self.patch("cell", cell, {"spec": {"capacity": {"requestsPerSecond": BEARS}}})
        self.patch("router", "shop", {"spec": {"shedding": SHEDDING}})
        self._await("-n", SHOP, "rollout", "status", "deployment/shop-router")
        self.patch("recoverypolicy", "default", {"spec": {"cascade": cascade}})

    def is_as_opened(self) -> bool:
        """The shop with one database, and with the cells that it had: a replaced cell is not the cell that it was."""
        shared = any(pod["metadata"]["name"] == "shop-db-0" for pod in self.all("pods"))
        return shared and {cell["metadata"]["name"] for cell in self.all("cells")} == set(CELLS)

    def break_router(self) -> None:
        """No pod of the router stays, and none can start: nothing but a new Deployment helps."""
        nowhere = {"spec": {"nodeSelector": {"recell.dev/nowhere": "true"}}}
        self.patch(
            "deployment",
            "shop-router",
            {"spec": {"strategy": {"type": "Recreate", "rollingUpdate": None}, "template": nowhere}},
        )
        pods = ["-l", "app.kubernetes.io/name=recell-router"]
        self.kubectl("-n", SHOP, "delete", "pods", *pods, "--grace-period=0", "--force", "--wait=false")

    def close_shop(self) -> None:
        """Without a trace: finalizers are Recell's, so the operator must still run."""
        for kind in ("recoveryruns", "recoveryfreezes"):
            self._await("-n", SHOP, "delete", kind, "--all", "--ignore-not-found")
        # A Cell stays for as long as customers are at home there, but for force.
        for cell in self.all("cells"):
            forced = ["annotate", "cell", cell["metadata"]["name"], "recell.dev/force=true", "--overwrite"]
            self.kubectl("-n", SHOP, *forced)
        self.kubectl("delete", "namespace", SHOP, "--ignore-not-found", "--wait=false")
        # Nobody sends requests any more, so no pod needs the time that it would take to finish them.
        self.kubectl("-n", SHOP, "delete", "pods", "--all", "--grace-period=1", "--wait=false")
        self._await("wait", "--for=delete", f"namespace/{SHOP}")

    def is_in_use(self) -> bool:
        """Something of an operator or of a shop is here."""
        there = self.kubectl("get", "namespaces", "-o", "jsonpath={.items[*].metadata.name}").split()
        return not {SYSTEM, SHOP}.isdisjoint(there)

    # --- looking ---------------------------------------------------------------------------------

    def phase(self, cell: str) -> str:
        return str((self.get("cell", cell).get("status") or {}).get("phase", ""))

    def all_healthy(self) -> bool:
        cells = {item["metadata"]["name"]: (item.get("status") or {}).get("phase") for item in self.all("cells")}
        return all(cells.get(name) == "Healthy" for name in CELLS)

    def condition(self, kind: str, name: str, type: str, namespace: str = SHOP) -> str:
        conditions = (self.get(kind, name, namespace).get("status") or {}).get("conditions") or []
        return next((str(c["status"]) for c in conditions if c["type"] == type), "")

    def runs(self) -> list[Object]:
        found = self.all("recoveryruns")
        return sorted(found, key=lambda run: str(run["metadata"]["creationTimestamp"]))

    def eventually(self, what: str, check: Callable[[], bool], *, within: float, every: float = 0.5) -> None:
        """Wait until it is so. Raises StageError with what it waited for."""
        deadline = time.monotonic() + within
        while not check():
            if time.monotonic() > deadline:
                raise StageError(f"not within {within:g} s: {what}")
            time.sleep(every)

    # --- making trouble --------------------------------------------------------------------------

    def fault(self, cell: str, **fault: Any) -> None:
        """Order a fault of the cell (examples/shop/README.md)."""
        self._in_load_pod(_CHAOS, f"http://{cell}-admin:8081/chaos", "POST", json.dumps(fault))

    def heal(self, cell: str) -> None:
        """Take every fault of the cell back."""
        self._in_load_pod(_CHAOS, f"http://{cell}-admin:8081/chaos", "DELETE", "")

    def _in_load_pod(self, program: str, *arguments: str) -> None:
        self.kubectl("-n", SHOP, "exec", "deployment/load", "--", "python3", "-c", program, *arguments)

    def leader(self) -> str:
        """Name of the operator's pod that leads; empty while none does."""
        lease = self.get("lease", "recell", SYSTEM)
        return str(lease["spec"].get("holderIdentity") or "").rpartition("_")[0]

    def signal_operator(self, pod: str, name: str) -> None:
        """Send a signal to a pod's operator process, from outside of its container: not even SIGKILL can be missed."""
        self.hack_cluster("enter", "--", "python3", "-c", _SIGNAL, pod, name, within=60)

    def kill_operator(self, pod: str) -> None:
        """The process is gone with no chance to end in order, and so is its pod: another one need not wait out the
        kubelet's growing pause between restarts."""
        self.signal_operator(pod, "SIGKILL")
        self.kubectl("-n", SYSTEM, "delete", "pod", pod, "--grace-period=0", "--force", "--wait=false")

    @contextmanager
    def load(
        self, *, rate: int = 100, customers: int = 300, seconds: int = 600, patience: int = 5, orders: str = ""
    ) -> Iterator["Load"]:
        """Customers, from inside the cluster, until the context ends; each waits `patience` seconds for an answer.
        `orders` is a file in the load's pod that keeps every acknowledged order."""
        command = [
            "kubectl", "--kubeconfig", self.kubeconfig, "-n", SHOP, "exec", "deployment/load", "--",
            "shop-load", "--target", "http://shop", "--rate", str(rate), "--customers", str(customers),
            "--duration", str(seconds), "--timeout", str(patience), "--json",
            *(["--orders-file", orders] if orders else []),
        ]  # fmt: skip
        told = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the load has ended
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
        load = Load(process)
        try:
            yield load
        finally:
            self._in_load_pod(_STOP_LOAD)
            load.finish()
            told.seek(0)
            with told:
                if not load.seconds:
                    raise StageError(f"there was no load: {told.read().strip()}")

    def verify(self, orders: str) -> Object:
        """Which of the acknowledged orders in the file are missing or altered."""
        command = ["kubectl", "--kubeconfig", self.kubeconfig, "-n", SHOP, "exec", "deployment/load", "--"]
        command += ["shop-load", "verify", "--target", "http://shop", "--orders-file", orders, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        if done.returncode not in (0, 1):
            raise StageError(f"{' '.join(command)}: exit {done.returncode}: {done.stderr}")
        found: Object = json.loads(done.stdout.strip().splitlines()[-1])
        return found

    def sql(self, cell: str, statement: str) -> str:
        """Run by the cell's own database."""
        database = ["exec", f"{cell}-db-0", "-c", "postgres", "--", "psql", "-d", "shop", "-tAc", statement]
        return self.kubectl("-n", SHOP, *database).strip()

    def back_up(self, cell: str) -> None:
        """A backup of the cell now, by the shop's own Job."""
        name = f"backup-{time.time_ns()}"
        made = ["create", "job", name, "--from=cronjob/shop-data-backup", "--dry-run=client", "-o", "json"]
        job: Object = json.loads(self.kubectl("-n", SHOP, *made))
        asked = {"RECELL_OPERATION": "Backup", "RECELL_KEY": name, "RECELL_CELL": cell, "RECELL_CELL_NAMESPACE": SHOP}
        for container in job["spec"]["template"]["spec"]["containers"]:
            container["env"] += [{"name": key, "value": value} for key, value in asked.items()]
        self.apply(json.dumps(job))
        self._await("-n", SHOP, "wait", "--for=condition=Complete", f"job/{name}")

    def keep_from_starting(self, cell: str) -> None:
        """The pods of the cell's web app end, and new ones cannot start."""
        gone = [{"name": "web", "image": "recell/shop-web:gone", "imagePullPolicy": "Never"}]
        change = {"strategy": {"type": "Recreate", "rollingUpdate": None}, "template": {"spec": {"containers": gone}}}
        self.kubectl("-n", SHOP, "patch", "deployment", f"{cell}-web", "-p", json.dumps({"spec": change}))

    def lose_database(self, cell: str) -> None:
        """The cell's database is gone at once, and its volume with it."""
        self.kubectl("-n", SHOP, "scale", "statefulset", f"{cell}-db", "--replicas=0")
        self.kubectl("-n", SHOP, "delete", "pod", f"{cell}-db-0", "--grace-period=0", "--force", "--ignore-not-found")


_SIGNAL = """
import os, pathlib, signal, sys
pod, number, hit = sys.argv[1], getattr(signal, sys.argv[2]), 0
for process in pathlib.Path('/proc').iterdir():
    if not process.name.isdigit():
        continue
    try:
        words = (process / 'cmdline').read_bytes()
        mine = f'HOSTNAME={pod}'.encode() in (process / 'environ').read_bytes().split(b'\\0')
    except OSError:
        continue
    if mine and b'recell-operator' in words:
        os.kill(int(process.name), number)
        hit += 1
sys.exit(0 if hit else f'no process of pod {pod}')
"""
_CHAOS = """
import sys, urllib.request
url, method, body = sys.argv[1:]
urllib.request.urlopen(urllib.request.Request(url, body.encode() or None, method=method), timeout=60).read()
"""
_STOP_LOAD = """
import os, pathlib, signal
for p in pathlib.Path('/proc').iterdir():
    try:
        if b'shop_load' in (p / 'cmdline').read_bytes().split(b'\\0'):
            os.kill(int(p.name), signal.SIGTERM)
    except OSError:  # it has ended by itself
        continue
"""


class Load:
    """What customers saw: one record a second, and the summary at the end."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.seconds: list[Object] = []
        self.summary: Object = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record.get("type") == "summary":
                self.summary = record
            elif record.get("type") == "second":
                self.seconds.append(record)

    def finish(self) -> None:
        try:
            self._process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=30)
        self._reader.join(timeout=10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _run(command: list[str], *, stdin: str | None = None, within: float, show: bool = False) -> str:
    output = None if show else subprocess.PIPE
    try:
        done = subprocess.run(
            command, input=stdin, stdout=output, stderr=output, text=True, timeout=within, check=False, cwd=ROOT
        )
    except subprocess.TimeoutExpired as late:
        raise StageError(f"{' '.join(command)}: not done within {within:g} s") from late
    if done.returncode != 0:
        raise StageError(f"{' '.join(command)}: exit {done.returncode}: {(done.stderr or done.stdout or '').strip()}")
    return done.stdout or ""


def prepare(asked: str) -> None:
    """The cluster runs and has every image, or with `NAME=PART,PART` the images of these parts."""
    cluster, _, parts = asked.partition("=")
    stage = Stage(cluster, say=lambda what: print(f"{cluster}: {what}", flush=True))
    stage.up()
    stage.build_images(*filter(None, parts.split(",")))


if __name__ == "__main__":
    with ThreadPoolExecutor() as together:  # each waits most of the time, for its control plane or for an image
        list(together.map(prepare, sys.argv[1:]))
