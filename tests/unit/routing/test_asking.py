"""The operator's own requests through a router: what counts as an answer, and that a change is told at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from recell.api.router import CustomerKey
from recell.providers.routing import asking
from recell.providers.routing.asking import RouterProber, WayIn
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.fakes.ports import free_port

KEY = ("fleet", "shop")
HEADER = CustomerKey.model_validate({"type": "Header", "name": "X-Customer"})
Answer = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def router(answer: Answer) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "TIMEOUT", 60.0)


@asynccontextmanager
async def prober(port: int) -> AsyncIterator[tuple[RouterProber, list[tuple[str, str]]]]:
    told: list[tuple[str, str]] = []
    made = RouterProber(SystemClock(), on_change=told.append)
    made.set_way(KEY, WayIn("127.0.0.1", port, HEADER, "/healthz"))
    try:
        yield made, told
    finally:
        await made.stop()


async def test_an_error_of_a_cell_is_an_answer_of_the_router() -> None:
    customers: set[str] = set()

    async def answer(request: web.Request) -> web.Response:
        customers.add(request.headers["X-Customer"] + request.path)
        return web.Response(status=500, headers={"X-Router": "pod-1"})

    async with router(answer) as port, prober(port) as (asked, told):
        await eventually(lambda: (asked.asked(KEY, 10) or _NONE).asked >= 2, "it was asked")
        found = asked.asked(KEY, 10)
        assert found is not None
        assert found.unanswered == 0
        assert told == [KEY]
        assert {"recell-probe-0/healthz", "recell-probe-1/healthz"} <= customers


async def test_a_router_without_a_table_and_what_is_no_router_do_not_answer() -> None:
    for headers in ({"X-Router": "pod-1", "X-Reason": asking.NO_TABLE}, {"Server": "something else"}):

        async def answer(request: web.Request, headers: dict[str, str] = headers) -> web.Response:
            return web.Response(status=503, headers=headers)

        async with router(answer) as port, prober(port) as (asked, _):
            await eventually(lambda asked=asked: (asked.asked(KEY, 10) or _NONE).unanswered >= 2, "it did not answer")


async def test_nobody_there_is_told_once() -> None:
    async with prober(free_port()) as (asked, told):
        await eventually(lambda: (asked.asked(KEY, 10) or _NONE).unanswered >= 2, "it did not answer")
        assert told == [KEY]
        assert "onnect" in (asked.asked(KEY, 10) or _NONE).message
        asked.set_way(KEY, None)
        assert asked.asked(KEY, 10) is None
        await asyncio.sleep(0)


_NONE = asking.Asked(0, 0, "", SystemClock().now(), SystemClock().now())
