"""The health endpoint: what is an ailment, what is merely not ready."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import pytest

from recell.controllers.queue import WorkQueue
from recell.engine.errors import Forbidden, Retryable
from recell.engine.ports import Key
from recell.providers.kube.api import Api
from recell.providers.kube.reflector import Reflector
from recell.runtime.clock import SystemClock
from recell.runtime.health import STUCK_RECONCILE, STUCK_WATCH, Health
from recell.runtime.metrics import Metrics, by_resource
from tests.fakes.world import FakeClock
from tests.unit.kube.fake_server import FakeApi, FakeServer

PATH = "/apis/recell.dev/v1alpha1/namespaces/shop/cells"


class Process:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.api = FakeApi(FakeServer())
        self.reflector = Reflector(cast(Api, self.api), PATH, self.clock)
        self.queue: WorkQueue[Key] = WorkQueue()
        self.metrics = Metrics()
        self.health = Health(
            self.clock,
            reflectors=lambda: [self.reflector],
            queues=lambda: {"Cell": self.queue},
            render_metrics=self.metrics.render,
        )

    async def get(self, path: str) -> tuple[int, str]:
        url = f"http://127.0.0.1:{self.health.port}{path}"
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()


@pytest.fixture
async def process() -> AsyncIterator[Process]:
    made = Process()
    await made.health.start("127.0.0.1", 0)
    yield made
    await made.reflector.stop()
    await made.health.stop()


async def test_ready_when_every_copy_is_complete(process: Process) -> None:
    status, text = await process.get("/readyz")
    assert status == 503
    assert f"{PATH} is not complete yet" in text
    assert await process.get("/healthz") == (200, "ok\n")
    process.reflector.start()
    await asyncio.wait_for(process.reflector.synced.wait(), 60)
    assert await process.get("/readyz") == (200, "ok\n")
    process.health.stopping()
    assert await process.get("/readyz") == (503, "stopping\n")
    assert (await process.get("/healthz"))[0] == 200


async def test_what_is_in_the_way_is_said(process: Process) -> None:
    process.api.broken = Forbidden("watch cells.recell.dev: permission missing; grant verb watch")
    process.reflector.start()
    while process.reflector.trouble is None:
        await asyncio.sleep(0.01)
    assert "grant verb watch" in (await process.get("/readyz"))[1]
    assert (await process.get("/healthz"))[0] == 200, "a restart grants nothing"


async def test_a_watch_that_does_not_stir_is_an_ailment(process: Process) -> None:
    process.clock.advance(STUCK_WATCH + 1)
    status, text = await process.get("/healthz")
    assert status == 503
    assert PATH in text


async def test_an_api_server_that_is_away_is_none(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recell.runtime.health.STUCK_LOOP", float("inf"))  # this clock jumps
    process.api.broken = Retryable("no route to host")
    process.reflector.start()
    for _ in range(5):
        process.clock.advance(STUCK_WATCH / 2)
        stirred = process.reflector.stirred
        while process.reflector.stirred == stirred:
            await asyncio.sleep(0.02)
        assert (await process.get("/healthz"))[0] == 200
    assert process.reflector.blind_for > STUCK_WATCH


async def test_a_reconcile_that_never_ends_is_an_ailment(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    process.queue.add(("shop", "a"))
    await process.queue.get()
    assert (await process.get("/healthz"))[0] == 200
    monkeypatch.setattr(WorkQueue, "longest_work", STUCK_RECONCILE + 1)
    status, text = await process.get("/healthz")
    assert status == 503
    assert "a reconcile of Cell" in text


async def test_figures(process: Process) -> None:
    m = process.metrics
    m.reconciled("Cell", "ok", 0.004)
    m.called("patch", "cells/status", 200)
    m.called("patch", "cells/status", 409)
    m.called("get", "cells", 200)
    m.run_ended("CellRestart", "Succeeded")
    m.acted(0.03)
    m.watch_queue("Cell", process.queue.__len__)
    m.watch_leadership(lambda: True, lambda: 7)
    m.watch_clock(lambda: None, lambda: 0.25)
    m.watch_reflectors(lambda: by_resource([process.reflector]))
    process.queue.add(("shop", "a"))
    _, text = await process.get("/metrics")
    lines: set[Any] = {*text.splitlines()}
    assert {
        'recell_reconcile_total{controller="Cell",result="ok"} 1.0',
        'recell_api_writes_total{resource="cells/status",verb="patch"} 1.0',
        'recell_api_requests_total{code="409",resource="cells/status",verb="patch"} 1.0',
        'recell_runs_total{result="Succeeded",strategy="CellRestart"} 1.0',
        'recell_detection_to_action_seconds_bucket{le="0.05"} 1.0',
        'recell_queue_depth{controller="Cell"} 1.0',
        "recell_leader 1.0",
        "recell_leader_epoch 7.0",
        "recell_clock_skew_seconds 0.0",
        "recell_event_loop_lag_seconds 0.25",
        'recell_watch_objects{resource="cells"} 0.0',
        'recell_watch_restarts_total{resource="cells"} 0.0',
    } <= lines


async def test_a_loop_that_hung_is_seen() -> None:
    health = Health(SystemClock(), reflectors=list, queues=dict, render_metrics=bytes)
    await health.start("127.0.0.1", 0)
    try:
        await asyncio.sleep(0.01)
        asyncio.get_running_loop().call_soon(_block)
        await asyncio.sleep(1.5)
        assert health.loop_lag > 0.1
        assert health.ailments() == []
    finally:
        await health.stop()


def _block() -> None:
    time.sleep(0.9)
