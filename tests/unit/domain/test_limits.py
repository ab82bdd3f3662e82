"""Every reason why the automation holds back, each with what lifts it."""

from datetime import datetime, timedelta
from typing import Any

import pytest

from recell.api import Cell, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, FailureType, Impact
from recell.api.meta import timestamp
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import placement
from recell.domain.health import Level
from recell.domain.limits import (
    ACKNOWLEDGEABLE,
    Allowance,
    aborted_for_cells,
    blocked,
    frozen,
    frozen_message,
    router_blocked,
)
from tests.unit.domain.builders import (
    ANNA,
    NOW,
    candidate,
    cell,
    ended,
    freeze,
    health,
    held,
    later,
    routing,
    run,
)

AUTOMATIC = RecoveryPolicySpec.model_validate({"mode": "Automatic"})
RESTLESS = RecoveryPolicySpec.model_validate({"mode": "Automatic", "limits": {"cooldown": "0s"}})
FAILED = health(Level.FAILED, later(-60))


def ask(of: Cell | None = None, policy: RecoveryPolicySpec = AUTOMATIC, now: datetime = NOW, **more: Any) -> Allowance:
    return blocked(of or cell(), policy, now, **more)


def why(allowance: Allowance) -> tuple[str, datetime | None]:
    assert allowance.blocked is not None
    assert 0 < len(allowance.blocked.message) <= 1024
    return allowance.blocked.reason, allowance.next_allowed_at


def message(allowance: Allowance) -> str:
    assert allowance.blocked is not None
    return allowance.blocked.message


def test_nothing_holds_it_back() -> None:
    assert ask(state=FAILED) == Allowance(None, None, 0)
    assert ask(policy=RecoveryPolicySpec.model_validate({"mode": "Approve"})).blocked is None


def test_observe_says_how_to_go_on() -> None:
    found = ask(policy=RecoveryPolicySpec(), policy_name="shop")
    assert why(found) == ("Observe", None)
    assert "RecoveryPolicy shop is in mode Observe" in message(found)
    assert "kubectl recell recover cell-a" in message(found)


def test_a_paused_cell() -> None:
    assert why(ask(cell(paused=True))) == ("Paused", None)


# --- freezes


@pytest.mark.parametrize(
    ("spec", "stops_new", "stops_running"),
    [
        ({}, True, True),
        ({"scope": "NewRuns"}, True, False),
        ({"until": timestamp(later(1))}, True, True),
        ({"until": timestamp(NOW)}, False, False),
        ({"selector": {"matchLabels": {"tier": "gold"}}}, True, True),
        ({"selector": {"matchLabels": {"router": "shop"}}}, True, True),
        ({"selector": {"matchLabels": {"tier": "gold", "zone": "a"}}}, False, False),
        ({"selector": {"matchLabels": {"tier": "gold", "router": "shop"}}}, False, False),
    ],
)
def test_freezes(spec: dict[str, Any], stops_new: bool, stops_running: bool) -> None:
    labels = [{"tier": "gold"}, {"router": "shop"}]
    assert (frozen([freeze(**spec)], labels, NOW, running=False) is not None) is stops_new
    assert (frozen([freeze(**spec)], labels, NOW, running=True) is not None) is stops_running
    target = cell(metadata={"labels": {"tier": "gold"}})
    assert (ask(target, freezes=[freeze(**spec)], router_labels={"router": "shop"}).blocked is not None) is stops_new


def test_any_one_freeze_freezes_and_says_until_when_and_why() -> None:
    found = ask(freezes=[freeze(until=timestamp(NOW)), freeze("all", until=timestamp(later(60)))])
    assert why(found) == ("Frozen", later(60))
    assert "RecoveryFreeze all until 2026-11-25T18:46:00Z: sale day" in message(found)
    assert frozen_message(freeze()) == "RecoveryFreeze stop until it is deleted: sale day"


# --- what a person did


def table(*holds: Any) -> PlacementSpec:
    spec = placement.initial(routing(), [candidate("cell-a"), candidate("cell-b")], epoch=1)
    for wanted in holds:
        spec = placement.hold(spec, routing(), wanted)
    return spec


@pytest.mark.parametrize("state", [HoldState.ISOLATED, HoldState.RETIRED])
def test_a_cell_out_of_service_is_left_alone(state: HoldState) -> None:
    found = ask(spec=table(held("cell-a", 0, state, ANNA, reason="odd latencies")))
    assert why(found) == (state.value, None)
    assert "by Person anna (odd latencies)" in message(found)
    assert ask(spec=table(held("cell-b", 0, state, ANNA))).blocked is None
    assert ask(spec=table(held("cell-a", 0))).blocked is None


def test_a_cell_of_unknown_provenance() -> None:
    spec = table(held("cell-a", 0, HoldState.ISOLATED, ANNA))
    found = ask(cell(metadata={"uid": "from-a-backup"}), spec=spec)
    assert why(found) == ("UnknownProvenance", None)
    assert "kubectl recell return cell-a" in message(found)


ABORTED = ended("run-7", "Aborted", NOW, trigger="Manual")


def test_an_abort_blocks_until_somebody_says_go_on() -> None:
    found = ask(lineage=[ABORTED], state=FAILED, now=later(86400))
    assert why(found) == ("AbortedByPerson", None)
    assert "kubectl recell acknowledge cell-a" in message(found)
    told = cell(metadata={"annotations": {"recell.dev/acknowledge": "run-7"}})
    assert ask(told, lineage=[ABORTED], state=FAILED, now=later(86400)).blocked is None
    other = cell(metadata={"annotations": {"recell.dev/acknowledge": "run-6"}})
    assert ask(other, lineage=[ABORTED], state=FAILED).blocked is not None


@pytest.mark.parametrize(
    ("state", "until"),
    [
        (health(Level.HEALTHY, later(-9999)), later(3600)),  # the hour begins with the abort
        (health(Level.HEALTHY, later(600)), later(4200)),
        (health(Level.FAILED, later(-9999)), None),
        (health(Level.DEGRADED, later(-9999)), None),
        (None, None),
        (health(Level.FAILED, later(1800), steady=(later(-9999), later(1800))), None),
    ],
)
def test_or_until_it_was_healthy_for_an_hour(state: Any, until: datetime | None) -> None:
    assert why(ask(lineage=[ABORTED], state=state, now=later(2000))) == ("AbortedByPerson", until)


@pytest.mark.parametrize(
    "state",
    [
        health(Level.HEALTHY, later(-60)),
        health(Level.HEALTHY, later(300)),
        health(Level.FAILED, later(3800), steady=(later(100), later(3700))),  # it was, and failed again since
    ],
)
def test_after_an_hour_of_health_it_is_over(state: Any) -> None:
    assert ask(lineage=[ABORTED], state=state, now=later(3900)).blocked is None


def test_only_the_last_run_counts_as_aborted() -> None:
    after = ended("run-8", "Succeeded", later(600), trigger="Manual")
    assert ask(lineage=[after, ABORTED], state=FAILED, now=later(700)).blocked is None


LEFT = ended("run-7", "ManualInterventionRequired", later(60))


def test_what_was_left_to_a_person_is_not_tried_again() -> None:
    found = ask(lineage=[LEFT], policy=RESTLESS, state=FAILED, now=later(61))
    assert why(found) == ("ManualIntervention", None)
    assert "ManualIntervention" in ACKNOWLEDGEABLE
    assert "run run-7" in message(found)
    assert "kubectl recell acknowledge cell-a" in message(found)
    told = cell(metadata={"annotations": {"recell.dev/acknowledge": "run-7"}})
    assert ask(told, lineage=[LEFT], policy=RESTLESS, state=FAILED, now=later(61)).blocked is None


@pytest.mark.parametrize("state", [health(Level.HEALTHY, later(90)), health(Level.FAILED, later(90)), None])
def test_another_failure_is_another_matter(state: Any) -> None:
    assert ask(lineage=[LEFT], policy=RESTLESS, state=state, now=later(100)).blocked is None


def test_a_take_over_makes_no_new_failure_of_an_old_one() -> None:
    shown = cell(status={"failure": failure(FailureType.SINGLE_CELL).to_dict()})
    anew = health(Level.FAILED, later(90))
    assert why(ask(shown, lineage=[LEFT], policy=RESTLESS, state=anew, now=later(100))) == ("ManualIntervention", None)


# --- several cells of a router


def router(**annotations: str) -> Router:
    haproxy = {"customerKey": {"type": "Header", "name": "x"}}
    return Router.model_validate(
        {
            "metadata": {"name": "shop", "namespace": "fleet", "annotations": annotations},
            "spec": {"type": "HAProxy", "customerData": "Shared", "haproxy": haproxy},
        }
    )


def cascade(phase: str, at: datetime = NOW, name: str = "storm-1", **more: Any) -> RecoveryRun:
    return ended(name, phase, at, targetRef={"kind": "Router", "name": "shop"}, strategy="EmergencyScaling", **more)


def ask_for_cells(of: Router | None = None, now: datetime = NOW, **more: Any) -> Allowance:
    return router_blocked(of or router(), RESTLESS, now, several=True, **({"state": FAILED} | more))


def test_an_abort_for_several_cells_says_both_ways_on() -> None:
    found = ask_for_cells(runs=[cascade("Aborted")], now=later(86400))
    assert why(found) == ("AbortedByPerson", None)
    assert "run storm-1 for several of its cells was aborted, so no such run starts by itself" in message(found)
    assert "until all cells of the router were Healthy together for an hour" in message(found)
    assert "kubectl recell acknowledge router/shop" in message(found)
    told = router(**{"recell.dev/acknowledge": "storm-1"})
    assert ask_for_cells(told, runs=[cascade("Aborted")], now=later(86400)).blocked is None


@pytest.mark.parametrize(
    ("state", "until"),
    [
        (health(Level.HEALTHY, later(-9999)), 3600),
        (health(Level.HEALTHY, later(600)), 4200),
        (health(Level.FAILED, later(3700), steady=(later(-9999), later(3600))), 0),
        (health(Level.FAILED, later(3700), steady=(later(-9999), later(3599))), None),
        (health(Level.UNKNOWN, later(600)), None),
    ],
)
def test_an_abort_for_several_cells_lasts_until_they_were_well_together_for_an_hour(
    state: Any, until: float | None
) -> None:
    def asked(at: float) -> Allowance:
        return ask_for_cells(runs=[cascade("Aborted")], state=state, now=later(at))

    if until is None:
        assert why(asked(86400)) == ("AbortedByPerson", None)
        return
    assert asked(max(until, 3800)).blocked is None
    if until:
        assert why(asked(until - 1)) == ("AbortedByPerson", later(until))
        assert asked(until).blocked is None


def test_what_a_run_for_several_cells_left_to_a_person_is_not_tried_again() -> None:
    left = cascade("ManualInterventionRequired", later(60))
    found = ask_for_cells(runs=[left], now=later(86400))
    assert why(found) == ("ManualIntervention", None)
    assert "run storm-1 for several of its cells left this failure to a person" in message(found)
    assert "until the cells that failed were Healthy again" in message(found)
    assert "kubectl recell acknowledge router/shop" in message(found)
    told = router(**{"recell.dev/acknowledge": "storm-1"})
    assert ask_for_cells(told, runs=[left], now=later(86400)).blocked is None
    after = cascade("Succeeded", later(90), "storm-2")
    assert ask_for_cells(runs=[left, after], now=later(86400)).blocked is None


@pytest.mark.parametrize("level", [Level.HEALTHY, Level.DEGRADED, Level.UNKNOWN, Level.FAILED])
def test_another_failure_of_several_cells_is_another_matter(level: Level) -> None:
    """And while none has failed nothing needs to be lifted."""
    left = cascade("ManualInterventionRequired", later(60))
    state = health(level, later(90), failing_since=later(61) if level is Level.FAILED else None)
    assert ask_for_cells(runs=[left], state=state, now=later(100)).blocked is None


def test_the_routers_own_failure_is_not_that_of_its_cells() -> None:
    left = cascade("ManualInterventionRequired", later(60))
    failing = router()
    failing.status.failure = failure(FailureType.ROUTER)
    anew = health(Level.FAILED, later(90))
    assert ask_for_cells(failing, runs=[left], state=anew, now=later(100)).blocked is None
    assert why(router_blocked(failing, RESTLESS, later(100), runs=[left], state=anew)) == ("ManualIntervention", None)


@pytest.mark.parametrize(("onset", "held"), [(-60, True), (60, True), (61, False)])
def test_a_cell_that_an_aborted_run_for_several_was_to_recover_gets_none_of_its_own(onset: float, held: bool) -> None:
    """What fails afterwards is another matter."""
    state = health(Level.FAILED, later(onset), failing_since=later(onset))
    found = ask(aborted=cascade("Aborted", later(60)), state=state, now=later(86400))
    if not held:
        assert found.blocked is None
    else:
        assert why(found) == ("CascadeAborted", None)
        assert "run storm-1 for several cells of the router was aborted" in message(found)
        assert "kubectl recell acknowledge router/shop" in message(found)
    well = health(Level.HEALTHY, later(90))
    assert ask(aborted=cascade("Aborted", later(60)), state=well, now=later(86400)).blocked is None


def test_which_aborted_run_for_several_cells_still_counts() -> None:
    def counts(*runs: Any, of: Any = None, state: Any = FAILED) -> Any:
        return aborted_for_cells(of or router(), later(86400), state=state, runs=runs, every=runs)

    aborted = cascade("Aborted", later(60))
    assert counts(aborted) is aborted
    assert counts() is None
    assert counts(aborted, cascade("Succeeded", later(90), "storm-2")) is None
    assert counts(aborted, of=router(**{"recell.dev/acknowledge": "storm-1"})) is None
    assert counts(aborted, state=health(Level.HEALTHY, later(600))) is None, "an hour of health"


# --- what is going on


def failure(kind: FailureType) -> Failure:
    return Failure(type=kind, impact=Impact.CRITICAL, data_integrity=DataIntegrity.INTACT, since=NOW)


def test_a_systemic_failure_is_looked_at_by_a_person() -> None:
    found = ask(failure=failure(FailureType.SYSTEMIC))
    assert why(found) == ("Systemic", None)
    assert "look there first" in message(found)
    assert ask(failure=failure(FailureType.MULTIPLE_CELL)).blocked is None


def test_flapping_until_stable() -> None:
    state = health(Level.FAILED, NOW, transitions=(later(-600), later(-300), NOW))
    assert why(ask(state=state)) == ("Flapping", later(300))
    assert ask(state=state, now=later(300)).blocked is None


def test_one_run_a_cell_and_so_many_a_router() -> None:
    mine = run("run-1", status={"phase": "Draining"})
    other = run("run-2", "cell-b", status={"phase": "Validating"})
    assert why(ask(active=[mine])) == ("RunActive", None)
    assert "run run-1 works on this cell already (Draining)" in message(ask(active=[mine]))
    assert why(ask(active=[other])) == ("Concurrency", None)
    assert "run-2 is active and the policy's spec.limits.maxConcurrentRuns is 1" in message(ask(active=[other]))
    assert ask(active=[other], max_concurrent_runs=2).blocked is None
    assert ask(active=[run("run-2", "cell-b", dryRun=True)]).blocked is None
    assert ask(active=[ended("run-2", "Succeeded", NOW)]).blocked is None


# --- cooldown and attempts


def automatic(number: int, at: datetime, phase: str = "Failed", **more: Any) -> RecoveryRun:
    return ended(f"run-{number}", phase, at, **more)


def test_cooldown_between_two_automatic_runs() -> None:
    found = ask(lineage=[automatic(1, NOW)], now=later(60))
    assert why(found) == ("Cooldown", later(900))
    assert "run-1 ended at 2026-11-25T18:45:00Z (Failed)" in message(found)
    assert "allowed at 2026-11-25T19:00:00Z" in message(found)
    assert ask(lineage=[automatic(1, NOW)], now=later(900)).blocked is None
    assert why(ask(lineage=[automatic(1, NOW, trigger="Child")], now=later(60)))[0] == "Cooldown"


@pytest.mark.parametrize(
    "last",
    [
        ended("run-1", "Failed", NOW, trigger="Manual"),
        ended("run-1", "Skipped", NOW),
        ended("run-1", "Succeeded", NOW, dryRun=True),
        run("run-1", trigger="Automatic", status={"phase": "Draining"}),
    ],
)
def test_what_is_no_automatic_run_that_ended_starts_no_cooldown(last: RecoveryRun) -> None:
    assert ask(lineage=[last], now=later(60)).blocked is None


def test_an_end_in_the_future_is_now() -> None:
    assert why(ask(lineage=[automatic(1, later(5000))])) == ("Cooldown", later(900))


def test_attempts_within_the_window() -> None:
    hours = [timedelta(hours=-h) for h in (20, 12, 4)]
    runs = [automatic(i, NOW + h, started=NOW + h - timedelta(minutes=5)) for i, h in enumerate(hours)]
    found = ask(lineage=runs)
    assert why(found) == ("AttemptsExhausted", NOW + timedelta(hours=4, minutes=-5))
    assert found.attempts == 3
    assert "kubectl recell recover cell-a" in message(found)
    assert ask(lineage=runs[:2]).blocked is None
    assert ask(lineage=runs[:2]).attempts == 2
    later_on = ask(lineage=runs, now=NOW + timedelta(hours=4))
    assert (later_on.blocked, later_on.attempts) == (None, 2)


def test_escalations_and_peoples_runs_are_no_attempts() -> None:
    runs = [
        automatic(1, later(-7200)),
        *(automatic(i, later(-7000), trigger=t) for i, t in ((2, "Child"), (3, "Manual"))),
    ]
    assert ask(lineage=runs).attempts == 1


def test_with_more_runs_than_allowed_the_wait_is_until_fewer_are_in_the_window() -> None:
    runs = [
        automatic(i, NOW - timedelta(hours=h), started=NOW - timedelta(hours=h)) for i, h in enumerate((20, 15, 10, 5))
    ]
    assert why(ask(lineage=runs)) == ("AttemptsExhausted", NOW + timedelta(hours=9))


def test_while_others_may_be_failing_too_it_is_waited_until_that_is_known_and_not_longer() -> None:
    failed = health(Level.FAILED, NOW - timedelta(seconds=5))
    found = ask(state=failed, about_to_fail=["cell-c", "cell-b"])
    assert why(found) == ("OthersFailing", NOW + timedelta(seconds=15)), "twice detection.failedAfter"
    assert "cell-b and cell-c may be failing too" in message(found)
    assert ask(state=failed).blocked is None
    assert ask(state=health(Level.FAILED, NOW - timedelta(seconds=20)), about_to_fail=["cell-b"]).blocked is None


def test_the_reason_that_a_person_has_to_know_first_is_told() -> None:
    everything: dict[str, Any] = {
        "lineage": [ABORTED],
        "active": [run("run-2", "cell-b")],
        "freezes": [freeze()],
        "state": health(Level.FAILED, NOW, transitions=(NOW, NOW, NOW)),
        "failure": failure(FailureType.SYSTEMIC),
        "spec": table(held("cell-a", 0, HoldState.ISOLATED, ANNA)),
    }
    order = []
    target = cell(paused=True, metadata={"uid": "other"})
    while (found := ask(target, **everything)).blocked is not None:
        reason = found.blocked.reason
        order.append(reason)
        assert ("recell acknowledge" in message(found)) is (reason in ACKNOWLEDGEABLE)
        match reason:
            case "UnknownProvenance":
                target = cell(paused=True)
            case "Paused":
                target = cell()
            case "Frozen":
                everything["freezes"] = []
            case "Isolated":
                everything["spec"] = table()
            case "AbortedByPerson":
                everything["lineage"] = []
            case "Systemic":
                everything["failure"] = None
            case "Flapping":
                everything["state"] = None
            case "Concurrency":
                everything["active"] = []
    assert order == [
        "UnknownProvenance",
        "Paused",
        "Frozen",
        "Isolated",
        "AbortedByPerson",
        "Systemic",
        "Flapping",
        "Concurrency",
    ]


def test_a_run_without_any_time_is_named() -> None:
    broken = ended("run-1", "Failed", NOW)
    broken.status.finished_at = broken.status.started_at = broken.metadata.creation_timestamp = None
    with pytest.raises(ValueError, match="run run-1"):
        ask(lineage=[broken])
