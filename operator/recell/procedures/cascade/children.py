"""One run for each failed cell, one after another, each by the matrix for that cell alone.

A child is a RecoveryRun of its own (trigger Child, `escalatedFrom` the cascade), so that it can be watched, approved
and aborted by itself. Its name follows from the cascade and the cell. It takes over what the cascade holds of its
cell. A child that fails, or that waits for a person, does not stop the rest.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from recell.api import Cell, RecoveryRun
from recell.api.failure import FailureType
from recell.api.meta import (
    ANNOTATION_TARGET_UID,
    FINALIZER,
    LABEL_INCIDENT,
    LABEL_MADE_BY,
    LABEL_TARGET,
    LABEL_TARGET_KIND,
    ObjectMeta,
    seconds,
)
from recell.api.placement import Hold, HoldState
from recell.api.recovery_run import (
    RecoveryRunSpec,
    RunPhase,
    StatedFailure,
    TargetKind,
    TargetRef,
    Trigger,
)
from recell.domain import cascade, placement
from recell.domain.health import Level
from recell.domain.wording import clipped, listed
from recell.engine.admission import started
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext, on_cell
from recell.procedures import increments
from recell.procedures.cascade import fleet, relieving
from recell.procedures.cascade.memory import RECOVERED, child_name, child_of, ended, last_of, state, turns

GOOD = (RunPhase.SUCCEEDED, RunPhase.PARTIALLY_SUCCEEDED)


# --- one after another


async def recover(ctx: StepContext) -> Outcome:
    """Every failed cell has had its turn, and the others stayed well after each."""
    over = ended(ctx)
    if (last := ctx.data.get("watched")) and (waiting := _steady(ctx, str(last), over)):
        return waiting
    left = [name for name in state(ctx).get("cells", ()) if name not in over]
    if not left:
        return Done(_summary(over))
    order = cascade.order(fleet.look(ctx).cells, ctx.placement.spec, left)
    for name in sorted(order, key=lambda cell: child_of(ctx, cell) is None):  # who has begun comes first
        outcome = await _turn(ctx, name)
        if outcome is not None:
            return outcome
    return Wait(LOOK_AGAIN, f"{listed(left)} wait for people, or for runs that finish first", reason="WaitsForOthers")


def _summary(over: Mapping[str, str]) -> str:
    lost = [f"{name} ({how})" for name, how in sorted(over.items()) if how != RECOVERED]
    good = f"{len(over) - len(lost)} of {len(over)} cells were recovered"
    return clipped(f"{good}; not: {listed(lost)}" if lost else good)


def _steady(ctx: StepContext, last: str, over: Mapping[str, str]) -> Wait | None:
    """After each cell; the ones that still wait for their turn are not held against it."""
    waiting = [name for name in state(ctx).get("cells", ()) if over.get(name) != RECOVERED]
    duration = seconds(ctx.policy.cascade.stability_between)
    if steadiness := fleet.steady(ctx, waiting, f"steady after {last}", duration):
        return steadiness
    ctx.forget(f"steady after {last}")
    ctx.forget(f"steady after {last} in all")
    return Wait(0.0, f"Steady after {last}", data={"watched": None})


async def _turn(ctx: StepContext, name: str) -> Outcome | None:
    """What there is to do for one cell; None while others may go before it."""
    cell = ctx.sibling(name)
    if cell is None:
        return _over(ctx, name, "the Cell was deleted")
    child = child_of(ctx, name)
    if child is None:
        if name in ctx.data.get("returning", ()) or _well(ctx, cell):
            return await _give_back(ctx, cell, "it is well again by itself")
        if at_work := _at_work(ctx, cell):
            return _making_way(ctx, name, at_work)
        if (out := _out_of_service(ctx, name)) is not None:
            replaced = out.state is HoldState.RETIRED  # by a run that finished first
            return _over(ctx, name, RECOVERED if replaced else f"{out.state} by {out.holder.name}: {out.reason}")
        made = await ctx.ports.records.create(_child(ctx, cell))
        return Wait(LOOK_AGAIN, f"{made.metadata.name} recovers {name}")
    last = last_of(ctx, child)
    if last.phase is RunPhase.AWAITING_APPROVAL:
        return None
    if not last.phase.ended:
        if ctx.elapsed(f"run of {name}") >= seconds(ctx.policy.cascade.recovery_timeout):
            return _over(ctx, name, f"{last.metadata.name} did not end within {ctx.policy.cascade.recovery_timeout}")
        doing = f"{last.phase} {last.status.step or ''}".strip()
        return Wait(LOOK_AGAIN, f"{last.metadata.name} recovers {name}: {doing}")
    if last.phase not in GOOD:
        return _over(ctx, name, f"{last.metadata.name} ended as {last.phase}: {last.status.summary or ''}")
    return await _give_back(ctx, cell, f"{last.metadata.name}: {last.status.summary or last.phase}")


def _over(ctx: StepContext, name: str, how: str) -> Wait:
    over = {**ended(ctx), name: how if how == RECOVERED else clipped(how, 200)}
    returning = [cell for cell in ctx.data.get("returning", ()) if cell != name]
    good = how == RECOVERED
    return Wait(
        0.0,
        f"Cell {name} is recovered" if good else f"Cell {name} is not recovered: {how}",
        reason="CellRecovered" if good else "CellNotRecovered",
        data={"ended": over, "watched": name, "returning": returning},
    )


async def _give_back(ctx: StepContext, cell: Cell, told: str) -> Outcome:
    """What the cascade still holds of a cell that is well, in increments, each guarded."""
    name = cell.metadata.name
    of_cell = on_cell(ctx, cell)
    hold = of_cell.own_hold
    if hold is None or of_cell.others_limit() == 0:  # it has its traffic back, or another cell took its place
        return _over(ctx, name, RECOVERED)
    returning = list(ctx.data.get("returning", ()))
    if name not in returning:
        return Wait(0.0, f"Giving {name} its customers back: {told}", data={"returning": [*returning, name]})
    outcome = await increments.up(of_cell, int(state(ctx).get("keep", 0)), 100, escalate_to=None)
    if isinstance(outcome, Done):
        return _over(ctx, name, RECOVERED)
    if isinstance(outcome, Fail):
        return _over(ctx, name, outcome.message)
    return outcome


def _well(ctx: StepContext, cell: Cell) -> bool:
    health = ctx.ports.observer.health(cell.key)
    return health is not None and health.level is Level.HEALTHY


def _out_of_service(ctx: StepContext, name: str) -> Hold | None:
    return next((h for h in ctx.placement.spec.holds if h.cell == name and h.state in placement.REMEMBERED), None)


def _at_work(ctx: StepContext, cell: Cell) -> list[RecoveryRun]:
    """Runs of its own that finish first: from the moving of customers on (rule 23), or until they have made way."""
    return [
        run
        for run in ctx.ports.store.runs_in(ctx.run.metadata.namespace)
        if started(run)
        and run.spec.target_ref.kind is TargetKind.CELL
        and run.spec.target_ref.name == cell.metadata.name
    ]


def _making_way(ctx: StepContext, name: str, at_work: list[RecoveryRun]) -> Wait | None:
    """Undoing what is temporary takes seconds, for which the order by priority is kept; other runs are gone round."""
    way = f"way of {name}"
    leaving = all(run.status.superseded_by == ctx.run.metadata.name for run in at_work)
    if not leaving or ctx.elapsed(way) >= seconds(ctx.policy.steps.apply_timeout):
        return None
    return Wait(LOOK_AGAIN, f"{listed(run.metadata.name for run in at_work)} makes way for the recovery of {name}")


def _child(ctx: StepContext, cell: Cell) -> RecoveryRun:
    meta, name = ctx.run.metadata, cell.metadata.name
    seen = relieving.traffic(ctx)
    of_cell = seen.cells.get(name) if seen else None
    rate = of_cell.error_rate if of_cell is not None and of_cell.check_up is not False else None
    return RecoveryRun(
        metadata=ObjectMeta(
            name=child_name(ctx, name),
            namespace=meta.namespace,
            labels={
                LABEL_MADE_BY: "recell",
                LABEL_TARGET_KIND: TargetKind.CELL,
                LABEL_TARGET: name,
                LABEL_INCIDENT: meta.labels.get(LABEL_INCIDENT, meta.name[:63]),
            },
            annotations={ANNOTATION_TARGET_UID: cell.metadata.uid},
            finalizers=[FINALIZER],
        ),
        spec=RecoveryRunSpec(
            target_ref=TargetRef(kind=TargetKind.CELL, name=name),
            failure=StatedFailure(
                type=FailureType.SINGLE_CELL,
                impact=cascade.alone(ctx.placement.spec, name, 1.0 if rate is None else rate),
            ),
            urgency=ctx.run.spec.urgency,
            trigger=Trigger.CHILD,
            escalated_from=meta.name,
            reason=f"{meta.name} recovers the cells of Router {ctx.router.metadata.name} one after another",
        ),
    )


def reopened(ctx: StepContext, names: Iterable[str]) -> dict[str, Any]:
    """Another turn for cells that failed again, with a run of another name."""
    numbers = {**turns(ctx).get("turns", {})}
    over = ended(ctx)
    for name in names:
        if name in over or child_of(ctx, name) is not None:
            numbers[name] = int(numbers.get(name, 1)) + 1
        over.pop(name, None)
    return {"ended": over, "turns": numbers, "relief": state(ctx)}
