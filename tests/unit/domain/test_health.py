"""Evidence by table; health over time by scenario, and by properties over any sequence of evidence."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api import Cell
from recell.api.failure import Evidence, Vantage, Verdict
from recell.api.meta import timestamp
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain.health import HealthState, Level, advance, assess, flapping, judged, next_look
from recell.domain.observation import (
    CellObservation,
    Endpoints,
    IntegrityResult,
    ProbeResult,
    WorkloadPhase,
    WorkloadState,
)
from tests.unit.domain.builders import NOW, cell, cell_traffic, evidence, later

POLICY = RecoveryPolicySpec()
FAILED_AFTER, HEALTHY_AFTER = 10.0, 30.0

WEB = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}
DATABASE = {"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db"}
NIGHTLY = {"apiVersion": "batch/v1", "kind": "CronJob", "name": "nightly"}


def workload(phase: WorkloadPhase, message: str = "", which: int = 0, since: datetime | None = None) -> WorkloadState:
    ref = cell(workloads=[WEB, DATABASE, NIGHTLY]).spec.workloads[which]
    return WorkloadState(ref=ref, phase=phase, message=message, since=since)


def probe(ok: bool, *, at: datetime = NOW, since: datetime = NOW, cut_off: bool = False) -> ProbeResult:
    message = "200 in 3 ms" if ok else "connection refused"
    return ProbeResult(ok=ok, message=message, at=at, since=since, operator_cut_off=cut_off)


def one(found: tuple[Evidence, ...], check: str) -> Evidence:
    (match,) = [e for e in found if e.check == check]
    return match


def verdict_of(check: str, of: Cell, seen: CellObservation, now: datetime = NOW) -> tuple[Verdict, Vantage, str]:
    found = one(assess(of, seen, POLICY, now), check)
    return found.verdict, found.vantage, found.message


def conditions(*conditions: dict[str, Any]) -> dict[str, Any]:
    return {"conditions": list(conditions)}


# --- evidence


def test_only_checks_that_apply_are_made() -> None:
    address = {"type": "Address", "address": {"host": "10.0.0.1", "port": 80}}
    assert [e.check for e in assess(cell(backend=address), CellObservation(), POLICY, NOW)] == [
        "router-check",
        "error-rate",
        "latency",
    ]
    full = cell(
        workloads=[WEB],
        health={"probe": {}, "conditions": [{"type": "DiskFull", "status": "True", "for": "0s"}]},
        data={"integrity": {"path": "/integrity"}},
    )
    found = assess(full, CellObservation(), POLICY, NOW)
    assert {e.verdict for e in found} == {Verdict.INCONCLUSIVE}, "nothing was seen, so nothing passes or fails"
    assert [e.check for e in found] == [
        "workloads",
        "endpoints",
        "probe",
        "router-check",
        "error-rate",
        "latency",
        "condition-disk-full",
        "integrity",
    ]


@pytest.mark.parametrize(
    ("states", "verdict", "message"),
    [
        ((), Verdict.INCONCLUSIVE, "not read yet"),
        (
            (workload(WorkloadPhase.CURRENT), workload(WorkloadPhase.CURRENT, which=1)),
            Verdict.PASSED,
            "Deployment/web and StatefulSet/db: every pod is available",
        ),
        (
            (workload(WorkloadPhase.CURRENT), workload(WorkloadPhase.CURRENT, which=2)),
            Verdict.PASSED,
            "Deployment/web: every pod is available",
        ),
        ((workload(WorkloadPhase.CURRENT, which=2),), Verdict.PASSED, "there are only CronJobs"),
        ((workload(WorkloadPhase.NOT_FOUND, which=2),), Verdict.FAILED, "CronJob/nightly: NotFound"),
        ((workload(WorkloadPhase.IN_PROGRESS, "1 of 2 pods updated"),), Verdict.INCONCLUSIVE, "1 of 2 pods updated"),
        ((workload(WorkloadPhase.UNKNOWN),), Verdict.INCONCLUSIVE, "Deployment/web: Unknown"),
        (
            (workload(WorkloadPhase.IN_PROGRESS), workload(WorkloadPhase.FAILED, "web-x: CrashLoopBackOff", 1)),
            Verdict.FAILED,
            "StatefulSet/db: web-x: CrashLoopBackOff",
        ),
        ((workload(WorkloadPhase.NOT_FOUND, "does not exist"),), Verdict.FAILED, "Deployment/web: does not exist"),
    ],
)
def test_workloads(states: tuple[WorkloadState, ...], verdict: Verdict, message: str) -> None:
    found = verdict_of("workloads", cell(workloads=[WEB]), CellObservation(workloads=states))
    assert found[:2] == (verdict, Vantage.CLUSTER)
    assert message in found[2]


@pytest.mark.parametrize(
    ("endpoints", "verdict", "message"),
    [
        (None, Verdict.INCONCLUSIVE, "Service shop-a/web was not read yet"),
        (Endpoints(False, False), Verdict.FAILED, "does not exist: create it, or correct spec.backend.service.name"),
        (Endpoints(True, False, 1, 1), Verdict.FAILED, "has no port 80: correct spec.backend.service.port"),
        (Endpoints(True, True, 0, 3), Verdict.FAILED, "0 of 3 endpoints are ready"),
        (Endpoints(True, True, 1, 3), Verdict.PASSED, "1 of 3 endpoints are ready"),
    ],
)
def test_endpoints(endpoints: Endpoints | None, verdict: Verdict, message: str) -> None:
    found = verdict_of("endpoints", cell(namespace="shop-a"), CellObservation(endpoints=endpoints))
    assert found[:2] == (verdict, Vantage.CLUSTER)
    assert message in found[2]


@pytest.mark.parametrize(
    ("result", "verdict", "message"),
    [
        (None, Verdict.INCONCLUSIVE, "yet"),
        (probe(True), Verdict.PASSED, "HTTP /healthz: 200 in 3 ms"),
        (probe(False), Verdict.FAILED, "HTTP /healthz: connection refused"),
        (probe(False, cut_off=True), Verdict.INCONCLUSIVE, "more likely its own fault"),
        (probe(False, at=later(-17)), Verdict.FAILED, "connection refused"),
        (probe(False, at=later(-18)), Verdict.INCONCLUSIVE, "18s old, more than 17s"),
        (probe(True, at=later(-18)), Verdict.INCONCLUSIVE, "18s old"),
        (probe(False, at=later(3600)), Verdict.FAILED, "connection refused"),
    ],
)
def test_probe(result: ProbeResult | None, verdict: Verdict, message: str) -> None:
    found = verdict_of("probe", cell(health={"probe": {}}), CellObservation(probe=result))
    assert found[:2] == (verdict, Vantage.OPERATOR)
    assert message in found[2]


def test_a_time_from_the_future_counts_as_now() -> None:
    seen = CellObservation(probe=probe(False, at=later(60), since=later(50)))
    assert one(assess(cell(health={"probe": {}}), seen, POLICY, NOW), "probe").since == NOW


@pytest.mark.parametrize(
    ("traffic", "verdicts"),
    [
        (None, "III"),
        (cell_traffic(), "PPP"),
        (cell_traffic(failures=50), "PPP"),  # 5 % is the threshold: more than it fails
        (cell_traffic(failures=51), "PFP"),
        (cell_traffic(latency_p95=1.0), "PPP"),
        (cell_traffic(latency_p95=1.001), "PPF"),
        (cell_traffic(latency_p95=None), "PPI"),
        (cell_traffic(requests=19, failures=19), "PII"),  # fewer than minimumRequests
        (cell_traffic(requests=20, failures=20), "PFP"),
        (cell_traffic(requests=0, check_up=None), "III"),
        (cell_traffic(requests=0, check_up=False, in_flight=7), "FII"),
    ],
)
def test_router(traffic: Any, verdicts: str) -> None:
    found = assess(cell(), CellObservation(traffic=traffic), POLICY, NOW)
    figures = [e for e in found if e.vantage == Vantage.ROUTER]
    assert [e.check for e in figures] == ["router-check", "error-rate", "latency"]
    assert "".join(e.verdict[0] for e in figures) == verdicts


@pytest.mark.parametrize(
    ("rates", "verdict", "level"),
    [
        ((), None, Level.DEGRADED),
        ((0.1,), None, Level.DEGRADED),
        ((0.1, 0.0), Verdict.PASSED, Level.DEGRADED),
        ((0.1, 0.06), Verdict.FAILED, Level.FAILED),
        ((0.1, 0.06, 0.05), Verdict.FAILED, Level.FAILED),
        ((0.9, 0.9, 0.0, 0.0, 0.0), Verdict.PASSED, Level.DEGRADED),  # more likely a fault near those two pods
    ],
)
def test_two_router_pods_are_two_places_to_see_from(
    rates: tuple[float, ...], verdict: Verdict | None, level: Level
) -> None:
    traffic = replace(cell_traffic(failures=100), pod_error_rates=rates)
    found = assess(cell(), CellObservation(traffic=traffic), POLICY, NOW)
    assert {e.verdict for e in found if e.check == "router-pods"} == ({verdict} if verdict else set())
    assert judged(found) == level


def test_figures_stand_with_unit_threshold_and_window() -> None:
    found = assess(cell(), CellObservation(traffic=cell_traffic(1000, 125, latency_p95=1.5)), POLICY, NOW)
    assert one(found, "error-rate").message == "12.5 % of 1000 requests failed in 10s, at most 5% may"
    assert one(found, "latency").message == "95 % of 1000 answers took at most 1500 ms in 10s, allowed are 1000 ms"
    few = assess(cell(), CellObservation(traffic=cell_traffic(3, in_flight=4)), POLICY, NOW)
    assert one(few, "error-rate").message == "3 requests ended in 10s, fewer than 20 (4 in flight)"


def declared(for_: str, status: str | None, since: datetime | None) -> Cell:
    set_by_other = [] if status is None else [{"type": "example.com/DiskFull", "status": status, "reason": "Quota"}]
    for condition in set_by_other:
        if since is not None:
            condition["lastTransitionTime"] = timestamp(since)
    return cell(
        health={"conditions": [{"type": "example.com/DiskFull", "status": "True", "for": for_}]},
        status=conditions(*set_by_other),
    )


@pytest.mark.parametrize(
    ("for_", "status", "since", "verdict", "message"),
    [
        ("0s", None, None, Verdict.INCONCLUSIVE, "is not set"),
        ("0s", "False", NOW, Verdict.PASSED, "is False (Quota)"),
        ("0s", "Unknown", NOW, Verdict.INCONCLUSIVE, "is Unknown"),
        ("0s", "True", NOW, Verdict.FAILED, "is True (Quota); the Cell declares that it means failure"),
        ("0s", "True", None, Verdict.FAILED, "declares"),
        ("1m", "True", later(-59), Verdict.INCONCLUSIVE, "once it lasts 1m"),
        ("1m", "True", later(-60), Verdict.FAILED, "declares"),
        ("1m", "True", later(+600), Verdict.INCONCLUSIVE, "once it lasts 1m"),
        ("1m", "True", None, Verdict.INCONCLUSIVE, "no lastTransitionTime"),
    ],
)
def test_declared_conditions(
    for_: str, status: str | None, since: datetime | None, verdict: Verdict, message: str
) -> None:
    found = verdict_of("condition-example-com-disk-full", declared(for_, status, since), CellObservation())
    assert found[:2] == (verdict, Vantage.DECLARED)
    assert message in found[2]


CHECKED = cell(data={"integrity": {"path": "/integrity"}})


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        (None, Verdict.INCONCLUSIVE),
        (IntegrityResult(True, "204", later(-3600)), Verdict.PASSED),
        (IntegrityResult(True, "204", later(-3601)), Verdict.INCONCLUSIVE),
        (IntegrityResult(False, "409: 3 orders broken", NOW), Verdict.FAILED),
        (IntegrityResult(None, "timed out", NOW), Verdict.INCONCLUSIVE),
        (IntegrityResult(True, "204", later(+60)), Verdict.PASSED),
    ],
)
def test_integrity(result: IntegrityResult | None, verdict: Verdict) -> None:
    assert verdict_of("integrity", CHECKED, CellObservation(integrity=result))[:2] == (verdict, Vantage.OPERATOR)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [("True", Verdict.PASSED), ("False", Verdict.FAILED), ("Unknown", Verdict.INCONCLUSIVE)],
)
def test_integrity_by_another_controllers_condition(status: str, verdict: Verdict) -> None:
    told = conditions({"type": "DataIntact", "status": status, "reason": "Fsck"})
    assert verdict_of("integrity", cell(status=told), CellObservation())[:2] == (verdict, Vantage.CLUSTER)
    own = cell(status=told, data={"integrity": {"path": "/integrity"}})
    assert verdict_of("integrity", own, CellObservation())[0] == Verdict.INCONCLUSIVE, "a check of its own counts"


def test_long_messages_are_cut() -> None:
    seen = CellObservation(workloads=(workload(WorkloadPhase.FAILED, "x" * 2000),))
    assert len(one(assess(cell(workloads=[WEB]), seen, POLICY, NOW), "workloads").message) == 1024


# --- one moment: two vantage points (rule 12)

FAIL, PASS, NONE = Verdict.FAILED, Verdict.PASSED, Verdict.INCONCLUSIVE


def moment(**verdicts: Verdict) -> list[Evidence]:
    vantages = {
        "workloads": Vantage.CLUSTER,
        "endpoints": Vantage.CLUSTER,
        "probe": Vantage.OPERATOR,
        "integrity": Vantage.OPERATOR,
        "router-check": Vantage.ROUTER,
        "error-rate": Vantage.ROUTER,
        "latency": Vantage.ROUTER,
        "condition-x": Vantage.DECLARED,
    }
    names = {key.replace("_", "-"): verdict for key, verdict in verdicts.items()}
    return [evidence(check, vantages[check], verdict) for check, verdict in names.items()]


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (moment(), Level.UNKNOWN),
        (moment(probe=NONE, router_check=NONE), Level.UNKNOWN),
        (moment(probe=PASS, router_check=NONE), Level.HEALTHY),
        # one place alone
        (moment(probe=FAIL, router_check=PASS, error_rate=PASS), Level.DEGRADED),
        (moment(probe=FAIL, workloads=FAIL, endpoints=FAIL, router_check=PASS), Level.DEGRADED),
        (moment(probe=FAIL, workloads=FAIL, router_check=NONE, error_rate=NONE), Level.DEGRADED),
        (moment(error_rate=FAIL, router_check=FAIL, probe=PASS, workloads=PASS), Level.DEGRADED),
        # two places
        (moment(probe=FAIL, error_rate=FAIL), Level.FAILED),
        (moment(endpoints=FAIL, error_rate=FAIL), Level.FAILED),
        (moment(workloads=FAIL, router_check=FAIL, error_rate=NONE), Level.FAILED),
        (moment(probe=FAIL, router_check=FAIL), Level.FAILED),
        # customers get answers, whatever the router's own check says
        (moment(probe=FAIL, router_check=FAIL, error_rate=PASS), Level.DEGRADED),
        # slow or corrupted is not down
        (moment(probe=FAIL, latency=FAIL, error_rate=PASS), Level.DEGRADED),
        (moment(integrity=FAIL, error_rate=FAIL), Level.DEGRADED),
        (moment(integrity=FAIL, probe=PASS), Level.DEGRADED),
        # the user said so
        (moment(condition_x=FAIL), Level.FAILED),
        (moment(condition_x=FAIL, probe=PASS, error_rate=PASS), Level.FAILED),
    ],
)
def test_judged(seen: list[Evidence], level: Level) -> None:
    assert judged(seen) == level


# --- over time

GOOD = moment(probe=PASS, router_check=PASS, error_rate=PASS)
BAD = moment(probe=FAIL, router_check=FAIL, error_rate=FAIL)
HALF = moment(probe=FAIL, router_check=PASS, error_rate=PASS)
BLIND = moment(probe=NONE, router_check=NONE, error_rate=NONE)
DECLARED = moment(condition_x=FAIL, probe=PASS)


def play(*script: tuple[float, list[Evidence]], state: HealthState | None = None) -> Iterator[HealthState]:
    for at, seen in script:
        state = advance(state, seen, POLICY, later(at))
        yield state


def last(*script: tuple[float, list[Evidence]], state: HealthState | None = None) -> HealthState:
    return list(play(*script, state=state))[-1]


def levels(*script: tuple[float, list[Evidence]]) -> list[Level]:
    return [state.level for state in play(*script)]


HEALTHY = last((0, GOOD))
FAILED = last((0, GOOD), (10, BAD), (20, BAD))


def test_a_cell_of_which_nothing_bad_was_seen_is_healthy_at_once() -> None:
    assert levels((0, GOOD)) == [Level.HEALTHY]
    assert levels((0, BLIND), (100, GOOD)) == [Level.UNKNOWN, Level.HEALTHY]
    assert HEALTHY.transitions == ()


def test_failing_has_to_last() -> None:
    assert levels((0, GOOD), (1, BAD), (10.9, BAD), (11, BAD)) == [
        Level.HEALTHY,
        Level.HEALTHY,
        Level.HEALTHY,
        Level.FAILED,
    ]
    state = last((0, GOOD), (1, BAD), (11, BAD))
    assert (state.since, state.failing_since, state.transitions) == (later(11), later(1), (later(11),))


def test_a_blip_in_between_starts_the_dwell_anew() -> None:
    assert levels((0, GOOD), (1, BAD), (10, GOOD), (11, BAD), (20, BAD))[-1] == Level.HEALTHY


def test_after_a_takeover_nothing_is_failed_before_one_detection_period() -> None:
    assert levels((0, BAD), (9.9, BAD), (10, BAD)) == [Level.UNKNOWN, Level.UNKNOWN, Level.FAILED]


def test_one_vantage_point_alone_degrades() -> None:
    assert levels((0, GOOD), (1, HALF), (11, HALF), (1000, HALF))[1:] == [
        Level.HEALTHY,
        Level.DEGRADED,
        Level.DEGRADED,
    ]


def test_degraded_becomes_failed_only_when_two_have_seen_it_long_enough() -> None:
    state = last((0, GOOD), (1, HALF), (100, HALF))
    assert last((101, BAD), (110.9, BAD), state=state).level == Level.DEGRADED
    failed = last((101, BAD), (111, BAD), state=state)
    assert failed.level == Level.FAILED
    assert failed.failing_since == later(1), "the onset is the first evidence"


def test_passing_has_to_last_too() -> None:
    state = last((21, GOOD), (50.9, GOOD), state=FAILED)
    assert state.level == Level.FAILED
    assert state.failing_since == later(10)
    well = last((51, GOOD), state=state)
    assert (well.level, well.failing_since, well.since) == (Level.HEALTHY, None, later(51))
    assert last((30, BAD), (31, GOOD), (51, GOOD), state=last((21, GOOD), state=FAILED)).level == Level.FAILED


def test_a_failed_cell_that_only_one_still_complains_about_becomes_degraded() -> None:
    assert last((21, HALF), (50, HALF), state=FAILED).level == Level.FAILED
    assert last((21, HALF), (51, HALF), state=FAILED).level == Level.DEGRADED


def test_a_declared_failure_of_zero_seconds_is_at_once() -> None:
    assert levels((0, GOOD), (1, DECLARED)) == [Level.HEALTHY, Level.FAILED]
    assert levels((0, DECLARED)) == [Level.FAILED]
    assert last((0, DECLARED)).failing_since == NOW


def test_what_cannot_be_seen_is_unknown_after_a_while_and_no_change_of_health() -> None:
    assert last((21, BLIND), (25, BLIND), state=FAILED).level == Level.FAILED
    unknown = last((21, BLIND), (31, BLIND), state=FAILED)
    assert unknown.level == Level.UNKNOWN
    back = last((40, BAD), (50, BAD), state=unknown)
    assert back.level == Level.FAILED
    assert back.transitions == FAILED.transitions
    assert last((40, GOOD), (69, GOOD), state=unknown).level == Level.UNKNOWN, "it was failed when it was last seen"
    assert last((40, GOOD), (70, GOOD), state=unknown).level == Level.HEALTHY
    assert levels((0, GOOD), (1, BLIND), (11, BLIND), (12, GOOD))[2:] == [Level.UNKNOWN, Level.HEALTHY]


def test_time_in_which_nothing_could_be_seen_counts_for_nothing() -> None:
    assert last((21, GOOD), (40, BLIND), (45, GOOD), (74, GOOD), state=FAILED).level == Level.FAILED
    assert levels((0, GOOD), (1, BAD), (5, BLIND), (6, BAD), (15, BAD))[-1] == Level.HEALTHY


def flaps() -> HealthState:
    """Failed, healthy, failed again: three changes within 15 minutes."""
    return last((60, GOOD), (90, GOOD), (120, BAD), (130, BAD), state=FAILED)


def test_three_changes_within_the_window_are_flapping() -> None:
    assert not flapping(last((60, GOOD), (90, GOOD), state=FAILED), POLICY, later(100))
    state = flaps()
    assert list(state.transitions) == [later(20), later(90), later(130)]
    assert flapping(state, POLICY, later(130))


def test_a_flapping_cell_counts_as_failed_until_it_is_stable() -> None:
    state = last((140, GOOD), (200, GOOD), (919, GOOD), state=flaps())
    assert state.level == Level.FAILED
    assert next_look(state, POLICY, later(919)) == 1.0
    assert last((920, GOOD), state=state).level == Level.HEALTHY
    assert not flapping(state, POLICY, later(920))


def test_a_single_failure_and_its_recovery_is_not_flapping() -> None:
    assert not flapping(last((60, GOOD), (90, GOOD), state=FAILED), POLICY, later(90))


def test_degraded_and_back_is_never_flapping() -> None:
    script = [(30.0 * i, HALF if i % 4 < 2 else GOOD) for i in range(40)]
    state = last(*script)
    assert state.transitions == ()


def test_an_hour_of_health_is_remembered() -> None:
    state = last((0, GOOD), (3610, BAD), (3620, BAD))
    assert state.steady == (NOW, later(3620))
    assert last((0, GOOD), (3589, BAD), (3599, BAD)).steady is None


def test_a_clock_that_jumps_back_delays_and_never_crashes() -> None:
    jumped = last((-3600, BAD), state=last((0, GOOD), (5, BAD)))
    assert jumped.level == Level.HEALTHY
    assert jumped.failing_since == later(-3600)
    assert last((-3590, BAD), state=jumped).level == Level.FAILED
    assert not flapping(last((-3600, GOOD), state=FAILED), POLICY, later(-3600))
    assert next_look(FAILED, POLICY, later(-3600)) is None


def test_the_next_look_is_when_time_alone_changes_something() -> None:
    assert next_look(HEALTHY, POLICY, NOW) is None
    assert next_look(last((0, GOOD), (1, BAD)), POLICY, later(4)) == 7.0
    assert next_look(last((21, GOOD), state=FAILED), POLICY, later(30)) == 21.0
    assert next_look(last((0, GOOD), (1, BLIND)), POLICY, later(1)) == 10.0
    assert next_look(last((0, GOOD), (1, BLIND)), POLICY, later(60)) == 0.0


def test_the_next_look_knows_conditions_that_have_to_last() -> None:
    waiting = declared("1m", "True", later(-20))
    assert next_look(HEALTHY, POLICY, NOW, cell=waiting) == 40.0
    assert next_look(last((0, GOOD), (1, BAD)), POLICY, later(1), cell=waiting) == 10.0
    assert next_look(HEALTHY, POLICY, NOW, cell=declared("1m", "False", later(-20))) is None
    assert next_look(HEALTHY, POLICY, NOW, cell=declared("1m", "True", None)) is None
    assert next_look(HEALTHY, POLICY, later(60), cell=waiting) is None


# --- any sequence

MOMENTS = st.sampled_from([GOOD, BAD, HALF, BLIND, DECLARED])
SCRIPTS = st.lists(st.tuples(st.integers(0, 400), MOMENTS), min_size=1, max_size=60)


def walked(script: list[tuple[int, list[Evidence]]]) -> HealthState:
    state, at = None, 0
    for step, seen in script:
        at += step
        state = advance(state, seen, POLICY, later(at))
    assert state is not None
    return state


@given(SCRIPTS)
def test_whatever_comes_the_record_is_in_order(script: list[tuple[int, list[Evidence]]]) -> None:
    state, at = None, 0
    for step, seen in script:
        at += step
        now = later(at)
        before, state = state, advance(state, seen, POLICY, now)
        assert state.since <= now
        assert list(state.transitions) == sorted(state.transitions)
        assert (state.failing_since is None) or state.failing_since <= now
        assert not (state.passing_since and state.failed_since)
        if state.level in (Level.DEGRADED, Level.FAILED):
            assert state.failing_since is not None
        if before is not None and before.level == state.level:
            assert before.since == state.since
        if state.level == Level.FAILED and before is not None and before.level not in (Level.FAILED, Level.UNKNOWN):
            lasted = state.failed_since is not None and now - state.failed_since >= timedelta(seconds=FAILED_AFTER)
            assert lasted or seen is DECLARED, "no cell becomes Failed on less"


@given(SCRIPTS, MOMENTS)
def test_with_the_same_evidence_the_level_changes_only_when_foretold(
    script: list[tuple[int, list[Evidence]]], seen: list[Evidence]
) -> None:
    now = later(sum(step for step, _ in script))
    state = advance(walked(script), seen, POLICY, now)
    for _ in range(10):
        wait = next_look(state, POLICY, now)
        if wait is None:
            assert advance(state, seen, POLICY, now + timedelta(days=3)).level == state.level
            return
        just_before = now + timedelta(seconds=wait) - timedelta(milliseconds=1)
        if just_before > now:
            assert advance(state, seen, POLICY, just_before).level == state.level
        now = now + timedelta(seconds=wait)
        after = advance(state, seen, POLICY, now)
        assert after.level != state.level or after != state or wait == 0
        state = after
    pytest.fail("the level never comes to rest")


@given(SCRIPTS, st.lists(st.integers(-100_000, 100_000), min_size=1, max_size=30), MOMENTS)
def test_any_clock_is_survived(
    script: list[tuple[int, list[Evidence]]], jumps: list[int], seen: list[Evidence]
) -> None:
    state = walked(script)
    for jump in jumps:
        now = later(jump)
        state = advance(state, seen, POLICY, now)
        assert max(state.since, *state.transitions, now) == now
        wait = next_look(state, POLICY, now)
        assert wait is None or wait >= 0
        flapping(state, POLICY, now)


def test_states_are_values() -> None:
    assert replace(FAILED) == FAILED
    assert hash(FAILED) == hash(replace(FAILED))
