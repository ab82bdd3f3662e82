"""What a recovery of a cell or a router would be, decided here by the operator's own pure functions.

Promises: nothing is written and nothing asked of the operator; the decision, the admission and the
limits are computed from the same objects by the same code. What only the operator sees (fresh
figures of the router, probes) is taken from the target's status as it was last written.
"""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from recell.api import Cell, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import CellPhase
from recell.api.failure import Evidence, Strategy
from recell.api.meta import Model, ObjectMeta, duration_text, find_condition
from recell.api.recovery_policy import Mode
from recell.api.recovery_run import DecisionInputs, RecoveryRunSpec, RecoveryTarget, RunPhase
from recell.cli import foresight
from recell.cli.fleet import Fleet, Key, router_key, target_cell, target_router
from recell.cli.foresight import Asked, Foreseen
from recell.cli.report import Obstacle
from recell.domain import failure as failures
from recell.domain import fallback, limits, pace, provisioning, router_health
from recell.domain.health import HealthState, Level
from recell.engine import admission, record
from recell.procedures import PROCEDURES

_LEVEL = {
    CellPhase.HEALTHY: Level.HEALTHY,
    CellPhase.DEGRADED: Level.DEGRADED,
    CellPhase.FAILED: Level.FAILED,
}

_PHASE = {
    Level.HEALTHY: CellPhase.HEALTHY,
    Level.DEGRADED: CellPhase.DEGRADED,
    Level.FAILED: CellPhase.FAILED,
    Level.UNKNOWN: CellPhase.UNKNOWN,
}
"""A router's health in the words of a cell's."""

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
    cell: str | None = None
    """The target, if it is a Cell; else `router` is."""
    router: str | None = None
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
    left_to_people: bool = False
    """It does the steps, and ends as ManualInterventionRequired all the same."""
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


def plan(fleet: Fleet, target: Cell | Router, spec: RecoveryRunSpec) -> PlanReport:
    """The plan of a run with this spec, were it made now."""
    namespace, name = target.key
    cell = target if isinstance(target, Cell) else None
    policy = (fleet.policy(cell) if cell else fleet.router_policy(target.key)) or RecoveryPolicy()
    paced = pace.fitted(policy.spec, fleet.router(_router_key(target)))
    run = RecoveryRun(metadata=ObjectMeta(name="planned", namespace=namespace, creation_timestamp=fleet.now), spec=spec)
    decision = admission.decide(run, target.status.failure, policy, _unavailable(target))
    answer = admission.admit(_situation(fleet, target, run, policy))
    outcome, why = _outcome(answer)
    to_people = decision.strategy is Strategy.MANUAL_INTERVENTION and not admission.isolates(run, decision, policy)
    procedure = None if to_people else PROCEDURES.get(decision.strategy)
    if procedure is None and not to_people and why is None:
        outcome, why = (
            RunPhase.MANUAL_INTERVENTION_REQUIRED,
            Obstacle(
                reason="NoProcedure", message=f"this version has no procedure for {decision.strategy}: a person does it"
            ),
        )
    return PlanReport(
        namespace=namespace,
        cell=name if cell else None,
        router=None if cell else name,
        health=target.status.phase if isinstance(target, Cell) else _PHASE[router_level(target)],
        policy=policy.metadata.name or None,
        mode=policy.spec.mode,
        strategy=decision.strategy,
        row=decision.row,
        message=decision.message,
        inputs=decision.inputs,
        evidence=decision.evidence,
        outcome=outcome,
        left_to_people=procedure is not None and procedure.left_to_people,
        why=why,
        automatic=_automatic(fleet, target, run, policy)
        or (why if outcome == RunPhase.MANUAL_INTERVENTION_REQUIRED else None),
        recovery_target=spec.recovery_target,
        foreseen=foresight.failures(fleet, cell, decision.strategy, policy) if cell else [],
        asks=foresight.questions(fleet, cell, decision.strategy, policy) if cell and procedure else [],
        steps=[
            PlannedStep(
                name=step.name,
                phase=step.phase,
                does=step.does,
                at_most=duration_text(step.within(paced)),
            )
            for step in (procedure.steps if procedure else ())
        ],
        numbers=record.frozen_numbers(paced) if procedure else {},
    )


def _unavailable(target: Cell | Router) -> Mapping[Strategy, str]:
    """What the operator said last of a router's fallback; it knows more than stands in the spec."""
    if not isinstance(target, Router):
        return {}
    ready = find_condition(target.status.conditions, "FallbackReady")
    why = ""
    if not target.spec.has_fallback:
        why = fallback.unavailable(target, None, None)
    elif ready is None or ready.status != "True":
        why = f"has no fallback to use: {ready.message if ready else 'the operator has not said that it is ready'}"
    elif target.status.failure is not None:
        why = fallback.reserved(target, target.status.failure.impact)
    return {Strategy.ACTIVATE_FALLBACK_ROUTING: why} if why else {}


def _router_key(target: Cell | Router) -> Key:
    return router_key(target) if isinstance(target, Cell) else target.key


def _situation(fleet: Fleet, target: Cell | Router, run: RecoveryRun, policy: RecoveryPolicy) -> admission.Situation:
    namespace, key = target.metadata.namespace, _router_key(target)
    router = fleet.router(key)
    return admission.Situation(
        run=run,
        target=target,
        health=_health_of_cells(fleet, target) if admission.about_cells(run) else _health(target, fleet.now),
        failure=target.status.failure,
        policy=policy,
        others=[other for other in fleet.runs if other.metadata.namespace == namespace],
        router_cells=frozenset(other.metadata.name for other in fleet.cells_of(key)),
        router_labels=router.metadata.labels if router else {},
        freezes=[f for f in fleet.freezes if f.metadata.namespace == namespace],
        approved=False,
        now=fleet.now,
        mode=placement.spec.mode if (placement := fleet.placement(key)) else None,
        unavailable=_unavailable(target),
    )


def router_level(router: Router) -> Level:
    """Its health, from what the operator wrote last; Unknown before it wrote anything."""
    if router.status.failure is not None:
        return router_health.judged(router.status.failure.evidence)
    return Level.HEALTHY if router.status.conditions else Level.UNKNOWN


def _health(target: Cell | Router, now: datetime) -> HealthState:
    failure = target.status.failure
    if isinstance(target, Router):
        return HealthState(level=router_level(target), since=failure.since if failure else now)
    cell = target
    by_failure = Level.FAILED if failure else Level.UNKNOWN
    level = _LEVEL.get(cell.status.phase, by_failure) if cell.status.phase else Level.UNKNOWN
    return HealthState(level=level, since=failure.since if failure else now)


def _health_of_cells(fleet: Fleet, router: Cell | Router) -> HealthState:
    """Of the cell that is worst, for a run that is about several."""
    worst = (Level.FAILED, Level.DEGRADED, Level.HEALTHY, Level.UNKNOWN)
    states = [_health(cell, fleet.now) for cell in fleet.cells_of(router.key)]
    unknown = HealthState(level=Level.UNKNOWN, since=fleet.now)
    return min(states, key=lambda state: worst.index(state.level), default=unknown)


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


def _automatic(fleet: Fleet, target: Cell | Router, run: RecoveryRun, policy: RecoveryPolicy) -> Obstacle | None:
    """The operator's own word where it gave one (it knows more), else its rules on what is known here."""
    recovery = target.status.recovery
    said = recovery.blocked if recovery else None
    if isinstance(target, Router) and said is not None:
        # it is about the router itself, unless a person lifts it: then it may be about its cells alone
        said = None if admission.about_cells(run) or said.reason in limits.ACKNOWLEDGEABLE else said
    if said is None:
        if isinstance(target, Cell):
            said = _limits(fleet, target, policy).blocked
        else:
            said = _router_limits(fleet, target, run, policy).blocked
        if said is not None and said.reason == "AbortedByPerson" and _lifted(fleet, target):
            said = None
    if said is not None:
        return Obstacle(reason=said.reason, message=said.message)
    if policy.spec.mode is not Mode.AUTOMATIC:
        return Obstacle(
            reason=policy.spec.mode,
            message=f"policy {policy.metadata.name or 'built in'} is in mode {policy.spec.mode}: a person starts runs",
        )
    return None


def _lifted(fleet: Fleet, target: Cell | Router) -> bool:
    """The operator has seen how the last run ended, and shows no block: it knows of an hour of health, which is history
    and not seen from here."""
    recovery = target.status.recovery
    about = target_cell if isinstance(target, Cell) else target_router
    ends = {run.metadata.name: run.status.finished_at for run in fleet.runs if about(run) == target.key}
    last = max(((end, name) for name, end in ends.items() if end is not None), default=None)
    return recovery is not None and recovery.blocked is None and last is not None and recovery.last_run == last[1]


def _router_limits(fleet: Fleet, router: Router, run: RecoveryRun, policy: RecoveryPolicy) -> limits.Allowance:
    placement, several = fleet.placement(router.key), admission.about_cells(run)
    every = [other for other in fleet.runs if target_router(other) == router.key]
    return limits.router_blocked(
        router,
        policy.spec,
        fleet.now,
        several=several,
        runs=[other for other in every if admission.about_cells(other) == several],
        every=every,
        freezes=[f for f in fleet.freezes if f.metadata.namespace == router.metadata.namespace],
        state=_together(fleet, router) if several else _health(router, fleet.now),
        failure=router.status.failure,
        spec=placement.spec if placement else None,
        policy_name=policy.metadata.name or "(built in)",
    )


def _together(fleet: Fleet, router: Router) -> HealthState:
    placement, cells = fleet.placement(router.key), {cell.metadata.name: cell for cell in fleet.cells_of(router.key)}
    states = {name: _health(cell, fleet.now) for name, cell in cells.items()}
    return failures.together(cells, states, placement.spec if placement else None, fleet.now)


def _aborted_for_cells(fleet: Fleet, router: Router) -> RecoveryRun | None:
    every = [run for run in fleet.runs if target_router(run) == router.key]
    about = [run for run in every if admission.about_cells(run)]
    aborted = limits.aborted_for_cells(router, fleet.now, state=_together(fleet, router), runs=about, every=every)
    return None if aborted is not None and _lifted(fleet, router) else aborted


def _limits(fleet: Fleet, cell: Cell, policy: RecoveryPolicy) -> limits.Allowance:
    router, placement = fleet.router_of(cell), fleet.placement(router_key(cell))
    router_policy = fleet.router_policy(router_key(cell)) or RecoveryPolicy()
    namespace, siblings = cell.metadata.namespace, fleet.cells_of(router_key(cell))
    names = {other.metadata.name for other in siblings}
    line = {(namespace, name) for name in provisioning.lineage(cell, siblings)}
    runs = [run for run in fleet.runs if run.metadata.namespace == namespace]
    return limits.blocked(
        cell,
        policy.spec,
        fleet.now,
        lineage=[run for run in runs if target_cell(run) in line],
        active=[run for run in runs if admission.started(run) and admission.of_cells(run, names)],
        freezes=[f for f in fleet.freezes if f.metadata.namespace == namespace],
        state=_health(cell, fleet.now),
        failure=cell.status.failure,
        spec=placement.spec if placement else None,
        policy_name=policy.metadata.name or "(built in)",
        router_labels=router.metadata.labels if router else None,
        cascade=admission.cascade_of(cell, runs),
        aborted=_aborted_for_cells(fleet, router) if router else None,
        max_concurrent_runs=router_policy.spec.limits.max_concurrent_runs,
    )
