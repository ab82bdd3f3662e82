"""The status of a fleet: per router a table of its cells, then why each cell is not well."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.api.cell import Blocked, CellPhase
from recell.api.failure import Evidence, Verdict
from recell.api.meta import Condition, fraction, timestamp
from recell.api.recovery_run import RunPhase
from recell.api.router import Verification
from recell.cli.look import BAD, BUSY, QUIET, STRONG, Look, age, join, span, stack
from recell.cli.report import (
    CellReport,
    FreezeReport,
    HoldReport,
    PlacementReport,
    RouterReport,
    ShareReport,
    StatusReport,
    TemplateReport,
)
from recell.cli.views.runs import active_runs

UNFINISHED = (
    RunPhase.PARTIALLY_SUCCEEDED,
    RunPhase.FAILED,
    RunPhase.MANUAL_INTERVENTION_REQUIRED,
    RunPhase.ABORTED,
)

_UNCOUNTED = {
    Verification.RESOLVED: "Traffic is not counted: a change counts once it is seen to be published.",
    Verification.ELAPSED: "Traffic is not counted, and nobody can see a weight: a change of shares counts once its"
    " time has passed.",
}
"""What such a router can prove."""


def status_view(report: StatusReport, now: datetime, look: Look, *, wide: bool = False) -> RenderableType:
    parts: list[RenderableType | None] = []
    for freeze in report.freezes:
        parts.append(freeze_line(freeze, now, look))
    if report.freezes:
        parts.append(Text())
    namespaces = {router.namespace for router in report.routers} | {run.namespace for run in report.runs}
    parts += _templates(report.templates, look)
    for router in report.routers:
        parts += [*_router(router, now, look, namespaced=len(namespaces) > 1, wide=wide), Text()]
    if report.runs:
        parts.append(active_runs(report.runs, now, look, namespaced=len(namespaces) > 1))
    elif report.routers:
        parts.append(look.paragraph(("No run is active.", QUIET)))
    if not report.routers and not report.runs:
        parts.append(look.paragraph("No Cell and no Router here. Apply a Router and its Cells, or look with -A."))
    return stack(parts)


def freeze_line(freeze: FreezeReport, now: datetime, look: Look) -> RenderableType:
    ends = f", ends in {span(freeze.until - now)}" if freeze.until else ""
    targets = join((f"{k}={v}" for k, v in sorted(freeze.selector.items())), ",")
    return stack(
        [
            look.paragraph(
                ("FROZEN", BAD),
                f" namespace {freeze.namespace}{f', {targets}' if targets else ''} ({freeze.scope})"
                f" for {age(freeze.created_at, now)}{ends}: {freeze.reason}",
            ),
            look.hint(f"recell unfreeze {freeze.name} -n {freeze.namespace}"),
        ]
    )


def _templates(templates: list[TemplateReport] | None, look: Look) -> list[RenderableType]:
    if templates is None:
        note = (
            "CellTemplates are not shown: they cannot be read (grant list on celltemplates.recell.dev, or install the"
            " CRDs of this version)"
        )
        return [look.paragraph((note, QUIET)), Text()]
    parts: list[RenderableType] = []
    for template in templates:
        parts.append(
            look.paragraph(
                (f"CellTemplate {template.namespace}/{template.name} cannot be used", BAD),
                f" ({template.reason}): {template.message}",
            )
        )
        if template.cells:
            parts.append(look.paragraph(f"cannot be replaced: {', '.join(template.cells)}", indent=2))
    return [*parts, Text()] if parts else []


def _router(
    router: RouterReport, now: datetime, look: Look, *, namespaced: bool, wide: bool
) -> Iterator[RenderableType | None]:
    yield _router_line(router, look, namespaced=namespaced)
    if router.verification in _UNCOUNTED:
        yield look.paragraph((_UNCOUNTED[router.verification], QUIET), indent=2)
    yield from (_condition(condition, now, look) for condition in router.conditions)
    yield from _router_failure(router, now, look)
    if router.found and router.placement is None and router.cells:
        yield look.paragraph(
            ("No Placement: ", BUSY),
            "nothing says who gets traffic. The operator makes it for a new router. If it was lost,"
            " restore it from a backup, or let a new one be made:",
            indent=2,
        )
        yield look.hint(f"recell placement init {router.name} -n {router.namespace}")
    if router.cells:
        yield Text()
        yield _cells(router, now, look, wide=wide)
    if lines := [*_made(router, look), *_retired(router, look)]:
        yield Text()
        yield from lines
    for cell in router.cells:
        yield from _why(cell, now, look)


def _made(router: RouterReport, look: Look) -> Iterator[RenderableType]:
    found = [
        f"{cell.name} (for {cell.origin}{', home of nobody' if cell.share.home in (None, '0%') else ''})"
        for cell in router.cells
        if cell.origin and cell.phase != CellPhase.RETIRED
    ]
    if found:
        yield look.paragraph(("Made by Recell: ", QUIET), ", ".join(found))


def _retired(router: RouterReport, look: Look) -> Iterator[RenderableType]:
    found = []
    for cell in router.cells:
        if cell.retired:
            facts = [f"replaced by {cell.successor}" if cell.successor else ""]
            facts.append(f"kept until {timestamp(cell.kept_until)}" if cell.kept_until else "")
            told = join(facts)
            found.append(f"{cell.name} ({told})" if told else cell.name)
    if found:
        yield look.paragraph(("Retired: ", QUIET), ", ".join(found))
    for cell in router.cells:
        if cell.retired:
            yield from _remains(cell, look)


def _router_line(router: RouterReport, look: Look, *, namespaced: bool) -> RenderableType:
    name = f"{router.namespace}/{router.name}" if namespaced else router.name
    if not router.found:
        return look.paragraph(("Router ", QUIET), (name, STRONG), ("  does not exist, but cells name it", BAD))
    working = [cell for cell in router.cells if not cell.retired]
    healthy = sum(cell.well for cell in working)
    retired = f", {len(router.cells) - len(working)} retired" if len(working) < len(router.cells) else ""
    policy = f"policy {router.policy.name} ({router.policy.mode})" if router.policy.name else "no policy (Observe)"
    fallback = router.placement is not None and router.placement.mode == "Fallback"
    rejected = router.placement.rejected if router.placement and router.placement.rejected != "0%" else ""
    return look.paragraph(
        ("Router ", QUIET),
        (name, STRONG),
        "  ",
        ("Ready", "green") if router.ready else ("NotReady", BAD),
        f", {healthy} of {len(working)} cells healthy{retired}, {policy}",
        (", FALLBACK ROUTING", BAD) if fallback else "",
        (f", {rejected} of the customers are turned away", BAD) if rejected else "",
    )


def _router_failure(router: RouterReport, now: datetime, look: Look) -> Iterator[RenderableType]:
    """The router itself: what is seen of it, and what is done about it."""
    if failure := router.failure:
        told = f"{failure.type}, impact {failure.impact}"
        yield look.paragraph(("not well", BAD), f" for {age(failure.since, now)}: {told}", indent=2)
        found = [e for e in failure.evidence if e.verdict != Verdict.PASSED]
        if found:
            yield evidence_lines(found, now, look)
    yield from turned_away(router.placement, now, look)
    if router.active_run and not router.cascades:
        yield look.paragraph("run ", (router.active_run, STRONG), " works on the router itself", indent=2)
    elif router.active_run:
        yield look.paragraph("run ", (router.active_run, STRONG), " recovers the failed cells together", indent=2)
    elif failure and router.last_phase is not None and router.last_phase in UNFINISHED:
        yield _ended(router.last_run, router.last_phase, router.last_summary, look)
    if router.blocked:
        yield _blocked(router.blocked, router.next_allowed_at, now, look)


def turned_away(placed: PlacementReport | None, now: datetime, look: Look) -> Iterator[RenderableType]:
    """What the routers turn away for runs, and until when."""
    if placed is None:
        return
    for word, found in (("shed", placed.shedding), ("circuit open", placed.open_circuits)):
        for item in found:
            if item.expires_at > now:
                until = f"for at most {span(item.expires_at - now)} more"
                told = f" {item.what}: {item.percent}% get 503, {until} ({item.holder})"
                yield look.paragraph((word, BUSY), told, indent=2)
    if placed.quarantined:
        told = f" {placed.quarantined} slots are served by nobody: two cells failed that served them"
        yield look.paragraph(("quarantined", BAD), told, indent=2)


def _cells(router: RouterReport, now: datetime, look: Look, *, wide: bool) -> RenderableType:
    scale = max(
        (_part(text) or 0.0 for cell in router.cells for text in (cell.share.home, cell.share.asked)), default=0
    )
    headers = ["CELL", "HEALTH", "SHARE", "ASKED", "APPLIED", "RUN"]
    if wide:
        headers = ["CELL", "HEALTH", "HOME", "ASKED", "APPLIED", "RUN", "SINCE", "LAST-RUN", "ATTEMPTS"]
    rows = []
    for cell in router.cells:
        row: list[Text | str] = [
            cell.name,
            look.cell_phase(cell.phase),
            look.bar(_part(cell.share.asked), _part(cell.share.home), scale),
            cell.share.asked or "-",
            _applied(cell.share, look),
            cell.active_run or "-",
        ]
        if wide:
            since = age(cell.failure.since, now) if cell.failure else "-"
            row[2] = cell.share.home or "-"
            row += [since, cell.last_run or "-", str(cell.attempts)]
        rows.append(row)
    return look.table(headers, rows)


def _part(percent: str | None) -> float | None:
    return fraction(percent) if percent else None


def _applied(share: ShareReport, look: Look) -> Text:
    lags = share.applied != share.asked
    return look.text(share.applied or "-", BUSY if lags else "")


def _why(cell: CellReport, now: datetime, look: Look) -> Iterator[RenderableType]:
    """Everything that a person has to know about a cell that is not simply well."""
    if cell.retired:
        return
    lines = [*_failure(cell, now, look), *_restrictions(cell, now, look)]
    if lines:
        yield Text()
        yield look.paragraph((cell.name, STRONG), " ", look_phase(cell, look), _since(cell, now))
        yield from lines


def look_phase(cell: CellReport, look: Look) -> tuple[str, str]:
    text = look.cell_phase(cell.phase)
    return (text.plain, str(text.style))


def _since(cell: CellReport, now: datetime) -> str:
    failure = cell.failure
    if failure is None:
        return ""
    return f" for {age(failure.since, now)}: {failure.type}, impact {failure.impact}, data {failure.data_integrity}"


def _failure(cell: CellReport, now: datetime, look: Look) -> Iterator[RenderableType]:
    if cell.failure:
        found = [e for e in cell.failure.evidence if e.verdict != Verdict.PASSED]
        if found:
            yield evidence_lines(found, now, look)
        shown = [c for c in cell.conditions if c.type in ("Accepted", "ClusterReachable")]
    else:
        shown = cell.conditions
    yield from (_condition(condition, now, look) for condition in shown)


def evidence_lines(evidence: Sequence[Evidence], now: datetime, look: Look) -> RenderableType:
    rows: list[tuple[Text | str, ...]] = []
    for e in evidence:
        since = f", for {age(e.since, now)}" if e.since else ""
        rows.append(
            (
                look.verdict(e.verdict),
                look.line((e.check, STRONG), (f" (seen by {e.vantage}{since}): ", QUIET), e.message),
            )
        )
    return look.facts(rows, indent=2)


def _condition(condition: Condition, now: datetime, look: Look) -> RenderableType:
    return look.paragraph(
        (f"{condition.type}={condition.status}", BUSY),
        f" {condition.reason}{f': {condition.message}' if condition.message else ''} ",
        (f"({age(condition.last_transition_time, now)})", QUIET),
        indent=2,
    )


def _restrictions(cell: CellReport, now: datetime, look: Look) -> Iterator[RenderableType]:
    for hold in cell.holds:
        yield hold_line(hold, now, look)
    if cell.successor and not cell.active_run and cell.share.home not in (None, "0%"):
        yield look.paragraph(
            (f"replaced by {cell.successor}, but still the home of {cell.share.home} of the customers", BAD), indent=2
        )
    yield from _last_run(cell, look)
    yield from _remains(cell, look)
    if any(hold.releasable for hold in cell.holds):
        yield look.hint(f"recell return {cell.name} -n {cell.namespace}")
    if cell.paused:
        yield look.paragraph("paused: no automatic run starts (spec.paused is true)", indent=2)
    if cell.blocked:
        yield _blocked(cell.blocked, cell.next_allowed_at, now, look)


def _blocked(blocked: Blocked, wait: datetime | None, now: datetime, look: Look) -> RenderableType:
    after = f" Next run allowed in {span(wait - now)}." if wait and wait > now else ""
    return look.paragraph(
        ("not recovered", BUSY), f" ({blocked.reason}): {blocked.message.rstrip('.')}.{after}", indent=2
    )


def _last_run(cell: CellReport, look: Look) -> Iterator[RenderableType]:
    """How the last run ended, where it did not bring the cell back and none works on it."""
    if cell.last_phase is not None and cell.last_phase in UNFINISHED and not cell.well and not cell.active_run:
        yield _ended(cell.last_run, cell.last_phase, cell.last_summary, look)


def _ended(run: str | None, ended: RunPhase, summary: str | None, look: Look) -> RenderableType:
    phase, name = look.run_phase(ended), f" {run}" if run else ""
    return look.paragraph(f"last run{name} ", (phase.plain, str(phase.style)), f": {summary or 'no summary'}", indent=2)


def _remains(cell: CellReport, look: Look) -> Iterator[RenderableType]:
    for text in cell.remains:
        yield look.paragraph(("left to do: ", BUSY), text, indent=2)


def hold_line(hold: HoldReport, now: datetime, look: Look, *, name: str = "") -> RenderableType:
    return look.paragraph(
        f"{name} " if name else "",
        ("held", BUSY),
        f" at {hold.max_percent}% ({hold.state}) by {hold.holder} for {age(hold.since, now)}: {hold.reason}",
        _kept(hold),
        indent=2,
    )


def _kept(hold: HoldReport) -> str | tuple[str, str]:
    if hold.orphaned:
        return (" ORPHANED: that run is over", BAD)
    return " (that run is over; it stays so until a person returns the cell)" if hold.run_over else ""
