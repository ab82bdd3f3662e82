"""The data planes on which the contract of the Traffic port is tried: the fake, real router pods, Gateways that an
implementation in memory stands behind (`tests/gateway` has real ones), and name servers."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest

from recell.api import Cell, Placement, Router
from recell.api.dns import DNS
from recell.api.router import RouterSpec
from recell.engine.ports import Key, Traffic
from recell.providers.kube.paths import HTTP_ROUTES
from recell.providers.routing.dns.data_plane import asked
from recell.providers.routing.dns.records import answered, endpoint, records
from recell.providers.routing.dns.resolving import NameServers
from recell.providers.routing.dns.traffic import DNSTraffic
from recell.providers.routing.gateway.data_plane import GatewayDataPlane
from recell.providers.routing.gateway.figures import Figures
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from recell.providers.routing.version import Version
from tests.dns import bind
from tests.dns.bind import ZONE, Bind
from tests.fakes.eventually import eventually
from tests.fakes.ports import free_port
from tests.fakes.traffic import FakeTraffic
from tests.router.rig import Cells, Load, PlacementApi, RouterPod, placement
from tests.router.rig.placements import NAME, NAMESPACE
from tests.unit.routing.played_gateway import PlayedGateway, RouteApi, router_spec

ROUTER: Key = (NAMESPACE, NAME)


REJECTING, CHECKS, IN_FLIGHT, FREEZING = "rejecting", "checks", "in flight", "freezing"
FIGURES, SHEDDING = "figures", "shedding"
"""What not every data plane can do or tell."""
CLASSES = [{"name": "bulk", "matches": [{"pathPrefix": "/export"}]}]
"""Of requests, where classes are configuration; those of the load are of the class default."""


class Plane(Protocol):
    """A router of two pods with the cells a and b under a steady load, seen through the port."""

    traffic: Traffic
    lacks: frozenset[str]
    lag: float
    """Seconds until what is applied is obeyed."""

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        """Somebody writes the Placement: a is 0, b is 1; with what is turned away, as the rig's `placement` has it."""
        ...

    async def until(self, condition: Callable[[], Any], within: float = 120.0) -> Any:
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
    lacks: frozenset[str] = frozenset()
    lag = 0.0

    def __init__(self) -> None:
        self._clock = ManualClock()
        self.traffic = FakeTraffic(self._clock)
        self.traffic.delay = 0.3
        self.traffic.rps = 100
        self.traffic.classes = {"default": 1.0}

    def now(self) -> datetime:
        return self._clock.now()

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        cells = {"a": (0, "10.0.0.1", 80), "b": (1, "10.0.0.2", 80)}
        made = Placement.model_validate(_object(cells, table, generation=generation, epoch=epoch, uid=uid, **more))
        self.traffic.apply(made)
        return made

    async def until(self, condition: Callable[[], Any], within: float = 120.0) -> Any:
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

    lacks: frozenset[str] = frozenset()
    lag = 0.0

    def __init__(self, api: PlacementApi, cells: Cells, pods: tuple[RouterPod, ...], traffic: HAProxyTraffic) -> None:
        self._api = api
        self._cells = cells
        self._pods = pods
        self._haproxy = traffic
        self.traffic: Traffic = traffic
        self.serving(len(pods))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        obj = _object(self._cells.placed(a=0, b=1), table, generation=generation, epoch=epoch, uid=uid, **more)
        made = Placement.model_validate(obj)
        self._haproxy.set_placement(ROUTER, made)
        self._api.put(obj)
        return made

    async def until(self, condition: Callable[[], Any], within: float = 120.0) -> Any:
        try:
            return await eventually(condition, "what the test waits for", deadline=within)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._pods[0].log('agent')[-2000:]}") from None

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
        sheds = {"REQUEST_CLASSES": json.dumps(CLASSES)}
        pods = tuple(
            RouterPod(api, name=f"router-{n}", address=f"127.0.0.{n + 1}", agent_port=port, environment=sheds)
            for n in range(2)
        )
        for pod in pods:
            await stack.enter_async_context(pod)
        traffic = HAProxyTraffic(SystemClock(), on_change=lambda key: None, port=port)
        stack.push_async_callback(traffic.stop)
        plane = RealPlane(api, cells, pods, traffic)
        load = Load(tuple(pod.port for pod in pods), clients=8, pause=0.05)
        await stack.enter_async_context(load)
        try:
            yield plane
        finally:
            plane.speak()
            for name in ("a", "b"):
                cells[name].hung = False


class PlayedPlane:
    """A Router of type Gateway on an API server and an implementation in memory."""

    lacks = frozenset({REJECTING, CHECKS})
    lag = 0.0

    def __init__(self, served: PlayedGateway) -> None:
        self._served = served
        api: Any = RouteApi(served)
        clock = SystemClock()
        self._plane = GatewayDataPlane(
            api,
            clock,
            [NAMESPACE],
            lambda key: CELLS,
            Figures(api, clock),
            turns_away=lambda key: True,
            on_change=lambda key: self._look_again(),
        )
        self.traffic: Traffic = self._plane
        self._telling: set[asyncio.Task[None]] = set()
        self._newest: Placement | None = None
        self._one_at_a_time = asyncio.Lock()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        cells = {"a": (0, "10.0.0.1", 80), "b": (1, "10.0.0.2", 80)}
        made = Placement.model_validate(_object(cells, table, generation=generation, epoch=epoch, uid=uid, **more))
        self._newest = made
        self._look_again()
        return made

    def _look_again(self) -> None:
        """As the controller does when a route looks different."""
        if self._newest is not None:
            task = asyncio.get_running_loop().create_task(self._tell(self._newest))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _tell(self, placed: Placement) -> None:
        async with self._one_at_a_time:
            await self._plane.ensure(gateway_router(self._served.port))
            await self._plane.tell(ROUTER, placed)

    async def until(self, condition: Callable[[], Any], within: float = 120.0) -> Any:
        return await eventually(condition, "what the test waits for", deadline=within)

    def failing(self, cell: str) -> None:
        self._served.changed(cell, failing=True)

    def hung(self, cell: str) -> None:
        self._served.changed(cell, hung=True)

    async def down(self, cell: str) -> None:
        self._served.changed(cell, down=True)

    async def freeze(self) -> None:
        self._served.frozen = True

    async def thaw(self) -> None:
        self._served.frozen = False
        self._served.take_up(HTTP_ROUTES.path(*ROUTER))

    def silence(self) -> None:
        self._served.silent = True

    def speak(self) -> None:
        self._served.silent = False

    def serving(self, pods: int) -> None:
        self._served.accepting = pods
        self._served.pods(pods)
        self._served.take_up(HTTP_ROUTES.path(*ROUTER))

    async def stop(self) -> None:
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self._plane.stop()


def _cell(name: str) -> Cell:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    body = {"metadata": {"name": name, "namespace": NAMESPACE}, "spec": {"routerRef": {"name": NAME}}}
    body["spec"]["backend"] = backend
    return Cell.model_validate(body)


CELLS = {name: _cell(name) for name in "ab"}


def gateway_router(port: int) -> Router:
    metadata = {"name": NAME, "namespace": NAMESPACE, "uid": "router-uid"}
    spec = router_spec(port) | {"shedding": {"classes": CLASSES}}
    return Router.model_validate({"metadata": metadata, "spec": spec})


class NamesPlane:
    """A Router of type DNS: two BIND servers of one zone, ExternalDNS in memory (`tests/dns` has the real one)."""

    lacks = frozenset({FIGURES, SHEDDING})
    lag = 0.0

    def __init__(self, servers: Sequence[Bind]) -> None:
        self._servers = servers
        named = [{"host": "127.0.0.1", "port": server.port} for server in servers]
        self._block = DNS.model_validate(
            {"hostname": NAMED, "ttl": "1s", "routingPolicy": "Simple", "nameservers": named}
        )
        clock = SystemClock()
        self.names = DNSTraffic(clock, NameServers(clock), on_change=lambda key: None)
        self.traffic: Traffic = self.names
        self._newest: Placement | None = None
        self._frozen = False
        self._telling: set[asyncio.Task[None]] = set()

    def now(self) -> datetime:
        return datetime.now(UTC)

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        cells = {"a": (0, "192.0.2.1", 80), "b": (1, "192.0.2.2", 80)}
        made = Placement.model_validate(_object(cells, table, generation=generation, epoch=epoch, uid=uid, **more))
        if self._newest is None or Version.of(made).may_follow(Version.of(self._newest)):  # as the data plane has it
            self._newest = made
        task = asyncio.get_running_loop().create_task(self._tell(made))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return made

    async def _tell(self, placed: Placement) -> None:
        await self._publish()
        asked_for = asked(placed, self._block, endpoint(Router(spec=NAMED_ROUTER), placed, self._block))
        await self.names.publish(ROUTER, self._block, asked_for, taken=True)

    async def _publish(self) -> None:
        """To the primary; the secondary follows."""
        if self._newest is not None and not self._frozen:
            await self._servers[0].put(NAMED, "A", *answered(records(self._newest.spec, self._block)), ttl=1)

    async def until(self, condition: Callable[[], Any], within: float = 120.0) -> Any:
        return await eventually(condition, "what the test waits for", deadline=within)

    def failing(self, cell: str) -> None:
        raise NotImplementedError("no request passes here")

    def hung(self, cell: str) -> None:
        raise NotImplementedError("no request passes here")

    async def down(self, cell: str) -> None:
        raise NotImplementedError("no request passes here")

    async def freeze(self) -> None:
        self._frozen = True

    async def thaw(self) -> None:
        self._frozen = False
        await self._publish()

    def silence(self) -> None:
        for server in self._servers:
            server.freeze()

    def speak(self) -> None:
        for server in self._servers:
            server.thaw()

    def serving(self, pods: int) -> None:
        raise NotImplementedError("name servers are the zone's")

    async def stop(self) -> None:
        await asyncio.gather(*self._telling, return_exceptions=True)
        await self.names.stop()


NAMED = f"shop.{ZONE}"
NAMED_ROUTER = RouterSpec.model_validate({"type": "DNS", "customerData": "Shared", "dns": {"hostname": NAMED}})


@pytest.fixture(params=["fake", "haproxy", "gateway", "dns"])
async def plane(request: pytest.FixtureRequest) -> AsyncIterator[Plane]:
    match request.param:
        case "fake":
            yield FakePlane()
        case "haproxy":
            async with real_plane() as real:
                yield real
        case "dns":
            with bind.servers(request.getfixturevalue("tmp_path")) as zone:
                names = NamesPlane(zone)
                yield names
                await names.stop()
        case _:
            async with PlayedGateway() as served:
                played = PlayedPlane(served)
                yield played
                await played.stop()
