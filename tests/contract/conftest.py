"""The data planes on which the contract of the Traffic port is tried: the fake, and real router pods."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from recell.api import Placement
from recell.engine.ports import Key, Traffic
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from tests.fakes.traffic import FakeTraffic
from tests.router.rig import Cells, Load, PlacementApi, RouterPod, placement
from tests.router.rig.placements import NAME, NAMESPACE
from tests.router.rig.pod import free_port

ROUTER: Key = (NAMESPACE, NAME)


class Plane(Protocol):
    """A router of two pods with the cells a and b under a steady load, seen through the port."""

    traffic: Traffic

    def write(self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1") -> Placement:
        """Somebody writes the Placement: a is 0, b is 1."""
        ...

    async def until(self, condition: Callable[[], Any], within: float = 30.0) -> Any:
        """Time passes until the condition holds; fails when it does not within so many seconds."""
        ...

    def now(self) -> datetime: ...

    def failing(self, cell: str) -> None: ...

    def hung(self, cell: str) -> None: ...

    async def down(self, cell: str) -> None: ...

    async def freeze(self) -> None:
        """The pods serve and tell, but hear of no new Placement."""
        ...

    async def thaw(self) -> None: ...

    def silence(self) -> None:
        """The pods serve, but nothing is heard of them."""
        ...

    def speak(self) -> None: ...

    def serving(self, pods: int) -> None:
        """How many of the two pods customers' requests may reach."""
        ...


def _object(cells: Mapping[str, tuple[int, str, int]], table: list[int], **more: Any) -> dict[str, Any]:
    return placement(cells, table, **more)


class ManualClock:
    def __init__(self) -> None:
        self._now = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._now.timestamp()

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)


class FakePlane:
    def __init__(self) -> None:
        self._clock = ManualClock()
        self.traffic = FakeTraffic(self._clock)
        self.traffic.delay = 0.3
        self.traffic.rps = 100

    def now(self) -> datetime:
        return self._clock.now()

    def write(self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1") -> Placement:
        cells = {"a": (0, "10.0.0.1", 80), "b": (1, "10.0.0.2", 80)}
        made = Placement.model_validate(_object(cells, table, generation=generation, epoch=epoch, uid=uid))
        self.traffic.apply(made)
        return made

    async def until(self, condition: Callable[[], Any], within: float = 30.0) -> Any:
        for _ in range(int(within * 10)):
            value = condition()
            if value:
                return value
            self._clock.advance(0.1)
        raise AssertionError(f"did not happen within {within} s")

    def failing(self, cell: str) -> None:
        self.traffic.cells[cell].error_rate = 1.0

    def hung(self, cell: str) -> None:
        self.traffic.cells[cell].hung = True

    async def down(self, cell: str) -> None:
        self.traffic.cells[cell].down = True

    async def freeze(self) -> None:
        self.traffic.frozen = True

    async def thaw(self) -> None:
        self.traffic.frozen = False

    def silence(self) -> None:
        self.traffic.silent = True

    def speak(self) -> None:
        self.traffic.silent = False

    def serving(self, pods: int) -> None:
        self.traffic.pods = pods


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class RealPlane:
    """HAProxy and agent processes, cells that answer HTTP, and clients that ask."""

    def __init__(self, api: PlacementApi, cells: Cells, pods: tuple[RouterPod, ...], traffic: HAProxyTraffic) -> None:
        self._api = api
        self._cells = cells
        self._pods = pods
        self._haproxy = traffic
        self.traffic: Traffic = traffic
        self.serving(len(pods))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def write(self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1") -> Placement:
        obj = _object(self._cells.placed(a=0, b=1), table, generation=generation, epoch=epoch, uid=uid)
        made = Placement.model_validate(obj)
        self._haproxy.set_placement(ROUTER, made)
        self._api.put(obj)
        return made

    async def until(self, condition: Callable[[], Any], within: float = 30.0) -> Any:
        try:
            async with asyncio.timeout(within):
                while True:
                    value = condition()
                    if value:
                        return value
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"did not happen within {within} s\n{self._pods[0].log('agent')[-2000:]}") from None

    def failing(self, cell: str) -> None:
        self._cells[cell].failing = True

    def hung(self, cell: str) -> None:
        self._cells[cell].hung = True

    async def down(self, cell: str) -> None:
        await self._cells[cell].stop()

    async def freeze(self) -> None:
        await self._api.away()

    async def thaw(self) -> None:
        await self._api.back()

    def silence(self) -> None:
        self._signal(signal.SIGSTOP)

    def speak(self) -> None:
        self._signal(signal.SIGCONT)

    def serving(self, pods: int) -> None:
        self._haproxy.set_pods(ROUTER, {p.name: (p.address, n < pods) for n, p in enumerate(self._pods)})

    def _signal(self, number: signal.Signals) -> None:
        for pod in self._pods:
            assert pod.agent is not None
            pod.agent.send_signal(number)


@contextlib.asynccontextmanager
async def real_plane() -> AsyncIterator[RealPlane]:
    port = free_port()
    async with contextlib.AsyncExitStack() as stack:
        cells = await stack.enter_async_context(Cells("a", "b"))
        api = await stack.enter_async_context(PlacementApi())
        pods = tuple(RouterPod(api, name=f"router-{n}", address=f"127.0.0.{n + 1}", agent_port=port) for n in range(2))
        for pod in pods:
            await stack.enter_async_context(pod)
        traffic = HAProxyTraffic(SystemClock(), on_change=lambda key: None, port=port)
        stack.push_async_callback(traffic.stop)
        plane = RealPlane(api, cells, pods, traffic)
        load = Load(tuple(pod.port for pod in pods), clients=8, pause=0.05, within=90)
        await stack.enter_async_context(load)
        try:
            yield plane
        finally:
            plane.speak()
            for name in ("a", "b"):
                cells[name].hung = False


@pytest.fixture(params=["fake", "haproxy"])
async def plane(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    if request.param == "fake":
        yield FakePlane()
    else:
        async with real_plane() as real:
            yield real
