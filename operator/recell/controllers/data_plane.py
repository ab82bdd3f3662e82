"""The routers' objects and pods in the cluster: what the Router controller needs of a data plane.

Promises: an object is applied only when its content differs from what was applied last, or when it is
gone; the streams always know the pods that serve. It decides nothing about traffic.
"""

import logging
from collections.abc import Callable, Sequence

from recell.api import Placement, Router
from recell.api.meta import ANNOTATION_CONTENT, LABEL_ROUTER
from recell.domain.observation import Applied
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
from recell.providers.kube.reflector import Reflector
from recell.providers.routing.haproxy.objects import Surroundings, router_objects
from recell.providers.routing.haproxy.streams import HAProxyTraffic

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
WATCHED = (DEPLOYMENTS, SERVICES)
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
        *,
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._traffic = traffic
        self._surroundings = surroundings
        self._on_change = on_change
        self._pods = Collection(api, PODS, clock, namespaces, labels=LABEL_ROUTER, trim=_slim_pod)
        self._live = {
            resource.kind: Collection(api, resource, clock, namespaces, labels=LABEL_ROUTER, trim=_only_metadata)
            for resource in WATCHED
        }
        self._applied: dict[tuple[str, str, str], str] = {}
        """Kind, namespace, name -> content hash that this process applied."""
        self._rendered: dict[Key, tuple[tuple[str, int], tuple[Object, ...]]] = {}
        """By Router: what its spec asks for, and of which object and generation."""
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
        for collection in (self._pods, *self._live.values()):
            await collection.stop()

    async def ensure(self, router: Router) -> None:
        version = (router.metadata.uid, router.metadata.generation)
        known = self._rendered.get(router.key)
        if known is None or known[0] != version:
            known = self._rendered[router.key] = (version, router_objects(router, self._surroundings))
        for wanted in known[1]:
            kind, name = wanted["kind"], wanted["metadata"]["name"]
            slot = (kind, router.metadata.namespace, name)
            content = wanted["metadata"]["annotations"][ANNOTATION_CONTENT]
            if self._applied.get(slot) == content and not self._lost(kind, (router.metadata.namespace, name), content):
                continue
            path = RESOURCES[kind].path(router.metadata.namespace, name)
            answer = await self._api.apply(path, wanted)
            self._applied[slot] = content
            if kind in self._live:
                self._live[kind].put(answer)
            log.info("applied %s %s/%s", kind, router.metadata.namespace, name)

    def _lost(self, kind: str, key: Key, content: str) -> bool:
        """Gone, or changed by somebody who did not keep our mark."""
        collection = self._live.get(kind)
        if collection is None:
            return False
        live = collection.get(key)
        return live is None or (live["metadata"].get("annotations") or {}).get(ANNOTATION_CONTENT) != content

    def tell(self, router: Key, placement: Placement | None) -> None:
        if placement is None:
            self._traffic.drop(router)
            self._rendered.pop(router, None)
            for slot in [slot for slot in self._applied if slot[1] == router[0]]:
                del self._applied[slot]
            return
        self._traffic.set_placement(router, placement)

    def serving(self, router: Key) -> int:
        return sum(1 for pod in self._pods_of(router) if _serves(pod))

    def complaint(self, router: Key) -> str:
        return self._traffic.complaint(router)

    def applied(self, router: Key) -> Applied | None:
        return self._traffic.applied(router)

    def _pods_of(self, router: Key) -> list[Object]:
        return [
            pod
            for pod in self._pods
            if pod["metadata"]["namespace"] == router[0] and pod["metadata"]["labels"].get(LABEL_ROUTER) == router[1]
        ]

    def _changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        obj = new or old
        if obj is None:
            return
        router = (key[0], obj["metadata"]["labels"][LABEL_ROUTER])
        pods = {
            pod["metadata"]["name"]: (pod["status"]["podIP"], _serves(pod))
            for pod in self._pods_of(router)
            if (pod.get("status") or {}).get("podIP")
        }
        self._traffic.set_pods(router, pods)
        self._on_change(router)


def _serves(pod: Object) -> bool:
    """May customers' requests reach it? A pod that is leaving still serves, but gets nothing new."""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def _slim_pod(pod: Object) -> Object:
    status = pod.get("status") or {}
    ready = [{"type": c["type"], "status": c["status"]} for c in status.get("conditions") or () if c["type"] == "Ready"]
    return {"metadata": _slim_metadata(pod), "status": {"podIP": status.get("podIP"), "conditions": ready}}


def _only_metadata(obj: Object) -> Object:
    return {"metadata": _slim_metadata(obj)}


def _slim_metadata(obj: Object) -> Object:
    kept = ("name", "namespace", "uid", "resourceVersion", "labels", "annotations", "deletionTimestamp")
    return {name: obj["metadata"][name] for name in kept if name in obj["metadata"]}
