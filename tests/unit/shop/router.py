"""A small router for tests: sends each customer to the cell that the customer's slot is assigned to.

Promises: changes of the table hold for each request that comes after. A slot without a cell is refused with 503 and
without the header `X-Cell`, as routers do.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from aiohttp import ClientSession, ClientTimeout, web

SLOTS = 1024


class SlotRouter:
    """Runs in a thread of its own while it is entered; `url` is where customers go."""

    def __init__(self, ports: Mapping[str, int], cell_of_slot: Callable[[int], str | None]) -> None:
        self.cell_of_slot = cell_of_slot
        self.url = ""
        self.passed = 0
        self._ports = ports
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    def __enter__(self) -> SlotRouter:
        self._thread.start()
        assert self._started.wait(60), "the test's router did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(60)

    async def _serve(self) -> None:
        self._loop, self._over = asyncio.get_running_loop(), asyncio.Event()
        async with ClientSession(timeout=ClientTimeout(total=60)) as session:
            self._session = session
            app = web.Application()
            app.router.add_route("*", "/{path:.*}", self._pass_on)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            self._started.set()
            await self._over.wait()
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.Response:
        from shop_load.customers import slot_of

        self.passed += 1
        cell = self.cell_of_slot(slot_of(request.headers["x-customer-id"], SLOTS))
        if cell is None:
            return web.Response(status=503)
        url = f"http://127.0.0.1:{self._ports[cell]}{request.path_qs}"
        kept = ("x-customer-id", "idempotency-key", "content-type")
        headers = {name: value for name, value in request.headers.items() if name.lower() in kept}
        async with self._session.request(request.method, url, data=await request.read(), headers=headers) as answer:
            back = {name: value for name, value in answer.headers.items() if name.lower().startswith("x-")}
            return web.Response(status=answer.status, body=await answer.read(), headers=back)
