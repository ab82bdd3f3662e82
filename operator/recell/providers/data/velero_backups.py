"""A cell's Backups in Velero: how one is made, which belong to the cell, and which it can be restored from.

Promises: pure functions over JSON. A Backup counts as complete only if Velero calls it Completed, it has a CSI snapshot
for each claim, and Velero does not delete it yet. Nothing that is in a Backup is later than it says.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from fnmatch import fnmatchcase

from recell.api import Cell
from recell.api.cell import Velero
from recell.api.meta import ANNOTATION_REQUEST, LABEL_CELL, LABEL_CLAIM, LABEL_MADE_BY
from recell.domain.data import Backup, Request, newest
from recell.providers.data import velero_phases
from recell.providers.data.job_template import digest
from recell.providers.data.snapshots import CUT_OFF, moment
from recell.providers.kube.api import Object
from recell.providers.kube.paths import VELERO_BACKUPS

LABEL_SCHEDULE = "velero.io/schedule-name"
NO_SNAPSHOTS = (
    "Velero's server needs --features=EnableCSI, the volumes a CSI driver, and its VolumeSnapshotClass the label"
    " velero.io/csi-volumesnapshot-class: true"
)


def made(request: Request, settings: Velero) -> Object:
    """The Backup that is asked for: the claims, and what else has the cell's label. Without an owner: it outlives the
    run and the cell (rule 7)."""
    name = request.cell.metadata.name
    spec: Object = {
        "includedNamespaces": [request.cell.workload_namespace],
        "orLabelSelectors": [
            {"matchLabels": {LABEL_CELL: name}},
            {"matchExpressions": [{"key": LABEL_CLAIM, "operator": "In", "values": list(settings.claims)}]},
        ],
        # Said, because a server can have other defaults: only snapshots that stay in the storage are restored here.
        "snapshotVolumes": True,
        "snapshotMoveData": False,
        "defaultVolumesToFsBackup": False,
    }
    if settings.storage_location:
        spec["storageLocation"] = settings.storage_location
    if settings.ttl:
        spec["ttl"] = settings.ttl
    return {
        "apiVersion": VELERO_BACKUPS.api_version,
        "kind": VELERO_BACKUPS.kind,
        "metadata": {
            "name": request.key,
            "namespace": settings.namespace,
            "labels": {LABEL_MADE_BY: "recell", LABEL_CELL: name},
            "annotations": {ANNOTATION_REQUEST: digest(request)},
        },
        "spec": spec,
    }


def belongs(backup: Object, cell: Cell, settings: Velero) -> bool:
    """By the cell's label, or by a schedule that the Cell names; of the cell's namespace in either case."""
    labels = backup["metadata"].get("labels") or {}
    if labels.get(LABEL_CELL) != cell.metadata.name and labels.get(LABEL_SCHEDULE) not in settings.schedules:
        return False
    namespace, spec = cell.workload_namespace, backup["spec"]
    included = spec.get("includedNamespaces") or ["*"]
    return _matches(namespace, included) and not _matches(namespace, spec.get("excludedNamespaces") or ())


def _matches(namespace: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(namespace, pattern) for pattern in patterns)


def missing(backup: Object, claims: int, now: datetime) -> str:
    """Why it cannot be restored from, for people; empty: it can."""
    status, spec = backup.get("status") or {}, backup["spec"]
    phase = velero_phases.phase_of(backup)
    if phase != velero_phases.COMPLETED:
        return f"it is {phase or 'New'}"
    if backup["metadata"].get("deletionTimestamp"):
        return "it is being deleted"
    expires = status.get("expiration")
    if expires and moment(expires) <= now:
        return f"it expired at {expires}, and Velero deletes it with its snapshots"
    if not status.get("completionTimestamp") or not status.get("startTimestamp"):
        return "it does not say when it was made"
    if spec.get("snapshotMoveData"):
        return "its data was moved out of the storage (snapshotMoveData), from where it is not restored here"
    there = int(status.get("csiVolumeSnapshotsCompleted") or 0)
    if there < claims:
        return f"it has {there} CSI snapshots, and the cell {claims} claims: {NO_SNAPSHOTS}"
    return ""


def at(backup: Object) -> datetime | None:
    """Nothing that was committed later is in it. Of one that has not ended: when it began, as far as that is known."""
    status = backup.get("status") or {}
    told = status.get("completionTimestamp") or status.get("startTimestamp")
    return moment(told) + CUT_OFF if told else None


def point(backup: Object) -> datetime:
    """What was committed before is in it: the snapshots are taken after its beginning, nobody tells when."""
    return moment(backup["status"]["startTimestamp"])


def too_old(backup: Object, since: Mapping[str, datetime]) -> bool:
    """It began before a claim was made anew, so that it has another volume. `since`: by claim."""
    began = (backup.get("status") or {}).get("startTimestamp")
    return began is not None and any(moment(began) <= anew for anew in since.values())


def inventory(backups: Iterable[Object], claims: int, now: datetime) -> tuple[Backup, ...]:
    return newest(
        Backup(backup["metadata"]["name"], when, complete=not missing(backup, claims, now))
        for backup in backups
        if (when := at(backup)) is not None
    )


def slim(backup: Object) -> Object:
    return {name: backup[name] for name in ("kind", "metadata", "spec", "status") if name in backup}
