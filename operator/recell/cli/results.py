"""What came of a run so far, and what is to be expected while it restores: for people and for scripts.

Promises: pure; read from the run's record alone. A count that nobody told is absent, never 0; a recovery
point that is only expected says so.

Must not: import the procedures, which every look at a status would have to wait for.
"""

from datetime import datetime
from typing import Any

from pydantic import Field

from recell.api import RecoveryRun
from recell.api.meta import Model, duration_text
from recell.api.recovery_run import CascadeResult, CustomerCounts, DataLoss, RecoveryPoint, RunResult, StepState


class PointReport(RecoveryPoint):
    expected: bool = False
    """It was chosen; nothing is restored yet."""


class LossReport(DataLoss):
    length: str
    """As people read it: 2h10m."""


class ProgressReport(Model):
    """How far a step has come with the customers, as their data's provider tells while it runs."""

    step: str
    done: int
    of: int | None = None


class ResultReport(Model):
    replacement: str | None = None
    emergency_cells: list[str] = Field(default_factory=list)
    cascade: CascadeResult | None = None
    customers: CustomerCounts | None = None
    recovery_point: PointReport | None = None
    data_loss: LossReport | None = None
    conflicts: list[str] = Field(default_factory=list)
    remains: list[str] = Field(default_factory=list)


def result_report(run: RecoveryRun) -> ResultReport | None:
    """None while there is nothing to tell."""
    known = run.status.result or RunResult()
    point, loss = known.recovery_point, known.data_loss
    reached = PointReport.model_validate(point.model_dump()) if point else _expected(run)
    if loss is None and reached is not None and reached.expected:
        loss = _loss(reached.time, _moment(_fact(run, "stoppedAt")))
    report = ResultReport(
        replacement=known.replacement,
        emergency_cells=known.emergency_cells,
        cascade=known.cascade,
        customers=known.customers,
        recovery_point=reached,
        data_loss=LossReport(**loss.model_dump(), length=_length(loss)) if loss else None,
        conflicts=known.conflicts,
        remains=known.remains,
    )
    return report if report != ResultReport() else None


def progress_report(run: RecoveryRun) -> ProgressReport | None:
    """None while nobody tells."""
    step = next((s for s in run.status.steps if s.state is StepState.RUNNING), None)
    done, of = ((step.data or {}).get(name) for name in ("done", "of")) if step else (None, None)
    if step is None or not isinstance(done, int):
        return None
    return ProgressReport(step=step.name, done=done, of=of if isinstance(of, int) else None)


def failed_slots(run: RecoveryRun) -> str:
    """Slots with a customer that could not be moved, as ranges; empty where there is none."""
    return str(_fact(run, "failedSlots") or "")


def _expected(run: RecoveryRun) -> PointReport | None:
    """What was chosen to restore from, until something is restored."""
    backup = _fact(run, "backup")
    if run.phase.ended or backup is None:
        return None
    return PointReport(time=_moment(_fact(run, "expectedPoint")), backup_id=str(backup), expected=True)


def _loss(point: datetime | None, stopped: datetime | None) -> DataLoss | None:
    return DataLoss(from_=point, to=stopped) if point and stopped and point < stopped else None


def _length(loss: DataLoss) -> str:
    return duration_text((loss.to - loss.from_).total_seconds())


def _fact(run: RecoveryRun, name: str) -> Any:
    """What a step of the run remembers under this name; None where none does."""
    return next((step.data[name] for step in run.status.steps if step.data and name in step.data), None)


def _moment(text: object) -> datetime | None:
    return datetime.fromisoformat(str(text)) if text else None
