"""Cells with a database each are replaced and their data comes back, seen from the customers' side.

The shop's own archive, backups and data Jobs; real PostgreSQL; every order that was acknowledged is looked for.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from hack.stage import SHOP, Stage
from recell.api.placement import PlacementSpec
from recell.domain.placement import slots_of
from tests.e2e.audit import Audit
from tests.e2e.killer import Killer
from tests.e2e.test_cell_restart import ended, step_of

ORDERS = "/orders/orders.jsonl"
QUICK = {
    "apiVersion": "recell.dev/v1alpha1",
    "kind": "RecoveryPolicy",
    "metadata": {"name": "default", "namespace": SHOP},
    "spec": {
        "mode": "Observe",
        "detection": {"failedAfter": "3s", "healthyAfter": "5s", "window": "6s", "flappingTransitions": 100},
        "limits": {"cooldown": "0s", "maxAttempts": 100},
        "steps": {"drainIncrements": 2, "incrementInterval": "2s", "stabilityDuration": "6s"},
        "replacement": {"provisionTimeout": "2m"},
        "validation": {"duration": "6s", "consistencyDuration": "8s"},
        "objectives": {"rpo": "1h"},
    },
}
"""The defaults but for waits, the loss that is accepted, and the limits that would keep one test from the next."""


@pytest.fixture
def stage(whole_stage: Stage) -> Any:
    """A fresh shop: a replaced cell is not the cell that it was."""
    whole_stage.close_shop()
    whole_stage.open_shop(QUICK, data="incell")
    yield whole_stage
    whole_stage.close_shop()


def run_of(name: str, strategy: str, **spec: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "recell.dev/v1alpha1",
            "kind": "RecoveryRun",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {"targetRef": {"kind": "Cell", "name": "cell-b"}, "strategy": strategy, **spec},
        }
    )


def result_of(stage: Stage, name: str) -> dict[str, Any]:
    status = stage.get("recoveryrun", name)["status"]
    found: dict[str, Any] = status.get("result") or {}
    return found


def failed(stage: Stage) -> bool:
    return stage.phase("cell-b") == "Failed"


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def rfc3339(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def backed_up(stage: Stage) -> None:
    """The newest order of the cell is in the archive: its WAL is sent within five seconds."""
    stage.sql("cell-b", "SELECT pg_switch_wal()")
    time.sleep(3)


def to_the_end(
    stage: Stage, name: str, during: Callable[[], None] = lambda: None, *, gate: str = "", within: float = 240
) -> str:
    """Wait for the run's end; a person opens this gate when it is asked, and no other is asked."""

    def done() -> bool:
        during()
        status = stage.get("recoveryrun", name).get("status") or {}
        if awaiting := status.get("awaiting"):
            assert awaiting["gate"] == gate, awaiting["message"]
            stage.recell("approve", name, "-n", SHOP, "--gate", gate, "--yes", check=False)  # it may go on just now
        return ended(stage, name)

    stage.eventually("the run ends", done, within=within, every=0.5)
    status = stage.get("recoveryrun", name)["status"]
    assert status["phase"] == "Succeeded", status.get("summary")
    return str(status["summary"])


def replacement_of(stage: Stage, name: str) -> str:
    made = result_of(stage, name)["replacement"]
    assert stage.phase(made) == "Healthy"
    assert stage.phase("cell-b") == "Retired"
    assert stage.get("placement", "shop")["spec"]["successors"] == [{"cell": "cell-b", "successor": made}]
    return str(made)


def assert_everything_once(audit: Audit, made: str) -> None:
    """One cell, each data Job once, and no slot goes back: as the API server recorded it."""
    entries, created = list(audit.entries()), audit.created()
    assert [name for resource, name in created if resource == "cells"] == [made]
    jobs = [name for resource, name in created if resource == "jobs"]
    assert jobs, "data is moved by Jobs"
    assert len(jobs) == len({name.rsplit("-", 2)[0] for name in jobs}), jobs
    homes = [
        PlacementSpec.model_validate(entry["requestObject"]["spec"])
        for entry in entries
        if (entry["objectRef"].get("resource"), entry["objectRef"].get("subresource")) == ("placements", None)
        and entry["verb"] in ("update", "patch")
    ]
    left = [len(slots_of(spec, "cell-b")) for spec in homes]
    assert left == sorted(left, reverse=True), left
    assert not left[-1]


def assert_others_unaffected(load: Any) -> None:
    homes = load.summary["homes"]
    for cell in ("cell-a", "cell-c"):
        bad = [second for second in load.seconds if second["homes"].get(cell, {}).get("errors")]
        assert homes[cell]["errors"] == 0, json.dumps(bad)
        assert homes[cell]["requests"] > 100


def test_killed_in_each_step_pods_that_cannot_start_are_replaced_and_every_order_is_there(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", {"spec": {"mode": "Automatic"}})
    audit = Audit(stage)
    with stage.load(rate=60, customers=120, orders=ORDERS) as load:
        time.sleep(12)
        stage.keep_from_starting("cell-b")
        stage.eventually("a run appears", lambda: bool(stage.runs()), within=60)
        name = stage.runs()[0]["metadata"]["name"]
        killer = Killer(stage, name)
        to_the_end(stage, name, killer, within=400)
        time.sleep(5)
    run = stage.get("recoveryrun", name)
    assert run["spec"]["trigger"] == "Automatic"
    assert run["status"]["decision"]["strategy"] == "TrafficDrainAndReplace"
    assert len(killer.killed) >= 5, killer.killed
    assert_everything_once(audit, replacement_of(stage, name))
    customers = result_of(stage, name)["customers"]
    assert customers["source"] == "Migrate"
    assert customers["moved"] == customers["affected"] > 0
    found = stage.verify(ORDERS)
    assert found["checked"] > 50
    assert (found["missing"], found["altered"], found["unreadable"]) == ({}, [], {})
    assert_others_unaffected(load)
    assert load.seconds[-1]["errors"] == {}, "customers of the failed cell are served again"


def test_killed_in_each_step_a_lost_database_comes_back_from_backup_and_the_loss_is_what_is_said(stage: Stage) -> None:
    audit = Audit(stage)
    with stage.load(rate=60, customers=120, orders=ORDERS) as load:
        time.sleep(20)
        stage.lose_database("cell-b")
        stage.eventually("the cell is Failed", lambda: failed(stage), within=60)
        stage.apply(run_of("lost", "TrafficDrainAndReplace"))
        killer = Killer(stage, "lost")
        to_the_end(stage, "lost", killer, within=400)
        time.sleep(5)
    assert_everything_once(audit, replacement_of(stage, "lost"))
    result = result_of(stage, "lost")
    assert result["customers"]["source"] == "Restore"
    assert result["recoveryPoint"]["backupID"]
    found = stage.verify(ORDERS)
    assert found["altered"] == []
    loss = result["dataLoss"]
    begin, end = moment(loss["from"]), moment(loss["to"])
    for at in found["missing"].values():
        assert begin - timedelta(seconds=1) <= moment(at) <= end, (loss, found["missing"])
    lost = sorted(moment(at) for at in found["missing"].values())
    assert not lost or lost[0] - begin < timedelta(seconds=15), "nothing before the recovery point is called lost"
    assert_others_unaffected(load)
    assert len(killer.killed) >= 5, killer.killed


def test_killed_in_each_step_an_update_without_where_is_undone_to_the_second(stage: Stage) -> None:
    with stage.load(rate=60, customers=120, orders=ORDERS):
        time.sleep(20)
    before = stage.sql("cell-b", "SELECT count(*), sum(cents) FROM shop.orders")
    backed_up(stage)
    good = datetime.now(UTC).replace(microsecond=0)
    time.sleep(2)
    stage.sql("cell-b", "UPDATE shop.orders SET cents = cents + 1")
    backed_up(stage)
    stage.apply(
        run_of(
            "undo",
            "PointInTimeRecovery",
            recoveryTarget={"time": rfc3339(good)},
            startWhen="Always",
            startBefore=rfc3339(datetime.now(UTC) + timedelta(minutes=10)),
        )
    )
    audit, killer = Audit(stage), Killer(stage, "undo")
    to_the_end(stage, "undo", killer, gate="promote", within=400)
    made = replacement_of(stage, "undo")
    assert_everything_once(audit, made)
    assert stage.sql(made, "SELECT count(*), sum(cents) FROM shop.orders") == before
    result = result_of(stage, "undo")
    assert moment(result["recoveryPoint"]["time"]) <= good
    found = stage.verify(ORDERS)
    assert (found["missing"], found["altered"], found["unreadable"]) == ({}, [], {})
    assert stage.sql("cell-b", "SELECT count(*) FROM shop.orders"), "the corrupted cell is kept for inspection"
    assert len(killer.killed) >= 6, killer.killed


def test_a_corrupted_backup_is_followed_by_an_older_one(stage: Stage) -> None:
    with stage.load(rate=60, customers=120, orders=ORDERS):
        time.sleep(20)
    stage.back_up("cell-b")
    stage.sql("cell-b", "UPDATE shop.orders SET cents = cents + 1")
    stage.back_up("cell-b")
    late = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=1)
    stage.keep_from_starting("cell-b")
    stage.eventually("the cell is Failed", lambda: failed(stage), within=60)
    stage.apply(run_of("older", "IsolateAndRestoreFromBackup", recoveryTarget={"time": rfc3339(late)}))
    to_the_end(stage, "older", within=400)
    made = replacement_of(stage, "older")
    steps = {step["name"]: step for step in stage.get("recoveryrun", "older")["status"]["steps"]}
    assert steps["choose-backup"]["data"]["iteration"] == 2
    assert stage.verify(ORDERS)["altered"] == []
    assert stage.sql(made, "SELECT count(*) FROM shop.orders") != "0"


def test_with_no_intact_backup_left_nothing_is_promoted(stage: Stage) -> None:
    """A person asked for one backup, and what it holds is corrupted too."""
    with stage.load(rate=60, customers=120):
        time.sleep(10)
    before = stage.get("placement", "shop")["spec"]
    stage.sql("cell-b", "UPDATE shop.orders SET cents = cents + 1")
    stage.back_up("cell-b")
    stage.keep_from_starting("cell-b")
    stage.eventually("the cell is Failed", lambda: failed(stage), within=60)
    asked = "backup-corrupted"
    stage.apply(run_of("none-left", "IsolateAndRestoreFromBackup", recoveryTarget={"backupID": asked}))
    stage.eventually("the run ends", lambda: ended(stage, "none-left"), within=60)
    told = stage.get("recoveryrun", "none-left")["status"]["summary"]
    assert f"No backup named {asked}" in told, "and which there are is said"
    newest = told.partition("There are: ")[2].split(" of ")[0]
    stage.apply(run_of("corrupted-too", "IsolateAndRestoreFromBackup", recoveryTarget={"backupID": newest}))
    stage.eventually("the run ends", lambda: ended(stage, "corrupted-too"), within=240)
    status = stage.get("recoveryrun", "corrupted-too")["status"]
    assert status["phase"] == "ManualInterventionRequired", status
    assert "Nothing was promoted" in status["summary"], status["summary"]
    steps = {step["name"]: step for step in status["steps"]}
    assert steps["choose-backup"]["data"]["tried"] == [newest]
    after = stage.get("placement", "shop")["spec"]
    assert (after["homes"], after.get("successors", [])) == (before["homes"], [])
    assert stage.sql("cell-b", "SELECT count(*) FROM shop.orders"), "what there was is still there"


def test_aborted_in_each_step_everybody_who_was_served_is_served(stage: Stage) -> None:
    """Of a cell that is well: its customers come back to it, or stay where they were routed, with every order. Whose
    data is in the cell is served nowhere else, so it is not drained (rule 14), and that step is over at once."""
    healthy = {"startWhen": "Always", "startBefore": rfc3339(datetime.now(UTC) + timedelta(minutes=20))}
    homes = stage.get("placement", "shop")["spec"]["homes"]
    cells = {cell["metadata"]["name"] for cell in stage.all("cells")}
    with stage.load(rate=60, customers=120, orders=ORDERS) as load:
        time.sleep(8)
        for step in ("provision-replacement", "move-customers", "route-replacement"):
            name = f"aborted-in-{step}"
            stage.apply(run_of(name, "TrafficDrainAndReplace", **healthy))
            stage.eventually(
                f"{step} runs", lambda name=name, step=step: step_of(stage, name) == step, within=180, every=0.1
            )
            if step == "route-replacement":
                stage.eventually(
                    "somebody is routed", lambda: stage.get("placement", "shop")["spec"]["homes"] != homes, within=60
                )
            stage.patch("recoveryrun", name, {"spec": {"control": {"abort": True}}})  # at once: a step may be short
            stage.eventually("the run ends", lambda name=name: ended(stage, name), within=180)
            status = stage.get("recoveryrun", name)["status"]
            assert status["phase"] == "Aborted", status
            if step != "route-replacement":
                placed = stage.get("placement", "shop")["spec"]
                assert (placed["homes"], placed["serving"]) == (homes, homes), (step, status["summary"])
                assert placed.get("holds", []) == [], (step, placed["holds"])
                stage.eventually(
                    "the new cell is gone",
                    lambda: {cell["metadata"]["name"] for cell in stage.all("cells")} == cells,
                    within=60,
                )
                stage.eventually("the cell is Healthy", lambda: stage.phase("cell-b") == "Healthy", within=60)
        time.sleep(5)
    placed = PlacementSpec.model_validate(stage.get("placement", "shop")["spec"])
    assert placed.homes == placed.serving, "whoever has a home is served there"
    assert load.seconds[-1]["errors"] == {}, status["summary"]
    found = stage.verify(ORDERS)
    assert found["checked"] > 50
    assert (found["missing"], found["altered"], found["unreadable"]) == ({}, [], {})
    assert_others_unaffected(load)


def test_a_template_that_cannot_be_made_is_said_and_nobody_is_moved(stage: Stage) -> None:
    """A quota, a kind that the operator may not make, an image that is nowhere."""
    template = stage.get("celltemplate", "shop-cell")["spec"]["objects"]
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "small", "namespace": SHOP},
        "spec": {"hard": {"count/deployments.apps": "4"}},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "$(CELL)-key"}, "stringData": {"key": "x"}}
    nowhere = json.loads(json.dumps(template).replace("recell/shop-web:dev", "localhost/nowhere:1"))
    stage.patch("recoverypolicy", "default", {"spec": {"replacement": {"provisionTimeout": "30s"}}})
    homes = stage.get("placement", "shop")["spec"]["homes"]
    stage.keep_from_starting("cell-b")
    stage.eventually("the cell is Failed", lambda: failed(stage), within=60)
    for name, objects, why in (
        ("quota", template, "ResourceQuota small"),
        ("permission", [*template, secret], "secrets"),
        ("image", nowhere, "localhost/nowhere:1"),
    ):
        if name == "quota":
            stage.apply(json.dumps(quota))
        stage.patch("celltemplate", "shop-cell", {"spec": {"objects": objects}})
        stage.apply(run_of(name, "TrafficDrainAndReplace"))
        stage.eventually("the run ends", lambda name=name: ended(stage, name), within=200)
        stage.kubectl("-n", SHOP, "delete", "resourcequota", "small", "--ignore-not-found")
        status = stage.get("recoveryrun", name)["status"]
        assert status["phase"] == "ManualInterventionRequired", status
        assert why in status["summary"], status["summary"]
        assert stage.get("placement", "shop")["spec"]["homes"] == homes
        assert {cell["metadata"]["name"] for cell in stage.all("cells")} == {"cell-a", "cell-b", "cell-c"}
