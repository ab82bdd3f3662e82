"""How all cells of the router are: which have failed, whether the cause is shared, and whether the others stay well."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta

from recell.api import Cell
from recell.api.failure import Verdict
from recell.api.meta import duration_text, seconds
from recell.domain import failure, health, placement
from recell.domain.gate import health_gate
from recell.domain.health import Level
from recell.domain.wording import listed
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures import increments, validating


@dataclass(frozen=True)
class Fleet:
    cells: Mapping[str, Cell]
    """Those that count: `placement.members`."""
    failed: tuple[str, ...]
    unknown: tuple[str, ...]
    """Cells of which nobody knows how they are: a process that has just taken over does not know it yet."""
    systemic: str
    """Why the cause is likely shared (rule 10); empty when it need not be."""

    @property
    def total(self) -> int:
        return len(self.cells)


def look(ctx: StepContext) -> Fleet:
    spec = ctx.placement.spec
    cells = placement.members(ctx.ports.store.cells_of(ctx.router_key), spec)
    states = {n: state for n, c in cells.items() if (state := ctx.ports.observer.health(c.key)) is not None}
    broken = ctx.ports.observer.broken(ctx.router_key)
    unknown = tuple(sorted(n for n in cells if n not in states or states[n].level is Level.UNKNOWN))
    return Fleet(cells, failure.failed_cells(states, spec), unknown, failure.systemic(states, spec, broken))


def verdicts(ctx: StepContext, lost: Collection[str]) -> dict[Verdict, list[str]]:
    """Of every cell but the lost ones and those that were taken out, on the figures of one window."""
    found: dict[Verdict, list[str]] = {verdict: [] for verdict in Verdict}
    window = timedelta(seconds=seconds(ctx.policy.detection.window))
    spec = ctx.placement.spec
    for name, cell in look(ctx).cells.items():
        if name in lost or placement.limit(spec, name) == 0:
            continue
        seen = ctx.ports.observer.observe(cell, not_before=ctx.now - window)
        result = health_gate(health.assess(cell, seen, ctx.policy, ctx.now))
        found[result.verdict].append(f"{name}: {result.message}")
    return found


def watch(ctx: StepContext, lost: Collection[str], duration: float) -> Outcome:
    """Every cell but the lost ones passes for `duration` seconds; a failure longer than stabilityTolerance fails."""
    found = verdicts(ctx, lost)
    if failing := found[Verdict.FAILED]:
        told = listed(failing, 3)
        ctx.forget("passing")
        if validating.lasts(ctx):
            return Fail("FleetNotValid", f"Not every cell stays well: {told}")
        return Wait(LOOK_AGAIN, f"Watching again from the start: {told}", reason="Blip")
    ctx.forget("failing")
    passed = ctx.elapsed("passing", seen=not found[Verdict.INCONCLUSIVE])
    if passed >= duration:
        return Done(f"{len(found[Verdict.PASSED])} cells passed every check for {duration_text(duration)}")
    if unknown := found[Verdict.INCONCLUSIVE]:
        return increments.inconclusive(ctx, "unverified-fleet", listed(unknown, 3))
    ctx.forget("inconclusive")
    return Wait(
        min(LOOK_AGAIN, duration - passed), f"All pass for {duration_text(passed)} of {duration_text(duration)}"
    )


def steady(ctx: StepContext, lost: Collection[str], label: str, duration: float) -> Wait | None:
    """None once no cell but the lost ones failed a check for `duration` seconds, or after three times that: what is
    still failed then does not keep the next cell waiting."""
    failing = verdicts(ctx, lost)[Verdict.FAILED]
    if ctx.elapsed(f"{label} in all") >= 3 * duration:
        return None
    if failing:
        ctx.forget(label)
        return Wait(LOOK_AGAIN, f"Not steady yet: {listed(failing, 3)}", reason="Unsteady")
    passed = ctx.elapsed(label)
    if passed >= duration:
        return None
    told = f"The others stay well for {duration_text(passed)} of {duration_text(duration)}"
    return Wait(min(LOOK_AGAIN, duration - passed), told)
