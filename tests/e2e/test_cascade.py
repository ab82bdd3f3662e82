"""CascadeRecovery on a real cluster: two of four cells fail under a load that the other two cannot bear."""

import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hack.stage import SHOP, Stage
from tests.e2e.audit import Audit
from tests.e2e.killer import Killer
from tests.e2e.test_cell_restart import ended, step_of


@pytest.fixture
def four(stage: Stage) -> Iterator[Stage]:
    """The shop with a fourth cell, request classes, and cells that say what they bear."""
    stage.make_scarce({"stabilityBetween": "5s", "maxEmergencyCells": 0})
    stage.patch("cell", "cell-d", {"spec": {"priority": 500}})
    stage.patch("recoverypolicy", "default", {"spec": {"validation": {"duration": "10s"}}})
    yield stage
    stage.close_shop()


def classes(stage: Stage) -> dict[tuple[str, str], float]:
    """Counter and class -> what all router pods have counted."""
    found: dict[tuple[str, str], float] = {}
    for pod in stage.all("pods", labels="recell.dev/router=shop,app.kubernetes.io/name=recell-router"):
        path = f"/api/v1/namespaces/{SHOP}/pods/{pod['metadata']['name']}:8405/proxy/metrics"
        text = stage.kubectl("get", "--raw", path)
        for name, label, value in re.findall(r'recell_router_class_(\w+)_total\{class="([^"]+)"\} (\S+)', text):
            found[name, label] = found.get((name, label), 0.0) + float(value)
    return found


def since(before: dict[tuple[str, str], float], after: dict[tuple[str, str], float], label: str) -> dict[str, float]:
    return {n: after.get((n, label), 0.0) - before.get((n, label), 0.0) for n in ("requests", "shed", "failures")}


def two_fail(stage: Stage) -> None:
    """After a while in which all is well."""
    time.sleep(10)
    for cell in ("cell-b", "cell-d"):
        stage.fault(cell, kind="err", percent=100, until="restart")


def begun(stage: Stage) -> str:
    """The name of the Router's run, once there is one."""
    stage.eventually("a run for the Router appears", lambda: bool(_cascades(stage)), within=60)
    return str(_cascades(stage)[0]["metadata"]["name"])


def test_what_matters_is_served_while_two_of_four_cells_are_brought_back(four: Stage) -> None:
    stage = four
    with stage.load(rate=150) as load:
        two_fail(stage)
        name = begun(stage)
        stage.eventually("what is too much is shed", lambda: _done(stage, name, "shed-load"), within=60)
        before, began = classes(stage), time.monotonic()
        stage.eventually("a child works", lambda: bool(_children(stage, name)), within=60)
        assert stage.condition("router", "shop", "Shedding") == "True"
        stage.eventually("the run ends", lambda: ended(stage, name), within=420)
        took, after = time.monotonic() - began, classes(stage)
        time.sleep(5)
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert run["status"]["result"]["cascade"] == {"total": 2, "recovered": 2, "quarantinedSlots": 0}
    order = [child["spec"]["targetRef"]["name"] for child in _children(stage, name)]
    assert order == ["cell-d", "cell-b"], "by priority"
    orders, history = since(before, after, "order"), since(before, after, "history")
    print(f"{took:.0f} s; orders {orders}; history {history}; errors {load.summary['errors']}")
    assert orders["requests"] > 100
    assert orders["shed"] == 0
    assert orders["failures"] / orders["requests"] < 0.01
    assert history["shed"] > 0
    assert load.seconds[-1]["errors"] == {}, "and all of it is over"
    spec = stage.get("placement", "shop")["spec"]
    assert (spec.get("shedding", []), spec.get("openCircuits", [])) == ([], [])
    assert {(hold["cell"], hold["state"]) for hold in spec["holds"]} == {("cell-b", "Retired"), ("cell-d", "Retired")}


def test_killed_in_each_step_both_cells_are_brought_back_once(four: Stage) -> None:
    stage, audit = four, Audit(four)
    with stage.load(rate=100) as load:
        two_fail(stage)
        name = begun(stage)
        killer = Killer(stage, name)

        def over() -> bool:
            killer()
            return ended(stage, name)

        stage.eventually("the run ends", over, within=540, every=0.3)
        time.sleep(5)
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert run["status"]["result"]["cascade"] == {"total": 2, "recovered": 2, "quarantinedSlots": 0}
    assert {"recover-cells", "validate-fleet"} <= {*killer.killed}, "the others may pass at once"
    children = [child["spec"]["targetRef"]["name"] for child in _children(stage, name)]
    assert children == ["cell-d", "cell-b"], "each once, by priority"
    made = [made for resource, made in audit.created() if resource == "cells"]
    assert sorted(cell.rpartition("-")[0] for cell in made) == ["cell-b", "cell-d"]
    assert load.seconds[-1]["errors"] == {}
    spec = stage.get("placement", "shop")["spec"]
    assert (spec.get("shedding", []), spec.get("openCircuits", [])) == ([], [])


def test_left_alone_half_of_what_matters_fails(four: Stage) -> None:
    """The same with automation off, to compare."""
    stage = four
    stage.patch("recoverypolicy", "default", {"spec": {"mode": "Observe"}})
    with stage.load(rate=150) as load:
        two_fail(stage)
        stage.eventually(
            "both have failed", lambda: {stage.phase("cell-b"), stage.phase("cell-d")} == {"Failed"}, within=60
        )
        before = classes(stage)
        time.sleep(60)
        after = classes(stage)
    orders, history = since(before, after, "order"), since(before, after, "history")
    print(f"60 s; orders {orders}; history {history}; errors {load.summary['errors']}")
    assert orders["failures"] / orders["requests"] > 0.25
    assert (orders["shed"], history["shed"]) == (0, 0)
    assert stage.runs() == []


def test_when_most_cells_fail_nothing_is_done_before_a_person_says_so(stage: Stage) -> None:
    generation = stage.get("placement", "shop")["metadata"]["generation"]
    for cell in ("cell-a", "cell-b", "cell-c"):
        stage.fault(cell, kind="err", percent=100)
    with stage.load(rate=60):
        stage.eventually("a run for the Router asks", lambda: _asks(stage), within=60)
        time.sleep(20)
    (run,) = _cascades(stage)
    assert "CRITICAL" in run["status"]["awaiting"]["message"]
    assert step_of(stage, run["metadata"]["name"]) == ""
    assert stage.get("placement", "shop")["metadata"]["generation"] == generation
    assert len(stage.runs()) == 1


def _cascades(stage: Stage) -> list[dict[str, Any]]:
    return [run for run in stage.runs() if run["spec"]["targetRef"]["kind"] == "Router"]


def _children(stage: Stage, name: str) -> list[dict[str, Any]]:
    return [run for run in stage.runs() if run["spec"].get("escalatedFrom") == name]


def _asks(stage: Stage) -> bool:
    return any((run.get("status") or {}).get("phase") == "AwaitingApproval" for run in _cascades(stage))


def _done(stage: Stage, name: str, step: str) -> bool:
    steps = (stage.get("recoveryrun", name).get("status") or {}).get("steps") or []
    return any(s["name"] == step and s["state"] == "Done" for s in steps)
