"""Keeps the running HAProxy at the newest Placement.

Promises: only rising (epoch, generation); a Placement that cannot be served, or is older or another
object, is refused with its reason and the last table stays; a change is one transaction of the map,
or a few entries changed in place with the identity last; backends before it, leaving cells after it;
what was applied is read back. What is open at a cell that serves nobody any more is closed when its time
is over (`closing`), at a cell that may serve nobody before a change counts as applied. A HAProxy that restarted
serves from the files at once and gets everything again. Never raises for anything that HAProxy or
the API server does.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from . import closing
from .files import Files
from .logs import log
from .placement import Identity, Limit, Placement, Refused, check_newer, decode, identity
from .runtime_socket import RuntimeSocket, SocketError
from .settings import Settings
from .table import CHECK, Held, Server, assign, entries, few_changes, held, parse_map

LISTENS_EVERY = 1.0
RETRY_AFTER = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Process:
    instance: str
    """Ours: kept in its map and never in the file, so it lasts exactly as long as the process and its
    counters. (In a container of its own each process has number 1.)"""
    pid: int
    started_at: int
    """Seconds since 1970."""


@dataclass(frozen=True)
class Refusal:
    uid: str
    epoch: int | None
    generation: int | None
    reason: str


@dataclass(frozen=True)
class State:
    """What this pod has applied; told to the operator as it stands."""

    process: Process | None = None
    """None while no HAProxy runs."""
    applied: Identity | None = None
    """What the running HAProxy holds, as read back."""
    applied_at: float | None = None
    servers: Mapping[int, Server] | None = None
    limits: tuple[Limit, ...] = ()
    """Shedding and open circuits, those that have expired included."""
    refusal: Refusal | None = None
    error: str = ""
    """Why the newest Placement is not applied although it was accepted."""
    applies: int = 0
    took: float = 0.0
    """Seconds that the last apply took."""


class Applier:
    def __init__(self, settings: Settings, on_change: Callable[[], None]) -> None:
        self._settings = settings
        self._files = Files(settings)
        self._socket = RuntimeSocket(settings.socket)
        self._on_change = on_change
        self._held = self._files.prepare()
        self._newest: Identity | None = self._held.identity
        self._want: Placement | None = None
        self._in_step = False
        """The running process holds `_want`, applied or confirmed by us since it started."""
        self._opened: Mapping[int, Server] | None = None
        """Servers that the running process is known to have open, and no others."""
        self._entries: Mapping[str, str] | None = None
        """What the running process's map is known to hold."""
        self._left: Mapping[int, int] = {}
        """Backends that no cell has any more, and when what is open there is closed. An agent that restarts begins
        these anew: nothing says whose they were."""
        self._last_backend = max((s.backend for s in self._held.servers.values()), default=-1)
        self._wake = asyncio.Event()
        self.state = State()

    @property
    def socket(self) -> RuntimeSocket:
        return self._socket

    def offer(self, obj: dict[str, Any]) -> None:
        """A Placement was seen. Does not wait."""
        who: Identity | None = None
        try:
            who = identity(obj)
            newer = check_newer(self._newest, who)
            if not newer and self._want is not None:
                self._accepted()
                return
            placement = decode(obj)
        except Refused as refused:
            self._refuse(who, str(refused))
            return
        self._want, self._newest, self._in_step = placement, who, False
        self._accepted()
        self._wake.set()

    def refuse_unread(self, reason: str) -> None:
        """A Placement was seen but could not be read. Does not wait."""
        self._refuse(None, reason)

    async def run(self) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                guard = await self._socket.guard()
            except SocketError:
                await asyncio.sleep(RETRY_AFTER[min(failures, 2)])
                failures += 1
                continue
            failures = 0
            ended = asyncio.create_task(guard.ended())
            try:
                await self._serve(ended)
            finally:
                ended.cancel()
                guard.close()
                self._in_step = False
                self._set(process=None, applied=None, applied_at=None)

    async def _serve(self, ended: asyncio.Task[None]) -> None:
        """While one HAProxy process lives."""
        if not await self._retrying(self._look, ended):
            return
        while True:
            if self._want is not None and not self._in_step and not await self._retrying(self._apply, ended):
                return
            # Again and again: who was on the way to a cell when the table changed arrives there afterwards.
            try:
                await self._close_due()
            except SocketError as error:
                log("closing-failed", error=str(error))
            if not await self._woken(ended, LISTENS_EVERY) or not await self._socket.listens():
                return  # The guard lets go: an open connection would keep a stopping process alive.

    async def _retrying(self, work: Callable[[], Awaitable[None]], ended: asyncio.Task[None]) -> bool:
        """Until it worked; False when the process ended."""
        failures = 0
        while True:
            try:
                await work()
            except (SocketError, OSError) as error:
                if ended.done():
                    return False
                self._set(error=str(error))
                log("apply-failed", error=str(error))
                if not await self._woken(ended, RETRY_AFTER[min(failures, len(RETRY_AFTER) - 1)]):
                    return False
                failures += 1
            else:
                self._set(error="")
                return True

    async def _woken(self, ended: asyncio.Task[None], within: float | None) -> bool:
        """Waits for a new Placement; False when the process ended."""
        wake = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait({wake, ended}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            wake.cancel()
        self._wake.clear()
        return not ended.done()

    async def _look(self) -> None:
        """A process was found: what it holds is the truth, whoever put it there."""
        pid, started_at = await self._socket.process()
        lines = parse_map(await self._socket.map_entries(self._settings.map))
        found = held(lines)
        instance = dict(lines).get("instance")
        if instance is None:
            instance = secrets.token_hex(4)
            await self._socket.add_to_map(self._settings.map, "instance", instance)
        self._newest = self._newest or found.identity
        self._held, self._opened, self._entries = found, None, {**dict(lines), "instance": instance}
        self._left = {}
        self._set(
            process=Process(instance, pid, started_at),
            applied=found.identity,
            applied_at=None,
            servers=found.servers,
            limits=found.limits,
        )
        log("haproxy-found", pid=pid, holds=str(found.identity))

    async def _apply(self) -> None:
        placement = self._want
        if placement is None:
            return
        started = time.monotonic()
        now, timeout = time.time(), self._settings.drain_timeout
        servers = assign(placement, self._held, self._last_backend)
        ending = closing.deadlines(placement, self._held.closing, now, timeout)
        lines = entries(placement, servers, ending)
        self._files.write(lines, servers)
        unused = await self._open_backends(servers)
        instance = self.state.process.instance if self.state.process else ""
        await self._change_map({**dict(lines), "instance": instance})
        await self._read_back(placement.identity)
        had = {server.backend for server in self._held.servers.values()}
        new = [server.backend for server in servers.values() if server.backend not in had]
        self._last_backend = new[-1] if new else self._last_backend
        if servers != self._opened:
            self._left = closing.left_behind(placement, unused, self._held, self._left, now, timeout)
        self._held = Held(placement.identity, servers, placement.limits, ending)
        await self._close_due()
        self._in_step = self._want is placement
        took = time.monotonic() - started
        self._set(
            applied=placement.identity,
            applied_at=time.time(),
            servers=servers,
            limits=placement.limits,
            applies=self.state.applies + 1,
            took=took,
        )
        log("applied", placement=str(placement.identity), milliseconds=round(took * 1000, 1))
        # Last, when no slot names them any more; the other way round it cost requests.
        # A server that connections hold on to is not deleted: it stays closed, and is tried again.
        leave = ("set server b{}/s state maint", "del server b{}/s")
        await self._socket.ask_many([command.format(number) for number in unused for command in leave])
        self._opened = servers

    async def _close_due(self) -> None:
        backends = closing.due(self._held, self._left, time.time())
        if backends:
            await self._socket.close_sessions(backends)

    async def _change_map(self, wanted: Mapping[str, str]) -> None:
        """In place where few entries differ: an increment of a drain moves a handful of slots out of thousands."""
        known, self._entries = self._entries, None  # not known again before it worked
        changes = few_changes(known, wanted) if known is not None else None
        if changes is None:
            await self._socket.replace_map(self._settings.map, list(wanted.items()))
        else:
            await self._socket.set_in_map(self._settings.map, changes)
        self._entries = wanted

    async def _open_backends(self, servers: Mapping[int, Server]) -> list[int]:
        """Every cell's backend has its address and is open; returns those to close after the table."""
        if servers == self._opened:
            return []
        running = await self._socket.servers()
        commands = []
        for server in servers.values():
            name, has = f"b{server.backend}/s", running.get(server.backend)
            if has is None:
                commands.append(f"add server {name} {server.where} {CHECK}")
                commands += [f"enable health {name}", f"enable server {name}"]
                continue
            if (has.address, has.port) != (server.address, server.port):
                commands.append(f"set server {name} addr {server.address} port {server.port}")
                # Down for the cell that had this backend before is not down for this one.
                commands.append(f"set server {name} health up")
            if has.check == "maint":  # or it was added, and this agent ended before it could go on
                commands += [f"enable health {name}", f"set server {name} state ready"]
        if commands:
            await self._socket.ask_many(commands)
            running = await self._socket.servers()
        for server in servers.values():
            has = running.get(server.backend)
            if has is None or (has.address, has.port) != (server.address, server.port) or has.check == "maint":
                raise SocketError(
                    f"b{server.backend}/s: cell {server.name} should be open at {server.where},"
                    f" but HAProxy has {f'{has.address}:{has.port}, {has.check}' if has else 'no such server'}"
                )
        used = {server.backend for server in servers.values()}
        return [number for number in running if number not in used]

    async def _read_back(self, wanted: Identity) -> None:
        answers = await self._socket.map_values(self._settings.map, "uid", "epoch", "generation")
        if answers != [wanted.uid, str(wanted.version.epoch), str(wanted.version.generation)]:
            raise SocketError(f"after the commit the map holds {answers} instead of {wanted}")

    def _accepted(self) -> None:
        self._set(refusal=None)

    def _refuse(self, who: Identity | None, reason: str) -> None:
        refusal = Refusal(
            who.uid if who else "",
            who.version.epoch if who else None,
            who.version.generation if who else None,
            reason,
        )
        if refusal != self.state.refusal:
            log("refused", placement=str(who), reason=reason)
        self._set(refusal=refusal)

    def _set(self, **changes: Any) -> None:
        new = replace(self.state, **changes)
        if new != self.state:
            self.state = new
            self._on_change()
