"""A fleet whose cells have their workloads in other clusters, on API servers in memory."""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from recell.api import Cell
from recell.api.cell import WorkloadKind
from recell.api.meta import LABEL_FLEET
from recell.domain.observation import Reach, WorkloadState
from recell.engine.errors import Retryable, Unreachable
from recell.engine.ports import Key
from recell.providers.kube.api import CallHook, Object, WatchEvent
from recell.providers.kube.by_cluster import CellWorkloads
from recell.providers.kube.clusters import Clusters
from recell.providers.kube.connection import Answer
from recell.providers.kube.errors import Expired
from recell.providers.kube.kubeconfig import Kubeconfig
from recell.providers.kube.paths import CELLS, NAMESPACES, SECRETS, WORKLOADS
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from tests.unit.kube.fake_server import FakeApi, FakeServer
from tests.unit.kube.kubeconfigs import secret, text
from tests.unit.runtime.virtual_time import LoopClock

WEB = WORKLOADS[WorkloadKind.DEPLOYMENT].path("shop", "web")


class FarServer(FakeServer):
    """Another cluster, with a Deployment `web` in namespace `shop`, which consents to cells of `fleet`."""

    def __init__(self, *, consents: bool = True) -> None:
        super().__init__()
        self.away = asyncio.Event()
        """It answers nobody."""
        self.refuses = 0
        """HTTP status of its answers to whoever asks for its version, if not 200."""
        self.beats = 0
        labels = {LABEL_FLEET: "fleet"} if consents else {}
        self.put(NAMESPACES.path("", "shop"), {"metadata": {"name": "shop", "labels": labels}})
        self.deploy()

    def deploy(self, replicas: int = 2) -> None:
        counted = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), replicas)
        self.put(
            WEB,
            {
                "metadata": {"name": "web", "namespace": "shop", "generation": 1},
                "spec": {
                    "replicas": replicas,
                    "selector": {"matchLabels": {"app": "web"}},
                    "template": {"metadata": {}},
                },
                "status": {"observedGeneration": 1, **counted},
            },
        )

    @property
    def restarts(self) -> Object:
        found: Object = self.objects[WEB]["spec"]["template"]["metadata"].get("annotations", {})
        return found


class FarApi(FakeApi):
    """One connection to it; what is open breaks when the server goes away or the connection is closed."""

    def __init__(self, server: FarServer, fence: Callable[[], None] | None = None) -> None:
        super().__init__(server, fence)
        self.far = server
        self.fences: list[Callable[[], None]] = []

    def fenced(self, fence: Callable[[], None]) -> "FarApi":
        self.fences.append(fence)
        self._fence = fence
        return self

    async def _call(self) -> None:
        if self.far.away.is_set():
            raise Retryable("no answer")
        await super()._call()

    @asynccontextmanager
    async def watch(
        self, path: str, *, params: Mapping[str, str], labels: str = "", fields: str = "", **_: Any
    ) -> AsyncIterator[AsyncIterator[Sequence[WatchEvent]]]:
        if int(params.get("resourceVersion", 1 << 60)) < self.far.version:
            raise Expired("this server keeps no history")
        async with super().watch(path, params=params, labels=labels, fields=fields) as batches:
            yield self._until_away(batches)

    async def _until_away(self, batches: AsyncIterator[Sequence[WatchEvent]]) -> AsyncIterator[Sequence[WatchEvent]]:
        async def following() -> Sequence[WatchEvent]:
            return await anext(batches)

        gone = asyncio.create_task(self.far.away.wait())
        batch = asyncio.create_task(following())
        try:
            while True:
                await asyncio.wait([gone, batch], return_when=asyncio.FIRST_COMPLETED)
                if not batch.done():
                    raise Retryable("the watch broke")
                yield batch.result()
                batch = asyncio.create_task(following())
        finally:
            gone.cancel()
            batch.cancel()
            await asyncio.wait([gone, batch])


class FarWay:
    """What `RemoteConnection` is to an API server."""

    def __init__(self, kubeconfig: Kubeconfig, server: FarServer) -> None:
        self.token = kubeconfig.token
        self.silent: str | None = None
        self.closed = False
        self._server = server

    async def beat(self) -> Answer:
        self._server.beats += 1
        if self._server.away.is_set():
            raise Unreachable("no answer in time")
        return Answer(self._server.refuses or 200, {}, b'{"gitVersion": "v1.36.3"}')

    async def close(self) -> None:
        self.closed = True


class Fleet:
    """`await started()` first. A kubeconfig's token says which of `servers` it leads to."""

    def __init__(self, **servers: FarServer) -> None:
        self.servers = servers
        self.home = FakeServer()
        self.api: Any = FakeApi(self.home)
        self.clock = LoopClock()
        self.told: list[Key] = []
        self.ways: list[FarWay] = []
        self.fenced_by: list[str] = []
        self.store = KubeStore(self.api, self.clock, ("fleet",))
        self.local = KubeWorkloads(self.api, self.clock, self.store, ("fleet",), on_change=self.told.append)
        self.clusters = Clusters(
            self.api,
            self.clock,
            self.store,
            self.local,
            fence=lambda: self.fenced_by.append("asked"),
            on_change=self.told.append,
            connect=self._connect,
        )
        self.workloads = CellWorkloads(self.clusters, self.told.append)

    def _connect(self, kubeconfig: Kubeconfig, on_call: CallHook | None) -> tuple[FarWay, Any]:
        server = self.servers[str(kubeconfig.token).partition(".")[0]]
        self.ways.append(FarWay(kubeconfig, server))
        return self.ways[-1], FarApi(server)

    async def started(self) -> None:
        self.store.subscribe(Cell, self.clusters.attend)
        self.store.start()
        self.local.start()
        await asyncio.sleep(1)

    async def stop(self) -> None:
        await self.clusters.stop()
        await self.local.stop()
        await self.store.stop()

    # What people do

    def give(self, name: str, token: str | None = None, *, content: bytes | None = None) -> None:
        """A Secret of this name with a kubeconfig with this token, or with something else."""
        held = text(user={"token": token}) if token is not None else content
        self.home.put(SECRETS.path("fleet", name), secret(name, held))

    def take(self, name: str) -> None:
        self.home.remove(SECRETS.path("fleet", name))

    def make(self, name: str, kubeconfig: str, **spec: Any) -> None:
        body = {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Address", "address": {"host": "10.0.0.7", "port": 80}},
            "namespace": "shop",
            "cluster": {"kubeconfigSecretRef": {"name": kubeconfig}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}],
            **spec,
        }
        metadata = {"name": name, "namespace": "fleet", "creationTimestamp": "2026-11-25T03:00:00Z"}
        self.home.put(CELLS.path("fleet", name), {"metadata": metadata, "spec": body})

    def unmake(self, name: str) -> None:
        self.home.remove(CELLS.path("fleet", name))

    # What is seen

    def cell(self, name: str) -> Cell:
        found = self.store.cell(("fleet", name))
        assert found is not None
        return found

    def reach(self, name: str) -> Reach:
        found = self.workloads.reach(self.cell(name))
        assert found is not None
        return found

    def state(self, name: str) -> WorkloadState:
        return self.workloads.states(self.cell(name))[0]

    async def adopted(self, *names: str) -> None:
        """As the Cell's controller does, after a moment for the watches."""
        await asyncio.sleep(2)
        for name in names:
            await self.workloads.ensure_labels(self.cell(name))
        await asyncio.sleep(1)

    def secret_words(self) -> list[str]:
        """What stands in Secrets, in the clear and encoded."""
        values = [v for o in self.home.objects.values() for v in (o.get("data") or {}).values()]
        return [*values, *(base64.b64decode(v).decode(errors="replace") for v in values)]
