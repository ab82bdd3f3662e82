"""Emergency cells: as many as failed and two, within the policy's limits, all at once.

They are made only where they can help: customers' data is shared, and a failed cell names a template. One that cannot
be made does not stop the recovery. One that comes up and fails the very check that the failed cells fail says that the
cause is shared, and holds everything (rule 10).
"""

from typing import Any

from recell.api import Cell
from recell.api.failure import Verdict
from recell.api.meta import seconds
from recell.api.recovery_policy import EmergencyCellsAfter
from recell.domain import cascade, placement
from recell.domain.health import Level
from recell.domain.provisioning import Purpose, name_of
from recell.domain.wording import clipped, listed
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext, on_cell
from recell.procedures import provisioning
from recell.procedures.cascade import fleet, relieving
from recell.procedures.cascade.memory import state, unrecovered

STEP = "provision-emergency-capacity"


def remember(ctx: StepContext) -> dict[str, Any]:
    """Of which cell they are copies, and how many are made."""
    source, spec = _source(ctx), ctx.placement.spec
    if source is None:
        return {"count": 0}
    idle = placement.idle(ctx.ports.store.cells_of(ctx.router_key), spec)
    failed = len(state(ctx).get("cells", ()))
    return {"source": source.metadata.name, "count": cascade.emergency_cells(failed, len(idle), ctx.policy)}


def _source(ctx: StepContext) -> Cell | None:
    """The first failed cell that names a template."""
    cells = map(ctx.sibling, state(ctx).get("cells", ()))
    return next((cell for cell in cells if cell is not None and cell.spec.template_ref is not None), None)


def rehearse(ctx: StepContext) -> str:
    if not ctx.routing.shared:
        return "Would make none: the customers' data is in their cells"
    failed = fleet.look(ctx).failed
    idle = placement.idle(ctx.ports.store.cells_of(ctx.router_key), ctx.placement.spec)
    return f"Would make {cascade.emergency_cells(len(failed), len(idle), ctx.policy)} emergency cells"


async def make(ctx: StepContext) -> Outcome:
    count, source = int(ctx.data.get("count", 0)), ctx.sibling(str(ctx.data.get("source", "")))
    if not ctx.routing.shared:
        return Done("No emergency cells: the customers' data is in their cells, so another cell could not serve them")
    if source is None:
        return Done("No emergency cells: no failed cell names a template (spec.templateRef)")
    if not count:
        return Done("No emergency cells: cascade.maxEmergencyCells or limits.maxMadeCells allows none")
    of_source = on_cell(ctx, source)
    ready: list[str] = []
    waiting: list[str] = []
    failed: list[str] = []
    notes: dict[str, Any] = {}
    for number in range(1, count + 1):
        key = f"cell{number}"
        if "failed" in ctx.data.get(key, {}):
            failed.append(str(ctx.data[key]["failed"]))
            continue
        outcome = await provisioning.make(on_cell(of_source, source, ctx.data.get(key, {})), Purpose.EMERGENCY, number)
        if isinstance(outcome, Done):
            ready.append(str((outcome.data or {})["cell"]))
        elif isinstance(outcome, Fail):
            notes[key] = {"failed": clipped(outcome.message, 200)}
        elif isinstance(outcome, Wait):
            waiting.append(outcome.message)
            if outcome.data:
                notes[key] = {**ctx.data.get(key, {}), **outcome.data}
    if shared := _shared_check(ctx, source, count):
        return relieving.ask(shared) if not relieving.accepted(ctx) else _given_up(ready, [*failed, *waiting])
    if notes:
        return Wait(0.0, f"Emergency cells: {len(ready)} of {count} are ready", data=notes)
    if waiting:
        return Wait(LOOK_AGAIN, f"{len(ready)} of {count} emergency cells are ready; {listed(waiting, 2)}")
    return await _use(ctx, source, ready, failed)


def _given_up(ready: list[str], failed: list[str]) -> Done:
    told = f"Emergency cells fail as the others do, which a person knows: {len(ready)} are ready; {listed(failed, 2)}"
    return Done(clipped(told), data={"emergencyCells": ready})


async def _use(ctx: StepContext, source: Cell, ready: list[str], failed: list[str]) -> Outcome:
    """They get the weight of the cell that they are copies of, and then there is more room for the customers."""
    for cell in filter(None, map(ctx.sibling, ready)):
        await ctx.ports.provisioner.weigh(cell, source.spec.weight)
    if not ctx.data.get("used"):
        return Wait(0.0, f"{len(ready)} emergency cells take load", data={"used": True, "emergencyCells": ready})
    patient = ctx.elapsed("taken in") < 2 * seconds(ctx.policy.steps.apply_timeout)
    if ready and patient and not (_listed_with_weight(ctx, ready) and ctx.applied()):
        ctx.forget("in use")
        return Wait(LOOK_AGAIN, "Waiting until the router sends customers to the emergency cells")
    window, passed = seconds(ctx.policy.detection.window), ctx.elapsed("in use")
    if ready and passed < window:  # figures from before would say that the others get what is elsewhere by now
        return Wait(min(LOOK_AGAIN, window - passed), "Waiting for figures of the load with the emergency cells")
    told = f"Emergency cells: {listed(ready) or 'none'}"
    if failed:
        told += f"; not made: {listed(failed, 2)}"
    return Done(clipped(told), data={"relief": relieving.reconsider(ctx)} if ready else None)


def _listed_with_weight(ctx: StepContext, names: list[str]) -> bool:
    weights = {cell.name: cell.weight for cell in ctx.placement.spec.cells}
    return all(weights.get(name) or ctx.sibling(name) is None for name in names)


def _shared_check(ctx: StepContext, source: Cell, count: int) -> str:
    """A fresh cell that fails what every failed cell fails; empty when there is none."""
    failed = [checks for name in state(ctx).get("cells", ()) if (checks := _failing(ctx, name))]
    for number in range(1, count + 1):
        name = name_of(source, ctx.run.metadata.uid, Purpose.EMERGENCY, number)
        level = ctx.ports.observer.health((ctx.run.metadata.namespace, name))
        if level is None or level.level is not Level.FAILED or not failed:
            continue
        if shared := cascade.same_check(failed, _failing(ctx, name)):
            return (
                f"Cell {name}, made just now from the template, fails the same check as the others ({listed(shared)})"
            )
    return ""


def _failing(ctx: StepContext, name: str) -> set[str]:
    found = ctx.ports.observer.failure((ctx.run.metadata.namespace, name))
    return {e.check for e in found.evidence if e.verdict is Verdict.FAILED} if found else set()


async def retire(ctx: StepContext) -> Outcome | None:
    """By policy, and only while the others can bear what they serve; None when there is nothing (more) to do."""
    made = [name for name in ctx.of(STEP).get("emergencyCells", ()) if ctx.sibling(name) is not None]
    if ctx.policy.cascade.emergency_cells_after is EmergencyCellsAfter.KEEP or not made or ctx.data.get("kept"):
        return None
    lost = unrecovered(ctx)
    if lost:
        return Wait(0.0, f"Emergency cells stay, for {listed(lost)} was not recovered", data={"kept": True})
    needed = cascade.need(
        ctx.placement.spec,
        ctx.routing,
        relieving.traffic(ctx),
        dict.fromkeys(made, 0),
        made,
        relieving.capacities(ctx),
        relieving.headroom(ctx),
        holder=ctx.holder,
    )
    begun = bool(ctx.data.get("retiring"))
    if needed.lacking is None or (needed.lacking > 0 and not begun):
        return Wait(0.0, f"Emergency cells stay: {needed.message}", data={"kept": True})
    if not begun:
        return Wait(0.0, f"Emergency cells are retired: {listed(made)}", data={"retiring": True})
    source, left = ctx.sibling(str(ctx.of(STEP).get("source", ""))), list[str]()
    if source is None:  # it went with its own recovery, and the template's names with it
        return Wait(0.0, f"Emergency cells stay: {listed(made)}", reason="LeftBehind", data={"kept": True})
    for number in range(1, int(ctx.of(STEP).get("count", 0)) + 1):
        gone = await _take_away(on_cell(ctx, source), number)
        left += [gone] if gone else []
    if left and ctx.elapsed("retiring") < provisioning.REMOVAL:
        return Wait(LOOK_AGAIN, f"Retiring emergency cells: {listed(left, 2)}")
    if left:
        told = f"Left behind of emergency cells: {listed(left, 2)}"
        return Wait(0.0, told, reason="LeftBehind", data={"kept": True})
    return Wait(0.0, "Emergency cells are retired", data={"kept": True})


async def _take_away(ctx: StepContext, number: int) -> str:
    """First the weight, by which its customers go to the others; then the cell. Empty when it is gone."""
    name = name_of(ctx.cell, ctx.run.metadata.uid, Purpose.EMERGENCY, number)
    cell = ctx.sibling(name)
    if cell is not None and cell.spec.weight:
        await ctx.ports.provisioner.unweigh(cell)
        return f"{name}: its customers go to the others"
    if cell is not None and placement.has_customers(ctx.placement.spec, name):
        return f"{name}: waiting until its customers have gone"
    outcome = await provisioning.remove(ctx, Purpose.EMERGENCY, number)
    return "" if isinstance(outcome, Done) and not outcome.data else outcome.message
