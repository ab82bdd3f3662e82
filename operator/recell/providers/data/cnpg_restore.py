"""Restoring into a cell: its empty Cluster goes, and one that recovers a backup takes its place.

Promises
- Only a Cluster that was made here for the target is ever deleted, by its UID, and only while nobody is at home in the
  target.
- The empty Cluster is recorded on the target's Cell before it goes, so that a crash between the two loses nothing; the
  record goes when the recovery is done.
- The new one is made once nothing of the old one is left: its volumes have the same names.
- The recovery point is what is certain: the time that was asked for, where PostgreSQL stopped there, else the end of
  the backup, although later WAL may have been replayed.

Must not: recover into a Cluster of somebody's own, nor change the one that was backed up.
"""

import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from recell.api import Cell
from recell.api.cell import DataType
from recell.api.meta import ANNOTATION_REPLACED_CLUSTER, ANNOTATION_REQUEST
from recell.domain.data import Answer, Customers, Progress, Request
from recell.domain.wording import clipped, listed
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.engine.ports import Key
from recell.providers.data import cnpg_backup, cnpg_cluster, cnpg_recovery, job_status
from recell.providers.data.cnpg_objects import PostgresObjects
from recell.providers.kube.api import Api, Object
from recell.providers.kube.kstatus import stuck_reason
from recell.providers.kube.ownership import made_for
from recell.providers.kube.paths import CELLS, CLAIMS, CNPG_BACKUPS, CNPG_CLUSTERS, JOBS, PODS, SERVICES
from recell.providers.kube.pods import log_of

logger = logging.getLogger(__name__)

LOG_LINES = 100
LOG_BYTES = 262144
"""Of those lines, from the first one on: what went wrong is at the end, behind others of a thousand bytes and more."""


class PostgresRestores:
    """`is_home` says whether a Router's Placement has home slots for a cell, and is True while that is not known."""

    def __init__(
        self,
        api: Api,
        objects: PostgresObjects,
        *,
        require_consent: Callable[[Cell], Awaitable[None]],
        is_home: Callable[[Key, str], bool],
    ) -> None:
        self._api = api
        self._objects = objects
        self._require_consent = require_consent
        self._is_home = is_home

    async def ensure(self, request: Request) -> Answer:
        """Raises as the port says, and BadInput when its key belongs to another request."""
        target, place = _target(request)
        live = await self._objects.find(CNPG_CLUSTERS, place)
        if live is None:
            return await self._make(request, target, place)
        asked = _annotations(live).get(ANNOTATION_REQUEST, "")
        if live["metadata"].get("deletionTimestamp"):
            self._objects.awaits(CNPG_CLUSTERS, place, request)
            kept = live["metadata"].get("finalizers")
            told = f" (kept by {listed(kept)})" if kept else ""
            return Answer(Progress.RUNNING, f"{_named(place)} is being deleted{told}")
        if asked == cnpg_recovery.mark(request):
            return await self._answer(request, target, live)
        if cnpg_recovery.key_of(asked) == request.key:
            raise BadInput(f"{_named(place)} was made for another request under the key {request.key}")
        return await self._replace(request, target, place)

    async def cancel(self, request: Request) -> bool:
        """Deletes the Cluster unless it is done; with it go its volumes, in which nobody has written yet."""
        target, place = _target(request)
        live = await self._objects.read(CNPG_CLUSTERS, place)
        if live is None or _annotations(live).get(ANNOTATION_REQUEST) != cnpg_recovery.mark(request):
            self._objects.forget(CNPG_CLUSTERS, place)
            return True
        if cnpg_cluster.state(live).ready:
            return True
        if not live["metadata"].get("deletionTimestamp") and not self._serves(target):
            await self._delete(place, live)
        return False

    def _serves(self, target: Cell) -> bool:
        return self._is_home((target.metadata.namespace, target.spec.router_ref.name), target.metadata.name)

    # Replacing

    async def _replace(self, request: Request, target: Cell, place: Key) -> Answer:
        live = await self._objects.read(CNPG_CLUSTERS, place)
        if live is None:
            return Answer(Progress.RUNNING, f"{_named(place)} is gone")
        if not made_for(live, target.metadata.name):
            raise BadInput(
                f"{_named(place)} was not made from a template for cell {target.metadata.name}, so it is left alone:"
                " put the Cluster into the CellTemplate, with $(CELL) in its name"
            )
        if self._serves(target):
            return Answer(
                Progress.FAILED,
                f"Customers are at home in cell {target.metadata.name}, so its {_named(place)} stays as it is",
            )
        replaced = cnpg_recovery.empty(live)
        try:
            await self._recovering(request, replaced)
        except cnpg_recovery.Unfit as error:
            return Answer(Progress.FAILED, f"{error}. {_named(place)} stays as it is")
        await self._require_consent(target)
        await self._record(target, json.dumps(replaced, sort_keys=True))
        await self._delete(place, live)
        self._objects.awaits(CNPG_CLUSTERS, place, request)
        return Answer(Progress.RUNNING, f"The empty {_named(place)} goes, to be made again from {request.backup}")

    async def _make(self, request: Request, target: Cell, place: Key) -> Answer:
        self._objects.awaits(CNPG_CLUSTERS, place, request)
        record = await self._recorded(target)
        if record is None:
            raise BadInput(
                f"{_named(place)} does not exist, and nothing is recorded of it: the CellTemplate has to make the"
                " Cluster that spec.data.cloudNativePG.cluster of its cells names"
            )
        if self._serves(target):
            return Answer(Progress.FAILED, f"Customers are at home in cell {target.metadata.name} already")
        try:
            body = await self._recovering(request, record)
        except cnpg_recovery.Unfit as error:
            return Answer(Progress.FAILED, str(error))
        if left := await self._left(place):
            return Answer(Progress.RUNNING, f"What the empty {_named(place)} had is going: {listed(left)}")
        await self._require_consent(target)
        try:
            made = await self._api.create(CNPG_CLUSTERS.collection(place[0]), body)
        except Conflict:
            return Answer(Progress.RUNNING, f"{_named(place)} is there again")
        logger.info("made Cluster %s/%s, which recovers backup %s", *place, request.backup)
        self._objects.put(CNPG_CLUSTERS, made)
        return Answer(Progress.RUNNING, f"{_named(place)} is made, to recover from {request.backup}")

    async def _recovering(self, request: Request, replaced: Object) -> Object:
        """Raises Unfit for a backup that cannot be recovered so."""
        where = (request.cell.workload_namespace, request.backup)
        backup = await self._objects.read(CNPG_BACKUPS, where)
        if backup is None:
            raise cnpg_recovery.Unfit(f"Backup {where[0]}/{where[1]} does not exist any more")
        told = cnpg_backup.entry(backup)
        if told is None or not told.complete:
            raise cnpg_recovery.Unfit(f"Backup {where[0]}/{where[1]} is not complete")
        if request.not_after is not None and told.at > request.not_after:
            raise cnpg_recovery.Unfit(
                f"Backup {where[0]}/{where[1]} can be restored to {told.at.isoformat()} at the earliest, which is later"
                f" than {request.not_after.isoformat()}"
            )
        source = await self._objects.read(CNPG_CLUSTERS, (where[0], cnpg_backup.cluster_of(backup)))
        return cnpg_recovery.recovering(replaced, request, backup, source)

    async def _delete(self, place: Key, live: Object) -> None:
        logger.info("deleting Cluster %s/%s", *place)
        with suppress(NotFound, Conflict):  # it went by itself: the next look tells
            # Not in the foreground: CloudNativePG makes anew what is missing for as long as the Cluster is there.
            await self._api.delete(CNPG_CLUSTERS.path(*place), uid=live["metadata"]["uid"])

    async def _left(self, place: Key) -> list[str]:
        """What the garbage collector has not taken away yet."""
        labels = cnpg_cluster.instances(place[1])
        found = [(each, await self._api.list(each.collection(place[0]), labels=labels)) for each in _OWNED]
        return [f"{each.kind} {obj['metadata']['name']}" for each, there in found for obj in there.items]

    # The record on the target's Cell

    async def _record(self, target: Cell, text: str | None) -> None:
        known = target.metadata.annotations.get(ANNOTATION_REPLACED_CLUSTER)
        if known != text:
            annotations = {ANNOTATION_REPLACED_CLUSTER: text}
            await self._api.merge_patch(CELLS.path(*target.key), {"metadata": {"annotations": annotations}})

    async def _recorded(self, target: Cell) -> Object | None:
        """Read anew: the request's Cell may be older than the record."""
        try:
            cell = await self._api.get(CELLS.path(*target.key))
        except NotFound:
            return None
        text = _annotations(cell).get(ANNOTATION_REPLACED_CLUSTER)
        found: Object | None = json.loads(text) if text else None
        return found

    # Answering

    async def _answer(self, request: Request, target: Cell, live: Object) -> Answer:
        place = (live["metadata"]["namespace"], live["metadata"]["name"])
        state = cnpg_cluster.state(live)
        if state.ready:
            return await self._done(request, target, place)
        self._objects.awaits(CNPG_CLUSTERS, place, request)
        text = f"{_named(place)}: {state.says}"
        pods = self._objects.pods(place)
        if stuck := [words for words in map(stuck_reason, filter(job_status.alive, pods)) if words]:
            text += f"; {stuck[0]}"
        tried = [pod for pod in pods if cnpg_cluster.recovers(pod) and not job_status.alive(pod)]
        if not any(job_status.failure([pod], "") for pod in tried):
            return Answer(Progress.RUNNING, clipped(text))
        why = await self._why_failed(request, place)
        jobs = (await self._api.list(JOBS.collection(place[0]), labels=cnpg_cluster.instances(place[1]))).items
        if cnpg_cluster.failed_for_good(jobs):
            return Answer(Progress.FAILED, clipped(f"{_named(place)} could not recover {request.backup}: {why}"))
        return Answer(Progress.RUNNING, clipped(f"{text}; attempt {len(tried)} to recover failed: {why}"))

    async def _done(self, request: Request, target: Cell, place: Key) -> Answer:
        self._objects.forget(CNPG_CLUSTERS, place)
        live = await self._objects.read(CNPG_CLUSTERS, place)
        backup = await self._objects.read(CNPG_BACKUPS, (request.cell.workload_namespace, request.backup))
        exactly = live is not None and cnpg_recovery.target_time(live)
        point = request.not_after if exactly else cnpg_backup.stopped_at(backup) if backup is not None else None
        told = f"{_named(place)} has recovered {request.backup}"
        if not exactly and point is not None:
            told += f" and whatever WAL was archived after its end ({point.isoformat()})"
        if live is not None and cnpg_recovery.new_password(live):
            told += f"; the application's password is new: Secret {place[1]}-app"
        await self._record(target, None)
        return Answer(Progress.DONE, clipped(told), customers=Customers(whole=True), recovery_point=point)

    async def _why_failed(self, request: Request, place: Key) -> str:
        there = (await self._api.list(PODS.collection(place[0]), labels=cnpg_cluster.instances(place[1]))).items
        last = job_status.failure([pod for pod in there if cnpg_cluster.recovers(pod)], "")
        if last is None:
            return "its pods are gone, and what they said with them"
        log = await log_of(self._api, place[0], last.pod, last.container, lines=LOG_LINES, most=LOG_BYTES) or last.said
        if request.not_after and (why := cnpg_cluster.unreachable(log, request.not_after)):
            return why
        return cnpg_cluster.words(log) or f"pod {last.pod} ended with {last} and said nothing"


_OWNED = (PODS, CLAIMS, SERVICES)
"""Of what a Cluster owns: what may be seen, and its volumes, which are the last to go."""


def _target(request: Request) -> tuple[Cell, Key]:
    """The cell that is written to, and where its Cluster is. Raises BadInput for one that names none."""
    target = request.target
    if target is None:
        raise BadInput(f"{request.key}: a restore needs a target")
    block = target.spec.data.cloud_native_pg
    if target.spec.data.type is not DataType.CLOUD_NATIVE_PG or block is None:
        raise BadInput(
            f"Cell {'/'.join(target.key)}: spec.data.cloudNativePG.cluster is not set, so that nothing can be recovered"
            " there: name the template's Cluster in spec.cell.data of the CellTemplate"
        )
    return target, (target.workload_namespace, block.cluster)


def _annotations(obj: Object) -> Object:
    return obj["metadata"].get("annotations") or {}


def _named(place: Key) -> str:
    return f"Cluster {place[0]}/{place[1]}"
