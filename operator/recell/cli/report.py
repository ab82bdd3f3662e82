"""What `recell status` and `recell runs` tell, as values: the documented shape of `-o json`.

Promises: pure; made from a Fleet alone; the same facts are shown on a terminal and given to
scripts. Percentages are texts ("33.3%"), moments are RFC 3339, what is not known is absent.
"""

from collections import Counter
from collections.abc import Iterable
from datetime import datetime

from pydantic import Field

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryRun
from recell.api.cell import Blocked, CellPhase, Failure
from recell.api.failure import Strategy
from recell.api.meta import (
    LABEL_MADE_BY,
    Condition,
    Model,
    find_condition,
    is_true,
    percent_text,
)
from recell.api.placement import READ_ONLY, REJECT, Hold, HoldState, OpenCircuit, Shed, decode_table
from recell.api.recovery_policy import Mode
from recell.api.recovery_run import Awaiting, Decision, RecoveryTarget, RunPhase, StepState
from recell.api.router import Verification
from recell.cli import gates
from recell.cli.fleet import Fleet, Key, recency, router_key, target_cell, target_router
from recell.cli.results import ProgressReport, ResultReport, progress_report, result_report
from recell.domain import decommission, provisioning
from recell.domain import placement as table
from recell.domain.placement import PERSON

EXPECTED_CONDITIONS = ("Accepted", "Ready", "Available", "Performing", "DataIntact", "ClusterReachable")
"""Conditions of a Cell that are True when all is well."""


class HoldReport(Model):
    max_percent: int
    state: HoldState
    holder: str
    reason: str
    since: datetime
    orphaned: bool
    """Its run is over and should have released it."""
    run_over: bool = False
    """Its run is over; an isolated or retired cell stays held all the same, until a person returns it."""

    @property
    def releasable(self) -> bool:
        """`recell return` lets it go."""
        return self.run_over or self.holder.startswith(f"{PERSON}/")


class ShareReport(Model):
    """Parts of the router's slots."""

    home: str | None = None
    """Slots whose customers belong to the cell."""
    asked: str | None = None
    """Slots that Placement lets it serve now."""
    applied: str | None = None
    """The same, as far as every serving router pod has applied it."""


class CellReport(Model):
    namespace: str
    name: str
    router: str
    phase: CellPhase | None
    share: ShareReport
    failure: Failure | None = None
    conditions: list[Condition] = Field(default_factory=list)
    holds: list[HoldReport] = Field(default_factory=list)
    paused: bool = False
    active_run: str | None = None
    last_run: str | None = None
    last_phase: RunPhase | None = None
    """How the last run ended."""
    last_summary: str | None = None
    attempts: int = 0
    next_allowed_at: datetime | None = None
    blocked: Blocked | None = None
    frozen_by: str | None = None
    origin: str | None = None
    """First cell of its line; only of a cell that Recell made."""
    successor: str | None = None
    """The cell that took its place."""
    kept_until: datetime | None = None
    """A retired cell is deleted then, if that is proven to be safe; absent: only people delete it."""
    remains: list[str] = Field(default_factory=list)
    """What is left to people: by the last run, and of a retired cell what keeps it from being deleted."""

    @property
    def retired(self) -> bool:
        """Out of service, and nobody's home any more: as it should be."""
        return self.phase == CellPhase.RETIRED and self.share.home in (None, "0%")

    @property
    def well(self) -> bool:
        return self.phase == CellPhase.HEALTHY or self.retired


class PolicyReport(Model):
    name: str | None = None
    mode: Mode = Mode.OBSERVE


class TurnedAway(Model):
    """Requests that the routers turn away for a run, until it expires."""

    what: str
    percent: int
    holder: str
    expires_at: datetime


class PlacementReport(Model):
    mode: str
    slots: int
    generation: int
    epoch: int
    rejected: str
    """Slots whose customers are turned away."""
    read_only: str
    """Slots that are served away from home, for reading only."""
    shedding: list[TurnedAway] = Field(default_factory=list)
    """By class of requests."""
    open_circuits: list[TurnedAway] = Field(default_factory=list)
    """By cell."""
    quarantined: int = 0
    """Slots that nobody serves, for two cells failed that served them."""


class RouterReport(Model):
    namespace: str
    name: str
    found: bool
    type: str | None = None
    customer_data: str | None = None
    verification: Verification | None = None
    ready: bool = False
    conditions: list[Condition] = Field(default_factory=list)
    failure: Failure | None = None
    """Of the router itself, not of its cells."""
    active_run: str | None = None
    """The run that works on the router itself, or waits to."""
    cascades: bool = False
    """That run is about the failed cells, not about the router."""
    last_run: str | None = None
    last_phase: RunPhase | None = None
    last_summary: str | None = None
    blocked: Blocked | None = None
    next_allowed_at: datetime | None = None
    policy: PolicyReport
    placement: PlacementReport | None = None
    cells: list[CellReport]


class StepReport(Model):
    name: str
    phase: RunPhase
    state: StepState
    message: str = ""
    started_at: datetime | None = None
    finished_at: datetime | None = None


class Obstacle(Model):
    """What stands in the way, in a word and in a sentence."""

    reason: str
    message: str


class AwaitingReport(Awaiting):
    """What a person is asked, in the run's words and in plain ones."""

    question: str
    approving: str
    """What follows from an approval; empty where this program does not know the gate."""


class RunReport(Model):
    namespace: str
    name: str
    target: str
    strategy: Strategy | None = None
    trigger: str
    phase: RunPhase
    step: str | None = None
    message: str = ""
    dry_run: bool = False
    paused: bool = False
    why: Obstacle | None = None
    """Why it does not start or go on: paused, stalled, or not admitted yet."""
    decision: Decision | None = None
    steps: list[StepReport] = Field(default_factory=list)
    awaiting: AwaitingReport | None = None
    recovery_target: RecoveryTarget | None = None
    progress: ProgressReport | None = None
    result: ResultReport | None = None
    successor: str | None = None
    summary: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


class FreezeReport(Model):
    namespace: str
    name: str
    scope: str
    reason: str
    until: datetime | None = None
    created_at: datetime | None = None
    selector: dict[str, str] = Field(default_factory=dict)


class TemplateReport(Model):
    """A CellTemplate from which no cell can be made."""

    namespace: str
    name: str
    reason: str
    message: str
    cells: list[str]
    """Cells that name it, and so cannot be replaced."""


class StatusReport(Model):
    freezes: list[FreezeReport]
    routers: list[RouterReport]
    runs: list[RunReport]
    templates: list[TemplateReport] | None = None
    """Those that are not accepted, or not there; absent: they could not be read."""

    @property
    def well(self) -> bool:
        """Every router is Ready and every cell Healthy, or Retired without customers."""
        return all(router.ready and all(cell.well for cell in router.cells) for router in self.routers)


def status_report(fleet: Fleet, names: tuple[str, ...] = ()) -> StatusReport:
    """Routers with their cells; with names, those Cells and Routers alone."""
    keys = sorted({router.key for router in fleet.routers} | {router_key(cell) for cell in fleet.cells})
    routers = [router_report(fleet, key, names) for key in keys]
    if names:
        routers = [router for router in routers if router.cells or router.name in names]
    shown = {(cell.namespace, cell.name) for router in routers for cell in router.cells}
    shown_routers = {(router.namespace, router.name) for router in routers}
    active = [
        run_report(run)
        for run in fleet.runs
        if not run.phase.ended
        and (run.metadata.namespace, run.spec.target_ref.name)
        in (shown if run.spec.target_ref.kind == "Cell" else shown_routers)
    ]
    orphans = [
        run_report(run)
        for run in fleet.runs
        if not names and not run.phase.ended and run.key not in {(a.namespace, a.name) for a in active}
    ]
    namespaces = sorted({freeze.metadata.namespace for freeze in fleet.freezes})
    return StatusReport(
        freezes=[freeze_report(freeze) for namespace in namespaces for freeze in fleet.freezes_in(namespace)],
        routers=routers,
        runs=active + orphans,
        templates=template_reports(fleet, routers),
    )


def template_reports(fleet: Fleet, routers: Iterable[RouterReport]) -> list[TemplateReport] | None:
    """CellTemplates that the shown cells name and that cannot be used, and all others that were not accepted."""
    if fleet.templates is None:
        return None
    shown = {(cell.namespace, cell.name) for router in routers for cell in router.cells}
    named: dict[Key, list[str]] = {}
    for cell in fleet.cells:
        if cell.spec.template_ref is not None and cell.key in shown:
            named.setdefault((cell.metadata.namespace, cell.spec.template_ref.name), []).append(cell.metadata.name)
    there = {template.key: template for template in fleet.templates}
    found = []
    for key in sorted(there.keys() | named.keys()):
        problem = template_problem(there.get(key))
        if problem is not None:
            found.append(
                TemplateReport(
                    namespace=key[0],
                    name=key[1],
                    reason=problem.reason,
                    message=problem.message,
                    cells=sorted(named.get(key, [])),
                )
            )
    return found


def template_problem(template: CellTemplate | None) -> Obstacle | None:
    """Why no cell can be made from it: as the operator says, or before it has looked, as it will say."""
    if template is None:
        return Obstacle(reason="NotFound", message="it does not exist")
    accepted = find_condition(template.status.conditions, "Accepted")
    if accepted is None:
        reason, found = "NotAccepted", provisioning.problem(template)
    elif accepted.status == "True":
        return None
    else:
        reason, found = accepted.reason, accepted.message
    name = f"CellTemplate {template.metadata.name}: "
    return Obstacle(reason=reason, message=found.removeprefix(name)) if found is not None else None


EXPECTED = ("Accepted", "Ready", "Programmed", "FallbackReady", "SheddingReady")
"""Conditions of a Router that are True where all is well."""
SHOWN_OTHERWISE = ("Shedding", "CircuitsOpen")
"""Conditions that say in short what stands in the Placement."""


def router_report(fleet: Fleet, key: Key, names: tuple[str, ...] = ()) -> RouterReport:
    router, placement, policy = fleet.router(key), fleet.placement(key), fleet.router_policy(key)
    parts = placement_parts(placement)
    cells = [
        cell_report(fleet, cell, parts.get(cell.metadata.name))
        for cell in sorted(fleet.cells_of(key), key=lambda cell: cell.metadata.name)
        if not names or key[1] in names or cell.metadata.name in names
    ]
    conditions = router.status.conditions if router else []
    own = sorted(
        (run for run in fleet.runs if target_router(run) == key and not run.spec.dry_run), key=recency, reverse=True
    )
    active, last = next((r for r in own if not r.phase.ended), None), next((r for r in own if r.phase.ended), None)
    recovery = router.status.recovery if router else None
    return RouterReport(
        namespace=key[0],
        name=key[1],
        found=router is not None,
        type=router.spec.type if router else None,
        customer_data=router.spec.customer_data if router else None,
        verification=router.spec.verification if router else None,
        ready=is_true(conditions, "Ready"),
        conditions=[c for c in conditions if _is_bad(c, EXPECTED) and c.type not in SHOWN_OTHERWISE],
        failure=router.status.failure if router else None,
        active_run=active.metadata.name if active else None,
        cascades=active is not None and active.spec.strategy is Strategy.EMERGENCY_SCALING,
        last_run=last.metadata.name if last else None,
        last_phase=last.phase if last else None,
        last_summary=last.status.summary if last else None,
        blocked=recovery.blocked if recovery else None,
        next_allowed_at=recovery.next_allowed_at if recovery else None,
        policy=PolicyReport(name=policy.metadata.name, mode=policy.spec.mode) if policy else PolicyReport(),
        placement=placement_report(placement) if placement else None,
        cells=cells,
    )


def _is_bad(condition: Condition, expected: tuple[str, ...]) -> bool:
    """Expected conditions are bad unless True, all others (PlacementStale, Stalled) when True."""
    return (condition.status == "True") != (condition.type in expected)


def placement_parts(placement: Placement | None) -> dict[str, tuple[str, str]]:
    """Of every admitted cell: the part of the slots that is at home in it, and that it serves."""
    if placement is None:
        return {}
    spec = placement.spec
    homes, serving = Counter(decode_table(spec.homes)), Counter(decode_table(spec.serving))
    return {
        cell.name: (percent_text(homes[cell.index] / spec.slots), percent_text(serving[cell.index] / spec.slots))
        for cell in spec.cells
    }


def _turned_away(what: str, item: Shed | OpenCircuit) -> TurnedAway:
    holder = f"{item.holder.kind}/{item.holder.name}"
    return TurnedAway(what=what, percent=item.percent, holder=holder, expires_at=item.expires_at)


def placement_report(placement: Placement) -> PlacementReport:
    spec, serving = placement.spec, decode_table(placement.spec.serving)
    return PlacementReport(
        mode=spec.mode,
        slots=spec.slots,
        generation=placement.metadata.generation,
        epoch=spec.epoch,
        rejected=percent_text(serving.count(REJECT) / spec.slots),
        read_only=percent_text(sum(1 for entry in serving if entry != REJECT and entry & READ_ONLY) / spec.slots),
        shedding=[_turned_away(item.class_, item) for item in spec.shedding],
        open_circuits=[_turned_away(item.cell, item) for item in spec.open_circuits],
        quarantined=len(table.quarantined(spec)),
    )


def cell_report(fleet: Fleet, cell: Cell, part: tuple[str, str] | None) -> CellReport:
    status, frozen = cell.status, fleet.frozen(cell)
    recovery = status.recovery
    share = ShareReport(
        home=part[0] if part else None,
        asked=part[1] if part else (status.share.asked if status.share else None),
        applied=status.share.applied if status.share else None,
    )
    active, last = fleet.active_run(cell), _last_run(fleet, cell)
    return CellReport(
        namespace=cell.metadata.namespace,
        name=cell.metadata.name,
        router=cell.spec.router_ref.name,
        phase=status.phase,
        share=share,
        failure=status.failure,
        conditions=_bad_conditions(cell),
        holds=[hold_report(fleet, cell.metadata.namespace, hold) for hold in fleet.holds(cell)],
        paused=cell.spec.paused,
        active_run=active.metadata.name if active else None,
        last_run=recovery.last_run if recovery else None,
        last_phase=last.phase if last else None,
        last_summary=last.status.summary if last else None,
        attempts=recovery.attempts if recovery else 0,
        next_allowed_at=recovery.next_allowed_at if recovery else None,
        blocked=recovery.blocked if recovery else None,
        frozen_by=frozen.metadata.name if frozen else None,
        origin=origin(cell),
        successor=fleet.successor(cell),
        kept_until=_kept_until(cell),
        remains=_remains(cell, last),
    )


def _remains(cell: Cell, last: RecoveryRun | None) -> list[str]:
    """What the operator says of a retired cell by now, else what the run said at its end."""
    deletion = find_condition(cell.status.conditions, "DeletionBlocked")
    git = find_condition(cell.status.conditions, "RemoveFromGit")
    if deletion is None:
        return list(last.status.result.remains) if last and last.status.result else []
    passing = {*decommission.PATIENT, "RemoveFromGit"}
    found = [git, deletion if deletion.reason not in passing else None]
    return [condition.message for condition in found if condition is not None and condition.status == "True"]


def _last_run(fleet: Fleet, cell: Cell) -> RecoveryRun | None:
    own = (run for run in fleet.runs_about(cell.key) if target_cell(run) == cell.key and not run.spec.dry_run)
    return next((run for run in own if run.phase.ended), None)


def origin(cell: Cell) -> str | None:
    """The first cell of the line of a cell that Recell made; None for others."""
    return provisioning.origin(cell) if cell.metadata.labels.get(LABEL_MADE_BY) == "recell" else None


def _kept_until(cell: Cell) -> datetime | None:
    try:
        retirement = decommission.retirement_of(cell)
    except ValueError:  # somebody wrote it by hand; the operator will say so
        return None
    return retirement.until if retirement else None


def _bad_conditions(cell: Cell) -> list[Condition]:
    bad = [c for c in cell.status.conditions if _is_bad(c, EXPECTED_CONDITIONS) and c.type in EXPECTED_CONDITIONS]
    declared = [
        condition
        for check in cell.spec.health.conditions
        if (condition := find_condition(cell.status.conditions, check.type)) and condition.status == check.status
    ]
    return bad + [c for c in declared if c not in bad]


def hold_report(fleet: Fleet, namespace: str, hold: Hold) -> HoldReport:
    return HoldReport(
        max_percent=hold.max_percent,
        state=hold.state,
        holder=f"{hold.holder.kind}/{hold.holder.name}",
        reason=hold.reason,
        since=hold.since,
        orphaned=fleet.orphaned(namespace, hold),
        run_over=fleet.run_over(namespace, hold),
    )


def run_report(run: RecoveryRun) -> RunReport:
    status = run.status
    step = next((s for s in reversed(status.steps) if s.name == status.step), None)
    return RunReport(
        namespace=run.metadata.namespace,
        name=run.metadata.name,
        target=f"{run.spec.target_ref.kind}/{run.spec.target_ref.name}",
        strategy=status.decision.strategy if status.decision else run.spec.strategy,
        trigger=run.spec.trigger,
        phase=run.phase,
        step=status.step,
        message=step.message if step else "",
        dry_run=run.spec.dry_run,
        paused=is_true(status.conditions, "Paused"),
        why=_standstill(run),
        decision=status.decision,
        steps=[StepReport.model_validate(step.model_dump()) for step in status.steps],
        awaiting=awaiting_report(status.awaiting) if status.awaiting else None,
        recovery_target=run.spec.recovery_target,
        progress=progress_report(run),
        result=result_report(run),
        successor=status.escalation.to if status.escalation else None,
        summary=status.summary,
        created_at=run.metadata.creation_timestamp,
        started_at=status.started_at,
        finished_at=status.finished_at,
    )


def awaiting_report(awaiting: Awaiting) -> AwaitingReport:
    asked = gates.question(awaiting.gate)
    return AwaitingReport(**awaiting.model_dump(), question=asked.asks, approving=asked.approving)


def _standstill(run: RecoveryRun) -> Obstacle | None:
    if run.phase.ended:
        return None
    names = ["Stalled", "Paused"] + (["Reconciling"] if run.phase is RunPhase.PENDING else [])
    for name in names:
        found = find_condition(run.status.conditions, name)
        if found is not None and found.status == "True":
            return Obstacle(reason=found.reason, message=found.message)
    if run.status.started_at is None and not run.status.conditions:
        return Obstacle(reason="NotSeen", message="the operator has not looked at it yet; does it run?")
    return None


def runs_report(runs: Iterable[RecoveryRun]) -> list[RunReport]:
    """Newest first."""
    known = [run_report(run) for run in runs]
    return sorted(known, key=lambda run: run.created_at.timestamp() if run.created_at else 0.0, reverse=True)


def freeze_report(freeze: RecoveryFreeze) -> FreezeReport:
    spec = freeze.spec
    return FreezeReport(
        namespace=freeze.metadata.namespace,
        name=freeze.metadata.name,
        scope=spec.scope,
        reason=spec.reason,
        until=spec.until,
        created_at=freeze.metadata.creation_timestamp,
        selector=spec.selector.match_labels,
    )
