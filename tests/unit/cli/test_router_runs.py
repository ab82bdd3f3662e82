"""Recoveries of a Router: planned, made, followed, shown and acknowledged as a cell's are."""

import json
from collections.abc import Callable

import pytest

from recell.api.meta import ANNOTATION_ACKNOWLEDGE
from recell.domain.placement import slot_of
from tests.unit.cli import objects
from tests.unit.cli.conftest import Shell
from tests.unit.cli.objects import Object, ago

Make = Callable[..., Shell]

EVIDENCE = [
    {"check": "access", "vantage": "Operator", "verdict": "Failed", "message": "20 of 20 requests got no answer"},
    {"check": "router-pods", "vantage": "Cluster", "verdict": "Failed", "message": "0 of 2 router pods are ready"},
    {"check": "traffic", "vantage": "Router", "verdict": "Inconclusive", "message": "no fresh figures"},
]


READY = {"type": "FallbackReady", "status": "True", "reason": "Ready", "lastTransitionTime": ago(3600)}


def failed(**recovery: object) -> list[Object]:
    router = objects.router()
    router["spec"]["fallback"] = {}
    router["status"]["conditions"].append(dict(READY))
    failure = {"type": "Router", "impact": "Critical", "dataIntegrity": "Unknown", "since": ago(30)}
    router["status"] |= {"failure": {**failure, "evidence": EVIDENCE}, **({"recovery": recovery} if recovery else {})}
    return [*(item for item in objects.well() if item["kind"] != "Router"), router]


@pytest.mark.parametrize("target", ["router/shop", "router.recell.dev/shop", "shop"])
def test_plan_decides_on_the_routers_own_failure(shell: Make, target: str) -> None:
    cluster = shell(failed())
    told = json.loads(cluster("plan", target, "-o", "json").out)
    assert (told["router"], told["health"], "cell" in told) == ("shop", "Failed", False)
    assert (told["strategy"], told["row"]) == ("ActivateFallbackRouting", "router-high")
    assert [e["check"] for e in told["evidence"]] == ["access", "router-pods", "traffic"]
    assert cluster.api.writes == []


def test_plan_of_the_failover_has_its_steps_and_starts(shell: Make) -> None:
    result = shell(failed())("plan", "router/shop", "-o", "json")
    told = json.loads(result.out)
    assert (result.code, told["outcome"]) == (0, "Starts")
    assert [step["name"] for step in told["steps"]][:2] == ["assess-router", "activate-fallback"]
    assert "Steps" in shell(failed())("plan", "router/shop").out


def test_plan_says_what_a_router_without_a_fallback_lacks(shell: Make) -> None:
    items = failed()
    del items[-1]["spec"]["fallback"]
    told = json.loads(shell(items)("plan", "router/shop", "-o", "json").out)
    assert told["strategy"] == "ManualIntervention"
    assert "needs a fallback: set spec.fallback of Router shop" in told["message"]
    items = failed()
    items[-1]["status"]["conditions"][-1] |= {"status": "False", "message": "none of its 2 pods is ready"}
    told = json.loads(shell(items)("plan", "router/shop", "-o", "json").out)
    assert "none of its 2 pods is ready" in told["message"]


def test_a_name_alone_is_the_cells_first(shell: Make) -> None:
    items = [*failed(), objects.cell("shop")]
    assert json.loads(shell(items)("plan", "shop", "-o", "json").out)["cell"] == "shop"
    assert json.loads(shell(items)("plan", "router/shop", "-o", "json").out)["router"] == "shop"


def test_plan_counts_no_recovery_of_its_cells_against_the_router(shell: Make) -> None:
    """As the operator does not."""
    others = [item for item in failed() if item["kind"] != "RecoveryPolicy"]
    items = [*others, objects.policy(limits={"maxAttempts": 1})]
    ended = {"phase": "Succeeded", "startedAt": ago(600), "finishedAt": ago(60)}

    def before(strategy: str) -> Object:
        target = {"targetRef": {"kind": "Router", "name": "shop"}, "strategy": strategy, "trigger": "Automatic"}
        return objects.item("RecoveryRun", "shop-1", target, ended)

    def automatic(strategy: str) -> str | None:
        told = json.loads(shell([*items, before(strategy)])("plan", "router/shop", "-o", "json").out)
        return told["automatic"]["reason"] if "automatic" in told else None

    assert (automatic("EmergencyScaling"), automatic("ActivateFallbackRouting")) == (None, "AttemptsExhausted")


def stormy(phase: str, *, onset: float, ended: float = 600, **recovery: object) -> list[Object]:
    """Two cells have failed; a run for several cells ended before."""
    target = {"targetRef": {"kind": "Router", "name": "shop"}, "strategy": "EmergencyScaling", "trigger": "Automatic"}
    times = {"startedAt": ago(ended + 60), "finishedAt": ago(ended)}
    failure = objects.failure("High", kind="MultipleCell") | {"since": ago(onset)}
    router = objects.router()
    router["status"] |= {"recovery": recovery} if recovery else {}
    return [
        router,
        objects.placement(),
        objects.policy(limits={"cooldown": "1m"}),
        *(objects.cell(f"cell-{letter}", "Failed", failure=failure) for letter in "ab"),
        objects.cell("cell-c"),
        objects.item("RecoveryRun", "shop-cascade-1", target, {"phase": phase, **times}),
    ]


def planned_for_cells(shell: Make, items: list[Object]) -> dict[str, str]:
    told = json.loads(
        shell(items)("plan", "router/shop", "--strategy", "EmergencyScaling", "--always", "-o", "json").out
    )
    return told.get("automatic", {})  # type: ignore[no-any-return]


def test_plan_for_several_cells_says_what_holds_back_a_run_for_several_cells(shell: Make) -> None:
    aborted = planned_for_cells(shell, stormy("Aborted", onset=60))
    assert aborted["reason"] == "AbortedByPerson"
    assert "all cells of the router were Healthy together for an hour" in aborted["message"]
    left = planned_for_cells(shell, stormy("ManualInterventionRequired", onset=700))
    assert left["reason"] == "ManualIntervention"
    assert "recell acknowledge router/shop" in left["message"]
    assert planned_for_cells(shell, stormy("ManualInterventionRequired", onset=500)) == {}, "another failure"
    shown = {"reason": "Cooldown", "message": "run shop-1 ended just now"}
    others = stormy("ManualInterventionRequired", onset=700, blocked=shown)
    assert planned_for_cells(shell, others)["reason"] == "ManualIntervention", "the router itself is another matter"


def test_plan_of_the_router_itself_counts_no_block_of_its_cells(shell: Make) -> None:
    shown = {"reason": "ManualIntervention", "message": "run shop-cascade-1 for several of its cells left this failure"}
    items = stormy("ManualInterventionRequired", onset=700, blocked=shown, lastRun="shop-cascade-1")
    told = json.loads(shell(items)("plan", "router/shop", "-o", "json").out)
    assert "automatic" not in told


def test_plan_takes_an_abort_for_over_of_which_the_operator_shows_no_block(shell: Make) -> None:
    """How long all cells were Healthy together the operator alone knows."""
    seen = stormy("Aborted", onset=60, ended=9000, lastRun="shop-cascade-1", attempts=1)
    assert planned_for_cells(shell, seen) == {}
    unseen = stormy("Aborted", onset=60, ended=9000, lastRun="shop-cascade-0", attempts=1)
    assert planned_for_cells(shell, unseen)["reason"] == "AbortedByPerson"


def test_plan_of_a_router_that_is_well_or_not_there(shell: Make) -> None:
    told = json.loads(
        shell(objects.well())("plan", "router/shop", "--strategy", "activatefallbackrouting", "-o", "json").out
    )
    assert (told["outcome"], told["why"]["reason"]) == ("Skipped", "TargetHealthy")
    result = shell(objects.well())("plan", "router/shopp")
    assert result.code == 3
    assert "Router shopp not found in namespace shop" in result.err


def test_a_strategy_is_for_cells_or_for_routers(shell: Make) -> None:
    for target, strategy in (("router/shop", "CellRestart"), ("cell-b", "ActivateFallbackRouting")):
        result = shell(failed())("recover", target, "--strategy", strategy, "--yes")
        assert result.code == 2
        assert f"--strategy {strategy} is not for a" in result.err


def test_why_the_operator_does_not_start_one_is_its_own_word(shell: Make) -> None:
    blocked = {"reason": "Cooldown", "message": "run shop-1 ended just now"}
    told = json.loads(shell(failed(blocked=blocked))("plan", "router/shop", "-o", "json").out)
    assert told["automatic"]["reason"] == "Cooldown"


def run(phase: str = "Draining", **status: object) -> Object:
    return objects.run("shop-9x", phase, "shop", spec={"targetRef": {"kind": "Router", "name": "shop"}}, **status)


def test_status_shows_what_is_seen_of_the_router_and_who_works_on_it(shell: Make) -> None:
    blocked = {"reason": "ManualIntervention", "message": "run shop-8x left this failure to a person"}
    told = shell(failed(lastRun="shop-8x", attempts=1, blocked=blocked))("status").out
    assert "Router, impact Critical" in told
    assert "0 of 2 router pods are ready" in told
    assert "not recovered (ManualIntervention)" in told
    told = shell([*failed(), run()])("status").out
    assert "run shop-9x works on the router itself" in told
    report = json.loads(shell([*failed(), run()])("status", "shop", "-o", "json").out)
    assert report["routers"][0]["activeRun"] == "shop-9x"
    assert report["runs"][0]["target"] == "Router/shop"


def test_status_of_a_router_tells_how_its_last_run_ended(shell: Make) -> None:
    ended = run("ManualInterventionRequired", finishedAt=ago(5), summary="The fallback could not be reached.")
    told = " ".join(shell([*failed(lastRun="shop-9x", attempts=1), ended])("status").out.split())
    assert "last run shop-9x ManualInterventionRequired: The fallback could not be reached." in told


def test_watch_follows_a_run_of_a_router_with_all_its_cells(shell: Make) -> None:
    ended = run("Succeeded", finishedAt=ago(1), summary="Router shop was recovered in 40s, 6 steps")
    result = shell([*failed(), ended])("watch", "shop-9x")
    assert result.code == 0
    assert "Router shop was recovered" in result.out


def behind_fallback() -> list[Object]:
    active = {
        "order": ["cell-c", "cell-a"],
        "holder": {"kind": "RecoveryRun", "name": "shop-9x", "uid": "u"},
        "since": ago(60),
    }
    items = [*failed(), run()]
    placement = next(item for item in items if item["kind"] == "Placement")
    placement["spec"] |= {"mode": "Fallback", "fallback": active}
    return items


def test_where_and_placement_say_what_the_fallback_does(shell: Make) -> None:
    items = behind_fallback()
    (found,) = json.loads(shell(items)("where", "acme", "-o", "json").out)["routers"]
    expected = ["cell-c", "cell-a"][slot_of("acme", 2)]
    assert (found["cell"], found["access"], found["why"][0]["cause"]) == (expected, "Full", "Fallback")
    told = shell(items)("placement", "show", "shop").out
    assert "FALLBACK ROUTING since" in told
    assert "cell-c, cell-a" in told
    assert "FALLBACK ROUTING" in " ".join(shell(items)("status").out.split())


def test_the_run_of_a_cell_waits_while_the_fallback_serves(shell: Make) -> None:
    broken = objects.cell("cell-b", "Failed", failure=objects.failure())
    items = [*(i for i in behind_fallback() if i["metadata"]["name"] != "cell-b"), broken]
    told = json.loads(shell(items)("plan", "cell-b", "-o", "json").out)
    assert (told["outcome"], told["why"]["reason"]) == ("Waits", "FallbackActive")
    assert told["automatic"]["reason"] == "FallbackActive"


def test_acknowledge_a_router(shell: Make) -> None:
    blocked = {"reason": "AbortedByPerson", "message": "run shop-9x was aborted"}
    cluster = shell(failed(lastRun="shop-9x", attempts=1, blocked=blocked))
    result = cluster("acknowledge", "router/shop")
    assert result.code == 0, result.err
    assert cluster.api.read("Router", "shop")["metadata"]["annotations"][ANNOTATION_ACKNOWLEDGE] == "shop-9x"
    assert "router shop: run shop-9x acknowledged" in result.out


@pytest.mark.parametrize(("status", "shown"), [("True", []), ("False", ["SheddingReady"])])
def test_a_gateway_that_cannot_shed_is_shown_and_one_that_can_is_not(
    shell: Make, status: str, shown: list[str]
) -> None:
    items = [*(item for item in objects.well() if item["kind"] != "Router"), objects.router()]
    ready = {"type": "SheddingReady", "status": status, "reason": "NoFigures", "message": "no figures"}
    items[-1]["status"]["conditions"].append({**ready, "lastTransitionTime": ago(60)})
    told = json.loads(shell(items)("status", "-o", "json").out)
    assert [condition["type"] for condition in told["routers"][0]["conditions"]] == shown
