"""HAProxy's command line on its unix socket.

One connection per batch: HAProxy closes it after the answers, so an answer is whole when the
connection ends. A guard connection stays open; it ends when the process does, which is how a
restart is seen at once, whatever the process numbers are.
"""

import asyncio
import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CONNECT_WITHIN = 2.0
ANSWER_WITHIN = 10.0
PAYLOAD = 15_000
"""Bytes in one command; it has to fit into tune.bufsize (16,384)."""
GUARD_EVERY = 60.0
"""Seconds between signs of life on the guard connection, below `stats timeout`."""


_MAINTENANCE = 0x01 | 0x02 | 0x20
"""Bits of srv_admin_state: forced, inherited, no address."""


class SocketError(Exception):
    """HAProxy does not answer, or says that a command failed."""


@dataclass(frozen=True)
class RunningServer:
    """The server of a backend as the process has it."""

    address: str
    port: int
    check: str
    """up, down, unknown (not checked yet) or maint."""


class RuntimeSocket:
    def __init__(self, path: Path) -> None:
        self._path = path

    async def ask(self, *commands: str) -> str:
        """Send commands on one connection and return their answers. Raises SocketError."""
        return await self._exchange((";".join(commands) + "\n").encode())

    async def ask_many(self, commands: Sequence[str]) -> None:
        """Commands whose answers do not matter, in as few connections as fit. Raises SocketError."""
        for batch in chunks(commands):
            await self.ask(*batch)

    async def replace_map(self, path: Path, entries: Sequence[tuple[str, str]]) -> None:
        """All entries of a map in one transaction. Raises SocketError, and then the old ones stand."""
        answer = (await self.ask(f"prepare map {path}")).strip()
        match = re.search(r"version created: (\d+)$", answer)
        if not match:
            raise SocketError(f"prepare map: {answer[:200]}")
        version = match.group(1)
        try:
            for batch in chunks([f"{key} {value}" for key, value in entries]):
                await self._silent(f"add map @{version} {path} <<\n" + "\n".join(batch) + "\n")
            await self._silent(f"commit map @{version} {path}")
        except SocketError:
            with contextlib.suppress(SocketError):
                await self.ask(f"clear map @{version} {path}")
            raise

    async def set_in_map(self, path: Path, entries: Sequence[tuple[str, str]]) -> None:
        """Other values for keys that are there, one after the other. Raises SocketError, and then some may be set."""
        for batch in chunks([f"set map {path} {key} {value}" for key, value in entries]):
            await self._silent(";".join(batch))

    async def add_to_map(self, path: Path, key: str, value: str) -> None:
        await self._silent(f"add map {path} {key} {value}")

    async def map_entries(self, path: Path) -> str:
        """`key value` lines of the map in force. Raises SocketError."""
        answer = await self.ask(f"show map {path}")
        return "".join(line.split(" ", 1)[1] + "\n" for line in answer.splitlines() if line.startswith("0x"))

    async def map_values(self, path: Path, *keys: str) -> list[str | None]:
        """What the map in force has under these keys. Raises SocketError."""
        answer = await self.ask(*(f"get map {path} {key}" for key in keys))
        lines = [line for line in answer.splitlines() if line.startswith("type=")]
        found = [re.search(r'found=yes.*, value="([^"]*)"', line) for line in lines]
        return [match.group(1) if match else None for match in found]

    async def close_sessions(self, backends: Sequence[int]) -> None:
        """Whatever is open at their servers ends, as soon as HAProxy comes to it. Raises SocketError."""
        await self.ask_many([f"shutdown sessions server b{number}/s" for number in backends])

    async def process(self) -> tuple[int, int]:
        """The process's number and when it started (seconds since 1970). Raises SocketError."""
        answer = await self.ask("show info")
        facts = dict(line.split(": ", 1) for line in answer.splitlines() if ": " in line)
        try:
            return int(facts["Pid"]), int(facts["Start_time_sec"])
        except (KeyError, ValueError):
            raise SocketError(f"show info: {answer[:200]}") from None

    async def servers(self) -> dict[int, RunningServer]:
        """By number of the backend. Raises SocketError."""
        return parse_servers(await self.ask("show servers state"))

    async def listens(self) -> bool:
        """False when the process has gone, or is going: one that is told to stop closes this door first."""
        try:
            _, writer = await self._connect()
        except SocketError:
            return False
        writer.close()
        return True

    async def guard(self) -> "Guard":
        """Raises SocketError while no HAProxy listens."""
        reader, writer = await self._connect()
        return Guard(reader, writer)

    async def _silent(self, command: str) -> None:
        answer = (await self._exchange((command + "\n").encode())).strip()
        if answer:
            raise SocketError(f"{command.split(' <<', 1)[0]}: {answer[:200]}")

    async def _exchange(self, request: bytes) -> str:
        reader, writer = await self._connect()
        try:
            writer.write(request)
            await writer.drain()
            async with asyncio.timeout(ANSWER_WITHIN):
                return (await reader.read(-1)).decode(errors="replace")
        except (OSError, TimeoutError) as error:
            raise SocketError(f"{self._path}: {type(error).__name__} {error}".rstrip()) from None
        finally:
            writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        try:
            async with asyncio.timeout(CONNECT_WITHIN):
                return await asyncio.open_unix_connection(self._path)
        except (OSError, TimeoutError) as error:
            raise SocketError(f"{self._path}: {type(error).__name__} {error}".rstrip()) from None


class Guard:
    """A connection that is open for as long as the process lives."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ended(self) -> None:
        """Returns when the process is gone."""
        with contextlib.suppress(OSError):
            self._writer.write(b"prompt\n")
            while True:
                try:
                    async with asyncio.timeout(GUARD_EVERY):
                        if not await self._reader.read(4096):
                            return
                except TimeoutError:
                    self._writer.write(b"\n")

    def close(self) -> None:
        self._writer.close()


def parse_servers(answer: str) -> dict[int, RunningServer]:
    """The answer to `show servers state`. Raises SocketError for a form that is not known."""
    lines = answer.splitlines()
    if len(lines) < 2 or lines[0] != "1" or not lines[1].startswith("# "):
        raise SocketError(f"show servers state: {answer[:200]}")
    column = {name: position for position, name in enumerate(lines[1][2:].split())}
    name, address, port = column["be_name"], column["srv_addr"], column["srv_port"]
    admin, running, result = column["srv_admin_state"], column["srv_op_state"], column["srv_check_result"]
    servers = {}
    for line in lines[2:]:
        fields = line.split(" ")
        if len(fields) < len(column) or not fields[name][1:].isdecimal():
            continue
        if int(fields[admin]) & _MAINTENANCE:
            check = "maint"
        elif fields[running] == "0":
            check = "down"
        else:
            check = "up" if fields[result] != "0" else "unknown"
        servers[int(fields[name][1:])] = RunningServer(fields[address], int(fields[port]), check)
    return servers


def chunks(lines: Sequence[str]) -> Iterator[list[str]]:
    """Lines in batches of at most PAYLOAD bytes."""
    batch: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode()) + 1
        if batch and size + length > PAYLOAD:
            yield batch
            batch, size = [], 0
        batch.append(line)
        size += length
    if batch:
        yield batch
