"""Lists of runs: those that work now, and all of them."""

from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.cli.gates import approve_command
from recell.cli.look import BAD, QUIET, STRONG, WAITING, Look, age, stack
from recell.cli.report import AwaitingReport, RunReport
from recell.cli.views.result import progress_text, result_view


def active_runs(runs: list[RunReport], now: datetime, look: Look, *, namespaced: bool) -> RenderableType:
    """Active runs, with what each of them does now."""
    parts: list[RenderableType] = []
    for run in runs:
        parts.append(headline(run, now, look, namespaced=namespaced))
        parts += doing(run, now, look)
    return stack(parts)


def headline(run: RunReport, now: datetime, look: Look, *, namespaced: bool = False) -> RenderableType:
    name = f"{run.namespace}/{run.name}" if namespaced else run.name
    phase = look.run_phase(run.phase)
    return look.paragraph(
        ("Run ", QUIET),
        (name, STRONG),
        "  ",
        (phase.plain, str(phase.style)),
        f", {lasting(run, now)}: {run.strategy or 'not decided yet'} of {run.target}",
        ", dry run" if run.dry_run else "",
        (", PAUSED", WAITING) if run.paused else "",
    )


def lasting(run: RunReport, now: datetime) -> str:
    if run.finished_at or run.phase.ended:
        return f"after {age(run.started_at or run.created_at, run.finished_at or now)}"
    if run.started_at is None:
        return f"made {age(run.created_at, now)} ago"
    return f"running for {age(run.started_at, now)}"


def standstill(run: RunReport, look: Look, indent: int = 0) -> list[RenderableType]:
    """Why the run does not start or go on."""
    if run.why is None:
        return []
    word = "Paused" if run.paused else "Not started" if run.started_at is None else "Stalled"
    style = BAD if word == "Stalled" else WAITING
    return [look.paragraph((word, style), f" ({run.why.reason}): {run.why.message}", indent=indent)]


def doing(run: RunReport, now: datetime, look: Look) -> list[RenderableType]:
    """The step that runs, and what the run waits for."""
    lines: list[RenderableType] = standstill(run, look, indent=2)
    if run.step:
        lines.append(look.paragraph(step_line(run), indent=2))
    if run.result:
        lines.append(result_view(run.result, now, look, indent=2))
    if run.awaiting:
        lines += approval(run.awaiting, run, now, look)
    return lines


def step_line(run: RunReport) -> str:
    """The step that runs, and how far it is; what it asks is told by the question itself."""
    if run.awaiting and run.awaiting.message == run.message:
        return f"{run.step}"
    counted = f" [{progress_text(run.progress)} customers]" if run.progress else ""
    said = f"{run.message}{counted}"
    return f"{run.step}{f': {said}' if said else ''}"


def approval(awaiting: AwaitingReport, run: RunReport, now: datetime, look: Look) -> list[RenderableType]:
    """What a person is asked, what follows from a yes, and what to type for yes and for no."""
    return [
        look.paragraph(
            ("waits for approval", WAITING),
            f" of {awaiting.gate} for {age(awaiting.since, now)}: ",
            (awaiting.question, STRONG),
            indent=2,
        ),
        *question(awaiting, look, indent=4),
        look.hint(approve_command(run.namespace, run.name, awaiting)),
        look.paragraph((f"or end the run: recell abort {run.name} -n {run.namespace}", QUIET), indent=2),
    ]


def question(awaiting: AwaitingReport, look: Look, indent: int) -> list[RenderableType]:
    """The run's own words, with its numbers, and what an approval means."""
    lines = [look.paragraph(awaiting.message or "no message", indent=indent)]
    if awaiting.approving:
        lines.append(look.paragraph(("If approved: ", WAITING), awaiting.approving, indent=indent))
    return lines


def runs_table(
    runs: list[RunReport], now: datetime, look: Look, *, namespaced: bool = False, wide: bool = False
) -> RenderableType:
    if not runs:
        return look.paragraph("No run.")
    headers = ["RUN", "TARGET", "STRATEGY", "PHASE", "STEP", "TOOK", "AGE"]
    if namespaced:
        headers.insert(0, "NAMESPACE")
    if wide:
        headers += ["TRIGGER", "DRY-RUN", "SUCCESSOR", "SUMMARY"]
    rows = []
    for run in runs:
        row: list[Text | str] = [
            run.name,
            run.target,
            run.strategy or "-",
            look.run_phase(run.phase),
            run.step or "-",
            age(run.started_at, run.finished_at or now),
            age(run.created_at, now),
        ]
        if namespaced:
            row.insert(0, run.namespace)
        if wide:
            row += [run.trigger, "yes" if run.dry_run else "no", run.successor or "-", run.summary or "-"]
        rows.append(row)
    return look.table(headers, rows)
