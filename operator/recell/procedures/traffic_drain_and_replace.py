"""TrafficDrainAndReplace: take a failed cell's traffic away at once, put another cell in its place.

For a single cell with high impact and intact data (runbook, procedure 2), and for a restart that did not help.
Nothing is routed before the customers' data is proven to be there, nothing is retired before the replacement
serves, nothing is deleted here.
"""

from collections.abc import Awaitable, Callable
from typing import Any

from recell.api import Cell
from recell.api.failure import DataIntegrity, Strategy, Verdict
from recell.api.meta import duration_text, seconds
from recell.api.placement import PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import RunPhase, StatedFailure
from recell.domain import drain, placement
from recell.domain.capacity import Bearing
from recell.domain.provisioning import Purpose
from recell.domain.wording import listed
from recell.engine.errors import NotFound
from recell.engine.outcome import Done, Fail, Outcome, Recovered, Wait
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext, within
from recell.procedures import customers, fencing, handover, increments, provisioning, returning, validating
from recell.procedures.results import result_of

TRIED = tuple(range(0, 100, 10))
"""Percent of its customers that a cell may keep while the others cannot bear all of them; the least is taken."""
GONE_FOR = 60.0
"""Seconds until a replacement that somebody deleted is not expected back."""
CORRUPTED = Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP
KNOWN_CORRUPTED = StatedFailure(data_integrity=DataIntegrity.CORRUPTED)


def _corrupted(ctx: StepContext) -> Fail | None:
    """Looked at anew before each step that cannot be undone (rule 4)."""
    if ctx.ports.observer.integrity(ctx.cell) is not DataIntegrity.CORRUPTED:
        return None
    return Fail(
        "DataCorrupted",
        f"The data of cell {ctx.cell.metadata.name} became corrupted: its customers must not be copied from it",
        escalate_to=CORRUPTED,
        states=KNOWN_CORRUPTED,
    )


def replacement(ctx: StepContext) -> Cell:
    """The cell that the run made. Raises NotFound where it is not there any more."""
    return provisioning.made(ctx, "provision-replacement")


def _there(ctx: StepContext) -> Cell | Wait:
    """The replacement; one that is gone while nobody is at home there is given up."""
    try:
        found = replacement(ctx)
    except NotFound as error:
        if ctx.elapsed("gone") < GONE_FOR:
            raise
        return _give_up("ReplacementGone", str(error))
    ctx.forget("gone")
    return found


# 1 drain-traffic-now ---------------------------------------------------------------------------------


def remember_base(ctx: StepContext) -> dict[str, Any]:
    """What the drain is measured against, how far it may go at once, and since when the cell fails."""
    spec, name = ctx.placement.spec, ctx.cell.metadata.name
    least = next((p for p in TRIED if increments.bearing(ctx, spec, p).verdict is not Verdict.FAILED), 100)
    base = ctx.others_limit()
    router = ctx.ports.traffic.observed(ctx.router_key, window=seconds(ctx.policy.detection.window))
    traffic = router.cells.get(name) if router else None
    lost = 1.0 if traffic and traffic.check_up is False else traffic.error_rate if traffic else None
    return {
        "base": base,
        "limit": min(least, base),
        "expectedBefore": placement.expected_share(spec, name),
        **({"notServed": lost} if lost is not None else {}),
        **customers.remember_failure(ctx),
    }


async def drain_traffic_now(ctx: StepContext) -> Outcome:
    name, limit = ctx.cell.metadata.name, int(ctx.data["limit"])
    if ctx.own_hold is None:
        worth = drain.worth_draining(ctx.placement.spec, ctx.routing, name, limit, ctx.data.get("notServed", 1.0))
        if limit >= int(ctx.data["base"]) or not worth.worth:
            return Done(f"Traffic left where it is for now: {worth.message}", data={"drained": False})
    return await _at_once(ctx, limit)


async def _at_once(ctx: StepContext, percent: int) -> Outcome:
    """To this limit in one change; done when every router pod has applied it and no figure speaks against it."""
    name, hold = ctx.cell.metadata.name, ctx.own_hold
    if hold is None or hold.max_percent != percent:

        def room(spec: PlacementSpec) -> Bearing:
            return increments.bearing(ctx, spec, percent)

        if refused := await increments.ensure_limit(ctx, percent, "drained at once", room=room):
            return Fail("NoCapacity", refused)
        ctx.elapsed(f"apply-{percent}")
    if not ctx.applied():
        limit = seconds(ctx.policy.steps.apply_timeout)
        if ctx.elapsed(f"apply-{percent}") >= limit:
            return Fail(
                "NotApplied",
                f"The router did not apply {percent} % for cell {name} within {duration_text(limit)}: see the"
                f" conditions of Router {ctx.router.metadata.name}",
            )
        return Wait(LOOK_AGAIN, "Waiting for the router's pods to apply the change")
    passed = ctx.elapsed(f"at-{percent}")
    seen = increments.drained_as_expected(ctx, percent)
    if seen.verdict is Verdict.PASSED:
        return Done(f"Cell {name} was drained to {percent} %; {seen.message}", data={"drained": True})
    if seen.verdict is Verdict.FAILED:
        if passed >= increments.patience(ctx, seconds(ctx.policy.steps.apply_timeout)):
            return Fail("TrafficNotDraining", f"At {percent} %: {seen.message}")
        return Wait(LOOK_AGAIN, seen.message)
    if passed >= seconds(ctx.policy.detection.window):
        return Done(
            f"Cell {name} was drained to {percent} %: every router pod has applied it ({seen.message})",
            data={"drained": True},
        )
    return Wait(1.0, seen.message)


# 2 check-capacity ------------------------------------------------------------------------------------


async def check_capacity(ctx: StepContext) -> Outcome:
    """What the others could not bear leaves once there are emergency cells that can."""
    if provisioning.well_by_itself(ctx):
        return Recovered(f"Cell {ctx.cell.metadata.name} is healthy again by itself; nothing was moved")
    bearing = increments.bearing(ctx, ctx.placement.spec, 0)
    made = list(ctx.data.get("emergencyCells", ()))
    if bearing.verdict is Verdict.FAILED and ctx.cascade:
        return Done(f"{bearing.message}: {ctx.cascade} turns away what is too much, and sees to capacity")
    if bearing.verdict is Verdict.FAILED and ctx.routing.shared and not made:
        return await _make_emergency_cells(ctx, bearing.message)
    for cell in filter(None, map(ctx.sibling, made)):
        await provisioning.weigh(ctx, cell)
    if made and not ctx.applied():
        return Wait(LOOK_AGAIN, "Waiting for the router's pods to send customers to the emergency cells")
    if made and bearing.verdict is Verdict.FAILED:
        limit = seconds(ctx.policy.steps.apply_timeout)
        if ctx.elapsed("relieved") < limit:
            return Wait(LOOK_AGAIN, f"Waiting for the emergency cells to take load: {bearing.message}")
        return Fail("NoCapacity", f"Even with {listed(made)}: {bearing.message}")
    if ctx.of("drain-traffic-now").get("drained") and placement.limit(ctx.placement.spec, ctx.cell.metadata.name):
        outcome = await _at_once(ctx, 0)
        return Done(f"{bearing.message}; {outcome.message}") if isinstance(outcome, Done) else outcome
    return Done(bearing.message)


async def _make_emergency_cells(ctx: StepContext, cause: str) -> Outcome:
    """Recorded when all are there: from then on they are given their weight."""
    count = ctx.policy.replacement.emergency_cells
    names = []
    for number in range(1, count + 1):
        outcome = await provisioning.make(ctx, Purpose.EMERGENCY, number)
        if not isinstance(outcome, Done):
            return outcome
        names.append((outcome.data or {})["cell"])
    if not names:
        return Fail("NoCapacity", f"{cause}, and replacement.emergencyCells is 0")
    return Wait(0.0, f"Emergency cells are ready: {listed(names)}", data={"emergencyCells": names})


# 3 provision-replacement -----------------------------------------------------------------------------


async def provision_replacement(ctx: StepContext) -> Outcome:
    if not ctx.data.get("broken"):
        if provisioning.well_by_itself(ctx):
            return Recovered(f"Cell {ctx.cell.metadata.name} is healthy again by itself; nothing was moved")
        if failed := _corrupted(ctx):
            return failed
    return await provisioning.make(ctx, Purpose.REPLACEMENT)


# 4 move-customers ------------------------------------------------------------------------------------


def _give_up(reason: str, cause: str, escalate_to: Strategy | None = None) -> Wait:
    """Before anybody was routed. Recorded first: then the source and its writes go on, and the new cell goes, before
    the step fails."""
    facts = {"gaveUp": reason, "cause": cause[:512], **({"escalateTo": escalate_to.value} if escalate_to else {})}
    return Wait(0.0, cause, reason=reason, data=facts)


async def _given_up(ctx: StepContext) -> Outcome:
    """What was begun is undone, then the step fails; what could not be undone is said."""
    made = str(ctx.of("provision-replacement").get("cell"))
    undoing: tuple[Callable[[], Awaitable[Outcome]], ...] = (
        lambda: fencing.unfence(ctx, corrupted=customers.known_corrupted(ctx)),
        lambda: customers.abandon(ctx, made),
        lambda: provisioning.remove(ctx, Purpose.REPLACEMENT),
    )
    told = [str(ctx.data["cause"])]
    for undo in undoing:
        undone = await undo()
        if not isinstance(undone, Done):
            return undone
        if (undone.data or {}).get("remains"):
            told.append(undone.message)
    return Fail(
        str(ctx.data["gaveUp"]),
        ". ".join(told),
        escalate_to=Strategy(ctx.data["escalateTo"]) if "escalateTo" in ctx.data else None,
        states=KNOWN_CORRUPTED if ctx.data.get("escalateTo") == CORRUPTED else None,
    )


async def move_customers(ctx: StepContext) -> Outcome:
    if "gaveUp" in ctx.data:
        return await _given_up(ctx)
    if failed := _corrupted(ctx):
        return _give_up(failed.reason, failed.message, CORRUPTED)
    target = _there(ctx)
    if isinstance(target, Wait):
        return target
    outcome = await customers.move(ctx, target)
    return _give_up(outcome.reason, outcome.message, outcome.escalate_to) if isinstance(outcome, Fail) else outcome


# 5 route-replacement ---------------------------------------------------------------------------------


def remember_slots(ctx: StepContext) -> dict[str, Any]:
    return handover.remember_slots(ctx, customers.failed_slots(ctx, ctx.of("move-customers")))


async def route_replacement(ctx: StepContext) -> Outcome:
    """Whatever fails before the first slot is undone: a stopped source is no home for anybody."""
    if "gaveUp" in ctx.data:
        return await _given_up(ctx)
    target = _there(ctx)
    if isinstance(target, Wait):
        return target
    moved, unrouted = ctx.of("move-customers"), not placement.has_customers(ctx.placement.spec, target.metadata.name)
    if unrouted and moved.get("path") == "Migrate" and (failed := _corrupted(ctx)):
        return _give_up(failed.reason, failed.message, CORRUPTED)
    left_out = customers.failed_slots(ctx, moved)
    if left_out and moved.get("path") == "Migrate" and "givenBack" not in ctx.data:
        return await _give_back(ctx, target)
    limit = handover.time_to_route(ctx.policy)
    if unrouted and ctx.elapsed("routing") >= limit:
        told = f"No slot of {ctx.cell.metadata.name} could be routed within {duration_text(limit)}"
        return _give_up("DeadlineExceeded", told)
    outcome = await handover.route(ctx, target, left_out)
    if isinstance(outcome, Fail) and unrouted:
        return _give_up(outcome.reason, outcome.message, outcome.escalate_to)
    return outcome


async def _give_back(ctx: StepContext, target: Cell) -> Outcome:
    """While the source still runs: whoever stays behind there can write again once a person starts it anew."""
    outcome = await customers.give_back(ctx, target, ctx.of("move-customers"))
    if not isinstance(outcome, Done):
        return outcome
    return Wait(0.0, outcome.message, data={"givenBack": True, **(outcome.data or {})})


def time_to_route(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds: giving back those who stay behind, routing, and undoing it where no slot could be routed."""
    return handover.time_to_route(policy) + 2 * customers.UNDOING


# 6 validate-replacement ------------------------------------------------------------------------------


async def validate_replacement(ctx: StepContext) -> Outcome:
    duration = seconds(ctx.policy.validation.duration)
    outcome = await validating.watch(ctx, replacement(ctx), duration, reject_on_failure=True)
    if isinstance(outcome, Done):
        await provisioning.weigh(ctx, replacement(ctx))
    return outcome


# 7 decommission-failed-cell --------------------------------------------------------------------------


async def decommission_failed_cell(ctx: StepContext) -> Outcome:
    return await handover.decommission(ctx, replacement(ctx), ctx.of("move-customers"))


# what it would do ------------------------------------------------------------------------------------


def rehearse_drain(ctx: StepContext) -> str:
    plan = remember_base(ctx)
    return f"Would lower cell {ctx.cell.metadata.name} to {plan['limit']} % of its customers at once"


def rehearse_move(ctx: StepContext) -> str:
    slots = len(placement.slots_of(ctx.placement.spec, ctx.cell.metadata.name))
    if ctx.routing.shared:
        return "Would move nothing: the cells share their data"
    return f"Would move the customers of {slots} slots, or restore them from the newest backup"


TRAFFIC_DRAIN_AND_REPLACE = Procedure(
    name=Strategy.TRAFFIC_DRAIN_AND_REPLACE,
    version=1,
    steps=(
        Step(
            "drain-traffic-now",
            RunPhase.DRAINING,
            "Take the cell's traffic away at once, as much as the others can bear",
            drain_traffic_now,
            increments.time_at_once,
            rehearse=rehearse_drain,
            prepare=remember_base,
        ),
        Step(
            "check-capacity",
            RunPhase.DRAINING,
            "Check that the others can bear the load, or make emergency cells",
            check_capacity,
            provisioning.time_to_make,
            rehearse=lambda ctx: increments.bearing(ctx, ctx.placement.spec, 0).message,
        ),
        Step(
            "provision-replacement",
            RunPhase.RESTORING,
            "Make a new cell from the template; it serves nobody yet",
            provision_replacement,
            provisioning.time_to_make,
            rehearse=provisioning.rehearse,
        ),
        Step(
            "move-customers",
            RunPhase.RESTORING,
            "Move the customers to the new cell, from the failed one or from a backup",
            move_customers,
            lambda policy: 2 * seconds(policy.replacement.data_timeout),
            rehearse=rehearse_move,
            moves=True,
        ),
        Step(
            "route-replacement",
            RunPhase.PROMOTING,
            "Stop the failed cell and give its customers to the new one, in increments",
            route_replacement,
            time_to_route,
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
    on_abort=returning.WAY_BACK,
    on_recovered=returning.WAY_BACK,
    result=result_of,
)
