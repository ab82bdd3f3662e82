"""Requests of customers, bounded in count and in time, to addresses of this machine only."""

import asyncio
import hashlib
import time
from collections import Counter
from dataclasses import dataclass, field

import aiohttp

PATIENCE = 30.0
"""Seconds after which a client of a load gives a request up: as long as HAProxy waits for a cell."""


def slot_of(key: bytes, slots: int) -> int:
    """The definition that HAProxy's configuration has to agree with."""
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "big") % slots


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def cell(self) -> str | None:
        return self.headers.get("x-cell")

    @property
    def reason(self) -> str | None:
        return self.headers.get("x-reason")


async def ask(
    port: int,
    *headers: tuple[str, bytes],
    method: str = "GET",
    path: str = "/",
    host: bytes | None = b"shop.example",
    address: str = "127.0.0.1",
    within: float = 60.0,
) -> Answer:
    """One request in raw bytes on a connection of its own."""
    lines = [f"{method} {path} HTTP/1.1".encode(), b"Connection: close"]
    if host is not None:
        lines.append(b"Host: " + host)
    lines += [name.encode() + b": " + value for name, value in headers]
    async with asyncio.timeout(within):
        reader, writer = await asyncio.open_connection(address, port, limit=1 << 20)
        try:
            writer.write(b"\r\n".join(lines) + b"\r\n\r\n")
            await writer.drain()
            raw = await reader.read(-1)
        finally:
            writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    return Answer(int(first.split()[1]), fields, body)


@dataclass
class Load:
    """Clients with keep-alive connections that ask for many customers until told to stop."""

    ports: tuple[int, ...]
    clients: int = 8
    customers: int = 400
    pause: float = 0.01
    limit: int = 100_000
    within: float = 300.0
    address: str = "127.0.0.1"
    path: str = "/"
    answers: list[tuple[float, str, int, str]] = field(default_factory=list)
    """Moment, customer, status, cell or reason."""
    errors: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _stop: bool = False

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._client(number)) for number in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, _, status, _ in self.answers)

    def cells_since(self, moment: float) -> Counter[str]:
        return Counter(cell for at, _, _, cell in self.answers if at > moment)

    async def _client(self, number: int) -> None:
        deadline = time.monotonic() + self.within
        port = self.ports[number % len(self.ports)]
        connector = aiohttp.TCPConnector(limit=1)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            for turn in range(self.limit // self.clients):
                if self._stop or time.monotonic() > deadline:
                    return
                customer = f"customer-{(turn * self.clients + number) % self.customers}"
                sent = time.monotonic()
                try:
                    async with session.get(
                        f"http://{self.address}:{port}{self.path}", headers={"x-customer-id": customer}
                    ) as answer:
                        await answer.read()
                        who = answer.headers.get("X-Cell") or answer.headers.get("X-Reason", "")
                        self.answers.append((sent, customer, answer.status, who))
                except (aiohttp.ClientError, TimeoutError) as error:
                    self.errors.append(f"{customer}: {type(error).__name__} {error}")
                await asyncio.sleep(self.pause)
