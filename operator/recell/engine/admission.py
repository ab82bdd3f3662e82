"""Admission: what becomes of a run that has not started. Pure.

The order of the questions is the order of the answers below: a run is ended, kept waiting with a
reason, asked about, or started with a decision.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from recell.api import Cell, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import DataIntegrity, FailureType, Strategy
from recell.api.meta import ANNOTATION_STARTED_UID
from recell.api.placement import PlacementMode
from recell.api.recovery_policy import CorruptedCell, Mode
from recell.api.recovery_run import Decision, DecisionInputs, RunPhase, StartWhen, TargetKind, Trigger
from recell.domain import limits, matrix, runs
from recell.domain.health import HealthState, Level
from recell.domain.wording import clipped

PENDING_LIMIT = timedelta(hours=24)
"""A run that could not start for so long ends as Skipped; a person's word from yesterday is not today's."""
MAX_ESCALATIONS = 2
"""Runbook's practice: after two levels a person decides."""
LEFT_TO_PEOPLE = "ManualIntervention"
"""Reason with which a run ends whose decision leaves the failure to a person."""


@dataclass(frozen=True)
class End:
    phase: RunPhase
    reason: str
    message: str


@dataclass(frozen=True)
class Hold:
    """Not yet: the reason is shown on the run."""

    reason: str
    message: str
    stalled: bool = False
    paused: bool = False


@dataclass(frozen=True)
class AskToStart:
    decision: Decision
    message: str


@dataclass(frozen=True)
class Start:
    decision: Decision


Answer = End | Hold | AskToStart | Start


@dataclass(frozen=True)
class Situation:
    """What admission looks at."""

    run: RecoveryRun
    target: Cell | Router | None
    health: HealthState | None
    failure: Failure | None
    policy: RecoveryPolicy
    others: Sequence[RecoveryRun]
    """Runs of the namespace, this one excepted."""
    router_cells: frozenset[str]
    """Names of the cells of the target's router, or of the Router that is the target."""
    router_labels: Mapping[str, str]
    freezes: Sequence[RecoveryFreeze]
    approved: bool
    """A person opened the gate `start` for the decision that is shown."""
    now: datetime
    mode: PlacementMode | None = None
    """Who serves the customers of the target's Router; None: there is no Placement."""
    unavailable: Mapping[Strategy, str] = field(default_factory=dict)
    """Strategies that this target cannot have now, and why: the matrix passes them over. A person may state one all
    the same."""


def admit(s: Situation) -> Answer:
    meta, spec = s.run.metadata, s.run.spec
    if meta.annotations.get(ANNOTATION_STARTED_UID) == meta.uid:
        return End(
            RunPhase.SKIPPED,
            "RecordLost",
            "This run was started before and its record (its status) is lost. Runs are not executed twice: make a"
            " new one if it is still needed",
        )
    if replay := runs.is_replay(s.run, s.target):
        return End(RunPhase.SKIPPED, replay.reason, replay.message)
    if spec.start_before and s.now >= spec.start_before:
        return End(RunPhase.SKIPPED, "TooLate", f"It had to start before {spec.start_before.isoformat()}")
    if meta.creation_timestamp and s.now - meta.creation_timestamp > PENDING_LIMIT:
        return End(RunPhase.SKIPPED, "Expired", "It could not start for 24 h: make a new one if it is still needed")
    if spec.control and spec.control.abort:
        return End(RunPhase.ABORTED, "Aborted", "Aborted before it started: nothing was changed")
    if s.target is None:
        ref = spec.target_ref
        return Hold(
            "TargetNotFound",
            f"{ref.kind} {ref.name} does not exist in namespace {meta.namespace}: check spec.targetRef.name",
            stalled=True,
        )
    if frozen := limits.frozen(s.freezes, [s.target.metadata.labels, s.router_labels], s.now, running=False):
        return Hold("Frozen", limits.frozen_message(frozen), paused=True)
    if spec.control and spec.control.paused:
        return Hold("PausedByPerson", "spec.control.paused is true", paused=True)
    if spec.target_ref.kind is TargetKind.CELL and s.mode is PlacementMode.FALLBACK:
        return Hold("FallbackActive", limits.BEHIND_FALLBACK)
    return _busy(s) or _disowned(s) or _unneeded(s) or _decided(s)


def _named(s: Situation) -> str:
    """The target, in the middle of a sentence."""
    kind = s.run.spec.target_ref.kind
    return f"{'cell' if kind is TargetKind.CELL else 'Router'} {s.run.spec.target_ref.name}"


def _busy(s: Situation) -> Answer | None:
    """One run at a time works on a target; on a Router one about itself and one about its cells. A Router's run waits
    for none of its cells' runs: it is about everybody."""
    ref = s.run.spec.target_ref
    for other in s.others:
        if other.spec.target_ref == ref and started(other) and about_cells(other) == about_cells(s.run):
            return Hold(
                "TargetBusy",
                f"{ref.kind} {ref.name} already has the active run {other.metadata.name} ({other.phase});"
                " this one starts when it has ended",
            )
    if ref.kind is TargetKind.ROUTER:
        return None
    if s.run.spec.trigger is Trigger.AUTOMATIC and (cascade := cascade_of(s.target, s.others)) is not None:
        name = cascade.metadata.name
        return Hold("CascadeActive", f"{name} recovers the failed cells of the router one after another")
    limit = s.policy.spec.limits.max_concurrent_runs
    active = [o for o in s.others if started(o) and of_cells(o, s.router_cells)]
    if s.run.spec.trigger is Trigger.AUTOMATIC and len(active) >= limit:
        names = ", ".join(sorted(o.metadata.name for o in active))
        return Hold("ConcurrencyLimit", f"{len(active)} of {limit} runs are active ({names}): limits.maxConcurrentRuns")
    return None


def _disowned(s: Situation) -> Answer | None:
    """Made by a run that was killed before it recorded that, and that then went on by itself: nothing is left to do."""
    meta, parent = s.run.metadata, next((o for o in s.others if o.metadata.name == s.run.spec.escalated_from), None)
    if parent is None or not parent.phase.ended:
        return None
    to = parent.status.escalation.to if parent.status.escalation else None
    if parent.phase is RunPhase.ESCALATED and to == meta.name:
        return None
    return End(
        RunPhase.SKIPPED,
        "NotEscalated",
        f"{parent.metadata.name} did not escalate to this run in the end: it ended as {parent.phase}. Make a new one if"
        " it is still needed",
    )


def _unneeded(s: Situation) -> Answer | None:
    if s.run.spec.start_when is StartWhen.ALWAYS or s.run.spec.trigger is Trigger.CHILD:
        return None
    if s.health is None or s.health.level is Level.UNKNOWN:
        return Hold("HealthUnknown", f"The health of {_named(s)} is not known yet")
    if s.health.level is Level.HEALTHY:
        return End(
            RunPhase.SKIPPED,
            "TargetHealthy",
            f"{s.run.spec.target_ref.kind} {s.run.spec.target_ref.name} is healthy. Use startWhen: Always to run all"
            f" the same{_about_its_cells(s.run)}",
        )
    return None


def _about_its_cells(run: RecoveryRun) -> str:
    if run.spec.target_ref.kind is TargetKind.CELL or about_cells(run):
        return ""
    return f"; if cells of it have failed together, run it with strategy {Strategy.EMERGENCY_SCALING}"


def _decided(s: Situation) -> Answer:
    decision = decide(s.run, s.failure, s.policy, s.unavailable)
    if decision.strategy is Strategy.EMERGENCY_SCALING and isinstance(s.target, Cell):
        router = s.target.spec.router_ref.name
        return End(
            RunPhase.MANUAL_INTERVENTION_REQUIRED,
            "ForTheRouter",
            f"Several cells failed together, and one run of their Router recovers them: recell recover router/{router}"
            f" --strategy {Strategy.EMERGENCY_SCALING}. Or state a strategy for this cell alone",
        )
    if decision.strategy is Strategy.MANUAL_INTERVENTION and not isolates(s.run, decision, s.policy):
        return End(RunPhase.MANUAL_INTERVENTION_REQUIRED, LEFT_TO_PEOPLE, decision.message)
    if escalations(s.run, s.others) > MAX_ESCALATIONS:
        return End(
            RunPhase.MANUAL_INTERVENTION_REQUIRED,
            "EscalatedTooOften",
            f"{MAX_ESCALATIONS} escalations did not bring {_named(s)} back: a person has to look",
        )
    shared = decision.inputs is not None and decision.inputs.type is FailureType.SYSTEMIC
    if s.run.spec.trigger is Trigger.AUTOMATIC and shared and not s.approved:
        return AskToStart(
            decision,
            f"CRITICAL: {decision.message}. Most cells failed at once, or something that all of them need: look there"
            " first. Nothing is done until somebody approves",
        )
    if s.run.spec.trigger is Trigger.AUTOMATIC and s.policy.spec.mode is not Mode.AUTOMATIC and not s.approved:
        return AskToStart(
            decision,
            f"{decision.message}. Policy {s.policy.metadata.name or 'default'} is in mode {s.policy.spec.mode}",
        )
    return Start(decision)


def decide(
    run: RecoveryRun,
    failure: Failure | None,
    policy: RecoveryPolicy,
    unavailable: Mapping[Strategy, str] = matrix.NOTHING,
) -> Decision:
    """The run's strategy: as it says itself, or by the matrix on what is stated and observed."""
    stated = run.spec.failure
    evidence = list(failure.evidence) if failure else []
    inputs = None
    kind = (stated and stated.type) or (failure and failure.type)
    impact = (stated and stated.impact) or (failure and failure.impact)
    integrity = (stated and stated.data_integrity) or (failure and failure.data_integrity)
    if kind and impact and integrity:
        inputs = DecisionInputs(type=kind, impact=impact, data_integrity=integrity)
    if run.spec.strategy is not None:
        choice = matrix.Choice(run.spec.strategy, "stated", f"{run.spec.strategy}, as the run's spec.strategy says")
    elif inputs is None:
        choice = matrix.Choice(
            Strategy.MANUAL_INTERVENTION, "none", "Nothing is known of a failure: state spec.strategy or spec.failure"
        )
    else:
        choice = matrix.decide(inputs, policy.spec, run.spec.target_ref.kind, unavailable=unavailable)
    decision = Decision(
        id=matrix.decision_id(choice, inputs, run.spec.target_ref),
        strategy=choice.strategy,
        row=choice.row,
        message=choice.message,
        inputs=inputs,
        evidence=evidence[:32],
    )
    if isolates(run, decision, policy):
        told = f"The cell is isolated, then left to a person (manualIntervention.corruptedCell). {decision.message}"
        return decision.model_copy(update={"message": clipped(told)})
    return decision


def isolates(run: RecoveryRun, decision: Decision, policy: RecoveryPolicy) -> bool:
    """Is it a cell to be isolated before a person takes over (rule 16)? Not where all may share the cause (rule 10)."""
    inputs, permitted = decision.inputs, policy.spec.manual_intervention.corrupted_cell
    return (
        decision.strategy is Strategy.MANUAL_INTERVENTION
        and permitted is CorruptedCell.ISOLATE
        and run.spec.target_ref.kind is TargetKind.CELL
        and inputs is not None
        and inputs.data_integrity is DataIntegrity.CORRUPTED
        and inputs.type is not FailureType.SYSTEMIC
    )


def of_cells(run: RecoveryRun, cells: Container[str]) -> bool:
    """Is its target one of these cells? A Router may be called as a cell is."""
    return run.spec.target_ref.kind is TargetKind.CELL and run.spec.target_ref.name in cells


def started(run: RecoveryRun) -> bool:
    """Has it begun and not ended?"""
    return not run.phase.ended and run.status.started_at is not None


def escalations(run: RecoveryRun, others: Sequence[RecoveryRun]) -> int:
    """How many runs this one goes on from."""
    by_name = {other.metadata.name: other for other in others}
    count, current = 0, run
    while current.spec.escalated_from and count <= MAX_ESCALATIONS:
        parent = by_name.get(current.spec.escalated_from)
        if parent is not None and parent.spec.target_ref != current.spec.target_ref:
            break  # it works for that one, and does not go on from it
        count += 1
        if parent is None:
            break
        current = parent
    return count


def line(run: RecoveryRun, others: Sequence[RecoveryRun]) -> frozenset[str]:
    """Names of the runs that this one goes on from or works for."""
    by_name = {other.metadata.name: other for other in others}
    return frozenset(runs.line(run, by_name.get))


def about_cells(run: RecoveryRun) -> bool:
    """Is it a run of a Router that recovers its cells, and not the router itself?"""
    return run.spec.target_ref.kind is TargetKind.ROUTER and run.spec.strategy is Strategy.EMERGENCY_SCALING


def cascade_of(target: Cell | Router | None, others: Iterable[RecoveryRun]) -> RecoveryRun | None:
    """The run that recovers the cells of this cell's router, if there is one at work."""
    if not isinstance(target, Cell):
        return None
    router = target.spec.router_ref.name
    return next((o for o in others if about_cells(o) and started(o) and o.spec.target_ref.name == router), None)
