"""What all cells share is asked, believed to be broken only after a while, and forgotten with its Router."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from recell.api.recovery_policy import RecoveryPolicySpec
from recell.providers import dependencies
from recell.runtime.clock import SystemClock
from tests.fakes.ports import free_port
from tests.router.rig.pod import eventually

KEY = ("fleet", "shop")


class Shared:
    """Something on loopback that answers, errs or is gone."""

    def __init__(self) -> None:
        self.port, self.status = free_port(), 200
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/ready", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.Request) -> web.Response:
        return web.Response(status=self.status)


@pytest.fixture
async def shared(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shared]:
    monkeypatch.setattr(dependencies, "EVERY", 0.02)
    monkeypatch.setattr(dependencies, "WITHIN", 60.0)
    made = Shared()
    await made.start()
    yield made
    await made.stop()


def policy(port: int, failed_after: str = "100ms", **more: Any) -> RecoveryPolicySpec:
    asked = {"name": "database", "host": "127.0.0.1", "port": port, **more}
    return RecoveryPolicySpec.model_validate({"detection": {"failedAfter": failed_after}, "dependencies": [asked]})


@pytest.fixture
async def told() -> AsyncIterator[tuple[dependencies.DependencyProber, list[Any]]]:
    changes: list[Any] = []
    prober = dependencies.DependencyProber(SystemClock(), on_change=changes.append)
    yield prober, changes
    await prober.stop()


async def test_one_that_refuses_connections_is_broken_until_it_answers(shared: Shared, told: Any) -> None:
    prober, changes = told
    prober.watch(KEY, policy(shared.port))
    await asyncio.sleep(0.2)
    assert (prober.broken(KEY), changes) == ((), [])
    await shared.stop()
    await eventually(lambda: prober.broken(KEY) == ("database",))
    assert changes == [KEY]
    await shared.start()
    await eventually(lambda: prober.broken(KEY) == ())
    assert changes == [KEY, KEY]


async def test_with_a_path_its_answer_counts(shared: Shared, told: Any) -> None:
    prober, _ = told
    shared.status = 404
    prober.watch(KEY, policy(shared.port, path="/ready"))
    await asyncio.sleep(0.3)
    assert prober.broken(KEY) == (), "it answers, whatever it thinks of the path"
    shared.status = 503
    await eventually(lambda: prober.broken(KEY) == ("database",))


async def test_it_is_not_believed_at_once(shared: Shared, told: Any) -> None:
    prober, _ = told
    await shared.stop()
    prober.watch(KEY, policy(shared.port, failed_after="1h"))
    await asyncio.sleep(0.2)
    assert prober.broken(KEY) == ()


async def test_what_the_policy_does_not_name_any_more_is_forgotten(shared: Shared, told: Any) -> None:
    prober, _ = told
    await shared.stop()
    prober.watch(KEY, policy(shared.port))
    await eventually(lambda: prober.broken(KEY) == ("database",))
    prober.watch(KEY, policy(shared.port))
    assert prober.broken(KEY) == ("database",), "asking again changes nothing"
    prober.watch(KEY, RecoveryPolicySpec())
    assert prober.broken(KEY) == ()
    prober.watch(KEY, policy(shared.port))
    prober.drop(KEY)
    assert prober.broken(KEY) == ()
