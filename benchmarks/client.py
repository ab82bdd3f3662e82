"""A small client of the API server for measuring: requests, and watches that note when something arrived.

Promises: every request has a deadline, and one that is refused raises with the server's own words. What a
watch brings is kept with the moment of its arrival, so that nothing is lost between two looks.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson

from recell.providers.kube.connection import Connection

Object = dict[str, Any]
T = TypeVar("T")

GROUP = "/apis/recell.dev/v1alpha1"
MANAGER = "recell-benchmark"
IN_FLIGHT = 16
"""Requests at once when many objects are made; more only makes each of them slower."""


class BenchmarkError(RuntimeError):
    """A figure cannot be measured; the message says what was waited for, or what was refused."""


class Client:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def to(cls, kubeconfig: str) -> "AsyncIterator[Client]":
        connection = await Connection.open(kubeconfig)
        try:
            yield cls(connection)
        finally:
            await connection.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Object | None = None,
        *,
        content_type: str = "application/json",
        params: Mapping[str, str] | None = None,
        allow: Iterable[int] = (),
    ) -> Object:
        """Raises BenchmarkError for a status of 400 or more that is not in `allow`."""
        answer = await self._connection.request(
            method, path, params=params, body=body, content_type=content_type, timeout=60
        )
        if answer.status >= 400 and answer.status not in set(allow):
            raise BenchmarkError(f"{method} {path}: {answer.status} {answer.body[:500].decode(errors='replace')}")
        found: Object = orjson.loads(answer.body)
        return found

    async def apply(self, path: str, body: Object) -> Object:
        params = {"fieldManager": MANAGER, "force": "true"}
        return await self.call("PATCH", path, body, content_type="application/apply-patch+yaml", params=params)

    async def merge(self, path: str, body: Object) -> Object:
        return await self.call("PATCH", path, body, content_type="application/merge-patch+json")

    async def text(self, path: str) -> str:
        answer = await self._connection.request("GET", path, timeout=30)
        if answer.status >= 400:
            raise BenchmarkError(f"GET {path}: {answer.status} {answer.body[:500].decode(errors='replace')}")
        return answer.body.decode()

    async def each(self, work: Iterable[Callable[[], Any]]) -> None:
        """Do all of it, some at once."""
        gate = asyncio.Semaphore(IN_FLIGHT)

        async def one(do: Callable[[], Any]) -> None:
            async with gate:
                await do()

        await asyncio.gather(*(one(do) for do in work))

    async def lines(self, path: str, params: Mapping[str, str], *, idle: float) -> AsyncIterator[bytes]:
        """Lines of an answer that does not end, each as soon as it is whole."""
        async with self._connection.stream(path, params, idle=idle) as response:
            if response.status >= 400:
                raise BenchmarkError(f"GET {path}: {response.status} {(await response.read())[:500]!r}")
            rest = bytearray()
            async for chunk in response.content.iter_any():
                rest += chunk
                if b"\n" not in chunk:
                    continue
                *whole, last = bytes(rest).split(b"\n")
                rest = bytearray(last)
                for line in whole:
                    if line:
                        yield line


class Seen:
    """What arrived, and when (`time.monotonic()`); ask with `first`."""

    def __init__(self) -> None:
        self._items: list[tuple[float, Object]] = []
        self._more = asyncio.Condition()
        self._broken: BaseException | None = None

    async def add(self, obj: Object) -> None:
        async with self._more:
            self._items.append((time.monotonic(), obj))
            del self._items[:-5000]
            self._more.notify_all()

    async def broke(self, error: BaseException) -> None:
        async with self._more:
            self._broken = error
            self._more.notify_all()

    async def first(
        self, what: str, pick: Callable[[Object], T | None], *, since: float, within: float = 60
    ) -> tuple[float, T]:
        """The first thing that arrived after `since` of which `pick` makes something, and when it arrived."""
        position = next((i for i, (at, _) in enumerate(self._items) if at >= since), len(self._items))
        try:
            async with asyncio.timeout(within), self._more:
                while True:
                    for at, obj in self._items[position:]:
                        if at >= since and (found := pick(obj)) is not None:
                            return at, found
                    position = len(self._items)
                    if self._broken is not None:
                        raise BenchmarkError(f"the stream broke: {self._broken}") from self._broken
                    await self._more.wait()
        except TimeoutError as late:
            raise BenchmarkError(f"not within {within:g} s: {what}") from late


@asynccontextmanager
async def watching(client: Client, path: str, slim: Callable[[Object], Object]) -> AsyncIterator[Seen]:
    """Changes of a collection from now on, each as `slim` makes it smaller."""
    listed = await client.call("GET", path, params={"limit": "1"})
    params = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "7200"}

    async with _kept(client, path, params, lambda event: slim(event["object"])) as seen:
        yield seen


@asynccontextmanager
async def streaming(client: Client, path: str, slim: Callable[[Object], Object]) -> AsyncIterator[Seen]:
    """JSON lines of any other path."""
    async with _kept(client, path, {}, slim) as seen:
        yield seen


@asynccontextmanager
async def _kept(
    client: Client, path: str, params: Mapping[str, str], slim: Callable[[Object], Object]
) -> AsyncIterator[Seen]:
    seen = Seen()

    async def read() -> None:
        try:
            async for line in client.lines(path, params, idle=7200):
                await seen.add(slim(orjson.loads(line)))
            raise BenchmarkError(f"{path}: the stream ended")
        except Exception as error:
            await seen.broke(error)

    reading = asyncio.create_task(read(), name=f"reading {path}")
    try:
        yield seen
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
