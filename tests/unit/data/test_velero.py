"""The provider of Velero on a cluster in memory: what it makes and changes, when, and what it says."""

import copy
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell
from recell.api.meta import ANNOTATION_RESTORE, LABEL_CLAIM
from recell.domain.data import Operation, Progress, Request
from recell.engine.errors import BadInput, Forbidden
from recell.providers.data.velero import VeleroData
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CELLS, VELERO_BACKUPS, VELERO_RESTORES
from tests.contract.conftest import ManualClock
from tests.fakes.velero_cluster import VELERO, VeleroCluster, velero_cell
from tests.unit.data.whole import WholeWorld

SOURCE, TARGET = velero_cell("cell-a", "a-data", "a-wal"), velero_cell("cell-b", "b-data", "b-wal")
BACKUP = Request(Operation.BACKUP, "backup-1", SOURCE)
INVENTORY = Request(Operation.INVENTORY, "inventory-1", SOURCE)
RESTORE = Request(Operation.RESTORE, "restore-1", SOURCE, target=TARGET, backup="backup-1", slots=(1,), slot_count=1024)
MADE = VELERO_BACKUPS.path(VELERO, BACKUP.key)


class World(WholeWorld):
    kind = VeleroData

    def __init__(self) -> None:
        clock = ManualClock()
        self.cluster = VeleroCluster(clock)
        self.cluster.add(SOURCE, made=False)
        self.cluster.add(TARGET)
        super().__init__(clock, self.cluster)

    async def seconds(self, count: int) -> None:
        for _ in range(count):
            await self.second()

    async def failed(self, request: Request) -> str:
        answer = await self.ended(request)
        assert answer.progress is Progress.FAILED, answer.message
        return answer.message

    async def backed_up(self) -> None:
        """With a write before it, and another one after it."""
        self.cluster.write("cell-a")
        await self.second()
        await self.done(BACKUP)
        await self.second()
        self.cluster.write("cell-a")

    async def scheduled(self, name: str = "nightly-1", **more: Any) -> None:
        self.cluster.schedule(name, **({"labels": {"recell.dev/cell": "cell-a"}} | more))
        await self.seconds(6)

    async def inventory(self, request: Request = INVENTORY) -> list[tuple[str, bool]]:
        return [(backup.id, backup.complete) for backup in (await self.done(request)).backups]

    def writes(self) -> list[str]:
        return [f"{verb} {path.rpartition('/')[2]}" for verb, path in self.cluster.server.writes]

    def sources(self) -> dict[str, list[Any]]:
        """What is in each claim of the target."""
        return {claim: self.cluster.content(claim) for claim in ("b-data", "b-wal")}


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.data.stop()


# Backing up -------------------------------------------------------------------------------------------


async def test_claims_get_the_label_by_which_their_snapshots_are_known(world: World) -> None:
    (made,) = (await world.done(BACKUP)).backups
    assert made.id == "backup-1"
    for claim in ("a-data", "a-wal"):
        assert world.cluster.claim(claim)["metadata"]["labels"][LABEL_CLAIM] == claim
    assert world.writes() == ["patch a-data", "patch a-wal", "create backup-1"]
    await world.done(replace(BACKUP, key="backup-2"))
    assert world.writes()[3:] == ["create backup-2"], "no write where nothing changes"


@pytest.mark.parametrize("position", range(1, 4))
async def test_a_backup_goes_on_after_a_crash(world: World, position: int) -> None:
    world.cluster.crash_after = position
    await world.done(BACKUP)
    assert world.writes() == ["patch a-data", "patch a-wal", "create backup-1"]


async def test_without_a_server_it_says_that_none_runs(world: World) -> None:
    world.cluster.running = False
    await world.data.ensure(BACKUP)
    await world.seconds(5)
    answer = await world.data.ensure(BACKUP)
    assert answer.progress is Progress.RUNNING
    assert (
        "Backup velero/backup-1 has not been begun: another one is in progress, or Velero's server does not run"
        in answer.message
    )
    world.cluster.running = True
    await world.done(BACKUP)


async def test_each_way_to_fail_is_told_apart(world: World) -> None:
    for number, (status, told) in enumerate(
        (
            ({"phase": "PartiallyFailed", "errors": 2}, "(PartiallyFailed): 2 errors"),
            ({"phase": "Failed", "failureReason": "the bucket is gone"}, "failed: the bucket is gone"),
            ({"phase": "FailedValidation", "validationErrors": ["no location"]}, "(FailedValidation): no location"),
        )
    ):
        key = f"backup-{number}"
        world.cluster.ends[key] = status
        assert told in await world.failed(replace(BACKUP, key=key))
    assert dict(await world.inventory()) == dict.fromkeys(("backup-0", "backup-1", "backup-2"), False)


async def test_a_completed_backup_without_snapshots_is_of_no_use(world: World) -> None:
    """Velero calls it Completed all the same when CSI is not switched on."""
    world.cluster.csi = False
    told = await world.failed(BACKUP)
    assert (
        "is of no use: it has 0 CSI snapshots, and the cell 2 claims: Velero's server needs --features=EnableCSI"
        in told
    )
    assert await world.inventory() == [("backup-1", False)]


async def test_a_missing_claim_is_named(world: World) -> None:
    cell = velero_cell("cell-a", "a-data", "elsewhere")
    told = await world.failed(replace(BACKUP, cell=cell))
    assert "spec.data.velero.claims: PersistentVolumeClaim fleet/elsewhere does not exist: correct the name" in told
    assert not [write for write in world.writes() if write.startswith("create")]


async def test_a_name_that_is_taken_is_refused(world: World) -> None:
    world.cluster.schedule("backup-1", labels={})
    with pytest.raises(BadInput, match=r"Backup velero/backup-1 is not the one of this request .* has taken its name"):
        await world.data.ensure(BACKUP)


async def test_without_consent_nothing_is_made(world: World) -> None:
    world.cluster.consent = Forbidden("namespace fleet does not consent")
    with pytest.raises(Forbidden, match="does not consent"):
        await world.data.ensure(BACKUP)
    world.cluster.consent = None
    await world.done(BACKUP)
    before = copy.deepcopy(world.cluster.server.objects)
    world.cluster.consent = Forbidden("namespace fleet does not consent")
    with pytest.raises(Forbidden, match="does not consent"):
        await world.data.ensure(RESTORE)
    assert world.cluster.server.objects == before


@pytest.mark.parametrize("request_", [BACKUP, RESTORE, INVENTORY])
async def test_a_missing_right_names_the_feature(world: World, request_: Request) -> None:
    world.api.broken = MissingPermission('grant verb "list" on resource "backups"')
    with pytest.raises(Forbidden, match=r'verb "list".*features\.velero of the chart.*velero\.namespace'):
        await world.data.ensure(request_)


@pytest.mark.parametrize("request_", [BACKUP, RESTORE, INVENTORY])
@pytest.mark.parametrize(
    ("gone", "what"),
    [
        ("velero.io/v1", "no Velero: the API server has no kind Backup"),
        ("snapshot.storage.k8s.io/v1", "no snapshots: "),
    ],
)
async def test_without_the_crds_it_says_what_to_install(world: World, request_: Request, gone: str, what: str) -> None:
    world.cluster.server.remove(f"/apis/{gone}")
    answer = await world.data.ensure(request_)
    assert answer.progress is Progress.UNSUPPORTED
    assert what in answer.message
    assert "install the CustomResourceDefinition" in answer.message
    assert world.writes() == []


async def test_called_off_a_backup_goes_on(world: World) -> None:
    await world.data.ensure(BACKUP)
    await world.seconds(2)
    assert await world.data.cancel(BACKUP)
    await world.seconds(5)
    assert await world.inventory() == [("backup-1", True)]
    assert not [write for write in world.writes() if write.startswith("delete")]


# Which backups there are ------------------------------------------------------------------------------


async def test_backups_of_schedules_count_by_label_or_by_name(world: World) -> None:
    await world.scheduled()
    await world.scheduled("all-1", labels={"velero.io/schedule-name": "all"})
    await world.scheduled("theirs-1", labels={"recell.dev/cell": "cell-z"})
    assert await world.inventory() == [("nightly-1", True)]
    named = velero_cell("cell-a", "a-data", "a-wal", schedules=["all"])
    assert await world.inventory(replace(INVENTORY, cell=named)) == [("all-1", True), ("nightly-1", True)]


async def test_one_that_expired_is_not_restored_from(world: World) -> None:
    await world.backed_up()
    world.clock.advance(timedelta(days=31).total_seconds())
    assert await world.inventory() == [("backup-1", False)]
    assert "is not complete: it expired" in await world.failed(RESTORE)
    assert VELERO_RESTORES.path(VELERO, "restore-1") not in world.cluster.server.objects


async def test_what_was_in_a_claim_before_it_was_made_anew_is_no_backup_of_it(world: World) -> None:
    of_target = Request(Operation.INVENTORY, "inventory-1", TARGET)
    await world.done(Request(Operation.BACKUP, "empty", TARGET))
    await world.backed_up()
    assert await world.inventory(of_target) == [("empty", True)]
    await world.done(RESTORE)
    assert await world.inventory(of_target) == []
    third = velero_cell("cell-c", "c-data", "c-wal")
    world.cluster.add(third)
    again = Request(Operation.RESTORE, "restore-2", TARGET, target=third, backup="empty")
    assert "is of volumes that it had before a restore" in await world.failed(again)


# Restoring --------------------------------------------------------------------------------------------


async def test_each_claim_gets_the_snapshot_of_its_place(world: World) -> None:
    await world.backed_up()
    old = copy.deepcopy(world.cluster.claim("b-data"))
    answer = await world.done(RESTORE)
    assert answer.customers.whole
    assert world.sources() == {
        "b-data": world.cluster.content("a-data")[:1],
        "b-wal": world.cluster.content("a-wal")[:1],
    }
    new = world.cluster.claim("b-data")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["metadata"]["labels"] == old["metadata"]["labels"]
    source = new["spec"]["dataSource"]
    assert source["kind"] == "VolumeSnapshot"
    assert source != world.cluster.claim("b-wal")["spec"]["dataSource"]
    assert new["spec"]["resources"]["requests"]["storage"] == "12Gi", (
        "the size that Velero noted, for the driver told none"
    )
    assert world.cluster.sets["cell-b"].replicas == 1


async def test_the_point_is_when_the_backup_began(world: World) -> None:
    await world.backed_up()
    answer = await world.done(RESTORE)
    began = world.cluster.backup("backup-1")["status"]["startTimestamp"]
    assert answer.recovery_point is not None
    assert answer.recovery_point.isoformat() == began.replace("Z", "+00:00")


async def test_a_schedules_backup_is_restored_if_the_claims_had_their_labels(world: World) -> None:
    await world.scheduled("early")
    for claim in ("a-data", "a-wal"):
        world.cluster.label(claim, **{LABEL_CLAIM: claim})
    world.cluster.write("cell-a")
    await world.scheduled("late")
    told = await world.failed(replace(RESTORE, backup="early"))
    assert "Restore restore-1 brought no VolumeSnapshots of claim a-data: when Backup early was made" in told
    assert "recell.dev/claim: a-data" in told
    assert world.cluster.sets["cell-b"].replicas == 1
    assert not [write for write in world.writes() if write.startswith("delete")]
    await world.done(replace(RESTORE, backup="late", key="restore-2"))
    assert world.sources()["b-data"] == world.cluster.content("a-data")


async def test_nothing_of_the_target_is_touched_before_the_snapshots_are_there(world: World) -> None:
    await world.backed_up()
    world.cluster.stays = {"InProgress"}
    before = len(world.writes())
    for _ in range(6):
        assert (await world.data.ensure(RESTORE)).progress is Progress.RUNNING
        await world.second()
    assert world.writes()[before:] == ["create restore-1"]
    assert world.cluster.sets["cell-b"].replicas == 1


async def test_each_way_in_which_a_restore_fails_is_told_apart(world: World) -> None:
    await world.backed_up()
    for number, (status, told) in enumerate(
        (
            ({"phase": "PartiallyFailed", "errors": 1, "warnings": 2}, "(PartiallyFailed): 1 error and 2 warnings"),
            ({"phase": "Failed", "failureReason": "cannot read the bucket"}, "failed: cannot read the bucket"),
            ({"phase": "FailedValidation", "validationErrors": ["no backup"]}, "(FailedValidation): no backup"),
        )
    ):
        request = replace(RESTORE, key=f"restore-{number}")
        world.cluster.ends[request.key] = status
        told_ = await world.failed(request)
        assert told in told_
        assert told_.startswith(f"Restore velero/restore-{number} ")
    assert not [write for write in world.writes() if write.startswith("delete")]


async def test_a_snapshot_that_is_not_ready_is_waited_for(world: World) -> None:
    await world.backed_up()
    await world.data.ensure(RESTORE)
    await world.seconds(3)
    for path, obj in list(world.cluster.server.objects.items()):
        if obj.get("spec", {}).get("source", {}).get("volumeSnapshotContentName"):
            error = {"message": "the handle is not known", "time": "2026-01-01T00:00:00Z"}
            world.cluster.says(path, readyToUse=False, error=error)
    answer = await world.data.ensure(RESTORE)
    assert answer.progress is Progress.RUNNING
    assert "of claim a-data is not ready to use: the handle is not known" in answer.message
    assert not [write for write in world.writes() if write.startswith("delete")]


@pytest.mark.parametrize("position", range(1, 10))
async def test_killed_after_each_write_it_goes_on_and_does_everything_once(world: World, position: int) -> None:
    await world.backed_up()
    before = len(world.writes())
    world.cluster.written, world.cluster.crash_after = 0, position
    await world.done(RESTORE)
    assert world.sources()["b-wal"] == world.cluster.content("a-wal")[:1]
    assert sorted(write for write in world.writes()[before:] if not write.startswith("patch")) == [
        "create b-data",
        "create b-wal",
        "create restore-1",
        "delete b-data",
        "delete b-wal",
    ]
    assert world.cluster.sets["cell-b"].replicas == 1
    # Velero's Restore, the record, stopping, two deletions, two claims, starting: a crash comes before the last one
    assert world.cluster.written == 8


async def test_a_claim_that_a_person_made_is_never_replaced_and_nothing_is_brought(world: World) -> None:
    mine = velero_cell("cell-c", "c-data", "c-wal")
    world.cluster.add(mine, made=False)
    await world.backed_up()
    before = copy.deepcopy(world.cluster.server.objects)
    with pytest.raises(BadInput, match=r"spec\.data\.velero\.claims: .* fleet/c-data was not made from a template"):
        await world.data.ensure(replace(RESTORE, target=mine))
    world.cluster.home = {"cell-b"}
    with pytest.raises(BadInput, match="Cell cell-b is the home of customers"):
        await world.data.ensure(RESTORE)
    assert world.cluster.server.objects == before


async def test_an_ended_restore_is_told_again_whatever_became_of_its_objects(world: World) -> None:
    await world.backed_up()
    done = await world.done(RESTORE)
    world.cluster.home = {"cell-b"}
    world.cluster.server.remove(VELERO_RESTORES.path(VELERO, "restore-1"))
    world.cluster.server.remove(MADE)
    before = len(world.writes())
    assert await world.data.ensure(RESTORE) == done
    assert len(world.writes()) == before


async def test_a_restore_of_that_name_by_somebody_else_is_refused(world: World) -> None:
    await world.backed_up()
    metadata = {"name": "restore-1", "namespace": VELERO}
    body = {"kind": "Restore", "metadata": metadata, "spec": {"backupName": "backup-1"}}
    world.cluster.server.put(VELERO_RESTORES.path(VELERO, "restore-1"), body)
    with pytest.raises(BadInput, match=r"Restore velero/restore-1 is not the one of this request"):
        await world.data.ensure(RESTORE)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (velero_cell("cell-b", "b-data"), r"spec\.data\.velero\.claims has 1 claims, and that of cell cell-a 2"),
        (
            TARGET.model_copy(
                update={
                    "spec": TARGET.spec.model_copy(
                        update={
                            "data": Cell.model_validate(
                                {"spec": {"routerRef": {"name": "x"}, "backend": {"type": "Service"}}}
                            ).spec.data
                        }
                    )
                }
            ),
            r"spec\.data\.type has to be Velero",
        ),
    ],
    ids=["fewer", "type"],
)
async def test_a_target_that_cannot_hold_it_is_refused(world: World, target: Cell, told: str) -> None:
    await world.backed_up()
    with pytest.raises(BadInput, match=told):
        await world.data.ensure(replace(RESTORE, target=target))


async def test_called_off_the_workloads_are_what_they_were(world: World) -> None:
    await world.backed_up()
    while world.cluster.sets["cell-b"].replicas:
        await world.data.ensure(RESTORE)
        await world.second()
    assert await world.data.cancel(RESTORE)
    assert (world.cluster.sets["cell-b"].replicas, world.cluster.sets["cell-b"].token) == (1, None)


async def test_the_record_is_on_the_cell_before_anything_is_deleted(world: World) -> None:
    await world.backed_up()
    path = CELLS.path(*TARGET.key)
    while ANNOTATION_RESTORE not in (world.cluster.server.objects[path]["metadata"].get("annotations") or {}):
        assert not [write for write in world.writes() if write.startswith("delete")]
        await world.data.ensure(RESTORE)
        await world.second()
    record: dict[str, Any] = json.loads(
        world.cluster.server.objects[path]["metadata"]["annotations"][ANNOTATION_RESTORE]
    )
    assert [claim["metadata"]["name"] for claim in record["claims"]] == ["b-data", "b-wal"]


# Watching ---------------------------------------------------------------------------------------------


async def test_changes_wake_who_waits_and_nothing_is_watched_afterwards(world: World) -> None:
    await world.data.ensure(BACKUP)
    await world.second()
    world.woken.clear()
    await world.second()
    assert set(world.woken) == {SOURCE.key}
    await world.done(BACKUP)
    await world.data.ensure(RESTORE)
    watched = {(path.rpartition("/")[2], labels) for path, labels in world.cluster.server.watched()}
    assert ("volumesnapshots", "velero.io/restore-name=restore-1") in watched
    await world.second()
    world.woken.clear()
    await world.second()
    assert set(world.woken) == {TARGET.key}
    await world.done(RESTORE)
    await world.second()
    assert world.cluster.server.watched() == []
    assert world.data.reflectors == ()


async def test_what_may_not_be_watched_is_told(world: World) -> None:
    await world.data.ensure(BACKUP)
    (watch,) = world.data.reflectors
    watch.trouble = MissingPermission('grant verb "watch" on resource "backups"')
    with pytest.raises(Forbidden, match=r'verb "watch".*features\.velero'):
        await world.data.ensure(BACKUP)
