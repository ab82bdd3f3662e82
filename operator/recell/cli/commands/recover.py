"""`plan`, `recover`, `watch`: from a decision to its end."""

from datetime import datetime, timedelta

import click
from pydantic import ValidationError

from recell.api import Cell, RecoveryRun, Router
from recell.api.failure import FOR_ROUTERS, Strategy
from recell.api.meta import timestamp
from recell.api.recovery_run import RecoveryRunSpec, StartWhen, TargetKind, Urgency
from recell.cli.arguments import YES, duration, moment, output
from recell.cli.exits import CommandError, Exit
from recell.cli.fleet import Fleet
from recell.cli.foresight import CHOOSES, REPLACE
from recell.cli.plan import PlanReport, plan
from recell.cli.session import Session, command
from recell.cli.views.plan import plan_view
from recell.cli.watching import follow

_STRATEGIES = click.Choice([s.value for s in Strategy if s is not Strategy.MANUAL_INTERVENTION], case_sensitive=False)
_ROUTER_WORDS = ("router", "routers", "rrouter")
_STRATEGY = click.option("--strategy", type=_STRATEGIES, metavar="NAME", help="Not what the matrix decides, but this.")
_URGENCIES = click.Choice([urgency.value for urgency in Urgency], case_sensitive=False)
_URGENCY = click.option("--urgency", type=_URGENCIES, help="Immediate drains at once.")
_ALWAYS = click.option("--always", is_flag=True, help="Also if the target is healthy.")
_TO_TIME = click.option(
    "--to-time",
    metavar="TIME",
    callback=moment,
    help="Restore nothing that is later (2027-01-31T06:00:00Z); default: the last moment known to be good.",
)
_BACKUP = click.option("--backup", metavar="ID", help="Restore from this backup and no other; default: the newest.")


def _spec(
    session: Session,
    kind: TargetKind,
    name: str,
    *,
    strategy: str | None,
    urgency: str | None,
    always: bool,
    to_time: datetime | None,
    backup: str | None,
    start_within: timedelta = timedelta(minutes=15),
    reason: str | None = None,
    dry_run: bool = False,
) -> dict[str, object]:
    """Only what was said: the rest is the API's to fill in."""
    spec: dict[str, object] = {"targetRef": {"kind": kind, "name": name}}
    if strategy and (strategy in FOR_ROUTERS) != (kind is TargetKind.ROUTER):
        raise click.UsageError(f"--strategy {strategy} is not for a {kind}, and {name} is one")
    if strategy:
        spec["strategy"] = strategy
    if urgency:
        spec["urgency"] = urgency
    if always:
        spec["startWhen"] = StartWhen.ALWAYS
        spec["startBefore"] = timestamp(session.now + start_within)
    if to_time is not None and to_time > session.now:
        raise click.UsageError(f"--to-time {timestamp(to_time)} is in the future")
    target = {**({"time": timestamp(to_time)} if to_time else {}), **({"backupID": backup} if backup else {})}
    if target:
        spec["recoveryTarget"] = target
    if reason:
        spec["reason"] = reason
    if dry_run:
        spec["dryRun"] = True
    return spec


async def _target(session: Session, text: str) -> tuple[Fleet, Cell | Router]:
    """NAME is the Cell of that name, else the Router; router/NAME and cell/NAME say which.

    Raises CommandError with the names that there are.
    """
    fleet = await session.cluster.fleet(session.namespace)
    said, (namespace, name) = text.rpartition("/")[0].partition(".")[0].lower(), session.key(text)
    cell, router = fleet.cell((namespace, name)), fleet.router((namespace, name))
    found = router if said in _ROUTER_WORDS else cell or (None if said else router)
    if found is None:
        await session.cluster.one(Router if said in _ROUTER_WORDS else Cell, (namespace, name))
        raise CommandError(f"{text} came to be just now: try again", Exit.CLUSTER)
    return fleet, found


def _kind(target: Cell | Router) -> TargetKind:
    return TargetKind.CELL if isinstance(target, Cell) else TargetKind.ROUTER


def _planned(fleet: Fleet, found: Cell | Router, spec: dict[str, object]) -> PlanReport:
    try:
        wanted = RecoveryRunSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        raise CommandError(f"spec.{'.'.join(map(str, first['loc']))}: {first['msg']}", Exit.USAGE) from error
    planned = plan(fleet, found, wanted)
    _refuse_unheeded(planned)
    return planned


def _refuse_unheeded(planned: PlanReport) -> None:
    """What a person asks to be brought back must not be left out silently."""
    target, strategy = planned.recovery_target, planned.strategy
    if target is None or strategy in CHOOSES:
        return
    option = "--to-time" if target.time else "--backup"
    if strategy is REPLACE and not target.time:
        return
    restoring = " or ".join(CHOOSES)
    raise click.UsageError(f"{option} means nothing to {strategy}: state --strategy {restoring}")


@click.command("plan")
@click.argument("target", metavar="CELL|router/NAME")
@_STRATEGY
@_URGENCY
@_ALWAYS
@_TO_TIME
@_BACKUP
@output("json", "yaml")
@command
async def plan_(
    session: Session,
    *,
    target: str,
    strategy: str | None,
    urgency: str | None,
    always: bool,
    to_time: datetime | None,
    backup: str | None,
    output: str | None,
) -> Exit:
    """Show what recovering a cell or a router would do; change nothing.

    Exits with 0 if a run made now would start, with 1 if not.
    """
    fleet, found = await _target(session, target)
    spec = _spec(
        session,
        _kind(found),
        found.metadata.name,
        strategy=strategy,
        urgency=urgency,
        always=always,
        to_time=to_time,
        backup=backup,
    )
    report = _planned(fleet, found, spec)
    if output:
        session.screen.data(report.to_dict(), output)
    else:
        session.screen.show(plan_view(report, session.now, session.screen.look))
    return Exit.DONE if report.starts else Exit.NEGATIVE


@click.command()
@click.argument("target", metavar="CELL|router/NAME")
@_STRATEGY
@_URGENCY
@_ALWAYS
@_TO_TIME
@_BACKUP
@click.option(
    "--start-within",
    metavar="DURATION",
    callback=duration,
    default="15m",
    show_default=True,
    help="With --always: latest start.",
)
@click.option("--reason", metavar="TEXT", help="Why, for others.")
@click.option("--dry-run", is_flag=True, help="Every step says what it would do; nothing is changed.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Stay until the run ends.")
@click.option("--timeout", metavar="DURATION", callback=duration, help="Wait at most so long; the run goes on.")
@output("name", "json")
@YES
@command
async def recover(
    session: Session,
    *,
    target: str,
    strategy: str | None,
    urgency: str | None,
    always: bool,
    to_time: datetime | None,
    backup: str | None,
    start_within: timedelta,
    reason: str | None,
    dry_run: bool,
    wait: bool,
    timeout: timedelta | None,
    output: str | None,
    yes: bool,
) -> Exit:
    """Recover a cell or a router and follow the run to its end.

    Shows the plan, asks, makes a RecoveryRun. The exit code says how the run ended.
    """
    fleet, found = await _target(session, target)
    kind, name = _kind(found), found.metadata.name
    spec = _spec(
        session,
        kind,
        name,
        strategy=strategy,
        urgency=urgency,
        always=always,
        to_time=to_time,
        backup=backup,
        start_within=start_within,
        reason=reason,
        dry_run=dry_run,
    )
    report = _planned(fleet, found, spec)
    if output is None:
        session.screen.show(plan_view(report, session.now, session.screen.look))
    _refuse_hopeless(report)
    what = "Rehearse" if dry_run else "Start"
    session.screen.confirm(
        f"{what} {report.strategy} of {kind.lower()} {name} in {session.namespace}?", yes=yes or dry_run
    )
    made = await session.cluster.create(
        RecoveryRun, session.namespace, {"metadata": {"generateName": f"{name[:57]}-"}, "spec": spec}
    )
    if output != "json" or not wait:
        _announce(session, made, output)
    if not wait:
        return Exit.DONE
    return await follow(session, made.key, timeout=timeout, output="json" if output == "json" else None)


def _announce(session: Session, made: RecoveryRun, output: str | None) -> None:
    if output == "name":
        session.screen.line(made.metadata.name)
    elif output == "json":
        session.screen.data(made.to_dict(), "json")
    else:
        session.screen.line(f"run {made.metadata.name} made; follow it: recell watch {made.metadata.name}")


def _refuse_hopeless(report: PlanReport) -> None:
    """A run that ends at once helps nobody; one that waits may be what is wanted."""
    if report.why is None or report.outcome == "Waits":
        return
    always = "; add --always to run all the same" if report.why.reason == "TargetHealthy" else ""
    code = Exit.MANUAL if report.outcome == "ManualInterventionRequired" else Exit.NEGATIVE
    raise CommandError(f"no run was made: it would end at once as {report.outcome} ({report.why.reason}){always}", code)


@click.command()
@click.argument("run")
@click.option("--timeout", metavar="DURATION", callback=duration, help="Look at most so long.")
@output("json")
@command
async def watch(session: Session, *, run: str, timeout: timedelta | None, output: str | None) -> Exit:
    """Follow a run; the exit code says how it ended.

    Without a terminal and without --timeout it ends with 4 where a person's approval is needed.
    """
    return await follow(session, session.key(run), timeout=timeout, output=output)
