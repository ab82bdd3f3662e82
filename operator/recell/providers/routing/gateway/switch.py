"""A Gateway's HTTPRoute as the switch between a router and its fallback: the `Switch` port made real.

Promises: which of the two Services the route's rule names is the truth, whoever wrote that: a person may switch by one
kubectl command while no operator runs, and nothing here takes it back. Everything else of the route is the operator's.
The Gateway API's kinds are watched from the first Router on that names this switch: a cluster may do without them.

Must not: decide who serves, or take a written route for one that is in force.
"""

from collections.abc import Callable, Mapping, Sequence

from recell.api import Cell, Router
from recell.api.fallback import GatewaySwitch as Block
from recell.api.fallback import SwitchType
from recell.api.placement import PlacementMode
from recell.domain.observation import Landed
from recell.engine.errors import BadInput, NotFound, RecellError, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.kept import KeptObjects
from recell.providers.kube.ownership import of_router
from recell.providers.kube.paths import GATEWAYS, HTTP_ROUTES
from recell.providers.routing.asking import land, way_in
from recell.providers.routing.gateway import entry, route
from recell.providers.routing.gateway.data_plane import SYNC_WITHIN, unwatchable
from recell.providers.routing.haproxy.fallback import fallback_name


class GatewaySwitch:
    type = SwitchType.GATEWAY
    name = "the HTTPRoute"

    def __init__(
        self,
        api: Api,
        clock: Clock,
        routes: Collection,
        cells: Callable[[Key], Mapping[str, Cell]],
        *,
        on_change: Callable[[Key], None],
    ) -> None:
        """`routes`: a copy of the routers' HTTPRoutes, which begins to live when it is needed; `on_change` is told the
        key of each Router that names this switch and whose route looks different."""
        self._api = api
        self._on_change = on_change
        self._named: set[Key] = set()
        routes.subscribe(self._changed)
        self._routes = routes
        self._cells = cells
        self._kept = KeptObjects(
            api,
            clock,
            HTTP_ROUTES,
            lambda key: routes,
            field="rules",
            explained=_explained,
        )

    async def keep(self, router: Router) -> None:
        """The route is there, and leads where it led. Raises BadInput where there is no Gateway API or the route is
        another one's, Forbidden with what to grant, Conflict, Retryable, Reverted."""
        if _block(router) is None:
            self._named.discard(router.key)
            return
        self._named.add(router.key)
        self._routes.start()
        if not await self._routes.synced_within(SYNC_WITHIN):
            raise _explained(self._routes.trouble)
        await self._kept.keep(router, switched_route(router, self.at(router.key) or PlacementMode.PRIMARY))

    def obstacle(self, router: Router) -> str:
        live, name = self._routes.get(router.key), f"HTTPRoute {'/'.join(router.key)}"
        if live is None:
            return f"{name} is not there"
        seen = route.parents(live)
        return "" if seen.accepted else seen.refused or f"no Gateway has accepted {name}"

    def at(self, router: Key) -> PlacementMode | None:
        live = self._routes.get(router)
        if live is None:
            return None
        named = {ref.get("name") for rule in live["spec"].get("rules") or () for ref in rule.get("backendRefs") or ()}
        return PlacementMode.FALLBACK if named == {fallback_name(router[1])} else PlacementMode.PRIMARY

    async def to(self, router: Router, side: PlacementMode) -> None:
        if self._routes.get(router.key) is None:
            raise NotFound(f"HTTPRoute {'/'.join(router.key)} does not exist")
        if self.at(router.key) is not side:
            await self._kept.keep(router, switched_route(router, side))

    def within(self, router: Router) -> float:
        return 0.0

    async def pending(self, router: Router) -> str:
        live = self._routes.get(router.key)
        if live is None:
            return f"HTTPRoute {'/'.join(router.key)} is not there"
        seen = route.parents(live)
        return seen.refused or (f"{seen.silent} did not take up the HTTPRoute yet" if seen.silent else "")

    async def land(self, router: Router, customers: Sequence[str]) -> Sequence[Landed]:
        """By the first of its Gateways."""
        block = _block(router)
        if block is None:
            raise BadInput(f"Router {router.metadata.name}: spec.fallback.switches names no Gateway")
        ref = block.parent_refs[0]
        try:
            gateway = await self._api.get(GATEWAYS.path(ref.namespace or router.metadata.namespace, ref.name))
            listener = entry.listener(gateway, ref)
        except entry.Unknown as error:
            raise Retryable(str(error)) from error
        name = entry.host(block.hostnames)
        way = way_in(router, listener.address, self._cells(router.key), name=name, scheme=listener.scheme)
        return await land(way, customers) if way is not None else ()

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        if key in self._named:
            self._on_change(key)


FIELD = "spec.fallback.switches"


def _explained(error: RecellError | None) -> RecellError:
    return unwatchable(error, FIELD)


def _block(router: Router) -> Block | None:
    return router.spec.fallback.gateway if router.spec.fallback is not None else None


def switched_route(router: Router, side: PlacementMode) -> Object:
    """Every request goes to the router's Service, or to that of its fallback; pure. Raises BadInput for a Router that
    names no such switch."""
    block, haproxy = _block(router), router.spec.haproxy
    if block is None or haproxy is None:
        raise BadInput(f"Router {router.metadata.name}: spec.fallback.switches names no Gateway")
    name, namespace = router.metadata.name, router.metadata.namespace
    service = fallback_name(name) if side is PlacementMode.FALLBACK else name
    spec: Object = {"parentRefs": [route.parent_ref(ref, namespace) for ref in block.parent_refs]}
    if block.hostnames:
        spec["hostnames"] = list(block.hostnames)
    backend = {"group": "", "kind": "Service", "name": service, "port": haproxy.service.port, "weight": 1}
    spec["rules"] = [{"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [backend]}]
    return of_router(router, HTTP_ROUTES, spec)
