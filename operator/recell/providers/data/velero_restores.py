"""Restores of Velero that bring back the VolumeSnapshots of a Backup, and nothing else.

Promises: pure functions over JSON. What a Restore brings has names of its own, so nothing that is there is touched; of
each claim exactly one snapshot counts, the one that was taken for this very Backup.

A claim itself is not restored: Velero leaves it without its data where one of the source's name is there already, which
the failed cell's is, and renaming it by a resource modifier comes after that.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from recell.api import Cell
from recell.api.cell import Velero
from recell.api.meta import ANNOTATION_REQUEST, LABEL_CELL, LABEL_CLAIM, LABEL_MADE_BY
from recell.domain.data import Request
from recell.providers.data import snapshots
from recell.providers.data.job_template import digest
from recell.providers.data.snapshots import Snapshot
from recell.providers.kube.api import Object
from recell.providers.kube.paths import VELERO_RESTORES, VOLUME_SNAPSHOTS

LABEL_BACKUP_NAME = "velero.io/backup-name"
LABEL_RESTORE_NAME = "velero.io/restore-name"
RESTORE_SIZE = "velero.io/csi-volumesnapshot-restore-size"
_LONGEST = 63


def made(request: Request, target: Cell, settings: Velero) -> Object:
    """`settings`: of the cell that was backed up."""
    source, destination = request.cell.workload_namespace, target.workload_namespace
    spec: Object = {
        "backupName": request.backup,
        "includedNamespaces": [source],
        "includedResources": [VOLUME_SNAPSHOTS.full_name, f"volumesnapshotcontents.{VOLUME_SNAPSHOTS.group}"],
        "labelSelector": {
            # An older snapshot that happens to be in the Backup has another one's name on it.
            "matchLabels": {LABEL_BACKUP_NAME: label_value(request.backup)},
            "matchExpressions": [{"key": LABEL_CLAIM, "operator": "In", "values": list(settings.claims)}],
        },
        "restorePVs": True,
    }
    if source != destination:
        spec["namespaceMapping"] = {source: destination}
    return {
        "apiVersion": VELERO_RESTORES.api_version,
        "kind": VELERO_RESTORES.kind,
        "metadata": {
            "name": request.key,
            "namespace": settings.namespace,
            "labels": {LABEL_MADE_BY: "recell", LABEL_CELL: target.metadata.name},
            "annotations": {ANNOTATION_REQUEST: digest(request)},
        },
        "spec": spec,
    }


def selector(restore: str) -> str:
    """Of what a Restore brought."""
    return f"{LABEL_RESTORE_NAME}={label_value(restore)}"


def label_value(name: str) -> str:
    """As Velero makes one of a name."""
    if len(name) <= _LONGEST:
        return name
    return name[: _LONGEST - 6] + hashlib.sha256(name.encode()).hexdigest()[:6]


def brought(objects: Sequence[Object], claim: str) -> list[Snapshot]:
    """Of this claim of the source."""
    found = []
    for obj in objects:
        metadata = obj["metadata"]
        if (metadata.get("labels") or {}).get(LABEL_CLAIM) == claim:
            read = snapshots.read(obj)
            size = (
                read.size if read.size not in ("", "0") else (metadata.get("annotations") or {}).get(RESTORE_SIZE, "")
            )
            found.append(replace(read, claim=claim, size=size))
    return found
