"""Cells with their databases on real volumes are replaced by CSI snapshots, seen from the customers' side."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from hack.stage import CELLS, ROOT, SHOP, Stage, StageError
from tests.e2e.killer import Killer
from tests.e2e.rights import role
from tests.e2e.test_replacement import (
    ORDERS,
    QUICK,
    assert_others_unaffected,
    failed,
    replacement_of,
    result_of,
    run_of,
    to_the_end,
)

CLASS = "hostpath"
"""StorageClass and VolumeSnapshotClass of `hack/cluster storage`."""
DEFAULT = "storageclass.kubernetes.io/is-default-class"


def in_volumes(spec: dict[str, Any], cell: str) -> None:
    """The cell's database is one of its workloads, and its data is what is on the claim of that."""
    database = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": f"{cell}-db"}
    spec["workloads"] = [database, *spec["workloads"]]
    spec["data"] = {
        "integrity": spec["data"]["integrity"],
        "type": "VolumeSnapshots",
        "volumeSnapshots": {"claims": [f"data-{cell}-db-0"], "className": CLASS},
    }


def recell() -> str:
    """The example's Cells, template and Router, with VolumeSnapshots in place of Jobs."""
    folder = ROOT / "examples" / "shop" / "recell" / "incell"
    documents = [each for path in sorted(folder.glob("*.yaml")) for each in yaml.safe_load_all(path.read_text())]
    for each in documents:
        if each["kind"] == "Cell":
            in_volumes(each["spec"], each["metadata"]["name"])
        elif each["kind"] == "CellTemplate":
            in_volumes(each["spec"]["cell"], "$(CELL)")
            database = next(o for o in each["spec"]["objects"] if o["kind"] == "StatefulSet")["spec"]
            pod = database["template"]["spec"]
            pod["volumes"] = [volume for volume in pod["volumes"] if volume["name"] != "data"]
            claim = {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": CLASS,
                "resources": {"requests": {"storage": "1Gi"}},
            }
            database["volumeClaimTemplates"] = [{"metadata": {"name": "data"}, "spec": claim}]
    return yaml.safe_dump_all(documents)


@pytest.fixture
def stage(whole_stage: Stage) -> Iterator[Stage]:
    try:
        whole_stage.hack_cluster("storage")
    except StageError as error:
        if "for a local node only" in str(error):
            pytest.skip("volumes with snapshots are there on a local node only")
        raise
    whole_stage.close_shop()
    whole_stage.kubectl("annotate", "storageclass", CLASS, f"{DEFAULT}=true", "--overwrite")
    whole_stage.apply(role("--set", "features.volumeSnapshots=true"))
    manifests = str(ROOT / "examples" / "shop" / "manifests" / "incell-persistent")
    whole_stage.kubectl("apply", "--server-side", "--force-conflicts", "-k", manifests)
    for cell in CELLS:
        for workload in (f"statefulset/{cell}-db", f"deployment/{cell}-web"):
            whole_stage.kubectl("-n", SHOP, "rollout", "status", workload, "--timeout=180s", within=200)
    whole_stage.kubectl("-n", SHOP, "rollout", "status", "deployment/load", "--timeout=180s", within=200)
    whole_stage.apply(json.dumps(QUICK))
    whole_stage.patch("recoverypolicy", "default", {"spec": {"replacement": {"provisionTimeout": "5m"}}})
    whole_stage.apply(recell())
    whole_stage.eventually("every cell is Healthy", whole_stage.all_healthy, within=180)
    whole_stage.eventually(
        "the Router is Ready", lambda: whole_stage.condition("router", "shop", "Ready") == "True", within=120
    )
    yield whole_stage
    whole_stage.close_shop()
    whole_stage.apply(role())
    whole_stage.kubectl("annotate", "storageclass", CLASS, f"{DEFAULT}-")


def test_killed_in_each_step_a_cell_is_replaced_from_what_it_left_behind_and_no_order_is_lost(stage: Stage) -> None:
    with stage.load(rate=60, customers=120, orders=ORDERS) as load:
        time.sleep(20)
        stage.keep_from_starting("cell-b")
        stage.eventually("the cell is Failed", lambda: failed(stage), within=60)
        stage.apply(run_of("volumes", "TrafficDrainAndReplace"))
        killer = Killer(stage, "volumes")
        to_the_end(stage, "volumes", killer, within=400)
        time.sleep(5)
    made = replacement_of(stage, "volumes")
    result = result_of(stage, "volumes")
    assert "customers" not in result, "nobody counted them: everything was restored as one"
    assert "dataLoss" not in result
    found = stage.verify(ORDERS)
    assert found["checked"] > 50
    assert (found["missing"], found["altered"], found["unreadable"]) == ({}, [], {})
    assert_others_unaffected(load)
    claim = json.loads(stage.kubectl("-n", SHOP, "get", "pvc", f"data-{made}-db-0", "-o", "json"))
    assert claim["spec"]["dataSource"]["name"] == result["recoveryPoint"]["backupID"]
    assert len(killer.killed) >= 5, killer.killed
