"""What came of a run so far, and what is to be expected while it restores: for people and for scripts.

Promises: pure; read from the run's record alone. A count that nobody told is absent, never 0; a recovery
point that is only expected says so.
"""

from datetime import datetime
from typing import Any

from pydantic import Field

from recell.api import RecoveryRun
from recell.api.meta import Model, duration_text
from recell.api.recovery_run import CustomerCounts, DataLoss, RecoveryPoint, RunResult, StepRecord, StepState
from recell.procedures.customers import moment
from recell.procedures.results import CHOICES, DRAINS, MOVES


class PointReport(RecoveryPoint):
    expected: bool = False
    """It was chosen; nothing is restored yet."""


class LossReport(DataLoss):
    length: str
    """As people read it: 2h10m."""


class ProgressReport(Model):
    """The step that moves or restores customers, while it runs."""

    step: str
    started_at: datetime | None = None
    message: str = ""
    done: int | None = None
    of: int | None = None


class ResultReport(Model):
    replacement: str | None = None
    emergency_cells: list[str] = Field(default_factory=list)
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
        loss = _loss(reached.time, _fact(run, DRAINS, "stoppedAt"))
    report = ResultReport(
        replacement=known.replacement,
        emergency_cells=known.emergency_cells,
        customers=known.customers,
        recovery_point=reached,
        data_loss=LossReport(**loss.model_dump(), length=_length(loss)) if loss else None,
        conflicts=known.conflicts,
        remains=known.remains,
    )
    return report if report != ResultReport() else None


def progress_report(run: RecoveryRun) -> ProgressReport | None:
    """None while no step moves or restores customers."""
    step = next((s for s in run.status.steps if s.name in MOVES and s.state is StepState.RUNNING), None)
    if step is None:
        return None
    return ProgressReport(
        step=step.name,
        started_at=step.started_at,
        message=step.message,
        done=_count(step, "done"),
        of=_count(step, "of"),
    )


def failed_slots(run: RecoveryRun) -> str:
    """Slots with a customer that could not be moved, as ranges; empty where there is none."""
    return str(_fact(run, MOVES, "failedSlots") or "")


def _expected(run: RecoveryRun) -> PointReport | None:
    """What was chosen to restore from, until something is restored."""
    backup = _fact(run, (*CHOICES, *MOVES), "backup")
    if run.phase.ended or backup is None:
        return None
    time = moment(_fact(run, (*CHOICES, *MOVES), "expectedPoint"))
    return PointReport(time=time, backup_id=str(backup), expected=True)


def _loss(point: datetime | None, stopped: object) -> DataLoss | None:
    until = moment(stopped)
    return DataLoss(from_=point, to=until) if point and until and point < until else None


def _length(loss: DataLoss) -> str:
    return duration_text((loss.to - loss.from_).total_seconds())


def _fact(run: RecoveryRun, steps: tuple[str, ...], name: str) -> Any:
    """What one of these steps remembers under this name; None where none does."""
    return next((s.data[name] for s in run.status.steps if s.name in steps and s.data and name in s.data), None)


def _count(step: StepRecord, name: str) -> int | None:
    value = (step.data or {}).get(name)
    return value if isinstance(value, int) else None
