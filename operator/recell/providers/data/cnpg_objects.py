"""Clusters and Backups of CloudNativePG as they are, by watches that begin with the first question.

Promises: one watch per kind and watched namespace, and one of the pods of each Cluster that is being recovered; a
change of what somebody waits for wakes who asked. What the watches do not know yet is asked of the API server. Where
these kinds are missing, whoever asks is told so (BadInput), and no watch asks again and again.
"""

import asyncio
from collections.abc import Callable, Sequence

from recell.domain.data import Request
from recell.engine.errors import BadInput, NotFound
from recell.engine.ports import Clock, Key
from recell.providers.data import cnpg_backup, cnpg_cluster
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Discovery
from recell.providers.kube.paths import CNPG_BACKUPS, CNPG_CLUSTERS, Resource
from recell.providers.kube.pods import PodWatches, WorkloadKey
from recell.providers.kube.reflector import Reflector

_TRIM = {CNPG_CLUSTERS: cnpg_cluster.slim, CNPG_BACKUPS: cnpg_backup.slim}
_BY_CLUSTER = "cluster"


class PostgresObjects:
    """`on_change` is told the key of the Cell of a request that waits for what changed. `namespaces` as they are
    watched: ("",) is all of them."""

    def __init__(self, api: Api, clock: Clock, namespaces: Sequence[str], *, on_change: Callable[[Key], None]) -> None:
        self._api = api
        self._clock = clock
        self._everywhere = "" in namespaces
        self._on_change = on_change
        self._discovery = Discovery(api)
        self._watches: dict[tuple[Resource, str], Reflector] = {}
        self._pods = PodWatches(api, clock, lambda workload: self._changed(CNPG_CLUSTERS, workload[1:]))
        self._awaited: dict[tuple[Resource, Key], Key] = {}
        """What is waited for, and the Cell of the request."""

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return (*self._watches.values(), *self._pods.reflectors)

    async def stop(self) -> None:
        await self._pods.stop()
        await asyncio.gather(*(watch.stop() for watch in self._watches.values()))

    async def require_kinds(self) -> None:
        """Raises BadInput where CloudNativePG is not installed."""
        for resource in (CNPG_CLUSTERS, CNPG_BACKUPS):
            try:
                await self._discovery.kind(resource.api_version, resource.kind)
            except BadInput as error:
                raise BadInput(f"CloudNativePG is not installed in this cluster: {error}") from error

    # Reading

    async def find(self, resource: Resource, place: Key) -> Object | None:
        watch = self._watch(resource, place[0])
        if watch.current:
            return watch.get(place)
        return await self.read(resource, place)

    async def read(self, resource: Resource, place: Key) -> Object | None:
        """As the API server has it now, whole."""
        try:
            return await self._api.get(resource.path(*place))
        except NotFound:
            return None

    async def backups(self, namespace: str, cluster: str) -> Sequence[Object]:
        watch = self._watch(CNPG_BACKUPS, namespace)
        if watch.current:
            return watch.by(_BY_CLUSTER, (namespace, cluster))
        there = (await self._api.list(CNPG_BACKUPS.collection(namespace))).items
        return [backup for backup in there if cnpg_backup.cluster_of(backup) == cluster]

    def pods(self, cluster: Key) -> Sequence[Object]:
        """Of a Cluster that is waited for; empty while they are not known."""
        return self._pods.pods(_workload(cluster)) or ()

    def put(self, resource: Resource, obj: Object) -> None:
        """The answer of a write."""
        self._watch(resource, obj["metadata"]["namespace"]).put(obj)

    def _watch(self, resource: Resource, namespace: str) -> Reflector:
        scope = "" if self._everywhere else namespace
        key = (resource, scope)
        if key not in self._watches:
            indexes = {_BY_CLUSTER: _cluster_of} if resource is CNPG_BACKUPS else {}
            path, trim = resource.collection(scope), _TRIM[resource]
            watch = Reflector(self._api, path, self._clock, trim=trim, indexes=indexes)
            watch.subscribe(lambda place, old, new: self._changed(resource, place))
            watch.start()
            self._watches[key] = watch
        return self._watches[key]

    # Waking

    def awaits(self, resource: Resource, place: Key, request: Request) -> None:
        """Repeatable, until `forget`."""
        self._awaited[resource, place] = request.cell.key
        if resource is CNPG_CLUSTERS:
            self._pods.open(_workload(place), cnpg_cluster.instances(place[1]))

    def forget(self, resource: Resource, place: Key) -> None:
        self._awaited.pop((resource, place), None)
        if resource is CNPG_CLUSTERS:
            self._pods.close(_workload(place))

    def _changed(self, resource: Resource, place: Key) -> None:
        cell = self._awaited.get((resource, place))
        if cell is not None:
            self._on_change(cell)


def _cluster_of(backup: Object) -> Sequence[Key]:
    return ((backup["metadata"]["namespace"], cnpg_backup.cluster_of(backup)),)


def _workload(cluster: Key) -> WorkloadKey:
    return (CNPG_CLUSTERS.kind, *cluster)
