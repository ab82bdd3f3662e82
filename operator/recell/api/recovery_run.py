"""RecoveryRun: one execution of a recovery procedure; its status is its record."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import Field

from recell.api.failure import FOR_ROUTERS, DataIntegrity, Evidence, FailureType, Impact, Strategy
from recell.api.meta import (
    AGE,
    ATOMIC,
    INT32_MAX,
    CellName,
    Column,
    Condition,
    Generation,
    KindInfo,
    Message,
    Model,
    ObjectName,
    Resource,
    cel,
    list_map,
    rules,
)

SPEC_FIELDS = (
    "targetRef",
    "strategy",
    "failure",
    "urgency",
    "startWhen",
    "startBefore",
    "recoveryTarget",
    "dryRun",
    "reason",
    "trigger",
    "escalatedFrom",
)

_FOR_ROUTERS = [strategy.value for strategy in FOR_ROUTERS]


def _immutable(field: str) -> dict[str, Any]:
    """A field that may be neither changed, added nor removed (a plain self == oldSelf lets it be added)."""
    return cel(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} is immutable: make a new RecoveryRun instead (only control may change)",
        fieldPath=f".{field}",
    )


class TargetKind(StrEnum):
    CELL = "Cell"
    """A Cell."""
    ROUTER = "Router"
    """A Router."""


class TargetRef(Model):
    """What is to be recovered."""

    kind: TargetKind = Field(description="Cell or Router.")
    name: CellName = Field(description="Name, in the same namespace.")


class StatedFailure(Model):
    """A failure that a person states; what is left out is observed."""

    type: FailureType | None = Field(default=None, description="Kind of failure.")
    impact: Impact | None = Field(default=None, description="Impact.")
    data_integrity: DataIntegrity | None = Field(default=None, description="State of the data.")


class RecoveryTarget(Model):
    """What data is brought back to; what is left out is chosen."""

    time: datetime | None = Field(default=None, description="Not later than this.")
    backup_id: str | None = Field(
        default=None, alias="backupID", min_length=1, max_length=253, description="From this backup and no other."
    )


class Urgency(StrEnum):
    GRACEFUL = "Graceful"
    """Traffic is taken away in increments."""
    IMMEDIATE = "Immediate"
    """Traffic is taken away at once."""


class StartWhen(StrEnum):
    TARGET_UNHEALTHY = "TargetUnhealthy"
    """A run on a healthy target ends as Skipped."""
    ALWAYS = "Always"
    """It runs on a healthy target too; needs startBefore."""


class Trigger(StrEnum):
    MANUAL = "Manual"
    """Made by a person."""
    AUTOMATIC = "Automatic"
    """Made by the operator, by its own decision."""
    CHILD = "Child"
    """Made by the operator for another run: to go on from it, or to recover one of its cells."""


class Approval(Model):
    """A gate that a person opened."""

    gate: str = Field(min_length=1, max_length=63, description="The gate, from status.awaiting.")
    decision_id: str = Field(
        alias="decisionID", min_length=1, max_length=63, description="The decision, from status.awaiting."
    )


class Control(Model):
    """What may change while the run works. Never kept in Git, so that nothing reverts a person's word."""

    paused: bool | None = Field(default=None, description="No new effect begins while true.")
    abort: bool | None = Field(default=None, description="Ends the run and undoes what is temporary. One way.")
    approvals: list[Approval] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=list_map("gate", "decisionID"),
        description="Gates that a person opened.",
    )


class RecoveryRunSpec(Model):
    """What is to be done, and a person's word on it while it is done."""

    model_config = rules(
        *(_immutable(field) for field in SPEC_FIELDS),
        cel(
            "!has(oldSelf.control) || !has(oldSelf.control.abort) || !oldSelf.control.abort"
            " || (has(self.control) && has(self.control.abort) && self.control.abort)",
            "abort cannot be taken back",
            fieldPath=".control.abort",
        ),
        cel(
            "!has(oldSelf.control) || !has(oldSelf.control.approvals)"
            " || (has(self.control) && has(self.control.approvals) && oldSelf.control.approvals.all(a,"
            " self.control.approvals.exists(b, b.gate == a.gate && b.decisionID == a.decisionID)))",
            "approvals can only be added",
            fieldPath=".control.approvals",
        ),
        cel(
            "self.startWhen != 'Always' || has(self.startBefore)",
            "startWhen Always needs startBefore",
            fieldPath=".startBefore",
        ),
        cel(
            f"self.targetRef.kind != 'Router' || !has(self.strategy) || self.strategy in {_FOR_ROUTERS}",
            "this strategy is for a Cell, the target is a Router",
            fieldPath=".strategy",
        ),
        cel(
            f"self.targetRef.kind != 'Cell' || !has(self.strategy) || !(self.strategy in {_FOR_ROUTERS})",
            "this strategy is for a Router, the target is a Cell",
            fieldPath=".strategy",
        ),
        cel(
            "self.targetRef.kind != 'Cell' || !has(self.failure) || !has(self.failure.type)"
            " || self.failure.type != 'Router'",
            "failure Router is a Router's own, the target is a Cell",
            fieldPath=".failure.type",
        ),
        cel(
            "self.targetRef.kind != 'Router' || !has(self.failure) || !has(self.failure.type)"
            " || self.failure.type == 'Router' || (has(self.strategy) && self.strategy == 'EmergencyScaling')",
            "failures of cells are recovered by a run of each Cell, or together by strategy EmergencyScaling: state it",
            fieldPath=".failure.type",
        ),
        cel(
            "has(self.escalatedFrom) == (self.trigger == 'Child')",
            "trigger Child needs escalatedFrom, and no other trigger has it",
            fieldPath=".escalatedFrom",
        ),
    )

    target_ref: TargetRef = Field(description="What is to be recovered.")
    strategy: Strategy | None = Field(default=None, description="The procedure; if unset, the matrix decides.")
    failure: StatedFailure | None = Field(default=None, description="Stated instead of observed.")
    urgency: Urgency = Field(default=Urgency.GRACEFUL, description="Immediate drains at once instead of in increments.")
    start_when: StartWhen = Field(
        default=StartWhen.TARGET_UNHEALTHY,
        description="TargetUnhealthy: a run on a healthy target ends as Skipped. Always: it runs all the same.",
    )
    start_before: datetime | None = Field(
        default=None, description="A run that has not started by then ends as Skipped."
    )
    recovery_target: RecoveryTarget | None = Field(
        default=None, description="For strategies that restore data: to when, or from which backup."
    )
    dry_run: bool = Field(default=False, description="Every step says what it would do; nothing is changed.")
    reason: str | None = Field(default=None, max_length=512, description="Why, for people.")
    trigger: Trigger = Field(default=Trigger.MANUAL, description="Others than Manual are for the operator alone.")
    escalated_from: ObjectName | None = Field(
        default=None, description="The run that this one goes on from, or works for."
    )
    control: Control | None = Field(default=None, description="Pause, abort, approvals.")


class RunPhase(StrEnum):
    PENDING = "Pending"
    """Not started yet."""
    AWAITING_APPROVAL = "AwaitingApproval"
    """Waits for a person; see status.awaiting."""
    DRAINING = "Draining"
    """Takes traffic away from the target."""
    RESTORING = "Restoring"
    """Brings the target back."""
    PROMOTING = "Promoting"
    """Gives the target its traffic back."""
    VALIDATING = "Validating"
    """Watches that the target stays well."""
    ABORTING = "Aborting"
    """Undoes what was temporary."""
    SUCCEEDED = "Succeeded"
    """Ended: the target is well."""
    PARTIALLY_SUCCEEDED = "PartiallySucceeded"
    """Ended: the target serves, something is left to do; see status.summary."""
    FAILED = "Failed"
    """Ended: it did not succeed and went nowhere else."""
    ESCALATED = "Escalated"
    """Ended: another run goes on; see status.escalation.to."""
    SUPERSEDED = "Superseded"
    """Ended: another run took its place."""
    ABORTED = "Aborted"
    """Ended: a person stopped it."""
    SKIPPED = "Skipped"
    """Ended without having begun: there was nothing to do, or it came too late."""
    MANUAL_INTERVENTION_REQUIRED = "ManualInterventionRequired"
    """Ended: a person has to act; status.summary says what."""

    @property
    def ended(self) -> bool:
        return self in ENDED


ENDED = frozenset(
    {
        RunPhase.SUCCEEDED,
        RunPhase.PARTIALLY_SUCCEEDED,
        RunPhase.FAILED,
        RunPhase.ESCALATED,
        RunPhase.SUPERSEDED,
        RunPhase.ABORTED,
        RunPhase.SKIPPED,
        RunPhase.MANUAL_INTERVENTION_REQUIRED,
    }
)


class DecisionInputs(Model):
    """What was decided on."""

    type: FailureType = Field(description="Kind of failure.")
    impact: Impact = Field(description="How much of the router's customers it touches.")
    data_integrity: DataIntegrity = Field(description="What was known about the data.")


class Decision(Model):
    """Which strategy, by which row, on which evidence."""

    id: str = Field(max_length=63, description="Changes whenever the decision does; approvals name it.")
    strategy: Strategy = Field(description="The procedure.")
    row: str = Field(max_length=128, description="Row of the matrix, or stated.")
    message: Message = Field(description="The decision in one sentence.")
    inputs: DecisionInputs | None = Field(default=None, description="What it was decided on.")
    evidence: list[Evidence] = Field(
        default_factory=list, max_length=32, json_schema_extra=ATOMIC, description="What was seen."
    )


StepName = Annotated[str, Field(min_length=1, max_length=63)]
Number = Annotated[str, Field(max_length=63)]
"""A number of the policy as text, with its unit."""


class Plan(Model):
    """Frozen at the start, so that an upgrade in the middle changes nothing."""

    procedure: str = Field(max_length=63, description="Name of the procedure.")
    version: int = Field(ge=1, le=INT32_MAX, description="Version of the procedure.")
    steps: list[StepName] = Field(max_length=32, json_schema_extra=ATOMIC, description="Ids of the steps.")
    numbers: dict[str, Number] = Field(
        default_factory=dict,
        max_length=128,
        description="Every number of the policy that the procedure uses.",
    )


class StepState(StrEnum):
    PENDING = "Pending"
    """Not begun."""
    RUNNING = "Running"
    """Works or waits."""
    DONE = "Done"
    """Has done what it promises."""
    SKIPPED = "Skipped"
    """Was not needed."""
    FAILED = "Failed"
    """Could not do what it promises."""


class StepRecord(Model):
    """How far a step is."""

    name: StepName = Field(description="Id of the step; never renamed.")
    phase: RunPhase = Field(description="Phase of the run while the step runs.")
    state: StepState = Field(description="How far it is.")
    started_at: datetime | None = Field(default=None, description="When it began.")
    finished_at: datetime | None = Field(default=None, description="When it ended.")
    attempts: int = Field(default=0, ge=0, le=INT32_MAX, description="Unexpected faults so far.")
    message: Message = Field(default="", description="What it does, waits for, or has found.")
    data: dict[str, Any] | None = Field(default=None, max_length=64, description="What the step has to remember.")


class Awaiting(Model):
    """What a person has to decide."""

    gate: str = Field(max_length=63, description="The gate; an approval names it.")
    decision_id: str = Field(alias="decisionID", max_length=63, description="The decision; an approval names it.")
    since: datetime = Field(description="Since when the run waits.")
    message: Message = Field(default="", description="What is to be approved.")


class Escalation(Model):
    """The runs before and after this one."""

    from_: str | None = Field(default=None, alias="from", max_length=253, description="Run this one goes on from.")
    to: str | None = Field(default=None, max_length=253, description="Run that goes on from this one.")
    level: int = Field(default=0, ge=0, le=16, description="How many runs came before.")


class RecoveryPoint(Model):
    """What data was brought back to."""

    time: datetime | None = Field(default=None, description="Everything committed until then is there.")
    backup_id: str | None = Field(default=None, alias="backupID", max_length=253, description="The backup.")


class DataLoss(Model):
    """What was committed in this time is lost."""

    from_: datetime = Field(alias="from", description="The recovery point.")
    to: datetime = Field(description="When the cell stopped serving.")


CustomerID = Annotated[str, Field(max_length=253)]


class CustomerCounts(Model):
    """Customers of the target; a count that nobody could tell is absent."""

    affected: int | None = Field(default=None, ge=0, le=INT32_MAX, description="Customers whose home the cell is.")
    source: str | None = Field(default=None, max_length=63, description="Who counted them, for example Migrate.")
    moved: int = Field(default=0, ge=0, le=INT32_MAX, description="Copied from the cell itself.")
    restored: int = Field(default=0, ge=0, le=INT32_MAX, description="Restored from a backup.")
    failed: int = Field(default=0, ge=0, le=INT32_MAX, description="Neither.")
    failed_names: list[CustomerID] = Field(
        default_factory=list, max_length=20, json_schema_extra=ATOMIC, description="Some of those that failed."
    )


class CascadeResult(Model):
    """What came of a run that recovers several cells."""

    total: int = Field(ge=0, le=INT32_MAX, description="Cells that were failed in the course of the run.")
    recovered: int = Field(ge=0, le=INT32_MAX, description="Those that are well again, or were replaced.")
    quarantined_slots: int = Field(
        default=0, ge=0, le=16384, description="Slots that nobody serves, for two cells failed that served them."
    )


class RunResult(Model):
    """What came of a run that replaces a cell, restores data or recovers several cells."""

    replacement: CellName | None = Field(default=None, description="The Cell that took the target's place.")
    emergency_cells: list[CellName] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Cells made for capacity."
    )
    customers: CustomerCounts | None = Field(default=None, description="Customers affected, moved and restored.")
    recovery_point: RecoveryPoint | None = Field(default=None, description="What data was brought back to.")
    data_loss: DataLoss | None = Field(default=None, description="Absent where nothing was lost or nobody can tell.")
    cascade: CascadeResult | None = Field(default=None, description="Several cells: how many were recovered.")
    conflicts: list[Message] = Field(
        default_factory=list, max_length=20, json_schema_extra=ATOMIC, description="Writes made elsewhere, not merged."
    )
    remains: list[Message] = Field(
        default_factory=list, max_length=20, json_schema_extra=ATOMIC, description="What is left for a person."
    )


class RecoveryRunStatus(Model):
    """The record of the run; for reading only."""

    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )
    epoch: Generation | None = Field(default=None, description="Of the leader that works on it.")
    phase: RunPhase | None = Field(default=None, description="Where the run is.")
    step: str | None = Field(default=None, max_length=63, description="Step that runs now, or ran last.")
    started_at: datetime | None = Field(default=None, description="When it left Pending.")
    finished_at: datetime | None = Field(default=None, description="When it ended.")
    abort_requested: bool | None = Field(default=None, description="Latched from control.abort.")
    decision: Decision | None = Field(default=None, description="Which strategy, and why.")
    plan: Plan | None = Field(default=None, description="The procedure, frozen at the start.")
    steps: list[StepRecord] = Field(
        default_factory=list, max_length=64, json_schema_extra=ATOMIC, description="The steps, in their order."
    )
    awaiting: Awaiting | None = Field(default=None, description="Set while AwaitingApproval.")
    escalation: Escalation | None = Field(default=None, description="The runs before and after this one.")
    superseded_by: str | None = Field(
        default=None, max_length=253, description="Run that took the target over; what is temporary is undone first."
    )
    result: RunResult | None = Field(default=None, description="What came of it.")
    summary: str | None = Field(default=None, max_length=4096, description="The result in a few sentences.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra=list_map("type"),
        description="Ready, Reconciling, Stalled, Succeeded, Failed, Paused, Monitoring.",
    )


class RecoveryRun(Resource):
    """One execution of a recovery procedure."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="RecoveryRun",
        plural="recoveryruns",
        short_names=("rrun",),
        columns=(
            Column("Target", ".spec.targetRef.name"),
            Column("Strategy", ".status.decision.strategy"),
            Column("Phase", ".status.phase"),
            Column("Step", ".status.step"),
            Column("Trigger", ".spec.trigger", priority=1),
            AGE,
        ),
        selectable=(".status.phase", ".spec.targetRef.name"),
    )

    spec: RecoveryRunSpec = Field(description="What is to be done.")
    status: RecoveryRunStatus = Field(default_factory=RecoveryRunStatus, description="The record of the run.")

    @property
    def phase(self) -> RunPhase:
        return self.status.phase or RunPhase.PENDING
