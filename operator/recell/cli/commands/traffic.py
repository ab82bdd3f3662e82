"""`isolate`, `return`, `placement show`, `placement init`: traffic by a person's hand."""

import re
from collections.abc import Callable
from datetime import timedelta

import click

from recell.api import Cell, Placement, RecoveryRun, Router
from recell.api.meta import (
    ANNOTATION_PLACEMENT_UID,
    ANNOTATION_RETIRED,
    LABEL_CELL,
    LABEL_MADE_BY,
    percent_text,
)
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec, decode_bits
from recell.api.router import CustomerData
from recell.cli.arguments import YES, duration, output
from recell.cli.cluster import Key
from recell.cli.exits import CommandError, Exit
from recell.cli.fleet import Fleet
from recell.cli.look import span
from recell.cli.report import hold_report, placement_report
from recell.cli.returning import Meaning, meaning
from recell.cli.session import Session, command
from recell.cli.views.placement import placement_view
from recell.domain import placement
from recell.domain.placement import PERSON, Routing
from recell.engine.errors import Forbidden
from recell.providers.kube import isolation
from recell.providers.kube.api import Object

LOOK_AGAIN = 1.0


@click.command()
@click.argument("cell")
@click.option("--reason", metavar="TEXT", help="Why, for others.")
@YES
@command
async def isolate(session: Session, *, cell: str, reason: str | None, yes: bool) -> Exit:
    """Send a cell no traffic until a person returns it."""
    key = session.key(cell)
    found = await session.cluster.one(Cell, key)
    router, current = await _switchboard(session, found)
    routing, person = Routing.of(router), _person(session)
    wanted = Hold(
        cell=key[1],
        max_percent=0,
        state=HoldState.ISOLATED,
        holder=person,
        reason=reason or f"isolated by {session.environment.person()}",
        since=session.now.replace(microsecond=0),
    )

    def held(spec: PlacementSpec) -> PlacementSpec:
        return placement.hold(spec, routing, wanted)

    _preview(session, current, held(current.spec), key[1], "Isolating")
    session.screen.confirm(f"Isolate cell {key[1]} in {key[0]}?", yes=yes)
    done = await _change(session, router.key, held)
    session.screen.line(
        f"cell {key[1]}: isolated from generation {done.metadata.generation} on; undo with: recell return {key[1]}"
    )
    return Exit.DONE


@click.command("return")
@click.argument("cell")
@click.option("--force", is_flag=True, help="Also a cell that was replaced, or whose data is known to be corrupted.")
@YES
@command
async def return_(session: Session, *, cell: str, force: bool, yes: bool) -> Exit:
    """Give a cell its traffic back.

    Releases the holds of people, and those of runs that have ended. A cell that was replaced and is nobody's home any
    more, and one whose data is known to be corrupted, are returned with --force only.
    """
    key = session.key(cell)
    found = await session.cluster.one(Cell, key)
    router, current = await _switchboard(session, found)
    routing = Routing.of(router)
    fleet = Fleet(
        now=session.now,
        cells=(found,),
        routers=(router,),
        placements=(current,),
        runs=await session.cluster.all(RecoveryRun, key[0]),
    )

    def ours(spec: PlacementSpec) -> list[Hold]:
        return [h for h in spec.holds if h.cell == key[1] and (h.holder.kind == PERSON or fleet.run_over(key[0], h))]

    def released(spec: PlacementSpec) -> PlacementSpec:
        for hold in ours(spec):
            spec = placement.release(spec, routing, holder=hold.holder, cell=key[1])
        return placement.unquarantine(spec, routing, quarantined(spec))

    def quarantined(spec: PlacementSpec) -> set[int]:
        """Of the cell's home slots, those that an ended run left for a person to give back."""
        over = [decode_bits(q.slots) for q in spec.quarantine if fleet.run_over(key[0], q)]
        return set(placement.slots_of(spec, key[1])) & frozenset[int]().union(*over)

    mine = ours(current.spec)
    others = [h for h in current.spec.holds if h.cell == key[1] and h not in mine]
    slots = quarantined(current.spec)
    if not mine and not slots:
        by = "; ".join(f"{h.holder.kind} {h.holder.name} at {h.max_percent}%" for h in others)
        still = f"it is held by {by}: see that run, or abort it" if others else "its share is not limited"
        raise CommandError(f"cell {key[1]}: there is no hold of a person or of an ended run; {still}", Exit.NEGATIVE)
    for hold in mine:
        report = hold_report(fleet, key[0], hold)
        session.screen.note(f"releases: {report.state} at {report.max_percent}% by {report.holder}: {report.reason}")
    if slots:
        session.screen.note(
            f"releases: {len(slots)} of its slots that are quarantined: two cells failed that served them"
        )
    _preview(session, current, released(current.spec), key[1], "Returning")
    if found.status.phase is not None and found.status.failure is not None:
        session.screen.note(f"note: cell {key[1]} is {found.status.phase}: {_first_evidence(found)}")
    _warn(session, key[1], meaning(fleet, found, mine), force=force)
    session.screen.confirm(f"Return cell {key[1]} in {key[0]}?", yes=yes)
    if any(hold.state is HoldState.RETIRED for hold in mine):
        await _keep(session, key)
    await _let_in(session, found)
    done = await _change(session, router.key, released)
    session.screen.line(f"cell {key[1]}: returned from generation {done.metadata.generation} on")
    for hold in others:
        session.screen.note(f"note: still at most {hold.max_percent}% by {hold.holder.kind} {hold.holder.name}")
    return Exit.DONE


def _warn(session: Session, cell: str, found: Meaning, *, force: bool) -> None:
    """Raises CommandError (NEGATIVE) for what needs --force."""
    for note in found.notes:
        session.screen.note(f"note: {note}")
    for reason in found.against:
        session.screen.note(f"against it: {reason}")
    if found.against and not force:
        raise CommandError(
            f"cell {cell} was not returned: see above; add --force to return it all the same", Exit.NEGATIVE
        )


async def _keep(session: Session, key: Key) -> None:
    """A retired cell is deleted when its time is up; one that a person returns is not."""

    def kept(cell: Cell) -> Object | None:
        if ANNOTATION_RETIRED not in cell.metadata.annotations:
            return None
        session.screen.note(f"cell {key[1]}: kept from now on, nobody deletes it any more")
        return {"metadata": {"annotations": {ANNOTATION_RETIRED: None}}}

    await session.cluster.change(Cell, key, kept)


async def _let_in(session: Session, cell: Cell) -> None:
    """The NetworkPolicies that a run put around the cell's pods go, for they let no customer in."""
    labels = f"{LABEL_MADE_BY}=recell,{LABEL_CELL}={cell.metadata.name}"
    by_hand = f"kubectl delete networkpolicy -n {cell.workload_namespace} -l {labels}"
    if cell.kubeconfig is not None:
        session.screen.note(
            f"note: {cell.metadata.name} is in the cluster of {cell.kubeconfig}, which is not looked into from here; if"
            f" a run isolated its pods, take that away there with: {by_hand}"
        )
        return
    try:
        async for name in isolation.lifted(session.cluster.api, cell):
            session.screen.note(f"NetworkPolicy {name} is deleted: its pods can be reached again")
    except Forbidden as error:
        session.screen.note(f"note: if a run isolated its pods, they stay so ({error}); take that away with: {by_hand}")


def _first_evidence(cell: Cell) -> str:
    failure = cell.status.failure
    if failure is None or not failure.evidence:
        return "no evidence is recorded"
    return failure.evidence[0].message


async def _switchboard(session: Session, cell: Cell) -> tuple[Router, Placement]:
    key = (cell.metadata.namespace, cell.spec.router_ref.name)
    router = await session.cluster.one(Router, key)
    return router, await _placement(session, key)


async def _placement(session: Session, key: Key) -> Placement:
    found = await session.cluster.find(Placement, key)
    if found is None:
        raise CommandError(
            f"router {key[1]} has no Placement, so nothing says who gets traffic: restore it from a backup, or start"
            f" anew with: recell placement init {key[1]}",
            Exit.CLUSTER,
        )
    return found


async def _change(session: Session, key: Key, change: Callable[[PlacementSpec], PlacementSpec]) -> Placement:
    def patch(found: Placement) -> Object | None:
        changed = change(found.spec)
        return None if changed == found.spec else {"spec": changed.to_dict()}

    return await session.cluster.change(Placement, key, patch)


def _person(session: Session) -> Holder:
    """The name as an object's name may be written."""
    name = re.sub(r"[^a-z0-9.-]+", "-", session.environment.person().lower()).strip("-.")
    return Holder(kind=PERSON, name=re.sub(r"\.[-.]+|-+\.", ".", name) or "unknown")


def _preview(session: Session, current: Placement, after: PlacementSpec, cell: str, verb: str) -> None:
    before = percent_text(placement.share(current.spec, cell))
    then = percent_text(placement.share(after, cell))
    changed = current.model_copy(update={"spec": after})
    old, new = placement_report(current), placement_report(changed)
    effects = [f"its share goes from {before} to {then}"]
    if new.rejected != old.rejected:
        effects.append(f"turned away are {new.rejected} of all customers instead of {old.rejected}")
    if new.read_only != old.read_only:
        effects.append(f"{new.read_only} of all customers can only read, instead of {old.read_only}")
    session.screen.note(f"{verb} cell {cell}: {'; '.join(effects)}")


@click.group("placement")
def placement_group() -> None:
    """The record of who gets traffic."""


@placement_group.command("show")
@click.argument("router")
@output("json", "yaml")
@command
async def show(session: Session, *, router: str, output: str | None) -> Exit:
    """Show whose customers are where, and who limits it."""
    found = await _placement(session, session.key(router))
    fleet = Fleet(now=session.now, runs=await session.cluster.all(RecoveryRun, session.namespace))
    if output:
        session.screen.data(_shape(found, fleet), output)
    else:
        session.screen.show(placement_view(found, fleet, session.now, session.screen.look))
    return Exit.DONE


def _shape(found: Placement, fleet: Fleet) -> Object:
    return {
        "namespace": found.metadata.namespace,
        "name": found.metadata.name,
        **placement_report(found).to_dict(),
        "cells": [
            {
                **cell.to_dict(),
                "home": percent_text(placement.home_share(found.spec, cell.name)),
                "serves": percent_text(placement.share(found.spec, cell.name)),
            }
            for cell in found.spec.cells
        ],
        "holds": [
            {"cell": hold.cell, **hold_report(fleet, found.metadata.namespace, hold).to_dict()}
            for hold in found.spec.holds
        ],
        "successors": [successor.to_dict() for successor in found.spec.successors],
        "reservations": [reservation.to_dict() for reservation in found.spec.reservations],
    }


@placement_group.command("init")
@click.argument("router")
@click.option(
    "--timeout",
    metavar="DURATION",
    callback=duration,
    default="30s",
    show_default=True,
    help="Wait so long for the operator.",
)
@YES
@command
async def init(session: Session, *, router: str, timeout: timedelta, yes: bool) -> Exit:
    """Let the operator make a new Placement for a router that lost its own.

    Restoring the old one from a backup is better: a new one decides anew where customers are at home.
    """
    key = session.key(router)
    found = await session.cluster.one(Router, key)
    if await session.cluster.find(Placement, key):
        raise CommandError(f"router {key[1]} has a Placement: see recell placement show {key[1]}", Exit.NEGATIVE)
    homes = (
        "all customers are divided anew among spec.haproxy.initialCells: whoever was moved since would come to a cell"
        " without their data"
        if found.spec.customer_data is CustomerData.IN_CELL
        else "customers are divided anew by the cells' weights; holds of isolated cells are forgotten"
    )
    session.screen.note(f"Router {key[1]}: {homes}. A backup of the Placement would keep both.")
    session.screen.confirm(f"Make a new Placement for router {key[1]} in {key[0]}?", yes=yes)

    def asked(current: Router) -> Object | None:
        if ANNOTATION_PLACEMENT_UID not in current.metadata.annotations:
            return None
        return {"metadata": {"annotations": {ANNOTATION_PLACEMENT_UID: None}}}

    await session.cluster.change(Router, key, asked)
    return await _made(session, key, timeout)


async def _made(session: Session, key: Key, timeout: timedelta) -> Exit:
    deadline = session.now + timeout
    while session.now < deadline:
        made = await session.cluster.find(Placement, key)
        if made is not None:
            session.screen.line(f"router {key[1]}: the operator made Placement generation {made.metadata.generation}")
            return Exit.DONE
        await session.environment.sleep(LOOK_AGAIN)
    raise CommandError(
        f"router {key[1]}: asked for, but after {span(timeout)} there is no Placement yet: see whether the operator"
        f" runs, and the conditions of the router (recell status {key[1]})",
        Exit.WAITING,
    )
