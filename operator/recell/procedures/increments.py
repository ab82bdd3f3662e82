"""Traffic in increments: down with each increment verified, up with each increment guarded.

What every procedure that moves traffic shares. The durable state of a ramp is the hold in Placement:
its value says which increment is in force, so that a crash neither loses nor repeats one.
"""

from collections.abc import Callable
from typing import Any

from recell.api import Cell
from recell.api.failure import Evidence, Strategy, Verdict
from recell.api.meta import duration_text, fraction, seconds
from recell.api.placement import Hold, HoldState, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import TargetKind
from recell.api.router import Verification
from recell.domain import drain, pace, placement, ramp, shedding
from recell.domain.capacity import Bearing, can_bear
from recell.domain.gate import health_gate
from recell.engine.outcome import Ask, Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext

SHOWN_AFTER = 10.0
"""Seconds without figures that belong to the ordinary course: a window has to lie wholly after each change."""


def time_for_all(policy: RecoveryPolicySpec) -> float:
    """Deadline of a whole ramp: every increment may wait for the data plane and for its figures."""
    steps = policy.steps
    each = seconds(steps.increment_interval) + seconds(steps.apply_timeout) + seconds(steps.inconclusive_timeout)
    return (steps.drain_increments + 1) * each


def time_at_once(policy: RecoveryPolicySpec) -> float:
    """Deadline of a change of the share in one step."""
    steps = policy.steps
    return 2 * seconds(steps.apply_timeout) + seconds(steps.inconclusive_timeout)


def bearing(ctx: StepContext, spec: PlacementSpec, percent: int) -> Bearing:
    """Whether the others can bear what leaves when the cell keeps so many percent of its homes."""
    cells = ctx.ports.store.cells_of(ctx.router_key)
    return can_bear(
        spec,
        ctx.routing,
        ctx.ports.traffic.observed(ctx.router_key, window=seconds(ctx.policy.detection.window)),
        {name: cell.spec.capacity.requests_per_second for name, cell in cells.items()},
        ctx.cell.metadata.name,
        percent,
        fraction(ctx.policy.limits.capacity_headroom),
        before=ctx.ports.observer.loads(ctx.router_key),
        holder=ctx.holder,
    )


def next_probe(cell: Cell) -> float:
    """Seconds within which the cell is probed once more, and answers or does not; their jitter included."""
    probe = cell.spec.health.probe
    return 1.1 * seconds(probe.interval) + seconds(probe.timeout) if probe else 0.0


Room = Callable[[PlacementSpec], Bearing]
"""Whether the others can bear what leaves, and what to reserve for it."""


async def ensure_limit(ctx: StepContext, percent: int, reason: str, *, room: Room | None = None) -> str | None:
    """The run's hold on the cell has this value, and what `room` asks for is reserved in the same write.

    Returns why not: `room` says no. It is asked of the Placement that is replaced, so that of two runs
    with room for one, one gets it (rule 17).
    """
    name = ctx.cell.metadata.name
    own = ctx.own_hold
    trusted = own is not None and percent > own.max_percent
    refusals: list[str] = []

    def change(spec: PlacementSpec) -> PlacementSpec:
        refusals.clear()
        if room is not None:
            bearing = room(spec)
            if bearing.verdict is Verdict.FAILED:
                refusals.append(bearing.message)
                return spec
            spec = placement.reserve(spec, ctx.holder, bearing.reservations)
        # What an ended run left held, or the one that this run works for, is taken over: the cell has one hold by
        # runs, not two, and its customers have been elsewhere since then.
        since = ctx.now
        for left in placement.orphaned(spec, ctx.stays):
            if left.cell == name and left.state is HoldState.DRAINING:
                spec = placement.release(spec, ctx.routing, holder=left.holder, cell=name)
                since = min(since, left.since) if left.max_percent == percent else since
        if trusted:  # customers who come back must not be turned away at the router
            spec = shedding.close_circuit(spec, name)
        hold = Hold(
            cell=name,
            max_percent=percent,
            state=HoldState.DRAINING,
            holder=ctx.holder,
            reason=reason,
            since=since,
        )
        return placement.hold(spec, ctx.routing, hold)

    await ctx.ports.switchboard.change(ctx.router_key, change)
    return refusals[0] if refusals else None


async def let_go(ctx: StepContext, *, keep_hold: bool = False) -> None:
    """Reservations go, and the hold unless it is kept; of a Router's run, the hold on this cell."""
    name, held = ctx.cell.metadata.name, ctx.own_hold is not None
    cell = name if ctx.run.spec.target_ref.kind is TargetKind.ROUTER else None

    def change(spec: PlacementSpec) -> PlacementSpec:
        spec = placement.unreserve(spec, ctx.holder)
        if keep_hold:
            return spec
        spec = shedding.close_circuit(spec, name) if held else spec
        return placement.release(spec, ctx.routing, holder=ctx.holder, cell=cell)

    await ctx.ports.switchboard.change(ctx.router_key, change)


def inconclusive(ctx: StepContext, gate: str, message: str) -> Outcome:
    """Figures are missing: wait for them, then ask a person."""
    if gate in ctx.approved:
        return Done(f"Accepted by a person without figures: {message}")
    limit, waited = seconds(ctx.policy.steps.inconclusive_timeout), ctx.elapsed("inconclusive")
    if waited >= limit:
        return Ask(gate, f"For {duration_text(limit)} there were no figures: {message}. Approve to go on without them")
    return Wait(LOOK_AGAIN, message, reason="Inconclusive" if waited >= SHOWN_AFTER else "", observed=False)


def _settled(ctx: StepContext, percent: int) -> Outcome | None:
    """None once the data plane has applied the limit and the increment's interval has been looked at."""
    if not ctx.applied():
        ctx.forget(f"at-{percent}")
        limit = seconds(ctx.policy.steps.apply_timeout)
        waited = ctx.elapsed(f"apply-{percent}")
        if waited >= limit:
            return Fail(
                "NotApplied",
                f"The router did not apply {percent} % for cell {ctx.cell.metadata.name} within"
                f" {duration_text(limit)}: see the conditions of Router {ctx.router.metadata.name}",
            )
        return Wait(min(LOOK_AGAIN, limit - waited), "Waiting for the router's pods to apply the change")
    ctx.forget(f"apply-{percent}")
    interval = seconds(ctx.policy.steps.increment_interval)
    passed = ctx.elapsed(f"at-{percent}")
    if passed < interval:
        return Wait(min(LOOK_AGAIN, interval - passed), f"{percent} % in force, next increment after {interval:g} s")
    return None


def _window(ctx: StepContext) -> float:
    return min(seconds(ctx.policy.detection.window), max(seconds(ctx.policy.steps.increment_interval), 2.0))


def patience(ctx: StepContext, least: float) -> float:
    """Seconds for which figures that speak against a drain may still be of those who were there before it: at least
    this, and where it is a whole one until their connections were closed."""
    if placement.expected_share(ctx.placement.spec, ctx.cell.metadata.name) > 0:
        return least
    return max(least, pace.empty_after(ctx.router, _window(ctx)))


def drained_as_expected(ctx: StepContext, percent: int) -> Evidence:
    """Observed traffic against the expected, on a window wholly after the change (rule 28)."""
    steps, spec, name = ctx.policy.steps, ctx.placement.spec, ctx.cell.metadata.name
    verification = ctx.router.spec.verification
    if verification is not Verification.OBSERVED:
        settle = seconds(ctx.policy.detection.window)
        return drain.published(name, verification, in_force_for=ctx.elapsed(f"at-{percent}"), settle=settle)
    changed_at = ctx.since(f"at-{percent}")
    return drain.verify(
        name,
        expected_before=float(ctx.data.get("expectedBefore", placement.home_share(spec, name))),
        expected_after=placement.expected_share(spec, name),
        observed=ctx.ports.traffic.observed(ctx.router_key, window=_window(ctx), not_before=changed_at),
        tolerance=fraction(steps.drain_tolerance),
        floor=steps.drain_floor,
        changed_at=changed_at,
        baseline=ctx.data.get("measuredBefore"),
        baseline_requests=int(ctx.data.get("measuredOf", 0)),
    )


async def down(ctx: StepContext, values: tuple[int, ...], *, room: Room) -> Outcome:
    """Lower the cell's limit through these values; after each the traffic must have left."""
    name = ctx.cell.metadata.name
    hold = ctx.own_hold
    if hold is None or hold.max_percent not in values:
        first = f"increment 1 of {len(values)}"
        if refused := await ensure_limit(ctx, values[0], first, room=room):
            return Fail("NoCapacity", refused, escalate_to=Strategy.TRAFFIC_DRAIN_AND_REPLACE)
        ctx.elapsed(f"apply-{values[0]}")
        return Wait(LOOK_AGAIN, f"Cell {name} lowered to {values[0]} %")
    at = values.index(hold.max_percent)
    if waiting := _settled(ctx, hold.max_percent):
        return waiting
    seen = drained_as_expected(ctx, hold.max_percent)
    if seen.verdict is Verdict.FAILED:
        if ctx.elapsed(f"stays-{hold.max_percent}") < patience(ctx, _window(ctx)):
            return Wait(LOOK_AGAIN, f"Measured once more before it is believed: {seen.message}")
        return Fail("TrafficNotDraining", f"Increment {at + 1} of {len(values)} ({hold.max_percent} %): {seen.message}")
    ctx.forget(f"stays-{hold.max_percent}")
    if seen.verdict is Verdict.INCONCLUSIVE and "unverified-drain" not in ctx.approved:
        return inconclusive(ctx, "unverified-drain", seen.message)
    ctx.forget("inconclusive")
    if at + 1 == len(values):
        return Done(f"Cell {name} drained to {hold.max_percent} % in {len(values)} increments; {seen.message}")
    following = values[at + 1]
    await ensure_limit(ctx, following, f"increment {at + 2} of {len(values)}")
    ctx.elapsed(f"apply-{following}")
    return Wait(LOOK_AGAIN, f"Cell {name} lowered to {following} %")


def remember_way_back(ctx: StepContext) -> dict[str, Any]:
    """Between which limits the traffic returns. Worked out anew after each increment, they would never be kept."""
    hold, base = ctx.own_hold, ctx.others_limit()
    return {"start": hold.max_percent if hold else base, "base": base}


async def put_back(ctx: StepContext, start: int) -> int:
    """A cell that is not well keeps no more than it had before it was raised. Returns its limit then."""
    hold = ctx.own_hold
    if hold is None or hold.max_percent <= start:
        return hold.max_percent if hold else start
    await ensure_limit(ctx, start, "put back: it is not healthy any more")
    return start


async def up(ctx: StepContext, start: int, base: int, *, escalate_to: Strategy | None) -> Outcome:
    """Raise the cell's limit from where it started to `base` in the policy's increments, each as long as the policy
    says and guarded by the checks, and let go.

    A bad increment puts the limit back to the start and fails; what the probe alone says, while the router sees the
    cell answer, has to be said by the next probe too (rule 12). Before each raise the cell is looked at anew (rule 4).
    """
    name = ctx.cell.metadata.name
    hold = ctx.own_hold
    if hold is None:
        await let_go(ctx)
        return Done(f"Cell {name} has its traffic back")
    values = ramp.increments(start, base, ctx.policy.steps.drain_increments)
    label = f"at-{hold.max_percent}"
    if hold.max_percent in values and (waiting := _settled(ctx, hold.max_percent)):
        return waiting
    if hold.max_percent not in values:
        ctx.elapsed(label)
    result = health_gate(ctx.evidence(not_before=ctx.since(label)))
    if result.verdict is Verdict.FAILED:
        if result.from_one_place and ctx.elapsed("one place") < next_probe(ctx.cell):
            return Wait(LOOK_AGAIN, f"Probed once more before it is believed: {result.message}")
        if hold.max_percent != start:
            await ensure_limit(ctx, start, f"put back: {result.message}"[:1024])
        return Fail(
            "RestoreFailed",
            f"At {hold.max_percent} % of its customers cell {name} failed again and was put back to {start} %:"
            f" {result.message}",
            escalate_to=escalate_to,
        )
    ctx.forget("one place")
    if result.verdict is Verdict.INCONCLUSIVE and "unverified-restore" not in ctx.approved:
        return inconclusive(ctx, "unverified-restore", result.message)
    ctx.forget("inconclusive")
    remaining = [value for value in values if value > hold.max_percent]
    if not remaining:
        await let_go(ctx)
        return Done(f"Cell {name} has its traffic back; {result.message}")
    await ensure_limit(ctx, remaining[0], f"increment {len(values) - len(remaining) + 1} of {len(values)}")
    ctx.elapsed(f"apply-{remaining[0]}")
    return Wait(LOOK_AGAIN, f"Cell {name} raised to {remaining[0]} %")
