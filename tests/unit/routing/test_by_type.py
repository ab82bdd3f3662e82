"""Each Router's data plane is the one that its type names."""

from datetime import UTC, datetime
from typing import Any

import pytest

from recell.api import Placement, Router
from recell.api.router import RouterType
from recell.domain.observation import Applied, RouterTraffic
from recell.engine.errors import BadInput
from recell.engine.ports import Key
from recell.providers.routing.by_type import DataPlaneByType

NOW = datetime(2026, 11, 25, 3, tzinfo=UTC)
HAPROXY, GATEWAY, GONE = ("fleet", "shop"), ("fleet", "front"), ("fleet", "gone")


class Recorded:
    """A data plane that says what it is and remembers what it was told."""

    def __init__(self, pods: int) -> None:
        self.pods = pods
        self.told: list[tuple[Key, bool]] = []
        self.made: list[Key] = []

    def start(self) -> None: ...

    async def wait_synced(self) -> None: ...

    async def stop(self) -> None: ...

    async def ensure(self, router: Router) -> None:
        self.made.append(router.key)

    async def tell(self, router: Key, placement: Placement | None) -> None:
        self.told.append((router, placement is not None))

    def serving(self, router: Key) -> int:
        return self.pods

    def complaint(self, router: Key) -> str:
        return f"{self.pods} pods complain"

    def unseen(self, router: Key) -> str:
        return ""

    def applied(self, router: Key) -> Applied | None:
        return Applied("uid", 1, 1, self.pods, NOW)

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return RouterTraffic(since=NOW, until=NOW, pods=self.pods)


def router(key: Key, type_: str) -> Router:
    block: dict[str, Any] = (
        {"haproxy": {"customerKey": {"type": "Host"}}}
        if type_ == "HAProxy"
        else {"gateway": {"parentRefs": [{"name": "public"}]}}
    )
    spec = {"type": type_, "customerData": "Shared", **block}
    return Router.model_validate({"metadata": {"namespace": key[0], "name": key[1]}, "spec": spec})


class Known:
    def router(self, key: Key) -> Router | None:
        types = {HAPROXY: "HAProxy", GATEWAY: "Gateway"}
        return router(key, types[key]) if key in types else None


async def test_each_router_has_the_data_plane_of_its_type() -> None:
    pods, route = Recorded(2), Recorded(1)
    plane = DataPlaneByType(Known(), {RouterType.HAPROXY: pods, RouterType.GATEWAY: route})
    placed: Any = Placement.model_construct()
    for key, mine, count in ((HAPROXY, pods, 2), (GATEWAY, route, 1)):
        await plane.ensure(router(key, "HAProxy" if mine is pods else "Gateway"))
        await plane.tell(key, placed)
        assert (mine.made, mine.told) == ([key], [(key, True)])
        assert plane.serving(key) == count
        assert plane.complaint(key) == f"{count} pods complain"
        applied, observed = plane.applied(key), plane.observed(key, window=10)
        assert (applied and applied.pods, observed and observed.pods) == (count, count)


async def test_of_a_router_that_is_gone_nothing_is_known_and_every_plane_forgets_it() -> None:
    pods, route = Recorded(2), Recorded(1)
    plane = DataPlaneByType(Known(), {RouterType.HAPROXY: pods, RouterType.GATEWAY: route})
    await plane.tell(GONE, None)
    assert pods.told == route.told == [(GONE, False)]
    assert (plane.applied(GONE), plane.observed(GONE, window=10)) == (None, None)
    assert (plane.serving(GONE), plane.complaint(GONE)) == (0, "")


async def test_a_type_without_data_plane_is_refused_in_words() -> None:
    plane = DataPlaneByType(Known(), {RouterType.HAPROXY: Recorded(2)})
    with pytest.raises(BadInput, match=r"spec\.type: this operator has no data plane for type Gateway"):
        await plane.ensure(router(GATEWAY, "Gateway"))
    assert plane.applied(GATEWAY) is None
