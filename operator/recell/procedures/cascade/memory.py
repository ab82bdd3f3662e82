"""What a cascade remembers, read from its record: what is to hold, and which cells have had their turn.

The newest step that says something counts. Reading only.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from recell.api import RecoveryRun
from recell.api.recovery_run import RunPhase
from recell.engine.procedure import StepContext

RECOVERED = "Recovered"
STEP = "recover-cells"

State = Mapping[str, Any]


def state(ctx: StepContext) -> State:
    """What is to hold: `cells` that were failed, `drained`, `spared`, `keep`, `shed`, `quarantined`, and for people
    `message` and `left`."""
    if "relief" in ctx.data:
        return dict(ctx.data["relief"])
    return state_in({step.name: step.data or {} for step in ctx.run.status.steps})


def state_in(facts: Mapping[str, Mapping[str, Any]]) -> State:
    """The same of a whole record, by step."""
    return dict(next((data["relief"] for data in reversed(list(facts.values())) if "relief" in data), {}))


def cells_in(facts: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Every cell that was failed in the course of the run."""
    return tuple(dict.fromkeys([*facts.get("assess-damage", {}).get("cells", ()), *state_in(facts).get("cells", ())]))


def turns(ctx: StepContext) -> Mapping[str, Any]:
    """What the step that recovers cells remembers, from whichever step it is asked."""
    return ctx.data if ctx.step == STEP else ctx.of(STEP)


def ended(ctx: StepContext) -> dict[str, str]:
    """Cells whose turn is over: `Recovered`, or why not."""
    return dict(turns(ctx).get("ended", {}))


def unrecovered(ctx: StepContext) -> list[str]:
    """Cells whose turn is over and that are not well."""
    return sorted(name for name, how in ended(ctx).items() if how != RECOVERED)


def out(ctx: StepContext) -> list[str]:
    """Cells that were failed and are not recovered, whether their turn is over or not."""
    over = ended(ctx)
    return [name for name in state(ctx).get("cells", ()) if over.get(name) != RECOVERED]


def begun(ctx: StepContext) -> set[str]:
    """Cells that the cascade leaves alone: they have a run of their own, get their traffic back, or are done."""
    mine = {name for name in state(ctx).get("cells", ()) if child_of(ctx, name) is not None}
    return mine | {*turns(ctx).get("returning", ())} | set(ended(ctx))


def child_name(ctx: StepContext, cell: str) -> str:
    """`shop-20261125-cell-b-3f9c1a`: the same however often it is asked."""
    turn = int(turns(ctx).get("turns", {}).get(cell, 1))
    digest = hashlib.sha256(f"{ctx.run.metadata.uid}/{cell}/{turn}".encode()).hexdigest()[:6]
    return f"{ctx.run.metadata.name[:120].rstrip('-.')}-{cell}-{digest}"


def child_of(ctx: StepContext, cell: str) -> RecoveryRun | None:
    return ctx.ports.store.run((ctx.run.metadata.namespace, child_name(ctx, cell)))


def last_of(ctx: StepContext, run: RecoveryRun) -> RecoveryRun:
    """The run that goes on from this one by now."""
    seen = {run.metadata.name}
    while run.phase is RunPhase.ESCALATED and run.status.escalation and run.status.escalation.to:
        later = ctx.ports.store.run((run.metadata.namespace, run.status.escalation.to))
        if later is None or later.metadata.name in seen:
            break
        seen.add(later.metadata.name)
        run = later
    return run


def at_work(ctx: StepContext) -> list[RecoveryRun]:
    """The newest run of each cell, of those that have not ended."""
    found = [last_of(ctx, child) for n in state(ctx).get("cells", ()) if (child := child_of(ctx, n)) is not None]
    return [run for run in found if not run.phase.ended]
