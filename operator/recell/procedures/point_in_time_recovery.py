"""PointInTimeRecovery: bring a cell's data back to the last moment before it was corrupted.

For corrupted data in a cell that still serves (runbook, procedure 4). The data is restored into an environment that
nobody is routed to, checked, and promoted once a person approves; the corrupted cell is kept for inspection.
"""

from dataclasses import replace
from typing import Any

from recell.api import Cell
from recell.api.failure import Strategy, Verdict
from recell.api.meta import seconds
from recell.api.recovery_policy import Gate
from recell.api.recovery_run import RunPhase
from recell.domain import placement
from recell.domain.provisioning import Purpose
from recell.engine.outcome import Ask, Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext, within
from recell.procedures import customers, handover, isolating, provisioning, restoring, returning, validating
from recell.procedures.results import result_of

CHOICE = "choose-recovery-point"
MADE = "create-recovery-environment"
RESTORED = "restore-data"
PROMOTE = "promote"


def _target(ctx: StepContext) -> Cell:
    return provisioning.made(ctx, MADE)


async def isolate_cell(ctx: StepContext) -> Outcome:
    return restoring.shared(ctx) or await isolating.isolate(ctx)


async def move_active_customers(ctx: StepContext) -> Outcome:
    """What the Router's offHome says becomes of them: read-only elsewhere, or a polite refusal."""
    if not ctx.applied():
        return Wait(1.0, "Waiting for the router's pods to apply the change")
    name, spec = ctx.cell.metadata.name, ctx.placement.spec
    home = set(placement.slots_of(spec, name))
    elsewhere = placement.served_read_only(spec, home)
    if elsewhere:
        return Done(f"{elsewhere} of {len(home)} slots of {name} are served by other cells for reading only")
    return Done(f"The {len(home)} slots of {name} are turned away with 503 and Retry-After until their data is back")


async def choose_recovery_point(ctx: StepContext) -> Outcome:
    return await restoring.choose(ctx, "isolate-cell")


async def create_recovery_environment(ctx: StepContext) -> Outcome:
    return await restoring.make(ctx, CHOICE, Purpose.RECOVERY)


async def restore_data(ctx: StepContext) -> Outcome:
    return await restoring.restore(ctx, CHOICE, _target(ctx), earlier=True)


async def check_integrity(ctx: StepContext) -> Outcome:
    return await restoring.check(ctx, CHOICE, _target(ctx), earlier=True)


def remember_slots(ctx: StepContext) -> dict[str, Any]:
    return handover.remember_slots(ctx, customers.failed_slots(ctx, ctx.of(RESTORED)))


async def promote_environment(ctx: StepContext) -> Outcome:
    """Its home slots become those of the failed cell, once a person has approved."""
    restored = ctx.of(RESTORED)
    if ctx.policy.replacement.promotion_approval is Gate.REQUIRED and PROMOTE not in ctx.approved:
        point, stopped = restored.get("point", "an unknown time"), ctx.of("isolate-cell").get("stoppedAt")
        conflicts = restored.get("conflicts", ())
        listed = f" {len(conflicts)} writes were made elsewhere and are not merged." if conflicts else ""
        return Ask(
            PROMOTE,
            f"{restored.get('restored')} customers of {ctx.cell.metadata.name} are restored to {point}; what was"
            f" written from then until {stopped} is lost.{listed} Approve to serve them from"
            f" {_target(ctx).metadata.name}",
        )
    return await handover.route(ctx, _target(ctx), customers.failed_slots(ctx, restored))


async def restore_traffic(ctx: StepContext) -> Outcome:
    """Customers really reach the environment; it gets the failed cell's weight, which is kept for inspection."""
    target = _target(ctx)
    gate = handover.health_of(ctx, target, "arrived")
    ctx.elapsed("arrived")
    if gate.verdict is Verdict.FAILED:
        limit = seconds(ctx.policy.steps.health_check_timeout)
        if ctx.elapsed("failing") >= limit:
            return Fail("ReplacementFailed", f"{target.metadata.name} fails: {gate.message}. Its customers stay there")
        return Wait(LOOK_AGAIN, gate.message, reason="ReplacementFails")
    ctx.forget("failing")
    await provisioning.weigh(ctx, target)
    retired = await handover.decommission(ctx, target, ctx.of(RESTORED))
    if isinstance(retired, Done):
        return Done(f"{target.metadata.name} serves the customers; {retired.message}", data=retired.data)
    return retired


async def watch_consistency(ctx: StepContext) -> Outcome:
    duration = seconds(ctx.policy.validation.consistency_duration)
    return await validating.watch(ctx, _target(ctx), duration, reject_on_failure=False)


POINT_IN_TIME_RECOVERY = Procedure(
    name=Strategy.POINT_IN_TIME_RECOVERY,
    version=1,
    steps=(
        replace(isolating.ISOLATE_CELL, act=isolate_cell),
        Step(
            "move-active-customers",
            RunPhase.DRAINING,
            "See that customers are served elsewhere for reading, or turned away politely",
            move_active_customers,
            within("apply_timeout"),
            rehearse=lambda ctx: f"Would serve its customers as the Router says: {ctx.routing.off_home}",
            effects=False,
        ),
        Step(
            CHOICE,
            RunPhase.RESTORING,
            "Choose the latest point that is not known to be corrupted",
            choose_recovery_point,
            restoring.time_for_data,
            rehearse=lambda ctx: "Would choose the latest point that is not known to be corrupted",
        ),
        Step(
            MADE,
            RunPhase.RESTORING,
            "Make a recovery environment from the template; it serves nobody",
            create_recovery_environment,
            provisioning.time_to_make,
            rehearse=provisioning.rehearse,
        ),
        Step(
            RESTORED,
            RunPhase.RESTORING,
            "Restore the data to the point",
            restore_data,
            restoring.time_for_data,
            rehearse=lambda ctx: "Would restore the data to the point",
            moves=True,
        ),
        Step(
            "check-integrity",
            RunPhase.RESTORING,
            "Check the restored data; if it is corrupted too, an earlier point is tried",
            check_integrity,
            restoring.time_for_data,
            rehearse=lambda ctx: f"Would check the data, and try at most {ctx.policy.replacement.restore_attempts}",
        ),
        Step(
            "promote-environment",
            RunPhase.PROMOTING,
            "Give the environment the cell's customers, once a person has approved",
            promote_environment,
            handover.time_to_route,
            rehearse=handover.rehearse,
            prepare=remember_slots,
        ),
        Step(
            "restore-traffic",
            RunPhase.PROMOTING,
            "See that customers are served from the environment; keep the corrupted cell for inspection",
            restore_traffic,
            lambda policy: seconds(policy.steps.apply_timeout) + seconds(policy.steps.health_check_timeout),
            rehearse=lambda ctx: f"Would retire cell {ctx.cell.metadata.name} and keep it for inspection",
            prepare=handover.remember_until,
        ),
        Step(
            "watch-consistency",
            RunPhase.VALIDATING,
            "Watch that the data stays consistent",
            watch_consistency,
            lambda policy: (
                3 * seconds(policy.validation.consistency_duration) + seconds(policy.steps.inconclusive_timeout)
            ),
            rehearse=lambda ctx: f"Would watch the data for {ctx.policy.validation.consistency_duration}",
        ),
    ),
    on_abort=returning.way_back_from_restore(Purpose.RECOVERY, CHOICE),
    result=result_of,
)
