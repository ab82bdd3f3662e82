"""What a Backup of CloudNativePG means in each of its phases, and how a Cluster can be backed up."""

from datetime import UTC, datetime
from typing import Any

import pytest

from recell.domain.data import MOST_BACKUPS, Backup, Operation, Progress, Request
from recell.providers.data import cnpg_backup
from recell.providers.data.cnpg_backup import Means, Method
from recell.providers.kube.api import Object
from tests.unit.data.postgres import SOURCE

MADE = Request(Operation.BACKUP, "backup-1-3fa92b7c10", SOURCE)
AT = datetime(2026, 1, 31, 3, 0, 11, tzinfo=UTC)


def a_backup(**status: Any) -> Object:
    metadata = {"name": "b-1", "namespace": "fleet"}
    return {"metadata": metadata, "spec": {"cluster": {"name": "cell-a-db"}}, "status": status}


def a_cluster(*, plugin_status: Any = (), **spec: Any) -> Object:
    metadata = {"name": "cell-a-db", "namespace": "fleet"}
    return {"metadata": metadata, "spec": spec, "status": {"pluginStatus": list(plugin_status)}}


@pytest.mark.parametrize(
    ("status", "progress", "says"),
    [
        ({}, Progress.RUNNING, "has not been looked at: does CloudNativePG run?"),
        ({"phase": "pending"}, Progress.RUNNING, "waits for another backup to end, or for an instance"),
        ({"phase": "started"}, Progress.RUNNING, "begins"),
        ({"phase": "running"}, Progress.RUNNING, "runs"),
        ({"phase": "finalizing"}, Progress.RUNNING, "its volume snapshots are being made ready"),
        (
            {"phase": "walArchivingFailing", "error": "access denied"},
            Progress.RUNNING,
            "the WAL is not archived (access denied): see the condition ContinuousArchiving of Cluster cell-a-db",
        ),
        (
            {"phase": "failed", "error": "exit status 4", "commandError": "no such bucket"},
            Progress.FAILED,
            "failed: exit status 4; no such bucket. See kubectl -n fleet describe backup.postgresql.cnpg.io b-1",
        ),
        ({"phase": "completed"}, Progress.FAILED, "status.stoppedAt is missing"),
        ({"phase": "of a later version"}, Progress.RUNNING, "is in phase of a later version"),
    ],
)
def test_each_phase_is_told_apart(status: Object, progress: Progress, says: str) -> None:
    answer = cnpg_backup.progress(a_backup(**status))
    assert answer.progress is progress
    assert "Backup fleet/b-1 " in answer.message
    assert says in answer.message
    assert answer.backups == ()


def test_a_completed_one_can_be_restored_to_from_the_second_after_its_end() -> None:
    answer = cnpg_backup.progress(a_backup(phase="completed", stoppedAt="2026-01-31T03:00:10Z"))
    assert answer.progress is Progress.DONE
    assert answer.backups == (Backup("b-1", AT),)


def test_the_inventory_has_the_newest_first_and_says_what_is_not_complete() -> None:
    names = [f"b-{hour:02}" for hour in range(24)]
    told = [
        a_backup(phase="completed", stoppedAt=f"2026-01-31T{hour:02}:00:00Z") | {"metadata": {"name": name}}
        for hour, name in enumerate(names)
    ]
    running = a_backup(phase="running", startedAt="2026-02-01T00:00:00Z") | {"metadata": {"name": "b-now"}}
    unknown = a_backup(phase="pending")
    found = cnpg_backup.inventory([*told, running, unknown])
    assert [backup.id for backup in found] == ["b-now", *reversed(names)][:MOST_BACKUPS]
    assert [backup.complete for backup in found[:2]] == [False, True]


@pytest.mark.parametrize(
    ("cluster", "means"),
    [
        (a_cluster(), None),
        (a_cluster(backup={"retentionPolicy": "30d"}), None),
        (a_cluster(backup={"barmanObjectStore": {"destinationPath": "s3://x"}}), Means(Method.OBJECT_STORE)),
        (a_cluster(backup={"volumeSnapshot": {"className": "csi"}}), Means(Method.SNAPSHOT)),
        (
            a_cluster(backup={"volumeSnapshot": {"className": "csi"}}, plugins=[{"name": "b", "isWALArchiver": True}]),
            Means(Method.PLUGIN, "b"),
        ),
        (a_cluster(plugins=[{"name": "b", "isWALArchiver": True, "enabled": False}]), None),
        (a_cluster(plugins=[{"name": "sidecar"}]), None),
        (
            a_cluster(
                plugins=[{"name": "sidecar"}, {"name": "b"}],
                plugin_status=[{"name": "b", "backupCapabilities": ["TYPE_BACKUP"]}],
            ),
            Means(Method.PLUGIN, "b"),
        ),
    ],
)
def test_the_clusters_own_configuration_says_how_it_can_be_backed_up(cluster: Object, means: Means | None) -> None:
    assert cnpg_backup.means(cluster) == means


def test_what_is_made_says_for_whom_and_has_no_owner() -> None:
    body = cnpg_backup.made(MADE, a_cluster(), Means(Method.PLUGIN, "b"))
    metadata = body["metadata"]
    assert (metadata["namespace"], metadata["name"]) == ("fleet", MADE.key)
    assert metadata["labels"] == {"recell.dev/made-by": "recell", "recell.dev/cell": "cell-a"}
    assert "ownerReferences" not in metadata
    assert body["spec"] == {
        "cluster": {"name": "cell-a-db"},
        "method": "plugin",
        "pluginConfiguration": {"name": "b"},
    }
