"""What is seen of a cell becomes evidence, and evidence over time becomes its health.

Promises: pure functions; every check says Passed, Failed or Inconclusive with its number, unit,
threshold, window and from where it was seen. Missing data neither passes nor fails. A level
changes only after its evidence has lasted (hysteresis both ways); a time from the future counts as
now, so a clock that jumps back delays, and never crashes or hastens.

Must not: call a cell Failed on what is seen from one place alone (rule 12), unless the user
declared that very condition to mean failure.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from recell.api.cell import BackendType, Cell, ConditionCheck, Failure, WorkloadKind
from recell.api.failure import Evidence, Vantage, Verdict
from recell.api.meta import Condition, ConditionStatus, duration_text, find_condition, fraction, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain.observation import CellObservation, CellTraffic, WorkloadPhase
from recell.domain.wording import clipped, listed, percent

WORKLOADS = "workloads"
ENDPOINTS = "endpoints"
CLUSTER = "cluster"
"""Told only while a cluster of its own cannot be reached. The cell is not healthy then: half of it is not seen."""
PROBE = "probe"
ROUTER_CHECK = "router-check"
ERROR_RATE = "error-rate"
PODS_AGREE = "router-pods"
"""Two router pods are two places to see from, when both, and at least half of all, see too many errors."""
LATENCY = "latency"
INTEGRITY = "integrity"
CONDITION = "condition-"
"""Prefix of the checks of declared conditions: `condition-disk-full` is about the condition DiskFull."""

DATA_INTACT = "DataIntact"
"""Condition by which another controller may tell about the data of a cell without a check of its own."""

STEADY = timedelta(hours=1)
"""Healthy for so long, a cell counts as well again whatever was before (rule 20)."""

MISSED_PROBES = 3
"""A probe result older than so many intervals says nothing any more."""

TRANSITIONS_KEPT = 100

_NOT_SERVING = frozenset({LATENCY, INTEGRITY})
"""Checks that say nothing about whether customers get answers: they degrade, they do not fail a cell."""


class Level(StrEnum):
    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    UNKNOWN = "Unknown"


@dataclass(frozen=True)
class HealthState:
    """The health of a cell, a router or several cells as one, and what is remembered to judge the next evidence."""

    level: Level
    since: datetime
    """When the level was reached."""
    failing_since: datetime | None = None
    """The onset: first failed check since the cell was last Healthy, or of the present spell while it still is."""
    passing_since: datetime | None = None
    """Start of the present spell in which checks pass and none fails."""
    transitions: tuple[datetime, ...] = ()
    """When the cell became Failed, and when it ceased to be; the newest last."""
    failed_since: datetime | None = None
    """Start of the present spell of evidence from two vantage points."""
    eased_since: datetime | None = None
    """Start of the present spell without such evidence, but with some."""
    blind_since: datetime | None = None
    """Start of the present spell in which every check is inconclusive."""
    steady: tuple[datetime, datetime] | None = None
    """The last spell of health that lasted an hour and is over."""
    known: Level = Level.UNKNOWN
    """The last level other than Unknown: what cannot be seen for a while is no change of health."""


# --- evidence


def assess(cell: Cell, seen: CellObservation, policy: RecoveryPolicySpec, now: datetime) -> tuple[Evidence, ...]:
    """Every check that applies to the cell, each with its verdict."""
    found: list[Evidence] = []
    if seen.cluster is not None and not seen.cluster.ok:
        told = seen.cluster
        found.append(_evidence(CLUSTER, Vantage.CLUSTER, Verdict.INCONCLUSIVE, told.message, told.since, now))
    if cell.spec.workloads:
        found.append(_workloads(seen, now))
    if cell.spec.backend.type == BackendType.SERVICE:
        found.append(_endpoints(cell, seen))
    if cell.spec.health.probe is not None:
        found.append(_probe(cell, seen, now))
    found += _router(seen.traffic, policy)
    found += [_declared(check, cell.status.conditions, now) for check in cell.spec.health.conditions]
    integrity = _integrity(cell, seen, now)
    return (*found, integrity) if integrity else tuple(found)


def _evidence(
    check: str,
    vantage: Vantage,
    verdict: Verdict,
    message: str,
    since: datetime | None = None,
    now: datetime | None = None,
) -> Evidence:
    if since is not None and now is not None:
        since = min(since, now)
    return Evidence(check=check, vantage=vantage, verdict=verdict, message=clipped(message), since=since)


def _workloads(seen: CellObservation, now: datetime) -> Evidence:
    def told(phases: Iterable[WorkloadPhase]) -> tuple[str, datetime | None]:
        these = [state for state in seen.workloads if state.phase in phases]
        texts = [f"{state.ref}: {state.message or state.phase}" for state in these]
        return "; ".join(texts), min((s.since for s in these if s.since), default=None)

    bad, since = told((WorkloadPhase.FAILED, WorkloadPhase.NOT_FOUND))
    if bad:
        return _evidence(WORKLOADS, Vantage.CLUSTER, Verdict.FAILED, bad, since, now)
    if not seen.workloads:
        return _evidence(WORKLOADS, Vantage.CLUSTER, Verdict.INCONCLUSIVE, "the workloads were not read yet")
    unclear, since = told((WorkloadPhase.UNKNOWN, WorkloadPhase.IN_PROGRESS))
    if unclear:
        return _evidence(WORKLOADS, Vantage.CLUSTER, Verdict.INCONCLUSIVE, unclear, since, now)
    serving = [str(state.ref) for state in seen.workloads if state.ref.kind is not WorkloadKind.CRON_JOB]
    message = f"{listed(serving)}: every pod is available" if serving else "there are only CronJobs"
    return _evidence(WORKLOADS, Vantage.CLUSTER, Verdict.PASSED, message)


def _endpoints(cell: Cell, seen: CellObservation) -> Evidence:
    service = cell.spec.backend.service
    name = f"Service {cell.workload_namespace}/{service.name if service else ''}"
    at = seen.endpoints
    if at is None:
        return _evidence(ENDPOINTS, Vantage.CLUSTER, Verdict.INCONCLUSIVE, f"{name} was not read yet")
    if not at.service_found:
        message = f"{name} does not exist: create it, or correct spec.backend.service.name"
        return _evidence(ENDPOINTS, Vantage.CLUSTER, Verdict.FAILED, message)
    if not at.port_found:
        message = f"{name} has no port {cell.spec.backend.port}: correct spec.backend.service.port"
        return _evidence(ENDPOINTS, Vantage.CLUSTER, Verdict.FAILED, message)
    verdict = Verdict.PASSED if at.ready else Verdict.FAILED
    return _evidence(ENDPOINTS, Vantage.CLUSTER, verdict, f"{name}: {at.ready} of {at.total} endpoints are ready")


def _probe(cell: Cell, seen: CellObservation, now: datetime) -> Evidence:
    probe, result = cell.spec.health.probe, seen.probe
    if probe is None or result is None:
        return _evidence(PROBE, Vantage.OPERATOR, Verdict.INCONCLUSIVE, "no probe was answered or missed yet")
    oldest = MISSED_PROBES * seconds(probe.interval) + seconds(probe.timeout)
    age = (now - min(result.at, now)).total_seconds()
    if age > oldest:
        message = f"the last probe of {probe.path} is {duration_text(age)} old, more than {duration_text(oldest)}"
        return _evidence(PROBE, Vantage.OPERATOR, Verdict.INCONCLUSIVE, message)
    if not result.ok and result.operator_cut_off:
        message = f"probes of every cell fail from the operator at once, more likely its own fault: {result.message}"
        return _evidence(PROBE, Vantage.OPERATOR, Verdict.INCONCLUSIVE, message, result.since, now)
    verdict = Verdict.PASSED if result.ok else Verdict.FAILED
    message = f"{probe.scheme} {probe.path}: {result.message}"
    return _evidence(PROBE, Vantage.OPERATOR, verdict, message, result.since, now)


class RouterVerdicts(NamedTuple):
    """What the router's figures say about a cell, without the words."""

    check: Verdict
    errors: Verdict
    agree: Verdict | None
    """None with one router pod: there is nobody to agree with."""
    latency: Verdict


UNSEEN = RouterVerdicts(Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE, None, Verdict.INCONCLUSIVE)


def router_verdicts(traffic: CellTraffic | None, policy: RecoveryPolicySpec) -> RouterVerdicts:
    """Cheap, so that it can be asked of every cell for every report of the router pods."""
    if traffic is None:
        return UNSEEN
    check = Verdict.INCONCLUSIVE
    if traffic.check_up is not None:
        check = Verdict.PASSED if traffic.check_up else Verdict.FAILED
    rate, detection = traffic.error_rate, policy.detection
    if rate is None or traffic.requests < detection.minimum_requests:
        return UNSEEN._replace(check=check)
    allowed, pods = fraction(detection.error_rate), traffic.pod_error_rates
    above = sum(one > allowed for one in pods)
    latency = Verdict.INCONCLUSIVE
    if traffic.latency_p95 is not None:
        latency = Verdict.FAILED if traffic.latency_p95 > seconds(detection.latency) else Verdict.PASSED
    agree = Verdict.FAILED if above > 1 and 2 * above >= len(pods) else Verdict.PASSED
    return RouterVerdicts(
        check, Verdict.FAILED if rate > allowed else Verdict.PASSED, agree if len(pods) > 1 else None, latency
    )


def _router(traffic: CellTraffic | None, policy: RecoveryPolicySpec) -> list[Evidence]:
    said = router_verdicts(traffic, policy)

    def about(check: str, verdict: Verdict, message: str) -> Evidence:
        return _evidence(check, Vantage.ROUTER, verdict, message)

    if traffic is None:
        missing = "no fresh figures from the router"
        return [
            about(ROUTER_CHECK, said.check, missing),
            about(ERROR_RATE, said.errors, missing),
            about(LATENCY, said.latency, missing),
        ]
    up = about(
        ROUTER_CHECK,
        said.check,
        {
            Verdict.INCONCLUSIVE: "the router pods do not tell yet",
            Verdict.PASSED: "the router's health check passes",
            Verdict.FAILED: "every router pod sees the cell down",
        }[said.check],
    )
    detection, window, rate = policy.detection, policy.detection.window, traffic.error_rate
    if rate is None or said.errors is Verdict.INCONCLUSIVE:
        few = f"{traffic.requests} requests ended in {window}, fewer than {detection.minimum_requests}" + (
            f" ({traffic.in_flight} in flight)" if traffic.in_flight is not None else ""
        )
        return [up, about(ERROR_RATE, said.errors, few), about(LATENCY, said.latency, few)]
    found = [
        up,
        about(
            ERROR_RATE,
            said.errors,
            f"{percent(rate)} of {traffic.requests} requests failed in {window}, at most {detection.error_rate} may",
        ),
    ]
    if said.agree is not None:
        pods = traffic.pod_error_rates
        above = sum(one > fraction(detection.error_rate) for one in pods)
        message = f"{above} of {len(pods)} router pods saw more than {detection.error_rate} of their requests fail"
        found.append(about(PODS_AGREE, said.agree, message))
    if traffic.latency_p95 is None:
        return [*found, about(LATENCY, said.latency, f"no latency was measured in {window}")]
    slow = (
        f"95 % of {traffic.requests} answers took at most {round(traffic.latency_p95 * 1000)} ms in {window},"
        f" allowed are {round(seconds(detection.latency) * 1000)} ms"
    )
    return [*found, about(LATENCY, said.latency, slow)]


def _declared(check: ConditionCheck, conditions: list[Condition], now: datetime) -> Evidence:
    name = _condition_check(check.type)
    found = find_condition(conditions, check.type)
    if found is None:
        message = f"condition {check.type} is not set"
        return _evidence(name, Vantage.DECLARED, Verdict.INCONCLUSIVE, message)
    details = found.message or found.reason
    told = f"condition {check.type} is {found.status}{f' ({details})' if details else ''}"
    since = found.last_transition_time
    if found.status != check.status:
        verdict = Verdict.INCONCLUSIVE if found.status == ConditionStatus.UNKNOWN else Verdict.PASSED
        return _evidence(name, Vantage.DECLARED, verdict, told, since, now)
    left = _declared_left(check, found, now)
    if left is None:
        message = f"{told}; it has no lastTransitionTime, so whether it lasted {check.for_} is not known"
        return _evidence(name, Vantage.DECLARED, Verdict.INCONCLUSIVE, message)
    if left > 0:
        message = f"{told}; it means failure once it lasts {check.for_}"
        return _evidence(name, Vantage.DECLARED, Verdict.INCONCLUSIVE, message, since, now)
    message = f"{told}; the Cell declares that it means failure"
    return _evidence(name, Vantage.DECLARED, Verdict.FAILED, message, since, now)


def _condition_check(type: str) -> str:
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", type).lower()
    return (CONDITION + re.sub(r"[^a-z0-9]+", "-", words).strip("-"))[:63].rstrip("-")


def _declared_left(check: ConditionCheck, found: Condition, now: datetime) -> float | None:
    """Seconds until a condition that has the failing status has lasted; None: since when is not known."""
    lasting = seconds(check.for_)
    if lasting == 0:
        return 0.0
    if found.last_transition_time is None:
        return None
    return lasting - (now - min(found.last_transition_time, now)).total_seconds()


def _integrity(cell: Cell, seen: CellObservation, now: datetime) -> Evidence | None:
    check = cell.spec.data.integrity
    if check is None:
        told = find_condition(cell.status.conditions, DATA_INTACT)
        if told is None:
            return None
        verdicts = {ConditionStatus.TRUE: Verdict.PASSED, ConditionStatus.FALSE: Verdict.FAILED}
        return _evidence(
            INTEGRITY,
            Vantage.CLUSTER,
            verdicts.get(told.status, Verdict.INCONCLUSIVE),
            f"condition {DATA_INTACT} is {told.status}: {told.message or told.reason}",
            told.last_transition_time,
            now,
        )
    result = seen.integrity
    if result is None:
        return _evidence(INTEGRITY, Vantage.OPERATOR, Verdict.INCONCLUSIVE, "the data was not checked yet")
    if result.intact is None:
        return _evidence(INTEGRITY, Vantage.OPERATOR, Verdict.INCONCLUSIVE, result.message, result.at, now)
    age = (now - min(result.at, now)).total_seconds()
    told_of_age = f"{result.message} ({duration_text(age)} ago)"
    if age > seconds(check.max_age):
        message = f"{told_of_age}, older than maxAge {check.max_age}"
        return _evidence(INTEGRITY, Vantage.OPERATOR, Verdict.INCONCLUSIVE, message, result.at, now)
    verdict = Verdict.PASSED if result.intact else Verdict.FAILED
    return _evidence(INTEGRITY, Vantage.OPERATOR, verdict, told_of_age, result.at, now)


# --- what the evidence of one moment says


def judged(evidence: Sequence[Evidence]) -> Level:
    """The level that this evidence asks for, were it to last."""
    if any(e.vantage == Vantage.DECLARED and e.verdict == Verdict.FAILED for e in evidence):
        return Level.FAILED
    elsewhere = any(
        e.verdict == Verdict.FAILED and e.vantage in (Vantage.OPERATOR, Vantage.CLUSTER) and e.check not in _NOT_SERVING
        for e in evidence
    )
    twice = any(e.check == PODS_AGREE and e.verdict == Verdict.FAILED for e in evidence)
    if (elsewhere or twice) and _router_verdict(evidence) == Verdict.FAILED:
        return Level.FAILED
    if any(e.verdict == Verdict.FAILED for e in evidence):
        return Level.DEGRADED
    if any(e.check == CLUSTER for e in evidence):
        return Level.UNKNOWN
    if any(e.verdict == Verdict.PASSED for e in evidence):
        return Level.HEALTHY
    return Level.UNKNOWN


def _router_verdict(evidence: Sequence[Evidence]) -> Verdict:
    """The router's word: what customers get, and only where too few ask, its own health check."""
    by_check = {e.check: e.verdict for e in evidence if e.vantage == Vantage.ROUTER}
    errors = by_check.get(ERROR_RATE, Verdict.INCONCLUSIVE)
    return errors if errors != Verdict.INCONCLUSIVE else by_check.get(ROUTER_CHECK, Verdict.INCONCLUSIVE)


# --- evidence over time


def recalled(failure: Failure | None, now: datetime) -> HealthState | None:
    """What a process that begins knows of a cell or a router, by its status: one that was failing has to pass for
    healthyAfter before it counts as healthy, for its first evidence is not all there is (rule 12). None: nothing."""
    return HealthState(level=Level.UNKNOWN, since=now, known=Level.DEGRADED) if failure else None


def advance(
    state: HealthState | None,
    evidence: Sequence[Evidence],
    policy: RecoveryPolicySpec,
    now: datetime,
    *,
    judge: Callable[[Sequence[Evidence]], Level] = judged,
) -> HealthState:
    """The state after this evidence. Without an earlier one every dwell starts now (rule 12).

    `judge` says which level the evidence of one moment asks for; by default that of a cell.
    """
    asked = judge(evidence)
    if state is None:
        first = Level.HEALTHY if asked == Level.HEALTHY else Level.UNKNOWN
        state = HealthState(level=first, since=now, known=first)
    state = _spells(_clamped(state, now), asked, now)
    level = _level(state, evidence, asked, policy, now)
    return state if level == state.level else _changed(state, level, now)


def flapping(state: HealthState, policy: RecoveryPolicySpec, now: datetime) -> bool:
    """So many changes within the window that the cell counts as failed until it is stable (rule 26)."""
    stable_at = _stable_at(state, policy)
    return stable_at is not None and stable_at > now


def next_look(
    state: HealthState, policy: RecoveryPolicySpec, now: datetime, *, cell: Cell | None = None
) -> float | None:
    """Seconds until time alone may change the level, with the evidence as it is; None: never.

    With the cell, also until a declared condition will have lasted.
    """
    failed_after, healthy_after = _dwells(policy)
    due: list[datetime] = []
    if state.failed_since and state.level != Level.FAILED:
        due.append(state.failed_since + failed_after)
    if state.failing_since and state.level in (Level.HEALTHY, Level.UNKNOWN):
        due.append(state.failing_since + failed_after)
    if state.blind_since and state.level != Level.UNKNOWN:
        due.append(state.blind_since + failed_after)
    held_until = (_stable_at(state, policy) if state.level == Level.FAILED else None) or now
    if state.passing_since and state.level != Level.HEALTHY:
        due.append(max(state.passing_since + healthy_after, held_until))
    if state.eased_since and state.level == Level.FAILED:
        due.append(max(state.eased_since + healthy_after, held_until))
    waits = [max(0.0, (moment - now).total_seconds()) for moment in due]
    if cell is not None:
        for check in cell.spec.health.conditions:
            found = find_condition(cell.status.conditions, check.type)
            if found is not None and found.status == check.status:
                left = _declared_left(check, found, now)
                if left is not None and left > 0:
                    waits.append(left)
    return min(waits, default=None)


def _dwells(policy: RecoveryPolicySpec) -> tuple[timedelta, timedelta]:
    detection = policy.detection
    return timedelta(seconds=seconds(detection.failed_after)), timedelta(seconds=seconds(detection.healthy_after))


def _stable_at(state: HealthState, policy: RecoveryPolicySpec) -> datetime | None:
    """From when on the changes are too few for Flapping; None when they are anyway."""
    detection = policy.detection
    if len(state.transitions) < detection.flapping_transitions:
        return None
    return state.transitions[-detection.flapping_transitions] + timedelta(seconds=seconds(detection.flapping_window))


def _clamped(state: HealthState, now: datetime) -> HealthState:
    """Times from the future become now (rule 30)."""

    def past(moment: datetime | None) -> datetime | None:
        return None if moment is None else min(moment, now)

    return replace(
        state,
        since=min(state.since, now),
        failing_since=past(state.failing_since),
        passing_since=past(state.passing_since),
        failed_since=past(state.failed_since),
        eased_since=past(state.eased_since),
        blind_since=past(state.blind_since),
        transitions=tuple(min(moment, now) for moment in state.transitions),
        steady=None if state.steady is None else (min(state.steady[0], now), min(state.steady[1], now)),
    )


def _spells(state: HealthState, asked: Level, now: datetime) -> HealthState:
    def spell(since: datetime | None, goes_on: bool) -> datetime | None:
        return (since or now) if goes_on else None

    return replace(
        state,
        failing_since=spell(
            state.failing_since,
            asked in (Level.DEGRADED, Level.FAILED)
            or (state.failing_since is not None and state.level in (Level.DEGRADED, Level.FAILED)),
        ),
        failed_since=spell(state.failed_since, asked == Level.FAILED),
        passing_since=spell(state.passing_since, asked == Level.HEALTHY),
        eased_since=spell(state.eased_since, asked in (Level.DEGRADED, Level.HEALTHY)),
        blind_since=spell(state.blind_since, asked == Level.UNKNOWN),
    )


def _level(
    state: HealthState, evidence: Sequence[Evidence], asked: Level, policy: RecoveryPolicySpec, now: datetime
) -> Level:
    failed_after, healthy_after = _dwells(policy)

    def lasted(since: datetime | None, dwell: timedelta) -> bool:
        return since is not None and now - since >= dwell

    if any(e.vantage == Vantage.DECLARED and e.verdict == Verdict.FAILED for e in evidence):
        return Level.FAILED  # its own `for` has passed already
    if lasted(state.failed_since, failed_after):
        return Level.FAILED
    if lasted(state.blind_since, failed_after):
        return Level.UNKNOWN
    if state.known == Level.FAILED and flapping(state, policy, now):
        return Level.FAILED
    if lasted(state.passing_since, healthy_after):
        return Level.HEALTHY
    if asked == Level.HEALTHY and state.level == Level.UNKNOWN and state.known in (Level.UNKNOWN, Level.HEALTHY):
        return Level.HEALTHY  # it was not unwell when it was last seen
    if state.level == Level.FAILED:
        return Level.DEGRADED if lasted(state.eased_since, healthy_after) else Level.FAILED
    if lasted(state.failing_since, failed_after):
        return Level.DEGRADED
    return state.level


def _changed(state: HealthState, level: Level, now: datetime) -> HealthState:
    steady = state.steady
    if state.level == Level.HEALTHY and now - state.since >= STEADY:
        steady = (state.since, now)
    if level == Level.UNKNOWN:
        return replace(state, level=level, since=now, steady=steady, failing_since=None)
    transitions = state.transitions
    if (level == Level.FAILED) != (state.known == Level.FAILED):
        transitions = (*transitions, now)[-TRANSITIONS_KEPT:]
    onset = None if level == Level.HEALTHY else state.failing_since
    return replace(
        state, level=level, since=now, known=level, transitions=transitions, steady=steady, failing_since=onset
    )
