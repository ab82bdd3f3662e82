"""CloudNativePG's Backups: how one is made, what each phase means, and from when on it can be restored.

Promises: pure functions over JSON. A backup counts as complete only when CloudNativePG says so.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from recell.api.meta import ANNOTATION_REQUEST, LABEL_CELL, LABEL_MADE_BY
from recell.domain.data import Answer, Backup, Progress, Request, newest
from recell.domain.wording import clipped
from recell.providers.data import job_template
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CNPG_BACKUPS


class Method(StrEnum):
    OBJECT_STORE = "barmanObjectStore"
    PLUGIN = "plugin"
    SNAPSHOT = "volumeSnapshot"


@dataclass(frozen=True)
class Means:
    """How a Cluster's own configuration lets it be backed up."""

    method: Method
    plugin: str = ""


def means(cluster: Object) -> Means | None:
    """Object store and plugin first: they hold the WAL as well, by which later moments can be reached."""
    backup = cluster["spec"].get("backup") or {}
    if backup.get("barmanObjectStore"):
        return Means(Method.OBJECT_STORE)
    able = {
        plugin["name"]
        for plugin in (cluster.get("status") or {}).get("pluginStatus") or ()
        if plugin.get("backupCapabilities")
    }
    for plugin in plugins(cluster):
        if plugin["name"] in able or plugin.get("isWALArchiver"):
            return Means(Method.PLUGIN, plugin["name"])
    return Means(Method.SNAPSHOT) if backup.get("volumeSnapshot") else None


def plugins(cluster: Object) -> list[Object]:
    """Those that are enabled."""
    return [plugin for plugin in cluster["spec"].get("plugins") or () if plugin.get("enabled", True)]


def made(request: Request, cluster: Object, by: Means) -> Object:
    """The Backup that is asked for. Without an owner: it outlives the run and the cell (rule 7)."""
    spec: Object = {"cluster": {"name": cluster["metadata"]["name"]}, "method": str(by.method)}
    if by.plugin:
        spec["pluginConfiguration"] = {"name": by.plugin}
    return {
        "apiVersion": CNPG_BACKUPS.api_version,
        "kind": CNPG_BACKUPS.kind,
        "metadata": {
            "name": request.key,
            "namespace": cluster["metadata"]["namespace"],
            "labels": {LABEL_MADE_BY: "recell", LABEL_CELL: request.cell.metadata.name},
            "annotations": {ANNOTATION_REQUEST: job_template.digest(request)},
        },
        "spec": spec,
    }


def progress(backup: Object) -> Answer:
    """How far a Backup is, and what to do where it does not go on."""
    metadata, status = backup["metadata"], backup.get("status") or {}
    name, phase = f"Backup {metadata['namespace']}/{metadata['name']}", status.get("phase") or ""
    described = f"kubectl -n {metadata['namespace']} describe backup.postgresql.cnpg.io {metadata['name']}"
    if phase == "completed":
        found = entry(backup)
        if found is None:
            return Answer(Progress.FAILED, f"{name} is completed, but says not when: status.stoppedAt is missing")
        return Answer(Progress.DONE, f"{name} is completed", backups=(found,))
    if phase == "failed":
        words = "; ".join(text for text in (status.get("error"), status.get("commandError")) if text)
        return Answer(
            Progress.FAILED, clipped(f"{name} failed: {words or 'CloudNativePG says not why'}. See {described}")
        )
    if phase == "walArchivingFailing":
        words = status.get("error") or "no reason is told"
        return Answer(
            Progress.RUNNING,
            clipped(
                f"{name} waits, because the WAL is not archived ({words}): see the condition ContinuousArchiving of"
                f" Cluster {backup['spec']['cluster']['name']}, its archive's address and credentials"
            ),
        )
    says = {
        "": f"has not been looked at: does CloudNativePG run? See {described}",
        "pending": f"waits for another backup to end, or for an instance that can be backed up; see {described}",
        "started": "begins",
        "running": "runs",
        "finalizing": "is taken, and its volume snapshots are being made ready for use",
    }
    return Answer(Progress.RUNNING, f"{name} {says.get(phase, f'is in phase {phase}')}")


def entry(backup: Object) -> Backup | None:
    """As the inventory tells it; None for one that has begun at no time that is known.

    Times are whole seconds, cut: it can be restored to from the following one on.
    """
    status = backup.get("status") or {}
    complete = status.get("phase") == "completed"
    told = status.get("stoppedAt") if complete else status.get("startedAt")
    if not told:
        return None
    return Backup(backup["metadata"]["name"], datetime.fromisoformat(told) + timedelta(seconds=1), complete)


def stopped_at(backup: Object) -> datetime | None:
    """What is certainly in it reaches to here."""
    told = (backup.get("status") or {}).get("stoppedAt")
    return datetime.fromisoformat(told) if told else None


def inventory(backups: Iterable[Object]) -> tuple[Backup, ...]:
    return newest(told for backup in backups if (told := entry(backup)) is not None)


def method_of(backup: Object) -> Method:
    return Method((backup.get("status") or {}).get("method") or backup["spec"].get("method") or Method.OBJECT_STORE)


def cluster_of(backup: Object) -> str:
    return str(backup["spec"]["cluster"]["name"])


def slim(backup: Object) -> Object:
    """Without the label file and the output of commands."""
    status = backup.get("status") or {}
    left_out = ("backupLabelFile", "tablespaceMapFile", "commandOutput")
    kept = {name: value for name, value in status.items() if name not in left_out}
    return {"metadata": backup["metadata"], "spec": backup["spec"], "status": kept}
