"""`uninstall-check`: may Recell be taken out of this cluster?"""

import click

from recell.api import Cell, RecoveryFreeze, RecoveryRun, Resource, Router
from recell.api.meta import FINALIZER
from recell.cli.arguments import YES, output
from recell.cli.exits import Exit
from recell.cli.fleet import Fleet
from recell.cli.report import hold_report, run_report, runs_report
from recell.cli.session import Session, command
from recell.cli.views.runs import runs_table
from recell.providers.kube.api import Object

FINALIZED: tuple[type[Resource], ...] = (RecoveryRun, Cell, Router)
REASON = "Recell is being uninstalled (recell uninstall-check --force)"


@click.command("uninstall-check")
@click.option("--force", is_flag=True, help="Freeze, drop Recell's finalizers, and list the holds that stay.")
@output("json", "yaml")
@YES
@command
async def uninstall_check(session: Session, *, force: bool, output: str | None, yes: bool) -> Exit:
    """Say whether Recell can be uninstalled.

    Not while a run is in flight.

    Looks at the namespace of -n, else at those in $RECELL_NAMESPACES (comma-separated), else at all.
    With --force it can: every fleet namespace is frozen, Recell's finalizers are dropped, and the holds
    that go on limiting traffic are listed.
    """
    fleet = await _fleet(session)
    flying = [run for run in fleet.runs if not run.phase.ended]
    if force:
        session.screen.confirm(
            f"Freeze {len(_namespaces(fleet))} namespaces and drop the finalizers? {len(flying)} runs stop where"
            " they are",
            yes=yes,
        )
        await _let_go(session, fleet)
    _tell(session, fleet, flying, output, forced=force)
    return Exit.NEGATIVE if flying and not force else Exit.DONE


async def _fleet(session: Session) -> Fleet:
    said = session.environment.environ.get("RECELL_NAMESPACES", "")
    names = [session.named] if session.named else [name.strip() for name in said.split(",") if name.strip()] or [""]
    fleets = [await session.cluster.fleet(name) for name in names]
    return Fleet(
        now=session.now,
        cells=tuple(cell for fleet in fleets for cell in fleet.cells),
        routers=tuple(router for fleet in fleets for router in fleet.routers),
        placements=tuple(placement for fleet in fleets for placement in fleet.placements),
        runs=tuple(run for fleet in fleets for run in fleet.runs),
        freezes=tuple(freeze for fleet in fleets for freeze in fleet.freezes),
    )


def _namespaces(fleet: Fleet) -> list[str]:
    return sorted({item.metadata.namespace for item in (*fleet.cells, *fleet.routers, *fleet.runs)})


async def _let_go(session: Session, fleet: Fleet) -> None:
    for namespace in _namespaces(fleet):
        if not any(freeze.spec.reason == REASON for freeze in fleet.freezes_in(namespace)):
            await session.cluster.create(
                RecoveryFreeze,
                namespace,
                {"metadata": {"generateName": "uninstall-"}, "spec": {"scope": "AllRuns", "reason": REASON}},
            )
        session.screen.note(f"namespace {namespace}: frozen")

    def unfinalized(found: Resource) -> Object | None:
        left = [name for name in found.metadata.finalizers if name != FINALIZER]
        return None if left == found.metadata.finalizers else {"metadata": {"finalizers": left}}

    items: list[Resource] = [*fleet.runs, *fleet.cells, *fleet.routers]
    for item in items:
        if FINALIZER in item.metadata.finalizers:
            await session.cluster.change(type(item), item.key, unfinalized)
            session.screen.note(f"{item.INFO.kind} {item.metadata.namespace}/{item.metadata.name}: finalizer dropped")


def _tell(session: Session, fleet: Fleet, flying: list[RecoveryRun], output: str | None, *, forced: bool) -> None:
    holds = [
        {
            "namespace": placement.metadata.namespace,
            "router": placement.metadata.name,
            "cell": hold.cell,
            **hold_report(fleet, placement.metadata.namespace, hold).to_dict(),
        }
        for placement in fleet.placements
        for hold in placement.spec.holds
    ]
    if output:
        runs = [run_report(run).to_dict() for run in flying]
        session.screen.data({"ready": forced or not flying, "runs": runs, "holds": holds}, output)
        return
    screen = session.screen
    if flying:
        said = "were stopped where they are" if forced else "are in flight: let them end, or recell abort them"
        screen.show(screen.look.paragraph(f"{len(flying)} runs {said}:"))
        screen.show(runs_table(runs_report(flying), session.now, screen.look, namespaced=True))
    if holds:
        screen.show(screen.look.paragraph(f"{len(holds)} holds go on limiting traffic after an uninstall:"))
        for hold in holds:
            screen.show(
                screen.look.paragraph(
                    f"{hold['namespace']}/{hold['cell']} at most {hold['maxPercent']}% ({hold['state']}) by"
                    f" {hold['holder']}: {hold['reason']}",
                    indent=2,
                )
            )
    if not flying or forced:
        screen.show(screen.look.paragraph("Recell can be uninstalled. Cells, Placements and routers stay as they are."))
