"""Events: written, counted, bounded, and never in anybody's way."""

import asyncio
from typing import Any, cast

import pytest

from recell.engine.errors import Fenced, Forbidden
from recell.providers.kube import events as module
from recell.providers.kube.api import Api, Object
from recell.providers.kube.events import Recorder
from tests.unit.kube.fake_server import FakeApi, FakeServer
from tests.unit.runtime.virtual_time import LoopClock, play

CELL: Object = {
    "apiVersion": "recell.dev/v1alpha1",
    "kind": "Cell",
    "metadata": {"name": "a", "namespace": "shop", "uid": "u-1"},
}


def written(server: FakeServer) -> list[Object]:
    return [*server.objects.values()]


def scene(story: Any) -> None:
    async def whole() -> None:
        server = FakeServer()
        api = FakeApi(server)
        recorder = Recorder(cast(Api, api), LoopClock(), instance="pod-1")
        recorder.start()
        await story(server, api, recorder)
        await recorder.stop()

    play(whole())


def test_an_event_says_what_about_whom() -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        recorder.emit(CELL, "Failed", "2 of 3 pods ready", warning=True)
        await asyncio.sleep(1)
        (event,) = written(server)
        assert event["regarding"] == {
            "apiVersion": "recell.dev/v1alpha1",
            "kind": "Cell",
            "namespace": "shop",
            "name": "a",
            "uid": "u-1",
        }
        assert (event["type"], event["reason"], event["note"]) == ("Warning", "Failed", "2 of 3 pods ready")
        assert event["reportingController"] == "recell.dev/operator"
        assert event["reportingInstance"] == "pod-1"
        assert event["metadata"]["namespace"] == "shop"

    scene(story)


def test_the_same_within_ten_minutes_is_counted() -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        for _ in range(3):
            recorder.emit(CELL, "Failed", "down")
            await asyncio.sleep(60)
        recorder.emit(CELL, "Failed", "another note")
        await asyncio.sleep(1)
        assert sorted((e.get("series") or {}).get("count", 1) for e in written(server)) == [1, 3]
        await asyncio.sleep(700)
        recorder.emit(CELL, "Failed", "down")
        await asyncio.sleep(1)
        assert len(written(server)) == 3

    scene(story)


def test_one_that_expired_is_written_anew() -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        recorder.emit(CELL, "Failed", "down")
        await asyncio.sleep(1)
        server.objects.clear()
        recorder.emit(CELL, "Failed", "down")
        await asyncio.sleep(1)
        assert len(written(server)) == 1

    scene(story)


@pytest.mark.parametrize("error", [Fenced("standby"), Forbidden("no permission")])
def test_what_cannot_be_written_is_dropped(error: Any) -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        api.broken = error
        recorder.emit(CELL, "Failed", "lost")
        await asyncio.sleep(1)
        api.broken = None
        recorder.emit(CELL, "Healthy", "kept")
        await asyncio.sleep(1)
        assert [e["reason"] for e in written(server)] == ["Healthy"]

    scene(story)


def test_too_many_are_dropped_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAITING", 20)
    monkeypatch.setattr(module, "REMEMBERED", 5)

    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        for n in range(100):
            recorder.emit(CELL, "Failed", f"note {n}")
        await asyncio.sleep(1)
        assert len(written(server)) == 20
        assert len(recorder._written) == 5

    scene(story)


def test_what_waits_at_the_end_is_written_and_the_end_does_not_hang() -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        recorder.emit(CELL, "Failed", "last words")
        await recorder.stop()
        assert len(written(server)) == 1
        recorder.start()
        api.delay = 1000
        recorder.emit(CELL, "Failed", "too late")
        await asyncio.wait_for(recorder.stop(timeout=2), 10)

    scene(story)


def test_a_long_note_is_cut_to_what_the_server_takes() -> None:
    async def story(server: FakeServer, api: FakeApi, recorder: Recorder) -> None:
        recorder.emit(CELL, "Failed", "ä" * 2000)
        await asyncio.sleep(1)
        (event,) = written(server)
        assert len(event["note"].encode()) <= 1024
        assert event["note"].endswith("...")

    scene(story)
