"""The workloads and Services that Cells name: the `Workloads` port made real.

Promises
- Watched by the label `recell.dev/cell` alone, so that a cluster full of others' workloads costs
  nothing; `ensure_labels` puts the label on what a Cell names, and never on a pod template (that
  would be a rollout).
- A workload that leaves the watch is looked for before it counts as missing: the label may merely
  have been taken away.
- CronJobs are watched from when a Cell names one. They are no sign of health, so nobody is blind without them.
- A restart rolls the pods once per token, and scaling to zero is done once per token, under the
  resourceVersion that was looked at (rule 18); a CronJob is scaled to zero by suspending it and its Jobs that are
  under way. What was reverted twice is left alone for five minutes, in which a person may end that (rule 31).
- No claim goes with the pods of a StatefulSet that is scaled to zero (rule 6).
- A namespace other than the Cell's own is touched with its consent only (`consent`).
- Reading never waits.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from recell.api import Cell
from recell.api.cell import BackendType, WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RESTART, LABEL_CELL
from recell.domain.observation import Endpoints, WorkloadPhase, WorkloadState
from recell.engine.errors import BadInput, Conflict, NotFound, RecellError, Retryable, Reverted
from recell.engine.ports import Clock, Key
from recell.providers.kube import cron_jobs, kstatus, scaling, services
from recell.providers.kube.api import FIELD_MANAGER, HOLD_MANAGER, Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.consent import Consent
from recell.providers.kube.ownership import last_manager
from recell.providers.kube.paths import CRON_JOBS, ENDPOINT_SLICES, JOBS, SERVICES, WORKLOADS, Resource
from recell.providers.kube.pods import PodWatches, WorkloadKey
from recell.providers.kube.reflector import Reflector, key_of
from recell.providers.kube.services import SERVICE_NAME, Address, slim_service

logger = logging.getLogger(__name__)

LOOK_AGAIN = 10.0
"""Seconds. What is missing has no label yet, so no watch tells when it appears."""
CONFLICTS = 5
REVERTS = 2
FORGIVEN_AFTER = 300.0
"""Seconds after which what was reverted so often is tried again: a person may have told the other tool to leave it."""


def _service_name(piece: Object) -> Iterable[Hashable]:
    return (((piece["metadata"]["namespace"]), (piece["metadata"].get("labels") or {}).get(SERVICE_NAME)),)


class CellsByName(Protocol):
    """The Cells, and which of them name a workload or Service of this cluster."""

    def cell(self, key: Key) -> Cell | None: ...

    def cells_naming_workload(self, kind: str, namespace: str, name: str) -> Sequence[Key]: ...

    def cells_naming_service(self, namespace: str, name: str) -> Sequence[Key]: ...


class KubeWorkloads:
    """`on_change` is told the key of each Cell whose workloads, Service or endpoints look different, or that
    should be given to `ensure_labels` again."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        store: CellsByName,
        namespaces: Sequence[str] = ("",),
        *,
        consent: Consent | None = None,
        services: bool = True,
        on_change: Callable[[Key], None],
    ) -> None:
        """`consent`: kept by somebody else. `services`: False where no cell is reached by one."""
        self._api = api
        self._clock = clock
        self._store = store
        self.consent = consent or Consent(api, clock, namespaces, on_change=on_change)
        self._on_change = on_change
        self._collections: dict[WorkloadKind, Collection] = {
            kind: Collection(api, resource, clock, namespaces, labels=LABEL_CELL, trim=kstatus.slim_workload)
            for kind, resource in WORKLOADS.items()
        }
        with_services = namespaces if services else ()
        self._services = Collection(api, SERVICES, clock, with_services, labels=LABEL_CELL, trim=slim_service)
        self._slices = Collection(
            api, ENDPOINT_SLICES, clock, with_services, labels=LABEL_CELL, indexes={"service": _service_name}
        )
        self._pods = PodWatches(api, clock, self._pods_changed)
        self._held_cron_jobs = cron_jobs.HeldCronJobs(api, clock, self._pods_changed)
        self._missing: dict[WorkloadKey, float] = {}
        """Looked for and not there: when (monotonic). The Service of a cell stands here too."""
        self._later: dict[WorkloadKey, asyncio.TimerHandle] = {}
        self._unwell_since: dict[WorkloadKey, datetime] = {}
        self._emptied: dict[WorkloadKey, int] = {}
        """Seen at zero: at which generation. Its pods need not be watched any longer."""
        self._written: dict[WorkloadKey, tuple[str, int, float]] = {}
        """The token that this process wrote last, how often, and when (monotonic)."""
        for kind, collection in self._collections.items():
            collection.subscribe(self._workload_listener(kind))
        self._services.subscribe(self._service_changed)
        self._slices.subscribe(self._slice_changed)

    # Running

    @property
    def _all(self) -> Sequence[Collection]:
        """Those that always run."""
        always = (collection for collection in self._collections.values() if collection is not self._cron_jobs)
        return (*always, self._services, self._slices)

    @property
    def _cron_jobs(self) -> Collection:
        return self._collections[WorkloadKind.CRON_JOB]

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that always run; the pods' and CronJobs' come and go."""
        return tuple(reflector for collection in self._all for reflector in collection.reflectors)

    def start(self) -> None:
        for collection in self._all:
            collection.start()

    async def wait_synced(self) -> None:
        """No deadline of its own: the caller has one."""
        await asyncio.gather(*(collection.wait_synced() for collection in self._all))

    async def stop(self) -> None:
        for timer in self._later.values():
            timer.cancel()
        await self._pods.stop()
        await self._held_cron_jobs.stop()
        await asyncio.gather(*(collection.stop() for collection in (*self._all, self._cron_jobs)))

    @property
    def synced(self) -> bool:
        return all(collection.synced for collection in self._all)

    @property
    def blind_for(self) -> float:
        """Seconds since when some of this is not watched; 0: all is (rule 30)."""
        return max(collection.blind_for for collection in self._all)

    # Reading

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]:
        """In the order of the Cell's spec."""
        return tuple(self._state(cell, ref) for ref in cell.spec.workloads)

    def endpoints(self, cell: Cell) -> Endpoints | None:
        """None: not known yet, or the backend is a fixed address."""
        backend = cell.spec.backend.service
        if backend is None:
            return None
        key = (cell.workload_namespace, backend.name)
        service = self._services.get(key)
        if service is None:
            missing = (SERVICES.kind, *key) in self._missing
            return Endpoints(service_found=False, port_found=False) if missing else None
        return services.endpoints(service, self._slices.by("service", key), backend.port)

    def address_of(self, cell: Cell) -> Address:
        """Where the router reaches the cell. Raises BadInput (the field), NotFound, Forbidden (no consent), or
        Retryable while it is not known."""
        backend = cell.spec.backend
        if backend.type == BackendType.ADDRESS and backend.address is not None:
            return Address(backend.address.host, backend.address.port)
        service, port = self._service_of(cell)
        return services.address(service, port)

    def public_addresses_of(self, cell: Cell) -> tuple[Address, ...]:
        """Where customers reach the cell without a router in between, at least one. Raises as `address_of`."""
        backend = cell.spec.backend
        if backend.type == BackendType.ADDRESS and backend.address is not None:
            return (Address(backend.address.host, backend.address.port),)
        return services.public_addresses(*self._service_of(cell))

    def _service_of(self, cell: Cell) -> tuple[Object, int]:
        backend = cell.spec.backend
        if backend.service is None:
            raise BadInput("spec.backend: neither service nor address is set")
        self.consent.check(cell)
        key = (cell.workload_namespace, backend.service.name)
        service = self._services.get(key)
        if service is not None:
            return service, backend.service.port
        if (SERVICES.kind, *key) in self._missing:
            raise NotFound(
                f"spec.backend.service.name: Service {key[0]}/{key[1]} does not exist: create it or correct the name"
            )
        raise Retryable(f"Service {key[0]}/{key[1]} has not been read yet")

    def _state(self, cell: Cell, ref: WorkloadRef) -> WorkloadState:
        name = f"{ref.kind} {cell.workload_namespace}/{ref.name}"
        try:
            self.consent.check(cell)
        except RecellError as error:
            return WorkloadState(ref, WorkloadPhase.UNKNOWN, str(error))
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        obj = self._collections[ref.kind].get(key[1:])
        if obj is None:
            if key in self._missing:
                message = f"{name} does not exist: create it or correct spec.workloads"
                return WorkloadState(ref, WorkloadPhase.NOT_FOUND, message, since=self._unwell_since.get(key))
            return WorkloadState(ref, WorkloadPhase.UNKNOWN, f"{name} has not been read yet")
        state = kstatus.assess(ref, obj, self._pods_of(key, obj))
        return state if state.phase == WorkloadPhase.CURRENT else replace(state, since=self._unwell_since.get(key))

    # Labels

    async def ensure_labels(self, cell: Cell) -> None:
        """Label what the Cell names, where the label is missing; without any call when all is well.

        To be called at each reconcile of the Cell. What cannot be done is raised after the rest was done: Forbidden
        (a permission, or no consent), BadInput (two Cells name one workload), Retryable. What is missing is no
        error here: `states`, `endpoints` and `address_of` tell of it.
        """
        await self.consent.learn(cell)
        self.consent.check(cell)
        if any(ref.kind is WorkloadKind.CRON_JOB for ref in cell.spec.workloads):
            self._cron_jobs.start()
        trouble: RecellError | None = None
        for resource, collection, name, field in self._named(cell):
            try:
                await self._ensure_label(cell, resource, collection, name, field)
            except RecellError as error:
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    def _named(self, cell: Cell) -> Iterable[tuple[Resource, Collection, str, str]]:
        for ref in cell.spec.workloads:
            yield WORKLOADS[ref.kind], self._collections[ref.kind], ref.name, "spec.workloads"
        if cell.spec.backend.service is not None:
            yield SERVICES, self._services, cell.spec.backend.service.name, "spec.backend.service"

    async def _ensure_label(
        self, cell: Cell, resource: Resource, collection: Collection, name: str, field: str
    ) -> None:
        namespace = cell.workload_namespace
        key: WorkloadKey = (resource.kind, namespace, name)
        self._refuse_second(cell, resource, namespace, name, field)
        known = collection.get((namespace, name))
        if known is not None and _label(known) == cell.metadata.name:
            if resource is SERVICES:
                await self._ensure_slices(cell, known)
            return
        looked = self._missing.get(key)
        if known is None and looked is not None and self._clock.monotonic() < looked + LOOK_AGAIN:
            return
        path = resource.path(namespace, name)
        try:
            found = await self._api.get(path)
            if _label(found) != cell.metadata.name:
                self._refuse_twin(cell, resource, found, field)
                # With the uid, so that it is never put on an object made anew in between.
                metadata = {"uid": found["metadata"]["uid"], "labels": {LABEL_CELL: cell.metadata.name}}
                found = await self._api.merge_patch(path, {"metadata": metadata})
                logger.info("labelled %s %s/%s as part of cell %s", resource.kind, namespace, name, cell.metadata.name)
        except NotFound:
            self._missing[key] = self._clock.monotonic()
            self._unwell_since.setdefault(key, self._clock.now())
            if old := self._later.pop(key, None):
                old.cancel()
            self._later[key] = asyncio.get_running_loop().call_later(LOOK_AGAIN + 0.1, self._on_change, cell.key)
            return
        self._found(key)
        collection.put(found)

    def _found(self, key: WorkloadKey) -> None:
        self._missing.pop(key, None)
        if timer := self._later.pop(key, None):
            timer.cancel()

    async def _ensure_slices(self, cell: Cell, service: Object) -> None:
        """EndpointSlices take their Service's labels, save those that somebody wrote for a Service without selector."""
        key = key_of(service)
        if service["spec"].get("selector") or self._slices.by("service", key):
            return
        listing = await self._api.list(ENDPOINT_SLICES.collection(key[0]), labels=f"{SERVICE_NAME}={key[1]}")
        for piece in listing.items:
            patch = {"metadata": {"uid": piece["metadata"]["uid"], "labels": {LABEL_CELL: cell.metadata.name}}}
            self._slices.put(await self._api.merge_patch(ENDPOINT_SLICES.path(*key_of(piece)), patch))

    def _refuse_second(self, cell: Cell, resource: Resource, namespace: str, name: str, field: str) -> None:
        """Two Cells that name one workload would restart and judge each other's."""
        if resource is SERVICES:
            keys = self._store.cells_naming_service(namespace, name)
        else:
            keys = self._store.cells_naming_workload(resource.kind, namespace, name)
        others = [other for other in (self._store.cell(key) for key in keys) if other is not None]
        first = min(
            others,
            key=lambda c: (c.metadata.creation_timestamp is None, c.metadata.creation_timestamp, c.key),
            default=cell,
        )
        if first.key != cell.key:
            raise BadInput(
                f"{field}: {resource.kind} {namespace}/{name} belongs to the older Cell {first.key[0]}/{first.key[1]}:"
                " a workload or Service can be part of one Cell only"
            )

    def _refuse_twin(self, cell: Cell, resource: Resource, found: Object, field: str) -> None:
        """One cluster under two kubeconfigs: the Cell of the other one has this very workload."""
        namespace, name = key_of(found)
        other = self._store.cell((cell.metadata.namespace, _label(found) or ""))
        if other is None or other.kubeconfig == cell.kubeconfig or other.workload_namespace != namespace:
            return
        if any((ref.kind, ref.name) == (resource.kind, name) for ref in other.spec.workloads):
            raise BadInput(
                f"{field}: {resource.kind} {namespace}/{name} is labelled as part of Cell {other.metadata.name}, whose"
                " cluster is named by another Secret: both lead to one cluster; correct one of them"
            )

    # Acting

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Roll the workload's pods once per token.

        Raises BadInput when its update strategy would not replace the pods, Reverted when somebody took the token
        away twice, NotFound, Forbidden, Conflict (it keeps changing), Retryable, Fenced.
        """
        await self.consent.ensure(cell)
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        name = f"{ref.kind} {key[1]}/{key[2]}"

        def missing(found: Object) -> Object | None:
            if kstatus.restart_token(found) == token:
                return None
            if why := kstatus.cannot_restart(ref, found):
                raise BadInput(f"{name} cannot be restarted: {why}")
            if self._times_written(key, token) >= REVERTS:
                raise Reverted(
                    f"{name}: the restart was reverted twice, last by {last_manager(found)}:"
                    f" let it leave the annotation {ANNOTATION_RESTART} of the pod template alone"
                )
            return {"spec": {"template": {"metadata": {"annotations": {ANNOTATION_RESTART: token}}}}}

        if await self._change(key, missing):
            self._count(key, token)

    async def scale_to_zero(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Hold the workload at zero, once per token; to be called again while its state is not `at_zero`.

        The claims of a StatefulSet are told to stay first, and that is read back before it is scaled (rule 6). A
        CronJob is suspended, then its Jobs that are under way are, which ends their pods.
        Raises BadInput for a DaemonSet and for claims that would not stay, Reverted when somebody scaled it back
        twice, and what `restart` raises.
        """
        await self.consent.ensure(cell)
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        if ref.kind is WorkloadKind.DAEMON_SET:
            name = f"{ref.kind} {key[1]}/{key[2]}"
            raise BadInput(f"{name} cannot be scaled to zero, it has a pod on each node: isolate the cell instead")
        if ref.kind is WorkloadKind.STATEFUL_SET:
            await self._change(key, scaling.retain, field_manager=HOLD_MANAGER)
        await self._hold(key, scaling.lever(ref.kind), token)
        if ref.kind is WorkloadKind.CRON_JOB:
            await self._hold_jobs(key, token)

    async def _hold_jobs(self, cron_job: WorkloadKey, token: str) -> None:
        trouble: Reverted | None = None
        for job in await self._jobs(cron_job):
            try:
                await self._hold(job, scaling.SUSPEND, token)
            except NotFound:
                continue
            except Reverted as error:  # keeps no other from being stopped
                trouble = trouble or error
        if trouble is not None:
            raise trouble

    async def _hold(self, key: WorkloadKey, lever: scaling.Lever, token: str) -> None:
        name = f"{key[0]} {key[1]}/{key[2]}"

        def missing(found: Object) -> Object | None:
            if scaling.claims_at_risk(found):
                raise BadInput(f"{name} is not scaled to zero: {scaling.why_at_risk(found)}")
            patch = lever.to_zero(found, token)
            if patch is not None and self._times_written(key, token) >= REVERTS:
                raise Reverted(f"{name}: {lever.reverted(found)}")
            return patch

        if await self._change(key, missing, field_manager=HOLD_MANAGER):
            self._count(key, token)

    async def _jobs(self, cron_job: WorkloadKey) -> Sequence[WorkloadKey]:
        """Those that are under way."""
        found = await cron_jobs.under_way(self._api, await self._api.get(CRON_JOBS.path(*cron_job[1:])))
        return [(JOBS.kind, *key_of(job)) for job in found]

    async def scale_back(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Give the workload back the replicas that it had before `scale_to_zero` with this token; repeatable.

        Does nothing where another token or none is. Raises what `restart` raises.
        """
        await self.consent.ensure(cell)
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        if ref.kind is WorkloadKind.CRON_JOB:  # its Jobs first: whoever comes after a crash asks the CronJob
            for job in await self._jobs(key):
                with suppress(NotFound):
                    await self._let_go(job, scaling.SUSPEND, token)
        await self._let_go(key, scaling.lever(ref.kind), token)

    async def _let_go(self, key: WorkloadKey, lever: scaling.Lever, token: str) -> None:
        if await self._change(key, lambda found: lever.back(found, token)):
            self._written.pop(key, None)

    def _times_written(self, key: WorkloadKey, token: str) -> int:
        written, times, at = self._written.get(key, ("", 0, 0.0))
        return times if written == token and self._clock.monotonic() - at < FORGIVEN_AFTER else 0

    def _count(self, key: WorkloadKey, token: str) -> None:
        self._written[key] = (token, self._times_written(key, token) + 1, self._clock.monotonic())

    async def _change(
        self,
        key: WorkloadKey,
        missing: Callable[[Object], Object | None],
        *,
        field_manager: str = FIELD_MANAGER,
    ) -> bool:
        """Write what is missing (a merge patch) under the resourceVersion looked at; False: nothing is."""
        kind, *place = key
        path = (JOBS if kind == JOBS.kind else WORKLOADS[WorkloadKind(kind)]).path(*place)
        conflicts = 0
        while True:
            found = await self._api.get(path)
            patch = missing(found)
            if patch is None:
                return False
            looked_at = {name: found["metadata"][name] for name in ("uid", "resourceVersion")}
            patch = patch | {"metadata": (patch.get("metadata") or {}) | looked_at}
            try:
                changed = await self._api.merge_patch(path, patch, field_manager=field_manager)
            except Conflict:
                conflicts += 1
                if conflicts == CONFLICTS:
                    raise
                continue  # its status changes often while it is unwell: look again
            if _label(changed) and kind != JOBS.kind:
                self._collections[WorkloadKind(kind)].put(changed)
            return True

    # What changed

    def _workload_listener(self, kind: WorkloadKind) -> Callable[[Key, Object | None, Object | None], None]:
        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            workload: WorkloadKey = (kind, *key)
            if new is None:
                self._pods.close(workload)
                self._held_cron_jobs.close(workload)
                self._unwell_since.pop(workload, None)
                self._emptied.pop(workload, None)
            else:
                self._found(workload)
                self._look_after(workload, new)
            self._workload_changed(workload)

        return changed

    def _pods_changed(self, workload: WorkloadKey) -> None:
        obj = self._collections[WorkloadKind(workload[0])].get(workload[1:])
        if obj is not None:
            self._look_after(workload, obj)
        self._workload_changed(workload)

    def _look_after(self, workload: WorkloadKey, obj: Object) -> None:
        """Its pods are watched while it is not well, and while it is held at zero until none is left."""
        kind, name = WorkloadKind(workload[0]), workload[2]
        state = kstatus.assess(_ref(kind, name), obj, self._pods_of(workload, obj))
        held = scaling.lever(kind).held(obj)
        if state.phase is WorkloadPhase.CURRENT:
            self._unwell_since.pop(workload, None)
        else:
            self._unwell_since.setdefault(workload, self._clock.now())
        if held and state.at_zero:
            self._emptied[workload] = _generation(obj)
        if state.phase is WorkloadPhase.CURRENT and (state.at_zero or not held):
            self._pods.close(workload)
            self._held_cron_jobs.close(workload)
        elif kind is WorkloadKind.CRON_JOB:
            self._held_cron_jobs.open(workload, obj)
        else:
            self._pods.open(workload, kstatus.selector_of(obj), needed=held)

    def _pods_of(self, workload: WorkloadKey, obj: Object) -> Sequence[Object] | None:
        """None: not known."""
        watched = self._held_cron_jobs if workload[0] == WorkloadKind.CRON_JOB else self._pods
        pods = watched.pods(workload)
        return () if pods is None and self._emptied.get(workload) == _generation(obj) else pods

    def _workload_changed(self, workload: WorkloadKey) -> None:
        for cell in self._store.cells_naming_workload(*workload):
            self._on_change(cell)

    def _service_changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        if new is not None:
            self._found((SERVICES.kind, *key))
        for cell in self._store.cells_naming_service(*key):
            self._on_change(cell)

    def _slice_changed(self, key: Key, old: Object | None, new: Object | None) -> None:
        piece = new or old
        service = ((piece or {}).get("metadata", {}).get("labels") or {}).get(SERVICE_NAME)
        if service:
            for cell in self._store.cells_naming_service(key[0], service):
                self._on_change(cell)


def _label(obj: Object) -> str | None:
    value = (obj["metadata"].get("labels") or {}).get(LABEL_CELL)
    return None if value is None else str(value)


def _ref(kind: WorkloadKind, name: str) -> WorkloadRef:
    return WorkloadRef(api_version=WORKLOADS[kind].api_version, kind=kind, name=name)


def _generation(obj: Object) -> int:
    return int(obj["metadata"].get("generation") or 0)
