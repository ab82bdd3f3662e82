"""A cell in a cluster of its own by real TLS and real rights: those of manifests/remote-cluster.yaml there, and of the
chart's features.remoteClusters here. The API server is the same one behind a gate that can be shut.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from recell.api import Cell
from recell.api.meta import ANNOTATION_RESTART, LABEL_CELL
from recell.domain.observation import WorkloadPhase
from recell.engine.errors import Forbidden, Unreachable
from recell.engine.ports import Key
from recell.providers.kube import clusters as clusters_module
from recell.providers.kube.api import Api, Object
from recell.providers.kube.by_cluster import CellIsolation, CellWorkloads
from recell.providers.kube.clusters import Clusters
from recell.providers.kube.paths import CELLS, DEPLOYMENTS, SECRETS
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import ROOT, Kubectl, kubeconfig_with
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.usefixtures("crds")

SECRET = "far"
PATIENT = 60.0
"""Seconds of silence for which a cluster is not lost: it is only slow."""
HOME_RIGHTS = [
    {"apiGroups": ["recell.dev"], "resources": ["*"], "verbs": ["list", "watch"]},
    {"apiGroups": ["apps"], "resources": ["deployments", "statefulsets", "daemonsets"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["services"], "verbs": ["list", "watch"]},
    {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": [SECRET], "verbs": ["list", "watch"]},
]
"""Of the operator in the Cell's namespace, as far as it is needed here."""


class Gate:
    """A port that leads to the API server, until it is shut."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._target = (parts.hostname, parts.port or 443)
        self._open: set[asyncio.StreamWriter] = set()
        self._joined: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.port = 0

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._join, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in [*self._open]:
            writer.transport.abort()
        await asyncio.gather(*self._joined, return_exceptions=True)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._joined.add(task)
        task.add_done_callback(self._joined.discard)
        self._open.add(writer)
        with suppress(OSError):
            there_reader, there_writer = await asyncio.open_connection(*self._target)
            self._open.add(there_writer)
            await asyncio.gather(self._pass(reader, there_writer), self._pass(there_reader, writer))
            there_writer.transport.abort()
            self._open.discard(there_writer)
        writer.transport.abort()
        self._open.discard(writer)

    @staticmethod
    async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()


@pytest.fixture(scope="module")
def there(kubectl: Kubectl, namespace: str) -> Iterator[str]:
    """A namespace of the other cluster, which consents, with an account of the least rights."""
    name = f"{namespace}-far"
    text = (ROOT / "manifests" / "remote-cluster.yaml").read_text()
    documents = [*yaml.safe_load_all(text.replace("namespace: shop", f"namespace: {name}"))]
    for document in documents:
        if document["kind"] == "Namespace":
            document["metadata"] = {"name": name, "labels": {"recell.dev/fleet": namespace}}
        if document["kind"] == "ClusterRole":
            document["rules"][0]["resourceNames"] = [name]
        if document["kind"] in ("ClusterRole", "ClusterRoleBinding"):
            document["metadata"]["name"] = f"recell-consent-{name}"
            document.get("roleRef", {})["name"] = f"recell-consent-{name}"
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(documents))
    yield name
    kubectl("delete", "clusterrole,clusterrolebinding", f"recell-consent-{name}")
    kubectl("delete", "namespace", name, "--wait=false")


class World:
    def __init__(
        self, home: Api, direct: Api, gate: Gate, kubectl: Kubectl, admin: Object, here: str, there: str
    ) -> None:
        self.direct, self.gate, self.here, self.there = direct, gate, here, there
        self._kubectl, self._admin = kubectl, admin
        clock = SystemClock()
        self.told: list[Key] = []
        self.store = KubeStore(home, clock, (here,))
        self.local = KubeWorkloads(home, clock, self.store, (here,), on_change=self.told.append)
        self.clusters = Clusters(home, clock, self.store, self.local, fence=lambda: None, on_change=self.told.append)
        self.workloads = CellWorkloads(self.clusters, self.told.append)

    async def start(self) -> None:
        self.store.subscribe(Cell, self.clusters.attend)
        self.store.start()
        self.local.start()
        await asyncio.wait_for(asyncio.gather(self.store.wait_synced(), self.local.wait_synced()), 120)

    async def stop(self) -> None:
        await self.clusters.stop()
        await self.local.stop()
        await self.store.stop()

    def credentials(self) -> None:
        """A new token of the account there, in the Secret here."""
        token = self._kubectl("create", "token", "recell", "-n", self.there, "--duration=1h").strip()
        authorities = self._admin["clusters"][0]["cluster"]["certificate-authority-data"]
        cluster = {
            "server": f"https://127.0.0.1:{self.gate.port}",
            "certificate-authority-data": authorities,
            "tls-server-name": "kubernetes.default.svc",
        }
        kubeconfig = {
            "current-context": "far",
            "contexts": [{"name": "far", "context": {"cluster": "far", "user": "recell"}}],
            "clusters": [{"name": "far", "cluster": cluster}],
            "users": [{"name": "recell", "user": {"token": token}}],
        }
        held = base64.b64encode(yaml.safe_dump(kubeconfig).encode()).decode()
        body = {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": self.here},
            "data": {"kubeconfig": held},
        }
        self._kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(body))

    def new_account(self) -> None:
        """Tokens of the old one are refused from now on."""
        self._kubectl("delete", "serviceaccount", "recell", "-n", self.there)
        self._kubectl("create", "serviceaccount", "recell", "-n", self.there)

    async def make(self, image: str) -> Cell:
        labels = {"app": "web"}
        pod = {"containers": [{"name": "main", "image": image, "imagePullPolicy": "Never"}]}
        spec: Object = {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {**pod, "terminationGracePeriodSeconds": 0}},
        }
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}
        await self.direct.create(DEPLOYMENTS.collection(self.there), body)
        cell = {
            "apiVersion": CELLS.api_version,
            "kind": "Cell",
            "metadata": {"name": "b", "namespace": self.here},
            "spec": {
                "routerRef": {"name": "shop"},
                "backend": {"type": "Address", "address": {"host": "10.0.0.7", "port": 80}},
                "namespace": self.there,
                "cluster": {"kubeconfigSecretRef": {"name": SECRET}},
                "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}],
            },
        }
        await self.direct.create(CELLS.collection(self.here), cell)
        return await eventually(lambda: self.store.cell((self.here, "b")), "the Cell is watched")

    def reason(self, cell: Cell) -> str:
        found = self.workloads.reach(cell)
        assert found is not None
        return found.reason

    async def becomes(self, cell: Cell, reason: str) -> None:
        await eventually(lambda: self.reason(cell) == reason, f"{reason}: {self.workloads.reach(cell)}")

    async def is_current(self, cell: Cell, token: str | None = None) -> None:
        def seen() -> bool:
            state = self.workloads.states(cell)[0]
            return (state.phase, state.restart_token) == (WorkloadPhase.CURRENT, token) and state.updated

        await eventually(seen, f"the Deployment is Current: {self.workloads.states(cell)}")

    async def deployed(self) -> Object:
        return await self.direct.get(DEPLOYMENTS.path(self.there, "web"))


@pytest.fixture(scope="module")
def admin(kubeconfig: Path) -> Object:
    """The administrator's kubeconfig."""
    found: Object = yaml.safe_load(kubeconfig.read_text())
    return found


@pytest.fixture
async def world(
    kubeconfig: Path,
    kubectl: Kubectl,
    namespace: str,
    there: str,
    admin: Object,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    for name, seconds in (("BEAT", 1.0), ("BEAT_AGAIN", 0.5), ("BEAT_AT_LEAST", 1.0)):
        monkeypatch.setattr(clusters_module, name, seconds)
    home = await Api.connect(str(kubeconfig_with(kubeconfig, kubectl, namespace, HOME_RIGHTS, tmp_path)))
    direct = await Api.connect(str(kubeconfig))
    gate = Gate(admin["clusters"][0]["cluster"]["server"])
    await gate.open()
    made = World(home, direct, gate, kubectl, admin, namespace, there)
    await made.start()
    yield made
    await made.stop()
    await gate.shut()
    await home.close()
    await direct.close()


async def test_a_cell_there_from_its_first_look_to_new_credentials_and_an_outage(
    world: World, image: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost_after(seconds: float) -> None:
        monkeypatch.setattr(clusters_module, "LOST_AFTER", seconds)

    lost_after(PATIENT)
    cell = await world.make(image)
    ref = cell.spec.workloads[0]
    await world.becomes(cell, "SecretNotFound")
    world.credentials()
    await world.becomes(cell, "Reachable")
    await world.workloads.ensure_labels(cell)
    await world.is_current(cell)
    assert (await world.deployed())["metadata"]["labels"] == {LABEL_CELL: "b"}

    await world.workloads.restart(cell, ref, "one")
    await world.is_current(cell, "one")

    world.new_account()
    lost_after(3.0)
    await world.becomes(cell, "Unreachable")
    reach = world.workloads.reach(cell)
    assert reach is not None
    assert "the credentials are refused: renew them" in reach.message
    world.credentials()
    await world.becomes(cell, "Reachable")
    lost_after(PATIENT)
    await world.workloads.ensure_labels(cell)
    await world.is_current(cell, "one")

    isolation = CellIsolation(world.clusters, cut_off=lambda: False)
    await isolation.isolate(cell)
    assert (await isolation.tried(cell)).message.startswith("there is nothing to try")
    await isolation.lift(cell)

    await world.gate.shut()
    lost_after(3.0)
    await world.becomes(cell, "Unreachable")
    state = world.workloads.states(cell)[0]
    assert (state.phase, state.pods, state.at_zero) == (WorkloadPhase.UNKNOWN, None, False)
    assert "seen last: Current" in state.message
    with pytest.raises(Unreachable):
        await world.workloads.scale_to_zero(cell, ref, "two")
    generation = (await world.deployed())["metadata"]["generation"]
    await world.gate.open()
    await world.becomes(cell, "Reachable")
    lost_after(PATIENT)
    await world.is_current(cell, "one")
    found = await world.deployed()
    assert found["metadata"]["generation"] == generation, "nothing was done there meanwhile"
    assert found["spec"]["template"]["metadata"]["annotations"] == {ANNOTATION_RESTART: "one"}

    await world.workloads.scale_to_zero(cell, ref, "two")
    await eventually(lambda: world.workloads.states(cell)[0].at_zero, "it is stopped, its pods seen to the end")
    await world.workloads.scale_back(cell, ref, "two")
    await world.is_current(cell, "one")


async def test_nothing_else_is_granted_there(world: World, kubectl: Kubectl) -> None:
    """And no other Secret here."""
    account = f"system:serviceaccount:{world.there}:recell"

    def may(*words: str) -> bool:
        with suppress(AssertionError):
            return kubectl("auth", "can-i", *words, f"--as={account}").strip() == "yes"
        return False

    assert may("patch", "deployments.apps", "-n", world.there)
    assert not may("get", "secrets", "-n", world.there)
    assert not may("list", "deployments.apps", "-n", world.here)
    assert not may("create", "pods", "-n", world.there)
    with pytest.raises(Forbidden):
        await world.clusters.home.api.list(SECRETS.collection(world.here))
    with pytest.raises(Forbidden):
        await world.clusters.home.api.list(SECRETS.collection(world.here), fields="metadata.name=other")
