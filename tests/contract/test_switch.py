"""The Switch port: every means of moving customers between a router and its fallback, and the fake.

Another means joins by one more entry of `SWITCHES`.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

import pytest

from recell.api import Router
from recell.api.placement import PlacementMode
from recell.engine.ports import Switch
from recell.providers.routing.haproxy.objects import selector
from recell.providers.routing.haproxy.switch import ServiceSwitch
from tests.fakes.eventually import eventually
from tests.fakes.world import NAMESPACE, World
from tests.unit.routing.builders import router
from tests.unit.routing.switched import GatewayRig, NameRig, by_gateway, by_name
from tests.unit.routing.test_switch import Services

PRIMARY, FALLBACK = PlacementMode.PRIMARY, PlacementMode.FALLBACK


@dataclass
class Rig:
    switch: Switch
    router: Router
    writes: Callable[[], int]
    """How often customers were moved."""


@asynccontextmanager
async def by_service() -> AsyncIterator[Rig]:
    services = Services(selector("shop"))
    switch = ServiceSwitch(services, services, lambda key: {})  # type: ignore[arg-type]
    yield Rig(switch, router(), lambda: services.writes)


@asynccontextmanager
async def through_gateway() -> AsyncIterator[Rig]:
    rig, told = GatewayRig(), by_gateway()
    await rig.switch.keep(told)
    rig.accept()
    await eventually(lambda: not rig.switch.obstacle(told), "it is accepted")
    yield Rig(rig.switch, told, lambda: len(rig.server.writes) - 1)
    await rig.stop()


@asynccontextmanager
async def by_dns() -> AsyncIterator[Rig]:
    rig, told = NameRig(), by_name()
    await rig.switch.keep(told)
    yield Rig(rig.switch, told, lambda: len(rig.server.writes) - 1)
    await rig.stop()


@asynccontextmanager
async def by_fake() -> AsyncIterator[Rig]:
    world = World()
    world.fleet("a", router={"fallback": {}})
    moved = lambda: sum(write.kind == "switch" for write in world.writes)  # noqa: E731
    yield Rig(world.router_side.switch, world.routers[NAMESPACE, "shop"], moved)


SWITCHES: dict[str, Callable[[], AbstractAsyncContextManager[Rig]]] = {
    "Service": by_service,
    "Gateway": through_gateway,
    "DNS": by_dns,
    "fake": by_fake,
}


@pytest.fixture(params=SWITCHES)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    async with SWITCHES[request.param]() as made:
        yield made


async def test_customers_start_at_the_router_itself(rig: Rig) -> None:
    assert rig.switch.at(rig.router.key) is PRIMARY
    assert rig.switch.obstacle(rig.router) == ""
    assert rig.switch.name


async def test_moving_twice_is_moving_once_and_is_seen_at_once(rig: Rig) -> None:
    for number, side in enumerate((FALLBACK, PRIMARY, FALLBACK), start=1):
        await rig.switch.to(rig.router, side)
        await rig.switch.to(rig.router, side)
        assert rig.switch.at(rig.router.key) is side
        assert rig.writes() == number
