"""Objects and pods of HAProxy in the cluster: of built-in routers and fallbacks, and what a Gateway's requests are
turned away with.

Promises: an object is applied only when its content differs from what was applied last, or when it is
gone; the streams always know the pods that serve. It decides nothing about traffic.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from recell.api import Cell, Placement, Router
from recell.api.meta import ANNOTATION_CONTENT, ANNOTATION_RESTART, LABEL_ROUTER
from recell.api.placement import PlacementMode
from recell.domain.fallback import Table
from recell.domain.observation import Applied, FallbackState, Pods, PrimaryState, RouterTraffic
from recell.engine.errors import Conflict, NotFound
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.paths import (
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    NETWORK_POLICIES,
    PODS,
    ROLE_BINDINGS,
    ROLES,
    SERVICE_ACCOUNTS,
    SERVICES,
    Resource,
)
from recell.providers.kube.pods import serves
from recell.providers.kube.reflector import Reflector
from recell.providers.routing.gateway.turn_away import (
    TurnedAway,
    service_name,
    turn_away_name,
    turn_away_objects,
)
from recell.providers.routing.haproxy.fallback import fallback_name, fallback_objects, rendered
from recell.providers.routing.haproxy.objects import Surroundings, name_of, router_objects, selector
from recell.providers.routing.haproxy.streams import HAProxyTraffic
from recell.providers.routing.haproxy.switch import ServiceSwitch

log = logging.getLogger(__name__)

RESOURCES: dict[str, Resource] = {
    resource.kind: resource
    for resource in (
        DEPLOYMENTS,
        DISRUPTION_BUDGETS,
        NETWORK_POLICIES,
        ROLES,
        ROLE_BINDINGS,
        SERVICE_ACCOUNTS,
        SERVICES,
    )
}
WATCHED: dict[Resource, Callable[[Object], Object]] = {
    DEPLOYMENTS: lambda obj: _slim_deployment(obj),
    SERVICES: lambda obj: _slim_service(obj),
}
"""Kinds whose loss would be felt at once; the others are applied again at each start and change."""


class HAProxyDataPlane:
    """`on_change` is told the key of each Router whose objects or pods look different."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str],
        traffic: HAProxyTraffic,
        surroundings: Surroundings,
        cells: Callable[[Key], Mapping[str, Cell]],
        *,
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._traffic = traffic
        self._surroundings = surroundings
        self._on_change = on_change
        self._pods = Collection(api, PODS, clock, namespaces, labels=LABEL_ROUTER, trim=_slim_pod)
        self._live = {
            resource.kind: Collection(api, resource, clock, namespaces, labels=LABEL_ROUTER, trim=trim)
            for resource, trim in WATCHED.items()
        }
        self.services = self._live[SERVICES.kind]
        self.switch = ServiceSwitch(api, self.services, cells)
        self._applied: dict[tuple[str, str, str], str] = {}
        """Kind, namespace, name -> content hash that this process applied."""
        self._rendered: dict[Key, dict[str, tuple[tuple[str, int, str], tuple[Object, ...]]]] = {}
        """By Router and part: its objects, and of which object, generation and else they were made."""
        self._pods.subscribe(self._changed)
        for collection in self._live.values():
            collection.subscribe(self._changed)

    @property
    def reflectors(self) -> Sequence[Reflector]:
        collections = (self._pods, *self._live.values())
        return tuple(reflector for collection in collections for reflector in collection.reflectors)

    def start(self) -> None:
        for collection in (self._pods, *self._live.values()):
            collection.start()

    async def wait_synced(self) -> None:
        for collection in (self._pods, *self._live.values()):
            await collection.wait_synced()

    async def stop(self) -> None:
        await self._traffic.stop()
        for collection in (self._pods, *self._live.values()):
            await collection.stop()

    async def ensure(self, router: Router) -> None:
        reached = self.switch.selected(router.key)
        await self._ensure_part(
            router, "router", str(reached), lambda: router_objects(router, self._surroundings, reached)
        )

    async def ensure_fallback(self, router: Router, table: Table) -> None:
        """The objects of its fallback, with this table; no write when they are."""
        await self._ensure_part(
            router, "fallback", table.id, lambda: fallback_objects(router, self._surroundings, table)
        )

    async def ensure_turn_away(self, router: Router) -> None:
        """What answers in place of its cells; no write when it is there."""
        await self._ensure_part(router, "turn-away", "", lambda: turn_away_objects(router, self._surroundings))

    async def _ensure_part(self, router: Router, part: str, of: str, render: Callable[[], tuple[Object, ...]]) -> None:
        """Rendered anew when the Router changes, or what else it is made from (`of`)."""
        version = (router.metadata.uid, router.metadata.generation, of)
        parts = self._rendered.setdefault(router.key, {})
        known = parts.get(part)
        if known is None or known[0] != version:
            known = parts[part] = (version, render())
        for wanted in known[1]:
            await self._ensure(router, wanted)

    async def _ensure(self, router: Router, wanted: Object) -> None:
        kind, name = wanted["kind"], wanted["metadata"]["name"]
        key = (router.metadata.namespace, name)
        slot = (kind, *key)
        content = wanted["metadata"]["annotations"][ANNOTATION_CONTENT]
        if self._applied.get(slot) == content and not self._lost(kind, key, content):
            return
        if kind == SERVICES.kind and key == router.key and (live := self._live[kind].get(key)) is not None:
            # Whom customers reach is whatever the Service says: never overwritten by what was read too early.
            metadata = {**wanted["metadata"], "resourceVersion": live["metadata"]["resourceVersion"]}
            wanted = {**wanted, "metadata": metadata}
        answer = await self._api.apply(RESOURCES[kind].path(*key), wanted)
        self._applied[slot] = content
        if kind in self._live:
            self._live[kind].put(answer)
        log.info("applied %s %s/%s", kind, *key)

    async def remove_fallback(self, router: Router) -> None:
        """A fallback that the Router no longer asks for goes. Repeatable."""
        name, namespace = fallback_name(router.metadata.name), router.metadata.namespace
        if router.spec.has_fallback or self._live[DEPLOYMENTS.kind].get((namespace, name)) is None:
            return
        await self._remove(namespace, name, services=(name_of(router.metadata.name), name))

    async def remove_turn_away(self, router: Router) -> None:
        """Whatever answered in place of its cells goes. Repeatable."""
        name, namespace = turn_away_name(router.metadata.name), router.metadata.namespace
        if self._live[DEPLOYMENTS.kind].get((namespace, name)) is None:
            return
        services = tuple(service_name(router.metadata.name, reason) for reason in TurnedAway)
        await self._remove(namespace, name, services=services)

    async def _remove(self, namespace: str, name: str, *, services: Sequence[str]) -> None:
        own = [(resource, name) for resource in (DISRUPTION_BUDGETS, NETWORK_POLICIES, DEPLOYMENTS)]
        for resource, what in (*((SERVICES, each) for each in services), *own):  # last what tells that there is more
            with contextlib.suppress(NotFound):
                await self._api.delete(resource.path(namespace, what))
            self._applied.pop((resource.kind, namespace, what), None)

    # --- what turns requests away

    def turns_away(self, router: Key) -> bool:
        """Whether a route can name it: the Services are there."""
        services = self._live[SERVICES.kind]
        return all(services.get((router[0], service_name(router[1], reason))) is not None for reason in TurnedAway)

    def turn_away(self, router: Key) -> Pods | None:
        """None before there is a Deployment of it."""
        deployment = self._live[DEPLOYMENTS.kind].get((router[0], turn_away_name(router[1])))
        if deployment is None:
            return None
        return _pods(deployment)

    # --- the two sides

    def fallback(self, router: Key) -> FallbackState | None:
        """None before there is a Deployment of it."""
        deployment = self._live[DEPLOYMENTS.kind].get((router[0], fallback_name(router[1])))
        told = rendered(deployment) if deployment is not None else None
        if deployment is None or told is None:
            return None
        return FallbackState(told.order, told.id, _pods(deployment), current=_rolled_out(deployment))

    def primary(self, router: Key) -> PrimaryState | None:
        deployment = self._live[DEPLOYMENTS.kind].get((router[0], name_of(router[1])))
        if deployment is None:
            return None
        return PrimaryState(
            uid=deployment["metadata"]["uid"],
            restarted_by=deployment["spec"].get("restartedBy"),
            pods=Pods(desired=_desired(deployment), ready=self.serving(router)),
            rolled_out=_rolled_out(deployment),
        )

    async def restart(self, router: Router, token: str) -> None:
        key = (router.metadata.namespace, name_of(router.metadata.name))
        live = self._live[DEPLOYMENTS.kind].get(key)
        if live is None:
            raise NotFound(f"Deployment {key[0]}/{key[1]} does not exist")
        if live["spec"].get("restartedBy") == token:
            return
        template = {"metadata": {"annotations": {ANNOTATION_RESTART: token}}}
        body = {"metadata": {"uid": live["metadata"]["uid"]}, "spec": {"template": template}}
        self._live[DEPLOYMENTS.kind].put(await self._api.merge_patch(DEPLOYMENTS.path(*key), body))

    async def renew(self, router: Router, uid: str) -> None:
        key = (router.metadata.namespace, name_of(router.metadata.name))
        try:
            await self._api.delete(DEPLOYMENTS.path(*key), uid=uid)
        except (NotFound, Conflict):
            return
        self._applied.pop((DEPLOYMENTS.kind, *key), None)

    def _lost(self, kind: str, key: Key, content: str) -> bool:
        """Gone, or changed by somebody who did not keep our mark."""
        collection = self._live.get(kind)
        if collection is None:
            return False
        live = collection.get(key)
        return live is None or (live["metadata"].get("annotations") or {}).get(ANNOTATION_CONTENT) != content

    async def tell(self, router: Key, placement: Placement | None) -> None:
        if placement is None:
            self._traffic.drop(router)
            self._rendered.pop(router, None)
            for slot in [slot for slot in self._applied if slot[1] == router[0]]:
                del self._applied[slot]
            return
        self._traffic.set_placement(router, placement)

    def serving(self, router: Key) -> int:
        return sum(1 for pod in self._pods_of(router) if serves(pod))

    def pods(self, router: Key) -> Pods | None:
        """Those that there should be, and those that are ready; None before there is a Deployment."""
        deployment = self._live[DEPLOYMENTS.kind].get((router[0], name_of(router[1])))
        if deployment is None:
            return None
        return Pods(desired=_desired(deployment), ready=self.serving(router))

    def way_in(self, router: Key, side: PlacementMode | None = None) -> tuple[str, int] | None:
        """Address and port where customers connect to, or of one side alone; None before there is a Service."""
        names = {PlacementMode.PRIMARY: name_of(router[1]), PlacementMode.FALLBACK: fallback_name(router[1])}
        service = self._live[SERVICES.kind].get((router[0], names[side] if side else router[1]))
        host = (service or {}).get("spec", {}).get("clusterIP")
        return (str(host), int(service["spec"]["ports"][0]["port"])) if service and host else None

    def complaint(self, router: Key) -> str:
        return self._traffic.complaint(router)

    def progress(self, router: Key) -> str:
        return ""

    def unseen(self, router: Key) -> str:
        return ""  # a pod without a stream is one that does not tell what it applied

    def applied(self, router: Key) -> Applied | None:
        return self._traffic.applied(router)

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        return self._traffic.observed(router, window=window, not_before=not_before)

    def _pods_of(self, router: Key) -> list[Object]:
        return [
            pod
            for pod in self._pods
            if pod["metadata"]["namespace"] == router[0]
            and selector(router[1]).items() <= pod["metadata"]["labels"].items()
        ]

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        obj = new or old
        if obj is None:
            return
        router = (key[0], obj["metadata"]["labels"][LABEL_ROUTER])
        pods = {
            pod["metadata"]["name"]: (pod["status"]["podIP"], serves(pod))
            for pod in self._pods_of(router)
            if (pod.get("status") or {}).get("podIP")
        }
        self._traffic.set_pods(router, pods)
        self._on_change(router)


def _slim_pod(pod: Object) -> Object:
    status = pod.get("status") or {}
    ready = [{"type": c["type"], "status": c["status"]} for c in status.get("conditions") or () if c["type"] == "Ready"]
    return {"metadata": _slim_metadata(pod), "status": {"podIP": status.get("podIP"), "conditions": ready}}


def _slim_service(obj: Object) -> Object:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    return {
        "metadata": _slim_metadata(obj),
        "spec": {name: spec[name] for name in ("clusterIP", "ports", "selector") if name in spec},
        "status": {name: status[name] for name in ("loadBalancer",) if name in status},
    }


def _slim_deployment(obj: Object) -> Object:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    annotations = ((spec.get("template") or {}).get("metadata") or {}).get("annotations") or {}
    counts = ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas")
    return {
        "metadata": _slim_metadata(obj),
        "spec": {"replicas": spec.get("replicas", 1), "restartedBy": annotations.get(ANNOTATION_RESTART)},
        "status": {name: status[name] for name in counts if name in status},
    }


def _desired(deployment: Object) -> int:
    return int(deployment["spec"].get("replicas", 1))


def _pods(deployment: Object) -> Pods:
    return Pods(desired=_desired(deployment), ready=int(deployment["status"].get("readyReplicas") or 0))


def _rolled_out(deployment: Object) -> bool:
    """Every pod is of the newest revision, ready, and no other is left."""
    status, wanted = deployment["status"], _desired(deployment)
    seen = int(status.get("observedGeneration") or 0) >= int(deployment["metadata"].get("generation") or 0)
    return seen and all(
        int(status.get(name) or 0) == wanted for name in ("replicas", "updatedReplicas", "readyReplicas")
    )


def _slim_metadata(obj: Object) -> Object:
    kept = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "annotations", "deletionTimestamp")
    return {name: obj["metadata"][name] for name in kept if name in obj["metadata"]}
