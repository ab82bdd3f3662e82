"""CascadeRecovery: bring several failed cells of one router back while the others bear more than their own.

For failures of several cells at once (runbook, procedure 5; strategy EmergencyScaling). The target is the Router. What
the others cannot bear is shed by class, the failed cells' customers move where there is room, and the cells are
recovered one after another by runs of their own, each by the matrix for that cell alone. A failure that all cells may
share holds everything until a person says otherwise (rule 10).
"""

from recell.api.failure import Strategy
from recell.api.meta import duration_text, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import CascadeResult, RecoveryRunStatus, RunPhase, RunResult
from recell.domain import cascade
from recell.domain.wording import listed
from recell.engine.outcome import Done, Fail, Outcome, Recovered, Repeat, Wait
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext, within
from recell.procedures import provisioning
from recell.procedures.cascade import children, emergency, fleet, relieving, returning
from recell.procedures.cascade.memory import RECOVERED, cells_in, state_in, unrecovered

AGAIN = 3
"""Times that cells which fail while others are validated are recovered too; after that a person looks."""


# 1 assess-damage -------------------------------------------------------------------------------------


async def assess_damage(ctx: StepContext) -> Outcome:
    found = fleet.look(ctx)
    if not found.failed:
        if found.unknown and ctx.elapsed("unknown") < 2 * seconds(ctx.policy.detection.failed_after):
            return Wait(LOOK_AGAIN, f"Waiting until it is known how {listed(found.unknown)} is", reason="HealthUnknown")
        return Recovered("No cell of the router is failed any more")
    if found.systemic and not relieving.accepted(ctx):
        return relieving.ask(found.systemic)
    order = cascade.order(found.cells, ctx.placement.spec, found.failed)
    return Done(
        f"{len(order)} of {found.total} cells have failed; they are recovered in this order: {listed(order, 10)}."
        f" {relieving.relief(ctx, order).message}",
        data={"cells": list(order), "total": found.total},
    )


# 2 shed-load -----------------------------------------------------------------------------------------


async def shed_load(ctx: StepContext) -> Outcome:
    """Shedding, then the failed cells' customers: in one change, so that nobody is moved where there is no room yet."""
    if waiting := await relieving.tend(ctx):
        return waiting
    if not ctx.applied():
        limit = seconds(ctx.policy.steps.apply_timeout)
        if ctx.elapsed("apply") >= limit:
            return Fail(
                "NotApplied",
                f"The router's pods did not apply the shedding within {duration_text(limit)}: see the pods of Router"
                f" {ctx.router.metadata.name}",
            )
        return Wait(LOOK_AGAIN, "Waiting for the router's pods to apply the change")
    return Done(relieving.told(ctx))


# 3 provision-emergency-capacity ----------------------------------------------------------------------


async def provision_emergency_capacity(ctx: StepContext) -> Outcome:
    if waiting := await relieving.tend(ctx):
        return waiting
    return await emergency.make(ctx)


# 4 open-circuit-breakers -----------------------------------------------------------------------------


async def open_circuit_breakers(ctx: StepContext) -> Outcome:
    if not ctx.data.get("opened"):
        return Wait(0.0, "Opening the failed cells' circuits", data={"opened": True})
    if waiting := await relieving.tend(ctx):
        return waiting
    cells = [item.cell for item in ctx.placement.spec.open_circuits if item.holder == ctx.holder]
    if not cells:
        return Done(
            "No circuit was opened: the failed cells get no requests or serve more of them than an open circuit lets"
            " through, or the Router has no circuit breakers"
        )
    return Done(
        f"{listed(cells)} get {100 - relieving.circuit_percent(ctx)} % of their requests until they are well, so that"
        " customers are told at once and the cells are spared"
    )


# 5 recover-cells -------------------------------------------------------------------------------------


async def recover_cells(ctx: StepContext) -> Outcome:
    if waiting := await relieving.tend(ctx):
        return waiting
    return relieving.ease(ctx) or await children.recover(ctx)


# 6 lift-load-shedding --------------------------------------------------------------------------------


async def lift_load_shedding(ctx: StepContext) -> Outcome:
    if again := _failed_again(ctx):
        return again
    if waiting := await relieving.tend(ctx):
        return waiting
    return relieving.lift(ctx)


def _failed_again(ctx: StepContext) -> Outcome | None:
    """Cells that failed since the others were recovered have their turn too."""
    new = sorted(set(fleet.look(ctx).failed) - set(unrecovered(ctx)))
    if not new:
        return None
    times = int(ctx.of("recover-cells").get("again", 0)) + 1
    if times > AGAIN:
        return Fail(
            "FailedAgain", f"{listed(new)} failed, after cells had failed again {AGAIN} times: look for a cause"
        )
    data = {**ctx.of("recover-cells"), **children.reopened(ctx, new), "again": times}
    return Repeat("recover-cells", f"{listed(new)} failed meanwhile and are recovered too", data)


# 7 validate-fleet ------------------------------------------------------------------------------------


async def validate_fleet(ctx: StepContext) -> Outcome:
    if again := _failed_again(ctx):
        return again
    if waiting := await emergency.retire(ctx):
        return waiting
    lost = unrecovered(ctx)
    outcome = fleet.watch(ctx, lost, seconds(ctx.policy.validation.duration))
    if not isinstance(outcome, Done):
        return outcome
    await returning.let_go(ctx)
    left = f"; not recovered: {listed(lost)}" if lost else ""
    return Done(f"{outcome.message}{left}")


# what came of it -------------------------------------------------------------------------------------


def result_of(status: RecoveryRunStatus) -> RunResult | None:
    facts = {step.name: step.data or {} for step in status.steps}
    if "cells" not in facts.get("assess-damage", {}):
        return None
    ended = facts.get("recover-cells", {}).get("ended", {})
    cells = cells_in(facts)
    recovered = [name for name in cells if ended.get(name) == RECOVERED]
    quarantined = int(state_in(facts).get("quarantined", 0))
    lost = [name for name in cells if ended.get(name, RECOVERED) != RECOVERED]
    remains = [f"Recover Cell {name}: {ended[name]}" for name in lost]
    if quarantined:
        remains.append(
            f"{quarantined} slots are served by nobody, for two cells failed that served them: find out which customers"
            " they are, then give them back with recell return"
        )
    return RunResult(
        emergency_cells=facts.get("provision-emergency-capacity", {}).get("emergencyCells", []),
        cascade=CascadeResult(
            total=len(cells),
            recovered=len(recovered),
            quarantined_slots=quarantined,
        ),
        remains=remains[:20],
    )


def time_to_recover(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds of all cells; each one has its own, so this is only the last resort."""
    return 64 * seconds(policy.cascade.recovery_timeout)


def time_to_lift(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds; a person is asked long before."""
    return 4 * seconds(policy.cascade.recovery_timeout)


CASCADE_RECOVERY = Procedure(
    name=Strategy.EMERGENCY_SCALING,
    version=1,
    steps=(
        Step(
            "assess-damage",
            RunPhase.DRAINING,
            "Find out which cells have failed, in which order they are recovered, and what the others can bear",
            assess_damage,
            within("inconclusive_timeout"),
            rehearse=lambda ctx: relieving.relief(ctx, fleet.look(ctx).failed).message,
            effects=False,
        ),
        Step(
            "shed-load",
            RunPhase.DRAINING,
            "Shed what the others cannot bear, the least important first, and move the failed cells' customers",
            shed_load,
            lambda policy: 2 * seconds(policy.steps.apply_timeout) + seconds(policy.steps.inconclusive_timeout),
            rehearse=lambda ctx: relieving.relief(ctx, fleet.look(ctx).failed).message,
            prepare=relieving.remember,
        ),
        Step(
            "provision-emergency-capacity",
            RunPhase.DRAINING,
            "Make emergency cells from the template",
            provision_emergency_capacity,
            provisioning.time_to_make,
            rehearse=emergency.rehearse,
            prepare=emergency.remember,
        ),
        Step(
            "open-circuit-breakers",
            RunPhase.DRAINING,
            "Turn most requests for the failed cells away at the router",
            open_circuit_breakers,
            within("apply_timeout"),
            rehearse=lambda ctx: f"Would open the circuits of {listed(fleet.look(ctx).failed)}",
        ),
        Step(
            "recover-cells",
            RunPhase.RESTORING,
            "Recover the cells one after another, each by a run of its own",
            recover_cells,
            time_to_recover,
            rehearse=lambda ctx: f"Would start one run each for {listed(fleet.look(ctx).failed, 10)}, in order",
        ),
        Step(
            "lift-load-shedding",
            RunPhase.PROMOTING,
            "Lift the shedding in increments, as far as the cells can bear it",
            lift_load_shedding,
            time_to_lift,
            rehearse=lambda ctx: "Would lift the shedding in increments, each guarded by errors, latency and capacity",
        ),
        Step(
            "validate-fleet",
            RunPhase.VALIDATING,
            "Watch all cells without one failed check",
            validate_fleet,
            lambda policy: (
                3 * seconds(policy.validation.duration)
                + seconds(policy.steps.inconclusive_timeout)
                + 2 * provisioning.REMOVAL
            ),
            rehearse=lambda ctx: f"Would watch all cells for {ctx.policy.validation.duration}",
        ),
    ),
    on_abort=returning.WAY_BACK,
    claims=lambda status: cells_in({step.name: step.data or {} for step in status.steps}),
    result=result_of,
)
