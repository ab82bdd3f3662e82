"""Where a customer is, in a few lines."""

from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.cli.look import BAD, BUSY, GOOD, QUIET, STRONG, Look, stack
from recell.cli.views.status import hold_line
from recell.cli.whereabouts import Access, WhereReport


def where_view(report: WhereReport, now: datetime, look: Look) -> RenderableType:
    place = f"slot {report.slot} of {report.slots}" if report.slots else ""
    head = look.paragraph(
        ("Customer ", QUIET), (report.key, STRONG), f"  router {report.router}{f', {place}' if place else ''}"
    )
    if report.anywhere is not None:
        told = ", ".join(f"{cell} {share}" for cell, share in report.anywhere.items()) or "nobody"
        unknown = look.paragraph(("This router knows no customers: ", BUSY), f"each request goes to {told}", indent=2)
        return stack([head, unknown])
    if report.access is None:
        nothing = look.paragraph(("No Placement: ", BUSY), "nothing says who serves this customer", indent=2)
        return stack([head, nothing, look.hint(f"recell status {report.router} -n {report.namespace}")])
    rows: list[tuple[Text | str, ...]] = [
        (look.text("home", QUIET), _home(report, look)),
        (look.text("served", QUIET), _served(report, look)),
    ]
    rows += [(look.text("" if number else "why", QUIET), why.message) for number, why in enumerate(report.why)]
    return stack([head, look.facts(rows, indent=2), *(hold_line(hold, now, look) for hold in report.holds)])


def _home(report: WhereReport, look: Look) -> Text:
    if report.home is None:
        return look.text("no cell", BAD)
    phase = look.cell_phase(report.home_phase)
    return look.line((report.home, STRONG), " ", (phase.plain, str(phase.style)), " (pinned)" if report.pinned else "")


def _served(report: WhereReport, look: Look) -> Text:
    if report.access is Access.REJECTED:
        return look.text("by nobody: 503 with Retry-After", BAD)
    by = f"by {report.cell}"
    if report.access is Access.READ_ONLY:
        return look.line((by, STRONG), (", for reading only", BUSY))
    return look.line((by, STRONG), (", its home" if report.cell == report.home else "", GOOD))
