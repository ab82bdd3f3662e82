"""The customers' Service as the switch between a router and its fallback: the `Switch` port made real.

Promises: whom the Service selects is the truth, whoever wrote that: a person may switch by one kubectl command while no
operator runs, and nothing here takes it back. A write carries the resourceVersion that it was decided on.
Must not decide who serves.
"""

from collections.abc import Callable, Mapping, Sequence

from recell.api import Cell, Router
from recell.api.fallback import SwitchType
from recell.api.placement import PlacementMode
from recell.domain.observation import Landed
from recell.engine.errors import NotFound
from recell.engine.ports import Key
from recell.providers.kube.api import Api
from recell.providers.kube.collection import Collection
from recell.providers.kube.paths import SERVICES
from recell.providers.routing.asking import land, way_in
from recell.providers.routing.haproxy.fallback import fallback_selector
from recell.providers.routing.haproxy.objects import selector


class ServiceSwitch:
    type = SwitchType.SERVICE
    name = "the Service's selector"

    def __init__(self, api: Api, services: Collection, cells: Callable[[Key], Mapping[str, Cell]]) -> None:
        """`services`: a live copy of the routers' Services, with `clusterIP`, `ports` and `selector`."""
        self._api = api
        self._services = services
        self._cells = cells

    async def keep(self, router: Router) -> None:
        """The Service is there whether customers can be switched or not."""

    def obstacle(self, router: Router) -> str:
        """Why the Service cannot move this router's customers; empty: it can."""
        return "" if self._services.get(router.key) is not None else f"Service {router.metadata.name} is not there"

    def at(self, router: Key) -> PlacementMode | None:
        """Whom customers reach; None before there is a Service."""
        selected = self.selected(router)
        if selected is None:
            return None
        return PlacementMode.FALLBACK if selected == fallback_selector(router[1]) else PlacementMode.PRIMARY

    def selected(self, router: Key) -> Mapping[str, str] | None:
        """The selector that leads where customers go now; the router's own where it leads nowhere known; None before
        there is a Service."""
        service = self._services.get(router)
        if service is None:
            return None
        behind = fallback_selector(router[1])
        return behind if service["spec"].get("selector") == behind else selector(router[1])

    async def to(self, router: Router, side: PlacementMode) -> None:
        live, name = self._services.get(router.key), router.metadata.name
        if live is None:
            raise NotFound(f"Service {router.metadata.namespace}/{name} does not exist")
        wanted = fallback_selector(name) if side is PlacementMode.FALLBACK else selector(name)
        found = live["spec"].get("selector") or {}
        if found == wanted:
            return
        body = {
            "metadata": {"resourceVersion": live["metadata"]["resourceVersion"]},
            "spec": {"selector": {**dict.fromkeys(found), **wanted}},
        }
        self._services.put(await self._api.merge_patch(SERVICES.path(*router.key), body))

    def within(self, router: Router) -> float:
        return 0.0

    async def pending(self, router: Router) -> str:
        return ""

    async def land(self, router: Router, customers: Sequence[str]) -> Sequence[Landed]:
        spec = (self._services.get(router.key) or {}).get("spec", {})
        if not spec.get("clusterIP"):
            raise NotFound(f"Service {router.metadata.namespace}/{router.metadata.name} has no address yet")
        where = (str(spec["clusterIP"]), int(spec["ports"][0]["port"]))
        way = way_in(router, where, self._cells(router.key))
        return await land(way, customers) if way is not None else ()
