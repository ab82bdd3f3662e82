"""What came of a run, row by row: the new cell, the recovery point, what is lost, who was moved, what is left to do."""

from datetime import datetime

from rich.console import RenderableType

from recell.api.meta import timestamp
from recell.api.recovery_run import CustomerCounts, RecoveryTarget
from recell.cli.look import QUIET, Look, age, join
from recell.cli.results import PointReport, ProgressReport, ResultReport

SHOWN = 3
"""Conflicts that are shown; the others are in -o json."""

Row = tuple[str, str]


def result_view(result: ResultReport, now: datetime, look: Look, indent: int = 0) -> RenderableType:
    return look.facts([(look.text(name, QUIET), text) for name, text in rows(result, now)], indent=indent)


def rows(result: ResultReport, now: datetime) -> list[Row]:
    """Name and text of everything that is known."""
    found: list[Row] = []
    if result.replacement:
        found.append(("new cell", result.replacement))
    if cascade := result.cascade:
        out = f"; {cascade.quarantined_slots} slots are served by nobody" if cascade.quarantined_slots else ""
        found.append(("cells", f"{cascade.recovered} of {cascade.total} recovered{out}"))
    if result.emergency_cells:
        found.append(("emergency", ", ".join(result.emergency_cells)))
    if result.recovery_point:
        found.append(("recovery point", _point(result.recovery_point, now)))
        found.append(("data loss", _loss(result)))
    if result.customers:
        found.append(("customers", customers_text(result.customers)))
    if result.conflicts:
        told = [*result.conflicts[:SHOWN], *_further(len(result.conflicts))]
        found.append(("conflicts", f"{len(result.conflicts)} not merged: {'; '.join(told)}"))
    found += [("left to do", text) for text in result.remains]
    return found


def _further(count: int) -> list[str]:
    return [f"and {count - SHOWN} more (-o json)"] if count > SHOWN else []


def _point(point: PointReport, now: datetime) -> str:
    at = f"{timestamp(point.time)}, {age(point.time, now)} ago" if point.time else "unknown: nobody told the time"
    backup = f", from backup {point.backup_id}" if point.backup_id else ""
    return f"{at}{backup}{' (expected)' if point.expected else ''}"


def _loss(result: ResultReport) -> str:
    loss, point = result.data_loss, result.recovery_point
    if loss:
        return f"{loss.length}: what was written from {timestamp(loss.from_)} to {timestamp(loss.to)}"
    return "none known" if point and point.time else "unknown"


def customers_text(counts: CustomerCounts) -> str:
    """Counts with who counted; what nobody told is called unknown."""
    parts = [(counts.moved, "moved"), (counts.restored, "restored")]
    done = [part for part in parts if part[0]] or [parts[counts.source == "Restore"]]
    of = "an unknown number" if counts.affected is None else str(counts.affected)
    text = f"{' and '.join(f'{number} {how}' for number, how in done)}, of {of}"
    if counts.failed:
        names = ", ".join(counts.failed_names)
        among = "among them " if len(counts.failed_names) < counts.failed else ""
        text += f"; {counts.failed} failed{f': {among}{names}' if names else ''}"
    return f"{text} (counted by {counts.source or 'nobody knows whom'})"


def target_text(target: RecoveryTarget) -> str:
    """What a person asked to be brought back."""
    time = f"not later than {timestamp(target.time)}" if target.time else ""
    return join((time, f"from backup {target.backup_id}" if target.backup_id else ""))


def progress_text(progress: ProgressReport) -> str:
    return f"{progress.done} of {'an unknown number' if progress.of is None else progress.of}"
