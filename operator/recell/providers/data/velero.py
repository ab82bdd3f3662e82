"""Data in volumes that Velero backs up: the `Data` port made real by Backups, and by Restores of their VolumeSnapshots.

Promises
- A backup is one Backup object under a name that follows from the request, made once, of the cell's claims and of what
  has the cell's label.
- Whoever made a Backup of the cell, it can be restored from, if its claims had the label by which their snapshots are
  known again.
- A Restore brings VolumeSnapshots under names of their own, in the target's namespace, and nothing else; then the
  target's claims are made anew from them, as one (`volume_restore`). Customers are never moved one by one.
- Only with the consent of the namespaces that are read from and written to.

Must not: delete a Backup or a Restore, nor stop one that runs, which Velero cannot: the one only reads, and the other
only makes what nobody uses.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

from recell.api import Cell
from recell.api.cell import DataType, Velero
from recell.api.meta import ANNOTATION_REQUEST, LABEL_CLAIM, timestamp
from recell.domain.data import Answer, Backup, Operation, Progress, Request
from recell.domain.wording import clipped
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.engine.ports import Clock, Key, Workloads
from recell.providers.data import as_one, velero_backups, velero_phases, velero_restores
from recell.providers.data.job_template import digest
from recell.providers.data.velero_watches import Awaited, VeleroWatches
from recell.providers.data.volume_restore import Source, VolumeRestore, made_anew
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Discovery
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.made import MadeObjects
from recell.providers.kube.paths import CLAIMS, VELERO_BACKUPS, VELERO_RESTORES, VOLUME_SNAPSHOTS, Resource
from recell.providers.kube.reflector import Reflector

logger = logging.getLogger(__name__)


class VeleroData:
    """`require_consent` raises Forbidden unless the namespace of the cell's workloads consents to the Cell. `is_home`
    says whether a Router's Placement has home slots for a cell, and is True while that is not known. `on_change` is
    told the key of the Cell of which something that is waited for changed."""

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
        self._clock = clock
        self._require_consent = require_consent
        self._discovery = Discovery(api)
        self._watches = VeleroWatches(api, clock, on_change=on_change)
        self._made = MadeObjects(api, clock, on_change=on_change)
        self._restore = VolumeRestore(
            api,
            workloads,
            self._made,
            type_=DataType.VELERO,
            claims_of=lambda cell: _settings(cell).claims,
            find=self._source,
            require_consent=require_consent,
            is_home=is_home,
        )

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that run at present."""
        return (*self._watches.reflectors, *self._made.reflectors)

    async def stop(self) -> None:
        await self._watches.stop()
        await self._made.stop()

    # The port

    async def ensure(self, request: Request) -> Answer:
        """Raises BadInput when its name belongs to another Backup or Restore, beside what the port says."""
        if (answer := as_one.refused(request, "Velero")) is not None:
            return answer
        try:
            if missing := await self._not_installed():
                return Answer(Progress.UNSUPPORTED, missing)
            if request.operation is Operation.INVENTORY:
                return await self._inventory(request.cell)
            if request.operation is Operation.RESTORE:
                return await self._restore.ensure(request)
            return await self._back_up(request)
        except MissingPermission as error:
            raise MissingPermission(
                f"{error}; features.velero of the chart grants what is needed, in the namespace velero.namespace"
            ) from error

    async def cancel(self, request: Request) -> bool:
        """A restore's workloads are what they were; what Velero does goes on, and nothing waits for it."""
        if request.operation is not Operation.RESTORE:
            self._watches.close(request.cell.key)
            return True
        if request.target is not None:
            self._watches.close(request.target.key)
        return await self._restore.cancel(request)

    async def _not_installed(self) -> str:
        """Why it cannot be used in this cluster; empty: it can."""
        for resource, what in (
            (VELERO_BACKUPS, "Velero"),
            (VELERO_RESTORES, "Velero"),
            (VOLUME_SNAPSHOTS, "snapshots"),
        ):
            try:
                await self._discovery.kind(resource.api_version, resource.kind)
            except BadInput as error:
                return f"The cluster has no {what}: {error}"
        return ""

    async def _read(self, resource: Resource, place: Key) -> Object | None:
        try:
            return await self._api.get(resource.path(*place))
        except NotFound:
            return None

    async def _create(self, resource: Resource, body: Object) -> Object | Answer:
        """Whoever made it: the object of that name."""
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        try:
            made = await self._api.create(resource.collection(namespace), body)
        except Conflict:
            return await self._api.get(resource.path(namespace, name))
        except NotFound:
            return Answer(
                Progress.FAILED, f"Namespace {namespace} does not exist: correct spec.data.velero.namespace of the Cell"
            )
        logger.info("made Velero's %s %s/%s", resource.kind, namespace, name)
        return made

    # Which backups there are

    async def _inventory(self, cell: Cell) -> Answer:
        settings = _settings(cell)
        listed = (await self._api.list(VELERO_BACKUPS.collection(settings.namespace))).items
        since = await made_anew(self._api, cell, settings.claims)
        own = [
            backup
            for backup in listed
            if velero_backups.belongs(backup, cell, settings) and not velero_backups.too_old(backup, since)
        ]
        found = velero_backups.inventory(own, len(settings.claims), self._clock.now())
        return Answer(Progress.DONE, f"Velero in {settings.namespace} has {len(own)} Backups of it", backups=found)

    # Backing up

    async def _back_up(self, request: Request) -> Answer:
        settings = _settings(request.cell)
        place = (settings.namespace, request.key)
        self._watches.open(request.cell.key, [Awaited(VELERO_BACKUPS, *place)])
        backup = await self._read(VELERO_BACKUPS, place) or await self._begin(request, settings)
        answer = backup if isinstance(backup, Answer) else self._told(request, backup)
        if answer.progress is not Progress.RUNNING:
            self._watches.close(request.cell.key)
        return answer

    async def _begin(self, request: Request, settings: Velero) -> Object | Answer:
        """Each claim gets its label first: the snapshot of it is known by that."""
        cell = request.cell
        await self._require_consent(cell)
        for name in settings.claims:
            place = (cell.workload_namespace, name)
            claim = await self._read(CLAIMS, place)
            if claim is None:
                return Answer(
                    Progress.FAILED,
                    f"Cell {'/'.join(cell.key)}: spec.data.velero.claims: PersistentVolumeClaim {place[0]}/{place[1]}"
                    " does not exist: correct the name",
                )
            if (claim["metadata"].get("labels") or {}).get(LABEL_CLAIM) != name:
                await self._api.merge_patch(CLAIMS.path(*place), {"metadata": {"labels": {LABEL_CLAIM: name}}})
        return await self._create(VELERO_BACKUPS, velero_backups.made(request, settings))

    def _told(self, request: Request, backup: Object) -> Answer:
        _must_be_of(backup, request)
        answer = velero_phases.progress(backup)
        if answer.progress is not Progress.DONE:
            return answer
        name = velero_phases.named(backup)
        claims = len(_settings(request.cell).claims)
        if why := velero_backups.missing(backup, claims, self._clock.now()):
            return Answer(Progress.FAILED, clipped(f"{name} is of no use: {why}"))
        when = velero_backups.at(backup)
        assert when is not None, "it is complete"
        return Answer(Progress.DONE, answer.message, backups=(Backup(request.key, when),))

    # Restoring

    async def _source(self, request: Request) -> Source | Answer:
        """The snapshots of the backup, once a Restore has brought them; or why there are none, or not yet."""
        target = request.target
        assert target is not None, "a restore has one"
        settings = _settings(request.cell)
        place = (settings.namespace, request.key)
        brought = Awaited(VOLUME_SNAPSHOTS, target.workload_namespace, labels=velero_restores.selector(request.key))
        self._watches.open(target.key, [Awaited(VELERO_RESTORES, *place), brought])
        found = await self._found(request, target, settings)
        if not isinstance(found, Answer) or found.progress is not Progress.RUNNING:
            self._watches.close(target.key)
        return found

    async def _found(self, request: Request, target: Cell, settings: Velero) -> Source | Answer:
        restore = await self._read(VELERO_RESTORES, (settings.namespace, request.key))
        if restore is not None:
            _must_be_of(restore, request)
        backup = await self._backup(request, settings)
        if isinstance(backup, Answer):
            return backup
        if restore is None:
            await self._require_consent(request.cell)
            made = await self._create(VELERO_RESTORES, velero_restores.made(request, target, settings))
            if isinstance(made, Answer):
                return made
            _must_be_of(made, request)
            restore = made
        answer = velero_phases.progress(restore)
        if answer.progress is not Progress.DONE:
            return answer
        return await self._brought(request, target, settings, backup)

    async def _backup(self, request: Request, settings: Velero) -> Object | Answer:
        """The one that is restored from, or why that cannot be: nothing later than asked (rule 9)."""
        cell, name = request.cell, request.cell.metadata.name
        found = await self._read(VELERO_BACKUPS, (settings.namespace, request.backup))
        if found is None or not velero_backups.belongs(found, cell, settings):
            return Answer(
                Progress.FAILED, f"Cell {name} has no Backup {request.backup} in namespace {settings.namespace}"
            )
        if why := velero_backups.missing(found, len(settings.claims), self._clock.now()):
            return Answer(Progress.FAILED, clipped(f"Backup {request.backup} of cell {name} is not complete: {why}"))
        if velero_backups.too_old(found, await made_anew(self._api, cell, settings.claims)):
            return Answer(
                Progress.FAILED, f"Backup {request.backup} of cell {name} is of volumes that it had before a restore"
            )
        when = velero_backups.at(found)
        assert when is not None, "it is complete"
        if request.not_after is not None and when > request.not_after:
            return Answer(
                Progress.FAILED,
                f"Backup {request.backup} of cell {name} is later than {request.not_after.isoformat()}, the latest that"
                f" was asked for: it may have what was committed until {timestamp(when)}",
            )
        return found

    async def _brought(self, request: Request, target: Cell, settings: Velero, backup: Object) -> Source | Answer:
        namespace, restore = target.workload_namespace, request.key
        there = await self._api.list(VOLUME_SNAPSHOTS.collection(namespace), labels=velero_restores.selector(restore))
        found = {}
        for claim in settings.claims:
            snapshots = velero_restores.brought(there.items, claim)
            if len(snapshots) != 1:
                return Answer(
                    Progress.FAILED,
                    f"Restore {restore} brought {len(snapshots) or 'no'} VolumeSnapshots of claim {claim}: when Backup"
                    f" {request.backup} was made, the claim has to have had the label {LABEL_CLAIM}: {claim}, and no"
                    " other one the same",
                )
            (found[claim],) = snapshots
        waiting = [
            f"VolumeSnapshot {namespace}/{snapshot.name} of claim {claim} is not ready to use"
            + (f": {snapshot.problem}" if snapshot.problem else "")
            for claim, snapshot in found.items()
            if not snapshot.ready
        ]
        if waiting:
            return Answer(Progress.RUNNING, clipped("; ".join(waiting)), done=0, of=len(found))
        return Source(velero_backups.point(backup), found)


def _settings(cell: Cell) -> Velero:
    """Raises BadInput for a cell that Velero does not back up."""
    settings = cell.spec.data.velero
    if settings is None:
        raise BadInput(f"Cell {'/'.join(cell.key)}: spec.data.velero is not set: name the claims with the cell's data")
    return settings


def _must_be_of(obj: Object, request: Request) -> None:
    metadata = obj["metadata"]
    if (metadata.get("annotations") or {}).get(ANNOTATION_REQUEST) != digest(request):
        raise BadInput(
            f"{velero_phases.named(obj)} is not the one of this request ({request.operation} of cell"
            f" {request.cell.metadata.name}): another request, or somebody else, has taken its name; delete it"
        )
