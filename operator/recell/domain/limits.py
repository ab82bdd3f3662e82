"""Why no automatic run is started for a cell, a router or several cells of one: what holds the automation back.

Promises: pure; the first reason that applies, in the order in which a person would want to know,
with what has to change and who can change it, and when the next run is allowed where time alone
lifts the block.

Must not: hold back a run that a person made.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from recell.api.cell import Blocked, Cell, Failure
from recell.api.failure import FailureType
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, seconds, timestamp
from recell.api.placement import PlacementMode, PlacementSpec
from recell.api.recovery_freeze import FreezeScope, RecoveryFreeze
from recell.api.recovery_policy import Mode, RecoveryPolicySpec
from recell.api.recovery_run import RecoveryRun, RunPhase, TargetKind, Trigger
from recell.api.router import Router
from recell.domain import placement
from recell.domain.health import STEADY, HealthState, Level, flapping
from recell.domain.wording import clipped, listed

ACKNOWLEDGEABLE = frozenset({"AbortedByPerson", "ManualIntervention"})
"""Reasons that a person lifts by acknowledging the run that ended last. Every other one ends in another way, as its
message says."""


BEHIND_FALLBACK = (
    "customers go through the router's fallback, which can take a cell out but neither share nor count its traffic: the"
    " runs of cells wait until the router itself serves again. To take a cell out now: kubectl recell isolate"
)


@dataclass(frozen=True)
class Allowance:
    """Whether an automatic run may start now."""

    blocked: Blocked | None
    next_allowed_at: datetime | None
    """When time alone lifts the block; None when it does not, or there is none."""
    attempts: int
    """Automatic runs of the lineage within the policy's window."""


def blocked(
    cell: Cell,
    policy: RecoveryPolicySpec,
    now: datetime,
    *,
    lineage: Iterable[RecoveryRun] = (),
    active: Iterable[RecoveryRun] = (),
    freezes: Iterable[RecoveryFreeze] = (),
    state: HealthState | None = None,
    failure: Failure | None = None,
    spec: PlacementSpec | None = None,
    policy_name: str = "default",
    router_labels: Mapping[str, str] | None = None,
    max_concurrent_runs: int | None = None,
    cascade: RecoveryRun | None = None,
    aborted: RecoveryRun | None = None,
    about_to_fail: Sequence[str] = (),
) -> Allowance:
    """The first reason why no automatic run may start for the cell.

    `lineage` are the runs for the cell and those that it descends from (rule 26), `active` the runs of
    the router that have not ended, `state` and `failure` the cell's, `spec` its router's Placement;
    `max_concurrent_runs` is the Router's policy's where that is another one, `cascade` the Router's run that recovers
    its cells, if there is one at work, `aborted` the one that `aborted_for_cells` names; `about_to_fail` are the
    Router's other cells that look like failing.
    """
    runs = _counted(lineage)
    attempts = _attempts(runs, policy, now)
    most = policy.limits.max_concurrent_runs if max_concurrent_runs is None else max_concurrent_runs
    checks = (
        _provenance(cell, spec),
        _paused(cell),
        _frozen(cell, freezes, now, router_labels),
        _behind_fallback(spec),
        _mode(cell, policy, policy_name),
        _out_of_service(cell, spec),
        _aborted(cell, runs, state, now),
        _aborted_with_others(cell, aborted, _onset(cell, state, failure)),
        _left_to_people(cell, runs, _onset(cell, state, failure)),
        _systemic(failure),
        _flapping(cell, state, policy, now),
        _in_cascade(cascade),
        _alone(about_to_fail, state, policy, now),
        _busy(cell, active, most),
        _exhausted(cell, attempts, policy, policy_name),
        _cooldown(cell, runs, policy, now),
    )
    return _allowance(checks, len(attempts))


def router_blocked(
    router: Router,
    policy: RecoveryPolicySpec,
    now: datetime,
    *,
    several: bool = False,
    runs: Iterable[RecoveryRun] = (),
    every: Sequence[RecoveryRun] = (),
    freezes: Iterable[RecoveryFreeze] = (),
    state: HealthState | None = None,
    failure: Failure | None = None,
    spec: PlacementSpec | None = None,
    policy_name: str = "default",
) -> Allowance:
    """The first reason why no automatic run may start for the router itself; `several`: for several of its cells.

    `runs` are those about the same, `every` all of the Router: who acknowledged the last of them has seen the others.
    `failure` is the router's own, and `state` too; for several cells it is theirs (`failure.together`). What is done
    for the one holds nothing back for the other, nor do runs of single cells.
    """
    counted = _counted(runs)
    attempts = _attempts(counted, policy, now)
    onset = (state.failing_since if state else None) if several else _onset(router, state, failure)
    checks = (
        _frozen(router, freezes, now, None),
        _mode(router, policy, policy_name),
        _aborted(router, counted, state, now, every, several=several),
        _left_to_people(router, counted, onset, every, several=several),
        _flapping(router, state, policy, now),
        _at_work(router, counted),
        _in_fallback(router, spec),
        _exhausted(router, attempts, policy, policy_name),
        _cooldown(router, counted, policy, now),
    )
    return _allowance(checks, len(attempts))


def aborted_for_cells(
    router: Router,
    now: datetime,
    *,
    state: HealthState,
    runs: Iterable[RecoveryRun] = (),
    every: Sequence[RecoveryRun] = (),
) -> RecoveryRun | None:
    """The last run for several cells, if a person aborted it and that still holds automation back.

    `state`, `runs` and `every` are as for `router_blocked` with `several`.
    """
    counted = _counted(runs)
    return _last(counted) if _aborted(router, counted, state, now, every, several=True) else None


def frozen(
    freezes: Iterable[RecoveryFreeze], labels: Sequence[Mapping[str, str]], now: datetime, *, running: bool
) -> RecoveryFreeze | None:
    """A freeze that is in force for a target with any of these sets of labels (its own, its router's).

    `running`: for a run that has begun; scope NewRuns does not stop it.
    """
    for freeze in freezes:
        over = freeze.spec.until is not None and freeze.spec.until <= now
        if over or (running and freeze.spec.scope == FreezeScope.NEW_RUNS):
            continue
        wanted = freeze.spec.selector.match_labels.items()
        if not wanted or any(wanted <= found.items() for found in labels):
            return freeze
    return None


def frozen_message(freeze: RecoveryFreeze) -> str:
    """For people: which freeze, how long, and why."""
    until = f"until {timestamp(freeze.spec.until)}" if freeze.spec.until else "until it is deleted"
    return f"RecoveryFreeze {freeze.metadata.name} {until}: {freeze.spec.reason}"


Check = tuple[str, str, datetime | None] | None
"""Reason, message, and when time lifts it."""

Target = Cell | Router


def _allowance(checks: Iterable[Check], attempts: int) -> Allowance:
    for check in checks:
        if check is not None:
            reason, message, until = check
            return Allowance(Blocked(reason=reason, message=clipped(message)), until, attempts)
    return Allowance(None, None, attempts)


def _kind(target: Target) -> str:
    return "router" if isinstance(target, Router) else "cell"


def _typed(target: Target) -> str:
    """The target as a person types it to the command line."""
    name = target.metadata.name
    return f"router/{name}" if isinstance(target, Router) else name


def _provenance(cell: Cell, spec: PlacementSpec | None) -> Check:
    name = cell.metadata.name
    if spec is None or not placement.provenance_unknown(spec, name, cell.metadata.uid):
        return None
    return "UnknownProvenance", str(placement.UnknownProvenance(name)), None


def _paused(cell: Cell) -> Check:
    if not cell.spec.paused:
        return None
    return "Paused", f"Cell {cell.metadata.name} has spec.paused: set it to false to let runs start by themselves", None


def _frozen(
    target: Target, freezes: Iterable[RecoveryFreeze], now: datetime, router_labels: Mapping[str, str] | None
) -> Check:
    found = frozen(freezes, [target.metadata.labels, router_labels or {}], now, running=False)
    if found is None:
        return None
    return "Frozen", f"No run starts. {frozen_message(found)}", found.spec.until


def _mode(target: Target, policy: RecoveryPolicySpec, name: str) -> Check:
    if policy.mode != Mode.OBSERVE:
        return None
    return (
        "Observe",
        f"RecoveryPolicy {name} is in mode Observe: decisions are shown, nothing moves. Set its spec.mode to Approve"
        f" or Automatic, or start a run yourself: kubectl recell recover {_typed(target)}",
        None,
    )


def _out_of_service(cell: Cell, spec: PlacementSpec | None) -> Check:
    name = cell.metadata.name
    holds = spec.holds if spec is not None else []
    held = next((h for h in holds if h.cell == name and h.state in placement.REMEMBERED), None)
    if held is None:
        return None
    return (
        str(held.state),
        f"Cell {name} was {held.state.lower()} by {held.holder.kind} {held.holder.name} ({held.reason}):"
        f" automation leaves it alone until `kubectl recell return {name}`",
        None,
    )


def _aborted(
    target: Target,
    runs: Sequence[RecoveryRun],
    state: HealthState | None,
    now: datetime,
    every: Sequence[RecoveryRun] = (),
    *,
    several: bool = False,
) -> Check:
    last = _last(runs)
    if last is None or last.phase != RunPhase.ABORTED or _acknowledged(target, last, every):
        return None
    ended = min(_ended_at(last), now)
    well_since = None
    if state is not None:
        well_since = max(min(state.since, now), ended) if state.level == Level.HEALTHY else None
        over = state.steady is not None and state.steady[1] - max(state.steady[0], ended) >= STEADY
        if over or (well_since is not None and now - well_since >= STEADY):
            return None
    well = "all cells of the router were Healthy together" if several else f"the {_kind(target)} was Healthy"
    return (
        "AbortedByPerson",
        f"run {last.metadata.name}{_for_cells(several)} was aborted, so no {'such ' if several else ''}run starts by"
        f" itself until {well} for an hour or somebody says go on: kubectl recell acknowledge {_typed(target)}",
        well_since + STEADY if well_since else None,
    )


def _aborted_with_others(cell: Cell, run: RecoveryRun | None, onset: datetime | None) -> Check:
    """It was to be recovered by that run, in its turn: to start one of its own would go on with what was aborted."""
    if run is None or onset is None or onset > _ended_at(run):
        return None
    router = cell.spec.router_ref.name
    return (
        "CascadeAborted",
        f"run {run.metadata.name} for several cells of the router was aborted, and this one had failed by then: no run"
        " starts by itself until all cells of the router were Healthy together for an hour or somebody says go on:"
        f" kubectl recell acknowledge router/{router}",
        None,
    )


def _left_to_people(
    target: Target,
    runs: Sequence[RecoveryRun],
    onset: datetime | None,
    every: Sequence[RecoveryRun] = (),
    *,
    several: bool = False,
) -> Check:
    """The same failure would end in the same way again, and again. `onset` is that of the failure that there is."""
    last = _last(runs)
    if last is None or last.phase != RunPhase.MANUAL_INTERVENTION_REQUIRED or _acknowledged(target, last, every):
        return None
    if onset is None or onset > _ended_at(last):
        return None
    well = "the cells that failed were Healthy" if several else f"the {_kind(target)} was Healthy"
    return (
        "ManualIntervention",
        f"run {last.metadata.name}{_for_cells(several)} left this failure to a person; read its summary."
        f" No {'such ' if several else ''}run starts by itself until {well} again, or somebody says go on:"
        f" kubectl recell acknowledge {_typed(target)}",
        None,
    )


def _onset(target: Target, state: HealthState | None, failure: Failure | None) -> datetime | None:
    """Since when the target fails; None while it is Healthy or nothing is known of it."""
    if state is None or state.level == Level.HEALTHY:
        return None
    recorded = target.status.failure  # it outlives a take-over, which the onset in memory does not
    onsets = [state.failing_since, failure.since if failure else None, recorded.since if recorded else None]
    return min((onset for onset in onsets if onset is not None), default=state.since)


def _for_cells(several: bool) -> str:
    return " for several of its cells" if several else ""


def _acknowledged(target: Target, run: RecoveryRun, every: Sequence[RecoveryRun]) -> bool:
    """It was, or one that ended after it."""
    named = target.metadata.annotations.get(ANNOTATION_ACKNOWLEDGE)
    if named == run.metadata.name:
        return True
    return any(r.metadata.name == named and r.phase.ended and _ended_at(r) >= _ended_at(run) for r in every)


def _systemic(failure: Failure | None) -> Check:
    if failure is None or failure.type != FailureType.SYSTEMIC:
        return None
    return (
        "Systemic",
        "more than half of the router's cells fail at once, so the cause is likely shared (network, DNS, a common"
        " dependency, a bad release): look there first; nothing is done unasked",
        None,
    )


def _flapping(target: Target, state: HealthState | None, policy: RecoveryPolicySpec, now: datetime) -> Check:
    if state is None or not flapping(state, policy, now):
        return None
    detection = policy.detection
    return (
        "Flapping",
        f"the {_kind(target)} failed and came back: {detection.flapping_transitions} changes within"
        f" {detection.flapping_window}; it counts as failed until it is stable; find the cause, or start a run"
        " yourself",
        state.transitions[-detection.flapping_transitions] + timedelta(seconds=seconds(detection.flapping_window)),
    )


def _in_cascade(cascade: RecoveryRun | None) -> Check:
    if cascade is None:
        return None
    name = cascade.metadata.name
    return "CascadeActive", f"run {name} recovers the failed cells of the router one after another", None


def _alone(about_to_fail: Sequence[str], state: HealthState | None, policy: RecoveryPolicySpec, now: datetime) -> Check:
    """One cell or all of them, that decides what is right; it is known when the others have failed, or have not."""
    if not about_to_fail or state is None or state.level is not Level.FAILED:
        return None
    until = state.since + timedelta(seconds=2 * seconds(policy.detection.failed_after))
    if now >= until:
        return None
    return (
        "OthersFailing",
        f"{listed(sorted(about_to_fail))} may be failing too: it is waited until that is known",
        until,
    )


def _busy(cell: Cell, active: Iterable[RecoveryRun], most: int) -> Check:
    runs = [run for run in active if not run.phase.ended and not run.spec.dry_run]
    for run in runs:
        if run.spec.target_ref.kind is TargetKind.CELL and run.spec.target_ref.name == cell.metadata.name:
            return "RunActive", f"run {run.metadata.name} works on this cell already ({run.phase})", None
    if len(runs) < most:
        return None
    names = listed(sorted(run.metadata.name for run in runs))
    return (
        "Concurrency",
        f"{names} {'is' if len(runs) == 1 else 'are'} active and the policy's spec.limits.maxConcurrentRuns is {most}:"
        " this cell's turn comes when one has ended",
        None,
    )


def _behind_fallback(spec: PlacementSpec | None) -> Check:
    if spec is None or spec.mode is not PlacementMode.FALLBACK:
        return None
    return "FallbackActive", BEHIND_FALLBACK, None


def _at_work(router: Router, runs: Iterable[RecoveryRun]) -> Check:
    run = next((run for run in runs if not run.phase.ended), None)
    if run is None:
        return None
    return "RunActive", f"run {run.metadata.name} works on this router already ({run.phase})", None


def _in_fallback(router: Router, spec: PlacementSpec | None) -> Check:
    """Without a run it was a person who switched: what a person switched, a person switches back."""
    if spec is None or spec.mode is not PlacementMode.FALLBACK:
        return None
    return (
        "FallbackActive",
        "customers go through the fallback already, and no run works on that. When the router itself is well, bring"
        f" them back with: kubectl recell recover {_typed(router)} --always"
        " --strategy ActivateFallbackRouting",
        None,
    )


def _exhausted(target: Target, attempts: Sequence[datetime], policy: RecoveryPolicySpec, name: str) -> Check:
    limits = policy.limits
    if len(attempts) < limits.max_attempts:
        return None
    return (
        "AttemptsExhausted",
        f"{len(attempts)} automatic runs within {limits.attempts_window} did not keep the {_kind(target)} well, and"
        f" RecoveryPolicy {name} allows {limits.max_attempts}: find the cause, then kubectl recell recover"
        f" {_typed(target)}",
        attempts[-limits.max_attempts] + timedelta(seconds=seconds(limits.attempts_window)),
    )


def _cooldown(target: Target, runs: Sequence[RecoveryRun], policy: RecoveryPolicySpec, now: datetime) -> Check:
    last = _last(run for run in runs if run.spec.trigger != Trigger.MANUAL)
    if last is None:
        return None
    until = min(_ended_at(last), now) + timedelta(seconds=seconds(policy.limits.cooldown))
    if until <= now:
        return None
    return (
        "Cooldown",
        f"run {last.metadata.name} ended at {timestamp(min(_ended_at(last), now))} ({last.phase}); the next automatic"
        f" run is allowed at {timestamp(until)}, a run of yours at once:"
        f" kubectl recell recover {_typed(target)}",
        until,
    )


def _counted(runs: Iterable[RecoveryRun]) -> list[RecoveryRun]:
    """Those that did something, or are to."""
    return [run for run in runs if not run.spec.dry_run and run.phase != RunPhase.SKIPPED]


def _attempts(runs: Sequence[RecoveryRun], policy: RecoveryPolicySpec, now: datetime) -> list[datetime]:
    """Starts of the automatic runs within the window, oldest first; a child goes on with its parent's attempt."""
    begin = now - timedelta(seconds=seconds(policy.limits.attempts_window))
    starts = (_started_at(run) for run in runs if run.spec.trigger == Trigger.AUTOMATIC)
    return sorted(min(start, now) for start in starts if start is not None and start > begin)


def _last(runs: Iterable[RecoveryRun]) -> RecoveryRun | None:
    """The one that ended last."""
    return max((run for run in runs if run.phase.ended), key=_ended_at, default=None)


def _started_at(run: RecoveryRun) -> datetime | None:
    return run.status.started_at or run.metadata.creation_timestamp


def _ended_at(run: RecoveryRun) -> datetime:
    moment = run.status.finished_at or _started_at(run)
    if moment is None:
        raise ValueError(f"run {run.metadata.name}: it has neither a time in its status nor a creation time")
    return moment
