"""The way back of an aborted cascade (rule 20): its children are aborted, shedding stays until capacity suffices.

The traffic of an unhealthy cell is never raised; that of a healthy one in increments. Quarantined slots and emergency
cells stay, and are said.
"""

from typing import Any

from recell.api.meta import seconds
from recell.api.placement import PlacementSpec
from recell.api.recovery_run import RunPhase
from recell.domain import placement, shedding
from recell.domain.wording import clipped, listed
from recell.engine.outcome import Done, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, Step, StepContext, on_cell
from recell.procedures import increments
from recell.procedures.cascade import relieving
from recell.procedures.cascade.memory import RECOVERED, at_work, ended
from recell.procedures.provisioning import healthy_again


async def abort_children(ctx: StepContext) -> Outcome:
    await relieving.renew(ctx)
    left = at_work(ctx)
    for run in left:
        await ctx.ports.records.abort(run)
    if left:
        return Wait(LOOK_AGAIN, f"Waiting until {listed(run.metadata.name for run in left)} have undone what they did")
    return Done("No run of this cascade works any more")


async def keep_shedding(ctx: StepContext) -> Outcome:
    """As before, until the cells can bear it without."""
    if not await relieving.renew(ctx):
        return Done("Nothing is shed any more")
    return relieving.lift(ctx)


def remember_starts(ctx: StepContext) -> dict[str, Any]:
    """From which limits the cells' traffic returns."""
    return {"starts": {hold.cell: hold.max_percent for hold in placement.held_by(ctx.placement.spec, ctx.holder)}}


async def return_traffic(ctx: StepContext) -> Outcome:
    """Cells that are well get their customers back; the others stay as they are, and are said."""
    stays = []
    for hold in placement.held_by(ctx.placement.spec, ctx.holder):
        cell = ctx.sibling(hold.cell)
        if cell is None:
            continue
        of_cell = on_cell(ctx, cell)
        start = ctx.data["starts"][hold.cell]
        if not healthy_again(of_cell):
            stays.append(f"{hold.cell} at {await increments.put_back(of_cell, start)} %")
            continue
        outcome = await increments.up(of_cell, start, 100, escalate_to=None)
        if not isinstance(outcome, Done):
            return outcome
    await let_go(ctx)
    remains = []
    if stays:
        remains.append(f"Not healthy, so they stay as they are: {listed(stays)}; return them with: recell return CELL")
    if made := [n for n in ctx.of("provision-emergency-capacity").get("emergencyCells", ()) if ctx.sibling(n)]:
        remains.append(f"Emergency cells go on serving: {listed(made)}; delete those that are not needed")
    if out := len(placement.quarantined(ctx.placement.spec)):
        remains.append(f"{out} slots are served by nobody; see docs/cascade-recovery.md")
    told = clipped(". ".join(remains) or "Every cell has its customers back")
    return Done(told, data={"remains": remains} if remains else None)


async def let_go(ctx: StepContext) -> None:
    """Shedding, circuits and reservations of the run are gone; holds on cells that are not well stay."""

    def change(spec: PlacementSpec) -> PlacementSpec:
        spec = shedding.shed(spec, {}, holder=ctx.holder, until=ctx.now, renew_before=ctx.now)
        spec = shedding.open_circuits(spec, (), 100, holder=ctx.holder, until=ctx.now, renew_before=ctx.now)
        for name, how in ended(ctx).items():
            if how == RECOVERED:
                spec = placement.release(spec, ctx.routing, holder=ctx.holder, cell=name)
        return placement.unreserve(spec, ctx.holder)

    await ctx.ports.switchboard.change(ctx.router_key, change)


WAY_BACK = (
    Step(
        "abort-children",
        RunPhase.ABORTING,
        "Abort the runs of the cells, and wait until they have undone what is temporary",
        abort_children,
        lambda policy: 2 * seconds(policy.replacement.data_timeout),
        rehearse=lambda ctx: "Would abort the runs of the cells",
    ),
    Step(
        "keep-shedding",
        RunPhase.ABORTING,
        "Shed until the cells can bear the load without, then lift it in increments",
        keep_shedding,
        lambda policy: 4 * seconds(policy.cascade.recovery_timeout),
        rehearse=lambda ctx: "Would shed as long as it is needed",
    ),
    Step(
        "return-traffic",
        RunPhase.ABORTING,
        "Give cells that are well their customers back",
        return_traffic,
        increments.time_for_all,
        rehearse=lambda ctx: "Would give cells that are well their customers back",
        prepare=remember_starts,
    ),
)
