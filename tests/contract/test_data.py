"""The contract of the Data port: the fake, and Jobs that do the fake's work, keep it alike."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api import Cell
from recell.api.cell import DataType
from recell.domain.data import Answer, Backup, Operation, Progress, Request, from_ranges, ranges
from recell.domain.placement import slot_of
from recell.engine.errors import BadInput
from recell.providers.data.by_type import DataByType
from recell.providers.data.job_template import FIELDS
from recell.providers.data.jobs import JobsData
from tests.contract.data_rig import DataRig
from tests.fakes.data import FakeData
from tests.fakes.job_cluster import Exited, JobApi, JobCluster
from tests.unit.domain import builders

LOW, HIGH = tuple(range(512)), tuple(range(512, 1024))


def a_cell(name: str, *, without: Sequence[Operation] = ()) -> Cell:
    jobs = {field: field for operation, field in FIELDS.items() if operation not in without}
    return builders.cell(name, data={"type": "Jobs", "jobs": jobs})


A, B = a_cell("cell-a"), a_cell("cell-b")


class Rig(DataRig):
    """With the data behind it: `data.cells` and so on are what tests set and see."""

    def __init__(self) -> None:
        super().__init__()
        self.begun: list[str] = []
        self.data = FakeData(self.clock, wrote=lambda kind, what: self.begun.append(what))


class FakeRig(Rig):
    def __init__(self) -> None:
        super().__init__()
        self.port = self.data


class Work:
    """A Job's program that keeps the contract of docs/providers/jobs.md; its data is the fake's."""

    def __init__(self, data: FakeData) -> None:
        self._data = data

    async def work(self, environment: Mapping[str, str], log: list[str]) -> Exited | None:
        answer = await self._data.ensure(self._request(environment))
        if answer.progress is Progress.FAILED:
            log.append(f"error: {answer.message}")
            return Exited(3)
        if answer.progress is Progress.DONE:
            return Exited(0, json.dumps(self._result(environment["RECELL_OPERATION"], answer)))
        log.append(f"recell-progress {json.dumps({'done': answer.done, 'of': answer.of})}")
        return None

    async def stop(self, environment: Mapping[str, str]) -> None:
        await self._data.cancel(self._request(environment))

    @staticmethod
    def _request(told: Mapping[str, str]) -> Request:
        return Request(
            operation=Operation(told["RECELL_OPERATION"]),
            key=told["RECELL_KEY"],
            cell=a_cell(told["RECELL_CELL"]),
            target=a_cell(told["RECELL_TARGET"]) if told["RECELL_TARGET"] else None,
            slots=from_ranges(told["RECELL_SLOTS"]),
            slot_count=int(told["RECELL_SLOT_COUNT"] or 0),
            backup=told["RECELL_BACKUP"],
            not_after=datetime.fromisoformat(told["RECELL_NOT_AFTER"]) if told["RECELL_NOT_AFTER"] else None,
        )

    @staticmethod
    def _result(operation: str, answer: Answer) -> dict[str, Any]:
        told: dict[str, Any] = {"message": answer.message} if answer.message else {}
        customers = answer.customers
        if operation == Operation.INVENTORY:
            fields = ("id", "complete", "verified")
            told["backups"] = [
                {"at": b.at.isoformat()} | {name: getattr(b, name) for name in fields} for b in answer.backups
            ]
            if answer.until is not None:
                told["until"] = answer.until.isoformat()
        elif operation == Operation.ACCESSIBLE:
            told["accessible"] = answer.accessible
        elif operation == Operation.CHECK:
            told["intact"] = answer.intact
        elif operation == Operation.BACKUP:
            told |= {"id": answer.backups[0].id, "at": answer.backups[0].at.isoformat()}
        elif operation != Operation.ABANDON:
            names = ("expected", "done", "failed", "names")
            told["customers"] = {name: getattr(customers, name) for name in names} | {"slots": ranges(customers.slots)}
            told["records"] = answer.records
            if answer.recovery_point is not None:
                told["recoveryPoint"] = answer.recovery_point.isoformat()
        return told


class JobsRig(Rig):
    """The provider of Jobs on a cluster in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.cluster = JobCluster(self.clock, Work(self.data))
        for name in FIELDS.values():
            self.cluster.cron_job("fleet", name)
        self._start()

    def _start(self) -> None:
        async def consent(cell: Cell) -> None:
            pass

        self._jobs = JobsData(
            JobApi(self.cluster),  # type: ignore[arg-type]
            self.clock,
            ("fleet",),
            require_consent=consent,
            on_change=lambda key: None,
        )
        self.port = DataByType({DataType.JOBS: self._jobs})

    async def another_process(self) -> None:
        await self.stop()
        self._start()

    async def second(self) -> None:
        await super().second()
        await self.cluster.second()
        for _ in range(20):  # the watches bring it
            await asyncio.sleep(0)

    async def stop(self) -> None:
        await self._jobs.stop()


@pytest.fixture(params=[FakeRig, JobsRig], ids=["fake", "jobs"])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made: Rig = request.param()
    yield made
    await made.stop()


def migrate(key: str = "migrate-1", slots: tuple[int, ...] = LOW) -> Request:
    return Request(Operation.MIGRATE, key, A, target=B, slots=slots, slot_count=1024)


def abandon(key: str = "abandon-1", slots: tuple[int, ...] = LOW) -> Request:
    return replace(migrate(key, slots), operation=Operation.ABANDON)


def restore(backup: str, key: str = "restore-1", **more: Any) -> Request:
    return replace(migrate(key), operation=Operation.RESTORE, backup=backup, **more)


def inventory(key: str = "inventory-1") -> Request:
    return Request(Operation.INVENTORY, key, A)


# Once -------------------------------------------------------------------------------------------------


async def test_asked_for_often_it_is_done_once(rig: Rig) -> None:
    rig.data.populate("cell-a", 10, LOW)
    first = await rig.port.ensure(migrate())
    assert first.progress is Progress.RUNNING
    done = await rig.done(migrate())
    for _ in range(3):
        assert await rig.port.ensure(migrate()) == done
        await rig.second()
    assert rig.begun == ["Migrate cell-a to cell-b"]


async def test_another_process_does_not_begin_it_again(rig: Rig) -> None:
    rig.data.populate("cell-a", 10, LOW)
    await rig.port.ensure(migrate())
    await rig.seconds(20)
    await rig.another_process()
    assert (await rig.port.ensure(migrate())).progress is Progress.RUNNING
    done = await rig.done(migrate())
    await rig.another_process()
    assert await rig.port.ensure(migrate()) == done
    assert rig.begun == ["Migrate cell-a to cell-b"]


async def test_what_the_status_of_a_cell_says_makes_no_other_request(rig: Rig) -> None:
    await rig.port.ensure(inventory())
    seen = A.model_copy(update={"status": A.status.model_copy(update={"phase": "Failed"})})
    await rig.done(replace(inventory(), cell=seen))


@pytest.mark.parametrize(
    "other",
    [
        replace(migrate(), slots=HIGH),
        replace(migrate(), target=a_cell("cell-c")),
        replace(migrate(), operation=Operation.ABANDON),
        replace(migrate(), operation=Operation.RESTORE, backup="b-1"),
    ],
    ids=["slots", "target", "operation", "backup"],
)
async def test_another_request_under_the_same_key_is_refused(rig: Rig, other: Request) -> None:
    await rig.port.ensure(migrate())
    with pytest.raises(BadInput, match="another request"):
        await rig.port.ensure(other)
    await rig.done(migrate())
    with pytest.raises(BadInput, match="another request"):
        await rig.port.ensure(other)
    assert rig.begun == ["Migrate cell-a to cell-b"]


async def test_progress_is_told_and_grows(rig: Rig) -> None:
    rig.data.populate("cell-a", 30, LOW)
    told = []
    while (answer := await rig.port.ensure(migrate())).progress is Progress.RUNNING:
        if answer.done is not None:
            told.append((answer.done, answer.of))
        await rig.second()
    assert {of for _, of in told} == {30}
    assert told == sorted(told)
    assert any(0 < done < 30 for done, _ in told)


# What the operations promise --------------------------------------------------------------------------


async def test_the_inventory_is_newest_first(rig: Rig) -> None:
    rig.data.populate("cell-a", 3, LOW)
    old = rig.data.back_up("cell-a", "old", verified=True)
    await rig.seconds(60)
    new = rig.data.back_up("cell-a", "new", complete=False)
    rig.data.back_up("cell-b", "other")
    found = await rig.done(inventory())
    assert found.backups == (Backup("new", new.at, complete=False), Backup("old", old.at, verified=True))
    assert found.until is None
    rig.data.cells["cell-a"].archiving = True
    later = await rig.done(inventory("inventory-2"))
    assert later.until is not None
    assert later.until > new.at


async def test_no_backup_is_an_answer(rig: Rig) -> None:
    assert (await rig.done(inventory())).backups == ()


async def test_accessible_says_why_not(rig: Rig) -> None:
    assert (await rig.done(Request(Operation.ACCESSIBLE, "look-1", A))).accessible is True
    rig.data.cells["cell-a"].accessible = False
    found = await rig.done(Request(Operation.ACCESSIBLE, "look-2", A))
    assert found.accessible is False
    assert "does not answer" in found.message


async def test_a_migration_copies_the_asked_customers_and_stops_their_writes(rig: Rig) -> None:
    moved = rig.data.populate("cell-a", 10, LOW)
    staying = rig.data.populate("cell-a", 20, HIGH)[-1]
    assert rig.data.write("cell-a", moved[0])
    done = await rig.done(migrate())
    assert (done.customers.expected, done.customers.done, done.customers.failed) == (10, 10, 0)
    assert done.customers.complete is True
    assert done.records == 11
    target = rig.data.cells["cell-b"]
    assert set(target.customers) == set(moved)
    assert target.customers[moved[0]] == rig.data.cells["cell-a"].customers[moved[0]]
    assert not rig.data.write("cell-a", moved[0])
    assert rig.data.write("cell-a", staying)
    assert rig.data.write("cell-b", moved[0])


async def test_no_acknowledged_write_is_lost_by_a_migration(rig: Rig) -> None:
    moved = rig.data.populate("cell-a", 10, LOW)
    acknowledged = []
    while (await rig.port.ensure(migrate())).progress is Progress.RUNNING:
        for name in moved:
            if rig.data.write("cell-a", name):
                acknowledged.append((name, rig.clock.now()))
        await rig.second()
    assert acknowledged
    for name, moment in acknowledged:
        assert moment in rig.data.cells["cell-b"].customers[name]


async def test_customers_that_fail_are_named_with_their_slots(rig: Rig) -> None:
    names = rig.data.populate("cell-a", 10, LOW)
    rig.data.failing = {names[3], names[7]}
    done = await rig.done(migrate())
    told = done.customers
    assert (told.expected, told.done, told.failed) == (10, 8, 2)
    assert set(told.names) == rig.data.failing
    assert set(told.slots) == {slot_of(name, 1024) for name in rig.data.failing}
    assert told.complete is False


async def test_slots_that_are_not_routed_are_given_back(rig: Rig) -> None:
    names = rig.data.populate("cell-a", 10, LOW)
    rig.data.failing = {names[3]}
    told = (await rig.done(migrate())).customers
    await rig.done(abandon(slots=told.slots))
    assert rig.data.write("cell-a", names[3])
    back = {name for name in names if slot_of(name, 1024) in told.slots}
    assert set(rig.data.cells["cell-b"].customers) == set(names) - back
    assert rig.data.cells["cell-a"].stopped == set(names) - back


async def test_nobody_of_nobody_proves_nothing(rig: Rig) -> None:
    done = await rig.done(migrate())
    assert (done.customers.expected, done.customers.done) == (0, 0)
    assert done.customers.complete is None


async def test_a_restore_brings_back_what_the_backup_has(rig: Rig) -> None:
    names = rig.data.populate("cell-a", 5, LOW)
    made = rig.data.back_up("cell-a", "b-1")
    await rig.seconds(60)
    rig.data.write("cell-a", names[0])
    done = await rig.done(restore("b-1"))
    assert done.recovery_point == made.at
    assert (done.customers.expected, done.customers.done, done.records) == (5, 5, 5)


async def test_nothing_later_than_asked_is_restored(rig: Rig) -> None:
    names = rig.data.populate("cell-a", 5, LOW)
    rig.data.cells["cell-a"].archiving = True
    rig.data.back_up("cell-a", "b-1")
    for _ in range(10):
        await rig.second()
        rig.data.write("cell-a", names[0])
    not_after = rig.clock.now() - timedelta(seconds=4.5)
    done = await rig.done(restore("b-1", not_after=not_after))
    assert done.recovery_point == not_after
    restored = rig.data.cells["cell-b"].customers[names[0]]
    assert restored == [moment for moment in rig.data.cells["cell-a"].customers[names[0]] if moment <= not_after]
    assert len(restored) == 6


async def test_a_backup_later_than_asked_is_refused(rig: Rig) -> None:
    rig.data.populate("cell-a", 5, LOW)
    made = rig.data.back_up("cell-a", "b-1")
    answer = await rig.ended(restore("b-1", not_after=made.at - timedelta(seconds=1)))
    assert answer.progress is Progress.FAILED
    assert "is later than" in answer.message
    assert not rig.data.cells["cell-b"].customers


async def test_a_second_restore_does_nothing_twice(rig: Rig) -> None:
    names = rig.data.populate("cell-a", 5, LOW)
    rig.data.back_up("cell-a", "b-1")
    first = await rig.done(restore("b-1"))
    rig.data.write("cell-b", names[0])
    second = await rig.done(restore("b-1", key="restore-2"))
    assert second.customers == first.customers
    assert len(rig.data.cells["cell-b"].customers[names[0]]) == 2


async def test_a_backup_can_be_restored_from(rig: Rig) -> None:
    rig.data.populate("cell-a", 5, LOW)
    (made,) = (await rig.done(Request(Operation.BACKUP, "backup-1", A))).backups
    assert made in (await rig.done(inventory())).backups
    assert (await rig.done(restore(made.id))).customers.complete


async def test_integrity_follows_the_data(rig: Rig) -> None:
    def check(key: str, cell: Cell = A) -> Request:
        return Request(Operation.CHECK, key, cell)

    rig.data.populate("cell-a", 5, LOW)
    rig.data.back_up("cell-a", "sound")
    assert (await rig.done(check("check-1"))).intact is True
    rig.data.corrupt("cell-a")
    found = await rig.done(check("check-2"))
    assert found.intact is False
    assert "corrupted" in found.message
    rig.data.back_up("cell-a", "spoilt")
    await rig.done(restore("sound"))
    assert (await rig.done(check("check-3", B))).intact is True
    elsewhere = a_cell("cell-c")
    await rig.done(replace(restore("spoilt", key="restore-2"), target=elsewhere))
    assert (await rig.done(check("check-4", elsewhere))).intact is False


async def test_an_abandoned_migration_leaves_the_source_as_it_was(rig: Rig) -> None:
    moved = rig.data.populate("cell-a", 10, LOW)
    await rig.done(migrate())
    await rig.done(abandon())
    assert not rig.data.cells["cell-b"].customers
    assert all(rig.data.write("cell-a", name) for name in moved)
    await rig.done(abandon("abandon-2"))


# When it does not work --------------------------------------------------------------------------------


async def test_a_failure_tells_its_reason(rig: Rig) -> None:
    rig.data.fails[Operation.MIGRATE] = "the disk is full"
    answer = await rig.ended(migrate())
    assert answer.progress is Progress.FAILED
    assert "the disk is full" in answer.message
    assert await rig.port.ensure(migrate()) == answer
    assert len(rig.begun) == 1


async def test_another_key_is_another_try(rig: Rig) -> None:
    rig.data.populate("cell-a", 5, LOW)
    rig.data.fails[Operation.MIGRATE] = "the disk is full"
    await rig.ended(migrate())
    rig.data.fails.clear()
    assert (await rig.done(migrate("migrate-2"))).customers.complete


async def test_what_is_not_supported_is_said_and_nothing_begins(rig: Rig) -> None:
    unset = replace(migrate(), cell=builders.cell("cell-a"))
    answer = await rig.port.ensure(unset)
    assert answer.progress is Progress.UNSUPPORTED
    assert "spec.data" in answer.message
    rig.data.unsupported = {Operation.MIGRATE}
    partly = await rig.port.ensure(replace(migrate(), cell=a_cell("cell-a", without=[Operation.MIGRATE])))
    assert partly.progress is Progress.UNSUPPORTED
    assert "spec.data" in partly.message
    assert await rig.port.cancel(unset)
    assert rig.begun == []


# Cancelling -------------------------------------------------------------------------------------------


async def cancelled(rig: Rig, request: Request) -> None:
    for _ in range(60):
        if await rig.port.cancel(request):
            return
        await rig.second()
    raise AssertionError("it does not stop")


async def test_cancelled_means_that_nothing_goes_on(rig: Rig) -> None:
    rig.data.populate("cell-a", 30, LOW)
    await rig.port.ensure(migrate())
    await rig.seconds(30)
    assert not await rig.port.cancel(migrate())
    await cancelled(rig, migrate())
    assert await rig.port.cancel(migrate())
    copied = dict(rig.data.cells["cell-b"].customers)
    assert 0 < len(copied) < 30
    await rig.seconds(60)
    assert rig.data.cells["cell-b"].customers == copied
    assert rig.begun == ["Migrate cell-a to cell-b", "cancel Migrate cell-a to cell-b"]
    await rig.done(abandon())
    assert not rig.data.cells["cell-a"].stopped


async def test_after_a_cancel_another_one_goes_on_where_it_stopped(rig: Rig) -> None:
    rig.data.populate("cell-a", 30, LOW)
    await rig.port.ensure(migrate())
    await rig.seconds(30)
    await cancelled(rig, migrate())
    done = await rig.done(migrate("migrate-2"))
    assert (done.customers.expected, done.customers.done) == (30, 30)


async def test_there_is_nothing_to_cancel_before_the_beginning_and_after_the_end(rig: Rig) -> None:
    assert await rig.port.cancel(inventory())
    found = await rig.done(inventory())
    assert await rig.port.cancel(inventory())
    assert await rig.port.ensure(inventory()) == found
    assert rig.begun == ["Inventory cell-a"]
