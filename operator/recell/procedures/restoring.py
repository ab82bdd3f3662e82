"""Restoring a cell's customers from a backup into a fresh cell, older ones in turn until one proves intact.

Each try is an iteration with names of its own, recorded before anything is done, in a cell of its own (rule 24).
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from recell.api import Cell
from recell.api.failure import DataIntegrity
from recell.api.meta import seconds, timestamp
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import data
from recell.domain.provisioning import Purpose
from recell.domain.wording import listed
from recell.engine.outcome import Ask, Done, Fail, Outcome, Repeat, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures import customers, provisioning

SKEW = timedelta(seconds=10)
"""Margin for clocks that differ: beyond 5 s of skew the operator does nothing (rule 30), and a check's own clock
may be as far off in the other direction."""
EARLIER = timedelta(minutes=5)
"""How much further back the next point is when a restored one proves corrupted (not from the runbook)."""
UNVERIFIED = "unverified-integrity"


def iteration(ctx: StepContext, choice: str) -> int:
    """Number of the present try; 1 is the first."""
    facts = ctx.data if ctx.step == choice else ctx.of(choice)
    return int(facts.get("iteration", 1))


def shared(ctx: StepContext) -> Fail | None:
    if not ctx.routing.shared:
        return None
    return Fail(
        "DataIsShared",
        f"Router {ctx.router.metadata.name} says that its cells share their data (customerData: Shared): it cannot be"
        f" restored for cell {ctx.cell.metadata.name} alone; restore the shared database by its own means",
    )


def safe_until(ctx: StepContext, drain: str) -> datetime | None:
    """The latest moment that is not known to be corrupted; None: data is intact, as late as possible."""
    target, facts = ctx.run.spec.recovery_target, ctx.of(drain)
    asked = target.time if target else None
    if asked is None and not customers.known_corrupted(ctx):
        return None
    intact, evidence = (customers.moment(facts.get(name)) for name in ("lastIntact", "firstEvidence"))
    return data.latest_safe(asked, intact, evidence, SKEW)


async def choose(ctx: StepContext, drain: str) -> Outcome:
    """Backup and point, recorded with the number of the try; none left ends the run with nothing promoted."""
    if refused := shared(ctx):
        return refused
    number = iteration(ctx, ctx.step)
    not_after = customers.moment(ctx.data.get("limit")) or safe_until(ctx, drain)
    found = await customers.choose(
        ctx,
        not_after=not_after,
        stopped=customers.moment(ctx.of(drain).get("stoppedAt")),
        tried=tuple(ctx.data.get("tried", ())),
        as_it_is=bool(ctx.data.get("asItIs")),
        iteration=number,
    )
    if not isinstance(found, data.Chosen):
        return found
    told = f"Backup {found.backup.id}, which reaches back to {timestamp(found.backup.at)}"
    until = f", up to {timestamp(found.point)}" if found.point > found.backup.at else ""
    return Done(f"{told}{until}", data={"iteration": number, **customers.chosen(found)})


async def make(ctx: StepContext, choice: str, purpose: Purpose) -> Outcome:
    """A fresh cell for each try; the one of the try before is taken away first."""
    number = iteration(ctx, choice)
    if number > 1 and not ctx.data.get("cleared"):
        order = provisioning.order_for(ctx, purpose, number - 1)
        if isinstance(order, Fail):
            return order
        left, waiting = await provisioning.take_away(ctx, order)
        if waiting:
            return Wait(LOOK_AGAIN, f"Taking cell {order.name} of the try before away: {listed(left)}")
        told = f"left behind of it: {listed(left)}" if left else "it is gone"
        remains = {"remains": f"Delete what is left of cell {order.name}: {listed(left)}"} if left else {}
        return Wait(0.0, f"Cell {order.name} of the try before: {told}", data={"cleared": True, **remains})
    return await provisioning.make(ctx, purpose, number)


async def restore(ctx: StepContext, choice: str, target: Cell, *, earlier: bool) -> Outcome:
    """A backup that cannot be restored is followed by an older one; one that has nothing good as one that proves
    corrupted."""
    number, facts = iteration(ctx, choice), ctx.of(choice)
    stopped = customers.moment(ctx.of("isolate-cell").get("stoppedAt"))
    outcome = await customers.restore(ctx, target, facts, stopped=stopped, iteration=number)
    if not isinstance(outcome, Fail) or number >= ctx.policy.replacement.restore_attempts:
        return outcome
    if outcome.reason == customers.NOTHING_RESTORED:
        following = _after_corruption(facts, number, earlier=earlier)
    else:
        following = _next(facts, number)
    return Repeat(choice, f"{outcome.message}. An older one is tried", following)


def _after_corruption(facts: Mapping[str, Any], number: int, *, earlier: bool) -> dict[str, Any]:
    """An older backup as it is, for replayed any further it would bring the corruption back; or an earlier point."""
    point = customers.moment(facts.get("expectedPoint"))
    if earlier and point is not None:
        return _next(facts, number, limit=point - EARLIER)
    return {**_next(facts, number), "asItIs": True}


def _next(facts: Mapping[str, Any], number: int, *, limit: datetime | None = None) -> dict[str, Any]:
    """What the following try has to know: every limit and every backup that was tried before stay."""
    found: dict[str, Any] = {"iteration": number + 1, "tried": list(facts.get("tried", ()))}
    if facts.get("asItIs"):
        found["asItIs"] = True
    if limit is None:
        found["tried"].append(facts["backup"])
        limit = customers.moment(facts.get("limit"))
    return found if limit is None else {**found, "limit": timestamp(limit)}


async def check(ctx: StepContext, choice: str, target: Cell, *, earlier: bool) -> Outcome:
    """Corrupted: once more from an older backup as it is, or with `earlier` from an earlier point, as often as
    allowed."""
    number, facts = iteration(ctx, choice), ctx.of(choice)
    found = await customers.integrity(ctx, target, iteration=number)
    if not isinstance(found, DataIntegrity):
        return found
    if found is DataIntegrity.INTACT:
        return Done(f"The data of {target.metadata.name} is intact")
    if found is DataIntegrity.UNKNOWN:
        if UNVERIFIED in ctx.approved:
            return Done("Nothing says whether the data is intact; accepted by a person")
        limit = seconds(ctx.policy.steps.inconclusive_timeout)
        if target.spec.data.integrity is not None and ctx.elapsed("checking") < limit:
            return Wait(
                LOOK_AGAIN, f"Waiting until {target.metadata.name} is asked whether its restored data is intact"
            )
        return Ask(
            UNVERIFIED,
            f"Nothing says whether the restored data of {target.metadata.name} is intact: give the cells"
            " data.jobs.check or data.integrity. Look at it, then approve to go on",
        )
    most = ctx.policy.replacement.restore_attempts
    told = f"What was restored from {facts['backup']} to {target.metadata.name} is corrupted too"
    if number >= most:
        return Fail(
            "IntegrityFailed",
            f"{told}; {number} of at most {most} were tried (replacement.restoreAttempts). Nothing was promoted",
        )
    return Repeat(choice, f"{told}: an older one is tried", _after_corruption(facts, number, earlier=earlier))


def time_for_data(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds of anything that a data provider does."""
    return seconds(policy.replacement.data_timeout)
