"""The port on the streams of several pods: what is told, when nothing is told, and for how long."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import web

from recell.providers.routing.haproxy import streams
from recell.providers.routing.haproxy.report import parse
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from tests.fakes.ports import free_port
from tests.router.rig.pod import eventually
from tests.unit.routing.builders import START, ManualClock, cell, line, placed

KEY = ("fleet", "shop")


class FakePod:
    """A `/watch` that says what the test tells it to."""

    def __init__(self, address: str, port: int) -> None:
        self.address = address
        self._port = port
        self._queues: list[asyncio.Queue[bytes | None]] = []
        self._runner: web.AppRunner | None = None
        self.connections = 0

    async def start(self) -> None:
        app = web.Application()
        app.router.add_get("/watch", self._watch)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, self.address, self._port).start()

    async def stop(self) -> None:
        self.cut()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)

    def send(self, raw: bytes) -> None:
        for queue in self._queues:
            queue.put_nowait(raw)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.enable_chunked_encoding()
        await response.prepare(request)
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._queues.append(queue)
        self.connections += 1
        try:
            while (raw := await queue.get()) is not None:
                await response.write(raw)
        finally:
            self._queues.remove(queue)
        return response


class World:
    def __init__(self, port: int) -> None:
        self.clock = ManualClock()
        self.changes: list[tuple[str, str]] = []
        self.traffic = HAProxyTraffic(self.clock, on_change=self.changes.append, port=port)
        self.pods = [FakePod(f"127.0.0.{number}", port) for number in (2, 3)]

    def serve(self, *serving: bool) -> None:
        self.traffic.set_pods(KEY, {f"pod-{n}": (self.pods[n].address, yes) for n, yes in enumerate(serving)})

    async def connected(self) -> None:
        await eventually(lambda: all(pod._queues for pod in self.pods))

    async def tell(self, *told: bytes | None, at: float | None = None) -> None:
        """Each pod says its line, and it was heard."""
        if at is not None:
            self.clock.seconds = at
        before = {name: pod.report for name, pod in self.traffic._routers[KEY].pods.items()}
        for pod, raw in zip(self.pods, told, strict=True):
            if raw is not None:
                pod.send(raw + b"\n")
        for n, raw in enumerate(told):
            if raw is not None:
                now = self.traffic._routers[KEY].pods[f"pod-{n}"]
                await eventually(lambda now=now, n=n: now.report is not before[f"pod-{n}"])  # type: ignore[misc]


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(streams, "SILENT_FOR", 600.0)  # pods say only what the tests tell them to
    monkeypatch.setattr(streams, "CONNECT_WITHIN", 60.0)
    made = World(free_port())
    for pod in made.pods:
        await pod.start()
    made.traffic.set_placement(KEY, placed("a", "b"))
    made.serve(True, True)
    await made.connected()
    yield made
    await made.traffic.stop()
    for pod in made.pods:
        await pod.stop()


async def steady(world: World, seconds: int, *, start: int = 0, per_second: int = 10) -> None:
    """Both pods send half of their requests to each cell."""
    for second in range(start, start + seconds + 1):
        told = line({0: cell(100 + per_second * second), 1: cell(500 + per_second * second)})
        await world.tell(told, told, at=second)


async def test_figures_are_summed_over_the_pods(world: World) -> None:
    await steady(world, 10)
    seen = world.traffic.observed(KEY, window=10)
    assert seen is not None
    assert (seen.since, seen.until, seen.pods) == (START, START + timedelta(seconds=10), 2)
    assert {name: c.requests for name, c in seen.cells.items()} == {"a": 200, "b": 200}
    assert seen.cells["a"].requests_per_second == pytest.approx(20)
    assert seen.requests_per_second == pytest.approx(40)


async def test_a_window_that_is_less_than_half_covered_tells_nothing(world: World) -> None:
    await steady(world, 10)
    assert world.traffic.observed(KEY, window=21) is None
    assert world.traffic.observed(KEY, window=20) is not None
    assert world.traffic.observed(KEY, window=10, not_before=START + timedelta(seconds=6)) is None
    seen = world.traffic.observed(KEY, window=10, not_before=START + timedelta(seconds=4.5))
    assert seen is not None
    assert seen.since == START + timedelta(seconds=5)
    assert seen.cells["a"].requests == 100


@pytest.mark.parametrize("window", [1, 2, 3, 10])
async def test_a_window_of_few_reports_is_never_half_empty(world: World, window: int) -> None:
    """Whenever they are asked for, and though reports come a little early or late."""
    early_or_late = (0.0, 0.04, -0.06, 0.02, -0.03, 0.07, -0.01, 0.05)
    for second in range(30):
        at = second + early_or_late[second % len(early_or_late)]
        told = line({0: cell(100 + 10 * second)})
        await world.tell(told, told, at=at)
        for later in (0.01, 0.5, 0.9):
            world.clock.seconds = at + later
            seen = world.traffic.observed(KEY, window=window)
            if second > window:
                assert seen is not None
                assert seen.cells["a"].requests == 2 * 10 * window
                assert seen.window == pytest.approx(window, abs=0.2)


async def test_nothing_fresh_from_one_serving_pod_tells_nothing(world: World) -> None:
    await steady(world, 10)
    told = line({0: cell(300), 1: cell(700)})
    await world.tell(told, None, at=13)
    assert world.traffic.observed(KEY, window=10) is not None
    await world.tell(told, None, at=13.1)
    assert world.traffic.observed(KEY, window=10) is None
    world.serve(True, False)
    assert world.traffic.observed(KEY, window=10) is not None


async def test_applied_is_the_least_of_the_serving_pods(world: World) -> None:
    assert world.traffic.applied(KEY) is None
    await world.tell(line({}, applied=(2, 5)), None, at=1)
    assert world.traffic.applied(KEY) is None, "one has not said anything"
    await world.tell(None, line({}, applied=(2, 4)), at=2)
    seen = world.traffic.applied(KEY)
    assert seen is not None
    assert (seen.epoch, seen.generation, seen.pods) == (2, 4, 2)
    await world.tell(None, line({}, applied=(2, 5)), at=3)
    await world.tell(line({}, applied=(2, 5)), line({}, applied=(2, 5)), at=9)
    seen = world.traffic.applied(KEY)
    assert seen is not None
    assert (seen.generation, seen.at) == (5, START + timedelta(seconds=3))
    await world.tell(line({}, applied=None, instance="", rejected=None), None, at=10)
    assert world.traffic.applied(KEY) is None, "its HAProxy is gone"
    world.serve(False, True)
    seen = world.traffic.applied(KEY)
    assert seen is not None
    assert seen.pods == 1


async def test_a_pod_that_left_still_counts_in_the_window(world: World) -> None:
    await steady(world, 10)
    world.traffic.set_pods(KEY, {"pod-0": (world.pods[0].address, True)})
    for second in range(11, 16):
        world.clock.seconds = second
        world.pods[0].send(line({0: cell(100 + 20 * second), 1: cell(500 + 20 * second)}) + b"\n")
        await eventually(lambda: world.traffic._routers[KEY].pods["pod-0"].heard_at == world.clock.now())
    seen = world.traffic.observed(KEY, window=10)
    assert seen is not None
    # From second 5: what the one that stays counted, and what the other did until it left at 10.
    assert seen.cells["a"].requests == (400 - 150) + 50
    assert seen.pods == 1


async def test_a_new_pod_counts_from_its_start_without_waiting(world: World) -> None:
    world.serve(True)
    for second in range(11):
        world.clock.seconds = second
        await world.tell(line({0: cell(10 * second)}), None)
    world.serve(True, True)
    await eventually(lambda: world.pods[1].connections == 2)
    await world.tell(line({0: cell(110)}), line({0: cell(4)}, age=1.0), at=11)
    seen = world.traffic.observed(KEY, window=10)
    assert seen is not None
    assert seen.cells["a"].requests == 100 + 4
    assert seen.pods == 2


async def test_p95_errors_and_what_is_in_flight(world: World) -> None:
    await world.tell(line({0: cell()}), line({0: cell()}), at=0)
    await world.tell(
        line({0: cell(100, failures=5, in_flight=3, slow=4)}), line({0: cell(100, in_flight=2, slow=7)}), at=2
    )
    seen = world.traffic.observed(KEY, window=4)
    assert seen is not None
    a = seen.cells["a"]
    assert (a.requests, a.failures, a.in_flight, a.error_rate) == (200, 5, 5, 0.025)
    assert a.latency_p95 == 1.0, "11 of 200 are slower than 100 ms: more than 5 %"
    assert seen.cells["b"].latency_p95 is None
    assert seen.cells["b"].error_rate is None


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ("up", "up", True),
        ("down", "up", True),
        ("down", "down", False),
        ("down", "unknown", None),
        ("maint", "maint", None),
    ],
)
async def test_a_cell_is_down_when_every_pod_says_so(
    world: World, first: str, second: str, expected: bool | None
) -> None:
    for second_at in (0, 2):
        await world.tell(line({0: cell(check=first)}), line({0: cell(check=second)}), at=second_at)
    seen = world.traffic.observed(KEY, window=4)
    assert seen is not None
    assert seen.cells["a"].check_up is expected
    assert seen.cells["b"].check_up is None


async def test_on_change_is_for_changes_and_not_for_counters(world: World) -> None:
    await world.tell(line({0: cell(1)}), line({0: cell(1)}), at=0)
    world.changes.clear()
    await world.tell(line({0: cell(9)}), line({0: cell(9)}), at=1)
    assert world.changes == []
    for told in (
        line({0: cell(9, check="down")}),
        line({0: cell(9, check="down")}, applied=(1, 2)),
        line({0: cell(9, check="down")}, applied=(1, 2), instance="p2"),
        line({0: cell(9, check="down")}, applied=(1, 2), instance="p2", refused={"reason": "older"}),
    ):
        world.changes.clear()
        await world.tell(told, None)
        assert world.changes == [KEY]


async def test_what_pods_complain_about(world: World) -> None:
    away: dict[str, Any] = {"state": "Away", "message": "refused"}
    await world.tell(line({}), line({}), at=0)
    assert world.traffic.complaint(KEY) == ""
    await world.tell(line({}, refused={"reason": "epoch 1 is older"}), line({}, source=away), at=1)
    assert world.traffic.complaint(KEY) == "pod pod-0 refuses the Placement: epoch 1 is older"
    await world.tell(line({}, source={"state": "Missing", "message": "gone"}), line({}, source=away), at=12)
    assert world.traffic.complaint(KEY) == (
        "pod pod-0 keeps the last table: gone; "
        "pod pod-1 keeps the last table, for it cannot read its Placement: refused"
    )
    await world.tell(line({}, error="no such backend"), line({}), at=13)
    assert world.traffic.complaint(KEY) == "pod pod-0 could not apply the Placement: no such backend"
    world.serve(False, True)
    assert world.traffic.complaint(KEY) == ""


async def test_a_stream_that_breaks_or_talks_nonsense_is_opened_again(world: World) -> None:
    await steady(world, 4)
    world.pods[0].cut()
    await eventually(lambda: world.pods[0].connections == 2)
    await steady(world, 4, start=5)
    seen = world.traffic.observed(KEY, window=8)
    assert seen is not None
    assert seen.cells["a"].requests == 160, "nothing was lost in the gap"
    world.pods[0].send(b'{"neither": "this"}\n')
    await eventually(lambda: world.pods[0].connections == 3)
    await world.pods[1].stop()
    await world.pods[1].start()
    await eventually(lambda: world.pods[1].connections == 2)


async def test_a_pod_at_another_address_is_another_pod(world: World) -> None:
    await steady(world, 4)
    world.traffic.set_pods(KEY, {"pod-0": (world.pods[1].address, True)})
    assert world.traffic.applied(KEY) is None
    await eventually(lambda: len(world.pods[1]._queues) == 1)


async def test_a_router_that_is_gone_is_forgotten(world: World) -> None:
    await steady(world, 4)
    world.traffic.drop(KEY)
    world.traffic.drop(KEY)
    assert world.traffic.applied(KEY) is None
    assert world.traffic.observed(KEY, window=2) is None

    def hung_up() -> bool:
        for pod in world.pods:
            pod.send(b"anybody there?\n")
        return not any(pod._queues for pod in world.pods)

    await eventually(hung_up)


@pytest.mark.parametrize(
    "raw",
    [b"", b"no json", b"[]", b"{}", line({0: {"requests": 1}}), line({0: cell()}, bounds=[1]), line({}, placement={})],
)
def test_a_line_that_is_no_report_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError):
        parse(raw)
