"""Moving a cell's customers to another one, from the cell itself or from a backup. Shared by the procedures.

With shared data nothing has to be moved. Counts are those that the data provider told; a move that is not
proven to be complete goes no further without the policy or a person (rule 8).
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from recell.api import Cell
from recell.api.failure import DataIntegrity, Verdict
from recell.api.meta import duration_text, seconds, timestamp
from recell.api.recovery_policy import PartialSuccess
from recell.domain import data, placement
from recell.domain.health import ROUTER_CHECK
from recell.domain.runs import effect_token
from recell.domain.wording import listed
from recell.engine.outcome import Ask, Done, Fail, Outcome, Recovered, Wait
from recell.engine.procedure import LOOK_AGAIN, StepContext
from recell.procedures.fencing import fence
from recell.procedures.provisioning import well_by_itself

ACCEPT_LOSS = "accept-data-loss"
PARTIAL = "partial-move"
UNVERIFIED = "unverified-move"
NOT_READABLE = "data-not-readable"
NOTHING_RESTORED = "NothingRestored"
"""Reason: the backup could be restored, and no customer of it was as he should be."""
UNDOING = 600.0
"""Seconds until a migration is undone (not from the runbook)."""
GIVEN_BACK = 2
"""Iteration of Abandon for those who stay behind, beside the one for everybody."""
LAST_BACKUP = 600.0
"""Seconds for a backup of what a stopped cell left behind; an earlier backup is taken after that (not from the
runbook)."""


# What is asked ---------------------------------------------------------------------------------------


def request(
    ctx: StepContext,
    operation: data.Operation,
    *,
    target: Cell | None = None,
    cell: Cell | None = None,
    iteration: int = 1,
    backup: str = "",
    not_after: datetime | None = None,
) -> data.Request:
    """The effect on data that this run means; the same whenever it is asked for."""
    name = ctx.cell.metadata.name
    moving = operation in (data.Operation.MIGRATE, data.Operation.RESTORE, data.Operation.ABANDON)
    spec = ctx.placement.spec
    slots: tuple[int, ...] = ()
    if moving and target is not None:
        cells = {name} if operation is data.Operation.ABANDON else {name, target.metadata.name}
        slots = placement.data_slots_of(spec, ctx.routing, cells)
    return data.Request(
        operation=operation,
        key=effect_token(ctx.run.metadata.uid, operation.lower(), iteration),
        cell=cell or ctx.cell,
        target=target,
        slots=slots,
        slot_count=spec.slots if moving else 0,
        backup=backup,
        not_after=not_after,
    )


def progress(ctx: StepContext, answer: data.Answer, doing: str) -> Wait:
    """Counts go into the record at each tenth of the way: often enough for people, seldom enough for the API server."""
    counted, facts = "", None
    if answer.done is not None and answer.of:
        counted = f"{answer.done} of {answer.of}"
        tenth = 10 * answer.done // answer.of
        if tenth != 10 * int(ctx.data.get("done", -1)) // answer.of:
            facts = {"done": answer.done, "of": answer.of}
    return Wait(LOOK_AGAIN, ": ".join(part for part in (doing, counted, answer.message) if part), data=facts)


def remember_failure(ctx: StepContext) -> dict[str, Any]:
    """What is known of the data now, for it may not be seen any more once the cell is isolated or stopped."""
    known = ctx.ports.observer.failure(ctx.cell.key)
    decided = ctx.run.status.decision.inputs if ctx.run.status.decision else None
    intact = ctx.ports.observer.last_intact(ctx.cell)
    bad = DataIntegrity.CORRUPTED in (
        ctx.ports.observer.integrity(ctx.cell),
        decided.data_integrity if decided else None,
        ctx.run.spec.failure.data_integrity if ctx.run.spec.failure else None,
    )
    before = _before(ctx)
    since = timestamp(known.since if known else ctx.run.status.started_at or ctx.now)
    last = timestamp(intact) if intact else before.get("lastIntact")
    return {
        "firstEvidence": min(since, before.get("firstEvidence", since)),
        **({"lastIntact": last} if last else {}),
        **({"corrupted": True} if bad else {}),
    }


def _before(ctx: StepContext) -> Any:
    """What the run that escalated to this one remembers: this process may have seen less."""
    parent = ctx.run.spec.escalated_from
    run = ctx.ports.store.run((ctx.run.metadata.namespace, parent)) if parent else None
    steps = run.status.steps if run else ()
    return next((s.data for s in steps if s.data and "firstEvidence" in s.data), {})


def known_corrupted(ctx: StepContext) -> bool:
    """By the check now, or by what was known when the run began, unless a check says by now that it is intact."""
    now = ctx.ports.observer.integrity(ctx.cell)
    if now is not DataIntegrity.UNKNOWN:
        return now is DataIntegrity.CORRUPTED
    return any((step.data or {}).get("corrupted") for step in ctx.run.status.steps)


def stopped_at(ctx: StepContext) -> dict[str, Any]:
    """Of a cell that takes no writes any more: since when. That is now, or when the router saw it down last: until it
    was stopped it may have come back once more."""
    evidence = ctx.evidence()
    down = [e.since for e in evidence if e.check == ROUTER_CHECK and e.verdict is Verdict.FAILED and e.since]
    return {"stoppedAt": timestamp(max(down, default=ctx.now))}


def moment(text: object) -> datetime | None:
    """A time of a record; None where there is none."""
    return datetime.fromisoformat(str(text).replace("Z", "+00:00")).astimezone(UTC) if text else None


# From the cell itself, or from a backup --------------------------------------------------------------


async def move(ctx: StepContext, target: Cell) -> Outcome:
    """Migrate while the cell's data can be read, else restore from the newest backup."""
    name = ctx.cell.metadata.name
    if ctx.routing.shared:
        return Done("The cells share their data: no customer has to be moved", data={"path": "Shared"})
    path = ctx.data.get("path")
    limit = seconds(ctx.policy.replacement.data_timeout)
    if ctx.elapsed("moving") >= limit:
        return Fail("DeadlineExceeded", f"The customers of {name} were not moved within {duration_text(limit)}")
    if path is None:
        if well_by_itself(ctx):
            return Recovered(f"Cell {name} is healthy again by itself; no customer was moved")
        return await _choose_path(ctx)
    if path == "Restore":
        return await _restore_newest(ctx, target)
    answer = await ctx.ports.data.ensure(request(ctx, data.Operation.MIGRATE, target=target))
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Moving the customers of {name} to {target.metadata.name}")
    if answer.progress is not data.Progress.DONE:
        told = f"The customers of {name} could not be moved to {target.metadata.name}: {answer.message}"
        return Fail("MigrationFailed", f"{told}. Nobody was routed there")
    return counted(ctx, answer, "moved")


async def _choose_path(ctx: StepContext) -> Outcome:
    name = ctx.cell.metadata.name
    answer = await ctx.ports.data.ensure(request(ctx, data.Operation.ACCESSIBLE))
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Looking whether the data of {name} can be read")
    if answer.progress is data.Progress.UNSUPPORTED:
        return Fail("NoDataProvider", f"The customers of {name} cannot be moved: {answer.message}")
    if answer.progress is data.Progress.DONE and answer.accessible:
        return Wait(0.0, f"The data of {name} can be read: its customers are moved", data={"path": "Migrate"})
    told = answer.message or "no reason was told"
    stopped = [str(s.ref) for s in ctx.ports.workloads.states(ctx.cell) if s.stop_token and s.at_zero]
    asked = None
    if stopped and not answer.when_stopped:
        asked = (
            f"An earlier run stopped {listed(stopped)} of {name}, so its data cannot be read ({told}). To move its"
            " customers with all that they wrote, abort, scale that up again and recover the cell anew. Approve to"
            " restore them from a backup instead"
        )
    elif answer.accessible is None:
        asked = (
            f"Nobody can say whether the data of {name} can be read ({told}). Approve to restore its customers from a"
            " backup instead"
        )
    if asked and NOT_READABLE not in ctx.approved:
        return Ask(NOT_READABLE, asked)
    facts = {"path": "Restore", **({"whenStopped": True} if answer.when_stopped else {})}
    return Wait(0.0, f"The customers of {name} are restored from a backup ({told})", data=facts)


async def _restore_newest(ctx: StepContext, target: Cell) -> Outcome:
    """From the newest backup there is, as late as it reaches or is asked for; a person accepts more loss than allowed.

    The source is stopped first: what it took meanwhile would be in no backup. One that is well again is not restored
    over (rule 4).
    """
    if "stopping" not in ctx.data:
        if well_by_itself(ctx):
            return Recovered(f"Cell {ctx.cell.metadata.name} is healthy again by itself; no customer was moved")
        return Wait(0.0, "Stopping the failed cell before its data is restored", data={"stopping": True})
    if waiting := await fence(ctx):
        return waiting
    if "stoppedAt" not in ctx.data:
        return Wait(0.0, "The failed cell takes no writes any more", data=stopped_at(ctx))
    if ctx.data.get("whenStopped") and "lastBackup" not in ctx.data:
        return await _back_up_last(ctx)
    if "backup" not in ctx.data:
        wanted = ctx.run.spec.recovery_target
        found = await choose(ctx, not_after=wanted.time if wanted else None, stopped=moment(ctx.data["stoppedAt"]))
        if not isinstance(found, data.Chosen):
            return found
        return Wait(0.0, f"Restoring from backup {found.backup.id}", data=chosen(found))
    return await restore(ctx, target, ctx.data, stopped=moment(ctx.data["stoppedAt"]))


async def _back_up_last(ctx: StepContext) -> Outcome:
    """What the stopped cell left behind, so that nothing has to be lost; what does not work out is no obstacle."""
    name = ctx.cell.metadata.name
    if known_corrupted(ctx):
        return Wait(0.0, f"No backup is made of {name} now: its data is corrupted", data={"lastBackup": "none"})
    answer = await ctx.ports.data.ensure(request(ctx, data.Operation.BACKUP))
    if answer.progress is data.Progress.RUNNING:
        if ctx.elapsed("last-backup") < LAST_BACKUP:
            return progress(ctx, answer, f"Backing up what {name} left behind")
        await ctx.ports.data.cancel(request(ctx, data.Operation.BACKUP))
        why = f"it did not end within {duration_text(LAST_BACKUP)}: {answer.message}"
    elif answer.progress is data.Progress.DONE:
        made = answer.backups[0].id if answer.backups else "made"
        return Wait(0.0, f"What {name} left behind is in backup {made}", data={"lastBackup": made})
    else:
        why = answer.message
    return Wait(
        0.0,
        f"What {name} left behind could not be backed up ({why}): an earlier backup is taken",
        data={"lastBackup": "none"},
    )


def chosen(found: data.Chosen) -> dict[str, Any]:
    """A choice as it is recorded, before it is acted upon."""
    return {
        "backup": found.backup.id,
        "expectedPoint": timestamp(found.point),
        # To the microsecond: cut to the second it could be earlier than the backup itself.
        **({"notAfter": found.not_after.isoformat()} if found.not_after else {}),
    }


async def choose(
    ctx: StepContext,
    *,
    not_after: datetime | None,
    stopped: datetime | None,
    tried: tuple[str, ...] = (),
    as_it_is: bool = False,
    iteration: int = 1,
) -> data.Chosen | Outcome:
    """The backup to restore from, once the loss that it means is accepted (rule 3)."""
    name = ctx.cell.metadata.name
    answer = await ctx.ports.data.ensure(request(ctx, data.Operation.INVENTORY, iteration=iteration))
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Looking for backups of {name}")
    if answer.progress is not data.Progress.DONE:
        return Fail("NoInventory", f"The backups of {name} could not be listed: {answer.message}")
    wanted = ctx.run.spec.recovery_target
    found = data.choose(
        answer.backups,
        answer.until,
        not_after=not_after,
        wanted=wanted.backup_id if wanted else None,
        tried=tried,
        as_it_is=as_it_is,
    )
    if isinstance(found, data.NoneReachable):
        return Fail("NoRecoveryPoint", f"Cell {name}: {found.message}. Nothing was promoted")
    return loss_to_accept(ctx, found.backup.id, found.point, stopped) or found


def loss_to_accept(ctx: StepContext, backup: str, point: datetime, stopped: datetime | None) -> Ask | None:
    """None: the policy allows what this loses, or a person accepted the loss from this backup at this point."""
    lost, rpo = data.loss(point, stopped), ctx.policy.objectives.rpo
    if lost is not None and (not lost or (rpo is not None and lost.total_seconds() <= seconds(rpo))):
        return None
    window = f"the {duration_text(lost.total_seconds())} before it failed" if lost is not None else "an unknown time"
    allowed = f"objectives.rpo is {rpo}" if rpo else "the policy sets no objectives.rpo"
    ask = Ask(
        ACCEPT_LOSS,
        f"Backup {backup} of {ctx.cell.metadata.name} brings its customers back to {timestamp(point)}: what they did in"
        f" {window} is lost ({allowed}). Approve to accept that",
        about=f"{backup} {timestamp(point)}",
    )
    return None if ask.opened in ctx.approved else ask


async def restore(
    ctx: StepContext, target: Cell, choice: Any, *, stopped: datetime | None, iteration: int = 1
) -> Outcome:
    """Restore the customers of the cell from the chosen backup to the target, and count them.

    One that reaches back further than was expected loses more than was accepted: that is asked about (rule 3).
    """
    name = ctx.cell.metadata.name
    asked = request(
        ctx,
        data.Operation.RESTORE,
        target=target,
        iteration=iteration,
        backup=choice["backup"],
        not_after=moment(choice.get("notAfter")),
    )
    answer = await ctx.ports.data.ensure(asked)
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Restoring the customers of {name} to {target.metadata.name}")
    if answer.progress is not data.Progress.DONE:
        return Fail(
            "RestoreFailed",
            f"The customers of {name} could not be restored from {choice['backup']} to {target.metadata.name}:"
            f" {answer.message}. Nothing was promoted",
        )
    counts = answer.customers
    if counts.failed and not counts.done:
        return Fail(
            NOTHING_RESTORED,
            f"None of the {counts.failed} customers of {name} could be restored from {choice['backup']}"
            f" ({answer.message or listed(counts.names)}). Nothing was promoted",
        )
    point, expected = answer.recovery_point, moment(choice.get("expectedPoint"))
    short = point is not None and (expected is None or point.replace(microsecond=0) < expected)
    if short and point is not None and (ask := loss_to_accept(ctx, choice["backup"], point, stopped)):
        return ask
    return counted(ctx, answer, "restored")


def counted(ctx: StepContext, answer: data.Answer, how: str) -> Outcome:
    """Complete goes on; partial or unproven needs the policy or a person."""
    customers = answer.customers
    facts: dict[str, Any] = {how: customers.done, "failed": customers.failed}
    if customers.expected is not None:
        facts["expected"] = customers.expected
    if customers.failed:
        facts |= {"names": list(customers.names[:20]), "failedSlots": data.ranges(customers.slots)}
        facts["slotCount"] = ctx.placement.spec.slots
    if answer.records is not None:
        facts["records"] = answer.records
    if answer.recovery_point is not None:
        facts["point"] = timestamp(answer.recovery_point)
    if answer.conflicts:
        facts["conflicts"] = [text[:256] for text in answer.conflicts[:20]]
    if customers.whole:
        facts["whole"] = True
        told = f"Everything {how} that was in the backup" + (f": {answer.message}" if answer.message else "")
    else:
        told = f"{customers.done} of {customers.expected} customers {how}"
    if customers.complete:
        return Done(told, data=facts)
    if customers.failed:
        told = f"{told}, {customers.failed} failed ({listed(customers.names)})"
        if ctx.policy.replacement.partial_success is PartialSuccess.ROUTE or PARTIAL in ctx.approved:
            return Done(told, data=facts)
        if not facts.items() <= ctx.data.items():
            return Wait(0.0, told, data=facts)  # who decides sees the counts and names in the record
        return Ask(PARTIAL, f"{told}. Approve to route those that were {how}; the others stay where they are")
    if UNVERIFIED in ctx.approved:
        return Done(f"{told}; accepted by a person without a proof", data=facts)
    return Ask(
        UNVERIFIED,
        f"It is not proven that all customers were {how}: {told}. Look at the data provider, then approve to go on",
    )


def failed_slots(ctx: StepContext, facts: Any) -> frozenset[int]:
    """As they are numbered now: a Router that doubles its slots meanwhile doubles these."""
    counted, slots = data.from_ranges(facts.get("failedSlots", "")), ctx.placement.spec.slots
    step = int(facts.get("slotCount", slots))
    return frozenset(slot for first in counted for slot in range(first, slots, step))


# Undoing ---------------------------------------------------------------------------------------------


async def abandon(ctx: StepContext, target_name: str) -> Outcome:
    """A migration is undone for those who were not routed: their writes go on at the cell. The others stay moved."""
    target, name = ctx.sibling(target_name), ctx.cell.metadata.name
    facts = ctx.data if ctx.step == "move-customers" else ctx.of("move-customers")
    if facts.get("path") != "Migrate":
        return Done("No migration was begun")
    if not placement.has_customers(ctx.placement.spec, name):
        return Done(f"All customers are at home at {target_name} already and stay there")
    if target is None:
        told = (
            f"Cell {target_name} is gone, so the migration there cannot be undone: who was copied from {name} cannot"
            " write there until the data provider lifts that by its own means"
        )
        return Done(told, data={"remains": told})
    if not await ctx.ports.data.cancel(request(ctx, data.Operation.MIGRATE, target=target)):
        return Wait(LOOK_AGAIN, "Stopping the migration")
    return await _undo(ctx, request(ctx, data.Operation.ABANDON, target=target))


async def give_back(ctx: StepContext, target: Cell, moved: Mapping[str, Any]) -> Outcome:
    """A migration that has ended is undone for the slots that it names as failed, numbered as they were then."""
    asked = replace(
        request(ctx, data.Operation.ABANDON, target=target, iteration=GIVEN_BACK),
        slots=data.from_ranges(moved["failedSlots"]),
        slot_count=int(moved["slotCount"]),
    )
    outcome = await _undo(ctx, asked)
    if isinstance(outcome, Done) or ctx.elapsed("giving-back") < UNDOING:
        return outcome
    await ctx.ports.data.cancel(asked)
    told = (
        f"customers of {ctx.cell.metadata.name} that were copied cannot write: not undone in {duration_text(UNDOING)}"
    )
    return Done(told, data={"remains": told})


async def _undo(ctx: StepContext, asked: data.Request) -> Outcome:
    """Done, whatever came of it: what could not be undone remains for a person."""
    name = ctx.cell.metadata.name
    answer = await ctx.ports.data.ensure(asked)
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Undoing the migration of {name}")
    if answer.progress is data.Progress.DONE:
        return Done(f"The migration was undone for customers that are at home at {name}: they can write there again")
    told = f"customers of {name} that were copied cannot write: {answer.message}"
    return Done(f"The migration could not be undone; {told}", data={"remains": told[:512]})


# Integrity -------------------------------------------------------------------------------------------


async def integrity(ctx: StepContext, target: Cell, *, iteration: int) -> DataIntegrity | Outcome:
    """Whether restored data is intact: by the provider's check, else by one of the cell's own since this step began,
    for an earlier one may have been about the empty cell."""
    began = ctx.since("checking")
    answer = await ctx.ports.data.ensure(request(ctx, data.Operation.CHECK, cell=target, iteration=iteration))
    if answer.progress is data.Progress.RUNNING:
        return progress(ctx, answer, f"Checking the data of {target.metadata.name}")
    if answer.progress is data.Progress.UNSUPPORTED:
        return ctx.ports.observer.integrity(target, not_before=began)
    if answer.progress is data.Progress.DONE and answer.intact is not None:
        return DataIntegrity.INTACT if answer.intact else DataIntegrity.CORRUPTED
    return Fail("IntegrityUnknown", f"The data of {target.metadata.name} could not be checked: {answer.message}")
