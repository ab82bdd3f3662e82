"""`where` and `customers`: who serves a customer, and what becomes of a cell's customers."""

import click

from recell.api import Cell, Placement, RecoveryRun, Router
from recell.cli.arguments import output
from recell.cli.cluster import missing
from recell.cli.customers import customers_report
from recell.cli.exits import CommandError, Exit
from recell.cli.look import stack
from recell.cli.session import Session, command
from recell.cli.views.customers import customers_view
from recell.cli.views.where import where_view
from recell.cli.whereabouts import where_report

NEEDED = (Cell, Router, Placement, RecoveryRun)


@click.command()
@click.argument("customer")
@click.option("--router", metavar="NAME", help="Only at this router; default: at each one of the namespace.")
@output("json", "yaml")
@command
async def where(session: Session, *, customer: str, router: str | None, output: str | None) -> Exit:
    """Say which cell serves a customer, and why.

    CUSTOMER is the customer key as requests carry it: the header's or cookie's value, the host name, the segment.
    """
    fleet = await session.cluster.fleet(session.namespace, NEEDED)
    there = sorted(found.key for found in fleet.routers)
    if router is not None:
        wanted = session.key(router)
        if wanted not in there:
            raise missing("Router", wanted, [name for _, name in there])
        there = [wanted]
    if not there:
        raise CommandError(
            f"there is no Router in namespace {session.namespace}; another one is chosen with -n", Exit.CLUSTER
        )
    reports = [where_report(fleet, key, customer) for key in there]
    if output:
        session.screen.data({"customer": customer, "routers": [report.to_dict() for report in reports]}, output)
    else:
        session.screen.show(stack(where_view(report, session.now, session.screen.look) for report in reports))
    return Exit.DONE


@click.command()
@click.argument("cell")
@output("json", "yaml")
@command
async def customers(session: Session, *, cell: str, output: str | None) -> Exit:
    """Show whose home a cell is, and how far they are moved.

    Customers are counted by whoever moves or restores them; what nobody told is called unknown.
    """
    key = session.key(cell)
    fleet = await session.cluster.fleet(session.namespace, NEEDED)
    found = fleet.cell(key) or await session.cluster.one(Cell, key)
    report = customers_report(fleet, found)
    if output:
        session.screen.data(report.to_dict(), output)
    else:
        session.screen.show(customers_view(report, session.now, session.screen.look))
    return Exit.DONE
