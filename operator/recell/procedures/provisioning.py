"""Making further cells, and taking half-made ones away again. Shared by every procedure that needs a new cell.

A made cell has weight 0 and no home slots: nobody is sent to it until a later step says so (rule 2).
Its name follows from the run, so that a run killed here goes on with the same cell.
"""

from collections.abc import Sequence

from recell.api import Cell
from recell.api.meta import LABEL_INCIDENT, duration_text, seconds
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import StartWhen
from recell.domain import placement
from recell.domain.health import Level
from recell.domain.provisioning import Order, Progress, Provisioned, Purpose, name_of
from recell.domain.wording import listed
from recell.engine.errors import (
    PERMANENT,
    BadInput,
    Conflict,
    Fenced,
    Forbidden,
    NotFound,
    RecellError,
    Retryable,
    Unreachable,
)
from recell.engine.outcome import Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext

FAILED_FOR = 30.0
"""Seconds for which an object says that it failed until that is believed: image pulls and quotas mend themselves."""
REMOVAL = 600.0
"""Seconds that a step has beyond provisionTimeout to take a half-made cell away."""


def healthy_again(ctx: StepContext) -> bool:
    state = ctx.ports.observer.health(ctx.cell.key)
    return state is not None and state.level is Level.HEALTHY


def well_by_itself(ctx: StepContext) -> bool:
    """The run has nothing left to do (rule 4); one that is meant for a healthy cell has."""
    return ctx.run.spec.start_when is StartWhen.TARGET_UNHEALTHY and healthy_again(ctx)


def order_for(ctx: StepContext, purpose: Purpose, number: int = 1) -> Order | Fail:
    """What is to be made; Fail where the cell names no template or one that is not there."""
    name, ref = ctx.cell.metadata.name, ctx.cell.spec.template_ref
    if ref is None:
        return Fail("NoTemplate", f"Cell {name} names no template (spec.templateRef): no cell like it can be made")
    template = ctx.ports.store.template((ctx.cell.metadata.namespace, ref.name))
    if template is None:
        return Fail("TemplateMissing", f"CellTemplate {ref.name}, which Cell {name} names, does not exist")
    return Order(
        name=name_of(ctx.cell, ctx.run.metadata.uid, purpose, number),
        source=ctx.cell,
        template=template,
        incident=ctx.run.metadata.labels.get(LABEL_INCIDENT, ctx.run.metadata.name),
    )


async def weigh(ctx: StepContext, cell: Cell) -> None:
    """The made cell gets the weight of the one that it was made for. Nothing else of it is applied again: it has
    customers, and somebody may have edited the template meanwhile."""
    await ctx.ports.provisioner.weigh(cell, ctx.cell.spec.weight)


def made(ctx: StepContext, step: str) -> Cell:
    """The very Cell that this step made. Raises NotFound where it is not there any more."""
    facts = ctx.of(step)
    name = str(facts.get("cell", ""))
    found = ctx.sibling(name)
    if found is None or facts.get("uid", found.metadata.uid) != found.metadata.uid:
        what = "is not there any more" if found is None else "was deleted and made anew"
        raise NotFound(f"Cell {name or '(none)'}, which this run made, {what}: abort the run, and make another one")
    return found


async def make(ctx: StepContext, purpose: Purpose, number: int = 1) -> Outcome:
    """One cell, until it is Healthy and listed in Placement; what could not be made is taken away again."""
    order = order_for(ctx, purpose, number)
    if isinstance(order, Fail):
        return order
    if ctx.data.get("brokenCell") == order.name:
        return await _give_up(ctx, order, str(ctx.data.get("broken")))
    if refusal := _too_many(ctx, order):
        return Fail("TooManyMadeCells", refusal)
    limit = seconds(ctx.policy.replacement.provision_timeout)
    spent = ctx.elapsed(f"making-{order.name}")
    try:
        made = await ctx.ports.provisioner.ensure(order)
    except Unreachable as error:
        return _broken(order, str(error)) if spent >= limit else Wait(LOOK_AGAIN, str(error), reason=error.reason)
    except (Conflict, Fenced, Retryable):
        raise
    except RecellError as error:
        if isinstance(error, BadInput) or spent >= limit:
            return _broken(order, str(error))
        return Wait(LOOK_AGAIN, str(error), reason=error.reason, stalled=isinstance(error, PERMANENT))
    if made.progress is Progress.FAILED:
        if spent >= limit or ctx.elapsed(f"failed-{order.name}") >= FAILED_FOR:
            return _broken(order, made.message)
        return Wait(LOOK_AGAIN, made.message, reason="ProvisioningFails")
    ctx.forget(f"failed-{order.name}")
    if spent >= limit:
        return _broken(order, f"not ready within {duration_text(limit)}: {made.message}")
    if made.progress is not Progress.READY:
        return Wait(LOOK_AGAIN, made.message)
    spec = ctx.placement.spec
    if placement.index_of(spec, order.name) < 0:
        return Wait(LOOK_AGAIN, f"Cell {order.name} is ready; waiting until the Router lists it")
    state = ctx.ports.observer.health((ctx.run.metadata.namespace, order.name))
    if state is None or state.level is not Level.HEALTHY:
        level = state.level if state else Level.UNKNOWN
        return Wait(LOOK_AGAIN, f"Cell {order.name} is made and listed; waiting until it is Healthy (now {level})")
    return Done(f"Cell {order.name} is ready and serves nobody yet", data={"cell": order.name, **_identity(made)})


def _identity(made: Provisioned) -> dict[str, str]:
    return {"uid": made.cell.metadata.uid} if made.cell else {}


def _broken(order: Order, cause: str) -> Wait:
    """Recorded before anything is taken away, so that a crash does not begin anew."""
    return Wait(0.0, cause, reason="ProvisioningFailed", data={"broken": cause[:512], "brokenCell": order.name})


async def take_away(ctx: StepContext, order: Order) -> tuple[Sequence[str], bool]:
    """What is left of a made cell, and whether that is worth waiting for."""
    try:
        left = await ctx.ports.provisioner.remove(order)
    except (Forbidden, BadInput, Unreachable) as error:
        return [str(error)], False
    return left, bool(left) and ctx.elapsed("removing") < REMOVAL


async def _give_up(ctx: StepContext, order: Order, cause: str) -> Outcome:
    left, waiting = await take_away(ctx, order)
    if waiting:
        return Wait(LOOK_AGAIN, f"Taking the half-made cell {order.name} away: {listed(left)}")
    remains = f" Left behind: {listed(left)}." if left else ""
    return Fail("ProvisioningFailed", f"Cell {order.name} could not be made: {cause}.{remains} Nobody was moved")


def _too_many(ctx: StepContext, order: Order) -> str | None:
    """Cells that the operator made are capped per Router (rule 26); those with customers of their own count no more."""
    spec = ctx.placement.spec
    idle = [name for name in placement.idle(ctx.ports.store.cells_of(ctx.router_key), spec) if name != order.name]
    most = ctx.policy.limits.max_made_cells
    if len(idle) < most:
        return None
    return (
        f"Router {ctx.router.metadata.name} has {len(idle)} cells already that were made here and serve nobody"
        f" ({listed(idle)}), and limits.maxMadeCells is {most}: delete those that are not needed"
    )


async def remove(ctx: StepContext, purpose: Purpose, number: int = 1) -> Outcome:
    """The made cell is taken away, unless it is the home of customers."""
    order = order_for(ctx, purpose, number)
    if isinstance(order, Fail):
        name = name_of(ctx.cell, ctx.run.metadata.uid, purpose, number)
        if ctx.sibling(name) is None:
            return Done("Nothing was made")
        told = f"Delete Cell {name} and what was made for it: {order.message}"
        return Done(told, data={"remains": told})
    if placement.has_customers(ctx.placement.spec, order.name):
        return Done(f"Cell {order.name} is the home of customers and stays")
    left, waiting = await take_away(ctx, order)
    if not left:
        return Done(f"Cell {order.name} is gone" if ctx.of("provision-replacement") else "Nothing was made")
    if waiting:
        return Wait(LOOK_AGAIN, f"Taking cell {order.name} away: {listed(left)}")
    return Done(f"Left behind of cell {order.name}: {listed(left)}", data={"remains": f"Delete {listed(left)}"})


def rehearse(ctx: StepContext) -> str:
    order = order_for(ctx, Purpose.REPLACEMENT)
    if isinstance(order, Fail):
        return order.message
    return f"Would make a cell like {order.source.metadata.name} from CellTemplate {order.template.metadata.name}"


def time_to_make(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds of a step that makes a cell: its own, and the time to take it away again."""
    return seconds(policy.replacement.provision_timeout) + 2 * REMOVAL
