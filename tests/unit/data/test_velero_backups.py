"""Which Backups of Velero belong to a cell, and which of them it can be restored from."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from recell.domain.data import Operation, Request
from recell.providers.data import velero_backups, velero_restores
from recell.providers.kube.api import Object
from tests.fakes.velero_cluster import velero_cell

CELL = velero_cell("cell-a", "data", "wal", schedules=["nightly"])
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


def settings() -> Any:
    return CELL.spec.data.velero


def backup(labels: dict[str, str] | None = None, spec: Object | None = None, **status: Any) -> Object:
    told = {
        "phase": "Completed",
        "startTimestamp": "2026-01-31T03:00:00Z",
        "completionTimestamp": "2026-01-31T03:00:40Z",
        "expiration": "2026-03-02T03:00:00Z",
        "csiVolumeSnapshotsCompleted": 2,
        **status,
    }
    metadata = {"name": "b-1", "labels": {"recell.dev/cell": "cell-a"} if labels is None else labels}
    return {"metadata": metadata, "spec": {"includedNamespaces": ["fleet"], **(spec or {})}, "status": told}


@pytest.mark.parametrize(
    ("obj", "expected"),
    [
        (backup(), True),
        (backup({"recell.dev/cell": "cell-b"}), False),
        (backup({"velero.io/schedule-name": "nightly"}), True),
        (backup({"velero.io/schedule-name": "hourly"}), False),
        (backup({}), False),
        (backup(spec={"includedNamespaces": ["elsewhere"]}), False),
        (backup(spec={"includedNamespaces": None}), True),
        (backup(spec={"includedNamespaces": ["*"]}), True),
        (backup(spec={"includedNamespaces": ["fl*"]}), True),
        (backup(spec={"includedNamespaces": ["*"], "excludedNamespaces": ["fleet"]}), False),
    ],
)
def test_it_belongs_to_the_cell_by_its_label_or_its_schedule(obj: Object, expected: bool) -> None:
    assert velero_backups.belongs(obj, CELL, settings()) is expected


@pytest.mark.parametrize(
    ("obj", "why"),
    [
        (backup(), ""),
        (backup(phase="PartiallyFailed"), "it is PartiallyFailed"),
        (backup(phase=None), "it is New"),
        (backup(expiration="2026-01-31T12:00:00Z"), "it expired at 2026-01-31T12:00:00Z"),
        (backup(completionTimestamp=None), "it does not say when it was made"),
        (backup(spec={"snapshotMoveData": True}), "(snapshotMoveData)"),
        (backup(csiVolumeSnapshotsCompleted=1), "it has 1 CSI snapshots, and the cell 2 claims: Velero's server needs"),
        (backup(csiVolumeSnapshotsCompleted=None), "it has 0 CSI snapshots"),
    ],
)
def test_what_it_lacks_is_told(obj: Object, why: str) -> None:
    told = velero_backups.missing(obj, 2, NOW)
    assert why in told
    assert bool(told) is bool(why)


def test_one_that_is_being_deleted_is_not_restored_from() -> None:
    obj = backup()
    obj["metadata"]["deletionTimestamp"] = "2026-01-31T11:00:00Z"
    assert velero_backups.missing(obj, 2, NOW) == "it is being deleted"


def test_nothing_in_it_is_later_than_it_says_and_all_that_was_there_when_it_began_is_in_it() -> None:
    assert velero_backups.at(backup()) == datetime(2026, 1, 31, 3, 0, 41, tzinfo=UTC)
    assert velero_backups.point(backup()) == datetime(2026, 1, 31, 3, tzinfo=UTC)


def test_the_newest_is_told_first_and_one_that_never_began_not_at_all() -> None:
    older, newer, unborn = backup(), backup(completionTimestamp="2026-01-31T04:00:00Z"), backup()
    newer["metadata"]["name"], unborn["metadata"]["name"], unborn["status"] = "b-2", "b-3", {}
    running = backup(phase="InProgress", completionTimestamp=None)
    running["metadata"]["name"] = "b-0"
    found = velero_backups.inventory([older, newer, unborn, running], 2, NOW)
    assert [(each.id, each.complete) for each in found] == [("b-2", True), ("b-1", True), ("b-0", False)]


def test_one_of_the_volume_that_a_claim_had_before_is_too_old() -> None:
    began = datetime(2026, 1, 31, 3, tzinfo=UTC)
    assert velero_backups.too_old(backup(), {"data": began})
    assert not velero_backups.too_old(backup(), {"data": began - timedelta(seconds=1)})
    assert not velero_backups.too_old(backup(), {})


def test_it_is_made_of_the_claims_and_of_what_has_the_cells_label() -> None:
    cell = velero_cell("cell-a", "data", "wal", namespace="backups", storageLocation="far", ttl="168h")
    assert cell.spec.data.velero is not None
    made = velero_backups.made(Request(Operation.BACKUP, "b-1", cell), cell.spec.data.velero)
    assert made["metadata"]["namespace"] == "backups"
    assert made["metadata"]["labels"] == {"recell.dev/made-by": "recell", "recell.dev/cell": "cell-a"}
    assert "ownerReferences" not in made["metadata"]
    assert made["spec"] == {
        "includedNamespaces": ["fleet"],
        "orLabelSelectors": [
            {"matchLabels": {"recell.dev/cell": "cell-a"}},
            {"matchExpressions": [{"key": "recell.dev/claim", "operator": "In", "values": ["data", "wal"]}]},
        ],
        "snapshotVolumes": True,
        "snapshotMoveData": False,
        "defaultVolumesToFsBackup": False,
        "storageLocation": "far",
        "ttl": "168h",
    }


def test_a_restore_brings_snapshots_of_the_claims_and_nothing_else() -> None:
    target = velero_cell("cell-b", "b-data", "b-wal")
    request = Request(Operation.RESTORE, "r-1", CELL, target=target, backup="b-1")
    spec = velero_restores.made(request, target, settings())["spec"]
    assert spec == {
        "backupName": "b-1",
        "includedNamespaces": ["fleet"],
        "includedResources": [
            "volumesnapshots.snapshot.storage.k8s.io",
            "volumesnapshotcontents.snapshot.storage.k8s.io",
        ],
        "labelSelector": {
            "matchLabels": {"velero.io/backup-name": "b-1"},
            "matchExpressions": [{"key": "recell.dev/claim", "operator": "In", "values": ["data", "wal"]}],
        },
        "restorePVs": True,
    }
    elsewhere = target.model_copy(update={"spec": target.spec.model_copy(update={"namespace": "other"})})
    spec = velero_restores.made(replace(request, target=elsewhere), elsewhere, settings())["spec"]
    assert spec["namespaceMapping"] == {"fleet": "other"}


def test_a_long_name_is_a_label_as_velero_makes_it() -> None:
    """By pkg/label of Velero: the first 57 characters, and 6 of the name's SHA-256."""
    assert velero_restores.label_value("b" * 63) == "b" * 63
    assert velero_restores.label_value("b" * 64) == "b" * 57 + "a0fab1"
