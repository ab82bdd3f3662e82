"""What is seen of a router itself becomes evidence, and evidence becomes its failure.

Promises: pure functions; every check says Passed, Failed or Inconclusive with its number and from where it
was seen. The router is told apart from its cells: a cell that answers with an error was reached.

Must not: call a router Failed on what is seen from one place alone, or while its cells see normal traffic
(rule 12).
"""

from collections.abc import Sequence
from datetime import datetime

from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, Evidence, FailureType, Vantage, Verdict
from recell.api.meta import duration_text, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain.failure import HIGH_FROM, impact
from recell.domain.health import HealthState, Level
from recell.domain.observation import RouterObservation, RouterTraffic
from recell.domain.wording import clipped, percent

ACCESS = "access"
PODS = "router-pods"
PROCESSES = "processes"
TRAFFIC = "traffic"

LEAST = 3
"""Requests without an answer that are a failure; fewer are an accident."""
OLDEST = 5.0
"""Seconds; what is older says nothing about now. The operator asks, and each router pod tells, once a second."""
FELL_TO = 0.1
"""Part of the usual rate at or below which the traffic of the cells is no longer normal."""
USUAL = 300.0
"""Seconds over which the usual rate is taken."""


def assess(seen: RouterObservation, policy: RecoveryPolicySpec, now: datetime) -> tuple[Evidence, ...]:
    """Every check of the router, each with its verdict."""
    return (_access(seen, now), _pods(seen), _processes(seen), _traffic(seen, policy, now))


def judged(evidence: Sequence[Evidence]) -> Level:
    """The level that this evidence asks for, were it to last.

    Failed: customers get no answer, as the operator sees by asking; a second place says so too; and nobody sees the
    cells get their traffic as ever. Less traffic than usual is such a second place, and nothing by itself: customers
    sleep.
    """
    verdicts = {e.check: e.verdict for e in evidence}
    elsewhere = any(verdicts.get(check) is Verdict.FAILED for check in (PODS, PROCESSES, TRAFFIC))
    normal = verdicts.get(TRAFFIC) is Verdict.PASSED
    if verdicts.get(ACCESS) is Verdict.FAILED and elsewhere and not normal:
        return Level.FAILED
    if Verdict.FAILED in (verdict for check, verdict in verdicts.items() if check != TRAFFIC):
        return Level.DEGRADED
    return Level.HEALTHY if Verdict.PASSED in verdicts.values() else Level.UNKNOWN


def derive(
    state: HealthState | None, evidence: Sequence[Evidence], seen: RouterObservation, now: datetime
) -> Failure | None:
    """The router's failure; None while it is Healthy or nothing is known about it. Its data is its cells' business."""
    if state is None or state.level not in (Level.DEGRADED, Level.FAILED):
        return None
    order = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED)
    return Failure(
        type=FailureType.ROUTER,
        impact=impact(not_served(seen, state.level)),
        data_integrity=DataIntegrity.UNKNOWN,
        since=min(state.failing_since or state.since, now),
        evidence=sorted(evidence, key=lambda e: order.index(e.verdict)),
    )


def not_served(seen: RouterObservation, level: Level) -> float:
    """Part (0..1) of the customers that get no answer: all without a pod that is ready, else as the operator finds."""
    if level is Level.FAILED and seen.pods is not None and seen.pods.ready == 0:
        return 1.0
    return seen.asked.part if seen.asked is not None else 0.0


def _said(check: str, vantage: Vantage, verdict: Verdict, message: str, since: datetime | None = None) -> Evidence:
    return Evidence(check=check, vantage=vantage, verdict=verdict, message=clipped(message), since=since)


def _access(seen: RouterObservation, now: datetime) -> Evidence:
    def told(verdict: Verdict, message: str, since: datetime | None = None) -> Evidence:
        return _said(ACCESS, Vantage.OPERATOR, verdict, message, since)

    asked = seen.asked
    if asked is None or asked.asked == 0:
        return told(Verdict.INCONCLUSIVE, "no request was tried yet")
    age = (now - min(asked.at, now)).total_seconds()
    if age > OLDEST:
        return told(
            Verdict.INCONCLUSIVE,
            f"the last request is {duration_text(age)} old, more than {duration_text(OLDEST)}",
        )
    through = "to the router itself" if seen.relieved else "through the Service"
    summed = f"{asked.unanswered} of {asked.asked} requests {through} got no answer ({asked.message})"
    since = min(asked.since, now)
    if asked.part < HIGH_FROM or asked.unanswered < LEAST:
        return told(Verdict.PASSED, summed if asked.unanswered else f"{asked.asked} requests were answered", since)
    if asked.operator_cut_off:
        mine = "whatever the operator probes fails from there at once, more likely its own fault"
        return told(Verdict.INCONCLUSIVE, f"{mine}: {summed}", since)
    return told(Verdict.FAILED, summed, since)


def _pods(seen: RouterObservation) -> Evidence:
    pods = seen.pods
    if pods is None:
        return _said(PODS, Vantage.CLUSTER, Verdict.INCONCLUSIVE, "the router's pods were not read yet")
    verdict = Verdict.PASSED if pods.ready >= pods.desired else Verdict.FAILED
    return _said(PODS, Vantage.CLUSTER, verdict, f"{pods.ready} of {pods.desired} router pods are ready")


def _processes(seen: RouterObservation) -> Evidence:
    told = seen.processes
    if told is None or told.told == 0:
        return _said(PROCESSES, Vantage.ROUTER, Verdict.INCONCLUSIVE, "no agent of a router pod tells anything fresh")
    verdict = Verdict.PASSED if told.answering == told.told else Verdict.FAILED
    message = f"the process answers in {told.answering} of {told.told} router pods that tell"
    return _said(PROCESSES, Vantage.ROUTER, verdict, message)


def _traffic(seen: RouterObservation, policy: RecoveryPolicySpec, now: datetime) -> Evidence:
    """Whether the cells get their customers' requests. Silence alone proves nothing: customers sleep."""
    traffic, detection = seen.traffic, policy.detection
    if seen.relieved:
        return _said(TRAFFIC, Vantage.ROUTER, Verdict.INCONCLUSIVE, "customers go through the fallback")
    if traffic is None or (now - traffic.until).total_seconds() > OLDEST:
        return _said(TRAFFIC, Vantage.ROUTER, Verdict.INCONCLUSIVE, "no fresh figures of the cells' traffic")
    usual = _rate(seen.usual)
    rate, told = _rate(traffic) or 0.0, f"{traffic.requests} requests ended at the cells in {detection.window}"
    expected = (usual or 0.0) * seconds(detection.window)
    if usual is not None and expected >= detection.minimum_requests and rate <= FELL_TO * usual:
        message = f"{told}, {percent(rate / usual)} of the usual {usual:.0f}/s"
        return _said(TRAFFIC, Vantage.ROUTER, Verdict.FAILED, message)
    if traffic.requests < detection.minimum_requests:
        message = f"{told}, fewer than {detection.minimum_requests}"
        return _said(TRAFFIC, Vantage.ROUTER, Verdict.INCONCLUSIVE, message)
    return _said(TRAFFIC, Vantage.ROUTER, Verdict.PASSED, told)


def _rate(traffic: RouterTraffic | None) -> float | None:
    if traffic is None or traffic.window <= 0:
        return None
    return traffic.requests / traffic.window
