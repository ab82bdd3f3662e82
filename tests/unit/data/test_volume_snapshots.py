"""The provider of VolumeSnapshots on a cluster in memory: what it makes and deletes, when, and what it says."""

import copy
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from recell.api import Cell
from recell.api.meta import ANNOTATION_RESTORE, LABEL_BACKUP
from recell.domain.data import Operation, Progress, Request
from recell.engine.errors import BadInput, Forbidden
from recell.providers.data.volume_snapshots import VolumeSnapshotsData
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CELLS, CLAIMS, PODS, VOLUME_SNAPSHOTS
from tests.contract.conftest import ManualClock
from tests.fakes.volume_cluster import NAMESPACE, VolumeCluster, a_cell
from tests.unit.data.whole import WholeWorld

ONE, ONE_MADE = a_cell("cell-a"), a_cell("cell-b")
TWO, TWO_MADE = a_cell("cell-a", "a-data", "a-wal"), a_cell("cell-b", "b-data", "b-wal")
BACKUP = Request(Operation.BACKUP, "backup-1", ONE)
RESTORE = Request(Operation.RESTORE, "restore-1", ONE, target=ONE_MADE, backup="backup-1", slots=(1,), slot_count=1024)
BACKUP_TWO = replace(BACKUP, cell=TWO)
RESTORE_TWO = replace(RESTORE, cell=TWO, target=TWO_MADE)


class World(WholeWorld):
    kind = VolumeSnapshotsData

    def __init__(self, *cells: Cell) -> None:
        clock = ManualClock()
        self.cluster = VolumeCluster(clock)
        for cell in cells:
            self.cluster.add(cell, made=cell.metadata.name == "cell-b")
        super().__init__(clock, self.cluster)

    async def backed_up(self, request: Request = BACKUP) -> None:
        """With a write before it, and another one after it."""
        name = request.cell.metadata.name
        self.cluster.write(name)
        await self.done(request)
        await self.second()
        self.cluster.write(name)

    def writes(self) -> list[str]:
        """What was created and deleted of claims and snapshots, in order."""
        return [
            f"{verb} {path.rpartition('/')[2]}"
            for verb, path in self.cluster.server.writes
            if verb in ("create", "delete")
        ]


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World(ONE, ONE_MADE)
    yield made
    await made.data.stop()


@pytest.fixture
async def world_of_two() -> AsyncIterator[World]:
    made = World(TWO, TWO_MADE)
    yield made
    await made.data.stop()


# Backing up -------------------------------------------------------------------------------------------


async def test_a_snapshot_for_each_claim_labelled_as_one_backup(world_of_two: World) -> None:
    world = world_of_two
    settings = TWO.spec.data.volume_snapshots
    assert settings is not None
    with_class = settings.model_copy(update={"class_name": "csi"})
    cell = TWO.model_copy(
        update={
            "spec": TWO.spec.model_copy(
                update={"data": TWO.spec.data.model_copy(update={"volume_snapshots": with_class})}
            )
        }
    )
    (made,) = (await world.done(replace(BACKUP, cell=cell))).backups
    assert made.id == "backup-1"
    found = [world.cluster.snapshot(name) for name in ("backup-1-0", "backup-1-1")]
    assert [each["spec"] for each in found] == [
        {"source": {"persistentVolumeClaimName": claim}, "volumeSnapshotClassName": "csi"}
        for claim in ("a-data", "a-wal")
    ]
    for each in found:
        labels = each["metadata"]["labels"]
        assert labels == {"recell.dev/made-by": "recell", "recell.dev/cell": "cell-a", LABEL_BACKUP: "backup-1"}
        assert "ownerReferences" not in each["metadata"]


async def test_nothing_that_is_in_a_backup_is_later_than_it_says(world: World) -> None:
    """creationTime is cut off to the second."""
    (made,) = (await world.done(BACKUP)).backups
    taken = world.cluster.snapshot("backup-1")["status"]["creationTime"]
    assert made.at.isoformat() > taken.replace("Z", "+00:00")
    assert (await world.ended(replace(RESTORE, not_after=made.at - timedelta(seconds=1)))).progress is Progress.FAILED


async def test_what_the_controller_cannot_do_is_told_until_it_mends(world: World) -> None:
    world.cluster.problem = "the pool is full"
    await world.data.ensure(BACKUP)
    await world.second()
    answer = await world.data.ensure(BACKUP)
    assert answer.progress is Progress.RUNNING
    assert "VolumeSnapshot fleet/backup-1 of claim data-cell-a-db-0: the pool is full; it is tried again" in (
        answer.message
    )
    world.cluster.problem = ""
    await world.done(BACKUP)


async def test_a_missing_claim_is_named(world: World) -> None:
    cell = a_cell("cell-a", "data-cell-a-db-0", "elsewhere")
    answer = await world.ended(replace(BACKUP, cell=cell))
    assert answer.progress is Progress.FAILED
    assert "spec.data.volumeSnapshots.claims: PersistentVolumeClaim fleet/elsewhere does not exist" in answer.message


async def test_a_name_that_is_taken_is_refused(world: World) -> None:
    world.cluster.take("backup-1", "data-cell-a-db-0")
    with pytest.raises(BadInput, match="has taken its name"):
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


async def test_a_missing_right_names_the_feature(world: World) -> None:
    world.api.broken = MissingPermission('grant verb "list" on resource "volumesnapshots"')
    with pytest.raises(Forbidden, match=r'verb "list".*features\.volumeSnapshots of the chart'):
        await world.data.ensure(BACKUP)


@pytest.mark.parametrize("request_", [BACKUP, RESTORE, replace(BACKUP, operation=Operation.INVENTORY)])
async def test_without_the_crds_it_says_what_to_install(world: World, request_: Request) -> None:
    world.cluster.installed = False
    answer = await world.data.ensure(request_)
    assert answer.progress is Progress.UNSUPPORTED
    assert "has no VolumeSnapshots (snapshot.storage.k8s.io/v1): install the CRDs" in answer.message
    assert await world.data.cancel(request_)
    assert world.writes() == []


@pytest.mark.parametrize("position", [1, 2])
async def test_a_backup_goes_on_after_a_crash(world_of_two: World, position: int) -> None:
    world_of_two.cluster.crash_after = position
    await world_of_two.done(BACKUP_TWO)
    assert world_of_two.cluster.written >= position
    assert world_of_two.writes() == ["create backup-1-0", "create backup-1-1"]


async def test_called_off_all_of_it_goes(world_of_two: World) -> None:
    world = world_of_two
    await world.data.ensure(BACKUP_TWO)
    await world.second()
    world.cluster.take("theirs", "a-data", **{LABEL_BACKUP: "backup-1"})
    assert not await world.data.cancel(BACKUP_TWO)
    assert await world.data.cancel(BACKUP_TWO)
    assert world.writes()[2:] == ["delete backup-1-0", "delete backup-1-1"]
    assert world.cluster.snapshot("theirs")


# Which backups there are ------------------------------------------------------------------------------


async def inventory(world: World, cell: Cell = ONE) -> list[tuple[str, bool]]:
    found = (await world.data.ensure(Request(Operation.INVENTORY, "inventory-1", cell))).backups
    return [(backup.id, backup.complete) for backup in found]


async def test_any_snapshot_of_the_claim_counts(world: World) -> None:
    world.cluster.take("nightly", "data-cell-a-db-0")
    world.cluster.take("elsewhere", "data-cell-b-db-0")
    assert await inventory(world) == [("nightly", False)]
    for _ in range(4):
        await world.second()
    assert await inventory(world) == [("nightly", True)]
    assert await inventory(world, ONE_MADE) == [("elsewhere", True)]


async def test_one_that_is_being_deleted_does_not_count(world: World) -> None:
    gone = world.cluster.take("gone", "data-cell-a-db-0")
    metadata = gone["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}
    world.cluster.server.put(VOLUME_SNAPSHOTS.path(NAMESPACE, "gone"), gone | {"metadata": metadata})
    assert await inventory(world) == []


async def test_the_twenty_newest_are_told(world: World) -> None:
    for number in range(25):
        world.cluster.take(f"hourly-{number}", "data-cell-a-db-0")
        world.clock.advance(60)
    assert [name for name, _ in await inventory(world)] == [f"hourly-{number}" for number in range(24, 4, -1)]


async def test_of_several_claims_only_whole_groups_are_complete(world_of_two: World) -> None:
    world = world_of_two
    for claim in ("a-data", "a-wal"):
        world.cluster.take(f"whole-{claim}", claim, **{LABEL_BACKUP: "whole"})
        world.cluster.take(f"single-{claim}", claim)
    world.cluster.take("half", "a-data", **{LABEL_BACKUP: "half"})
    for number in range(2):
        world.cluster.take(f"twice-{number}", "a-data", **{LABEL_BACKUP: "twice"})
    world.cluster.take("twice-2", "a-wal", **{LABEL_BACKUP: "twice"})
    for _ in range(4):
        await world.second()
    assert dict(await inventory(world, TWO)) == {"whole": True, "half": False, "twice": False}
    for backup, why in (("half", "it has no snapshot of claim a-wal"), ("twice", "it has 2 snapshots of claim a-data")):
        answer = await world.ended(replace(RESTORE_TWO, backup=backup))
        assert answer.progress is Progress.FAILED
        assert f"Backup {backup} of cell cell-a is not complete: {why}" in answer.message


async def test_a_group_is_as_late_as_its_latest_snapshot(world_of_two: World) -> None:
    world = world_of_two
    world.cluster.take("early", "a-data", **{LABEL_BACKUP: "both"})
    for _ in range(10):
        await world.second()
    world.cluster.take("late", "a-wal", **{LABEL_BACKUP: "both"})
    for _ in range(4):
        await world.second()
    (found,) = (await world.data.ensure(Request(Operation.INVENTORY, "inventory-1", TWO))).backups
    taken = world.cluster.snapshot("late")["status"]["creationTime"]
    assert found.at.isoformat() > taken.replace("Z", "+00:00")
    answer = await world.ended(replace(RESTORE_TWO, backup="both", not_after=found.at - timedelta(seconds=2)))
    assert answer.progress is Progress.FAILED


async def test_what_was_in_a_claim_before_it_was_made_anew_is_no_backup_of_it(world: World) -> None:
    world.cluster.take("empty", "data-cell-b-db-0")
    for _ in range(4):
        await world.second()
    assert await inventory(world, ONE_MADE) == [("empty", True)]
    await world.backed_up()
    await world.done(RESTORE)
    assert await inventory(world, ONE_MADE) == []
    world.cluster.take("after", "data-cell-b-db-0")
    for _ in range(4):
        await world.second()
    assert await inventory(world, ONE_MADE) == [("after", True)]


# Restoring --------------------------------------------------------------------------------------------


async def test_the_claim_is_as_it_was_but_for_its_source(world: World) -> None:
    await world.backed_up()
    old = copy.deepcopy(world.cluster.claim("data-cell-b-db-0"))
    answer = await world.done(RESTORE)
    new = world.cluster.claim("data-cell-b-db-0")
    assert new["metadata"]["uid"] != old["metadata"]["uid"]
    assert new["metadata"]["labels"] == old["metadata"]["labels"]
    annotations = new["metadata"]["annotations"]
    assert annotations["recell.dev/content"] == "hash"
    assert "pv.kubernetes.io/bind-completed" not in annotations
    assert new["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "fast",
        "volumeMode": "Filesystem",
        "resources": {"requests": {"storage": "12Gi"}},
        "dataSource": {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot", "name": "backup-1"},
    }
    assert answer.message == "claims data-cell-b-db-0"
    assert world.cluster.sets["cell-b"].replicas == 1


async def test_nobody_owns_a_claim_that_was_made_anew_whoever_owned_the_one_before(world: World) -> None:
    """What takes its owner away would take the data along (rule 7)."""
    await world.backed_up()
    path = CLAIMS.path(NAMESPACE, "data-cell-b-db-0")
    owner = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "cell-b-db", "uid": "uid-set"}
    owned = copy.deepcopy(world.cluster.claim("data-cell-b-db-0"))
    owned["metadata"]["ownerReferences"] = [owner]
    world.cluster.server.put(path, owned)
    old = world.cluster.claim("data-cell-b-db-0")["metadata"]["uid"]
    await world.done(RESTORE)
    new = world.cluster.claim("data-cell-b-db-0")["metadata"]
    assert new["uid"] != old
    assert "ownerReferences" not in new


async def test_each_claim_gets_the_snapshot_in_its_place(world_of_two: World) -> None:
    world = world_of_two
    await world.backed_up(BACKUP_TWO)
    answer = await world.done(RESTORE_TWO)
    assert answer.customers.whole
    sources = {name: world.cluster.claim(name)["spec"]["dataSource"]["name"] for name in ("b-data", "b-wal")}
    assert sources == {"b-data": "backup-1-0", "b-wal": "backup-1-1"}
    for ours, theirs in (("b-data", "a-data"), ("b-wal", "a-wal")):
        assert world.cluster.content(ours) == world.cluster.content(theirs)[:1]


async def test_how_far_it_is_is_told_in_claims(world_of_two: World) -> None:
    world = world_of_two
    await world.backed_up(BACKUP_TWO)
    told, words = [], []
    while (answer := await world.data.ensure(RESTORE_TWO)).progress is Progress.RUNNING:
        told.append((answer.done, answer.of))
        words.append(answer.message)
        await world.second()
    assert told[0] == (0, 2)
    assert told == sorted(told, key=lambda each: each[0] or 0)
    assert words[0].startswith("Stopping StatefulSet/cell-b-db of cell-b")
    assert any("Replacing claim b-data and b-wal" in text for text in words)


@pytest.mark.parametrize("position", range(1, 9))
async def test_killed_after_each_write_it_goes_on_and_does_everything_once(world_of_two: World, position: int) -> None:
    world = world_of_two
    await world.backed_up(BACKUP_TWO)
    before = len(world.writes())
    world.cluster.written, world.cluster.crash_after = 0, position
    await world.done(RESTORE_TWO)
    for ours, theirs in (("b-data", "a-data"), ("b-wal", "a-wal")):
        assert world.cluster.content(ours) == world.cluster.content(theirs)[:1]
    assert sorted(world.writes()[before:]) == ["create b-data", "create b-wal", "delete b-data", "delete b-wal"]
    assert world.cluster.sets["cell-b"].replicas == 1
    # the record, stopping, two deletions, two claims, starting: a crash comes before the last position
    assert world.cluster.written == 7


async def test_a_claim_that_is_lost_with_its_run_is_made_by_the_next_one(world_of_two: World) -> None:
    world = world_of_two
    await world.backed_up(BACKUP_TWO)
    for _ in range(2):
        await world.data.ensure(RESTORE_TWO)
        world.clock.advance(1)
        world.cluster.second()
    assert CLAIMS.path(NAMESPACE, "b-data") not in world.cluster.server.objects
    await world.done(replace(RESTORE_TWO, key="restore-2"))
    assert world.cluster.content("b-data") == world.cluster.content("a-data")[:1]
    assert world.cluster.claim("b-data")["spec"]["storageClassName"] == "fast"


async def test_a_claim_that_a_person_made_is_never_deleted() -> None:
    world = World(ONE)
    world.cluster.add(ONE_MADE, made=False)
    await world.backed_up()
    before = copy.deepcopy(world.cluster.server.objects)
    with pytest.raises(BadInput, match=r"PersistentVolumeClaim fleet/data-cell-b-db-0 was not made from a template"):
        await world.data.ensure(RESTORE)
    assert world.cluster.server.objects == before
    assert world.cluster.sets["cell-b"].replicas == 1
    await world.data.stop()


async def test_nor_one_that_was_made_for_another_cell(world: World) -> None:
    await world.backed_up()
    target = a_cell("cell-c", "data-cell-b-db-0")
    world.cluster.server.put(CELLS.path(*target.key), {"metadata": {"name": "cell-c", "uid": target.metadata.uid}})
    with pytest.raises(BadInput, match="was not made from a template for this cell"):
        await world.data.ensure(replace(RESTORE, target=target))


async def test_a_cell_that_is_the_home_of_customers_is_left_alone(world: World) -> None:
    await world.backed_up()
    world.cluster.home = {"cell-b"}
    before = copy.deepcopy(world.cluster.server.objects)
    with pytest.raises(BadInput, match="Cell cell-b is the home of customers"):
        await world.data.ensure(RESTORE)
    assert world.cluster.server.objects == before


async def test_also_when_customers_came_while_it_was_restored(world: World) -> None:
    await world.backed_up()
    await world.data.ensure(RESTORE)
    await world.second()
    world.cluster.home = {"cell-b"}
    with pytest.raises(BadInput, match="Cell cell-b is the home of customers"):
        await world.data.ensure(RESTORE)
    assert not [write for write in world.writes() if write.startswith("delete")]


async def test_an_ended_restore_is_told_again_after_customers_came(world: World) -> None:
    await world.backed_up()
    done = await world.done(RESTORE)
    world.cluster.home = {"cell-b"}
    world.cluster.server.remove(VOLUME_SNAPSHOTS.path(NAMESPACE, "backup-1"))
    before = len(world.cluster.server.writes)
    assert await world.data.ensure(RESTORE) == done
    assert len(world.cluster.server.writes) == before


async def test_a_pod_that_is_not_of_the_cell_is_waited_for_and_named(world: World) -> None:
    await world.backed_up()
    volumes = [{"name": "x", "persistentVolumeClaim": {"claimName": "data-cell-b-db-0"}}]
    metadata = {"name": "shell", "namespace": NAMESPACE}
    path = PODS.path(NAMESPACE, "shell")
    world.cluster.server.put(path, {"metadata": metadata, "spec": {"volumes": volumes}, "status": {"phase": "Running"}})
    for _ in range(3):
        answer = await world.data.ensure(RESTORE)
        await world.second()
    assert "claim data-cell-b-db-0 is used by pod shell" in answer.message
    assert not [write for write in world.writes() if write.startswith("delete")]
    world.cluster.server.remove(path)
    await world.done(RESTORE)


async def test_a_claim_that_its_controller_made_in_between_is_replaced_too(world: World) -> None:
    """Somebody scaled the StatefulSet back while its claim was away."""
    await world.backed_up()
    while CLAIMS.path(NAMESPACE, "data-cell-b-db-0") in world.cluster.server.objects:
        await world.data.ensure(RESTORE)
        await world.second()
    world.cluster.sets["cell-b"].replicas = 1
    await world.second()
    assert world.cluster.content("data-cell-b-db-0") == []
    await world.done(RESTORE)
    assert world.cluster.content("data-cell-b-db-0") == world.cluster.content("data-cell-a-db-0")[:1]


async def test_called_off_the_workloads_are_what_they_were(world: World) -> None:
    await world.backed_up()
    await world.data.ensure(RESTORE)
    assert world.cluster.sets["cell-b"].replicas == 0
    assert await world.data.cancel(RESTORE)
    assert (world.cluster.sets["cell-b"].replicas, world.cluster.sets["cell-b"].token) == (1, None)


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (a_cell("cell-b", "b-data", "b-wal"), r"has 2 claims, and that of cell cell-a 1"),
        (a_cell("cell-b", "x", "x"), r"each claim may be named once"),
        (
            ONE_MADE.model_copy(update={"spec": ONE_MADE.spec.model_copy(update={"namespace": "other"})}),
            "own namespace",
        ),
        (
            ONE_MADE.model_copy(
                update={
                    "spec": ONE_MADE.spec.model_copy(
                        update={
                            "data": Cell.model_validate(
                                {"spec": {"routerRef": {"name": "x"}, "backend": {"type": "Service"}}}
                            ).spec.data
                        }
                    )
                }
            ),
            r"spec\.data\.type has to be VolumeSnapshots",
        ),
    ],
    ids=["more", "twice", "namespace", "type"],
)
async def test_a_target_that_cannot_hold_it_is_refused(world: World, target: Cell, told: str) -> None:
    await world.backed_up()
    with pytest.raises(BadInput, match=told):
        await world.data.ensure(replace(RESTORE, target=target))


async def test_the_record_is_on_the_cell_before_anything_is_deleted(world: World) -> None:
    await world.backed_up()
    await world.data.ensure(RESTORE)
    cell = world.cluster.server.objects[CELLS.path(*ONE_MADE.key)]
    record: dict[str, Any] = json.loads(cell["metadata"]["annotations"][ANNOTATION_RESTORE])
    assert record["key"] == "restore-1"
    assert [claim["metadata"]["name"] for claim in record["claims"]] == ["data-cell-b-db-0"]
    assert not [write for write in world.writes() if write.startswith("delete")]


# Watching ---------------------------------------------------------------------------------------------


async def test_changes_wake_who_waits_and_nothing_is_watched_afterwards(world: World) -> None:
    await world.data.ensure(BACKUP)
    await world.second()
    world.woken.clear()
    await world.second()
    await world.second()
    assert set(world.woken) == {ONE.key}
    await world.done(BACKUP)
    world.cluster.write("cell-a")
    await world.data.ensure(RESTORE)
    await world.second()
    world.woken.clear()
    await world.data.ensure(RESTORE)
    await world.second()
    assert ONE_MADE.key in world.woken
    await world.done(RESTORE)
    await world.second()
    assert world.cluster.server.watched() == []
    assert world.data.reflectors == ()
