"""The decommission of a retired cell on a real API server: a StatefulSet and its claims, by real controllers."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from recell.api import Cell
from recell.api.placement import Hold, Holder, HoldState
from recell.controllers.protection import Protection
from recell.controllers.records import RunRecords
from recell.controllers.retirement import Retirements, Seen
from recell.domain import data, placement
from recell.domain.data import Answer, Backup, Operation, Progress
from recell.domain.decommission import Retirement
from recell.domain.health import HealthState, Level
from recell.domain.placement import Candidate, Routing
from recell.engine.errors import Conflict, NotFound
from recell.engine.ports import Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, CLAIMS, PLACEMENTS, PODS, ROUTERS, SERVICES, STATEFUL_SETS, Resource
from recell.providers.kube.remains import CellRemains
from recell.providers.kube.store import KubeStore
from recell.providers.kube.workloads import KubeWorkloads
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import Kubectl
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.usefixtures("crds")

SLOW = 120.0


class Fleet:
    """b was replaced by b2; who has which backups is what the test says."""

    epoch = 1

    def __init__(self, api: Api, namespace: str, image: str) -> None:
        self.api, self.namespace, self.image = api, namespace, image
        self.clock = SystemClock()
        self.store = KubeStore(api, self.clock, (namespace,))
        self.workloads = KubeWorkloads(api, self.clock, self.store, (namespace,), on_change=lambda key: None)
        self.backups: dict[str, tuple[Backup, ...]] = {"b": (), "b2": ()}
        anything: Any = self
        self.remains = CellRemains(api, self.store, anything)
        self.retirements = Retirements(
            self.clock,
            api,
            self.store,
            self.workloads,
            anything,
            Protection(anything),
            lambda cell: self.remains,
            anything,
            anything,
        )

    # What is beside the API server

    async def ensure(self, of: Any) -> Answer:
        """Consent is given; requests are done at once."""
        if isinstance(of, data.Request) and of.operation is Operation.INVENTORY:
            return Answer(Progress.DONE, backups=self.backups[of.cell.metadata.name])
        return Answer(Progress.DONE)

    def health(self, cell: Key) -> HealthState:
        return HealthState(level=Level.HEALTHY, since=self.clock.now())

    def obstacle(self) -> str | None:
        return None

    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Nobody reads it."""

    # What there is

    async def start(self) -> None:
        self.store.start()
        self.workloads.start()
        await asyncio.wait_for(asyncio.gather(self.store.wait_synced(), self.workloads.wait_synced()), 120)

    async def stop(self) -> None:
        await self.workloads.stop()
        await self.store.stop()

    async def create(self, resource: Resource, name: str, spec: Object, **metadata: Any) -> Object:
        body = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {"name": name, "namespace": self.namespace, **metadata},
            "spec": spec,
        }
        return await self.api.create(resource.collection(self.namespace), body)

    async def cell(self, name: str) -> Cell:
        claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
        await self.create(
            STATEFUL_SETS,
            name,
            {
                "replicas": 2,
                "podManagementPolicy": "Parallel",
                "serviceName": name,
                "selector": {"matchLabels": {"app": name}},
                "template": {
                    "metadata": {"labels": {"app": name}},
                    "spec": {
                        "containers": [{"name": "main", "image": self.image, "imagePullPolicy": "Never"}],
                        "terminationGracePeriodSeconds": 0,
                    },
                },
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
            },
        )
        labels = {"recell.dev/made-by": "recell"} if name == "b" else {}
        await self.create(SERVICES, name, {"ports": [{"port": 80}], "selector": {"app": name}}, labels=labels)
        spec = {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": name, "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": name}],
        }
        made = Cell.model_validate(await self.create(CELLS, name, spec))
        await self.there(CLAIMS, f"data-{name}-0", f"data-{name}-1")
        return made

    async def names(self, resource: Resource) -> set[str]:
        listing = await self.api.list(resource.collection(self.namespace))
        return {obj["metadata"]["name"] for obj in listing.items if not obj["metadata"].get("deletionTimestamp")}

    async def there(self, resource: Resource, *names: str) -> None:
        async def all_there() -> bool:
            return set(names) <= await self.names(resource)

        async with asyncio.timeout(SLOW):
            while not await all_there():
                await asyncio.sleep(0.2)

    async def stopped(self, cell: Cell) -> list[Object]:
        """Its workloads, once the cluster's own controllers have said that they are at zero."""
        async with asyncio.timeout(SLOW):
            while True:
                try:
                    return await self.remains.workloads(cell)
                except Conflict:
                    await asyncio.sleep(0.2)

    async def replaced(self) -> None:
        """b has nobody any more, was stopped, and its time is up."""
        router = {
            "type": "HAProxy", "customerData": "InCell", "offHome": "Reject",
            "haproxy": {"customerKey": {"type": "Header", "name": "x"}, "initialCells": ["b"]},
        }  # fmt: skip
        await self.create(ROUTERS, "shop", router)
        cells = {name: await self.cell(name) for name in ("b", "b2")}
        await self.create(CLAIMS, "data-b-x", {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}},
        }, labels={"app": "b"})  # fmt: skip
        await eventually(lambda: self.store.router((self.namespace, "shop")), "the Router is watched")
        known = self.store.router((self.namespace, "shop"))
        assert known is not None
        routing, now = Routing.of(known), self.clock.now()
        candidates = [Candidate(name, cell.metadata.uid, "10.0.0.1", 80, 100) for name, cell in cells.items()]
        spec = placement.initial(routing, candidates, epoch=1)
        spec = placement.rehome(spec, routing, "b", "b2", placement.slots_of(spec, "b"))
        spec = placement.succeed(spec, routing, "b", "b2")
        hold = Hold(
            cell="b", max_percent=0, state=HoldState.RETIRED, reason="replaced by b2",
            holder=Holder(kind="RecoveryRun", name="r1", uid="r1"), since=now,
        )  # fmt: skip
        await self.create(PLACEMENTS, "shop", placement.hold(spec, routing, hold).to_dict())
        retirement = Retirement(
            successor="b2", successor_uid=cells["b2"].metadata.uid, until=now - timedelta(hours=1), complete=True,
            conflicts=0, promoted_at=now - timedelta(hours=2), by="r1",
        )  # fmt: skip
        await RunRecords(self.api, self.store).retire(cells["b"], retirement)
        await self.api.merge_patch(STATEFUL_SETS.path(self.namespace, "b"), {"spec": {"replicas": 0}})
        async with asyncio.timeout(SLOW):
            while {"b-0", "b-1"} & await self.names(PODS):
                await asyncio.sleep(0.2)

    async def look(self) -> Seen | None:
        """As the Cell controller does; None where it would come again, for it was about what has changed since."""
        cell = self.store.cell((self.namespace, "b"))
        assert cell is not None
        await self.workloads.ensure_labels(cell)
        try:
            return await self.retirements.look(cell)
        except Conflict:
            return None

    async def reaches(self, reason: str) -> None:
        async with asyncio.timeout(SLOW):
            while (seen := await self.look()) is None or seen.conditions.get("DeletionBlocked", ("", ""))[1] != reason:
                await asyncio.sleep(0.5)


@pytest.fixture
async def fleet(kubeconfig: Path, kubectl: Kubectl, namespace: str, image: str) -> AsyncIterator[Fleet]:
    async with asyncio.timeout(SLOW):
        api = await Api.connect(str(kubeconfig))
    made = Fleet(api, namespace, image)
    await made.start()
    yield made
    await made.stop()
    kinds = ("cells.recell.dev", "routers.recell.dev", "placements.recell.dev", "statefulsets", "services", "pvc")
    for kind in kinds:
        kubectl("delete", kind, "--all", "-n", namespace, "--wait=true", "--timeout=150s")
    await api.close()


async def test_only_with_a_verified_backup_of_the_successor_its_volumes_go(fleet: Fleet) -> None:
    await fleet.replaced()
    moment = fleet.clock.now()
    for backups in ((), (Backup("b2/1", moment, verified=False),), (Backup("b2/1", moment - timedelta(hours=3)),)):
        fleet.backups["b2"] = backups
        fleet.retirements.forget((fleet.namespace, "b"))  # the next hour
        await fleet.reaches("NoBackup")
        assert {"data-b-0", "data-b-1", "data-b2-0"} <= await fleet.names(CLAIMS)
        assert "b" in await fleet.names(STATEFUL_SETS)

    fleet.backups["b2"] = (Backup("b2/2", moment, verified=True),)
    fleet.retirements.forget((fleet.namespace, "b"))
    async with asyncio.timeout(SLOW):
        while (seen := await fleet.look()) is None or not seen.deleted:
            await asyncio.sleep(0.5)
    assert await fleet.names(CELLS) == {"b2"}
    assert await fleet.names(STATEFUL_SETS) == {"b2"}
    assert await fleet.names(CLAIMS) == {"data-b-x", "data-b2-0", "data-b2-1"}
    assert await fleet.names(SERVICES) == {"b2"}
    with pytest.raises(NotFound):
        await fleet.api.get(STATEFUL_SETS.path(fleet.namespace, "b"))


async def test_what_somebody_starts_again_is_not_deleted(fleet: Fleet) -> None:
    await fleet.replaced()
    fleet.backups["b2"] = (Backup("b2/2", fleet.clock.now(), verified=True),)
    cell = fleet.store.cell((fleet.namespace, "b"))
    assert cell is not None
    (read,) = await fleet.stopped(cell)
    await fleet.api.merge_patch(STATEFUL_SETS.path(fleet.namespace, "b"), {"spec": {"replicas": 1}})
    with pytest.raises(Conflict):
        await fleet.remains.delete(read)
    with pytest.raises(Conflict, match=r"spec\.replicas 1"):
        await fleet.remains.workloads(cell)
    await fleet.reaches("StillRunning")
    assert {"data-b-0", "data-b-1"} <= await fleet.names(CLAIMS)
