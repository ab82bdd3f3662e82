"""IsolateAndRestoreFromBackup: keep a cell with corrupted data from everything, restore its customers elsewhere.

For a single cell that is down with bad data. The newest complete backup from before the corruption is restored into
a fresh cell; one that fails its integrity check is followed by the next older one. Nothing is promoted unproven.
"""

from typing import Any

from recell.api import Cell
from recell.api.failure import Strategy
from recell.api.meta import seconds
from recell.api.recovery_run import RunPhase
from recell.domain.provisioning import Purpose
from recell.engine.outcome import Done, Outcome
from recell.engine.procedure import Procedure, Step, StepContext, within
from recell.procedures import customers, handover, isolating, provisioning, restoring, returning, validating
from recell.procedures.results import result_of

CHOICE = "choose-backup"
MADE = "provision-replacement"
RESTORED = "restore-customers"


def _target(ctx: StepContext) -> Cell:
    return provisioning.made(ctx, MADE)


async def choose_backup(ctx: StepContext) -> Outcome:
    return await restoring.choose(ctx, "isolate-cell")


async def provision_replacement(ctx: StepContext) -> Outcome:
    return await restoring.make(ctx, CHOICE, Purpose.REPLACEMENT)


async def restore_customers(ctx: StepContext) -> Outcome:
    return await restoring.restore(ctx, CHOICE, _target(ctx), earlier=False)


async def check_integrity(ctx: StepContext) -> Outcome:
    return await restoring.check(ctx, CHOICE, _target(ctx), earlier=False)


def remember_slots(ctx: StepContext) -> dict[str, Any]:
    return handover.remember_slots(ctx, customers.failed_slots(ctx, ctx.of(RESTORED)))


async def route_replacement(ctx: StepContext) -> Outcome:
    return await handover.route(ctx, _target(ctx), customers.failed_slots(ctx, ctx.of(RESTORED)))


async def validate_replacement(ctx: StepContext) -> Outcome:
    duration = seconds(ctx.policy.validation.duration)
    outcome = await validating.watch(ctx, _target(ctx), duration, reject_on_failure=True)
    if isinstance(outcome, Done):
        await provisioning.weigh(ctx, _target(ctx))
    return outcome


async def decommission_failed_cell(ctx: StepContext) -> Outcome:
    return await handover.decommission(ctx, _target(ctx), ctx.of(RESTORED))


ISOLATE_AND_RESTORE_FROM_BACKUP = Procedure(
    name=Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    version=1,
    steps=(
        isolating.ISOLATE_CELL,
        Step(
            CHOICE,
            RunPhase.RESTORING,
            "Choose the newest complete backup from before the corruption",
            choose_backup,
            restoring.time_for_data,
            rehearse=lambda ctx: "Would choose the newest complete backup from before the corruption",
        ),
        Step(
            MADE,
            RunPhase.RESTORING,
            "Make a new cell from the template; it serves nobody yet",
            provision_replacement,
            provisioning.time_to_make,
            rehearse=provisioning.rehearse,
        ),
        Step(
            RESTORED,
            RunPhase.RESTORING,
            "Restore the customers from the backup to the new cell",
            restore_customers,
            restoring.time_for_data,
            rehearse=lambda ctx: "Would restore the customers from the backup to the new cell",
            moves=True,
        ),
        Step(
            "check-integrity",
            RunPhase.RESTORING,
            "Check the restored data; if it is corrupted too, an older backup is tried",
            check_integrity,
            restoring.time_for_data,
            rehearse=lambda ctx: f"Would check the data, and try at most {ctx.policy.replacement.restore_attempts}",
        ),
        Step(
            "route-replacement",
            RunPhase.PROMOTING,
            "Stop the failed cell and give its customers to the new one, in increments",
            route_replacement,
            handover.time_to_route,
            rehearse=handover.rehearse,
            prepare=remember_slots,
        ),
        Step(
            "validate-replacement",
            RunPhase.PROMOTING,
            "Watch that the new cell passes every check",
            validate_replacement,
            validating.time_to_validate,
            rehearse=lambda ctx: f"Would watch the new cell for {ctx.policy.validation.duration}",
        ),
        Step(
            "decommission-failed-cell",
            RunPhase.VALIDATING,
            "Retire the failed cell; its data is kept",
            decommission_failed_cell,
            within("apply_timeout"),
            rehearse=lambda ctx: f"Would retire cell {ctx.cell.metadata.name}: {ctx.policy.replacement.decommission}",
            prepare=handover.remember_until,
        ),
    ),
    on_abort=returning.way_back_from_restore(Purpose.REPLACEMENT, CHOICE),
    result=result_of,
)
