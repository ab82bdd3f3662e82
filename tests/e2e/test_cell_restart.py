"""CellRestart on a real cluster, seen from the customers' side and from the API server's audit log."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hack.stage import SHOP, Stage
from tests.e2e.audit import Audit

ERRORS = {"kind": "err", "percent": 10, "until": "restart"}
"""Of a third of the requests: well above what detection allows (5 %), well below high impact (15 %)."""
DOWN = [83, 67, 50]
UP = [67, 83, 100]
DEPLOYMENT = "cell-b-web"


def run_of(name: str, **spec: Any) -> str:
    return json.dumps(
        {
            "apiVersion": "recell.dev/v1alpha1",
            "kind": "RecoveryRun",
            "metadata": {"name": name, "namespace": SHOP},
            "spec": {"targetRef": {"kind": "Cell", "name": "cell-b"}, **spec},
        }
    )


def always(stage: Stage) -> dict[str, Any]:
    """A run on a cell that may be healthy."""
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 600))
    return {"strategy": "CellRestart", "startWhen": "Always", "startBefore": before}


def ended(stage: Stage, name: str) -> bool:
    return bool((stage.get("recoveryrun", name).get("status") or {}).get("finishedAt"))


def step_of(stage: Stage, name: str) -> str:
    return step_of_run(stage.get("recoveryrun", name))


def step_of_run(run: dict[str, Any]) -> str:
    return str((run.get("status") or {}).get("step", ""))


def assert_everything_once(audit: Audit) -> None:
    assert [v for v in audit.limits("shop", "cell-b") if v is not None] == [*DOWN, *UP]
    assert len(audit.writes("deployments", DEPLOYMENT)) == 1, "restarted once"


def test_a_cell_that_errs_is_recovered_by_itself_and_nobody_else_notices(stage: Stage) -> None:
    stage.patch("recoverypolicy", "default", {"spec": {"detection": {"window": "8s"}}})
    audit = Audit(stage)
    with stage.load(rate=100, patience=30) as load:  # what is slow only is nobody's error
        time.sleep(5)
        stage.fault("cell-b", **ERRORS)
        stage.eventually("a run appears", lambda: bool(stage.runs()), within=120)
        name = stage.runs()[0]["metadata"]["name"]
        stage.eventually("the run ends", lambda: ended(stage, name), within=300)
        time.sleep(3)
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert run["spec"]["trigger"] == "Automatic"
    assert run["status"]["decision"]["row"] == "single-cell-low-intact"
    assert_everything_once(audit)
    homes = load.summary["homes"]
    for cell in ("cell-a", "cell-c"):
        assert homes[cell]["errors"] == 0, (homes, [s["errors"] for s in load.seconds if s["errors"]])
        assert homes[cell]["requests"] > 300
    assert homes["cell-b"]["errors"] > 0, "the fault was felt"
    assert load.seconds[-1]["errors"] == {}, "and is over"
    assert stage.get("placement", "shop")["spec"].get("holds", []) == []


def test_kubectl_apply_and_wait(stage: Stage) -> None:
    audit = Audit(stage)
    with stage.load(rate=40):
        time.sleep(6)
        stage.apply(run_of("by-hand", **always(stage)))
        stage.kubectl(
            "-n", SHOP, "wait", "--for=condition=Succeeded", "recoveryrun/by-hand", "--timeout=300s", within=330
        )
    assert_everything_once(audit)
    listed = stage.kubectl("-n", SHOP, "get", "recoveryruns")
    assert "CellRestart" in listed
    assert "Succeeded" in listed


def test_recell_recover_and_a_second_run_that_waits_for_it(stage: Stage) -> None:
    """The second is made while the first runs, says why it waits, and starts when the first has ended."""
    with stage.load(rate=40), ThreadPoolExecutor() as beside:
        time.sleep(6)
        how = ("--strategy", "CellRestart", "--always", "--yes", "--wait")
        first = beside.submit(stage.recell, "recover", "cell-b", "-n", SHOP, *how, within=240)
        stage.eventually("the first runs", lambda: any(step_of_run(run) for run in stage.runs()), within=60)
        name = stage.runs()[0]["metadata"]["name"]
        stage.apply(run_of("second", **always(stage)))

        def told() -> bool:
            conditions = (stage.get("recoveryrun", "second").get("status") or {}).get("conditions") or []
            return any(c["reason"] == "TargetBusy" and name in c["message"] for c in conditions)

        stage.eventually("the second says why it waits", told, within=90)
        assert "Succeeded" in first.result().stdout
        stage.eventually("the second starts", lambda: step_of(stage, "second") != "", within=90)
        stage.recell("abort", "second", "-n", SHOP, "--yes")
        stage.eventually("the second ends", lambda: ended(stage, "second"), within=120)
    assert stage.get("recoveryrun", name)["status"]["phase"] == "Succeeded"
