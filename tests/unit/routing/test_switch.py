"""The Service as the switch: what it says is the truth, and what was read too early changes nothing."""

from typing import Any

import pytest

from recell.api.placement import PlacementMode
from recell.engine.errors import Conflict, NotFound
from recell.providers.routing.haproxy.fallback import fallback_selector
from recell.providers.routing.haproxy.objects import selector
from recell.providers.routing.haproxy.switch import ServiceSwitch
from tests.unit.routing.builders import router

KEY = ("fleet", "shop")
PRIMARY, FALLBACK = PlacementMode.PRIMARY, PlacementMode.FALLBACK


class Services:
    """One Service on an API server, and the copy of it that may be behind."""

    def __init__(self, found: dict[str, str] | None) -> None:
        self.there = self._of(found, "7") if found is not None else None
        self.copy = self.there
        self.writes = 0

    @staticmethod
    def _of(found: dict[str, str], version: str) -> dict[str, Any]:
        metadata = {"name": "shop", "namespace": "fleet", "resourceVersion": version}
        return {"metadata": metadata, "spec": {"selector": found}}

    def get(self, key: tuple[str, str]) -> dict[str, Any] | None:
        return self.copy

    def put(self, obj: dict[str, Any]) -> None:
        self.copy = obj

    async def merge_patch(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self.there is not None
        if body["metadata"]["resourceVersion"] != self.there["metadata"]["resourceVersion"]:
            raise Conflict("the Service changed")
        merged = {**self.there["spec"]["selector"], **body["spec"]["selector"]}
        self.writes += 1
        self.there = self._of({k: v for k, v in merged.items() if v is not None}, f"{7 + self.writes}")
        return self.there

    def patched_by_hand(self, found: dict[str, str]) -> None:
        self.there = self._of(found, "99")


def switch(services: Services) -> ServiceSwitch:
    anything: Any = services
    return ServiceSwitch(anything, anything, lambda key: {})


async def test_there_and_back_is_one_write_each() -> None:
    services = Services(selector("shop"))
    made = switch(services)
    assert made.at(KEY) is PRIMARY
    for side, wanted in ((FALLBACK, fallback_selector("shop")), (PRIMARY, selector("shop"))):
        await made.to(router(), side)
        await made.to(router(), side)
        assert made.at(KEY) is side
        assert services.there is not None
        assert services.there["spec"]["selector"] == wanted
    assert services.writes == 2


async def test_what_a_person_switched_meanwhile_is_not_overwritten() -> None:
    services = Services(selector("shop"))
    services.patched_by_hand(fallback_selector("shop"))
    with pytest.raises(Conflict):
        await switch(services).to(router(), FALLBACK)
    assert services.writes == 0


async def test_a_selector_that_leads_elsewhere_counts_as_the_routers_own_and_is_put_right_by_a_run() -> None:
    services = Services({"app": "maintenance-page"})
    made = switch(services)
    assert made.at(KEY) is PRIMARY
    await made.to(router(), FALLBACK)
    assert services.there is not None
    assert services.there["spec"]["selector"] == fallback_selector("shop")


async def test_without_a_service_nothing_can_be_switched() -> None:
    made = switch(Services(None))
    assert made.at(KEY) is None
    assert made.selected(KEY) is None
    assert "is not there" in made.obstacle(router())
    with pytest.raises(NotFound):
        await made.to(router(), FALLBACK)
