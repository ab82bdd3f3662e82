"""The local node of `hack/cluster`: a second cluster beside the tests' own, used, broken, repaired and removed.

These tests are about the local node; where a Docker engine answers, the cluster is kind's and they do not apply.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = str(ROOT / "hack" / "cluster")
NAME = "recell-side"
IMAGE = "localhost/recell/probe:test"
SO_RCVBUFFORCE = 33
CLUSTER_RANGE = IPv4Network("10.231.0.0/16")
STATE = Path(os.environ.get("RECELL_STATE") or Path.home() / ".local" / "state" / "recell") / "clusters"

DOCKERFILE = """
FROM debian:bookworm-slim
RUN command -v python3 haproxy
COPY hello.txt /srv/hello.txt
"""

WORKLOAD = f"""
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: web
        image: {IMAGE}
        imagePullPolicy: Never
        command: [python3, -um, http.server, "8080", --directory, /srv]
        readinessProbe: {{httpGet: {{path: /hello.txt, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: nobody}}
spec: {{selector: {{app: nobody}}, ports: [{{port: 80}}]}}
"""

POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {matchLabels: {allowed: "yes"}}}]}]
"""

CRD = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: probes.recell.dev}
spec:
  group: recell.dev
  scope: Namespaced
  names: {kind: Probe, plural: probes, singular: probe}
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}
"""


def cluster(*argv: str, within: float = 550, check: bool = True) -> str:
    done = subprocess.run([PROGRAM, *argv], capture_output=True, text=True, timeout=within, check=False)
    assert not check or done.returncode == 0, f"hack/cluster {' '.join(argv)}: {done.stderr}"
    return done.stdout


class Side:
    """The cluster beside the tests' own."""

    def __init__(self) -> None:
        self.kubeconfig = cluster("kubeconfig", "--name", NAME).strip()
        status = self.status()
        self.services = IPv4Network(status["services"])
        self.server: str = status["server"]

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(cluster("status", "--name", NAME, check=False))
        return found

    def kubectl(self, *argv: str, stdin: str = "", check: bool = True, within: float = 240) -> str:
        argv = ("kubectl", f"--kubeconfig={self.kubeconfig}", *argv)
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=within, check=False)
        assert not check or done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout + ("" if check else done.stderr)

    def service(self, name: str) -> str:
        return self.kubectl("get", "service", name, "-o", "jsonpath={.spec.clusterIP}")

    def processes(self) -> dict[str, str]:
        """Pid and start of each component: the same after a change only if the component was left alone."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and f"/{NAME}/".encode() in (entry / "cmdline").read_bytes():
                    found[entry.name] = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[19]
            except OSError:
                continue
        return found


@pytest.fixture(scope="module")
def before() -> dict[str, list[Any]]:
    if shutil.which("docker") and subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0:
        pytest.skip("a Docker engine answers, so hack/cluster makes a kind cluster here")
    cluster("down", "--name", NAME)
    return traces()


@pytest.fixture(scope="module")
def side(before: dict[str, Any], kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    """The cluster, with the tests' image and workload; the tests' own cluster runs beside it."""
    cluster("up", "--name", NAME, within=1200)
    made = Side()
    context = tmp_path_factory.mktemp("context")
    (context / "Dockerfile").write_text(DOCKERFILE)
    (context / "hello.txt").write_text("hello")
    build = ("build-image", "--name", NAME, "--tag", IMAGE, "--context", str(context))
    cluster(*build, within=1200)
    made.kubectl("apply", "-f", "-", stdin=WORKLOAD)
    made.kubectl("rollout", "status", "deployment/web", "--timeout=200s")
    yield made
    cluster("down", "--name", NAME)


@pytest.fixture(scope="module")
def clients(side: Side) -> Side:
    """Two pods that ask, one of which the policy lets through."""
    for name, label in (("friend", "allowed=yes"), ("stranger", "allowed=no")):
        side.kubectl(
            "run", name, f"--image={IMAGE}", "--image-pull-policy=Never", f"--labels={label}", "--", "sleep", "1h"
        )
    side.kubectl("wait", "--for=condition=Ready", "pod/friend", "pod/stranger", "--timeout=200s")
    return side


def fetch(side: Side, pod: str, url: str) -> str:
    """What a pod gets from `url`: the body, or the name of the error."""
    script = (
        "import sys,urllib.request as u\n"
        "try: print(u.urlopen(sys.argv[1],timeout=2).read().decode())\n"
        "except Exception as e: print(repr(e))"
    )
    return side.kubectl("exec", pod, "--", "python3", "-c", script, url).strip()


def gets(side: Side, pod: str, url: str) -> None:
    eventually(f"{url} for {pod}", lambda: fetch(side, pod, url) == "hello")


def eventually(what: str, probe: Any, within: float = 180) -> None:
    deadline = time.monotonic() + within
    while not probe():
        assert time.monotonic() < deadline, f"{what}: not after {within:.0f}s"
        time.sleep(0.2)


def test_a_second_up_leaves_a_sound_cluster_alone(side: Side, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    components = side.processes()
    monkeypatch.chdir(tmp_path)
    cluster("up", "--name", NAME)
    assert side.processes() == components
    assert side.status()["ready"]


def test_clusters_beside_each_other_share_nothing(side: Side, kubeconfig: Path) -> None:
    other = json.loads(Path(kubeconfig).read_text())["clusters"][0]["cluster"]["server"]
    assert other != side.server
    assert "recell-side" in side.kubectl("get", "nodes", "-o", "name")
    names = subprocess.run(
        ["kubectl", f"--kubeconfig={kubeconfig}", "get", "nodes", "-o", "name"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "recell-side" not in names.stdout


def test_a_machine_without_kubectl_has_the_clusters(side: Side) -> None:
    cache = Path(os.environ.get("RECELL_CACHE", Path.home() / ".cache/recell"))
    argv = [cache / "path" / "kubectl", f"--kubeconfig={side.kubeconfig}", "version", "-o", "json"]
    told = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert told["clientVersion"]["gitVersion"] == told["serverVersion"]["gitVersion"]


def test_pods_resolve_names_and_reach_services(side: Side, clients: Side) -> None:
    gets(side, "friend", "http://web.default/hello.txt")
    gets(side, "friend", f"http://{side.service('web')}/hello.txt")


def test_logs_come_from_the_pod(side: Side) -> None:
    assert "GET /hello.txt" in side.kubectl("logs", "deployment/web")


def test_the_machine_reaches_services(side: Side) -> None:
    with socket.create_connection((side.service("web"), 80), timeout=60) as connection:
        connection.sendall(b"GET /hello.txt HTTP/1.0\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)


def test_an_unchanged_image_is_neither_built_nor_loaded_again(side: Side, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "hello.txt").write_text("hello")
    command = [PROGRAM, "build-image", "--name", NAME, "--tag", IMAGE, "--context", str(tmp_path)]
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert again.stderr == ""


def test_network_policies_are_enforced(side: Side, clients: Side) -> None:
    url = f"http://{side.service('web')}/hello.txt"
    gets(side, "stranger", url)
    side.kubectl("apply", "-f", "-", stdin=POLICY)
    try:
        eventually("the policy to keep a stranger out", lambda: fetch(side, "stranger", url).startswith("URLError"))
        gets(side, "friend", url)
        ready = ("get", "deployment", "web", "-o", "jsonpath={.status.readyReplicas}")
        eventually("the kubelet's probes to get through", lambda: side.kubectl(*ready) == "1")
    finally:
        side.kubectl("delete", "networkpolicy", "web")
    gets(side, "stranger", url)


class Escapes:
    """Watches every packet of this machine; collects those for the cluster range that are about to leave a cluster.

    That is: seen on the link to a node coming from it with a Service address, or on any interface that is no
    cluster's, in either direction.
    """

    def __init__(self, services: IPv4Network) -> None:
        self._services = services
        self._stop = threading.Event()
        self.seen: list[str] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0003))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 * 2**20)  # for as long as nobody takes them out
        self._socket.settimeout(0.1)
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "Escapes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(0.3)  # what is on its way is still counted, and what has arrived, whenever that is looked at
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def _watch(self) -> None:
        while True:
            try:
                if self._stop.is_set():
                    self._socket.setblocking(False)
                packet, (interface, protocol, kind, *_) = self._socket.recvfrom(64)
            except TimeoutError:
                continue
            except BlockingIOError:
                return
            if protocol != 0x0800 or len(packet) < 20:
                continue
            target = IPv4Address(packet[16:20])
            of_a_cluster = interface.startswith("recell")
            from_node = kind == socket.PACKET_HOST
            if (of_a_cluster and from_node and target in self._services) or (
                not of_a_cluster and interface != "lo" and target in CLUSTER_RANGE
            ):
                self.seen.append(f"{interface}: a packet for {target}")


def knock(address: str, port: int = 80) -> str:
    """The outcome of a connection from the machine."""
    try:
        with socket.create_connection((address, port), timeout=1):
            return "connected"
    except OSError as error:
        return repr(error)


def test_packets_for_nobody_stay_on_the_machine(side: Side, clients: Side) -> None:
    """A Service without endpoints, addresses of the range that no one holds, from everywhere; kube-proxy or not."""
    nobody, unused = side.service("nobody"), str(side.services[900])
    unheld = str(CLUSTER_RANGE[-2])
    inside = (
        "import socket,sys\n"
        "try: socket.create_connection((sys.argv[1],80),timeout=1)\n"
        "except OSError as e: print(repr(e))"
    )

    def ask_from_everywhere() -> None:
        for address in (nobody, unused, unheld):
            assert fetch(side, "friend", f"http://{address}/").startswith("URLError"), address
            assert knock(address) != "connected"
            assert "Error" in cluster("enter", "--name", NAME, "--", "/usr/bin/python3", "-c", inside, address), address

    with Escapes(side.services) as escapes:
        ask_from_everywhere()
        # Without kube-proxy no rule knows any Service: even a living one is then an address of nobody.
        kill("kube-proxy", side)
        cluster("enter", "--name", NAME, "--", "iptables", "-t", "nat", "-F")
        ask_from_everywhere()
        assert fetch(side, "friend", f"http://{side.service('web')}/hello.txt").startswith("URLError")
    assert escapes.seen == []
    cluster("up", "--name", NAME)
    eventually("the Service after the repair", lambda: knock(side.service("web")) == "connected")


def kill(program: str, side: Side) -> None:
    pids = [
        pid
        for pid in side.processes()
        if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].endswith(program.encode())
    ]
    assert pids, f"{program} does not run"
    for pid in pids:
        os.kill(int(pid), signal.SIGKILL)
    eventually(f"the end of {program}", lambda: not any(Path(f"/proc/{pid}/cmdline").exists() for pid in pids))


def test_the_watcher_of_escapes_sees_one(side: Side) -> None:
    """The proof above is worth something only if a packet that leaves is seen: send one out of the node."""
    unused = side.services[901]
    with Escapes(side.services) as escapes:
        send = f"import socket as s; s.socket(s.AF_INET, s.SOCK_DGRAM).sendto(b'x', ('{unused}', 9))"
        script = f"""
            ip route add {unused}/32 via $(ip -4 route show {CLUSTER_RANGE} | cut -d' ' -f3)
            /usr/bin/python3 -c "{send}"
            ip route delete {unused}/32
        """
        cluster("enter", "--name", NAME, "--", "sh", "-ec", script)
    assert escapes.seen


def test_the_api_server_can_be_made_unreachable_and_comes_back(side: Side) -> None:
    host, port = side.server.removeprefix("https://").split(":")
    cluster("stop-apiserver", "--name", NAME)
    assert "ConnectionRefused" in knock(host, int(port))
    assert not side.status()["ready"]

    def pids(program: str) -> set[str]:
        return {pid for pid in side.processes() if program in Path(f"/proc/{pid}/cmdline").read_text().split("\0")[0]}

    followers = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kube-router")
    before = {name: pids(name) for name in followers}
    cluster("start-apiserver", "--name", NAME)
    assert side.kubectl("get", "--raw", "/readyz") == "ok"
    # Begun anew, for one that met the outage looks for the API server by a backoff of up to a minute.
    for name in followers:
        now = pids(name)
        assert now, f"{name} does not run"
        assert now.isdisjoint(before[name]), name


def test_up_thaws_an_api_server_that_was_left_hanging(side: Side) -> None:
    cluster("stop-apiserver", "--hang", "--name", NAME)
    cluster("up", "--name", NAME)
    assert side.status()["ready"]


def test_the_audit_log_tells_who_wrote_what(side: Side) -> None:
    side.kubectl("apply", "-f", "-", stdin=CRD)
    side.kubectl("wait", "--for=condition=Established", "crd/probes.recell.dev", "--timeout=200s")
    probe = {"apiVersion": "recell.dev/v1", "kind": "Probe", "metadata": {"name": "one"}, "spec": {"value": 7}}
    side.kubectl("create", "-f", "-", stdin=json.dumps(probe))
    side.kubectl("create", "configmap", "one", "--from-literal=secret=seven")
    log = Path(cluster("audit-log", "--name", NAME).strip())

    def whole() -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]

    def written(resource: str) -> list[dict[str, Any]]:
        found = [e for e in whole() if e["verb"] == "create" and e["objectRef"].get("resource") == resource]
        return [e for e in found if e["objectRef"].get("name") == "one"]

    # The server writes it down a moment after it has answered.
    eventually("the last write in the log", lambda: written("configmaps"))
    assert not [e for e in whole() if e["verb"] in ("get", "list", "watch")]
    (own,), (plain,) = written("probes"), written("configmaps")
    assert own["requestObject"]["spec"] == {"value": 7}
    assert own["responseObject"]["metadata"]["uid"]
    assert "requestObject" not in plain
    for event in (own, plain):
        assert event["user"]["username"] == "recell-admin"
        assert event["responseStatus"]["code"] == 201
        assert event["objectRef"]["namespace"] == "default"


def test_a_node_that_died_comes_back_with_its_objects(side: Side) -> None:
    init = next(pid for pid in side.processes() if is_init(pid))
    with Path(f"/proc/{init}/ns/net").open():  # as long as this is held, its network and the link into it are there
        os.kill(int(init), signal.SIGKILL)
        eventually("the end of the node", lambda: not side.processes())
        cluster("up", "--name", NAME)
    url = side.service("web")
    eventually("the workload after the restart", lambda: knock(url) == "connected")


def is_init(pid: str) -> bool:
    return read(Path(f"/proc/{pid}/cmdline")).split(b"\0")[0].endswith(b"/bin/recell-node-init")


def traces() -> dict[str, list[Any]]:
    """All that a cluster could leave on the machine, and what other clusters hold there now."""
    links = json.loads(subprocess.run(["ip", "-json", "link"], capture_output=True, check=True).stdout or "[]")
    routes = subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    sets = subprocess.run(["ipset", "list", "-name"], capture_output=True, text=True, check=False).stdout
    spaces = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=False).stdout
    of_ours = [path for path in STATE.parent.glob("*/*") if NAME in path.name]
    return {
        "links": sorted(link["ifname"] for link in links),
        "routes": sorted(line.strip() for line in routes.splitlines()),
        "iptables": [line for line in rules.splitlines() if not line.startswith("#") and "[" not in line],
        "ipsets": sets.splitlines(),
        "netns": spaces.splitlines(),
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if NAME in line],
        "control groups": control_groups(),
        "folders": of_ours,
        "processes": [
            path.parent.name for path in Path("/proc").glob("[0-9]*/cmdline") if f"/{NAME}".encode() in read(path)
        ],
    }


def control_groups() -> list[str]:
    """With those of its pods; other clusters' groups come and go meanwhile, which `os.walk` passes over."""
    return [folder for folder, _, _ in os.walk("/sys/fs/cgroup") if NAME in folder]


def left_behind(before: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """What was not there before. Another cluster may go meanwhile."""
    return {what: new for what, found in traces().items() if (new := [one for one in found if one not in before[what]])}


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_down_leaves_nothing_behind(side: Side, before: dict[str, list[Any]]) -> None:
    cluster("down", "--name", NAME)
    assert left_behind(before) == {}
    cluster("down", "--name", NAME)  # and again: harmless
    assert json.loads(cluster("status", "--name", NAME, check=False))["ready"] is False


def test_down_after_an_interrupted_up_leaves_nothing_behind(side: Side, before: dict[str, list[Any]]) -> None:
    starting = subprocess.Popen([PROGRAM, "up", "--name", NAME], stderr=subprocess.PIPE, text=True)
    assert starting.stderr is not None
    for line in starting.stderr:
        if "kube-apiserver: ready" in line:
            break
    starting.kill()
    starting.wait()
    starting.stderr.close()
    cluster("down", "--name", NAME)
    # What it was just waiting for, kubectl say, may outlive it for a moment.
    eventually("nothing left behind", lambda: left_behind(before) == {})
