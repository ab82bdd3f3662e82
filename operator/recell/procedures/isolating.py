"""Keeping a cell whose data is in doubt from everything: its traffic, and every connection to its pods.

Verified by trying to connect (rule 29). Where that proves nothing, since connections still come about, another policy
allows them, or there is nothing to try, the workloads are stopped instead: either way nobody reads or writes there.
"""

from recell.api.failure import Verdict
from recell.api.meta import duration_text, seconds
from recell.api.placement import Hold, HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.domain.data import Isolated
from recell.engine.errors import Unreachable
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, Step, StepContext
from recell.procedures import customers, fencing

BELIEVED_AFTER = 10.0
"""Seconds until it counts that nothing is proven: a network plugin takes a moment to enforce a policy."""


def time_to_isolate(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds: the data plane, the network, or else stopping the workloads."""
    return seconds(policy.steps.apply_timeout) + seconds(policy.steps.restart_timeout)


async def isolate(ctx: StepContext) -> Outcome:
    """No customer and no connection, since nothing may be read or written there.

    The hold and the policies are all that is set here. The built-in router's pods close what is open at the cell before
    they count as having applied the hold; no other router does, and policies of many network plugins leave open
    connections alone.
    """
    name = ctx.cell.metadata.name
    hold = ctx.own_hold
    if hold is None or hold.max_percent or hold.state is not HoldState.ISOLATED:
        await _hold(ctx)
        ctx.elapsed("apply")
    unreachable = await _isolate_pods(ctx)
    if not ctx.applied():
        limit = seconds(ctx.policy.steps.apply_timeout)
        if ctx.elapsed("apply") >= limit:
            return Fail(
                "NotApplied",
                f"The router did not take cell {name} out within {duration_text(limit)}: see the conditions of Router"
                f" {ctx.router.metadata.name}",
            )
        return Wait(1.0, "Waiting for the router's pods to apply the change")
    tried = unreachable or await _tried(ctx)
    if tried.verdict is Verdict.PASSED:
        ctx.forget("unproven")
        return Done(f"Cell {name} gets no traffic and no connections: {tried.message}", data=customers.stopped_at(ctx))
    if ctx.elapsed("unproven") < BELIEVED_AFTER:
        return Wait(LOOK_AGAIN, f"The isolation is not proven yet: {tried.message}")
    if waiting := await fencing.fence(ctx):
        return waiting
    told = f"Cell {name} gets no traffic and was stopped, for its isolation could not be proven: {tried.message}"
    return Done(told, data=customers.stopped_at(ctx))


async def _isolate_pods(ctx: StepContext) -> Isolated | None:
    """None: the policies are around them. Else why that is not known: a cluster that is away holds up nothing here."""
    try:
        await ctx.ports.isolation.isolate(ctx.cell)
    except Unreachable as error:
        return Isolated(Verdict.INCONCLUSIVE, str(error))
    return None


async def _tried(ctx: StepContext) -> Isolated:
    try:
        return await ctx.ports.isolation.tried(ctx.cell)
    except Unreachable as error:
        return Isolated(Verdict.INCONCLUSIVE, str(error))


async def _hold(ctx: StepContext) -> None:
    hold = Hold(
        cell=ctx.cell.metadata.name,
        max_percent=0,
        state=HoldState.ISOLATED,
        holder=ctx.holder,
        reason="its data is in doubt",
        since=ctx.now,
    )

    def change(spec: PlacementSpec) -> PlacementSpec:
        return placement.hold(spec, ctx.routing, hold)

    await ctx.ports.switchboard.change(ctx.router_key, change)


async def lift(ctx: StepContext) -> Outcome:
    """On abort: connections may come again, unless the data is known to be corrupted or the cell was replaced."""
    name = ctx.cell.metadata.name
    if placement.successor(ctx.placement.spec, name) != name:
        return Done(f"Cell {name} was replaced and stays isolated")
    if customers.known_corrupted(ctx):
        told = f"Cell {name} stays isolated: its data is corrupted. Return it with: recell return {name}"
        return Done(told, data={"remains": told})
    await ctx.ports.isolation.lift(ctx.cell)
    return Done(f"Connections to cell {name} are allowed again")


def rehearse(ctx: StepContext) -> str:
    return f"Would take cell {ctx.cell.metadata.name} out of the router and keep every connection from its pods"


ISOLATE_CELL = Step(
    "isolate-cell",
    RunPhase.DRAINING,
    "Keep all traffic and every connection from the cell",
    isolate,
    time_to_isolate,
    rehearse=rehearse,
    prepare=customers.remember_failure,
)
