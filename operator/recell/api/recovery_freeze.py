"""RecoveryFreeze: the off switch. Any one of them freezes its namespace's runs, whatever else is said."""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from recell.api.meta import AGE, Column, KindInfo, LabelValue, Model, Resource


class FreezeScope(StrEnum):
    NEW_RUNS = "NewRuns"
    """No run starts; those that run go on."""
    ALL_RUNS = "AllRuns"
    """No new effect begins, in running runs either."""


class CellSelector(Model):
    """Which Cells and Routers, by their labels."""

    match_labels: dict[str, LabelValue] = Field(
        default_factory=dict, max_length=16, description="Labels of the Cells or Routers; empty: all of them."
    )


class RecoveryFreezeSpec(Model):
    """What is frozen, until when and why."""

    selector: CellSelector = Field(default=CellSelector(), description="Which targets; all if empty.")
    scope: FreezeScope = Field(
        default=FreezeScope.ALL_RUNS,
        description="AllRuns: no new effect begins, in running runs either. NewRuns: no run starts.",
    )
    until: datetime | None = Field(default=None, description="End of the freeze; none: until it is deleted.")
    reason: str = Field(min_length=1, max_length=512, description="Why, for people.")


class RecoveryFreeze(Resource):
    """The off switch."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="RecoveryFreeze",
        plural="recoveryfreezes",
        short_names=("rfreeze",),
        columns=(
            Column("Scope", ".spec.scope"),
            Column("Until", ".spec.until"),
            Column("Reason", ".spec.reason"),
            AGE,
        ),
        has_status=False,
    )

    spec: RecoveryFreezeSpec = Field(description="What is frozen, until when and why.")
