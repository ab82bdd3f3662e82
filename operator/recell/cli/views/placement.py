"""A Placement: whose customers are where, and who limits it."""

from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.api import Placement
from recell.api.meta import fraction, timestamp
from recell.cli.fleet import Fleet
from recell.cli.look import BAD, QUIET, STRONG, Look, stack
from recell.cli.report import hold_report, placement_parts, placement_report
from recell.cli.views.status import hold_line, turned_away


def placement_view(placement: Placement, fleet: Fleet, now: datetime, look: Look) -> RenderableType:
    spec, report = placement.spec, placement_report(placement)
    parts: list[RenderableType | None] = [
        look.paragraph(
            ("Placement ", QUIET),
            (placement.metadata.name, STRONG),
            f"  mode {spec.mode}, {spec.slots} slots, generation {placement.metadata.generation}, epoch {spec.epoch}",
        )
    ]
    if (active := spec.fallback) is not None:
        by = f"{active.holder.kind}/{active.holder.name}"
        parts.append(look.paragraph(("FALLBACK ROUTING", BAD), f" since {timestamp(active.since)} by {by}", indent=2))
        parts.append(look.paragraph(f"cells behind it, in their order: {', '.join(active.order)}", indent=2))
    if report.rejected != "0%":
        parts.append(look.paragraph((f"{report.rejected} of the slots are turned away", BAD), indent=2))
    if report.read_only != "0%":
        parts.append(
            look.paragraph(f"{report.read_only} of the slots are served elsewhere, for reading only", indent=2)
        )
    parts += turned_away(report, now, look)
    shares = placement_parts(placement)
    scale = max((fraction(text) for pair in shares.values() for text in pair), default=0.0)
    rows: list[list[Text | str]] = [
        [
            cell.name,
            str(cell.index),
            look.bar(fraction(shares[cell.name][1]), fraction(shares[cell.name][0]), scale),
            shares[cell.name][0],
            shares[cell.name][1],
            str(cell.weight),
            f"{cell.address}:{cell.port}",
        ]
        for cell in spec.cells
    ]
    if rows:
        parts += [Text(), look.table(["CELL", "INDEX", "SHARE", "HOME", "SERVES", "WEIGHT", "ADDRESS"], rows)]
    if spec.holds:
        parts.append(Text())
    for hold in spec.holds:
        line = hold_line(hold_report(fleet, placement.metadata.namespace, hold), now, look, name=hold.cell)
        parts.append(line)
    for gone in spec.successors:
        parts.append(look.paragraph(f"{gone.cell}: replaced by {gone.successor}", indent=2))
    for reservation in spec.reservations:
        holder = f"{reservation.holder.kind}/{reservation.holder.name}"
        parts.append(
            look.paragraph(
                f"{reservation.cell}: {reservation.requests_per_second} requests/s promised to {holder}", indent=2
            )
        )
    return stack(parts)
