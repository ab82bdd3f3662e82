"""What kind of failure a cell has, how many customers it touches, and what is known about its data.

Promises: pure functions of the cells' health and of what was measured; the evidence goes with the
result. Impact is the sum over the failed cells of their share of the customers times the part not
served.

Must not: call data intact that nobody has checked, or several failures at once a series of single
ones.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from recell.api.cell import Cell, Failure
from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact, Verdict
from recell.api.meta import ConditionStatus, find_condition, seconds
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import placement
from recell.domain.health import DATA_INTACT, ENDPOINTS, INTEGRITY, ROUTER_CHECK, STEADY, HealthState, Level
from recell.domain.observation import IntegrityResult, RouterTraffic
from recell.domain.wording import listed

HIGH_FROM = 0.05
"""Part of the router's customers not served from which the impact is High."""
CRITICAL_FROM = 0.5

MOST_EVIDENCE = 32
"""As many as a Cell's status holds."""


def derive(
    cell: Cell,
    states: Mapping[str, HealthState],
    evidence: Sequence[Evidence],
    spec: PlacementSpec | None,
    traffic: RouterTraffic | None,
    policy: RecoveryPolicySpec,
    now: datetime,
    *,
    integrity: IntegrityResult | None = None,
    broken: Sequence[str] = (),
) -> Failure | None:
    """The cell's failure; None while it is Healthy or nothing is known about it.

    `states` has every cell of the router by name, `evidence` is this cell's. `integrity` is the last
    verdict about its data, so that a verdict from before the onset still counts when the cell is
    long dead (rule 16); without it only the evidence of this moment does. `broken` are the policy's dependencies that
    do not answer.
    """
    name = cell.metadata.name
    state = states.get(name)
    if state is None or state.level not in (Level.DEGRADED, Level.FAILED):
        return None
    since = min(state.failing_since or state.since, now)
    data = data_integrity(cell, evidence, policy, onset=since, now=now, last=integrity)
    kind, failed = _kind(name, states, data, spec, policy, broken)
    parts = {other: _not_served(other, traffic, states[other]) for other in failed if other != name}
    parts[name] = not_served(name, evidence, traffic, state)
    share = sum(_customers(other, states, spec) * part for other, part in parts.items())
    order = (Verdict.FAILED, Verdict.INCONCLUSIVE, Verdict.PASSED)
    return Failure(
        type=kind,
        impact=impact(share),
        data_integrity=data,
        since=since,
        evidence=sorted(evidence, key=lambda e: order.index(e.verdict))[:MOST_EVIDENCE],
    )


def impact(part: float) -> Impact:
    """Of a part (0..1) of the router's customers that is not served: Low < 5 %, High, Critical >= 50 %."""
    if part >= CRITICAL_FROM:
        return Impact.CRITICAL
    return Impact.HIGH if part >= HIGH_FROM else Impact.LOW


def not_served(name: str, evidence: Sequence[Evidence], traffic: RouterTraffic | None, state: HealthState) -> float:
    """Part (0..1) of the cell's requests that get no good answer: all when it is down, else its error rate."""
    down = any(e.check in (ENDPOINTS, ROUTER_CHECK) and e.verdict == Verdict.FAILED for e in evidence)
    return 1.0 if down else _not_served(name, traffic, state)


def _not_served(name: str, traffic: RouterTraffic | None, state: HealthState) -> float:
    seen = traffic.cells.get(name) if traffic else None
    if seen is not None and seen.check_up is False:
        return 1.0
    if seen is not None and seen.error_rate is not None:
        return seen.error_rate
    return 1.0 if state.level == Level.FAILED else 0.0


def data_integrity(
    cell: Cell,
    evidence: Sequence[Evidence],
    policy: RecoveryPolicySpec,
    *,
    onset: datetime,
    now: datetime,
    last: IntegrityResult | None = None,
    not_before: datetime | None = None,
) -> DataIntegrity:
    """What is known about the cell's data: intact only by a verdict that was young enough at the onset (rule 16), and
    nothing by one from before `not_before`."""
    check = cell.spec.data.integrity
    told = find_condition(cell.status.conditions, DATA_INTACT)
    if check is None:
        if told is None:
            return policy.detection.without_integrity_checks
        since = told.last_transition_time
        if not_before is not None and (since is None or since < not_before):
            return DataIntegrity.UNKNOWN
        verdicts = {ConditionStatus.TRUE: DataIntegrity.INTACT, ConditionStatus.FALSE: DataIntegrity.CORRUPTED}
        return verdicts.get(told.status, DataIntegrity.UNKNOWN)
    if not_before is not None and (last is None or last.at < not_before):
        return DataIntegrity.UNKNOWN
    if last is not None and last.intact is not None:
        age = min(onset, now) - min(last.at, now)
        if not last.intact:
            return DataIntegrity.CORRUPTED
        return DataIntegrity.INTACT if age <= timedelta(seconds=seconds(check.max_age)) else DataIntegrity.UNKNOWN
    found = {e.verdict for e in evidence if e.check == INTEGRITY}
    if Verdict.FAILED in found:
        return DataIntegrity.CORRUPTED
    return DataIntegrity.INTACT if Verdict.PASSED in found else DataIntegrity.UNKNOWN


def _kind(
    name: str,
    states: Mapping[str, HealthState],
    data: DataIntegrity,
    spec: PlacementSpec | None,
    policy: RecoveryPolicySpec,
    broken: Sequence[str],
) -> tuple[FailureType, list[str]]:
    """The type, and the failed cells that count towards the impact."""
    mine = states[name]
    if mine.level != Level.FAILED:
        kind = FailureType.DATA_CORRUPTION if data == DataIntegrity.CORRUPTED else FailureType.SINGLE_CELL
        return kind, [name]
    counted = {other: state for other, state in states.items() if other == name or not _out_of_service(spec, other)}
    failed = sorted(other for other, state in counted.items() if state.level == Level.FAILED)
    if _shared_cause(counted, broken):
        return FailureType.SYSTEMIC, failed
    window = timedelta(seconds=seconds(policy.detection.multiple_cell_window))
    together = [other for other in failed if abs(states[other].since - mine.since) <= window]
    if len(together) >= policy.detection.multiple_cell_failures:
        return FailureType.MULTIPLE_CELL, together
    return FailureType.SINGLE_CELL, [name]


def of_cells(
    failed: Mapping[str, Failure],
    states: Mapping[str, HealthState],
    spec: PlacementSpec | None,
    traffic: RouterTraffic | None,
    policy: RecoveryPolicySpec,
    broken: Sequence[str] = (),
) -> Failure | None:
    """The one failure that several cells have together: a storm, or a shared cause. None when it is neither.

    `failed` has the failure of each failed cell. What is known of the data is what is known of every cell's; where
    some is intact and some corrupted it counts as intact, for each cell is recovered by what is known of its own.
    """
    shared = systemic(states, spec, broken)
    if not failed or not (shared or storm(states, spec, policy)):
        return None
    integrity = {found.data_integrity for found in failed.values()}
    worst = (DataIntegrity.UNKNOWN, DataIntegrity.INTACT, DataIntegrity.CORRUPTED)
    share = sum(_customers(name, states, spec) * _not_served(name, traffic, states[name]) for name in failed)
    evidence = [e for _, found in sorted(failed.items()) for e in found.evidence if e.verdict is Verdict.FAILED]
    return Failure(
        type=FailureType.SYSTEMIC if shared else FailureType.MULTIPLE_CELL,
        impact=impact(share),
        data_integrity=min(integrity, key=worst.index),
        since=min(found.since for found in failed.values()),
        evidence=evidence[:MOST_EVIDENCE],
    )


def failed_cells(states: Mapping[str, HealthState], spec: PlacementSpec | None) -> tuple[str, ...]:
    """Failed cells, without those that were taken out by decision."""
    return tuple(
        sorted(n for n, state in states.items() if state.level == Level.FAILED and not _out_of_service(spec, n))
    )


def together(
    cells: Mapping[str, Cell], states: Mapping[str, HealthState], spec: PlacementSpec | None, now: datetime
) -> HealthState:
    """The health of a router's cells as one: Healthy since the last of them is, else that of the one that is worst.

    Those that are nobody's loss or were taken out by decision do not count. `failing_since` is the onset of the first
    of those that have failed; `steady` the last time for which all were Healthy together for an hour, over or not.
    """
    members = placement.members(cells, spec) if spec is not None else cells
    unseen = HealthState(level=Level.UNKNOWN, since=now)
    counted = {name: states.get(name, unseen) for name in members if not _out_of_service(spec, name)}
    levels = {state.level for state in counted.values()} or {Level.UNKNOWN}
    level = next(level for level in (Level.FAILED, Level.DEGRADED, Level.UNKNOWN, Level.HEALTHY) if level in levels)
    onsets = [_onset(cells[name], state) for name, state in counted.items() if state.level is Level.FAILED]
    return HealthState(
        level=level,
        since=max((state.since for state in counted.values() if state.level is level), default=now),
        failing_since=min(onsets, default=None),
        steady=_steady_together(counted.values(), now) if counted else None,
        known=level,
    )


def _onset(cell: Cell, state: HealthState) -> datetime:
    since, recorded = state.failing_since or state.since, cell.status.failure
    return min(since, recorded.since) if recorded else since  # what is recorded outlives a take-over


def _steady_together(states: Iterable[HealthState], now: datetime) -> tuple[datetime, datetime] | None:
    """Of each cell the last hour or more of health is remembered, and the present spell."""
    shared = [(datetime.min.replace(tzinfo=UTC), now)]
    for state in states:
        spells = [
            *([state.steady] if state.steady else []),
            *([(state.since, now)] if state.level is Level.HEALTHY else []),
        ]
        met = [(max(begin, since), min(end, until)) for begin, end in shared for since, until in spells]
        shared = [(begin, end) for begin, end in met if end - begin >= STEADY]
    return max(shared, default=None)


def systemic(states: Mapping[str, HealthState], spec: PlacementSpec | None, broken: Sequence[str] = ()) -> str:
    """Why the cause is likely shared (rule 10); empty when it need not be.

    More than half of two or more cells have failed, or one has while something is `broken` that all depend on.
    """
    return _shared_cause({n: state for n, state in states.items() if not _out_of_service(spec, n)}, broken)


def _shared_cause(counted: Mapping[str, HealthState], broken: Sequence[str]) -> str:
    failed = sorted(name for name, state in counted.items() if state.level == Level.FAILED)
    if failed and broken:
        return f"{listed(failed)} failed, and what all cells depend on does not answer: {listed(broken)}"
    if len(counted) >= 2 and 2 * len(failed) > len(counted):
        return f"{len(failed)} of {len(counted)} cells failed at once ({listed(failed)})"
    return ""


def storm(states: Mapping[str, HealthState], spec: PlacementSpec | None, policy: RecoveryPolicySpec) -> tuple[str, ...]:
    """The failed cells of a router, if so many of them failed within one window that they are one failure."""
    failed = failed_cells(states, spec)
    onsets = sorted(states[name].since for name in failed)
    window = timedelta(seconds=seconds(policy.detection.multiple_cell_window))
    most = policy.detection.multiple_cell_failures
    together = any(onsets[at + most - 1] - onsets[at] <= window for at in range(len(onsets) - most + 1))
    return failed if together else ()


def _out_of_service(spec: PlacementSpec | None, name: str) -> bool:
    """Taken out by decision: it is no news that such a cell is not well."""
    return spec is not None and any(
        h.cell == name and h.max_percent == 0 and h.state in (HoldState.ISOLATED, HoldState.RETIRED) for h in spec.holds
    )


def _customers(name: str, states: Mapping[str, HealthState], spec: PlacementSpec | None) -> float:
    """The cell's part of the customers; without a Placement every cell counts the same."""
    return placement.home_share(spec, name) if spec is not None else 1 / max(1, len(states))
