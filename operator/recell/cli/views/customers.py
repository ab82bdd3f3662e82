"""A cell's customers on one screen."""

from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.api.router import CustomerData
from recell.cli.customers import CustomersReport, ServedReport
from recell.cli.look import BAD, BUSY, QUIET, STRONG, Look, stack
from recell.cli.report import RunReport
from recell.cli.views.result import result_view
from recell.cli.views.runs import approval, headline, step_line
from recell.cli.views.status import hold_line
from recell.cli.whereabouts import Access

NAMED = 8
"""Pins that are named; the others are in -o json."""


def customers_view(report: CustomersReport, now: datetime, look: Look) -> RenderableType:
    phase = look.cell_phase(report.phase)
    data = f", customer data {report.customer_data}" if report.customer_data else ""
    parts: list[RenderableType | None] = [
        look.paragraph(
            ("Customers of cell ", QUIET),
            (report.cell, STRONG),
            "  ",
            (phase.plain, str(phase.style)),
            f", router {report.router}{data}",
        )
    ]
    if report.origin:
        parts.append(look.paragraph(f"made by Recell for {report.origin}", indent=2))
    if report.successor:
        parts.append(look.paragraph(f"replaced by {report.successor}: recell customers {report.successor}", indent=2))
    if report.slots is None:
        parts.append(look.paragraph(("No Placement: ", BUSY), "nothing says whose home it is", indent=2))
    else:
        parts.append(look.facts(_homes(report, look), indent=2))
    parts += [hold_line(hold, now, look) for hold in report.holds]
    parts += [Text(), *_run(report.run, report, now, look)] if report.run else []
    return stack(parts)


def _homes(report: CustomersReport, look: Look) -> list[tuple[Text | str, ...]]:
    rows: list[tuple[Text | str, ...]] = [
        (look.text("home of", QUIET), f"{report.slots} of {report.of} slots ({report.share}){_named(report.pins)}")
    ]
    for number, part in enumerate(report.served):
        rows.append((look.text("" if number else "served", QUIET), _part(part, report.cell, look)))
    return rows


def _part(part: ServedReport, home: str, look: Look) -> Text:
    what = f": {part.slots} slots ({part.share}){_named(part.pins)}"
    if part.access is Access.REJECTED:
        return look.line(("by nobody (503 with Retry-After)", BAD), what)
    if part.access is Access.READ_ONLY:
        return look.line("by ", (str(part.cell), STRONG), (", for reading only", BUSY), what)
    return look.line("by ", (str(part.cell), STRONG), " itself" if part.cell == home else "", what)


def _named(pins: list[str]) -> str:
    if not pins:
        return ""
    further = f" and {len(pins) - NAMED} more" if len(pins) > NAMED else ""
    return f", pinned {', '.join(pins[:NAMED])}{further}"


def _run(run: RunReport, report: CustomersReport, now: datetime, look: Look) -> list[RenderableType]:
    lines: list[RenderableType] = [headline(run, now, look)]
    if run.step and not run.phase.ended:
        lines.append(look.paragraph(step_line(run), indent=2))
    if unknown := _unknown(run, report.customer_data):
        lines.append(look.paragraph(("customers  ", QUIET), unknown, indent=2))
    if run.result:
        lines.append(result_view(run.result, now, look, indent=2))
    if run.awaiting:
        lines += approval(run.awaiting, run, now, look)
    return lines


def _unknown(run: RunReport, customer_data: str | None) -> str:
    """Why no number is shown: neither the result has one, nor the step that runs, nor its question."""
    if (run.result and run.result.customers) or run.progress or run.awaiting:
        return ""
    if customer_data == CustomerData.SHARED:
        return "nobody has to be moved: the cells share their data"
    return "unknown: nobody told how many"
