"""Following a run until it ends: the newest picture, shown live or line by line.

Promises: reads only; an API server that does not answer is said and asked again; an escalated run
is followed into its successor, whose result counts. Ends with the documented exit code.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Protocol

import orjson
from rich.live import Live
from rich.text import Text

from recell.api import Cell, Placement, RecoveryRun, Router
from recell.api.recovery_run import RunPhase, TargetKind
from recell.api.router import RouterType
from recell.cli.cluster import Key
from recell.cli.exits import Exit, exit_of
from recell.cli.fleet import Fleet
from recell.cli.gates import approve_command
from recell.cli.look import span, stack
from recell.cli.rates import RouterRates
from recell.cli.report import CellReport, router_report, run_report
from recell.cli.session import Session
from recell.cli.views.run import RunView, changes, run_view
from recell.engine.errors import Retryable

LOOK_AGAIN = 1.0
"""Seconds between two looks."""
SHOWN = 8
"""Cells in the live view: the target and those made for it, then those that are not well, then by name."""


class Painter(Protocol):
    def show(self, before: RunView | None, view: RunView) -> None: ...


async def follow(session: Session, key: Key, *, timeout: timedelta | None, output: str | None) -> Exit:
    """Until the run (or the one that it escalated to) ends; raises CommandError when it is not there."""
    session.farewell = (
        f"stopped looking; run {key[1]} goes on. Look again: recell watch {key[1]} -n {key[0]};"
        f" end it: recell abort {key[1]} -n {key[0]}"
    )
    rates = RouterRates(session.cluster.api)
    deadline = session.now + timeout if timeout else None
    before: RunView | None = None
    async with _painter(session, output) as painter:
        while True:
            view = await _look(session, key, rates, before)
            painter.show(before, view)
            before, run = view, view.run
            successor = run.status.escalation.to if run.status.escalation else None
            if run.phase is RunPhase.ESCALATED and successor:
                key = (key[0], successor)
                continue
            if run.phase.ended:
                break
            if run.status.awaiting and session.screen.plain and deadline is None:
                break
            if deadline and session.now >= deadline:
                break
            await session.environment.sleep(LOOK_AGAIN)
    return _ended(session, before, output, deadline is not None and session.now >= deadline, timeout)


def _ended(session: Session, view: RunView, output: str | None, late: bool, timeout: timedelta | None) -> Exit:
    run = view.run
    name = run.metadata.name
    if output != "json":
        if session.screen.plain:
            if run.phase.ended:
                session.screen.line(f"{run.phase}: {run.status.summary or 'no summary'}")
        else:
            session.screen.show(run_view(view, session.screen.look))
    if run.phase.ended:
        return exit_of(run.phase)
    if run.status.awaiting:
        command = approve_command(run.metadata.namespace, name, run.status.awaiting)
        session.screen.note(f"run {name} waits for approval: {command}")
    elif late and timeout:
        session.screen.note(f"run {name} is still {run.phase} after {span(timeout)}; it goes on")
    return Exit.WAITING


@asynccontextmanager
async def _painter(session: Session, output: str | None) -> AsyncIterator[Painter]:
    if output == "json":
        yield JsonLines(session)
    elif session.screen.plain:
        yield Lines(session)
    else:
        with Live(console=session.screen.console, auto_refresh=False, transient=True) as live:
            yield Picture(session, live)


class Lines:
    """What is new, a line each."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def show(self, before: RunView | None, view: RunView) -> None:
        for line in changes(before, view):
            self._session.screen.line(line)


class JsonLines:
    """A JSON object on one line for each change."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._last = b""

    def show(self, before: RunView | None, view: RunView) -> None:
        cells = [cell.to_dict() for cell in view.cells]
        shape = orjson.dumps({"run": run_report(view.run).to_dict(), "cells": cells})
        if shape != self._last:
            self._session.screen.line(shape.decode())
        self._last = shape


class Picture:
    """The whole picture, in place."""

    def __init__(self, session: Session, live: Live) -> None:
        self._session, self._live = session, live

    def show(self, before: RunView | None, view: RunView) -> None:
        look = self._session.screen.look
        name, namespace = view.run.metadata.name, view.run.metadata.namespace
        keys = look.paragraph((f"Ctrl-C stops looking. recell pause|abort {name} -n {namespace}", "dim"))
        self._live.update(stack([run_view(view, look), Text(), keys]), refresh=True)


async def _look(session: Session, key: Key, rates: RouterRates, before: RunView | None) -> RunView:
    """The newest picture; after trouble the last one, with the trouble."""
    try:
        run = await session.cluster.one(RecoveryRun, key)
        cells: tuple[CellReport, ...] = ()
        seen, note = None, ""
        router = await _router_of(session, run)
        if router is not None:
            fleet = await _around(session, run, router)
            cells = _shown(tuple(router_report(fleet, router.key).cells), run)
            if router.spec.type is RouterType.HAPROXY:
                seen, note = await rates.look(router.key, session.now)
            else:
                note = f"Requests and errors are not shown: a router of type {router.spec.type} has no pods to ask"
        return RunView(run=run, now=session.now, cells=cells, rates=seen, rates_note=note)
    except Retryable as error:
        if before is None:
            raise
        return replace(before, now=session.now, trouble=f"no answer from the API server, asking again: {error}")


async def _router_of(session: Session, run: RecoveryRun) -> Router | None:
    namespace, ref = run.metadata.namespace, run.spec.target_ref
    if ref.kind is TargetKind.ROUTER:
        return await session.cluster.find(Router, (namespace, ref.name))
    cell = await session.cluster.find(Cell, (namespace, ref.name))
    return await session.cluster.find(Router, (namespace, cell.spec.router_ref.name)) if cell else None


async def _around(session: Session, run: RecoveryRun, router: Router) -> Fleet:
    namespace = run.metadata.namespace
    cells, placement = await asyncio.gather(
        session.cluster.all(Cell, namespace), session.cluster.find(Placement, router.key)
    )
    return Fleet(
        now=session.now, cells=cells, routers=(router,), placements=(placement,) if placement else (), runs=(run,)
    )


def _shown(cells: tuple[CellReport, ...], run: RecoveryRun) -> tuple[CellReport, ...]:
    made = run.status.result
    concerned = {run.spec.target_ref.name, *((made.replacement, *made.emergency_cells) if made else ())}

    def rank(cell: CellReport) -> tuple[bool, bool, str]:
        return (cell.name not in concerned, cell.well, cell.name)

    chosen = {cell.name for cell in sorted(cells, key=rank)[:SHOWN]}
    return tuple(cell for cell in cells if cell.name in chosen)
