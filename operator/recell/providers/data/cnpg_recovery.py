"""The Cluster that recovers a backup, made from the empty one whose place it takes.

CloudNativePG recovers only into a new Cluster. This one has name, labels, annotations and spec of the empty one, and
- `bootstrap.recovery` with a `source`: an external cluster that names the archive, by the Backup itself (object store)
  or by the source Cluster (plugin). That is the one form that reaches a moment for every method; `recovery.backup`
  ignores a target time with volume snapshots, which therefore go in as `recovery.volumeSnapshots`;
- an archive folder of its own (`serverName`): the empty Cluster has archived under the name already, and CloudNativePG
  refuses to archive where something is;
- the hash of what the template's object was applied as, so that it counts as applied and is not applied again.

Promises: pure. Nothing committed after the time that is asked for (rule 9): where that cannot be had, `Unfit` says why.
"""

import copy
from datetime import UTC, datetime
from typing import Any

from recell.api.meta import ANNOTATION_REQUEST
from recell.domain.data import Request
from recell.providers.data import cnpg_backup, job_template
from recell.providers.data.cnpg_backup import Method
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CNPG_CLUSTERS
from recell.providers.kube.reflector import LAST_APPLIED

SNAPSHOT_GROUP = "snapshot.storage.k8s.io"
_STORE = ("endpointURL", "endpointCA", "destinationPath", "s3Credentials", "azureCredentials", "googleCredentials")
"""Of a Backup's status: where it is, and how it is reached."""
_DATABASE = ("database", "owner", "secret")
"""Of every way to bootstrap: what the application uses."""


class Unfit(ValueError):
    """It cannot be recovered so; the message names the object, the field and what to do."""


def empty(cluster: Object) -> Object:
    """What has to be known of a Cluster to make it again."""
    metadata = cluster["metadata"]
    annotations = {name: text for name, text in (metadata.get("annotations") or {}).items() if name != LAST_APPLIED}
    kept = {"name": metadata["name"], "namespace": metadata["namespace"], "labels": metadata.get("labels") or {}}
    return {"metadata": kept | {"annotations": annotations}, "spec": cluster["spec"]}


def recovering(replaced: Object, request: Request, backup: Object, source: Object | None) -> Object:
    """`replaced` as of `empty`. `source`: the Cluster that was backed up, if it is still there. Raises Unfit."""
    spec = copy.deepcopy(replaced["spec"])
    metadata = copy.deepcopy(replaced["metadata"])
    metadata["annotations"][ANNOTATION_REQUEST] = mark(request)
    method, status = cnpg_backup.method_of(backup), backup.get("status") or {}
    archive = _archive(method, backup, source)
    recovery: Object = {}
    target: Object = {}
    if method is Method.SNAPSHOT:
        recovery["volumeSnapshots"] = _snapshots(backup, metadata["namespace"], spec)
    else:
        target["backupID"] = status.get("backupId") or ""
        if not target["backupID"]:
            raise Unfit(f"{_named(backup)} says not which backup of the archive it is: status.backupId is missing")
    if archive is not None:
        recovery["source"] = archive["name"]
        others = [each for each in spec.get("externalClusters") or () if each["name"] != archive["name"]]
        spec["externalClusters"] = [*others, archive]
        if request.not_after is not None:
            target["targetTime"] = postgres_time(request.not_after)
    if target:
        recovery["recoveryTarget"] = target
    spec["bootstrap"] = {"recovery": recovery | _database(spec.get("bootstrap") or {})}
    _archive_elsewhere(spec, metadata["name"], request.key)
    return {"apiVersion": CNPG_CLUSTERS.api_version, "kind": CNPG_CLUSTERS.kind, "metadata": metadata, "spec": spec}


def mark(request: Request) -> str:
    """By which a Cluster that recovers is known again."""
    return f"{request.key}/{job_template.digest(request)}"


def key_of(marked: str) -> str:
    """The key of the request that a Cluster was made for; empty for one that recovers nothing."""
    return marked.partition("/")[0]


def target_time(cluster: Object) -> bool:
    """Whether it recovers to a moment, rather than as far as it can."""
    recovery = (cluster["spec"].get("bootstrap") or {}).get("recovery") or {}
    return bool((recovery.get("recoveryTarget") or {}).get("targetTime"))


def new_password(cluster: Object) -> bool:
    """CloudNativePG makes one up for the application's user, where the Cluster names no Secret."""
    recovery = (cluster["spec"].get("bootstrap") or {}).get("recovery") or {}
    return not (recovery.get("secret") or {}).get("name")


def postgres_time(moment: datetime) -> str:
    """To the microsecond, which is PostgreSQL's own resolution: never later than what was asked for.

    CloudNativePG takes RFC 3339 too, but writes UTC as `Z` then, which PostgreSQL does not know while it reads its
    settings; what is in PostgreSQL's own form it hands on as it is.
    """
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f+00")


def _archive(method: Method, backup: Object, source: Object | None) -> Object | None:
    """Where the WAL is, as an external cluster; None for snapshots of a Cluster that archives none."""
    name, status = cnpg_backup.cluster_of(backup), backup.get("status") or {}
    if method is Method.OBJECT_STORE:
        if not status.get("destinationPath"):
            raise Unfit(f"{_named(backup)} says not where it is: status.destinationPath is missing")
        store = {field: status[field] for field in _STORE if status.get(field)}
        return {"name": name, "barmanObjectStore": store | {"serverName": status.get("serverName") or name}}
    if source is None:
        if method is Method.SNAPSHOT:
            return None
        raise Unfit(
            f"{_named(backup)} was made by a plugin, and Cluster {name}, which says how that is set up, does not exist"
            " any more: recover it by hand"
        )
    wanted = (backup["spec"].get("pluginConfiguration") or {}).get("name")
    for plugin in cnpg_backup.plugins(source):
        if plugin["name"] == wanted or (method is Method.SNAPSHOT and plugin.get("isWALArchiver")):
            parameters = plugin.get("parameters") or {}
            told = {"serverName": parameters.get("serverName") or name}
            return {"name": name, "plugin": {"name": plugin["name"], "parameters": parameters | told}}
    if method is Method.PLUGIN:
        raise Unfit(f"{_named(backup)} was made by plugin {wanted}, which spec.plugins of Cluster {name} does not name")
    own = (source["spec"].get("backup") or {}).get("barmanObjectStore")
    if not own:
        return None
    store = {field: own[field] for field in _STORE if own.get(field)}
    return {"name": name, "barmanObjectStore": store | {"serverName": own.get("serverName") or name}}


def _snapshots(backup: Object, namespace: str, spec: Object) -> Object:
    if backup["metadata"]["namespace"] != namespace:
        raise Unfit(
            f"{_named(backup)} is made of volume snapshots, which cannot be used in another namespace ({namespace}):"
            " make cells in the namespace of their source, or back up to an object store"
        )
    found: Object = {}
    for element in ((backup.get("status") or {}).get("snapshotBackupStatus") or {}).get("elements") or ():
        reference = {"apiGroup": SNAPSHOT_GROUP, "kind": "VolumeSnapshot", "name": element["name"]}
        if element["type"] == "PG_DATA":
            found["storage"] = reference
        elif element["type"] == "PG_WAL":
            found["walStorage"] = reference
        elif element["type"] == "PG_TABLESPACE":
            found.setdefault("tablespaceStorage", {})[element["tablespaceName"]] = reference
    if "storage" not in found:
        raise Unfit(f"{_named(backup)} names no volume snapshot of PG_DATA in status.snapshotBackupStatus")
    if "walStorage" in found and not spec.get("walStorage"):
        raise Unfit(f"{_named(backup)} has a snapshot of a WAL volume: the template's Cluster needs spec.walStorage")
    return found


def _database(bootstrap: Object) -> dict[str, Any]:
    given: Object = next((bootstrap[way] for way in ("initdb", "recovery", "pg_basebackup") if bootstrap.get(way)), {})
    return {name: given[name] for name in _DATABASE if given.get(name)}


def _archive_elsewhere(spec: Object, name: str, key: str) -> None:
    stores = [store for store in ((spec.get("backup") or {}).get("barmanObjectStore"),) if store]
    stores += [each.setdefault("parameters", {}) for each in spec.get("plugins") or () if each.get("isWALArchiver")]
    for store in stores:
        store["serverName"] = f"{store.get('serverName') or name}-{key}"


def _named(backup: Object) -> str:
    return f"Backup {backup['metadata']['namespace']}/{backup['metadata']['name']}"
