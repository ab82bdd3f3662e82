"""Data in a PostgreSQL Cluster of CloudNativePG: the `Data` port made real by its Backups and by recovery from them.

Promises
- A backup is one Backup object under a name that follows from the request, made once, by the method that the Cluster's
  own configuration allows.
- Everything is restored as one (`cnpg_restore`); single customers cannot be moved, and whoever asks is told which field
  names a means for that.
- Only with the consent of the namespace that is written to, asked right before.
- What nobody tells stays unknown: until when the WAL is archived is known no further than the end of the newest backup.

Must not: delete a Backup, since what it stands for may be deleted with it, nor stop one that runs: it only reads.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from recell.api import Cell
from recell.api.meta import ANNOTATION_REQUEST
from recell.domain.data import Answer, Operation, Progress, Request
from recell.domain.wording import clipped
from recell.engine.errors import Conflict, Forbidden
from recell.engine.ports import Clock, Key
from recell.providers.data import cnpg_backup, cnpg_cluster, job_template
from recell.providers.data.cnpg_backup import Method
from recell.providers.data.cnpg_objects import PostgresObjects
from recell.providers.data.cnpg_restore import PostgresRestores
from recell.providers.kube.api import Api, Object
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CNPG_BACKUPS, CNPG_CLUSTERS
from recell.providers.kube.reflector import Reflector

_ELSEWHERE = {
    Operation.MIGRATE: "customers are not moved one by one: name CronJobs in spec.data.jobs.migrate and accessible",
    Operation.ABANDON: "nothing was moved by it: name a CronJob in spec.data.jobs.abandon",
    Operation.CHECK: "it knows nothing of the data's meaning: name a CronJob in spec.data.jobs.check, or an HTTP check"
    " in spec.data.integrity",
}


class CloudNativePGData:
    """`require_consent` raises Forbidden unless the namespace of the cell's workloads consents to the Cell.
    `is_home` says whether a Router's Placement has home slots for a cell, and is True while that is not known.
    `on_change` is told the key of the Cell of a request of which something changed. `namespaces` as they are watched:
    ("",) is all of them."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str] = ("",),
        *,
        require_consent: Callable[[Cell], Awaitable[None]],
        is_home: Callable[[Key, str], bool],
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._require_consent = require_consent
        self._objects = PostgresObjects(api, clock, namespaces, on_change=on_change)
        self._restores = PostgresRestores(api, self._objects, require_consent=require_consent, is_home=is_home)

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that run at present; they come with the first request."""
        return self._objects.reflectors

    async def stop(self) -> None:
        await self._objects.stop()

    # The port

    async def ensure(self, request: Request) -> Answer:
        """Raises Conflict when its name belongs to another request, beside what the port says."""
        if why := _ELSEWHERE.get(request.operation):
            cell = "/".join(request.cell.key)
            return Answer(Progress.UNSUPPORTED, f"Cell {cell}: CloudNativePG does not do {request.operation}: {why}")
        try:
            await self._objects.require_kinds()
            match request.operation:
                case Operation.ACCESSIBLE:
                    return await self._accessible(request)
                case Operation.INVENTORY:
                    return await self._inventory(request)
                case Operation.BACKUP:
                    return await self._back_up(request)
                case _:
                    return await self._restores.ensure(request)
        except MissingPermission as error:
            raise Forbidden(f"{error}. The chart grants it with features.cloudNativePG") from error

    async def cancel(self, request: Request) -> bool:
        """A backup goes on: nothing waits for it, and nothing is changed by it."""
        if request.operation is Operation.RESTORE:
            return await self._restores.cancel(request)
        return True

    # Operations

    async def _accessible(self, request: Request) -> Answer:
        place = _cluster(request)
        cluster = await self._objects.find(CNPG_CLUSTERS, place)
        told = f"CloudNativePG moves no single customers out of Cluster {place[0]}/{place[1]}"
        if cluster is None:
            return Answer(Progress.DONE, f"{told}, which does not exist", accessible=False)
        able = cnpg_backup.means(cluster) is not None and cnpg_cluster.can_be_backed_up(cluster)
        return Answer(Progress.DONE, f"{told}: {cnpg_cluster.state(cluster).says}", accessible=False, when_stopped=able)

    async def _inventory(self, request: Request) -> Answer:
        namespace, name = _cluster(request)
        backups = await self._objects.backups(namespace, name)
        found = cnpg_backup.inventory(backups)
        archived = [b for b in backups if cnpg_backup.method_of(b) is not Method.SNAPSHOT]
        ends = [told.at for told in cnpg_backup.inventory(archived) if told.complete]
        return Answer(
            Progress.DONE,
            f"Cluster {namespace}/{name} has {len(found)} Backups",
            backups=found,
            # A backup's end is in the archive, else it would not be complete; how much more, nobody tells.
            until=max(ends, default=None),
        )

    async def _back_up(self, request: Request) -> Answer:
        place = (request.cell.workload_namespace, request.key)
        backup = await self._objects.find(CNPG_BACKUPS, place)
        if backup is None:
            begun = await self._begin(request)
            if isinstance(begun, Answer):
                return begun
            backup = begun
        if (backup["metadata"].get("annotations") or {}).get(ANNOTATION_REQUEST) != job_template.digest(request):
            raise Conflict(
                f"Backup {place[0]}/{place[1]} is not the one of this request (cell {request.cell.metadata.name}):"
                " another request, or somebody else, has taken its name"
            )
        answer = cnpg_backup.progress(backup)
        if answer.progress is not Progress.RUNNING:
            self._objects.forget(CNPG_BACKUPS, place)
            return answer
        self._objects.awaits(CNPG_BACKUPS, place, request)
        cluster = await self._objects.find(CNPG_CLUSTERS, _cluster(request))
        trouble = cnpg_cluster.not_archived(cluster) if cluster is not None else ""
        return replace(answer, message=clipped(f"{answer.message}; {trouble}")) if trouble else answer

    async def _begin(self, request: Request) -> Object | Answer:
        namespace, name = _cluster(request)
        cluster = await self._objects.find(CNPG_CLUSTERS, (namespace, name))
        if cluster is None:
            return Answer(
                Progress.FAILED,
                f"Cluster {namespace}/{name}, which spec.data.cloudNativePG.cluster of cell"
                f" {request.cell.metadata.name} names, does not exist",
            )
        means = cnpg_backup.means(cluster)
        if means is None:
            return Answer(
                Progress.FAILED,
                f"Cluster {namespace}/{name} has no means to be backed up: set spec.backup (barmanObjectStore or"
                " volumeSnapshot), or a plugin in spec.plugins",
            )
        await self._require_consent(request.cell)
        try:
            backup = await self._api.create(
                CNPG_BACKUPS.collection(namespace), cnpg_backup.made(request, cluster, means)
            )
        except Conflict:
            backup = await self._api.get(CNPG_BACKUPS.path(namespace, request.key))
        self._objects.put(CNPG_BACKUPS, backup)
        return backup


def _cluster(request: Request) -> Key:
    """Where the cell's Cluster is."""
    block = request.cell.spec.data.cloud_native_pg
    assert block is not None, "the API server lets no cell of this type be without it"
    return (request.cell.workload_namespace, block.cluster)
