"""`approve`, `pause`, `resume`, `abort`, `acknowledge`: a person's word to a run or its target."""

import click

from recell.api import Cell, RecoveryRun, Router
from recell.api.meta import ANNOTATION_ACKNOWLEDGE, timestamp
from recell.api.recovery_run import Approval, Awaiting, Control
from recell.cli.arguments import YES, YES_UNASKED
from recell.cli.exits import CommandError, Exit
from recell.cli.look import STRONG, age, stack
from recell.cli.report import awaiting_report
from recell.cli.results import result_report
from recell.cli.session import Session, command
from recell.cli.views.result import result_view
from recell.cli.views.runs import question
from recell.domain.limits import ACKNOWLEDGEABLE
from recell.providers.kube.api import Object


@click.command()
@click.argument("run")
@click.option("--gate", metavar="NAME", help="Only if the run waits at this gate.")
@YES
@command
async def approve(session: Session, *, run: str, gate: str | None, yes: bool) -> Exit:
    """Open the gate at which a run waits.

    The approval is for what is shown: if the run asks something else by the time, nothing is approved.
    """
    key = session.key(run)
    found = await session.cluster.one(RecoveryRun, key)
    awaiting = _awaiting(found, gate)
    if not yes:
        _show(session, found, awaiting)
    session.screen.confirm(f"Approve {awaiting.gate}?", yes=yes)

    def opened(found: RecoveryRun) -> Object | None:
        now_at = _awaiting(found, gate)
        if now_at.decision_id != awaiting.decision_id:
            raise CommandError(
                f"run {key[1]} asks something else by now (gate {now_at.gate}): nothing was approved, look again",
                Exit.NEGATIVE,
            )
        given, mine = _control(found).approvals or [], Approval(gate=now_at.gate, decisionID=now_at.decision_id)
        if mine in given:
            return None  # the operator has not seen it yet
        return {"spec": {"control": {"approvals": [approval.to_dict() for approval in (*given, mine)]}}}

    await session.cluster.change(RecoveryRun, key, opened)
    session.screen.line(f"run {key[1]}: gate {awaiting.gate} approved")
    return Exit.DONE


def _show(session: Session, run: RecoveryRun, awaiting: Awaiting) -> None:
    """All that a person needs who has to answer: the question, its numbers, what follows, what is known so far."""
    look, asked, result = session.screen.look, awaiting_report(awaiting), result_report(run)
    waits = f"Run {run.metadata.name} waits at gate {awaiting.gate} for {age(awaiting.since, session.now)}:"
    parts = [look.paragraph(waits), result_view(result, session.now, look, indent=2) if result else None]
    session.screen.show(stack([*parts, look.paragraph((asked.question, STRONG), indent=2), *question(asked, look, 2)]))


def _awaiting(run: RecoveryRun, gate: str | None) -> Awaiting:
    _going(run)
    awaiting = run.status.awaiting
    if awaiting is None:
        raise CommandError(f"run {run.metadata.name} waits for no approval: it is {run.phase}", Exit.NEGATIVE)
    if gate and awaiting.gate != gate:
        raise CommandError(
            f"run {run.metadata.name} waits at gate {awaiting.gate}, not at {gate}: nothing was approved", Exit.NEGATIVE
        )
    return awaiting


def _control(run: RecoveryRun) -> Control:
    return run.spec.control or Control()


def _going(run: RecoveryRun) -> None:
    if run.phase.ended:
        raise CommandError(
            f"run {run.metadata.name} has ended ({run.phase}): see recell watch {run.metadata.name}", Exit.NEGATIVE
        )


async def _set(session: Session, run: str, said: str, **control: bool | None) -> Exit:
    key = session.key(run)

    def changed(found: RecoveryRun) -> Object | None:
        _going(found)
        already = all(bool(getattr(_control(found), name)) == bool(value) for name, value in control.items())
        return None if already else {"spec": {"control": control}}

    await session.cluster.change(RecoveryRun, key, changed)
    session.screen.line(f"run {key[1]}: {said}")
    return Exit.DONE


@click.command()
@click.argument("run")
@YES_UNASKED
@command
async def pause(session: Session, *, run: str) -> Exit:
    """Let a run begin nothing new; undo nothing."""
    return await _set(session, run, f"paused; go on with: recell resume {run}", paused=True)


@click.command()
@click.argument("run")
@YES_UNASKED
@command
async def resume(session: Session, *, run: str) -> Exit:
    """Let a paused run go on."""
    return await _set(session, run, "goes on", paused=None)


@click.command()
@click.argument("run")
@YES
@command
async def abort(session: Session, *, run: str, yes: bool) -> Exit:
    """End a run for good.

    It undoes what is temporary, but never raises the traffic of a cell that is not healthy.
    """
    found = await session.cluster.one(RecoveryRun, session.key(run))
    _going(found)
    doing = f"{found.phase}{f', {found.status.step}' if found.status.step else ''}"
    session.screen.confirm(f"Abort run {found.metadata.name} ({doing})? It cannot be taken back.", yes=yes)
    return await _set(
        session, run, f"abort is asked for and cannot be taken back; look: recell watch {run}", abort=True
    )


@click.command()
@click.argument("target", metavar="CELL|router/NAME")
@YES_UNASKED
@command
async def acknowledge(session: Session, *, target: str) -> Exit:
    """Let automatic recovery of a cell or a router go on.

    After a run that a person aborted, or that left the failure to a person, no run of that target starts by itself
    until somebody acknowledges it.
    """
    key = session.key(target)
    kind: type[Cell] | type[Router] = Router if target.lower().startswith("router") and "/" in target else Cell
    what = kind.INFO.kind.lower()
    acknowledged: list[str] = []

    def seen(found: Cell | Router) -> Object | None:
        recovery = found.status.recovery
        if recovery is None or recovery.blocked is None:
            raise CommandError(f"{what} {key[1]} is not blocked: there is nothing to acknowledge", Exit.NEGATIVE)
        blocked, last, over = recovery.blocked, recovery.last_run, recovery.next_allowed_at
        if blocked.reason not in ACKNOWLEDGEABLE:
            ends = f"; it ends by itself at {timestamp(over)}" if over else ""
            raise CommandError(
                f"{what} {key[1]} is blocked by {blocked.reason}, which cannot be acknowledged{ends}:"
                f" {blocked.message}",
                Exit.NEGATIVE,
            )
        if last is None:
            raise CommandError(
                f"{what} {key[1]} is blocked ({blocked.reason}) but no run of it has ended: {blocked.message}",
                Exit.NEGATIVE,
            )
        acknowledged.append(last)
        if found.metadata.annotations.get(ANNOTATION_ACKNOWLEDGE) == last:
            return None
        return {"metadata": {"annotations": {ANNOTATION_ACKNOWLEDGE: last}}}

    await session.cluster.change(kind, key, seen)
    session.screen.line(f"{what} {key[1]}: run {acknowledged[-1]} acknowledged")
    return Exit.DONE
