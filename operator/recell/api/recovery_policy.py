"""RecoveryPolicy: who decides what, and every number of the runbook.

A default is the runbook's figure where the runbook has one; the description says where not.
"""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from recell.api.failure import DataIntegrity, FailureType, Impact, Strategy
from recell.api.meta import (
    AGE,
    ATOMIC,
    Column,
    Condition,
    Duration,
    Generation,
    KindInfo,
    Model,
    Percent,
    Resource,
    cel,
    list_map,
    rules,
)


class Mode(StrEnum):
    OBSERVE = "Observe"
    """Decisions are shown; no run starts by itself."""
    APPROVE = "Approve"
    """Runs are made, and each waits for a person's approval before it starts."""
    AUTOMATIC = "Automatic"
    """Runs start by themselves."""


class BuiltinRules(StrEnum):
    APPEND = "Append"
    """The built-in rows follow the policy's own."""
    NONE = "None"
    """Only the policy's own rows; what none of them matches is for a person."""


class MatrixRule(Model):
    """A row of the decision matrix; what is left out matches anything that the strategy is for."""

    model_config = rules(
        cel(
            "!has(self.failure) || self.failure != 'Router'"
            " || self.strategy in ['ActivateFallbackRouting', 'ManualIntervention']",
            "a Router's own failure is answered by ActivateFallbackRouting or ManualIntervention",
            fieldPath=".strategy",
        ),
        cel(
            "self.strategy != 'ActivateFallbackRouting' || !has(self.failure) || self.failure == 'Router'",
            "ActivateFallbackRouting answers failure Router only",
            fieldPath=".failure",
        ),
        cel(
            "self.strategy != 'EmergencyScaling' || !has(self.failure) || self.failure in ['MultipleCell', 'Systemic']",
            "EmergencyScaling answers failures MultipleCell and Systemic only",
            fieldPath=".failure",
        ),
    )

    name: str = Field(min_length=1, max_length=63, description="Shown in each decision that the row makes.")
    failure: FailureType | None = Field(default=None, description="Kind of failure.")
    impact: Impact | None = Field(default=None, description="Exactly this impact.")
    data_integrity: DataIntegrity | None = Field(default=None, description="State of the data.")
    strategy: Strategy = Field(description="What is done.")


class Detection(Model):
    """When a cell counts as failed, and when as healthy again."""

    # `has` although there are defaults: the API server checks the rules on the block's own default {} as well,
    # before it fills that in.
    model_config = rules(
        cel(
            "!has(self.window) || duration(self.window) >= duration('1s')",
            "window must be at least 1s",
            fieldPath=".window",
        ),
        cel(
            "!has(self.withoutIntegrityChecks) || self.withoutIntegrityChecks != 'Corrupted'",
            "withoutIntegrityChecks is Unknown or Intact",
            fieldPath=".withoutIntegrityChecks",
        ),
    )

    failed_after: Duration = Field(
        default="10s", description="A failing check has to fail this long (not from the runbook)."
    )
    healthy_after: Duration = Field(
        default="30s", description="All checks have to pass this long before a cell is Healthy again."
    )
    error_rate: Percent = Field(default="5%", description="More failed requests than this: the cell fails.")
    latency: Duration = Field(default="1000ms", description="Slower answers than this (p95): the cell is Degraded.")
    minimum_requests: int = Field(
        default=20, ge=1, le=100000, description="Fewer requests in the window: the rate is inconclusive."
    )
    window: Duration = Field(default="10s", description="Window of the error rate and the latency.")
    multiple_cell_window: Duration = Field(
        default="5m", description="Window in which several cells of a router fail together."
    )
    multiple_cell_failures: int = Field(
        default=2,
        ge=2,
        le=100,
        description="So many cells that fail within multipleCellWindow are a MultipleCell failure.",
    )
    flapping_transitions: int = Field(
        default=3,
        ge=2,
        le=100,
        description="So many changes of health within flappingWindow: Flapping (rule 26).",
    )
    flapping_window: Duration = Field(default="15m", description="See flappingTransitions.")
    without_integrity_checks: DataIntegrity = Field(
        default=DataIntegrity.UNKNOWN,
        description="What the data of a cell counts as that has no integrity check: Unknown, or Intact.",
    )


class Limits(Model):
    """What keeps the automation from making things worse."""

    max_concurrent_runs: int = Field(default=1, ge=1, le=1000, description="Active runs per Router.")
    cooldown: Duration = Field(default="15m", description="Between two automatic runs for one cell.")
    max_attempts: int = Field(default=3, ge=1, le=100, description="Automatic runs per cell in attemptsWindow.")
    attempts_window: Duration = Field(default="24h", description="See maxAttempts.")
    capacity_headroom: Percent = Field(
        default="20%", description="Part of each cell's capacity that a drain leaves free."
    )
    require_capacity: bool = Field(
        default=False,
        description="True: a drain needs capacity figures of every receiving cell; without them it waits.",
    )
    max_made_cells: int = Field(
        default=4, ge=0, le=100, description="Cells per Router that the operator made and nobody took over (rule 26)."
    )
    approval_expires: Duration = Field(default="1h", description="An approval lapses after this.")
    successful_runs_kept: int = Field(default=20, ge=1, le=1000, description="Ended automatic runs per cell.")
    failed_runs_kept: int = Field(default=20, ge=1, le=1000, description="Ended automatic runs per cell.")


class Steps(Model):
    """Numbers of the procedures' steps."""

    drain_percent: Percent = Field(default="50%", description="CellRestart takes this part of the share away.")
    drain_increments: int = Field(default=10, ge=1, le=100, description="In so many increments.")
    increment_interval: Duration = Field(default="30s", description="Wait after each increment.")
    drain_tolerance: Percent = Field(
        default="20%", description="Observed traffic may exceed the expected by this (the runbook's 1.2 x)."
    )
    drain_floor: int = Field(
        default=1, ge=0, le=100000, description="Requests per second that are never held against a drain."
    )
    apply_timeout: Duration = Field(default="60s", description="The data plane has to apply a change by then.")
    restart_timeout: Duration = Field(default="10m", description="All workloads have to be Available by then.")
    health_check_timeout: Duration = Field(default="5m", description="All checks have to pass by then.")
    inconclusive_timeout: Duration = Field(
        default="5m", description="A gate whose figures are missing waits so long, then asks a person."
    )
    stability_duration: Duration = Field(default="15m", description="Without a failed check, after the restore.")
    stability_tolerance: Duration = Field(
        default="10s",
        description="A failure shorter than this restarts the clock, once. Figures tell of it for detection.window"
        " longer, which is not counted.",
    )


class Gate(StrEnum):
    REQUIRED = "Required"
    """A person has to approve."""
    NOT_REQUIRED = "NotRequired"
    """The run goes on by itself."""


class PartialSuccess(StrEnum):
    STOP = "Stop"
    """Nobody is routed to the replacement; a person decides."""
    ROUTE = "Route"
    """The customers that were moved are routed; the others stay where they are."""


class DecommissionMode(StrEnum):
    RETAIN = "Retain"
    """Scaled to zero; data and objects are kept for retainFor, then deleted if that is proven to be safe."""
    DELETE = "Delete"
    """Deleted at once, if that is proven to be safe; else as Retain."""
    KEEP = "Keep"
    """Scaled to zero and kept until a person deletes it."""


class Replacement(Model):
    """Replacing a cell and restoring its data."""

    emergency_cells: int = Field(
        default=2, ge=0, le=16, description="Cells made when the remaining ones cannot bear the load."
    )
    provision_timeout: Duration = Field(
        default="30m", description="A new cell has to be ready by then (not from the runbook)."
    )
    data_timeout: Duration = Field(
        default="4h", description="Moving or restoring data has to end by then (not from the runbook)."
    )
    restore_attempts: int = Field(
        default=3, ge=1, le=10, description="Backups or points that are tried, each older than the last."
    )
    partial_success: PartialSuccess = Field(
        default=PartialSuccess.STOP, description="What to do when some customers cannot be moved: Stop or Route."
    )
    promotion_approval: Gate = Field(
        default=Gate.REQUIRED, description="Before a point-in-time recovery serves customers: Required, NotRequired."
    )
    decommission: DecommissionMode = Field(
        default=DecommissionMode.RETAIN, description="What becomes of the replaced cell: Retain, Delete, Keep."
    )
    retain_for: Duration = Field(default="168h", description="How long a retained cell is kept.")


class EmergencyCellsAfter(StrEnum):
    KEEP = "Keep"
    """They go on serving; a person deletes them when they are not needed."""
    RETIRE = "Retire"
    """Their customers go back to the other cells, and they are deleted."""


class Cascade(Model):
    """Bringing several cells of a router back while the others bear more than their own."""

    extra_cells: int = Field(default=2, ge=0, le=16, description="Emergency cells beyond the number of failed ones.")
    max_emergency_cells: int = Field(
        default=4, ge=0, le=16, description="At most so many emergency cells (not from the runbook)."
    )
    emergency_cells_after: EmergencyCellsAfter = Field(
        default=EmergencyCellsAfter.KEEP, description="What becomes of them when all is well: Keep, Retire."
    )
    expires: Duration = Field(
        default="15m",
        description="Shedding and open circuits end by themselves after this, unless the run renews them"
        " (not from the runbook).",
    )
    circuit_percent: Percent = Field(
        default="90%",
        description="Part of a failed cell's requests that its open circuit turns away, where the cell fails to serve"
        " at least as many (not from the runbook).",
    )
    stability_between: Duration = Field(
        default="5m", description="All cells but the failed ones are watched so long before the next one is recovered."
    )
    recovery_timeout: Duration = Field(
        default="6h", description="The run of one cell has to end by then, or the next one's turn comes."
    )
    lift_increments: int = Field(default=10, ge=1, le=100, description="Shedding is lifted in so many increments.")
    poison_window: Duration = Field(
        default="10m", description="A cell that fails so soon after it took customers over is not drained (rule 13)."
    )


class CorruptedCell(StrEnum):
    LEAVE = "Leave"
    """Nothing is done: the cell goes on as it is."""
    ISOLATE = "Isolate"
    """All traffic and every connection are kept from it, then a person decides."""


class ManualIntervention(Model):
    """What is done before a failure is left to a person."""

    corrupted_cell: CorruptedCell = Field(
        default=CorruptedCell.LEAVE,
        description="What becomes of a cell with corrupted data: Leave, Isolate (as IsolateAndRestoreFromBackup does;"
        " needs the chart's features.isolation and features.workloadRestart). A Systemic failure is always left.",
    )


class Validation(Model):
    """The six checks of a cell that takes over."""

    duration: Duration = Field(default="30m", description="All checks have to pass for so long.")
    consistency_duration: Duration = Field(
        default="2h", description="After a point-in-time recovery the data is watched for so long."
    )


class Dependency(Model):
    """Something that all cells need; asked by the operator."""

    name: str = Field(min_length=1, max_length=63, description="Shown where it does not answer.")
    host: str = Field(
        min_length=1, max_length=253, pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]*[A-Za-z0-9])?$",
        description="Host name or IP address.",
    )  # fmt: skip
    port: int = Field(ge=1, le=65535, description="TCP port.")
    path: str | None = Field(
        default=None,
        max_length=1024,
        pattern="^/[!-~]*$",
        description="Asked by HTTP GET, and has to answer below 500; without it a connection is enough.",
    )


class Objectives(Model):
    """What the service promises."""

    rpo: Duration | None = Field(
        default=None,
        description="A restore that loses more than this waits for a person (rule 3); unset: any loss does.",
    )


class RecoveryPolicySpec(Model):
    """Who decides, by which rules, with which numbers."""

    model_config = rules(
        cel(
            "!has(self.builtinRules) || self.builtinRules != 'None' || (has(self.rules) && size(self.rules) > 0)",
            "builtinRules None needs at least one rule, or nothing is ever decided",
            fieldPath=".rules",
        ),
    )

    mode: Mode = Field(
        default=Mode.OBSERVE,
        description="Observe: decisions are shown. Approve: a person starts each run. Automatic: runs start alone.",
    )
    rules: list[MatrixRule] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra={
            **ATOMIC,
            "x-kubernetes-validations": [
                cel("self.all(a, self.exists_one(b, b.name == a.name))", "two rules have the same name"),
                cel(
                    "self.all(a, self.all(b, a.strategy == b.strategy"
                    " || has(a.failure) != has(b.failure) || (has(a.failure) && a.failure != b.failure)"
                    " || has(a.impact) != has(b.impact) || (has(a.impact) && a.impact != b.impact)"
                    " || has(a.dataIntegrity) != has(b.dataIntegrity)"
                    " || (has(a.dataIntegrity) && a.dataIntegrity != b.dataIntegrity)))",
                    "two rules match the same failures but name different strategies",
                ),
            ],
        },
        description="Rows before the built-in ones; the first that matches decides.",
    )
    builtin_rules: BuiltinRules = Field(
        default=BuiltinRules.APPEND,
        description="Append the built-in rows, or None: what no rule matches is manual.",
    )
    detection: Detection = Field(default=Detection(), description="When a cell counts as failed.")
    limits: Limits = Field(default=Limits(), description="Limits on the automation.")
    steps: Steps = Field(default=Steps(), description="Numbers of the procedures' steps.")
    replacement: Replacement = Field(default=Replacement(), description="Replacing a cell and restoring its data.")
    cascade: Cascade = Field(default=Cascade(), description="Several cells at once.")
    manual_intervention: ManualIntervention = Field(
        default=ManualIntervention(), description="What is done before a failure is left to a person."
    )
    validation: Validation = Field(default=Validation(), description="The checks of a cell that takes over.")
    dependencies: list[Dependency] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra=list_map("name"),
        description="What all cells share: while one does not answer, failures count as Systemic (rule 10).",
    )
    objectives: Objectives = Field(default=Objectives(), description="What the service promises.")


class RecoveryPolicyStatus(Model):
    """What the operator found; for reading only."""

    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )
    conditions: list[Condition] = Field(
        default_factory=list, max_length=16, json_schema_extra=list_map("type"), description="Accepted."
    )


class RecoveryPolicy(Resource):
    """Who decides what, and every number of the runbook."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="RecoveryPolicy",
        plural="recoverypolicies",
        short_names=("rpolicy",),
        columns=(Column("Mode", ".spec.mode"), AGE),
    )

    spec: RecoveryPolicySpec = Field(
        default=RecoveryPolicySpec(), description="Who decides, by which rules, with which numbers."
    )
    status: RecoveryPolicyStatus = Field(default_factory=RecoveryPolicyStatus, description="What the operator found.")
