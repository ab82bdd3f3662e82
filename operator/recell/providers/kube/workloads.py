"""The workloads and Services that Cells name: the `Workloads` port made real.

Promises
- Watched by the label `recell.dev/cell` alone, so that a cluster full of others' workloads costs
  nothing; `ensure_labels` puts the label on what a Cell names, and never on a pod template (that
  would be a rollout).
- A workload that leaves the watch is looked for before it counts as missing: the label may merely
  have been taken away.
- A restart rolls the pods once per token, under the resourceVersion that was looked at (rule 18);
  one that was reverted twice is not tried a third time (rule 31).
- A namespace other than the Cell's own is touched with its consent only (label `recell.dev/fleet`).
- Reading never waits.
"""

import asyncio
import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from recell.api import Cell
from recell.api.cell import BackendType, WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RESTART, LABEL_CELL, LABEL_FLEET
from recell.domain.observation import Endpoints, WorkloadPhase, WorkloadState
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable, Reverted
from recell.engine.ports import Clock, Key
from recell.providers.kube import kstatus, services
from recell.providers.kube.api import FIELD_MANAGER, Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.paths import ENDPOINT_SLICES, NAMESPACES, SERVICES, WORKLOADS, Resource
from recell.providers.kube.pods import PodWatches, WorkloadKey
from recell.providers.kube.reflector import Reflector, key_of
from recell.providers.kube.services import SERVICE_NAME, Address
from recell.providers.kube.store import KubeStore

logger = logging.getLogger(__name__)

LOOK_AGAIN = 10.0
"""Seconds. What is missing has no label yet, so no watch tells when it appears."""
CONSENT_KEPT = 300.0
"""Seconds. A namespace's consent is read again after that, and before each restart."""
CONFLICTS = 5
REVERTS = 2


def _service_name(piece: Object) -> Iterable[Hashable]:
    return (((piece["metadata"]["namespace"]), (piece["metadata"].get("labels") or {}).get(SERVICE_NAME)),)


class KubeWorkloads:
    """`on_change` is told the key of each Cell whose workloads, Service or endpoints look different, or that
    should be given to `ensure_labels` again."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        store: KubeStore,
        namespaces: Sequence[str] = ("",),
        *,
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._clock = clock
        self._store = store
        self._namespaces = tuple(namespaces)
        self._on_change = on_change
        self._collections: dict[WorkloadKind, Collection] = {
            kind: Collection(api, resource, clock, namespaces, labels=LABEL_CELL, trim=kstatus.slim_workload)
            for kind, resource in WORKLOADS.items()
        }
        self._services = Collection(api, SERVICES, clock, namespaces, labels=LABEL_CELL, trim=services.slim_service)
        self._slices = Collection(
            api, ENDPOINT_SLICES, clock, namespaces, labels=LABEL_CELL, indexes={"service": _service_name}
        )
        self._pods = PodWatches(api, clock, self._workload_changed)
        self._missing: dict[WorkloadKey, float] = {}
        """Looked for and not there: when (monotonic). The Service of a cell stands here too."""
        self._later: dict[WorkloadKey, asyncio.TimerHandle] = {}
        self._consents: dict[str, tuple[str, float]] = {}
        """Namespace -> the fleet namespace that it consents to ("" is none), and when that was read."""
        self._unwell_since: dict[WorkloadKey, datetime] = {}
        self._restarted: dict[WorkloadKey, tuple[str, int]] = {}
        """The token that this process wrote, and how often."""
        for kind, collection in self._collections.items():
            collection.subscribe(self._workload_listener(kind))
        self._services.subscribe(self._service_changed)
        self._slices.subscribe(self._slice_changed)

    # Running

    @property
    def _all(self) -> Sequence[Collection]:
        return (*self._collections.values(), self._services, self._slices)

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that always run; the pods' come and go."""
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
        await asyncio.gather(*(collection.stop() for collection in self._all))

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
        if backend.service is None:
            raise BadInput("spec.backend: neither service nor address is set")
        self._may_touch(cell)
        key = (cell.workload_namespace, backend.service.name)
        service = self._services.get(key)
        if service is not None:
            return services.address(service, backend.service.port)
        if (SERVICES.kind, *key) in self._missing:
            raise NotFound(
                f"spec.backend.service.name: Service {key[0]}/{key[1]} does not exist: create it or correct the name"
            )
        raise Retryable(f"Service {key[0]}/{key[1]} has not been read yet")

    def _state(self, cell: Cell, ref: WorkloadRef) -> WorkloadState:
        name = f"{ref.kind} {cell.workload_namespace}/{ref.name}"
        try:
            self._may_touch(cell)
        except RecellError as error:
            return WorkloadState(ref, WorkloadPhase.UNKNOWN, str(error))
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        obj = self._collections[ref.kind].get(key[1:])
        if obj is None:
            if key in self._missing:
                message = f"{name} does not exist: create it or correct spec.workloads"
                return WorkloadState(ref, WorkloadPhase.NOT_FOUND, message, since=self._unwell_since.get(key))
            return WorkloadState(ref, WorkloadPhase.UNKNOWN, f"{name} has not been read yet")
        state = kstatus.assess(ref, obj, self._pods.pods(key))
        return state if state.phase == WorkloadPhase.CURRENT else replace(state, since=self._unwell_since.get(key))

    # Labels

    async def ensure_labels(self, cell: Cell) -> None:
        """Label what the Cell names, where the label is missing; without any call when all is well.

        To be called at each reconcile of the Cell. What cannot be done is raised after the rest was done: Forbidden
        (a permission, or no consent), BadInput (two Cells name one workload), Retryable. What is missing is no
        error here: `states`, `endpoints` and `address_of` tell of it.
        """
        await self._learn_consent(cell)
        self._may_touch(cell)
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

    def _may_touch(self, cell: Cell) -> None:
        fleet, namespace = cell.metadata.namespace, cell.workload_namespace
        if "" not in self._namespaces:
            if namespace not in self._namespaces:
                raise BadInput(
                    f"spec.namespace: the operator does not watch namespace {namespace}; it watches"
                    f" {', '.join(self._namespaces)}"
                )
            return  # whoever installed the operator for these namespaces has consented for them
        if namespace == fleet:
            return
        known = self._consents.get(namespace)
        if known is None:
            raise Retryable(f"namespace {namespace} has not been asked yet whether it consents to cells of {fleet}")
        if known[0] != fleet:
            raise Forbidden(
                f"spec.namespace: namespace {namespace} does not consent to cells of {fleet}; whoever owns it can:"
                f" kubectl label namespace {namespace} {LABEL_FLEET}={fleet}"
            )

    async def _learn_consent(self, cell: Cell, *, max_age: float = CONSENT_KEPT) -> None:
        namespace, now = cell.workload_namespace, self._clock.monotonic()
        if namespace == cell.metadata.namespace or "" not in self._namespaces:
            return
        known = self._consents.get(namespace)
        # A refusal is read again soon, so that consent given on its message is seen.
        if known is not None and now - known[1] < (max_age if known[0] == cell.metadata.namespace else LOOK_AGAIN):
            return
        try:
            found = await self._api.get(NAMESPACES.path("", namespace))
        except NotFound:
            found = {"metadata": {}}
        fleet = (found["metadata"].get("labels") or {}).get(LABEL_FLEET) or ""
        self._consents[namespace] = (fleet, now)
        if fleet != cell.metadata.namespace:
            asyncio.get_running_loop().call_later(LOOK_AGAIN + 0.1, self._on_change, cell.key)

    # Restarting

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Roll the workload's pods once per token.

        Raises BadInput when its update strategy would not replace the pods, Reverted when somebody took the token
        away twice, NotFound, Forbidden, Conflict (it keeps changing), Retryable, Fenced.
        """
        await self._learn_consent(cell, max_age=0.0)
        self._may_touch(cell)
        key: WorkloadKey = (ref.kind, cell.workload_namespace, ref.name)
        path = WORKLOADS[ref.kind].path(*key[1:])
        for attempt in range(CONFLICTS):
            found = await self._api.get(path)
            if kstatus.restart_token(found) == token:
                return
            if why := kstatus.cannot_restart(ref, found):
                raise BadInput(f"{ref.kind} {key[1]}/{key[2]} cannot be restarted: {why}")
            written, times = self._restarted.get(key, ("", 0))
            if written != token:
                times = 0
            if times >= REVERTS:
                raise Reverted(
                    f"{ref.kind} {key[1]}/{key[2]}: the restart was reverted twice, last by {last_manager(found)}:"
                    f" let it leave the annotation {ANNOTATION_RESTART} of the pod template alone"
                )
            patch: Object = {
                "metadata": {name: found["metadata"][name] for name in ("uid", "resourceVersion")},
                "spec": {"template": {"metadata": {"annotations": {ANNOTATION_RESTART: token}}}},
            }
            try:
                changed = await self._api.merge_patch(path, patch)
            except Conflict:
                if attempt == CONFLICTS - 1:
                    raise
                continue  # its status changes often while it is unwell: look again
            self._restarted[key] = (token, times + 1)
            if _label(changed):
                self._collections[ref.kind].put(changed)
            return

    # What changed

    def _workload_listener(self, kind: WorkloadKind) -> Callable[[Key, Object | None, Object | None], None]:
        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            workload: WorkloadKey = (kind, *key)
            if new is None:
                self._pods.close(workload)
                self._unwell_since.pop(workload, None)
            else:
                self._found(workload)
                state = kstatus.assess(_ref(kind, key[1]), new)
                if state.phase == WorkloadPhase.CURRENT:
                    self._pods.close(workload)
                    self._unwell_since.pop(workload, None)
                else:
                    self._unwell_since.setdefault(workload, self._clock.now())
                    self._pods.open(workload, kstatus.selector_of(new))
            self._workload_changed(workload)

        return changed

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
    return WorkloadRef(api_version="apps/v1", kind=kind, name=name)


def last_manager(obj: Object) -> str:
    """Who wrote the object's spec last, from managedFields; not this operator, not a status."""
    entries = [
        entry
        for entry in obj["metadata"].get("managedFields") or ()
        if not entry.get("subresource") and entry.get("manager") != FIELD_MANAGER
    ]
    newest = max(entries, key=lambda entry: str(entry.get("time") or ""), default=None)
    return str(newest["manager"]) if newest else "an unknown manager"
