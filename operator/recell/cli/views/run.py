"""One run as it is now: what it does, what it has done, who gets the traffic."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.api import RecoveryRun
from recell.api.meta import find_condition, fraction
from recell.api.recovery_run import StepRecord, StepState
from recell.cli.gates import approve_command, question
from recell.cli.look import BAD, BUSY, QUIET, STRONG, Look, age, stack
from recell.cli.report import CellReport, run_report
from recell.cli.results import progress_report, result_report
from recell.cli.views.result import progress_text, result_view, rows, target_text
from recell.cli.views.runs import approval, lasting, standstill


@dataclass(frozen=True)
class Rate:
    """What the router saw of a cell since the last look."""

    requests_per_second: float
    error_rate: float | None
    """Part of the requests that failed; None without requests."""


@dataclass(frozen=True)
class RunView:
    """Everything that is shown of a run at one moment."""

    run: RecoveryRun
    now: datetime
    cells: tuple[CellReport, ...] = ()
    """Cells of the target's router."""
    rates: Mapping[str, Rate] | None = None
    rates_note: str = ""
    """Why there are no rates."""
    trouble: str = ""
    """Why what is shown may be old."""


def run_view(view: RunView, look: Look) -> RenderableType:
    run, status = view.run, view.run.status
    report = run_report(run)
    phase = look.run_phase(run.phase)
    parts: list[RenderableType | None] = [
        look.paragraph(
            ("Run ", QUIET),
            (run.metadata.name, STRONG),
            "  ",
            (phase.plain, str(phase.style)),
            f", {lasting(report, view.now)}",
            (", DRY RUN: nothing is changed", BUSY) if run.spec.dry_run else "",
        ),
        _decision(view, look),
        _asked(run, look),
    ]
    if status.steps:
        parts += [Text(), *_steps(view, look)]
    if report.result:
        parts += [Text(), result_view(report.result, view.now, look)]
    parts += standstill(report, look)
    if report.awaiting:
        parts += [Text() if report.result else None, *approval(report.awaiting, report, view.now, look)]
    if view.cells and not run.phase.ended:
        parts += [Text(), _traffic(view, look)]
    if view.rates_note and not run.phase.ended:
        parts.append(look.paragraph((view.rates_note, QUIET)))
    if status.summary:
        parts += [Text(), look.paragraph((phase.plain, str(phase.style)), f": {status.summary}")]
    if view.trouble:
        parts.append(look.paragraph((view.trouble, BAD)))
    return stack(parts)


def _decision(view: RunView, look: Look) -> RenderableType:
    run, decision = view.run, view.run.status.decision
    target = f"{run.spec.target_ref.kind} {run.metadata.namespace}/{run.spec.target_ref.name}"
    if decision is None:
        return look.paragraph(f"{target}, {run.spec.strategy or 'strategy not decided yet'}")
    known = decision.inputs
    why = f"{known.type}, impact {known.impact}, data {known.data_integrity}" if known else decision.message
    return look.paragraph(f"{target}, {decision.strategy}: {why} (row {decision.row})")


def _asked(run: RecoveryRun, look: Look) -> RenderableType | None:
    """To when or from which backup a person wants the data back."""
    target = run.spec.recovery_target
    return look.paragraph(("restore ", QUIET), target_text(target), indent=2) if target else None


def _steps(view: RunView, look: Look) -> list[RenderableType]:
    """What was done and is done now, a row each; what follows in one line."""
    begun = [step for step in view.run.status.steps if step.state is not StepState.PENDING]
    rest = ", ".join(step.name for step in view.run.status.steps if step.state is StepState.PENDING)
    parts = [look.facts([_step(step, view, look) for step in begun])] if begun else []
    if rest:
        parts.append(look.paragraph((f"{'Not done' if view.run.phase.ended else 'Then'}: {rest}", QUIET)))
    return parts


def _step(step: StepRecord, view: RunView, look: Look) -> tuple[Text | str, ...]:
    took = "" if step.started_at is None else age(step.started_at, step.finished_at or view.now)
    awaiting = view.run.status.awaiting
    words = "waits for an answer" if awaiting and step.message == awaiting.message else step.message
    if step.state is StepState.RUNNING and (progress := _progress(step, view)):
        words = f"{words} [{progress}]"
    return (
        look.step(step.state),
        look.text(step.name, STRONG if step.state is StepState.RUNNING else ""),
        look.text(took, QUIET),
        look.text(words, BAD if step.state is StepState.FAILED else ""),
    )


def _progress(step: StepRecord, view: RunView) -> str:
    """How far the data is; else the run's own hold says how far a change of traffic has come, with its reason if it
    is this step's change."""
    data = progress_report(view.run)
    if data is not None and data.step == step.name:
        return f"{progress_text(data)} customers"
    mine = f"RecoveryRun/{view.run.metadata.name}"
    for cell in view.cells:
        for hold in cell.holds:
            if hold.holder == mine and not hold.orphaned:
                mine_now = step.started_at is not None and hold.since >= step.started_at
                return f"{cell.name} at {hold.max_percent}% of its customers{f', {hold.reason}' if mine_now else ''}"
    return ""


def _traffic(view: RunView, look: Look) -> RenderableType:
    shares = [fraction(text) for cell in view.cells for text in (cell.share.home, cell.share.asked) if text]
    target = view.run.spec.target_ref.name
    headers = ["CELL", "HEALTH", "SHARE", "ASKED", "APPLIED"]
    if view.rates is not None:
        headers += ["REQ/S", "ERRORS"]
    rows: list[list[Text | str]] = []
    for cell in view.cells:
        asked, home = cell.share.asked, cell.share.home
        row: list[Text | str] = [
            look.text(cell.name, STRONG if cell.name == target else ""),
            look.cell_phase(cell.phase),
            look.bar(fraction(asked) if asked else None, fraction(home) if home else None, max(shares, default=0)),
            asked or "-",
            look.text(cell.share.applied or "-", BUSY if cell.share.applied != asked else ""),
        ]
        if view.rates is not None:
            row += _rate(view.rates.get(cell.name), look)
        rows.append(row)
    return look.table(headers, rows)


def _rate(rate: Rate | None, look: Look) -> list[Text | str]:
    if rate is None:
        return ["-", "-"]
    errors = "-" if rate.error_rate is None else f"{rate.error_rate:.1%}"
    return [f"{rate.requests_per_second:.1f}", look.text(errors, BAD if rate.error_rate else "")]


def changes(before: RunView | None, view: RunView) -> list[str]:
    """What is new since the last look, one line each: the live view of a pipe."""
    run, status = view.run, view.run.status
    at = f"+{age(status.started_at or run.metadata.creation_timestamp, view.now)}"
    lines: list[str] = []
    old = before.run.status if before and before.run.key == run.key else None
    if old is None:
        lines.append(f"{at} run {run.metadata.name}: {run.phase}, target {run.spec.target_ref.name}")
    elif (before.run.phase if before else None) != run.phase:
        lines.append(f"{at} phase {run.phase}")
    if status.decision and (old is None or old.decision != status.decision):
        lines.append(f"{at} decision {status.decision.strategy}: {status.decision.message}")
    known = {step.name: (step.state, step.message) for step in old.steps} if old else {}
    for step in status.steps:
        asks = status.awaiting is not None and step.message == status.awaiting.message
        if step.state is not StepState.PENDING and known.get(step.name) != (step.state, step.message) and not asks:
            lines.append(f"{at} step {step.name} {step.state}: {step.message}")
    shares = {cell.name: (cell.share.asked, cell.share.applied) for cell in before.cells} if before else {}
    for cell in view.cells:
        now_at = (cell.share.asked, cell.share.applied)
        if shares.get(cell.name) != now_at:
            rate = (view.rates or {}).get(cell.name)
            seen = "" if rate is None else f", {rate.requests_per_second:.1f} requests/s"
            failed = "" if rate is None or rate.error_rate is None else f", {rate.error_rate:.1%} errors"
            lines.append(f"{at} share {cell.name} asked {now_at[0] or '-'} applied {now_at[1] or '-'}{seen}{failed}")
    lines += [f"{at} {line}" for line in _errors(before, view)]
    lines += [f"{at} {line}" for line in _new_results(before, view)]
    if status.awaiting and (old is None or old.awaiting != status.awaiting):
        lines.append(
            f"{at} waits for approval of {status.awaiting.gate}: {question(status.awaiting.gate).asks}"
            f" {_plain(status.awaiting.message).rstrip('.')}. Approve with:"
            f" {approve_command(run.metadata.namespace, run.metadata.name, status.awaiting)}"
        )
    lines += [f"{at} {_plain(line)}" for line in _new_conditions(before, view)]
    if view.trouble and (before is None or before.trouble != view.trouble):
        lines.append(f"{at} {view.trouble}")
    return lines


def _new_results(before: RunView | None, view: RunView) -> list[str]:
    """What is known of the result that was not before; told of both at this moment, since ages change by themselves."""
    known = _results(before.run, view.now) if before and before.run.key == view.run.key else []
    return [line for line in _results(view.run, view.now) if line not in known]


def _results(run: RecoveryRun, now: datetime) -> list[str]:
    found = result_report(run)
    return [f"{name}: {_plain(text)}" for name, text in rows(found, now)] if found else []


def _errors(before: RunView | None, view: RunView) -> list[str]:
    """Cells in which requests began to fail, or ceased to."""
    lines = []
    for name, rate in (view.rates or {}).items():
        old = ((before.rates if before else None) or {}).get(name)
        if bool(rate.error_rate) != bool(old and old.error_rate):
            failing = f"{rate.error_rate:.1%}" if rate.error_rate else "no errors"
            lines.append(f"errors {name} {failing} of {rate.requests_per_second:.1f} requests/s")
    return lines


def _new_conditions(before: RunView | None, view: RunView) -> list[str]:
    now_true = _true_conditions(view.run)
    old = _true_conditions(before.run) if before and before.run.key == view.run.key else {}
    return [f"{name} {text}" for name, text in now_true.items() if old.get(name) != text] + [
        f"no longer {name}" for name in old if name not in now_true and not view.run.phase.ended
    ]


def _true_conditions(run: RecoveryRun) -> dict[str, str]:
    names = ("Paused", "Stalled") if run.status.started_at else ("Paused", "Stalled", "Reconciling")
    found = {name: find_condition(run.status.conditions, name) for name in names}
    return {
        "waiting" if name == "Reconciling" else name: f"{c.reason}: {c.message}"
        for name, c in found.items()
        if c is not None and c.status == "True"
    }


def _plain(text: str) -> str:
    return " ".join(text.split())
