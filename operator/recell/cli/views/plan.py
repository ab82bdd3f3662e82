"""A plan: the decision with what it rests on, what stands in its way, the steps with their numbers."""

from datetime import datetime

from rich.console import RenderableType
from rich.text import Text

from recell.cli.foresight import MAKES_A_CELL, Asked, Foreseen
from recell.cli.gates import question
from recell.cli.look import BAD, BUSY, GOOD, QUIET, STRONG, WAITING, Look, stack
from recell.cli.plan import PlanReport
from recell.cli.views.result import target_text
from recell.cli.views.status import evidence_lines


def plan_view(plan: PlanReport, now: datetime, look: Look) -> RenderableType:
    phase = look.cell_phase(plan.health)
    parts: list[RenderableType | None] = [
        look.paragraph(
            ("Cell " if plan.cell else "Router ", QUIET),
            (f"{plan.namespace}/{plan.cell or plan.router}", STRONG),
            "  ",
            (phase.plain, str(phase.style)),
        ),
    ]
    if plan.decided:
        parts += [
            look.paragraph(("Strategy ", QUIET), (plan.strategy, STRONG)),
            look.paragraph(plan.message, indent=2),
        ]
    if plan.recovery_target:
        parts.append(look.paragraph(("Restore ", QUIET), target_text(plan.recovery_target)))
    if plan.evidence:
        parts += [look.paragraph(("Evidence", QUIET)), evidence_lines(plan.evidence, now, look)]
    if plan.steps:
        rows: list[tuple[Text | str, ...]] = [
            (str(number), step.name, f"{step.does} (at most {step.at_most})")
            for number, step in enumerate(plan.steps, start=1)
        ]
        parts += [look.paragraph(("Steps", QUIET)), look.facts(rows, indent=2)]
        named = f"policy {plan.policy}" if plan.policy else "built-in policy"
        parts += [look.paragraph((f"Numbers of {named}", QUIET)), *_numbers(plan, look)]
    if plan.asks:
        parts += [look.paragraph(("It waits for your answer", QUIET)), *(_asked(asked, look) for asked in plan.asks)]
    parts += [Text(), _now(plan, look), *(_foreseen(found, look) for found in plan.foreseen), _alone(plan, look)]
    return stack(parts)


def _numbers(plan: PlanReport, look: Look) -> list[RenderableType]:
    """Those of the blocks that the strategy's steps use."""
    blocks = ["steps"]
    if plan.strategy in MAKES_A_CELL:
        blocks += ["replacement", "validation", "objectives"]
    lines = []
    for block in blocks:
        numbers = [
            f"{name.removeprefix(f'{block}.')} {value}"
            for name, value in plan.numbers.items()
            if name.startswith(f"{block}.")
        ]
        if numbers:
            named = "" if block == "steps" else f"{block}: "
            lines.append(look.paragraph(f"{named}{', '.join(numbers)}", indent=2))
    return lines


def _asked(asked: Asked, look: Look) -> RenderableType:
    return look.paragraph((asked.gate, STRONG), f" {asked.when}: ", (question(asked.gate).asks, WAITING), indent=2)


def _foreseen(found: Foreseen, look: Look) -> RenderableType:
    return look.paragraph((f"It would fail at {found.step}", BAD), f" ({found.reason}): {found.message}")


def _now(plan: PlanReport, look: Look) -> RenderableType:
    if plan.why is None:
        if plan.left_to_people:
            return look.paragraph(("A run made now starts, and ends as ManualInterventionRequired.", WAITING))
        return look.paragraph(("A run made now starts.", GOOD))
    ends = "waits" if plan.outcome == "Waits" else f"ends at once as {plan.outcome}"
    why = "see above" if plan.why.message == plan.message else plan.why.message
    return look.paragraph((f"A run made now {ends}", BAD), f" ({plan.why.reason}): {why}")


def _alone(plan: PlanReport, look: Look) -> RenderableType | None:
    if plan.automatic is not None and plan.automatic == plan.why:
        return look.paragraph("For the same reason the operator does not start one by itself.")
    if plan.automatic is None:
        what = "cell" if plan.cell else "router"
        return look.paragraph(f"The operator starts runs by itself (mode Automatic) when the {what} fails.")
    return look.paragraph(
        ("The operator does not start one by itself", BUSY), f" ({plan.automatic.reason}): {plan.automatic.message}"
    )
