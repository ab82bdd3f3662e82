"""Watching a cell that took over customers: the six checks, over policy.validation.duration without a failed one."""

from datetime import timedelta
from typing import Any

from recell.api import Cell
from recell.api.failure import DataIntegrity, Verdict
from recell.api.meta import duration_text, seconds
from recell.api.placement import Hold, HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import health, placement, validation
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures import increments


async def watch(ctx: StepContext, target: Cell, duration: float, *, reject_on_failure: bool) -> Outcome:
    """All checks pass for `duration` seconds; a failure longer than stabilityTolerance, or a second one, fails.

    With shared data `reject_on_failure` gives the customers to the other cells. A cell whose data proves corrupted
    serves nobody any more, even where nobody else can: what is written onto it is lost with it.
    """
    found = await _checks(ctx, target)
    verdict = validation.verdict(found)
    if verdict is Verdict.FAILED:
        told = validation.told(found, Verdict.FAILED)
        blips = int(ctx.data.get("blips", 0))
        if blips > 1 or lasts(ctx):
            name, kept = target.metadata.name, "It is kept for inspection"
            if found[validation.DATA_INTEGRITY].verdict is Verdict.FAILED:
                await _hold_at_nothing(ctx, target, "its data is corrupted")
                kept += f" and serves nobody; once its data is good again: recell return {name}"
            elif reject_on_failure and ctx.routing.shared:
                await _hold_at_nothing(ctx, target, "its validation failed")
            return Fail("ValidationFailed", f"{name} did not pass its validation: {told}. {kept}")
        ctx.forget("passing")
        if ctx.data.get("failing"):
            return Wait(LOOK_AGAIN, told, reason="Blip")
        again = {"blips": blips + 1, "failing": True}
        return Wait(LOOK_AGAIN, f"Watching again from the start: {told}", reason="Blip", data=again)
    ctx.forget("failing")
    passed = ctx.elapsed("passing", seen=verdict is Verdict.PASSED)
    if verdict is Verdict.PASSED and passed >= duration:
        seen = {name: check.verdict.value for name, check in sorted(found.items())}
        return Done(
            f"{target.metadata.name} passed for {duration_text(duration)}: {validation.told(found, Verdict.PASSED)}",
            data={"checks": seen},
        )
    if verdict is Verdict.INCONCLUSIVE:
        return increments.inconclusive(ctx, "unverified-replacement", validation.told(found, Verdict.INCONCLUSIVE))
    ctx.forget("inconclusive")
    data: dict[str, Any] | None = {"failing": False} if ctx.data.get("failing") else None
    left = min(LOOK_AGAIN, duration - passed)
    return Wait(left, f"Passes for {duration_text(passed)} of {duration_text(duration)}", data=data)


def lasts(ctx: StepContext) -> bool:
    """The failure is no short interruption any more. Figures are those of detection.window, so they go on telling of
    one for so long after its end: that much is not counted towards stabilityTolerance."""
    return ctx.elapsed("failing") > seconds(ctx.policy.steps.stability_tolerance) + seconds(ctx.policy.detection.window)


def time_to_validate(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds: the clock may begin anew once, and figures may be waited for."""
    return 3 * seconds(policy.validation.duration) + seconds(policy.steps.inconclusive_timeout)


async def _checks(ctx: StepContext, target: Cell) -> Any:
    window = timedelta(seconds=seconds(ctx.policy.detection.window))
    seen = ctx.ports.observer.observe(target, not_before=ctx.now - window)
    slots = placement.slots_of(ctx.placement.spec, target.metadata.name)
    access = await ctx.ports.access.try_slot(ctx.router, target, slots[0]) if slots else None
    unchecked, began = target.spec.data.integrity is None, ctx.since("checking")
    return validation.checks(
        health.assess(target, seen, ctx.policy, ctx.now),
        access=access,
        integrity=DataIntegrity.UNKNOWN if unchecked else ctx.ports.observer.integrity(target, not_before=began),
        traffic=seen.traffic,
        capacity=target.spec.capacity.requests_per_second,
    )


async def _hold_at_nothing(ctx: StepContext, target: Cell, reason: str) -> None:
    hold = Hold(
        cell=target.metadata.name,
        max_percent=0,
        state=HoldState.ISOLATED,
        holder=ctx.holder,
        reason=reason,
        since=ctx.now,
    )

    def change(spec: PlacementSpec) -> PlacementSpec:
        return placement.hold(spec, ctx.routing, hold)

    await ctx.ports.switchboard.change(ctx.router_key, change)
