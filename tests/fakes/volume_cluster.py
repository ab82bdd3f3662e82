"""A cluster in memory with volumes: what the snapshot controller, a provisioner, a kubelet and the StatefulSet
controller write, second by second. A volume's content is the moments at which something was written to it.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import LABEL_CELL, LABEL_MADE_BY, timestamp
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.engine.errors import NotFound
from recell.providers.kube.api import Listing, Object
from recell.providers.kube.paths import CELLS, CLAIMS, PODS, VOLUME_SNAPSHOTS, parse
from tests.fakes.world import Crash
from tests.unit.domain import builders
from tests.unit.kube.fake_server import FakeApi, FakeServer

NAMESPACE = "fleet"
TAKES = 3.0
"""Seconds until a snapshot is ready."""


class Now(Protocol):
    def now(self) -> datetime: ...


def a_cell(name: str, *claims: str, **more: Any) -> Cell:
    """With one StatefulSet of one replica, whose claims these are."""
    return builders.cell(
        name,
        workloads=[{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": f"{name}-db"}],
        data={"type": "VolumeSnapshots", "volumeSnapshots": {"claims": list(claims) or [f"data-{name}-db-0"]}, **more},
    )


@dataclass
class StatefulSet:
    cell: Cell
    replicas: int = 1
    token: str | None = None

    @property
    def name(self) -> str:
        return f"{self.cell.metadata.name}-db"

    @property
    def claims(self) -> Sequence[str]:
        settings = self.cell.spec.data.volume_snapshots or self.cell.spec.data.velero
        assert settings is not None
        return settings.claims


class VolumeCluster:
    def __init__(self, clock: Now) -> None:
        self.clock = clock
        self.server = FakeServer()
        self.sets: dict[str, StatefulSet] = {}
        """By cell."""
        self.volumes: dict[str, list[datetime]] = {}
        """Content, by the UID of the claim."""
        self.snapshots: dict[str, list[datetime]] = {}
        self.installed = True
        """The CRDs are."""
        self.problem = ""
        """What the snapshot controller says about every snapshot that is not ready."""
        self.home: set[str] = set()
        """Cells with customers."""
        self.consent: Exception | None = None
        self.written = 0
        self.crash_after = 0
        """The process is killed right after so many writes."""

    # What a test sets and sees

    def add(self, cell: Cell, *, made: bool = True, storage_class: str = "fast", size: str = "10Gi") -> Cell:
        """Made from a template, or by a person."""
        labels = {LABEL_MADE_BY: "recell"} if made else {}
        body = {"apiVersion": "recell.dev/v1alpha1", "kind": "Cell", **cell.model_dump(mode="json", by_alias=True)}
        self.server.put(CELLS.path(*cell.key), body)
        added = self.sets[cell.metadata.name] = StatefulSet(cell)
        for claim in added.claims:
            self._claim(claim, {LABEL_CELL: cell.metadata.name, **labels}, storage_class, size)
        self._pods(added)
        return cell

    def write(self, cell: str) -> None:
        """A customer's write, to every volume of the cell."""
        for claim in self.sets[cell].claims:
            self.content(claim).append(self.clock.now())

    def content(self, claim: str) -> list[datetime]:
        return self.volumes[self.claim(claim)["metadata"]["uid"]]

    def claim(self, name: str) -> Object:
        return self.server.objects[CLAIMS.path(NAMESPACE, name)]

    def snapshot(self, name: str) -> Object:
        return self.server.objects[VOLUME_SNAPSHOTS.path(NAMESPACE, name)]

    def take(self, name: str, claim: str, **labels: str) -> Object:
        """Somebody makes a snapshot, with a tool of their own."""
        metadata = {"name": name, "namespace": NAMESPACE, "labels": labels}
        metadata["creationTimestamp"] = timestamp(self.clock.now())
        body = {"metadata": metadata, "spec": {"source": {"persistentVolumeClaimName": claim}}}
        return self.server.put(VOLUME_SNAPSHOTS.path(NAMESPACE, name), body)

    def wrote(self) -> None:
        self.written += 1
        if self.written == self.crash_after:
            raise Crash(f"after write {self.written}")

    # The passing of time

    def second(self) -> None:
        """What happens in one second."""
        for path, obj in list(self.server.objects.items()):
            kind = parse(path).resource
            if kind == "volumesnapshots":
                self._take(path, copy.deepcopy(obj))
            elif kind == "persistentvolumeclaims":
                self._bind_or_delete(path, copy.deepcopy(obj))
        for each in self.sets.values():
            self._pods(each)

    def _take(self, path: str, snapshot: Object) -> None:
        created = datetime.fromisoformat(snapshot["metadata"]["creationTimestamp"])
        name = snapshot["metadata"]["name"]
        if (snapshot.get("status") or {}).get("readyToUse"):
            return
        if "volumeSnapshotContentName" in snapshot["spec"]["source"]:
            return  # brought, not taken
        if self.problem:
            error = {"message": self.problem, "time": timestamp(self.clock.now())}
            snapshot["status"] = {"readyToUse": False, "error": error}
        elif name not in self.snapshots:
            self.snapshots[name] = list(self.content(snapshot["spec"]["source"]["persistentVolumeClaimName"]))
            snapshot["status"] = {"readyToUse": False, "creationTime": timestamp(self.clock.now())}
        elif (self.clock.now() - created).total_seconds() >= TAKES:
            snapshot["status"] |= {"readyToUse": True, "restoreSize": "12Gi"}
            snapshot["status"].pop("error", None)
        else:
            return
        self.server.put(path, snapshot)

    def _bind_or_delete(self, path: str, claim: Object) -> None:
        metadata = claim["metadata"]
        used = any(
            volume["persistentVolumeClaim"]["claimName"] == metadata["name"]
            for pod_path, pod in self.server.objects.items()
            if parse(pod_path).resource == "pods"
            for volume in pod["spec"]["volumes"]
        )
        if metadata.get("deletionTimestamp"):
            if not used:
                self.server.remove(path)
        elif not claim.get("status") and used:  # WaitForFirstConsumer
            source = claim["spec"].get("dataSource")
            self.volumes[metadata["uid"]] = list(self.snapshots[source["name"]]) if source else []
            self.server.put(path, claim | {"status": {"phase": "Bound"}})

    def _pods(self, of: StatefulSet) -> None:
        path = PODS.path(NAMESPACE, f"{of.name}-0")
        if not of.replicas and path in self.server.objects:
            self.server.remove(path)
        elif of.replicas and path not in self.server.objects:
            for claim in of.claims:
                if CLAIMS.path(NAMESPACE, claim) not in self.server.objects:
                    labels = {LABEL_MADE_BY: "recell", LABEL_CELL: of.cell.metadata.name}
                    self._claim(claim, labels, "fast", "10Gi")
            volumes = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}} for claim in of.claims]
            body = {"metadata": {"name": f"{of.name}-0", "namespace": NAMESPACE}, "spec": {"volumes": volumes}}
            self.server.put(path, body | {"status": {"phase": "Running"}})

    def _claim(self, name: str, labels: dict[str, str], storage_class: str, size: str) -> None:
        metadata = {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"app": "db", **labels},
            "annotations": {"pv.kubernetes.io/bind-completed": "yes", "recell.dev/content": "hash"},
            "uid": f"uid-{self.server.next_version()}",
            "creationTimestamp": timestamp(self.clock.now()),
            "finalizers": ["kubernetes.io/pvc-protection"],
        }
        spec = {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "volumeMode": "Filesystem",
            "volumeName": "pv-1",
            "resources": {"requests": {"storage": size}},
        }
        self.volumes[metadata["uid"]] = []  # type: ignore[index]
        body = {"metadata": metadata, "spec": spec, "status": {"phase": "Bound"}}
        self.server.put(CLAIMS.path(NAMESPACE, name), body)


class VolumeApi(FakeApi):
    """Also stamps what is made, and knows no snapshots where their CRDs are not installed."""

    def __init__(self, cluster: VolumeCluster) -> None:
        super().__init__(cluster.server)
        self.cluster = cluster

    async def list(self, path: str, *, labels: str = "", **more: str) -> Listing:
        if not self.cluster.installed and parse(path).resource == "volumesnapshots":
            raise NotFound(path)
        return await super().list(path, labels=labels, **more)

    async def create(self, path: str, body: Object) -> Object:
        metadata = body["metadata"] | {
            "uid": f"uid-{self.server.next_version()}",
            "creationTimestamp": timestamp(self.cluster.clock.now()),
        }
        if parse(path).resource == "persistentvolumeclaims":
            metadata["finalizers"] = ["kubernetes.io/pvc-protection"]
        made = await super().create(path, body | {"metadata": metadata})
        self.cluster.wrote()
        return made

    async def merge_patch(self, path: str, body: Object, *, field_manager: str = "recell") -> Object:
        made = await super().merge_patch(path, body, field_manager=field_manager)
        self.cluster.wrote()
        return made

    async def delete(self, path: str, *, uid: str | None = None, propagation: str = "Background") -> Object:
        answer = await super().delete(path, uid=uid, propagation=propagation)
        self.cluster.wrote()
        return answer


class VolumeWorkloads:
    """The `Workloads` port, as far as a restore uses it."""

    def __init__(self, cluster: VolumeCluster) -> None:
        self._cluster = cluster

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]:
        found = self._cluster.sets[cell.metadata.name]
        pods = int(PODS.path(NAMESPACE, f"{found.name}-0") in self._cluster.server.objects)
        claims = [self._cluster.server.objects.get(CLAIMS.path(NAMESPACE, name)) for name in found.claims]
        bound = all(claim is not None and claim.get("status") for claim in claims)
        current = pods == found.replicas and (bound or not found.replicas)
        return (
            WorkloadState(
                self._ref(found),
                WorkloadPhase.CURRENT if current else WorkloadPhase.IN_PROGRESS,
                "" if current else "0 of 1 pods ready",
                desired=found.replicas,
                pods=pods,
                stop_token=found.token,
            ),
        )

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        raise NotImplementedError

    async def scale_to_zero(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        found = self._cluster.sets[cell.metadata.name]
        if (found.replicas, found.token) != (0, token):
            found.replicas, found.token = 0, token
            self._cluster.wrote()

    async def scale_back(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        found = self._cluster.sets[cell.metadata.name]
        if found.token == token:
            found.replicas, found.token = 1, None
            self._cluster.wrote()

    @staticmethod
    def _ref(found: StatefulSet) -> WorkloadRef:
        return WorkloadRef(api_version="apps/v1", kind=WorkloadKind.STATEFUL_SET, name=found.name)
