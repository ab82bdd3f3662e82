"""Cells with real volumes, a StatefulSet each, and a data provider that restores them as one."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Protocol

from recell.api import Cell, CellTemplate
from recell.domain.data import Answer, Backup, Operation, Progress, Request
from recell.domain.provisioning import Order
from recell.domain.provisioning import Progress as Provisioning
from recell.engine.ports import Data, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, CLAIMS, STATEFUL_SETS
from recell.providers.kube.provisioner import KubeProvisioner
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import Kubectl
from tests.fakes.eventually import eventually

WITHIN = 120.0
DATA, WAL = "data", "wal"


class Provider(Data, Protocol):
    async def stop(self) -> None: ...


class Anywhere:
    async def ensure(self, cell: Cell) -> None: ...


class VolumeWorld:
    """The provider with real workloads, and cells with a StatefulSet each."""

    def __init__(self, tested: Api, direct: Api, kubectl: Kubectl, namespace: str, image: str) -> None:
        self.tested, self.direct, self.namespace, self.image = tested, direct, namespace, image
        self._kubectl = kubectl
        self.clock = SystemClock()
        self.woken = asyncio.Event()
        self.homes: set[str] = set()
        self.store = KubeStore(tested, self.clock, (namespace,))
        self.workloads = KubeWorkloads(tested, self.clock, self.store, (namespace,), on_change=self.wake)
        self.provisioner = KubeProvisioner(
            tested, self.clock, self.store, Anywhere(), is_home=lambda router, cell: False, on_change=self.wake
        )
        self.data = self.provider()
        self._old: list[Provider] = []

    def provider(self) -> Provider:
        raise NotImplementedError

    def data_of(self, claims: list[str]) -> Object:
        """Of a Cell with these claims."""
        raise NotImplementedError

    async def start(self) -> None:
        self.store.start()
        self.workloads.start()
        await asyncio.wait_for(asyncio.gather(self.store.wait_synced(), self.workloads.wait_synced()), 120)

    async def stop(self) -> None:
        for provider in (self.data, *self._old):
            await provider.stop()
        await self.provisioner.stop()
        await self.workloads.stop()
        await self.store.stop()

    async def another_process(self) -> None:
        self._old.append(self.data)
        self.data = self.provider()

    def wake(self, cell: Key) -> None:
        self.woken.set()

    def kubectl(self, *arguments: str, stdin: str | None = None) -> str:
        return self._kubectl("-n", self.namespace, *arguments, stdin=stdin)

    # Cells

    def stateful_set(self, cell: str, storage_class: str, volumes: tuple[str, ...]) -> Object:
        mounts = [{"name": volume, "mountPath": f"/{volume}"} for volume in volumes]
        main = {"name": "main", "image": self.image, "imagePullPolicy": "Never", "volumeMounts": mounts}
        pod = {"containers": [main | {"command": ["sleep", "3600"]}], "terminationGracePeriodSeconds": 1}
        claim = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": "1Mi"}},
        }
        return {
            "apiVersion": STATEFUL_SETS.api_version,
            "kind": STATEFUL_SETS.kind,
            "metadata": {"name": f"{cell}-db"},
            "spec": {
                "serviceName": f"{cell}-db",
                "selector": {"matchLabels": {"app": f"{cell}-db"}},
                "template": {"metadata": {"labels": {"app": f"{cell}-db"}}, "spec": pod},
                "volumeClaimTemplates": [{"metadata": {"name": volume}, "spec": claim} for volume in volumes],
            },
        }

    def spec(self, cell: str, volumes: tuple[str, ...]) -> Object:
        claims = [f"{volume}-{cell}-db-0" for volume in volumes]
        return {
            "backend": {"type": "Service", "service": {"name": cell, "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": f"{cell}-db"}],
            "data": self.data_of(claims),
        }

    async def source(self, name: str, storage_class: str = "hostpath", volumes: tuple[str, ...] = (DATA,)) -> Cell:
        """As a person makes it."""
        body = {
            "apiVersion": CELLS.api_version,
            "kind": "Cell",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {"routerRef": {"name": "shop"}, **self.spec(name, volumes)},
        }
        self.kubectl("apply", "-f", "-", stdin=json.dumps(self.stateful_set(name, storage_class, volumes)))
        made = Cell.model_validate(await self.direct.create(CELLS.collection(self.namespace), body))
        self.kubectl("rollout", "status", f"statefulset/{name}-db", "--timeout=150s")
        return made

    async def target(
        self, name: str, source: Cell, storage_class: str = "hostpath", volumes: tuple[str, ...] = (DATA,)
    ) -> Cell:
        """As the operator makes it from a template."""
        template = {
            "metadata": {"name": "cell", "namespace": self.namespace},
            "spec": {
                "cell": self.spec("$(CELL)", volumes),
                "objects": [self.stateful_set("$(CELL)", storage_class, volumes)],
            },
        }
        order = Order(name, source, CellTemplate.model_validate(template), "run-1")
        async with asyncio.timeout(WITHIN):
            while True:
                self.woken.clear()
                made = await self.provisioner.ensure(order)
                if made.progress is Provisioning.READY:
                    assert made.cell is not None
                    break
                await self.woken.wait()
        cell = made.cell

        async def watched() -> bool:
            await self.workloads.ensure_labels(cell)
            return all(state.desired is not None for state in self.workloads.states(cell))

        await eventually(watched, f"the workloads of {name} are known")
        return cell

    def shell(self, cell: Cell, script: str) -> str:
        return self.kubectl("exec", f"{cell.metadata.name}-db-0", "--", "sh", "-euc", script).strip()

    # The port

    async def ended(self, request: Request, *, between: Callable[[], Any] = lambda: None) -> Answer:
        """Asked again only when somebody is woken; a step of a second covers what was missed between two processes."""
        async with asyncio.timeout(WITHIN):
            while True:
                self.woken.clear()
                answer = await self.data.ensure(request)
                if answer.progress is not Progress.RUNNING:
                    return answer
                done = between()
                if done is not None:
                    await done
                    await asyncio.sleep(0.2)
                else:
                    await self.woken.wait()

    async def done(self, request: Request, *, between: Callable[[], Any] = lambda: None) -> Answer:
        answer = await self.ended(request, between=between)
        assert answer.progress is Progress.DONE, answer
        return answer

    async def backed_up(self, cell: Cell, key: str) -> Backup:
        (made,) = (await self.done(Request(Operation.BACKUP, key, cell))).backups
        return made

    async def claim(self, name: str) -> Object:
        return await self.direct.get(CLAIMS.path(self.namespace, name))
