"""A router's own failure: seen from two places, never while its cells see normal traffic (rule 12)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact, Vantage, Verdict
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import health
from recell.domain.health import Level
from recell.domain.observation import Asked, CellTraffic, Pods, Processes, RouterObservation, RouterTraffic
from recell.domain.router_health import ACCESS, PODS, PROCESSES, TRAFFIC, assess, derive, judged

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
POLICY = RecoveryPolicySpec()


def asked(unanswered: int, of: int = 20, *, age: float = 0.0, cut_off: bool = False) -> Asked:
    return Asked(of, unanswered, "no answer within 2 s", NOW - timedelta(seconds=age), NOW, cut_off)


def traffic(requests: int, seconds: float = 10.0, *, age: float = 0.0) -> RouterTraffic:
    until = NOW - timedelta(seconds=age)
    cells = {"a": CellTraffic(requests, requests / seconds, 0, 0)}
    return RouterTraffic(since=until - timedelta(seconds=seconds), until=until, pods=2, cells=cells)


WELL = RouterObservation(
    asked=asked(0), pods=Pods(2, 2), processes=Processes(2, 2), traffic=traffic(1000), usual=traffic(30000, 300)
)
GONE = RouterObservation(asked=asked(20), pods=Pods(2, 0))
HUNG = RouterObservation(asked=asked(20), pods=Pods(2, 0), processes=Processes(2, 0))
ASIDE = RouterObservation(  # the Service leads nowhere: every pod is well and idle
    asked=asked(20), pods=Pods(2, 2), processes=Processes(2, 2), traffic=traffic(0), usual=traffic(30000, 300)
)


@pytest.mark.parametrize(
    ("seen", "level"),
    [
        (WELL, Level.HEALTHY),
        (GONE, Level.FAILED),
        (HUNG, Level.FAILED),
        (ASIDE, Level.FAILED),
        # The operator alone sees it: its own trouble, or a path of its own.
        (replace(WELL, asked=asked(20)), Level.DEGRADED),
        (replace(ASIDE, usual=None), Level.DEGRADED),
        (replace(ASIDE, usual=traffic(60, 300)), Level.DEGRADED),
        # Rule 12: cells that see normal traffic are proof to the contrary, whatever else is said.
        (replace(HUNG, traffic=traffic(1000)), Level.DEGRADED),
        # What is old proves nothing, either way.
        (replace(HUNG, traffic=traffic(1000, age=6)), Level.FAILED),
        (replace(GONE, asked=asked(20, age=6)), Level.DEGRADED),
        # Customers have gone to bed: who asks is answered.
        (replace(WELL, traffic=traffic(0)), Level.HEALTHY),
        # Pods alone, without a customer who misses them.
        (replace(WELL, pods=Pods(2, 1), processes=Processes(2, 1)), Level.DEGRADED),
        # Whatever the operator asks fails at once: it is the one that is cut off.
        (replace(GONE, asked=asked(20, cut_off=True)), Level.DEGRADED),
        (RouterObservation(asked=asked(20, cut_off=True)), Level.UNKNOWN),
        # An accident is no failure.
        (replace(WELL, asked=asked(2)), Level.HEALTHY),
        (RouterObservation(), Level.UNKNOWN),
    ],
)
def test_what_is_seen_at_one_moment(seen: RouterObservation, level: Level) -> None:
    assert judged(assess(seen, POLICY, NOW)) is level


def test_every_check_says_from_where_it_was_seen_and_its_number() -> None:
    found = {e.check: e for e in assess(HUNG, POLICY, NOW)}
    assert [(found[c].vantage, found[c].verdict) for c in (ACCESS, PODS, PROCESSES, TRAFFIC)] == [
        (Vantage.OPERATOR, Verdict.FAILED),
        (Vantage.CLUSTER, Verdict.FAILED),
        (Vantage.ROUTER, Verdict.FAILED),
        (Vantage.ROUTER, Verdict.INCONCLUSIVE),
    ]
    assert "20 of 20" in found[ACCESS].message
    assert "0 of 2" in found[PODS].message


VERDICTS = st.sampled_from(Verdict)


@given(access=VERDICTS, pods=VERDICTS, processes=VERDICTS, cells=VERDICTS)
def test_failed_needs_two_places_and_no_proof_to_the_contrary(
    access: Verdict, pods: Verdict, processes: Verdict, cells: Verdict
) -> None:
    said = {ACCESS: access, PODS: pods, PROCESSES: processes, TRAFFIC: cells}
    evidence = [
        Evidence(check=check, vantage=Vantage.CLUSTER, verdict=verdict, message="") for check, verdict in said.items()
    ]
    if judged(evidence) is Level.FAILED:
        assert access is Verdict.FAILED
        assert Verdict.FAILED in (pods, processes, cells)
        assert cells is not Verdict.PASSED


def test_a_failure_lasts_before_it_counts_and_has_its_impact() -> None:
    def look(seen: RouterObservation, state: health.HealthState | None, at: float) -> health.HealthState:
        now = NOW + timedelta(seconds=at)
        moved = replace(seen, asked=replace(seen.asked, at=now, since=now)) if seen.asked else seen
        return health.advance(state, assess(moved, POLICY, now), POLICY, now, judge=judged)

    state = look(replace(WELL, traffic=None), None, 0)
    state = look(GONE, state, 1)
    state = look(GONE, state, 10.5)
    assert state.level is Level.HEALTHY
    state = look(GONE, state, 11)
    assert state.level is Level.FAILED
    found = derive(state, assess(GONE, POLICY, NOW), GONE, NOW + timedelta(seconds=11))
    assert found is not None
    assert (found.type, found.impact, found.data_integrity) == (
        FailureType.ROUTER,
        Impact.CRITICAL,
        DataIntegrity.UNKNOWN,
    )
    assert found.since == NOW + timedelta(seconds=1)
    assert found.evidence[0].verdict is Verdict.FAILED


@pytest.mark.parametrize(("unanswered", "impact"), [(3, Impact.HIGH), (9, Impact.HIGH), (10, Impact.CRITICAL)])
def test_impact_is_the_part_that_gets_no_answer(unanswered: int, impact: Impact) -> None:
    seen = replace(GONE, asked=asked(unanswered), pods=Pods(2, 1))
    failed = health.HealthState(level=Level.FAILED, since=NOW)
    found = derive(failed, assess(seen, POLICY, NOW), seen, NOW)
    assert found is not None
    assert found.impact is impact


def test_a_well_router_has_no_failure() -> None:
    assert derive(health.HealthState(level=Level.HEALTHY, since=NOW), (), WELL, NOW) is None
    assert derive(None, (), GONE, NOW) is None
