"""`status` and `runs`: what there is and how it does."""

import click
from rich.live import Live

from recell.api import RecoveryRun
from recell.cli.arguments import output
from recell.cli.cluster import missing
from recell.cli.exits import Exit
from recell.cli.report import StatusReport, runs_report, status_report
from recell.cli.session import Session, command
from recell.cli.views.runs import runs_table
from recell.cli.views.status import status_view
from recell.engine.errors import Retryable

LOOK_AGAIN = 2.0
"""Seconds between two looks of --watch."""


@click.command()
@click.argument("names", nargs=-1, metavar="[CELL|ROUTER]...")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("-w", "--watch", is_flag=True, help="Stay and show what changes.")
@click.option("--check", is_flag=True, help="Exit with 1 unless every router is Ready and every cell Healthy.")
@output("wide", "json", "yaml")
@command
async def status(
    session: Session, *, names: tuple[str, ...], all_namespaces: bool, watch: bool, check: bool, output: str | None
) -> Exit:
    """Show cells, shares, health and active runs.

    For each cell that is not well: why, who holds it, and why it is not being recovered.
    """
    if watch and (session.screen.plain or output in ("json", "yaml")):
        raise click.UsageError("--watch needs a terminal; a script should call status again, or use recell watch RUN")
    names = tuple(session.key(name)[1] for name in names)
    if not watch:
        report = await _report(session, names, all_namespaces)
        if output in ("json", "yaml"):
            session.screen.data(report.to_dict(), output)
        else:
            session.screen.show(status_view(report, session.now, session.screen.look, wide=output == "wide"))
        return Exit.NEGATIVE if check and not report.well else Exit.DONE
    session.farewell = "stopped looking; nothing was changed"
    with Live(console=session.screen.console, auto_refresh=False, screen=True, vertical_overflow="visible") as live:
        while True:
            try:
                report = await _report(session, names, all_namespaces)
                live.update(status_view(report, session.now, session.screen.look, wide=output == "wide"), refresh=True)
            except Retryable as error:
                live.update(session.screen.look.paragraph(("No answer: ", "bold red"), str(error)), refresh=True)
            await session.environment.sleep(LOOK_AGAIN)


async def _report(session: Session, names: tuple[str, ...], all_namespaces: bool) -> StatusReport:
    namespace = "" if all_namespaces else session.namespace
    fleet = await session.cluster.fleet(namespace)
    there = {cell.metadata.name for cell in fleet.cells} | {router.metadata.name for router in fleet.routers}
    for name in names:
        if name not in there:
            raise missing("Cell or Router", (namespace or "(all)", name), sorted(there))
    return status_report(fleet, names)


@click.command()
@click.argument("cells", nargs=-1, metavar="[CELL]...")
@click.option("-A", "--all-namespaces", is_flag=True, help="All namespaces.")
@click.option("--active", is_flag=True, help="Only runs that have not ended.")
@output("wide", "name", "json", "yaml")
@command
async def runs(
    session: Session, *, cells: tuple[str, ...], all_namespaces: bool, active: bool, output: str | None
) -> Exit:
    """List recovery runs, the newest first."""
    namespace = "" if all_namespaces else session.namespace
    found = await session.cluster.all(RecoveryRun, namespace)
    wanted = {session.key(name)[1] for name in cells}
    report = runs_report(
        run for run in found if not (active and run.phase.ended) and (not wanted or run.spec.target_ref.name in wanted)
    )
    if output in ("json", "yaml"):
        session.screen.data({"runs": [run.to_dict() for run in report]}, output)
    elif output == "name":
        for run in report:
            session.screen.line(run.name)
    else:
        session.screen.show(
            runs_table(report, session.now, session.screen.look, namespaced=all_namespaces, wide=output == "wide")
        )
    return Exit.DONE
