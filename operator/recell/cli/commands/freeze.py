"""`freeze` and `unfreeze`: the off switch."""

from datetime import datetime, timedelta

import click

from recell.api import RecoveryFreeze
from recell.api.meta import timestamp
from recell.api.recovery_freeze import FreezeScope
from recell.cli.arguments import YES, YES_UNASKED, duration_or_moment
from recell.cli.cluster import missing
from recell.cli.exits import CommandError, Exit
from recell.cli.session import Session, command


@click.command()
@click.option("--reason", metavar="TEXT", help="Why, for others; default: who did it.")
@click.option(
    "--until",
    metavar="DURATION|TIME",
    callback=duration_or_moment,
    help="End, from now (2h) or as a time (2027-01-31T06:00:00Z).",
)
@click.option("--new-runs-only", is_flag=True, help="Runs that work already go on.")
@click.option("-l", "--selector", metavar="KEY=VALUE", multiple=True, help="Only Cells with this label.")
@YES_UNASKED
@command
async def freeze(
    session: Session,
    *,
    reason: str | None,
    until: timedelta | datetime | None,
    new_runs_only: bool,
    selector: tuple[str, ...],
) -> Exit:
    """Stop all recoveries of the namespace.

    Nothing new is begun, nothing is undone. Lift it with unfreeze.
    """
    labels = {}
    for pair in selector:
        key, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--selector {pair!r}: write KEY=VALUE")
        labels[key] = value
    ends = session.now + until if isinstance(until, timedelta) else until
    if ends is not None and ends <= session.now:
        raise click.UsageError(f"--until {timestamp(ends)} is over already")
    spec = {
        "scope": FreezeScope.NEW_RUNS if new_runs_only else FreezeScope.ALL_RUNS,
        "reason": reason or f"frozen by {session.environment.person()}",
        **({"until": timestamp(ends)} if ends else {}),
        **({"selector": {"matchLabels": labels}} if labels else {}),
    }
    made = await session.cluster.create(
        RecoveryFreeze, session.namespace, {"metadata": {"generateName": "freeze-"}, "spec": spec}
    )
    name = made.metadata.name
    session.screen.line(f"namespace {session.namespace} is frozen by {name}; lift it with: recell unfreeze {name}")
    return Exit.DONE


@click.command()
@click.argument("names", nargs=-1, metavar="[FREEZE]...")
@YES
@command
async def unfreeze(session: Session, *, names: tuple[str, ...], yes: bool) -> Exit:
    """Lift these freezes, or all of the namespace."""
    found = {item.metadata.name: item for item in await session.cluster.all(RecoveryFreeze, session.namespace)}
    wanted = [session.key(name)[1] for name in names] or sorted(found)
    for name in wanted:
        if name not in found:
            raise missing("RecoveryFreeze", (session.namespace, name), sorted(found))
    if not wanted:
        raise CommandError(f"namespace {session.namespace} is not frozen", Exit.NEGATIVE)
    for name in wanted:
        session.screen.note(f"lifts {name}: {found[name].spec.reason}")
    session.screen.confirm(f"Let recoveries go on in namespace {session.namespace}?", yes=yes)
    for name in wanted:
        await session.cluster.delete(RecoveryFreeze, found[name])
        session.screen.line(f"freeze {name} lifted")
    return Exit.DONE
