"""Backups and recoveries by the real CloudNativePG, under the very rights that the chart grants."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.api import Cell, CellTemplate
from recell.api.meta import ANNOTATION_CONTENT, ANNOTATION_REPLACED_CLUSTER
from recell.domain import provisioning
from recell.domain.data import Answer, Customers, Operation, Progress, Request
from recell.domain.provisioning import Order
from recell.engine.ports import Key
from recell.providers.data.cloud_native_pg import CloudNativePGData
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, CNPG_CLUSTERS
from recell.providers.kube.provisioner import KubeProvisioner
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.cnpg.conftest import NAMESPACE, Source
from tests.cnpg.stage import cluster
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.timeout(1500)

WITHIN = 420.0
LOOK_AGAIN = 0.5
CELL_SPEC = {
    "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
    "data": {"type": "CloudNativePG", "cloudNativePG": {"cluster": "$(CELL)-db"}},
}


class Anywhere:
    """Every namespace consents."""

    async def ensure(self, cell: Cell) -> None: ...


class World:
    """The provisioner and the data provider, as the operator has them."""

    def __init__(self, tested: Api, source: Source) -> None:
        self.tested, self.source = tested, source
        self.woken: list[Key] = []
        self.clock = clock = SystemClock()
        self.store = KubeStore(tested, clock, (NAMESPACE,))
        self.provisioner = KubeProvisioner(
            tested, clock, self.store, Anywhere(), is_home=lambda router, cell: False, on_change=self.woken.append
        )
        self.data = self.provider()
        self.cell_a = self.cell("cell-a")

    def provider(self) -> CloudNativePGData:
        return CloudNativePGData(
            self.tested,
            self.clock,
            (NAMESPACE,),
            require_consent=Anywhere().ensure,
            is_home=lambda router, cell: False,
            on_change=self.woken.append,
        )

    def cell(self, name: str) -> Cell:
        spec = {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": name, "port": 80}},
            "data": {"type": "CloudNativePG", "cloudNativePG": {"cluster": f"{name}-db"}},
        }
        return Cell.model_validate({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec})

    def order(self, name: str) -> Order:
        template = {
            "metadata": {"name": "shop-cell", "namespace": NAMESPACE},
            "spec": {"cell": CELL_SPEC, "objects": [cluster()]},
        }
        return Order(name, self.cell_a, CellTemplate.model_validate(template), "run-1")

    async def make(self, order: Order) -> None:
        """The cell with its empty Cluster is made from the template."""

        async def ready() -> bool:
            await asyncio.sleep(LOOK_AGAIN)
            return (await self.provisioner.ensure(order)).progress is provisioning.Progress.READY

        await eventually(ready, f"{order.name} is made", deadline=WITHIN)

    async def ended(self, request: Request, said: list[str] | None = None) -> Answer:
        """With `said` another process goes on whenever something else is said, and that is kept there."""

        async def look() -> Answer | None:
            await asyncio.sleep(LOOK_AGAIN)
            if request.target is not None:  # the engine asks with the Cell as its store has it
                live = self.store.cell(request.target.key)
                assert live is not None
                answer = await self.data.ensure(replace(request, target=live))
            else:
                answer = await self.data.ensure(request)
            if said is not None and (not said or said[-1] != answer.message):
                said.append(answer.message)
                await self.data.stop()
                self.data = self.provider()
            return answer if answer.progress is not Progress.RUNNING else None

        return await eventually(look, f"{request.key} ends", deadline=WITHIN)

    def restore(self, name: str, backup: str, **more: Any) -> Request:
        return Request(
            Operation.RESTORE, f"restore-1-{name}", self.cell_a, target=self.cell(name), backup=backup, **more
        )

    async def live(self, name: str) -> Object:
        return await self.tested.get(CNPG_CLUSTERS.path(NAMESPACE, name))

    async def sql(self, statement: str, cluster: str = "cell-a-db") -> str:
        return await asyncio.to_thread(self.source.sql, statement, cluster)


@pytest.fixture
async def world(operator: Path, source: Source) -> AsyncIterator[World]:
    tested = await Api.connect(str(operator))
    made = World(tested, source)
    made.store.start()
    await asyncio.wait_for(made.store.wait_synced(), 30)
    yield made
    await made.data.stop()
    await made.provisioner.stop()
    await made.store.stop()
    await tested.close()
    await asyncio.sleep(0.25)  # until its connections have said goodbye, too


async def test_what_an_update_without_where_overwrote_is_back(world: World) -> None:
    """From a real backup and the WAL after it, to the moment before, into a cell that a template made."""
    await world.sql("create table orders (id serial primary key, amount int)")
    await world.sql("insert into orders (amount) select 7 from generate_series(1, 100)")
    accessible = await world.ended(Request(Operation.ACCESSIBLE, "accessible-1", world.cell_a))
    assert (accessible.accessible, accessible.when_stopped) == (False, True)
    said: list[str] = []
    made = await world.ended(Request(Operation.BACKUP, "backup-1", world.cell_a), said)
    assert made.progress is Progress.DONE, made.message
    (backup,) = made.backups
    assert backup.at <= datetime.now(UTC) + timedelta(seconds=1)
    assert world.cell_a.key in world.woken

    await world.sql("insert into orders (amount) select 7 from generate_series(1, 50)")
    await asyncio.sleep(2)  # the point is later than the backup's end, which is told in whole seconds
    not_after = await asyncio.to_thread(world.source.now)
    await world.sql("update orders set amount = 0")
    await world.sql("insert into orders (amount) values (1)")
    await asyncio.to_thread(world.source.archive)
    inventory = await world.ended(Request(Operation.INVENTORY, "inventory-1", world.cell_a))
    assert [found.id for found in inventory.backups if found.complete] == [backup.id]

    order = world.order("cell-b")
    await world.make(order)
    empty = await world.live("cell-b-db")
    said.clear()
    answer = await world.ended(world.restore("cell-b", backup.id, not_after=not_after), said)
    assert answer.progress is Progress.DONE, answer.message
    assert answer.customers == Customers(whole=True)
    assert answer.recovery_point == not_after
    assert any("The empty Cluster" in text for text in said), said

    assert await world.sql("select count(*), min(amount), max(amount) from orders", "cell-b-db") == "150|7|7"
    assert await world.sql("select count(*), max(amount) from orders") == "151|1", "the source is as it was"
    await world.sql("insert into orders (amount) values (8)", "cell-b-db")
    # The template counts as applied: giving the cell its weight changes nothing of the database.
    before = await world.live("cell-b-db")
    assert before["metadata"]["uid"] != empty["metadata"]["uid"]
    assert before["metadata"]["annotations"][ANNOTATION_CONTENT] == empty["metadata"]["annotations"][ANNOTATION_CONTENT]
    await world.make(replace(order, weight=100))
    after = await world.live("cell-b-db")
    assert (after["metadata"]["uid"], after["spec"]) == (before["metadata"]["uid"], before["spec"])
    cell = await world.tested.get(CELLS.path(NAMESPACE, "cell-b"))
    assert ANNOTATION_REPLACED_CLUSTER not in (cell["metadata"].get("annotations") or {})
    # It can be backed up itself, beside what the empty one archived.
    own = await world.ended(Request(Operation.BACKUP, "backup-2", world.cell("cell-b")))
    assert own.progress is Progress.DONE, own.message


async def test_as_late_as_possible_is_all_that_was_archived(world: World) -> None:
    await world.sql("create table later (at timestamptz)")
    made = await world.ended(Request(Operation.BACKUP, "backup-3", world.cell_a))
    (backup,) = made.backups
    await world.sql("insert into later values (now())")
    await asyncio.to_thread(world.source.archive)
    await world.make(world.order("cell-c"))
    answer = await world.ended(world.restore("cell-c", backup.id))
    assert answer.progress is Progress.DONE, answer.message
    assert await world.sql("select count(*) from later", "cell-c-db") == "1"
    assert answer.recovery_point is not None
    assert answer.recovery_point < backup.at, "no more is claimed than the backup's end"


async def test_a_moment_that_the_archive_does_not_reach_is_explained_and_can_be_stopped(world: World) -> None:
    await world.sql("create table before (id int)")
    made = await world.ended(Request(Operation.BACKUP, "backup-4", world.cell_a))
    await world.make(world.order("cell-d"))
    request = world.restore("cell-d", made.backups[0].id, not_after=datetime.now(UTC) + timedelta(days=1))

    async def explained() -> bool:
        await asyncio.sleep(LOOK_AGAIN)
        live = world.store.cell((NAMESPACE, "cell-d"))
        answer = await world.data.ensure(replace(request, target=live))
        assert answer.progress is Progress.RUNNING, answer.message
        return "the archive has no transaction that was committed after" in answer.message

    await eventually(explained, "it says why", deadline=WITHIN)

    async def stopped() -> bool:
        return await world.data.cancel(request)

    await eventually(stopped, "it is stopped", deadline=60)
    live = await world.tested.list(CNPG_CLUSTERS.collection(NAMESPACE))
    assert "cell-d-db" not in [item["metadata"]["name"] for item in live.items]


async def test_an_archive_that_cannot_be_reached_is_told(world: World) -> None:
    body = cluster("cell-e-db")
    body["spec"]["backup"]["barmanObjectStore"]["endpointURL"] = "http://s3.nowhere:9000"
    stage = world.source.stage
    where = ("-n", NAMESPACE)
    await asyncio.to_thread(stage.kubectl, *where, "apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(body))
    request = Request(Operation.BACKUP, "backup-5", world.cell("cell-e"))

    async def told() -> bool:
        await asyncio.sleep(LOOK_AGAIN)
        answer = await world.data.ensure(request)
        return "the WAL of Cluster cell-e-db is not archived" in answer.message

    try:
        await eventually(told, "it says so", deadline=WITHIN)
        accessible = await world.ended(Request(Operation.ACCESSIBLE, "accessible-2", world.cell("cell-e")))
        assert not accessible.when_stopped, "no last backup is waited for"
    finally:
        # CloudNativePG makes one backup after another, and this one asks for its archive as long as its pod is there.
        for what in ("cluster.postgresql.cnpg.io/cell-e-db", "pod/cell-e-db-1"):
            gone = ("delete", what, "--ignore-not-found", "--wait=false", "--grace-period=0", "--force")
            await asyncio.to_thread(stage.kubectl, *where, *gone)
