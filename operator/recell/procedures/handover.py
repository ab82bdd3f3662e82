"""From the failed cell to its replacement: fence, route, retire. Shared by the procedures that replace a cell.

The order of proofs: the source takes no writes any more, the replacement is healthy, then its first slot; the
homes in Placement say how far it is, so that a crash neither loses nor repeats an increment. A slot that was
routed is never routed back.
"""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from recell.api import Cell
from recell.api.failure import Verdict
from recell.api.meta import duration_text, seconds, timestamp
from recell.api.placement import Hold, HoldState, PlacementSpec
from recell.api.recovery_policy import DecommissionMode, RecoveryPolicySpec
from recell.api.recovery_run import Urgency
from recell.domain import data, placement
from recell.domain.decommission import Retirement
from recell.domain.gate import GateResult, health_gate
from recell.domain.health import assess
from recell.domain.observation import WorkloadPhase
from recell.domain.wording import listed
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures import increments
from recell.procedures.customers import moment
from recell.procedures.fencing import fence


def health_of(ctx: StepContext, cell: Cell, label: str) -> GateResult:
    """The gate of another cell than the target, on figures since `label`."""
    seen = ctx.ports.observer.observe(cell, not_before=ctx.since(label))
    return health_gate(assess(cell, seen, ctx.policy, ctx.now))


# Routing ---------------------------------------------------------------------------------------------


def time_to_route(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds: stopping the source, and every increment with its wait for data plane and health."""
    steps = policy.steps
    each = seconds(steps.increment_interval) + seconds(steps.apply_timeout) + seconds(steps.health_check_timeout)
    return seconds(steps.restart_timeout) + (steps.drain_increments + 1) * each


def remember_slots(ctx: StepContext, left_out: frozenset[int]) -> dict[str, Any]:
    """How many slots are to be routed, counted before the first one is."""
    mine = [s for s in placement.slots_of(ctx.placement.spec, ctx.cell.metadata.name) if s not in left_out]
    return {"slots": len(mine)}


async def route(ctx: StepContext, target: Cell, left_out: frozenset[int]) -> Outcome:
    """The source's home slots become the target's, in increments, each guarded by the target's health."""
    name, there = ctx.cell.metadata.name, target.metadata.name
    if waiting := await fence(ctx):
        return waiting
    home = placement.slots_of(ctx.placement.spec, name)
    left = [s for s in home if s not in left_out]
    total = int(ctx.data["slots"])
    routed = total - len(left)
    if home and not total:
        return Fail("NothingToRoute", f"Each of the {len(home)} slots of {name} has a customer who could not be moved")
    label = f"routed-{routed}"
    if routed and (waiting := _settled(ctx, label, total, routed)):
        return waiting
    ctx.elapsed(label)
    gate = health_of(ctx, target, label)
    if gate.verdict is Verdict.FAILED:
        limit = seconds(ctx.policy.steps.health_check_timeout)
        if ctx.elapsed("failing") >= limit:
            return Fail(
                "ReplacementFailed",
                f"{there} has {routed} of {total} slots and fails for {duration_text(limit)}: {gate.message}. They stay"
                f" there; the other slots are still at home at {name}",
            )
        return Wait(LOOK_AGAIN, f"{there} fails, no more slots for now: {gate.message}", reason="ReplacementFails")
    ctx.forget("failing")
    if gate.verdict is Verdict.INCONCLUSIVE:
        unseen = increments.inconclusive(ctx, "unverified-replacement", gate.message)
        if not isinstance(unseen, Done):
            return unseen
    ctx.forget("inconclusive")
    if not left:
        await retire(ctx, there, left_out)
        return Done(f"{total} slots of {name} have their home at {there}")
    count = 1 if ctx.run.spec.urgency is Urgency.IMMEDIATE else ctx.policy.steps.drain_increments
    batch = left[: math.ceil(total / count)]

    def change(spec: PlacementSpec) -> PlacementSpec:
        return placement.rehome(spec, ctx.routing, name, there, batch)

    await ctx.ports.switchboard.change(ctx.router_key, change)
    ctx.elapsed(f"apply-{routed + len(batch)}")
    return Wait(LOOK_AGAIN, f"{routed + len(batch)} of {total} slots have their home at {there}")


def _settled(ctx: StepContext, label: str, total: int, routed: int) -> Outcome | None:
    """None once the data plane has applied the increment and its interval has passed."""
    if not ctx.applied():
        ctx.forget(label)
        limit = seconds(ctx.policy.steps.apply_timeout)
        if ctx.elapsed(f"apply-{routed}") >= limit:
            return Fail(
                "NotApplied",
                f"The router did not apply the move of {routed} slots within {duration_text(limit)}: see the"
                f" conditions of Router {ctx.router.metadata.name}",
            )
        return Wait(LOOK_AGAIN, "Waiting for the router's pods to apply the change")
    interval = 0.0 if ctx.run.spec.urgency is Urgency.IMMEDIATE else seconds(ctx.policy.steps.increment_interval)
    passed = ctx.elapsed(label)
    if passed < interval:
        return Wait(min(LOOK_AGAIN, interval - passed), f"{routed} of {total} slots routed, next after {interval:g} s")
    return None


async def retire(ctx: StepContext, successor: str, left_out: frozenset[int]) -> None:
    """The source is out of service for good: a hold that outlives the run, nothing reserved any more.

    Its pins follow the successor, unless one of them is of a customer who could not be moved.
    """
    hold = Hold(
        cell=ctx.cell.metadata.name,
        max_percent=0,
        state=HoldState.RETIRED,
        holder=ctx.holder,
        reason=f"replaced by {successor}",
        since=ctx.now,
    )

    def change(spec: PlacementSpec) -> PlacementSpec:
        # What the run that escalated to this one still held is taken over: nothing of it may stay behind.
        for left in placement.orphaned(spec, ctx.living):
            if left.cell == hold.cell:
                spec = placement.release(spec, ctx.routing, holder=left.holder, cell=left.cell)
        pinned = {placement.slot_of(c, spec.slots) for c, cell in ctx.routing.pins if cell == hold.cell}
        # Whose pins went to another cell before has nothing here: a second run for a retired cell takes nobody along.
        ours = placement.successor(spec, hold.cell) in (hold.cell, successor)
        if ours and not pinned & left_out:
            spec = placement.succeed(spec, ctx.routing, hold.cell, successor)
        return placement.hold(placement.unreserve(spec, ctx.holder), ctx.routing, hold)

    await ctx.ports.switchboard.change(ctx.router_key, change)


def rehearse(ctx: StepContext) -> str:
    name = ctx.cell.metadata.name
    slots = len(placement.slots_of(ctx.placement.spec, name))
    return f"Would stop the workloads of {name} and give its {slots} slots to the new cell"


# Decommissioning -------------------------------------------------------------------------------------


def remember_until(ctx: StepContext) -> dict[str, Any]:
    """When the replacement had everybody, and until when the source is kept: both as of the beginning of the step."""
    replacement = ctx.policy.replacement
    promoted = {"promotedAt": timestamp(ctx.now)}
    if replacement.decommission is DecommissionMode.KEEP:
        return promoted
    kept = seconds(replacement.retain_for) if replacement.decommission is DecommissionMode.RETAIN else 0.0
    return promoted | {"until": timestamp(ctx.now + timedelta(seconds=kept))}


def retirement(ctx: StepContext, successor: Cell, moved: Mapping[str, Any]) -> Retirement:
    """What this run knows of its source's customers; `moved` is what the step that moved them remembers."""
    counts = data.Customers(
        moved.get("expected"),
        moved.get("moved", moved.get("restored")),
        moved.get("failed", 0),
        whole=bool(moved.get("whole")),
    )
    return Retirement(
        successor=successor.metadata.name,
        successor_uid=successor.metadata.uid,
        until=moment(ctx.data.get("until")),
        complete=ctx.routing.shared or counts.complete is True,
        conflicts=len(moved.get("conflicts", ())),
        promoted_at=moment(ctx.data["promotedAt"]),
        by=ctx.run.metadata.name,
    )


async def decommission(ctx: StepContext, successor: Cell, moved: Mapping[str, Any]) -> Outcome:
    """The source is kept, stopped, until its time is up; what Git owns is for people to remove."""
    name, mode = ctx.cell.metadata.name, ctx.policy.replacement.decommission
    await ctx.ports.records.retire(ctx.cell, retirement(ctx, successor, moved))
    states = ctx.ports.workloads.states(ctx.cell)
    owners = {str(s.ref): s.owned_by for s in states if s.owned_by}
    running = [str(s.ref) for s in states if s.phase is not WorkloadPhase.NOT_FOUND and not s.at_zero]
    kept = placement.home_share(ctx.placement.spec, name)
    until = f" until {ctx.data['until']}" if "until" in ctx.data else ""
    told = [f"Cell {name} is retired and kept{until} ({mode})"]
    remains = []
    if kept:
        remains.append(f"{name} is still the home of customers that could not be moved: it is never deleted")
    if running:
        remains.append(f"Stop {listed(running)} of {name}: what it still writes there, nobody has")
    for ref, owner in sorted(owners.items()):
        remains.append(f"Remove {ref} of {name} from Git ({owner}), or it may be started again")
    return Done("; ".join(told + remains), data={"remains": remains} if remains else None)
