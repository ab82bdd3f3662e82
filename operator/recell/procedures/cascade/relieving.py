"""What is held while cells are recovered: shedding, the failed cells' drains, quarantined slots, open circuits.

What is to hold stands in the run's record before it is asked of Placement (`relief` in a step's data; the newest
counts), so that a run killed here goes on with the same. Every step tends it: cells that fail meanwhile are taken in,
and what would expire is renewed. A cell that has a run of its own is left to that run.
"""

from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any

from recell.api.failure import FailureType, Verdict
from recell.api.meta import fraction, seconds
from recell.api.placement import Hold, HoldState, PlacementSpec
from recell.api.router import Capability
from recell.domain import cascade, drain, placement, shedding
from recell.domain.capabilities import capabilities, shedding_obstacle
from recell.domain.observation import RouterTraffic
from recell.domain.wording import clipped, listed
from recell.engine.outcome import Ask, Done, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures.cascade import fleet
from recell.procedures.cascade.memory import State, begun, ended, out, state

LIFT = "lift-shedding"
"""Gate: lift the shedding although the cells do not seem to bear it."""
PUT_BACK = 3
"""Times that an increment is taken back before a person is asked."""


def traffic(ctx: StepContext) -> RouterTraffic | None:
    return ctx.ports.traffic.observed(ctx.router_key, window=seconds(ctx.policy.detection.window))


def relief(ctx: StepContext, failed: Collection[str], drained: Collection[str] | None = None) -> cascade.Relief:
    """What would be done for the customers of these cells."""
    return cascade.relief(
        ctx.placement.spec,
        ctx.routing,
        traffic(ctx),
        [name for name, worth in _worth(ctx, failed).items() if worth.worth] if drained is None else drained,
        failed,
        capacities(ctx),
        shedding.classes_of(ctx.router),
        ctx.policy,
        headroom(ctx),
        holder=ctx.holder,
    )


def capacities(ctx: StepContext) -> dict[str, int | None]:
    cells = ctx.ports.store.cells_of(ctx.router_key)
    return {name: cell.spec.capacity.requests_per_second for name, cell in cells.items()}


def headroom(ctx: StepContext) -> float:
    return fraction(ctx.policy.limits.capacity_headroom)


def _worth(ctx: StepContext, cells: Iterable[str]) -> dict[str, drain.Worth]:
    """Rule 14, of each."""
    spec, seen = ctx.placement.spec, traffic(ctx)
    return {name: drain.worth_draining(spec, ctx.routing, name, 0, _not_served(seen, name)) for name in cells}


def _not_served(seen: RouterTraffic | None, cell: str) -> float:
    """Part of its requests that a failed cell does not serve; all, where nobody knows."""
    of = seen.cells.get(cell) if seen else None
    rate = of.error_rate if of is not None and of.check_up is not False else None
    return 1.0 if rate is None else rate


# --- what is to hold


def remember(ctx: StepContext) -> dict[str, Any]:
    """For the cells that were found failed."""
    return {"relief": _anew(ctx, {}, ctx.of("assess-damage").get("cells", ()))}


def _anew(ctx: StepContext, known: State, cells: Iterable[str]) -> dict[str, Any]:
    """What is to hold for these failed cells; shedding only grows by it."""
    failed = list(cells)
    poison = cascade.poison(ctx.placement.spec, _failing_since(ctx, failed), _poison_window(ctx))
    spared = sorted({*known.get("spared", ()), *poison.spared})
    before = set(known.get("drained", ()))
    worth = _worth(ctx, [name for name in failed if name not in before])
    drained = [name for name in failed if (name in before or worth[name].worth) and name not in spared]
    found = relief(ctx, failed, drained)
    shed = _more(known.get("shed", {}), found.plan.percents)
    return {
        "cells": failed,
        "drained": drained,
        "spared": spared,
        "keep": found.keep,
        "shed": shed,
        "quarantined": int(known.get("quarantined", 0)) + len(poison.slots),
        "message": found.message[:512],
        "left": clipped(listed(found.message for found in worth.values() if not found.worth), 512),
    }


def _failing_since(ctx: StepContext, cells: Iterable[str]) -> dict[str, Any]:
    states = {name: ctx.ports.observer.health((ctx.run.metadata.namespace, name)) for name in cells}
    return {name: known.failing_since or known.since for name, known in states.items() if known is not None}


def _poison_window(ctx: StepContext) -> timedelta:
    return timedelta(seconds=seconds(ctx.policy.cascade.poison_window))


# --- holding it


async def tend(ctx: StepContext) -> Outcome | None:
    """Take in cells that failed meanwhile, and hold what is to hold; None when the step may go on."""
    known, found = state(ctx), fleet.look(ctx)
    new = [name for name in found.failed if name not in known.get("cells", ())]
    if not new:
        await hold(ctx, known)
        return None
    if found.systemic and not accepted(ctx):
        await hold(ctx, known)
        return ask(found.systemic)
    order = cascade.order(found.cells, ctx.placement.spec, new)
    grown = _anew(ctx, known, [*known.get("cells", ()), *order])
    told = f"{listed(order)} failed too; {grown['message']}"
    return Wait(0.0, told, reason="SpreadingFailure", data={"relief": grown})


def ask(systemic: str) -> Ask:
    return Ask(
        cascade.SYSTEMIC,
        f"{systemic}: the cause is likely shared (network, DNS, a common dependency, a bad release), so nothing more is"
        " moved, made or restarted. Look there first; approve to recover the cells all the same",
    )


def accepted(ctx: StepContext) -> bool:
    """A person knows that the cause may be shared: by this gate in any step, or by starting a run that said so."""
    decision = ctx.run.status.decision
    if decision is not None and decision.inputs is not None and decision.inputs.type is FailureType.SYSTEMIC:
        return True
    opened = {gate for step in ctx.run.status.steps for gate in (step.data or {}).get("approved", ())}
    return cascade.SYSTEMIC in opened | ctx.approved


async def hold(ctx: StepContext, wanted: State) -> None:
    """Placement holds what is recorded, and nothing of it expires soon. No write when it does."""
    lasts = timedelta(seconds=seconds(ctx.policy.cascade.expires))
    until, renew_before = (ctx.now + lasts).replace(microsecond=0), ctx.now + lasts / 2
    failing_since, window = _failing_since(ctx, wanted.get("cells", ())), _poison_window(ctx)
    left_alone = begun(ctx)
    held = [name for name in wanted.get("drained", ()) if name not in left_alone]
    promised = relief(ctx, wanted.get("cells", ()), held).need.extra if ctx.step == "shed-load" else {}

    def change(spec: PlacementSpec) -> PlacementSpec:
        poison = cascade.poison(spec, failing_since, window)
        spec = placement.quarantine(
            spec, ctx.routing, poison.slots, holder=ctx.holder, since=ctx.now.replace(microsecond=0),
            reason="their cell failed, and so did the one that took them over",
        )  # fmt: skip
        spec = shedding.shed(spec, wanted.get("shed", {}), holder=ctx.holder, until=until, renew_before=renew_before)
        spec = shedding.open_circuits(
            spec, _spared(ctx, spec, wanted, left_alone), circuit_percent(ctx),
            holder=ctx.holder, until=until, renew_before=renew_before,
        )  # fmt: skip
        for name in held:
            spec = _held(ctx, spec, name, int(wanted.get("keep", 100)))
        return placement.reserve(spec, ctx.holder, promised)

    await ctx.ports.switchboard.change(ctx.router_key, change)


async def renew(ctx: StepContext) -> bool:
    """What is shed and spared stays so, as far as it was not lifted since; nothing is begun. Whether any is left."""
    lasts, wanted = timedelta(seconds=seconds(ctx.policy.cascade.expires)), state(ctx).get("shed", {})
    until, renew_before = (ctx.now + lasts).replace(microsecond=0), ctx.now + lasts / 2

    def change(spec: PlacementSpec) -> PlacementSpec:
        in_force = shedding.percents(spec, ctx.holder)
        shed = {name: amount for name, amount in wanted.items() if name in in_force}
        opened = [item.cell for item in spec.open_circuits if item.holder == ctx.holder]
        spec = shedding.shed(spec, shed, holder=ctx.holder, until=until, renew_before=renew_before)
        spec = shedding.open_circuits(
            spec, opened, circuit_percent(ctx), holder=ctx.holder, until=until, renew_before=renew_before
        )  # fmt: skip
        return placement.unreserve(spec, ctx.holder)

    placed = await ctx.ports.switchboard.change(ctx.router_key, change)
    return bool(shedding.percents(placed.spec, ctx.holder))


def _held(ctx: StepContext, spec: PlacementSpec, name: str, percent: int) -> PlacementSpec:
    """The run's own hold; what an ended run left held is taken over."""
    for left in placement.orphaned(spec, ctx.living):
        if left.cell == name and left.state is HoldState.DRAINING:
            spec = placement.release(spec, ctx.routing, holder=left.holder, cell=name)
    reason = "failed together with others; its customers are served elsewhere"
    hold = Hold(
        cell=name, max_percent=percent, state=HoldState.DRAINING, holder=ctx.holder, reason=reason,
        since=ctx.now.replace(microsecond=0),
    )  # fmt: skip
    return placement.hold(spec, ctx.routing, hold)


def _spared(ctx: StepContext, spec: PlacementSpec, wanted: State, left_alone: set[str]) -> list[str]:
    """Cells whose circuits are open: those that failed, until their own run gives them traffic back.

    None is opened that would turn away more requests than the cell fails to serve (rule 14).
    """
    opened = any((step.data or {}).get("opened") for step in ctx.run.status.steps)
    if not opened or Capability.CIRCUIT_BREAKERS not in capabilities(ctx.router):
        return []
    still = {item.cell for item in spec.open_circuits if item.holder == ctx.holder}
    over, seen, spared = set(ended(ctx)), traffic(ctx), circuit_percent(ctx) / 100

    def opens(name: str) -> bool:
        return name in still or (name not in left_alone and _not_served(seen, name) >= spared)

    return [
        name
        for name in wanted.get("cells", ())
        if name not in over and opens(name) and placement.index_of(spec, name) >= 0
    ]


def circuit_percent(ctx: StepContext) -> int:
    return max(1, round(100 * fraction(ctx.policy.cascade.circuit_percent)))


def told(ctx: StepContext) -> str:
    """What holds, for the record."""
    known = state(ctx)
    parts = [str(known.get("message", ""))]
    if known.get("left"):
        parts.append(f"customers are left where they are: {known['left']}")
    if known.get("spared"):
        parts.append(f"{listed(known['spared'])} failed soon after taking customers over, and keep their own")
    if known.get("quarantined"):
        parts.append(f"{known['quarantined']} slots whose second cell failed too are served by nobody")
    if obstacle := shedding_obstacle(ctx.router):
        parts.append(f"nothing can be shed: {obstacle}")
    elif not shedding.classes_of(ctx.router):
        parts.append("nothing may be shed: Router.spec.shedding names no class that may be")
    return "; ".join(part for part in parts if part)


def reconsider(ctx: StepContext) -> dict[str, Any]:
    """After capacity was added: customers who had to stay at failed cells may leave. Shedding is eased by and by."""
    known = dict(state(ctx))
    keep = int(known.get("keep", 100))
    if not keep or not known.get("drained"):
        return known
    found = relief(ctx, known.get("cells", ()), known["drained"])
    if found.need.lacking is None or found.keep >= keep:
        return known
    return {**known, "keep": found.keep, "shed": _more(known.get("shed", {}), found.plan.percents)}


def _more(shed: Mapping[str, int], wanted: Mapping[str, int]) -> dict[str, int]:
    return {
        name: max(shed.get(name, 0), wanted.get(name, 0)) for name in [*wanted, *(n for n in shed if n not in wanted)]
    }


# --- lifting it


def ease(ctx: StepContext) -> Wait | None:
    """The next increment of lifting, if its time has come: nobody is shed longer than is needed."""
    outcome = lift(ctx)
    return outcome if isinstance(outcome, Wait) and outcome.data else None


def lift(ctx: StepContext) -> Outcome:
    """One increment after the other, each once the cells bear it and stay well; one that is not borne is taken back."""
    known = dict(state(ctx))
    shed: dict[str, int] = dict(known.get("shed", {}))
    if not ctx.applied():
        return Wait(LOOK_AGAIN, "Waiting for the router's pods to apply the change")
    if not shed:
        lifted = any((step.data or {}).get("lifted") for step in ctx.run.status.steps)
        return Done("Nothing is shed any more" if lifted else "Nothing had to be shed")
    label = f"shed-{sorted(shed.items())}"
    interval = max(seconds(ctx.policy.steps.increment_interval), seconds(ctx.policy.detection.window))
    gate_open = LIFT in ctx.approved
    failing = [] if gate_open else fleet.verdicts(ctx, out(ctx))[Verdict.FAILED]
    if failing:
        return _taken_back(ctx, known, label, listed(failing, 3))
    if ctx.elapsed(label) < interval:
        return Wait(min(LOOK_AGAIN, interval), f"Shedding {_amounts(shed)}, next increment after {interval:g} s")
    following = shedding.lifted(
        shed, shedding.classes_of(ctx.router) or tuple(shed), ctx.policy.cascade.lift_increments
    )
    if not gate_open and (lacking := _lacking(ctx, following)):
        if ctx.elapsed("lacking") >= seconds(ctx.policy.cascade.recovery_timeout):
            return Ask(LIFT, f"Shedding stays at {_amounts(shed)}: {lacking}. Approve to lift it all the same")
        return Wait(LOOK_AGAIN, f"Shedding stays at {_amounts(shed)}: {lacking}", reason="CapacityLacking")
    ctx.forget("lacking")
    return Wait(
        0.0,
        f"Shedding lowered to {_amounts(following)}",
        data={"relief": {**known, "shed": following}, "before": shed, "lifted": True},
    )


def _taken_back(ctx: StepContext, known: dict[str, Any], label: str, failing: str) -> Outcome:
    ctx.forget(label)
    before, times = ctx.data.get("before"), int(ctx.data.get("takenBack", 0))
    if times > PUT_BACK:
        return Ask(
            LIFT, f"Each time that shedding was lowered cells failed: {failing}. Approve to lift it all the same"
        )
    if before is None or before == known.get("shed"):
        return Wait(LOOK_AGAIN, f"Shedding stays for now: {failing}", reason="Unsteady")
    facts = {"relief": {**known, "shed": before}, "before": before, "takenBack": times + 1}
    return Wait(0.0, f"Shedding put back to {_amounts(before)}: {failing}", reason="PutBack", data=facts)


def _lacking(ctx: StepContext, shed: Mapping[str, int]) -> str:
    """Why the cells would not bear it with this little shedding; empty when they would, or nobody can say."""
    seen = traffic(ctx)
    found = cascade.need(
        ctx.placement.spec,
        ctx.routing,
        seen,
        {},
        out(ctx),
        capacities(ctx),
        headroom(ctx),
        holder=ctx.holder,
    )
    if found.lacking is None or found.lacking <= shedding.relieved(shed, seen) + shedding.NEGLIGIBLE:
        return ""
    return f"without it {found.message}"


def _amounts(shed: Mapping[str, int]) -> str:
    return listed(f"{amount} % of {name}" for name, amount in sorted(shed.items())) or "nothing"
