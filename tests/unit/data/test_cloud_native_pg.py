"""The provider of CloudNativePG on a cluster in memory: what it asks, what it replaces, and what it says."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from recell.api import Cell
from recell.api.meta import ANNOTATION_CONTENT, ANNOTATION_REPLACED_CLUSTER, ANNOTATION_REQUEST
from recell.domain.data import Answer, Customers, Operation, Progress, Request
from recell.engine.errors import BadInput, Conflict, Forbidden, Retryable
from recell.engine.ports import Key
from recell.providers.data.cloud_native_pg import CloudNativePGData
from recell.providers.kube.api import Object
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CELLS, CNPG_BACKUPS, CNPG_CLUSTERS, PODS
from tests.contract.conftest import ManualClock
from tests.fakes.cnpg_cluster import HEALTHY, CnpgApi, CnpgCluster
from tests.unit.data.postgres import NOT_AFTER, RESTORE, SOURCE, TARGET
from tests.unit.domain import builders

EMPTY = CNPG_CLUSTERS.path("fleet", "cell-b-db")
ACCESSIBLE, INVENTORY, BACKUP = (
    Request(operation, f"{operation.lower()}-1-3fa92b7c10", SOURCE)
    for operation in (Operation.ACCESSIBLE, Operation.INVENTORY, Operation.BACKUP)
)
MADE = CNPG_BACKUPS.path("fleet", BACKUP.key)


class World:
    """Cell-a with a Cluster and a Backup, and cell-b with the empty Cluster that its template made."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.kube = CnpgCluster()
        self.kube.cluster("cell-a-db")
        self.kube.backup("base-7")
        self.kube.cluster("cell-b-db", cell="cell-b")
        self.kube.cell("cell-b")
        self.api = CnpgApi(self.kube.server)
        self.woken: list[Key] = []
        self.homes: set[str] = set()
        self.consent: Exception | None = None
        self.data = self.provider()

    def provider(self) -> CloudNativePGData:
        async def consent(cell: Cell) -> None:
            if self.consent is not None:
                raise self.consent

        return CloudNativePGData(
            self.api,  # type: ignore[arg-type]
            self.clock,
            ("fleet",),
            require_consent=consent,
            is_home=lambda router, cell: cell in self.homes,
            on_change=self.woken.append,
        )

    async def another_process(self) -> None:
        await self.data.stop()
        self.data = self.provider()

    async def settled(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def ask(self, request: Request) -> Answer:
        await self.settled()
        answer = await self.data.ensure(request)
        await self.settled()
        return answer

    def live(self, path: str) -> Object:
        return self.kube.server.objects[path]

    @property
    def writes(self) -> list[tuple[str, str]]:
        return self.kube.server.writes

    async def recovering(self, request: Request = RESTORE) -> Object:
        """The empty Cluster is gone, and the new one is made."""
        await self.ask(request)
        await self.ask(request)
        return self.live(EMPTY)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.data.stop()


def changed(request: Request, **data: Any) -> Request:
    assert request.target is not None
    return replace(request, target=builders.cell("cell-b", data=data))


# What it does not do ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "field"),
    [
        (Operation.MIGRATE, "spec.data.jobs.migrate and accessible"),
        (Operation.ABANDON, "spec.data.jobs.abandon"),
        (Operation.CHECK, "spec.data.jobs.check, or an HTTP check in spec.data.integrity"),
    ],
)
async def test_what_it_cannot_names_the_field_that_names_who_can(
    world: World, operation: Operation, field: str
) -> None:
    answer = await world.data.ensure(replace(RESTORE, operation=operation))
    assert answer.progress is Progress.UNSUPPORTED
    assert field in answer.message
    assert world.api.calls == 0


@pytest.mark.parametrize("request_", [ACCESSIBLE, INVENTORY, BACKUP, RESTORE])
async def test_a_cluster_without_cloud_native_pg_is_told_so(world: World, request_: Request) -> None:
    world.kube.remove_crds()
    with pytest.raises(BadInput, match="CloudNativePG is not installed in this cluster"):
        await world.data.ensure(request_)
    assert world.data.reflectors == (), "no watch asks for a kind that is not there"
    world.kube.install()
    await world.ask(request_)


async def test_a_missing_right_names_the_feature_that_grants_it(world: World) -> None:
    world.api.broken = MissingPermission('grant verb "list" on resource "backups"')
    with pytest.raises(Forbidden, match=r'grant verb "list".*features\.cloudNativePG'):
        await world.data.ensure(INVENTORY)


# Looking ----------------------------------------------------------------------------------------------


async def test_customers_are_not_moved_but_a_stopped_cell_can_be_backed_up(world: World) -> None:
    answer = await world.ask(ACCESSIBLE)
    assert (answer.progress, answer.accessible, answer.when_stopped) == (Progress.DONE, False, True)
    assert "moves no single customers out of Cluster fleet/cell-a-db: Cluster in healthy state" in answer.message


@pytest.mark.parametrize(
    ("status", "spec"), [({"phase": "Failing over"}, {}), (HEALTHY, {"backup": None})], ids=["dead", "no means"]
)
async def test_of_a_dead_database_no_last_backup_is_waited_for(world: World, status: Object, spec: Object) -> None:
    world.kube.cluster("cell-a-db", status=status, **spec)
    assert not (await world.ask(ACCESSIBLE)).when_stopped


async def test_a_cluster_that_is_gone_is_no_obstacle_to_a_restore(world: World) -> None:
    world.kube.server.remove(CNPG_CLUSTERS.path("fleet", "cell-a-db"))
    answer = await world.ask(ACCESSIBLE)
    assert (answer.accessible, answer.when_stopped) == (False, False)
    assert "does not exist" in answer.message
    assert [backup.id for backup in (await world.ask(INVENTORY)).backups] == ["base-7"]


async def test_the_inventory_has_the_cells_own_backups(world: World) -> None:
    world.kube.backup("later", stoppedAt="2026-01-31T09:00:00Z")
    world.kube.backup("running", phase="running", startedAt="2026-01-31T10:00:00Z")
    world.kube.backup("snapshot", method="volumeSnapshot", stoppedAt="2026-01-31T11:00:00Z")
    world.kube.backup("another's", cluster="cell-x-db")
    for _ in range(2):  # by asking, then by the watch
        answer = await world.ask(INVENTORY)
        assert [backup.id for backup in answer.backups] == ["snapshot", "running", "later", "base-7"]
        assert [backup.complete for backup in answer.backups] == [True, False, True, True]
        assert answer.until == datetime(2026, 1, 31, 9, 0, 1, tzinfo=UTC), "no later WAL is known of"
    assert world.data.reflectors


async def test_without_a_backup_nothing_is_known_of_an_archive(world: World) -> None:
    world.kube.server.remove(CNPG_BACKUPS.path("fleet", "base-7"))
    answer = await world.ask(INVENTORY)
    assert (answer.progress, answer.backups, answer.until) == (Progress.DONE, (), None)


# Backing up -------------------------------------------------------------------------------------------


async def test_a_backup_is_made_once_and_awaited(world: World) -> None:
    assert (await world.ask(BACKUP)).progress is Progress.RUNNING
    await world.another_process()
    await world.ask(BACKUP)
    assert world.writes == [("create", MADE)]
    world.woken.clear()
    world.kube.says(MADE, phase="running")
    await world.settled()
    assert world.woken == [SOURCE.key]
    world.kube.says(MADE, phase="completed", stoppedAt="2026-01-31T12:00:00Z")
    answer = await world.ask(BACKUP)
    assert answer.progress is Progress.DONE
    assert [backup.id for backup in answer.backups] == [BACKUP.key]
    woken = len(world.woken)
    world.kube.says(MADE, note="x")
    await world.settled()
    assert len(world.woken) == woken, "nobody waits for it any more"


async def test_a_cluster_without_means_is_told_what_to_set(world: World) -> None:
    world.kube.cluster("cell-a-db", backup=None)
    answer = await world.ask(BACKUP)
    assert answer.progress is Progress.FAILED
    assert "Cluster fleet/cell-a-db has no means to be backed up: set spec.backup" in answer.message
    world.kube.server.remove(CNPG_CLUSTERS.path("fleet", "cell-a-db"))
    assert "does not exist" in (await world.ask(BACKUP)).message
    assert world.writes == []


async def test_a_backup_that_runs_while_no_wal_arrives_says_why(world: World) -> None:
    """CloudNativePG goes on trying for minutes."""
    await world.ask(BACKUP)
    failing = {"type": "ContinuousArchiving", "status": "False", "message": "exit status 2"}
    world.kube.says(CNPG_CLUSTERS.path("fleet", "cell-a-db"), conditions=[failing])
    world.kube.says(MADE, phase="running")
    told = (await world.ask(BACKUP)).message
    assert "runs; the WAL of Cluster cell-a-db is not archived (exit status 2): look at the address" in told


async def test_a_name_that_is_taken_is_a_conflict(world: World) -> None:
    world.kube.backup(BACKUP.key)
    with pytest.raises(Conflict, match="is not the one of this request"):
        await world.ask(BACKUP)


async def test_one_that_was_made_meanwhile_is_taken(world: World) -> None:
    """The leader before wrote it, and this one's watch has not told yet."""
    await world.ask(BACKUP)
    held = world.live(MADE)
    world.kube.server.remove(MADE)
    await world.settled()
    del world.kube.server.objects[EMPTY]
    world.kube.server.objects[MADE] = held
    assert (await world.ask(BACKUP)).progress is Progress.RUNNING


async def test_without_consent_nothing_is_written(world: World) -> None:
    world.consent = Forbidden("namespace fleet does not consent")
    for request in (BACKUP, RESTORE):
        with pytest.raises(Forbidden):
            await world.ask(request)
    assert world.writes == []


async def test_a_backup_that_is_cancelled_goes_on(world: World) -> None:
    await world.ask(BACKUP)
    assert await world.data.cancel(BACKUP)
    assert world.writes == [("create", MADE)]


# Restoring --------------------------------------------------------------------------------------------


async def test_the_empty_cluster_is_replaced_by_one_that_recovers(world: World) -> None:
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.RUNNING
    assert "The empty Cluster fleet/cell-b-db goes, to be made again from base-7" in answer.message
    assert EMPTY not in world.kube.server.objects
    answer = await world.ask(RESTORE)
    assert (answer.progress, "is made, to recover from base-7" in answer.message) == (Progress.RUNNING, True)
    live = world.live(EMPTY)
    assert live["metadata"]["annotations"][ANNOTATION_CONTENT] == "content-1", "the template counts as applied"
    assert live["spec"]["bootstrap"]["recovery"]["recoveryTarget"]["targetTime"] == "2026-01-31 09:59:00.250000+00"
    cell = CELLS.path("fleet", "cell-b")
    assert world.writes == [("patch", cell), ("delete", EMPTY), ("create", EMPTY)]


async def test_it_is_done_when_every_instance_is_ready(world: World) -> None:
    await world.recovering()
    world.kube.says(EMPTY, phase="Setting up primary", phaseReason="Creating primary instance cell-b-db-1")
    await world.settled()
    assert world.woken[-1] == SOURCE.key
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.RUNNING
    assert "Setting up primary (Creating primary instance cell-b-db-1); 0 of 1 instances ready" in answer.message
    world.kube.says(EMPTY, **HEALTHY)
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.DONE
    assert answer.customers == Customers(whole=True)
    assert answer.recovery_point == NOT_AFTER
    assert "password" not in answer.message
    assert (await world.ask(RESTORE)) == answer, "asked again it says the same"


async def test_without_a_time_the_point_is_the_end_of_the_backup_and_no_later(world: World) -> None:
    request = replace(RESTORE, not_after=None)
    await world.recovering(request)
    world.kube.says(EMPTY, **HEALTHY)
    answer = await world.ask(request)
    assert answer.recovery_point == datetime(2026, 1, 31, 3, 0, 10, tzinfo=UTC)
    assert "whatever WAL was archived after its end" in answer.message


async def test_a_new_password_is_told(world: World) -> None:
    world.kube.cluster("cell-b-db", cell="cell-b", bootstrap={"initdb": {"database": "shop"}})
    await world.recovering()
    world.kube.says(EMPTY, **HEALTHY)
    assert "password is new: Secret cell-b-db-app" in (await world.ask(RESTORE)).message


async def test_a_crash_between_delete_and_create_loses_nothing(world: World) -> None:
    await world.ask(RESTORE)
    await world.another_process()
    await world.ask(RESTORE)
    assert world.live(EMPTY)["spec"]["storage"] == {"size": "1Gi"}
    world.kube.says(EMPTY, **HEALTHY)
    record = json.loads(
        world.live(CELLS.path("fleet", "cell-b"))["metadata"]["annotations"][ANNOTATION_REPLACED_CLUSTER]
    )
    assert record["metadata"]["name"] == "cell-b-db"
    known = TARGET.model_copy(deep=True)
    known.metadata.annotations[ANNOTATION_REPLACED_CLUSTER] = "{}"
    await world.ask(replace(RESTORE, target=known))
    annotations = world.live(CELLS.path("fleet", "cell-b"))["metadata"]["annotations"]
    assert ANNOTATION_REPLACED_CLUSTER not in annotations, "the record goes when it is done"


async def test_a_crash_between_record_and_delete_is_gone_over(world: World) -> None:
    delete = world.api.delete

    async def dies(*_: Any, **__: Any) -> Object:
        raise Retryable("the connection is cut")

    world.api.delete = dies  # type: ignore[method-assign]
    with pytest.raises(Retryable):
        await world.ask(RESTORE)
    world.api.delete = delete  # type: ignore[method-assign]
    await world.another_process()
    await world.recovering()
    assert world.live(EMPTY)["metadata"]["annotations"][ANNOTATION_REQUEST]


async def test_the_new_one_waits_for_the_old_ones_volumes(world: World) -> None:
    claim = world.kube.claim("cell-b-db")
    await world.ask(RESTORE)
    answer = await world.ask(RESTORE)
    assert "What the empty Cluster fleet/cell-b-db had is going: PersistentVolumeClaim cell-b-db-1" in answer.message
    assert EMPTY not in world.kube.server.objects
    world.kube.server.remove(claim)
    await world.ask(RESTORE)
    assert EMPTY in world.kube.server.objects


async def test_a_cluster_that_is_going_is_waited_for(world: World) -> None:
    live = world.live(EMPTY)
    live["metadata"] |= {"deletionTimestamp": "2026-01-31T12:00:00Z", "finalizers": ["example.com/kept"]}
    answer = await world.ask(RESTORE)
    assert "is being deleted (kept by example.com/kept)" in answer.message
    assert world.writes == []


async def test_a_cluster_of_somebody_elses_is_never_replaced(world: World) -> None:
    for cell in ("", "cell-x"):
        world.kube.cluster("cell-b-db", cell=cell)
        with pytest.raises(BadInput, match="was not made from a template for cell cell-b, so it is left alone"):
            await world.ask(RESTORE)
    assert world.writes == []


async def test_nothing_is_replaced_where_customers_are_at_home(world: World) -> None:
    world.homes.add("cell-b")
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.FAILED
    assert "Customers are at home in cell cell-b" in answer.message
    world.homes.clear()
    await world.ask(RESTORE)
    world.homes.add("cell-b")
    assert (await world.ask(RESTORE)).progress is Progress.FAILED
    assert ("create", EMPTY) not in world.writes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"backup": "gone"}, "Backup fleet/gone does not exist any more"),
        ({"not_after": datetime(2026, 1, 31, 3, 0, 10, tzinfo=UTC)}, "at the earliest, which is later than"),
    ],
)
async def test_what_cannot_be_recovered_is_told_before_anything_goes(world: World, change: Any, says: str) -> None:
    answer = await world.ask(replace(RESTORE, **change))
    assert answer.progress is Progress.FAILED, "so that an older one is tried"
    assert says in answer.message
    assert "Cluster fleet/cell-b-db stays as it is" in answer.message
    assert world.writes == []


async def test_a_backup_that_vanishes_meanwhile_ends_it(world: World) -> None:
    await world.ask(RESTORE)
    world.kube.server.remove(CNPG_BACKUPS.path("fleet", "base-7"))
    answer = await world.ask(RESTORE)
    assert (answer.progress, answer.message) == (Progress.FAILED, "Backup fleet/base-7 does not exist any more")


async def test_a_backup_that_is_not_complete_is_refused(world: World) -> None:
    world.kube.backup("base-7", phase="running")
    assert "is not complete" in (await world.ask(RESTORE)).message
    assert world.writes == []


async def test_another_request_under_the_same_key_is_a_conflict(world: World) -> None:
    await world.recovering()
    with pytest.raises(Conflict, match="was made for another request under the key restore-1-3fa92b7c10"):
        await world.ask(replace(RESTORE, not_after=None))


async def test_another_key_recovers_anew(world: World) -> None:
    await world.recovering()
    live = await world.recovering(replace(RESTORE, key="restore-2-3fa92b7c10", not_after=None))
    recovery = live["spec"]["bootstrap"]["recovery"]
    assert recovery["recoveryTarget"] == {"backupID": "20260131T030000"}
    assert (recovery["database"], recovery["secret"]) == ("shop", {"name": "shop-app"})
    assert len(live["spec"]["externalClusters"]) == 1


async def test_a_target_without_a_cluster_is_told_the_field(world: World) -> None:
    with pytest.raises(BadInput, match=r"spec\.cell\.data of the CellTemplate"):
        await world.ask(changed(RESTORE))
    world.kube.server.remove(EMPTY)
    with pytest.raises(BadInput, match="nothing is recorded of it: the CellTemplate has to make the Cluster"):
        await world.ask(RESTORE)


# When it does not work --------------------------------------------------------------------------------

FATAL = {"error_severity": "FATAL", "message": "recovery ended before configured recovery target was reached"}


async def test_a_failed_attempt_is_told_while_others_follow(world: World) -> None:
    await world.recovering()
    log = world.kube.failed_recovery("cell-b-db")
    world.api.logs[log] = json.dumps({"level": "info", "record": FATAL})
    world.kube.recovery_job("cell-b-db", failed=False)
    world.kube.says(EMPTY, phase="Setting up primary")
    await world.settled()
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.RUNNING
    assert "attempt 1 to recover failed: the archive has no transaction that was committed after" in answer.message


async def test_a_pod_that_cannot_start_says_why(world: World) -> None:
    await world.recovering()
    waiting = [{"name": "full-recovery", "state": {"waiting": {"reason": "ImagePullBackOff"}}}]
    status = {"phase": "Pending", "containerStatuses": waiting}
    metadata = {"name": "cell-b-db-1-full-recovery-x", "namespace": "fleet", "labels": {"cnpg.io/cluster": "cell-b-db"}}
    world.kube.server.put(PODS.path("fleet", metadata["name"]), {"metadata": metadata, "status": status})
    world.kube.says(EMPTY, phase="Setting up primary")
    assert "cell-b-db-1-full-recovery-x: ImagePullBackOff" in (await world.ask(RESTORE)).message


async def test_the_last_one_ends_it(world: World) -> None:
    await world.recovering()
    for number in (1, 2):
        log = world.kube.failed_recovery("cell-b-db", number)
    world.api.logs[log] = json.dumps({"level": "error", "msg": "Error while restoring a backup", "error": "no bucket"})
    world.kube.recovery_job("cell-b-db", failed=True)
    world.kube.says(EMPTY, phase="Setting up primary")
    await world.settled()
    answer = await world.ask(RESTORE)
    assert answer.progress is Progress.FAILED
    assert (
        "Cluster fleet/cell-b-db could not recover base-7: Error while restoring a backup: no bucket" in answer.message
    )
    world.api.logs.clear()
    assert "ended with exit code 1 and said nothing" in (await world.ask(RESTORE)).message


async def test_what_is_cancelled_goes_unless_it_is_done(world: World) -> None:
    assert await world.data.cancel(RESTORE), "nothing was begun"
    assert world.writes == []
    await world.recovering()
    assert not await world.data.cancel(RESTORE)
    assert await world.data.cancel(RESTORE), "it is gone"
    assert world.writes[-1] == ("delete", EMPTY)
    await world.ask(RESTORE)
    world.kube.says(EMPTY, **HEALTHY)
    assert await world.data.cancel(RESTORE)
    assert EMPTY in world.kube.server.objects


async def test_what_is_cancelled_stays_where_customers_are_at_home(world: World) -> None:
    await world.recovering()
    world.homes.add("cell-b")
    assert not await world.data.cancel(RESTORE)
    assert EMPTY in world.kube.server.objects
