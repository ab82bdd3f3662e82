"""The Switch port: every means of moving customers between a router and its fallback, and the fake.

Another means joins by one more entry of `SWITCHES`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from recell.api import Router
from recell.api.placement import PlacementMode
from recell.engine.ports import Switch
from recell.providers.routing.haproxy.objects import selector
from recell.providers.routing.haproxy.switch import ServiceSwitch
from tests.fakes.world import NAMESPACE, World
from tests.unit.routing.builders import router
from tests.unit.routing.test_switch import Services

PRIMARY, FALLBACK = PlacementMode.PRIMARY, PlacementMode.FALLBACK


@dataclass
class Rig:
    switch: Switch
    router: Router
    writes: Callable[[], int]
    """How often customers were moved."""


def by_service() -> Rig:
    services = Services(selector("shop"))
    switch = ServiceSwitch(services, services)  # type: ignore[arg-type]
    return Rig(switch, router(), lambda: services.writes)


def by_fake() -> Rig:
    world = World()
    world.fleet("a", router={"fallback": {}})
    moved = lambda: sum(write.kind == "switch" for write in world.writes)  # noqa: E731
    return Rig(world.router_side, world.routers[NAMESPACE, "shop"], moved)


SWITCHES = {"Service": by_service, "fake": by_fake}


@pytest.fixture(params=SWITCHES)
def rig(request: pytest.FixtureRequest) -> Rig:
    return SWITCHES[request.param]()


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
