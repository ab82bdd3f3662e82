"""Probes and integrity checks against real HTTP servers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from recell.api import Cell
from recell.engine.ports import Key
from recell.providers.probing import Prober
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.fakes.ports import free_port

A, B = ("shop", "a"), ("shop", "b")


class Backend:
    """A cell's web server that answers as it is told."""

    def __init__(self) -> None:
        self.status, self.body, self.delay = 200, "", 0.0
        self.requests: list[str] = []
        self.port = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.requests.append(f"{request.method} {request.path}")
        await asyncio.sleep(self.delay)
        return web.Response(status=self.status, text=self.body, headers={"Location": "/elsewhere"})


@asynccontextmanager
async def backend() -> AsyncIterator[Backend]:
    made = Backend()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    made.port = runner.addresses[0][1]
    try:
        yield made
    finally:
        await runner.cleanup()


def cell(key: Key, *, probe: bool = True, integrity: bool = False, timeout: str = "60s") -> Cell:
    spec: dict[str, Any] = {
        "routerRef": {"name": "main"},
        "backend": {"type": "Service", "service": {"name": "x", "port": 80}},
    }
    if probe:
        spec["health"] = {"probe": {"path": "/healthz", "interval": "100ms", "timeout": timeout}}
    if integrity:
        spec["data"] = {"integrity": {"path": "/integrity", "interval": "100ms", "timeout": timeout}}
    return Cell.model_validate({"metadata": {"namespace": key[0], "name": key[1]}, "spec": spec})


Start = Callable[..., Awaitable[Prober]]


@pytest.fixture
async def changes() -> list[Key]:
    return []


@pytest.fixture
async def prober(changes: list[Key]) -> AsyncIterator[Prober]:
    made = Prober(SystemClock(), has_endpoints=lambda key: key != ("shop", "empty"), on_change=changes.append)
    made.start()
    yield made
    await made.stop()


async def test_passing_and_failing_and_since_when(prober: Prober, changes: list[Key]) -> None:
    async with backend() as web_a:
        assert prober.probe(A) is None
        prober.set_target(cell(A), ("127.0.0.1", web_a.port))
        first = await eventually(lambda: prober.probe(A), "a result")
        assert first.ok
        assert first.message == "status 200"
        await eventually(lambda: len(web_a.requests) > 3, "it goes on")
        assert changes == [A], "the same result again is no news"
        latest = prober.probe(A)
        assert latest is not None
        assert latest.since == first.since
        assert latest.at > first.at
        web_a.status = 503
        bad = await eventually(lambda: (r := prober.probe(A)) is not None and not r.ok and r, "it fails")
        assert bad.message == "status 503"
        assert bad.since > first.since
        assert changes == [A, A]
        assert set(web_a.requests) == {"GET /healthz"}


@pytest.mark.parametrize(("status", "ok"), [(204, True), (302, True), (399, True), (400, False), (500, False)])
async def test_what_passes(prober: Prober, status: int, ok: bool) -> None:
    async with backend() as web_a:
        web_a.status = status
        prober.set_target(cell(A), ("127.0.0.1", web_a.port))
        result = await eventually(lambda: prober.probe(A), "a result")
        assert result.ok is ok
        assert "GET /elsewhere" not in web_a.requests, "redirects are not followed"


async def test_a_hanging_backend_fails_within_its_timeout(prober: Prober) -> None:
    async with backend() as web_a:
        web_a.delay = 5.0
        prober.set_target(cell(A, timeout="300ms"), ("127.0.0.1", web_a.port))
        result = await eventually(lambda: prober.probe(A), "a result")
        assert (result.ok, result.message) == (False, "no answer within 0.3 s")


@pytest.mark.parametrize(
    ("status", "intact"), [(200, True), (204, True), (409, False), (503, False), (500, None), (404, None), (302, None)]
)
async def test_integrity(prober: Prober, status: int, intact: bool | None) -> None:
    async with backend() as web_a:
        web_a.status, web_a.body = status, "3 orders without lines"
        prober.set_target(cell(A, probe=False, integrity=True), ("127.0.0.1", web_a.port))
        result = await eventually(lambda: prober.integrity(A), "a verdict")
        assert result.intact is intact
        assert result.message.startswith(f"/integrity: status {status}")
        if status != 204:
            assert ("3 orders" in result.message) == (intact is not True)
        assert prober.probe(A) is None


async def test_an_integrity_check_without_an_answer_is_inconclusive(prober: Prober) -> None:
    prober.set_target(cell(A, probe=False, integrity=True), ("127.0.0.1", free_port()))
    result = await eventually(lambda: prober.integrity(A), "a verdict")
    assert result.intact is None


async def test_when_data_was_last_intact_outlives_corruption_and_silence(prober: Prober) -> None:
    """And is when it was asked: what was written during a slow answer, the answer may not be about (rule 9)."""
    async with backend() as web_a:
        before = SystemClock().now()
        web_a.delay = 0.2
        where = ("127.0.0.1", web_a.port)
        prober.set_target(cell(A, probe=False, integrity=True), where)
        assert prober.last_intact(A) is None
        await eventually(lambda: len(web_a.requests) == 1, "it is asked")
        first = await eventually(lambda: prober.last_intact(A), "it passes")
        assert before < first <= SystemClock().now() - timedelta(seconds=web_a.delay), "not when it was answered"
        await eventually(lambda: (prober.last_intact(A) or first) > first, "it passes again")
        web_a.status = 409
        bad = await eventually(lambda: (r := prober.integrity(A)) is not None and r.intact is False and r, "it fails")
        last = prober.last_intact(A)
        assert last is not None
        assert first < last < bad.at
        prober.set_target(cell(A, probe=False, integrity=True), None)
        assert prober.last_intact(A) == last, "the cell cannot be asked any more"
        prober.set_target(cell(A, probe=False, integrity=True, timeout="400ms"), where)
        assert prober.last_intact(A) == last
    prober.drop(A)
    assert prober.last_intact(A) is None, "a cell of that name made anew has other data"


async def test_when_every_cell_refuses_it_is_more_likely_the_operator(prober: Prober, changes: list[Key]) -> None:
    async with backend() as web_b:
        prober.set_target(cell(A), ("127.0.0.1", free_port()))
        prober.set_target(cell(B), ("127.0.0.1", web_b.port))
        await eventually(lambda: (r := prober.probe(A)) is not None and not r.ok, "a fails")
        await eventually(lambda: (r := prober.probe(B)) is not None and r.ok, "b passes")
        assert not prober.operator_cut_off
        prober.set_target(cell(B), ("127.0.0.1", free_port()))
        changes.clear()
        await eventually(lambda: prober.operator_cut_off, "both refuse")
        for key in (A, B):
            result = prober.probe(key)
            assert result is not None
            assert result.operator_cut_off
        assert {A, B} <= set(changes), "it changes what every cell's failure means"
        prober.set_target(cell(B), ("127.0.0.1", web_b.port))
        await eventually(lambda: not prober.operator_cut_off, "one gets through")


async def test_errors_that_a_cell_gives_itself_are_its_own(prober: Prober) -> None:
    async with backend() as web_a, backend() as web_b:
        web_a.status = web_b.status = 500
        for key, where in ((A, web_a), (B, web_b)):
            prober.set_target(cell(key), ("127.0.0.1", where.port))
        await eventually(lambda: prober.probe(A) and prober.probe(B), "both fail")
        assert not prober.operator_cut_off


async def test_cells_that_should_not_answer_prove_nothing(prober: Prober) -> None:
    prober.set_target(cell(A), ("127.0.0.1", free_port()))
    prober.set_target(cell(("shop", "empty")), ("127.0.0.1", free_port()))
    await eventually(lambda: prober.probe(A) and prober.probe(("shop", "empty")), "both fail")
    assert not prober.operator_cut_off, "only one of them has endpoints"


async def test_targets_come_and_go(prober: Prober) -> None:
    async with backend() as web_a:
        prober.set_target(cell(A), ("127.0.0.1", web_a.port))
        await eventually(lambda: prober.probe(A), "a result")
        prober.set_target(cell(A), ("127.0.0.1", web_a.port))
        assert prober.probe(A) is not None, "nothing changed: the result stays"
        prober.set_target(cell(A, timeout="400ms"), ("127.0.0.1", web_a.port))
        assert prober.probe(A) is None
        await eventually(lambda: prober.probe(A), "a result")
        prober.set_target(cell(A), None)
        assert prober.probe(A) is None
        await asyncio.sleep(1)  # what was on its way has arrived
        count = len(web_a.requests)
        await asyncio.sleep(0.4)
        assert len(web_a.requests) == count
        prober.set_target(cell(A, probe=False), ("127.0.0.1", web_a.port))
        prober.drop(("shop", "unknown"))
