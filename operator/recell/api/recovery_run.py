"""RecoveryRun: one execution of a recovery procedure; its status is its record."""

from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

from pydantic import Field

from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact, Strategy
from recell.api.meta import (
    AGE,
    ATOMIC,
    Column,
    Condition,
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
    "dryRun",
    "reason",
    "trigger",
    "escalatedFrom",
)


def _immutable(field: str) -> dict[str, Any]:
    """A field that may be neither changed, added nor removed (a plain self == oldSelf lets it be added)."""
    return cel(
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} is immutable: make a new RecoveryRun instead (only control may change)",
    )


class TargetKind(StrEnum):
    CELL = "Cell"
    ROUTER = "Router"


class TargetRef(Model):
    kind: TargetKind = Field(description="Cell or Router.")
    name: ObjectName = Field(description="Name, in the same namespace.")


class StatedFailure(Model):
    """A failure that a person states; what is left out is observed."""

    type: FailureType | None = Field(default=None, description="Kind of failure.")
    impact: Impact | None = Field(default=None, description="Impact.")
    data_integrity: DataIntegrity | None = Field(default=None, description="State of the data.")


class Urgency(StrEnum):
    GRACEFUL = "Graceful"
    IMMEDIATE = "Immediate"


class StartWhen(StrEnum):
    TARGET_UNHEALTHY = "TargetUnhealthy"
    ALWAYS = "Always"


class Trigger(StrEnum):
    MANUAL = "Manual"
    AUTOMATIC = "Automatic"
    CHILD = "Child"


class Approval(Model):
    gate: str = Field(min_length=1, max_length=63, description="The gate, from status.awaiting.")
    decision_id: str = Field(
        alias="decisionID", min_length=1, max_length=63, description="The decision, from status.awaiting."
    )


class Control(Model):
    """What may change while the run works. Never kept in Git, so that nothing reverts a person's word."""

    model_config = rules(
        cel(
            "!has(oldSelf.abort) || !oldSelf.abort || (has(self.abort) && self.abort)",
            "abort cannot be taken back",
        ),
        cel(
            "!has(oldSelf.approvals) || (has(self.approvals) && oldSelf.approvals.all(a, self.approvals.exists("
            "b, b.gate == a.gate && b.decisionID == a.decisionID)))",
            "approvals can only be added",
        ),
    )

    paused: bool | None = Field(default=None, description="No new effect begins while true.")
    abort: bool | None = Field(default=None, description="Ends the run and undoes what is temporary. One way.")
    approvals: list[Approval] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra=list_map("gate", "decisionID"),
        description="Gates that a person opened.",
    )


class RecoveryRunSpec(Model):
    model_config = rules(
        *(_immutable(field) for field in SPEC_FIELDS),
        cel(
            "!has(oldSelf.control) || !has(oldSelf.control.abort) || !oldSelf.control.abort"
            " || (has(self.control) && has(self.control.abort) && self.control.abort)",
            "control.abort cannot be taken back",
        ),
        cel("self.startWhen != 'Always' || has(self.startBefore)", "startWhen Always needs startBefore"),
        cel(
            "self.targetRef.kind != 'Router' || !has(self.strategy) || self.strategy in"
            " ['ActivateFallbackRouting', 'EmergencyScaling']",
            "this strategy is for a Cell, the target is a Router",
        ),
        cel(
            "self.targetRef.kind != 'Cell' || !has(self.strategy) || !(self.strategy in"
            " ['ActivateFallbackRouting', 'EmergencyScaling'])",
            "this strategy is for a Router, the target is a Cell",
        ),
        cel("has(self.escalatedFrom) == (self.trigger == 'Child')", "escalatedFrom is for trigger Child only"),
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
    dry_run: bool = Field(default=False, description="Every step says what it would do; nothing is changed.")
    reason: str | None = Field(default=None, max_length=512, description="Why, for people.")
    trigger: Trigger = Field(default=Trigger.MANUAL, description="Others than Manual are for the operator alone.")
    escalated_from: ObjectName | None = Field(default=None, description="The run that this one goes on from.")
    control: Control | None = Field(default=None, description="Pause, abort, approvals.")


class RunPhase(StrEnum):
    PENDING = "Pending"
    AWAITING_APPROVAL = "AwaitingApproval"
    DRAINING = "Draining"
    RESTORING = "Restoring"
    PROMOTING = "Promoting"
    VALIDATING = "Validating"
    ABORTING = "Aborting"
    SUCCEEDED = "Succeeded"
    PARTIALLY_SUCCEEDED = "PartiallySucceeded"
    FAILED = "Failed"
    ESCALATED = "Escalated"
    SUPERSEDED = "Superseded"
    ABORTED = "Aborted"
    SKIPPED = "Skipped"
    MANUAL_INTERVENTION_REQUIRED = "ManualInterventionRequired"

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
    type: FailureType
    impact: Impact
    data_integrity: DataIntegrity


class Decision(Model):
    """Which strategy, by which row, on which evidence."""

    id: str = Field(max_length=63, description="Changes whenever the decision does; approvals name it.")
    strategy: Strategy
    row: str = Field(max_length=128, description="Row of the matrix, or stated.")
    message: Message = Field(description="The decision in one sentence.")
    inputs: DecisionInputs | None = Field(default=None, description="What it was decided on.")
    evidence: list[Evidence] = Field(default_factory=list, max_length=32, json_schema_extra=ATOMIC)


class Plan(Model):
    """Frozen at the start, so that an upgrade in the middle changes nothing."""

    procedure: str = Field(max_length=63)
    version: int = Field(ge=1)
    steps: list[str] = Field(max_length=32, json_schema_extra=ATOMIC, description="Ids of the steps.")
    numbers: dict[str, str] = Field(
        default_factory=dict, description="Every number of the policy that the procedure uses."
    )


class StepState(StrEnum):
    PENDING = "Pending"
    RUNNING = "Running"
    DONE = "Done"
    SKIPPED = "Skipped"
    FAILED = "Failed"


class StepRecord(Model):
    name: str = Field(max_length=63, description="Id of the step; never renamed.")
    phase: RunPhase = Field(description="Phase of the run while the step runs.")
    state: StepState
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = Field(default=0, ge=0, description="Unexpected faults so far.", json_schema_extra={"default": None})
    message: Message = ""
    data: dict[str, Any] | None = Field(
        default=None,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True},
        description="What the step has to remember.",
    )


class Awaiting(Model):
    gate: str = Field(max_length=63)
    decision_id: str = Field(alias="decisionID", max_length=63)
    since: datetime
    message: Message = ""


class Escalation(Model):
    from_: str | None = Field(default=None, alias="from", max_length=253, description="Run this one goes on from.")
    to: str | None = Field(default=None, max_length=253, description="Run that goes on from this one.")
    level: int = Field(default=0, ge=0, le=16)


class RecoveryRunStatus(Model):
    observed_generation: int | None = Field(default=None, ge=0, json_schema_extra={"format": "int64"})
    epoch: int | None = Field(
        default=None,
        ge=0,
        json_schema_extra={"format": "int64"},
        description="Of the leader that works on it.",
    )
    phase: RunPhase | None = Field(default=None, description="Where the run is.")
    step: str | None = Field(default=None, max_length=63, description="Step that runs now, or ran last.")
    started_at: datetime | None = None
    finished_at: datetime | None = None
    abort_requested: bool | None = Field(default=None, description="Latched from control.abort.")
    decision: Decision | None = None
    plan: Plan | None = None
    steps: list[StepRecord] = Field(default_factory=list, max_length=64, json_schema_extra=ATOMIC)
    awaiting: Awaiting | None = None
    escalation: Escalation | None = None
    summary: str | None = Field(default=None, max_length=4096, description="The result in a few sentences.")
    conditions: list[Condition] = Field(default_factory=list, max_length=32, json_schema_extra=list_map("type"))


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

    spec: RecoveryRunSpec
    status: RecoveryRunStatus = Field(default_factory=RecoveryRunStatus)

    @property
    def phase(self) -> RunPhase:
        return self.status.phase or RunPhase.PENDING
