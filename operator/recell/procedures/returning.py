"""The way back of procedures that replace a cell: undo what is temporary, keep what customers depend on.

Before the first slot was routed everything is undone: the copies, the stop of the source, the drain, the cells
that were made. A slot that was routed is never taken back (rule 20): its customers stay with the replacement, those
of the other slots go on at the source, and what remains to be done is listed.
"""

from recell.api.meta import seconds
from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.domain.provisioning import Purpose
from recell.engine.outcome import Done, Outcome
from recell.engine.procedure import Step, StepContext, StepFunction, within
from recell.procedures import customers, fencing, increments, isolating, provisioning

MAKES = ("provision-replacement", "create-recovery-environment")


def _routed(ctx: StepContext) -> bool:
    """Somebody is at home at the cell that the run made."""
    spec, name = ctx.placement.spec, ctx.cell.metadata.name
    made = next((str(ctx.of(step)["cell"]) for step in MAKES if "cell" in ctx.of(step)), "")
    return placement.has_customers(spec, made) or placement.successor(spec, name) != name


async def undo_move(ctx: StepContext) -> Outcome:
    return await customers.abandon(ctx, str(ctx.of("provision-replacement").get("cell", "")))


async def restart_source(ctx: StepContext) -> Outcome:
    return await fencing.unfence(ctx, corrupted=customers.known_corrupted(ctx))


async def return_traffic(ctx: StepContext) -> Outcome:
    """Never raises the traffic of an unhealthy cell (rule 20); of a healthy one in increments."""
    hold, name, spec = ctx.own_hold, ctx.cell.metadata.name, ctx.placement.spec
    if _routed(ctx):
        await increments.let_go(ctx, keep_hold=True)
        left = len(placement.slots_of(spec, name))
        told = f"Customers who were routed to the new cell stay there; {left} slots are still at home at {name}"
        return Done(told, data={"remains": told})
    if hold is None:
        await increments.let_go(ctx)
        return Done("Nothing to undo: no traffic was taken away")
    if not provisioning.healthy_again(ctx) or customers.known_corrupted(ctx):
        stays = await increments.put_back(ctx, ctx.data["start"])
        await increments.let_go(ctx, keep_hold=True)
        told = f"Cell {name} is not healthy and stays at {stays} %; return it with: recell return {name}"
        return Done(told, data={"remains": told})
    return await increments.up(ctx, ctx.data["start"], ctx.data["base"], escalate_to=None)


def _remove_made(purpose: Purpose, choice: str = "") -> StepFunction:
    """Takes away the cell that the run made, of each try where there are several."""

    async def remove(ctx: StepContext) -> Outcome:
        made = [(Purpose.EMERGENCY, n + 1) for n in range(ctx.policy.replacement.emergency_cells)]
        routed = _routed(ctx)
        if not routed:
            made += [(purpose, n + 1) for n in range(int(ctx.of(choice).get("iteration", 1)))]
        told, remains = "The new cell has customers and stays", []
        for what, number in made:
            gone = await provisioning.remove(ctx, what, number)
            if not isinstance(gone, Done):
                return gone
            told = told if routed else gone.message
            remains += [gone.data["remains"]] if gone.data else []
        return Done(told, data={"remains": remains} if remains else None)

    return remove


_UNDO_MOVE = (
    Step(
        "undo-move",
        RunPhase.ABORTING,
        "Undo a migration that was not routed",
        undo_move,
        within("data_timeout", "replacement"),
        rehearse=lambda ctx: "Would undo a migration that was not routed",
    ),
)
_SOURCE = Step(
    "restart-source",
    RunPhase.ABORTING,
    "Start the cell's workloads again, if they were stopped and customers are at home there",
    restart_source,
    within("restart_timeout"),
    rehearse=lambda ctx: "Would start what was stopped",
)
_TRAFFIC = Step(
    "return-traffic",
    RunPhase.ABORTING,
    "Give the traffic back if the cell is healthy",
    return_traffic,
    increments.time_for_all,
    rehearse=lambda ctx: "Would give the traffic back if the cell is healthy",
    prepare=increments.remember_way_back,
)


def _removal(purpose: Purpose, choice: str = "") -> Step:
    return Step(
        "remove-new-cell",
        RunPhase.ABORTING,
        "Take the new cell away if it serves nobody",
        _remove_made(purpose, choice),
        lambda policy: 2 * provisioning.REMOVAL + seconds(policy.steps.apply_timeout),
        rehearse=lambda ctx: "Would take the new cell away if it serves nobody",
    )


WAY_BACK = (_SOURCE, *_UNDO_MOVE, _TRAFFIC, _removal(Purpose.REPLACEMENT))
"""Of a replacement: a migration can be undone only where the source runs."""


WAY_BACK_FROM_ISOLATION = (
    Step(
        "lift-isolation",
        RunPhase.ABORTING,
        "Let connections to the cell come again, unless its data is corrupted",
        isolating.lift,
        within("apply_timeout"),
        rehearse=lambda ctx: "Would let connections to the cell come again",
    ),
    _SOURCE,
    _TRAFFIC,
)
"""Connections first, then as after a replacement."""


def way_back_from_restore(purpose: Purpose, choice: str) -> tuple[Step, ...]:
    """Of a restore: as from isolation, and the cell that was made."""
    return (*WAY_BACK_FROM_ISOLATION, _removal(purpose, choice))
