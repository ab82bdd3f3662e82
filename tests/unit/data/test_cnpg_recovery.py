"""The Cluster that recovers, made of the empty one, for each way of backing up."""

from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest

from recell.api.meta import ANNOTATION_CONTENT, ANNOTATION_REQUEST
from recell.domain.data import Request
from recell.providers.data import cnpg_recovery
from recell.providers.data.cnpg_recovery import Unfit, recovering
from recell.providers.kube.api import Object
from recell.providers.kube.reflector import LAST_APPLIED
from tests.fakes.cnpg_cluster import STORE, CnpgCluster
from tests.unit.data.postgres import RESTORE

KUBE = CnpgCluster()
SOURCE = KUBE.cluster("cell-a-db")
BACKUP = KUBE.backup("base-7")
PLUGIN = {"name": "barman-cloud.cloudnative-pg.io", "isWALArchiver": True, "parameters": {"barmanObjectName": "store"}}
SNAPSHOTS = {"elements": [{"name": "base-7", "type": "PG_DATA"}, {"name": "base-7-wal", "type": "PG_WAL"}]}


def the_empty(**spec: Any) -> Object:
    return cnpg_recovery.empty(KUBE.cluster("cell-b-db", cell="cell-b", **spec))


def recovered(
    backup: Object = BACKUP, source: Object | None = SOURCE, request: Request = RESTORE, **spec: Any
) -> Object:
    return recovering(the_empty(**spec), request, backup, source)


def by_plugin() -> tuple[Object, Object]:
    backup = deepcopy(BACKUP)
    backup["spec"] |= {"method": "plugin", "pluginConfiguration": {"name": PLUGIN["name"]}}
    backup["status"] = {"method": "plugin", "phase": "completed", "backupId": "20260131T030000"}
    return backup, KUBE.cluster("cell-a-db", backup=None, plugins=[{"name": "other"}, PLUGIN])


def by_snapshots(elements: Object = SNAPSHOTS) -> Object:
    backup = deepcopy(BACKUP)
    backup["spec"]["method"] = "volumeSnapshot"
    backup["status"] = {"method": "volumeSnapshot", "phase": "completed", "snapshotBackupStatus": elements}
    return backup


def test_from_an_object_store_by_what_the_backup_says() -> None:
    spec = recovered(source=None)["spec"]
    assert spec["bootstrap"] == {
        "recovery": {
            "source": "cell-a-db",
            "recoveryTarget": {"backupID": "20260131T030000", "targetTime": "2026-01-31 09:59:00.250000+00"},
            "database": "shop",
            "owner": "shop",
            "secret": {"name": "shop-app"},
        }
    }
    assert spec["externalClusters"] == [
        {"name": "cell-a-db", "barmanObjectStore": STORE | {"serverName": "cell-a-db"}},
    ]
    assert (spec["instances"], spec["storage"]) == (1, {"size": "1Gi"})


def test_as_late_as_possible_without_a_time() -> None:
    target = recovered(request=replace(RESTORE, not_after=None))["spec"]["bootstrap"]["recovery"]["recoveryTarget"]
    assert target == {"backupID": "20260131T030000"}


def test_it_archives_where_the_empty_one_did_not() -> None:
    assert recovered()["spec"]["backup"]["barmanObjectStore"] == STORE | {
        "serverName": "cell-b-db-restore-1-3fa92b7c10"
    }
    backup, source = by_plugin()
    (plugin,) = recovered(backup, source, plugins=[PLUGIN])["spec"]["plugins"]
    assert plugin["parameters"] == {"barmanObjectName": "store", "serverName": "cell-b-db-restore-1-3fa92b7c10"}


def test_it_counts_as_what_the_template_made() -> None:
    cluster = KUBE.cluster("cell-b-db", cell="cell-b")
    cluster["metadata"]["annotations"][LAST_APPLIED] = "{}"
    cluster["metadata"]["finalizers"] = ["example.com/kept"]
    metadata = recovering(cnpg_recovery.empty(cluster), RESTORE, BACKUP, SOURCE)["metadata"]
    assert metadata == {
        "name": "cell-b-db",
        "namespace": "fleet",
        "labels": {"recell.dev/made-by": "recell", "recell.dev/cell": "cell-b"},
        "annotations": {ANNOTATION_CONTENT: "content-1", ANNOTATION_REQUEST: cnpg_recovery.mark(RESTORE)},
    }


def test_other_external_clusters_stay() -> None:
    others = [{"name": "reports"}, {"name": "cell-a-db", "connectionParameters": {}}]
    found = recovered(externalClusters=others)["spec"]["externalClusters"]
    assert [each["name"] for each in found] == ["reports", "cell-a-db"]
    assert "barmanObjectStore" in found[1]


def test_from_a_plugin_by_what_the_source_says() -> None:
    backup, source = by_plugin()
    spec = recovered(backup, source)["spec"]
    assert spec["bootstrap"]["recovery"]["recoveryTarget"]["backupID"] == "20260131T030000"
    assert spec["externalClusters"] == [
        {
            "name": "cell-a-db",
            "plugin": {
                "name": PLUGIN["name"],
                "parameters": {"barmanObjectName": "store", "serverName": "cell-a-db"},
            },
        }
    ]


def test_from_a_plugin_the_source_is_needed() -> None:
    backup, _ = by_plugin()
    with pytest.raises(Unfit, match="Cluster cell-a-db, which says how that is set up, does not exist any more"):
        recovered(backup, None)
    with pytest.raises(Unfit, match=r"spec\.plugins of Cluster cell-a-db does not name"):
        recovered(backup, SOURCE)


def test_from_snapshots_with_the_sources_archive() -> None:
    recovery = recovered(by_snapshots(), walStorage={"size": "1Gi"})["spec"]["bootstrap"]["recovery"]
    group = {"apiGroup": "snapshot.storage.k8s.io", "kind": "VolumeSnapshot"}
    assert recovery["volumeSnapshots"] == {
        "storage": group | {"name": "base-7"},
        "walStorage": group | {"name": "base-7-wal"},
    }
    assert recovery["source"] == "cell-a-db"
    assert recovery["recoveryTarget"] == {"targetTime": "2026-01-31 09:59:00.250000+00"}


def test_from_snapshots_alone_as_they_are() -> None:
    only = {"elements": SNAPSHOTS["elements"][:1]}
    for source in (None, KUBE.cluster("cell-a-db", backup={"volumeSnapshot": {}})):
        body = recovered(by_snapshots(only), source)
        recovery = body["spec"]["bootstrap"]["recovery"]
        assert "source" not in recovery
        assert "recoveryTarget" not in recovery
        assert not cnpg_recovery.target_time(body)


def test_from_snapshots_with_a_plugins_archive() -> None:
    _, source = by_plugin()
    archive = recovered(by_snapshots(), source, walStorage={"size": "1Gi"})["spec"]["externalClusters"]
    assert archive[0]["plugin"]["parameters"]["serverName"] == "cell-a-db"


@pytest.mark.parametrize(
    ("backup", "says"),
    [
        (by_snapshots({}), "names no volume snapshot of PG_DATA"),
        (by_snapshots(), r"the template's Cluster needs spec\.walStorage"),
        (BACKUP | {"status": {**BACKUP["status"], "backupId": None}}, r"status\.backupId is missing"),
        (BACKUP | {"status": {**BACKUP["status"], "destinationPath": None}}, r"status\.destinationPath is missing"),
        (
            by_snapshots() | {"metadata": {"name": "base-7", "namespace": "elsewhere"}},
            r"cannot be used in another namespace \(fleet\)",
        ),
    ],
)
def test_what_cannot_be_recovered_is_said(backup: Object, says: str) -> None:
    with pytest.raises(Unfit, match=says):
        recovered(backup)


@pytest.mark.parametrize(
    ("bootstrap", "new"),
    [
        ({"initdb": {"database": "shop", "secret": {"name": "shop-app"}}}, False),
        ({"initdb": {"database": "shop"}}, True),
        ({"pg_basebackup": {"source": "x", "owner": "shop"}}, True),
        ({}, True),
    ],
)
def test_whether_the_application_gets_a_new_password(bootstrap: Object, new: bool) -> None:
    assert cnpg_recovery.new_password(recovered(bootstrap=bootstrap)) is new
