"""What a recovery of a cell would be, decided here by the operator's own pure functions.

Promises: nothing is written and nothing asked of the operator; the decision, the admission and the
limits are computed from the same objects by the same code. What only the operator sees (fresh
figures of the router, probes) is taken from the Cell's status as it was last written.
"""

from datetime import datetime

from pydantic import Field

from recell.api import Cell, RecoveryPolicy, RecoveryRun
from recell.api.cell import CellPhase
from recell.api.failure import Evidence, Strategy
from recell.api.meta import Model, ObjectMeta, duration_text
from recell.api.recovery_policy import Mode
from recell.api.recovery_run import DecisionInputs, RecoveryRunSpec, RecoveryTarget, RunPhase
from recell.cli import foresight
from recell.cli.fleet import Fleet, router_key, target_cell
from recell.cli.foresight import Asked, Foreseen
from recell.cli.report import Obstacle
from recell.domain import limits
from recell.domain.health import HealthState, Level
from recell.engine import admission, record
from recell.procedures import PROCEDURES

_LEVEL = {
    CellPhase.HEALTHY: Level.HEALTHY,
    CellPhase.DEGRADED: Level.DEGRADED,
    CellPhase.FAILED: Level.FAILED,
}

STARTS = "Starts"
UNDECIDED = "none"
"""Row of a decision that was made on nothing, as `admission.decide` calls it."""


class PlannedStep(Model):
    name: str
    phase: RunPhase
    does: str
    at_most: str


class PlanReport(Model):
    """The documented shape of `recell plan -o json`."""

    namespace: str
    cell: str
    health: CellPhase | None
    policy: str | None
    mode: Mode
    strategy: Strategy
    row: str
    message: str
    inputs: DecisionInputs | None = None
    evidence: list[Evidence] = Field(default_factory=list)
    outcome: str
    """What becomes of a run that a person makes now: Starts, Waits, or the phase in which it ends at once."""
    why: Obstacle | None = None
    """Why it does not start."""
    automatic: Obstacle | None = None
    """Why the operator does not start one by itself; absent: it does."""
    recovery_target: RecoveryTarget | None = None
    steps: list[PlannedStep] = Field(default_factory=list)
    foreseen: list[Foreseen] = Field(default_factory=list)
    """Steps that would fail, as far as it can be seen from here."""
    asks: list[Asked] = Field(default_factory=list)
    """Gates at which the run waits for a person."""
    numbers: dict[str, str] = Field(default_factory=dict)

    @property
    def decided(self) -> bool:
        """Something is known to decide on: a failure, or a strategy that the person states."""
        return self.row != UNDECIDED

    @property
    def starts(self) -> bool:
        return self.outcome == STARTS


def plan(fleet: Fleet, cell: Cell, spec: RecoveryRunSpec) -> PlanReport:
    """The plan of a run with this spec, were it made now."""
    policy = fleet.policy(cell) or RecoveryPolicy()
    run = RecoveryRun(
        metadata=ObjectMeta(name="planned", namespace=cell.metadata.namespace, creation_timestamp=fleet.now), spec=spec
    )
    decision = admission.decide(run, cell.status.failure, policy)
    answer = admission.admit(_situation(fleet, cell, run, policy))
    outcome, why = _outcome(answer)
    procedure = PROCEDURES.get(decision.strategy)
    if procedure is None and decision.strategy is not Strategy.MANUAL_INTERVENTION and why is None:
        outcome, why = (
            RunPhase.MANUAL_INTERVENTION_REQUIRED,
            Obstacle(
                reason="NoProcedure", message=f"this version has no procedure for {decision.strategy}: a person does it"
            ),
        )
    return PlanReport(
        namespace=cell.metadata.namespace,
        cell=cell.metadata.name,
        health=cell.status.phase,
        policy=policy.metadata.name or None,
        mode=policy.spec.mode,
        strategy=decision.strategy,
        row=decision.row,
        message=decision.message,
        inputs=decision.inputs,
        evidence=decision.evidence,
        outcome=outcome,
        why=why,
        automatic=_automatic(fleet, cell, policy)
        or (why if outcome == RunPhase.MANUAL_INTERVENTION_REQUIRED else None),
        recovery_target=spec.recovery_target,
        foreseen=foresight.failures(fleet, cell, decision.strategy, policy),
        asks=foresight.questions(fleet, cell, decision.strategy, policy),
        steps=[
            PlannedStep(
                name=step.name,
                phase=step.phase,
                does=step.does,
                at_most=duration_text(step.within(policy.spec)),
            )
            for step in (procedure.steps if procedure else ())
        ],
        numbers=record.frozen_numbers(policy.spec) if procedure else {},
    )


def _situation(fleet: Fleet, cell: Cell, run: RecoveryRun, policy: RecoveryPolicy) -> admission.Situation:
    router = fleet.router_of(cell)
    return admission.Situation(
        run=run,
        cell=cell,
        health=_health(cell, fleet.now),
        failure=cell.status.failure,
        policy=policy,
        others=[other for other in fleet.runs if other.metadata.namespace == cell.metadata.namespace],
        router_cells=frozenset(other.metadata.name for other in fleet.cells_of(router_key(cell))),
        router_labels=router.metadata.labels if router else {},
        freezes=[f for f in fleet.freezes if f.metadata.namespace == cell.metadata.namespace],
        approved=False,
        now=fleet.now,
    )


def _health(cell: Cell, now: datetime) -> HealthState:
    failure = cell.status.failure
    by_failure = Level.FAILED if failure else Level.UNKNOWN
    level = _LEVEL.get(cell.status.phase, by_failure) if cell.status.phase else Level.UNKNOWN
    return HealthState(level=level, since=failure.since if failure else now)


def _outcome(answer: admission.Answer) -> tuple[str, Obstacle | None]:
    match answer:
        case admission.Start():
            return STARTS, None
        case admission.AskToStart(message=message):
            return RunPhase.AWAITING_APPROVAL, Obstacle(reason="ApprovalRequired", message=message)
        case admission.Hold(reason=reason, message=message):
            return "Waits", Obstacle(reason=reason, message=message)
        case admission.End(phase=phase, reason=reason, message=message):
            return phase, Obstacle(reason=reason, message=message)


def _automatic(fleet: Fleet, cell: Cell, policy: RecoveryPolicy) -> Obstacle | None:
    """The operator's own word where it gave one (it knows more), else its rules on what is known here."""
    recovery = cell.status.recovery
    said = recovery.blocked if recovery else None
    if said is None:
        said = _limits(fleet, cell, policy).blocked
    if said is not None:
        return Obstacle(reason=said.reason, message=said.message)
    if policy.spec.mode is not Mode.AUTOMATIC:
        return Obstacle(
            reason=policy.spec.mode,
            message=f"policy {policy.metadata.name or 'built in'} is in mode {policy.spec.mode}: a person starts runs",
        )
    return None


def _limits(fleet: Fleet, cell: Cell, policy: RecoveryPolicy) -> limits.Allowance:
    router, placement = fleet.router_of(cell), fleet.placement(router_key(cell))
    router_policy = fleet.router_policy(router_key(cell)) or RecoveryPolicy()
    names = {other.metadata.name for other in fleet.cells_of(router_key(cell))}
    runs = [run for run in fleet.runs if run.metadata.namespace == cell.metadata.namespace]
    return limits.blocked(
        cell,
        policy.spec,
        fleet.now,
        lineage=[run for run in runs if target_cell(run) == cell.key],
        active=[run for run in runs if admission.started(run) and run.spec.target_ref.name in names],
        freezes=[f for f in fleet.freezes if f.metadata.namespace == cell.metadata.namespace],
        state=_health(cell, fleet.now),
        failure=cell.status.failure,
        spec=placement.spec if placement else None,
        policy_name=policy.metadata.name or "(built in)",
        router_labels=router.metadata.labels if router else None,
        max_concurrent_runs=router_policy.spec.limits.max_concurrent_runs,
    )
