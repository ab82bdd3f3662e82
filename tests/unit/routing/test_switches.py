"""Whom customers reach, by all switches on their way."""

import pytest

from recell.api.fallback import SwitchType
from recell.api.placement import PlacementMode
from recell.domain import fallback
from recell.providers.routing.switches import Switches
from tests.unit.routing.builders import router
from tests.unit.routing.switched import DNS, GATEWAY, KEY, with_switches

FALLBACK, PRIMARY = PlacementMode.FALLBACK, PlacementMode.PRIMARY
BY_ROUTE, BY_NAME = {"type": "Gateway", "gateway": GATEWAY}, {"type": "DNS", "dns": DNS}


@pytest.mark.parametrize(
    ("said", "side"),
    [
        ([PRIMARY], PRIMARY),
        ([PRIMARY, PRIMARY], PRIMARY),
        ([PRIMARY, FALLBACK], FALLBACK),
        ([FALLBACK, None], FALLBACK),
        ([PRIMARY, None], None),
        ([None], None),
        ([], None),
    ],
)
def test_one_that_leads_to_the_fallback_is_enough_and_silence_is_no_answer(
    said: list[PlacementMode | None], side: PlacementMode | None
) -> None:
    assert fallback.side(said) is side


class Said:
    """A switch that says where it leads, and what was asked of it."""

    def __init__(self, type: SwitchType, side: PlacementMode | None, asked: list[SwitchType]) -> None:
        self.type = type
        self.side = side
        self.asked = asked

    def at(self, key: tuple[str, str]) -> PlacementMode | None:
        return self.side

    async def keep(self, router: object) -> None:
        self.asked.append(self.type)


async def test_only_what_the_router_names_counts_and_its_service_in_any_case() -> None:
    found = {"told": router()}
    asked: list[SwitchType] = []
    service, gateway, dns = (
        Said(SwitchType.SERVICE, PRIMARY, asked),
        Said(SwitchType.GATEWAY, FALLBACK, asked),
        Said(SwitchType.DNS, None, asked),
    )
    switches = Switches(lambda key: found.get("told"), service, gateway, dns)  # type: ignore[arg-type]
    assert switches.at(KEY) is PRIMARY
    found["told"] = with_switches(BY_NAME)
    assert switches.at(KEY) is None, "the name may lead to the fallback"
    found["told"] = with_switches(BY_NAME, BY_ROUTE)
    assert switches.at(KEY) is FALLBACK
    await switches.keep(found["told"])
    assert asked == [SwitchType.DNS, SwitchType.GATEWAY, SwitchType.SERVICE]
    found.clear()
    assert switches.at(KEY) is None, "a Router that is gone"
