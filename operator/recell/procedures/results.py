"""What came of a run that replaces a cell or restores data, read from its record: pure."""

from typing import Any

from recell.api.recovery_run import CustomerCounts, DataLoss, RecoveryPoint, RecoveryRunStatus, RunResult
from recell.procedures.customers import moment

DRAINS = ("drain-traffic-now", "isolate-cell")
CHOICES = ("choose-backup", "choose-recovery-point")
MOVES = ("move-customers", "restore-customers", "restore-data")


def result_of(status: RecoveryRunStatus) -> RunResult | None:
    """None while nothing came of it."""
    facts = {step.name: step.data or {} for step in status.steps}
    moved = _first(facts, MOVES)
    choice = {**_first(facts, CHOICES), **moved}
    made = facts.get("provision-replacement", facts.get("create-recovery-environment", {})).get("cell")
    remains = [text for data in facts.values() for text in _texts(data.get("remains"))]
    stopped = moment(moved.get("stoppedAt") or _first(facts, DRAINS).get("stoppedAt"))
    point = moment(moved.get("point"))
    found = RunResult(
        replacement=made,
        emergency_cells=facts.get("check-capacity", {}).get("emergencyCells", []),
        customers=_customers(moved),
        recovery_point=RecoveryPoint(time=point, backup_id=choice.get("backup"))
        if "restored" in moved or point
        else None,
        data_loss=DataLoss(from_=point, to=stopped) if point and stopped and point < stopped else None,
        conflicts=moved.get("conflicts", []),
        remains=remains[:20],
    )
    return found if found != RunResult() else None


def _first(facts: dict[str, dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    return next((facts[name] for name in names if facts.get(name)), {})


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value or ())


def _customers(moved: dict[str, Any]) -> CustomerCounts | None:
    how = next((name for name in ("moved", "restored") if moved.get(name) is not None), None)
    if how is None:
        return None
    return CustomerCounts(
        affected=moved.get("expected"),
        source="Migrate" if how == "moved" else "Restore",
        failed=moved.get("failed", 0),
        failed_names=moved.get("names", []),
        **{how: moved[how]},
    )
