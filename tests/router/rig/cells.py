"""Cells: small HTTP servers that say who they are and can be made to misbehave."""

import asyncio
import contextlib
from collections import Counter

from aiohttp import web

from tests.fakes.ports import free_port
from tests.router.rig.opened import STREAM, WEBSOCKET


class HttpCell:
    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        self.name = name
        self.address = address
        self.port = 0
        self.requests: Counter[str] = Counter()
        """By customer."""
        self.failing = False
        self.latency = 0.0
        self._answering = asyncio.Event()
        self._answering.set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> "HttpCell":
        app = web.Application()
        app.router.add_get(STREAM, self._stream)
        app.router.add_get(WEBSOCKET, self._websocket)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        self.port = self.port or free_port()  # one that is still free when it starts again
        # The checks of 819 backends that are this cell's, while this process waits for its turn.
        await web.TCPSite(self._runner, self.address, self.port, backlog=4096).start()
        return self

    async def stop(self) -> None:
        self._answering.set()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    @property
    def hung(self) -> bool:
        return not self._answering.is_set()

    @hung.setter
    def hung(self, value: bool) -> None:
        if value:
            self._answering.clear()
        else:
            self._answering.set()

    @property
    def total(self) -> int:
        return self.requests.total()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests[request.headers.get("x-customer-id", "")] += 1
        await self._answering.wait()
        if self.latency:
            await asyncio.sleep(self.latency)
        return web.Response(status=500 if self.failing else 200, headers={"X-Cell": self.name}, text=self.name)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"X-Cell": self.name})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.write(b".")
                await asyncio.sleep(0.05)
        return answer

    async def _websocket(self, request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await answer.send_str(".")
                await asyncio.sleep(0.05)
        return answer


class Cells:
    """Started cells by name; ends them all."""

    def __init__(self, *names: str) -> None:
        self._cells = {name: HttpCell(name) for name in names}

    async def __aenter__(self) -> "Cells":
        for cell in self._cells.values():
            await cell.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for cell in self._cells.values():
            await cell.stop()

    def __getitem__(self, name: str) -> HttpCell:
        return self._cells[name]

    async def add(self, name: str) -> HttpCell:
        self._cells[name] = await HttpCell(name).start()
        return self._cells[name]

    def placed(self, **indexes: int) -> dict[str, tuple[int, str, int]]:
        """For `placement`: name -> (index, address, port)."""
        return {name: (index, self._cells[name].address, self._cells[name].port) for name, index in indexes.items()}
