"""A cell's claims made anew from snapshots, as one.

Each claim of the target is deleted and made again under its name, as it was, with the snapshot as its source; the
target's workloads are held at zero meanwhile, all of them, since who has read the old data may not go on with it.

Promises
- What is to be made is recorded on the target's Cell before anything is deleted: a process that dies in between is
  followed by one that makes what is missing. Every step is found from what is there, and may be repeated.
- Only a claim that was made from a template for exactly this cell is ever deleted, by UID; nothing of a cell that is
  the home of customers, and nothing while a pod uses it.
- Asked again, with the same key, nothing is done again; another key restores anew.

Must not: touch the snapshots.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from recell.api import Cell
from recell.api.cell import DataType, WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RESTORE
from recell.domain.data import Answer, Customers, Progress, Request
from recell.domain.observation import WorkloadPhase
from recell.domain.wording import clipped, listed
from recell.engine.errors import BadInput, Conflict, NotFound, Retryable
from recell.engine.ports import Key, Workloads
from recell.providers.data import claims
from recell.providers.data.job_template import digest
from recell.providers.data.snapshots import Snapshot, moment
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Kind
from recell.providers.kube.made import MadeObjects, Place
from recell.providers.kube.ownership import made_for
from recell.providers.kube.paths import CELLS, CLAIMS, PODS

logger = logging.getLogger(__name__)

_CLAIM = Kind(CLAIMS, has_status=True)


@dataclass(frozen=True)
class Source:
    """What claims are made anew from: snapshots in the target's namespace that are ready to use."""

    point: datetime
    """What they bring back to."""
    snapshots: Mapping[str, Snapshot]
    """By claim of the cell that was backed up."""


FindSource = Callable[[Request], Awaitable[Source | Answer]]


class VolumeRestore:
    """For cells of `type_`, of which `claims_of` tells the claims, in order. `find` tells what a request is restored
    from, nothing later than it asks (rule 9), or why not or not yet. The others as of `VolumeSnapshotsData`."""

    def __init__(
        self,
        api: Api,
        workloads: Workloads,
        made: MadeObjects,
        *,
        type_: DataType,
        claims_of: Callable[[Cell], Sequence[str]],
        find: FindSource,
        require_consent: Callable[[Cell], Awaitable[None]],
        is_home: Callable[[Key, str], bool],
    ) -> None:
        self._api = api
        self._workloads = workloads
        self._made = made
        self._require_consent = require_consent
        self._is_home = is_home
        self._type = type_
        self._field = f"spec.data.{type_[0].lower()}{type_[1:]}.claims"
        self._claims_of = claims_of
        self._find = find

    async def ensure(self, request: Request) -> Answer:
        target = self._target(request)
        self._made.open(target.key, [Place(_CLAIM, target.workload_namespace)])
        if obstacle := self._made.obstacle(target.key):
            raise obstacle
        record = await self._record(request, target)
        if isinstance(record, Answer):
            if record.progress is not Progress.RUNNING:
                self._made.close(target.key)
            return record
        live = {name: await self._claim(target, name) for name in _names(record)}
        old = [claim for claim in record.claims if not _is_anew(live[_name(claim)], record)]
        told = await self._make(request, target, record, old, live) if old else None
        if told is None:
            told = await self._finish(request, target, record, live)
        if told.progress is not Progress.RUNNING:
            self._made.close(target.key)
        return told

    async def cancel(self, request: Request) -> bool:
        """The target's workloads are what they were; a claim that is missing is made by their own controller, empty."""
        if request.target is not None:
            for ref in _scalable(request.target):
                with suppress(NotFound):
                    await self._workloads.scale_back(request.target, ref, request.key)
        return True

    # Deciding what is made

    async def _record(self, request: Request, target: Cell) -> claims.Record | Answer:
        """The one that is written; it is written now if this is a new request."""
        path = CELLS.path(*target.key)
        live = await self._api.get(path)
        if live["metadata"]["uid"] != target.metadata.uid:
            raise Retryable(f"Cell {target.metadata.name} was made anew just now")
        known = claims.record_of(live)
        if known is not None and known.key == request.key:
            if known.request != digest(request):
                raise BadInput(f"Cell {target.metadata.name} is being restored by another request of the same key")
            return known
        old = await self._old(target, known)
        self._must_serve_nobody(target)
        await self._require_consent(target)
        found = await self._find(request)
        if isinstance(found, Answer):
            return found
        snapshots = (found.snapshots[claim] for claim in self._claims_of(request.cell))
        wanted = (claims.anew(claim, snapshot, digest(request)) for claim, snapshot in zip(old, snapshots, strict=True))
        made = claims.Record(request.key, digest(request), found.point, tuple(wanted))
        annotations = {ANNOTATION_RESTORE: made.text()}
        looked_at = {name: live["metadata"][name] for name in ("uid", "resourceVersion")}
        await self._api.merge_patch(path, {"metadata": looked_at | {"annotations": annotations}})
        return made

    async def _old(self, target: Cell, known: claims.Record | None) -> list[Object]:
        """The target's claims as they are; one that an earlier restore did not come to make, from that one's record."""
        earlier = {_name(claim): claim for claim in known.claims} if known else {}
        found = []
        for name in self._claims_of(target):
            claim = await self._claim(target, name) or earlier.get(name)
            if claim is None:
                where = f"PersistentVolumeClaim {target.workload_namespace}/{name}"
                raise BadInput(f"Cell {target.metadata.name}: {self._field}: {where} does not exist")
            self._must_be_own(claim, target)
            found.append(claim)
        return found

    def _target(self, request: Request) -> Cell:
        """Raises BadInput where what the target has cannot hold what the cell had."""
        target, cell = request.target, request.cell
        if target is None:
            raise BadInput(f"a restore of {self._type} needs a cell to restore to")
        if target.spec.data.type is not self._type:
            raise BadInput(
                f"Cell {target.metadata.name}: spec.data.type has to be {self._type}, as of the cell restored"
            )
        ours, theirs = self._claims_of(target), self._claims_of(cell)
        if len(ours) != len(theirs):
            raise BadInput(
                f"Cell {target.metadata.name}: {self._field} has {len(ours)} claims, and that of cell"
                f" {cell.metadata.name} {len(theirs)}: the template has to name as many, in the same order"
            )
        return target

    def _must_be_own(self, claim: Object, target: Cell) -> None:
        if not made_for(claim, target.metadata.name):
            metadata = claim["metadata"]
            raise BadInput(
                f"Cell {target.metadata.name}: {self._field}: PersistentVolumeClaim"
                f" {metadata['namespace']}/{metadata['name']} was not made from a template for this cell, so it is not"
                " replaced: let the CellTemplate make it, as a StatefulSet's claim or as an object of its own"
            )

    def _must_serve_nobody(self, target: Cell) -> None:
        router = (target.metadata.namespace, target.spec.router_ref.name)
        if self._is_home(router, target.metadata.name):
            raise BadInput(
                f"Cell {target.metadata.name} is the home of customers, or that is not known: its volumes are not"
                " replaced"
            )

    # Doing it

    async def _make(
        self,
        request: Request,
        target: Cell,
        record: claims.Record,
        old: Sequence[Object],
        live: dict[str, Object | None],
    ) -> Answer | None:
        """None once every claim is made anew."""
        self._must_serve_nobody(target)
        await self._require_consent(target)
        for ref in _scalable(target):
            with suppress(NotFound):
                await self._workloads.scale_to_zero(target, ref, request.key)
        left = [
            state
            for state in self._workloads.states(target)
            if state.ref.kind is not WorkloadKind.DAEMON_SET
            and state.phase is not WorkloadPhase.NOT_FOUND
            and not state.at_zero
        ]
        progress = (len(record.claims) - len(old), len(record.claims))
        if left:
            return _running(f"Stopping {listed(str(state.ref) for state in left)} of {target.metadata.name}", progress)
        names = [_name(claim) for claim in old]
        pods = (await self._api.list(PODS.collection(target.workload_namespace))).items
        if used := claims.users(pods, names):
            told = listed(f"claim {claim} is used by pod {pod}" for claim, pod in used.items())
            return _running(f"Waiting for pods that are not of the cell's workloads: {told}", progress)
        going = []
        for claim in old:
            there = live[_name(claim)]
            if there is None:
                live[_name(claim)] = await self._create(claim)
            else:
                going.append(_name(claim))
                await self._delete(target, there)
        if going:
            return _running(f"Replacing claim {listed(going)} of {target.metadata.name}", progress)
        return None

    async def _create(self, claim: Object) -> Object:
        namespace, name = claim["metadata"]["namespace"], _name(claim)
        try:
            answer = await self._api.create(CLAIMS.collection(namespace), claim)
        except Conflict as error:  # whoever made it: the next look tells
            raise Retryable(f"PersistentVolumeClaim {namespace}/{name} appeared just now") from error
        self._made.put(Place(_CLAIM, namespace), answer)
        source = claim["spec"]["dataSource"]["name"]
        logger.info("made PersistentVolumeClaim %s/%s from VolumeSnapshot %s", namespace, name, source)
        return answer

    async def _delete(self, target: Cell, claim: Object) -> None:
        self._must_be_own(claim, target)
        metadata = claim["metadata"]
        if metadata.get("deletionTimestamp"):
            return
        logger.info("deleting PersistentVolumeClaim %s/%s, to be restored", metadata["namespace"], metadata["name"])
        with suppress(NotFound, Conflict):
            path = CLAIMS.path(metadata["namespace"], metadata["name"])
            await self._api.delete(path, uid=metadata["uid"])

    async def _finish(
        self, request: Request, target: Cell, record: claims.Record, live: Mapping[str, Object | None]
    ) -> Answer:
        """Every claim is made anew: the workloads are what they were, and use them."""
        for ref in _scalable(target):
            with suppress(NotFound):
                await self._workloads.scale_back(target, ref, request.key)
        unbound: list[str] = []
        lost: list[str] = []
        for name in _names(record):
            phase = ((live[name] or {}).get("status") or {}).get("phase")
            if phase != "Bound":
                (lost if phase == "Lost" else unbound).append(name)
        progress = (len(record.claims) - len(unbound) - len(lost), len(record.claims))
        if lost:
            return Answer(Progress.FAILED, f"The volume of claim {listed(lost)} is lost; its cell is of no use")
        if unbound:
            namespace = target.workload_namespace
            return _running(
                f"Waiting for the volume of claim {listed(unbound)}; to see why: kubectl -n {namespace} describe pvc"
                f" {unbound[0]}",
                progress,
            )
        unwell = [state for state in self._workloads.states(target) if state.phase is not WorkloadPhase.CURRENT]
        if unwell:
            told = "; ".join(f"{state.ref}: {state.message}" for state in unwell)
            return _running(f"Waiting for the workloads of {target.metadata.name}: {told}", progress)
        return Answer(
            Progress.DONE,
            clipped(f"claims {listed(_names(record))}"),
            customers=Customers(whole=True),
            recovery_point=record.point,
        )

    async def _claim(self, target: Cell, name: str) -> Object | None:
        try:
            return await self._api.get(CLAIMS.path(target.workload_namespace, name))
        except NotFound:
            return None


async def made_anew(api: Api, cell: Cell, names: Sequence[str]) -> dict[str, datetime]:
    """Claim -> since when, of those that were made anew here: what is older is of the volume that it had before."""
    since = {}
    for name in names:
        with suppress(NotFound):
            claim = await api.get(CLAIMS.path(cell.workload_namespace, name))
            if claims.restored_by(claim) is not None:
                since[name] = moment(claim["metadata"]["creationTimestamp"])
    return since


def _is_anew(claim: Object | None, record: claims.Record) -> bool:
    if claim is None or claim["metadata"].get("deletionTimestamp"):
        return False
    return claims.restored_by(claim) == record.request


def _scalable(target: Cell) -> Sequence[WorkloadRef]:
    """A DaemonSet cannot be scaled; if it uses a claim, that is waited for and told."""
    return [ref for ref in target.spec.workloads if ref.kind is not WorkloadKind.DAEMON_SET]


def _name(claim: Object) -> str:
    return str(claim["metadata"]["name"])


def _names(record: claims.Record) -> list[str]:
    return [_name(claim) for claim in record.claims]


def _running(message: str, progress: tuple[int, int]) -> Answer:
    return Answer(Progress.RUNNING, clipped(message), done=progress[0], of=progress[1])
