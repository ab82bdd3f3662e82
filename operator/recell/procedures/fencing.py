"""Stopping a failed cell, so that nothing writes there any more (rule 5), and starting it again.

Its workloads are scaled to zero and seen there; what cannot be stopped needs a person, and does not keep the others
from being stopped.
"""

from recell.api.meta import duration_text, seconds
from recell.domain import placement
from recell.domain.observation import WorkloadPhase
from recell.domain.runs import effect_token
from recell.domain.wording import listed
from recell.engine.errors import BadInput, NotFound, Reverted, Unreachable
from recell.engine.outcome import Ask, Done, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext

UNFENCED = "unfenced-source"


def _token(ctx: StepContext) -> str:
    return effect_token(ctx.run.metadata.uid, "fence", 1)


async def fence(ctx: StepContext) -> Outcome | None:
    """None once the source cannot write any more, or a person has accepted that a part of it may."""
    name = ctx.cell.metadata.name
    unstoppable: dict[str, str] = {}
    for ref in ctx.cell.spec.workloads:
        try:
            await ctx.ports.workloads.scale_to_zero(ctx.cell, ref, _token(ctx))
        except NotFound:
            continue  # what does not exist cannot write
        except Unreachable:
            continue  # its state says so: not at zero, and its pods are not known
        except (BadInput, Reverted) as error:
            unstoppable[str(ref)] = str(error)
    if not ctx.cell.spec.workloads:
        unstoppable["What runs"] = "spec.workloads names nothing"
    states = [s for s in ctx.ports.workloads.states(ctx.cell) if str(s.ref) not in unstoppable]
    left = {
        str(s.ref): "pods are not known" if s.pods is None else f"{s.pods} pods left"
        for s in states
        if s.phase is not WorkloadPhase.NOT_FOUND and not s.at_zero
    }
    if left:
        limit = seconds(ctx.policy.steps.restart_timeout)
        if ctx.elapsed("stopping") < limit:
            told = ", ".join(f"{ref} ({why})" for ref, why in left.items())
            return Wait(LOOK_AGAIN, f"Stopping cell {name}: {told}")
        # Of a node that is lost nobody can say that its pods have ended.
        unstoppable |= {ref: f"after {duration_text(limit)} {why}" for ref, why in left.items()}
    else:
        ctx.forget("stopping")
    if not unstoppable:
        return None
    why = "; ".join(unstoppable.values())
    ask = Ask(
        UNFENCED,
        f"{listed(unstoppable)} of cell {name} cannot be stopped ({why}), so it may still write. Stop it by hand,"
        " or approve to go on",
        about=", ".join(sorted(unstoppable)),
    )
    return None if ask.opened in ctx.approved else ask


async def unfence(ctx: StepContext, *, corrupted: bool) -> Outcome:
    """The source's workloads are what they were, for the customers who are still at home there."""
    name = ctx.cell.metadata.name
    if not placement.has_customers(ctx.placement.spec, name):
        return Done(f"Nobody is at home at {name} any more: it stays as it is")
    if corrupted:
        return Done(f"The data of {name} is corrupted: it stays as it is")
    begun = [s for s in ctx.ports.workloads.states(ctx.cell) if s.stop_token == _token(ctx)]
    for state in begun:
        await ctx.ports.workloads.scale_back(ctx.cell, state.ref, _token(ctx))
    return Done(f"Started again: {listed(str(s.ref) for s in begun)}" if begun else "Nothing had been stopped")
