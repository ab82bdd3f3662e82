"""A cluster in memory with volumes and Velero: what its server writes, second by second, with snapshots of claims.

As the real one (tests/velero): a Backup holds the claims that its selectors match; a Restore of VolumeSnapshots brings
those with the labels that the claims had, under names of its own.
"""

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from recell.api import Cell
from recell.api.meta import timestamp
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CLAIMS, VELERO_BACKUPS, VELERO_RESTORES, VOLUME_SNAPSHOTS, Resource, parse
from tests.fakes.volume_cluster import NAMESPACE, Now, VolumeCluster
from tests.unit.domain import builders

VELERO = "velero"
KEPT = timedelta(days=30)
_PHASES: Mapping[str, tuple[str, ...]] = {
    "backups": ("", "Queued", "InProgress", "WaitingForPluginOperations", "Finalizing", "Completed"),
    "restores": ("", "New", "InProgress", "Completed"),
}


def velero_cell(name: str, *claims: str, **settings: Any) -> Cell:
    """With one StatefulSet of one replica, whose claims these are."""
    block = {"claims": list(claims) or [f"data-{name}-db-0"], **settings}
    return builders.cell(
        name,
        workloads=[{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": f"{name}-db"}],
        data={"type": "Velero", "velero": block},
    )


@dataclass(frozen=True)
class Held:
    """A claim in a Backup."""

    labels: Mapping[str, str]
    content: tuple[datetime, ...]


class VeleroCluster(VolumeCluster):
    def __init__(self, clock: Now) -> None:
        super().__init__(clock)
        self.running = True
        """Velero's server is."""
        self.csi = True
        """It takes CSI snapshots."""
        self.ends: dict[str, Object] = {}
        """Status that the server gives a Backup or Restore of that name in place of finishing it."""
        self.stays: set[str] = set()
        """Phases that nothing leaves."""
        self.held: dict[str, list[Held]] = {}
        """By Backup."""
        for resource in (VELERO_BACKUPS, VELERO_RESTORES, VOLUME_SNAPSHOTS):
            self.install(resource)

    def install(self, resource: Resource) -> None:
        path = f"/apis/{resource.api_version}"
        known = self.server.objects.get(path, {"resources": []})["resources"]
        entry = {"name": resource.plural, "kind": resource.kind, "namespaced": True}
        self.server.put(path, {"resources": [*known, entry]})

    def backup(self, name: str) -> Object:
        return self.server.objects[VELERO_BACKUPS.path(VELERO, name)]

    def restore(self, name: str) -> Object:
        return self.server.objects[VELERO_RESTORES.path(VELERO, name)]

    def schedule(self, name: str, *, labels: Mapping[str, str], **spec: Any) -> None:
        """Velero makes a Backup by a Schedule, of all that is in the namespace."""
        metadata = {"name": name, "namespace": VELERO, "labels": dict(labels)}
        body = {"kind": "Backup", "metadata": metadata, "spec": {"includedNamespaces": [NAMESPACE], **spec}}
        self.server.put(VELERO_BACKUPS.path(VELERO, name), body)

    def label(self, claim: str, **labels: str) -> None:
        live = copy.deepcopy(self.claim(claim))
        live["metadata"]["labels"] |= labels
        self.server.put(CLAIMS.path(NAMESPACE, claim), live)

    def says(self, path: str, **status: Any) -> None:
        live = copy.deepcopy(self.server.objects[path])
        live["status"] = (live.get("status") or {}) | status
        self.server.put(path, live)

    # The passing of time

    def second(self) -> None:
        super().second()
        if not self.running:
            return
        for path, obj in list(self.server.objects.items()):
            if (kind := parse(path).resource) in _PHASES and "spec" in obj:
                self._step(kind, path, copy.deepcopy(obj))
            elif kind == "volumesnapshots" and not obj.get("status"):
                status = {"readyToUse": True, "creationTime": timestamp(self.clock.now()), "restoreSize": "0"}
                self.server.put(path, copy.deepcopy(obj) | {"status": status})

    def _step(self, kind: str, path: str, obj: Object) -> None:
        name, phases = obj["metadata"]["name"], _PHASES[kind]
        status = obj.setdefault("status", {})
        phase = status.get("phase", "")
        if phase in self.stays or phase not in phases[:-1]:
            return
        status["phase"] = phases[phases.index(phase) + 1]
        now = timestamp(self.clock.now())
        if status["phase"] == "InProgress":
            status["startTimestamp"] = now
        elif phase == "InProgress":
            if kind == "backups":
                self._take_all(name, obj)
            elif name not in self.ends:
                self._bring(obj)
        if phases.index(status["phase"]) == len(phases) - 1:
            status |= {"completionTimestamp": now} | self.ends.get(name, {})
            if kind == "backups":
                held = len(self.held[name])
                status |= {"csiVolumeSnapshotsCompleted": held, "expiration": timestamp(self.clock.now() + KEPT)}
        self.server.put(path, obj)

    def _take_all(self, name: str, backup: Object) -> None:
        self.held[name] = []
        for path, claim in self.server.objects.items():
            if parse(path).resource != "persistentvolumeclaims" or not self.csi:
                continue
            labels = claim["metadata"]["labels"]
            selectors = backup["spec"].get("orLabelSelectors")
            if selectors is None or any(_matches(selector, labels) for selector in selectors):
                content = tuple(self.volumes[claim["metadata"]["uid"]])
                self.held[name].append(Held(labels | {"velero.io/backup-name": name}, content))

    def _bring(self, restore: Object) -> None:
        spec = restore["spec"]
        assert spec["includedResources"][0] == "volumesnapshots.snapshot.storage.k8s.io"
        for number, held in enumerate(self.held[spec["backupName"]]):
            if not _matches(spec["labelSelector"], held.labels):
                continue
            name = hashlib.sha256(f"{restore['metadata']['uid']}/{number}".encode()).hexdigest()
            namespace = (spec.get("namespaceMapping") or {}).get(NAMESPACE, NAMESPACE)
            metadata = {
                "name": name,
                "namespace": namespace,
                "labels": {**held.labels, "velero.io/restore-name": restore["metadata"]["name"]},
                "annotations": {"velero.io/csi-volumesnapshot-restore-size": "12Gi"},
                "creationTimestamp": timestamp(self.clock.now()),
            }
            self.snapshots[name] = list(held.content)
            body = {"metadata": metadata, "spec": {"source": {"volumeSnapshotContentName": name}}}
            self.server.put(VOLUME_SNAPSHOTS.path(namespace, name), body)


def _matches(selector: Object, labels: Mapping[str, str]) -> bool:
    exact = selector.get("matchLabels") or {}
    listed = selector.get("matchExpressions") or ()
    return all(labels.get(name) == value for name, value in exact.items()) and all(
        labels.get(term["key"]) in term["values"] for term in listed
    )
