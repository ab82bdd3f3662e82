"""Data by CSI snapshots of a cell's volumes: the `Data` port made real by external-snapshotter's API.

Promises
- A backup is one VolumeSnapshot for each claim, under names that follow from the request's key: made once, however
  often it is asked for, and by whichever process. What somebody else made under such a name is left alone.
- Snapshots have no owner (rule 7), and one that is ready is never deleted here.
- Whoever made a snapshot of the cell's claims, it can be restored from.
- Everything is restored as one (`volume_restore`); customers are never moved one by one.
- Watches run while something is under way, and each change wakes who waits (`on_change`).

Must not: read or write data itself; say that a snapshot is verified, since nobody looked into it.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from recell.api import Cell
from recell.api.cell import DataType
from recell.api.meta import ANNOTATION_REQUEST, LABEL_BACKUP, LABEL_CELL, LABEL_MADE_BY, timestamp
from recell.domain.data import Answer, Backup, Operation, Progress, Request
from recell.domain.wording import clipped
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.engine.ports import Clock, Key, Workloads
from recell.providers.data import as_one, snapshots
from recell.providers.data.job_template import digest
from recell.providers.data.volume_restore import Source, VolumeRestore, made_anew
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Kind
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.made import MadeObjects, Place
from recell.providers.kube.paths import CLAIMS, VOLUME_SNAPSHOTS
from recell.providers.kube.reflector import Reflector

logger = logging.getLogger(__name__)

_SNAPSHOT = Kind(VOLUME_SNAPSHOTS, has_status=True)


class VolumeSnapshotsData:
    """`require_consent` raises Forbidden unless the namespace of the cell's workloads consents to the Cell. `is_home`
    says whether a Router's Placement has home slots for a cell, and is True while that is not known. `on_change` is
    told the key of the Cell of which a snapshot or claim that is waited for changed."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        workloads: Workloads,
        *,
        require_consent: Callable[[Cell], Awaitable[None]],
        is_home: Callable[[Key, str], bool],
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._require_consent = require_consent
        self._made = MadeObjects(api, clock, on_change=on_change)
        self._restore = VolumeRestore(
            api,
            workloads,
            self._made,
            type_=DataType.VOLUME_SNAPSHOTS,
            claims_of=claims_of,
            find=self._source,
            require_consent=require_consent,
            is_home=is_home,
        )

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that run at present."""
        return self._made.reflectors

    async def stop(self) -> None:
        await self._made.stop()

    # The port

    async def ensure(self, request: Request) -> Answer:
        """Raises BadInput when its name belongs to another snapshot or restore, beside what the port says."""
        try:
            return await self._ensure(request)
        except MissingPermission as error:
            raise MissingPermission(f"{error}; features.volumeSnapshots of the chart grants what is needed") from error

    async def _ensure(self, request: Request) -> Answer:
        if (answer := as_one.refused(request, "VolumeSnapshots")) is not None:
            return answer
        try:
            if request.operation is Operation.INVENTORY:
                names = claims_of(request.cell)
                return Answer(Progress.DONE, backups=snapshots.backups(await self._taken(request.cell), names))
            if request.operation is Operation.RESTORE:
                _must_be_near(request)
                return await self._restore.ensure(request)
            return await self._back_up(request)
        except _NotInstalled as error:
            return Answer(Progress.UNSUPPORTED, str(error))

    async def cancel(self, request: Request) -> bool:
        """A backup that is not complete yet goes; a restore's workloads are what they were."""
        if request.operation is Operation.RESTORE:
            return await self._restore.cancel(request)
        if request.operation is not Operation.BACKUP:
            return True
        try:
            found = await self._of_group(request)
        except _NotInstalled:
            return True
        own = [obj for obj in found.values() if _asked(obj) == digest(request)]
        if len(own) == len(claims_of(request.cell)) and all(snapshots.read(obj).ready for obj in own):
            return True
        for obj in own:
            if not obj["metadata"].get("deletionTimestamp"):
                path = VOLUME_SNAPSHOTS.path(request.cell.workload_namespace, obj["metadata"]["name"])
                logger.info("deleting VolumeSnapshot %s, its backup was called off", obj["metadata"]["name"])
                with suppress(NotFound, Conflict):
                    await self._api.delete(path, uid=obj["metadata"]["uid"])
        return not own

    # Looking

    async def _taken(self, cell: Cell) -> list[snapshots.Taken]:
        names = claims_of(cell)
        found = await self._list(cell.workload_namespace)
        return snapshots.taken(found, names, await made_anew(self._api, cell, names))

    async def _source(self, request: Request) -> Source | Answer:
        """The backup that the request names, or why it cannot be restored from: nothing later than asked (rule 9)."""
        cell, name = request.cell, request.cell.metadata.name
        taken = await self._taken(cell)
        found = next((each for each in taken if each.id == request.backup), None)
        if found is None:
            return Answer(Progress.FAILED, f"Cell {name} has no backup {request.backup} in VolumeSnapshots")
        names = claims_of(cell)
        if why := found.missing(names):
            return Answer(Progress.FAILED, f"Backup {request.backup} of cell {name} is not complete: {why}")
        if request.not_after is not None and found.at > request.not_after:
            return Answer(
                Progress.FAILED,
                f"Backup {request.backup} of cell {name} is later than {request.not_after.isoformat()}, the latest that"
                f" was asked for: it may have what was committed until {timestamp(found.at)}",
            )
        return Source(found.at, {claim: found.of(claim) for claim in names})

    async def _list(self, namespace: str, labels: str = "") -> Sequence[Object]:
        try:
            return (await self._api.list(VOLUME_SNAPSHOTS.collection(namespace), labels=labels)).items
        except NotFound as error:
            raise _NotInstalled(
                f"The cluster has no VolumeSnapshots ({VOLUME_SNAPSHOTS.api_version}): install the CRDs and the"
                " snapshot controller of external-snapshotter"
            ) from error

    async def _of_group(self, request: Request) -> dict[str, Object]:
        found = await self._list(request.cell.workload_namespace, labels=f"{LABEL_BACKUP}={request.key}")
        return {obj["metadata"]["name"]: obj for obj in found}

    # Backing up

    async def _back_up(self, request: Request) -> Answer:
        cell, names = request.cell, claims_of(request.cell)
        found = await self._of_group(request)
        wanted = {_name(request, number): claim for number, claim in enumerate(names)}
        self._made.open(cell.key, [Place(_SNAPSHOT, cell.workload_namespace)])
        missing = [name for name in wanted if name not in found]
        if missing:
            await self._require_consent(cell)
        for name in missing:
            try:
                claim = await self._api.get(CLAIMS.path(cell.workload_namespace, wanted[name]))
            except NotFound:
                self._made.close(cell.key)
                return Answer(
                    Progress.FAILED,
                    f"Cell {'/'.join(cell.key)}: spec.data.volumeSnapshots.claims: PersistentVolumeClaim"
                    f" {cell.workload_namespace}/{wanted[name]} does not exist: correct the name",
                )
            found[name] = await self._take(request, name, claim)
        for name, claim_name in wanted.items():
            source = found[name]["spec"]["source"].get("persistentVolumeClaimName")
            if _asked(found[name]) != digest(request) or source != claim_name:
                raise BadInput(
                    f"VolumeSnapshot {cell.workload_namespace}/{name} is not the one of this request"
                    f" ({request.operation} of cell {cell.metadata.name}): another request, or somebody else, has"
                    " taken its name; delete it"
                )
        if obstacle := self._made.obstacle(cell.key):
            raise obstacle
        answer = _told(request, [snapshots.read(found[name]) for name in wanted])
        if answer.progress is not Progress.RUNNING:
            self._made.close(cell.key)
        return answer

    async def _take(self, request: Request, name: str, claim: Object) -> Object:
        namespace, settings = request.cell.workload_namespace, request.cell.spec.data.volume_snapshots
        spec: Object = {"source": {"persistentVolumeClaimName": claim["metadata"]["name"]}}
        if settings is not None and settings.class_name:
            spec["volumeSnapshotClassName"] = settings.class_name
        body = {
            "apiVersion": VOLUME_SNAPSHOTS.api_version,
            "kind": VOLUME_SNAPSHOTS.kind,
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": {
                    LABEL_MADE_BY: "recell",
                    LABEL_CELL: request.cell.metadata.name,
                    LABEL_BACKUP: request.key,
                },
                "annotations": {ANNOTATION_REQUEST: digest(request)},
            },
            "spec": spec,
        }
        try:
            made = await self._api.create(VOLUME_SNAPSHOTS.collection(namespace), body)
            logger.info("made VolumeSnapshot %s/%s of claim %s", namespace, name, claim["metadata"]["name"])
            return made
        except Conflict:
            return await self._api.get(VOLUME_SNAPSHOTS.path(namespace, name))


class _NotInstalled(Exception):
    """There is no such kind; the message says what to install."""


def claims_of(cell: Cell) -> tuple[str, ...]:
    """Raises BadInput for a cell whose data is not in volumes, and for a claim that is named twice."""
    settings = cell.spec.data.volume_snapshots
    where = f"Cell {'/'.join(cell.key)}: spec.data.volumeSnapshots"
    if settings is None:
        raise BadInput(f"{where} is not set: name the claims with the cell's data")
    if len(set(settings.claims)) < len(settings.claims):
        raise BadInput(f"{where}.claims: each claim may be named once")
    return tuple(settings.claims)


def _must_be_near(request: Request) -> None:
    namespace, target = request.cell.workload_namespace, request.target
    if target is not None and target.workload_namespace != namespace:
        raise BadInput(
            f"Cell {target.metadata.name}: spec.data.volumeSnapshots.claims: a VolumeSnapshot can be restored in its"
            f" own namespace only, {namespace}"
        )


def _name(request: Request, number: int) -> str:
    """With one claim as the backup, so that its id is the same in every list."""
    return request.key if len(claims_of(request.cell)) == 1 else f"{request.key}-{number}"


def _asked(snapshot: Object) -> str | None:
    asked: str | None = (snapshot["metadata"].get("annotations") or {}).get(ANNOTATION_REQUEST)
    return asked


def _told(request: Request, found: Sequence[snapshots.Snapshot]) -> Answer:
    namespace = request.cell.workload_namespace
    for snapshot in found:
        if snapshot.deleting:
            return Answer(Progress.FAILED, f"VolumeSnapshot {namespace}/{snapshot.name} is being deleted by somebody")
    ready = [snapshot for snapshot in found if snapshot.ready]
    if len(ready) == len(found):
        made = snapshots.Taken(request.key, tuple(found))
        return Answer(Progress.DONE, backups=(Backup(made.id, made.at),))
    words = []
    for snapshot in found:
        if not snapshot.ready:
            said = f"{snapshot.problem}; it is tried again" if snapshot.problem else "is being taken"
            words.append(f"VolumeSnapshot {namespace}/{snapshot.name} of claim {snapshot.claim}: {said}")
    return Answer(Progress.RUNNING, clipped("; ".join(words)), done=len(ready), of=len(found))
