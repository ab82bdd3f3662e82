"""The contract of the Data port for providers that restore everything as one: their fake, VolumeSnapshots, Velero."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api import Cell
from recell.api.cell import DataType
from recell.domain.data import Backup, Operation, Progress, Request
from recell.engine.errors import BadInput
from recell.providers.data.by_type import DataByType
from recell.providers.data.velero import VeleroData
from recell.providers.data.volume_snapshots import VolumeSnapshotsData
from tests.contract.data_rig import DataRig
from tests.fakes.data import FakeData
from tests.fakes.velero_cluster import VeleroCluster, velero_cell
from tests.fakes.volume_cluster import VolumeApi, VolumeCluster, VolumeWorkloads, a_cell

SLOTS = tuple(range(512))


class Rig(DataRig):
    """With two cells that have data behind it."""

    a, b = a_cell("cell-a"), a_cell("cell-b")

    def write(self, cell: str) -> None:
        """A customer's write."""
        raise NotImplementedError

    def content(self, cell: str) -> list[datetime]:
        """When what is there was written."""
        raise NotImplementedError

    async def backed_up(self, key: str = "backup-1") -> Backup:
        (made,) = (await self.done(self.backup(key))).backups
        return made

    def backup(self, key: str = "backup-1") -> Request:
        return Request(Operation.BACKUP, key, self.a)

    def inventory(self, key: str = "inventory-1") -> Request:
        return Request(Operation.INVENTORY, key, self.a)

    def restore(self, backup: str, key: str = "restore-1", **more: Any) -> Request:
        return Request(
            Operation.RESTORE, key, self.a, target=self.b, slots=SLOTS, slot_count=1024, backup=backup, **more
        )


class FakeRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.port = self._data = FakeData(self.clock)
        self._data.whole = True

    def write(self, cell: str) -> None:
        assert self._data.write(cell, "customer")

    def content(self, cell: str) -> list[datetime]:
        return self._data.cells[cell].customers.get("customer", [])


class VolumeRig(Rig):
    """Claims and snapshots of a cluster in memory."""

    type_ = DataType.VOLUME_SNAPSHOTS
    behind: type[VolumeCluster] = VolumeCluster
    provider: type[VolumeSnapshotsData | VeleroData] = VolumeSnapshotsData

    def __init__(self) -> None:
        super().__init__()
        self.cluster = self.behind(self.clock)
        self.cluster.add(self.a, made=False)
        self.cluster.add(self.b)
        self._start()

    def _start(self) -> None:
        async def consent(cell: Cell) -> None:
            pass

        self._data = self.provider(
            VolumeApi(self.cluster),  # type: ignore[arg-type]
            self.clock,
            VolumeWorkloads(self.cluster),
            require_consent=consent,
            is_home=lambda router, cell: cell == "cell-a",
            on_change=lambda key: None,
        )
        self.port = DataByType({self.type_: self._data})

    def write(self, cell: str) -> None:
        self.cluster.write(cell)

    def content(self, cell: str) -> list[datetime]:
        return self.cluster.content(f"data-{cell}-db-0")

    async def another_process(self) -> None:
        await self.stop()
        self._start()

    async def second(self) -> None:
        await super().second()
        self.cluster.second()
        for _ in range(20):  # the watches bring it
            await asyncio.sleep(0)

    async def stop(self) -> None:
        await self._data.stop()


class VeleroRig(VolumeRig):
    """The same with a server of Velero."""

    a, b = velero_cell("cell-a"), velero_cell("cell-b")
    type_ = DataType.VELERO
    behind = VeleroCluster
    provider = VeleroData


@pytest.fixture(params=[FakeRig, VolumeRig, VeleroRig], ids=["fake", "volume-snapshots", "velero"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made: Rig = request.param()
    yield made
    await made.stop()


async def test_nobody_is_moved_and_a_stopped_cell_can_be_backed_up(rig: Rig) -> None:
    answer = await rig.done(Request(Operation.ACCESSIBLE, "look-1", rig.a))
    assert (answer.accessible, answer.when_stopped) == (False, True)
    assert answer.message


@pytest.mark.parametrize("operation", [Operation.MIGRATE, Operation.ABANDON, Operation.CHECK])
async def test_what_is_not_supported_is_said_with_the_field_to_set(rig: Rig, operation: Operation) -> None:
    request = Request(operation, "look-1", rig.a, target=rig.b, slots=SLOTS, slot_count=1024)
    answer = await rig.port.ensure(request)
    assert answer.progress is Progress.UNSUPPORTED
    assert "spec.data.jobs" in answer.message
    assert await rig.port.cancel(request)


async def test_no_backup_is_an_answer(rig: Rig) -> None:
    assert (await rig.done(rig.inventory())).backups == ()


async def test_a_restore_brings_back_exactly_what_the_backup_has(rig: Rig) -> None:
    rig.write("cell-a")
    await rig.seconds(5)
    rig.write("cell-a")
    made = await rig.backed_up()
    await rig.seconds(5)
    rig.write("cell-a")
    rig.write("cell-b")
    assert made in (await rig.done(rig.inventory())).backups
    done = await rig.done(rig.restore(made.id))
    assert done.customers.complete is True
    assert done.recovery_point is not None
    assert done.recovery_point <= made.at
    assert rig.content("cell-b") == rig.content("cell-a")[:2]
    assert all(written <= made.at for written in rig.content("cell-b"))
    assert not [written for written in rig.content("cell-a")[2:] if written <= done.recovery_point]


async def test_the_newest_backup_is_first(rig: Rig) -> None:
    first = await rig.backed_up("backup-1")
    await rig.seconds(60)
    second = await rig.backed_up("backup-2")
    assert (await rig.done(rig.inventory())).backups == (second, first)


async def test_a_backup_later_than_asked_is_refused_and_nothing_is_touched(rig: Rig) -> None:
    rig.write("cell-a")
    made = await rig.backed_up()
    rig.write("cell-b")
    before = list(rig.content("cell-b"))
    answer = await rig.ended(rig.restore(made.id, not_after=made.at - timedelta(seconds=1)))
    assert answer.progress is Progress.FAILED
    assert "is later than" in answer.message
    assert rig.content("cell-b") == before


async def test_a_backup_as_late_as_asked_is_restored(rig: Rig) -> None:
    made = await rig.backed_up()
    done = await rig.done(rig.restore(made.id, not_after=made.at))
    assert done.recovery_point is not None
    assert done.recovery_point <= made.at


async def test_a_backup_that_is_not_there_is_named(rig: Rig) -> None:
    answer = await rig.ended(rig.restore("none"))
    assert answer.progress is Progress.FAILED
    assert "none" in answer.message


async def test_asked_again_nothing_is_done_again(rig: Rig) -> None:
    rig.write("cell-a")
    made = await rig.backed_up()
    assert await rig.backed_up() == made
    assert len((await rig.done(rig.inventory())).backups) == 1
    first = await rig.done(rig.restore(made.id))
    rig.write("cell-b")
    await rig.another_process()
    assert await rig.done(rig.restore(made.id)) == first
    assert len(rig.content("cell-b")) == 2, "what was written since is there"


async def test_another_key_restores_anew(rig: Rig) -> None:
    rig.write("cell-a")
    made = await rig.backed_up()
    await rig.done(rig.restore(made.id))
    await rig.second()
    rig.write("cell-b")
    await rig.done(rig.restore(made.id, key="restore-2"))
    assert rig.content("cell-b") == rig.content("cell-a")


async def test_another_process_goes_on(rig: Rig) -> None:
    rig.write("cell-a")
    request = rig.backup()
    await rig.port.ensure(request)
    await rig.another_process()
    (made,) = (await rig.done(request)).backups
    for _ in range(3):
        await rig.port.ensure(rig.restore(made.id))
        await rig.second()
        await rig.another_process()
    await rig.done(rig.restore(made.id))
    assert rig.content("cell-b") == rig.content("cell-a")


async def test_another_request_under_the_same_key_is_refused(rig: Rig) -> None:
    one, other = await rig.backed_up("backup-1"), await rig.backed_up("backup-2")
    await rig.port.ensure(rig.restore(one.id))
    with pytest.raises(BadInput, match="another request"):
        await rig.port.ensure(rig.restore(other.id))
    await rig.done(rig.restore(one.id))


async def test_a_backup_that_was_called_off_is_none(rig: Rig) -> None:
    request = rig.backup()
    await rig.port.ensure(request)
    for _ in range(30):
        if await rig.port.cancel(request):
            break
        await rig.second()
    else:
        raise AssertionError("it does not stop")
    assert not [backup for backup in (await rig.done(rig.inventory())).backups if backup.complete]


async def test_a_complete_backup_stays_when_it_is_called_off(rig: Rig) -> None:
    made = await rig.backed_up()
    assert await rig.port.cancel(rig.backup())
    assert (await rig.done(rig.inventory())).backups == (made,)


async def test_what_runs_no_more_needs_no_cancelling(rig: Rig) -> None:
    made = await rig.backed_up()
    assert await rig.port.cancel(replace(rig.restore(made.id), key="never-begun"))
    assert await rig.port.cancel(rig.inventory("never-begun"))
