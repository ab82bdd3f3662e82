"""A Router of type Gateway on a real implementation, under a steady load."""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

from recell.api import Cell, Placement, Router
from recell.engine.ports import Traffic
from recell.providers.kube.paths import OWN
from recell.providers.routing.gateway.data_plane import GatewayDataPlane
from recell.providers.routing.gateway.figures import Figures
from recell.runtime.clock import SystemClock
from tests.gateway.cluster import GatewayCluster
from tests.router.rig import placement
from tests.router.rig.placements import NAME

Object = dict[str, Any]


class Implementation(Protocol):
    """A Gateway and the process that stands behind it."""

    name: str
    port: int
    """Where customers come in, at 127.0.0.1."""

    def signal(self, number: signal.Signals) -> None:
        """To the process that serves."""
        ...

    async def listen(self, routes: bool) -> None: ...

    async def ready(self, ready: bool) -> None: ...


class GatewayPlane:
    """The Router `shop` in the cluster's namespace."""

    def __init__(
        self,
        cluster: GatewayCluster,
        gateways: Sequence[Implementation],
        cells: Mapping[str, Cell],
        *,
        metrics: Object | None = None,
        shedding: Object | None = None,
        lacks: frozenset[str] = frozenset(),
        lag: float = 1.0,
    ) -> None:
        self.cluster = cluster
        self.key = (cluster.namespace, NAME)
        self.lacks = lacks
        self.lag = lag
        self.gateways = gateways
        self._cells = cells
        block = {"parentRefs": [{"name": gateway.name} for gateway in gateways]}
        self.block: Object = {**block, **({"metrics": metrics} if metrics else {})}
        self.shedding = shedding
        """With it there has to be what turns requests away (`GatewayCluster.turn_away`)."""
        clock = SystemClock()
        self.plane = GatewayDataPlane(
            cluster.api,
            clock,
            [cluster.namespace],
            lambda key: self._cells,
            Figures(cluster.api, clock),
            turns_away=lambda key: self.shedding is not None,
            on_change=lambda key: self._begin(self._look_again()),
        )
        self.traffic: Traffic = self.plane
        self._uid = ""
        self._newest: Placement | None = None
        self._telling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def router(self) -> Router:
        metadata = {"name": NAME, "namespace": self.cluster.namespace, "uid": self._uid}
        return Router.model_validate({"metadata": metadata, "spec": self._spec})

    @property
    def _spec(self) -> Object:
        sheds = {"shedding": self.shedding} if self.shedding is not None else {}
        return {"type": "Gateway", "customerData": "Shared", "gateway": self.block, **sheds}

    def placed(self, table: list[int], **more: Any) -> Placement:
        """Cells by their order: the first is 0."""
        cells = {name: (index, "10.0.0.1", 80) for index, name in enumerate(self._cells)}
        body = placement(cells, table, **more)
        body["metadata"]["namespace"] = self.cluster.namespace
        return Placement.model_validate(body)

    async def tell(self, placed: Placement) -> None:
        if not self._uid:  # a route whose owner is not there is taken away by the garbage collector
            made = await self.cluster.put(OWN[Router], NAME, {"spec": self._spec})
            self._uid = made["metadata"]["uid"]
        async with self._telling:
            self._newest = placed
            await self.plane.ensure(self.router)
            await self.plane.tell(self.key, placed)

    async def _look_again(self) -> None:
        """As the controller does when a route looks different."""
        async with self._telling:
            if self._newest is not None:
                await self.plane.tell(self.key, self._newest)

    def in_force(self, placed: Placement) -> bool:
        seen = self.plane.applied(self.key)
        return seen is not None and seen.covers(placed.metadata.uid, placed.spec.epoch, placed.metadata.generation)

    async def shift(self, table: list[int], generation: int, **more: Any) -> Placement:
        """Tell, and wait until it is in force and obeyed."""
        placed = self.placed(table, generation=generation, **more)
        await self.tell(placed)
        await self.until(lambda: self.in_force(placed))
        await asyncio.sleep(self.lag)
        return placed

    async def stop(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plane.stop()

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # As tests.contract.conftest.Plane

    def now(self) -> datetime:
        return datetime.now(UTC)

    def write(
        self, table: list[int], *, generation: int, epoch: int = 1, uid: str = "placement-1", **more: Any
    ) -> Placement:
        placed = self.placed(table, generation=generation, epoch=epoch, uid=uid, **more)
        self._begin(self.tell(placed))
        return placed

    async def until(self, condition: Callable[[], Any], within: float = 90.0) -> Any:
        try:
            async with asyncio.timeout(within):
                while not (value := condition()):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(
                f"did not happen within {within} s; complaint: {self.plane.complaint(self.key) or 'none'};"
                f" figures: {self.plane.unseen(self.key) or 'as they should be'}"
            ) from None
        return value

    def failing(self, cell: str) -> None:
        self.cluster.cells[cell].failing = True

    def hung(self, cell: str) -> None:
        self.cluster.cells[cell].hung = True

    async def down(self, cell: str) -> None:
        await self.cluster.cells[cell].stop()

    async def freeze(self) -> None:
        raise NotImplementedError("an implementation that serves follows its routes")

    async def thaw(self) -> None:
        raise NotImplementedError

    def silence(self) -> None:
        self._signal(signal.SIGSTOP)

    def speak(self) -> None:
        self._signal(signal.SIGCONT)

    def serving(self, pods: int) -> None:
        async def change() -> None:
            for number, gateway in enumerate(self.gateways):
                await gateway.listen(number < pods)
                await gateway.ready(number < pods)

        self._begin(change())

    def _signal(self, number: signal.Signals) -> None:
        for gateway in self.gateways:
            gateway.signal(number)
