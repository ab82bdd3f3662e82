"""What a Cluster of CloudNativePG says about itself, and how the Job that recovers one ended.

Promises: pure functions over JSON and text. Ready is only what CloudNativePG calls healthy with all its instances.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recell.domain.wording import clipped
from recell.providers.kube.api import Object

LABEL_CLUSTER = "cnpg.io/cluster"
"""On everything that CloudNativePG makes for a Cluster."""
LABEL_JOB_ROLE = "cnpg.io/jobRole"
RECOVERY_ROLES = ("full-recovery", "snapshot-recovery")
HEALTHY = "Cluster in healthy state"
NOT_REACHED = "recovery ended before configured recovery target was reached"
QUOTED_LINES = 4
QUOTED = 500
_BY_POSTGRES = re.compile(r"(?:FATAL|PANIC|ERROR): .*|invalid value for parameter .*")
_STATUS = ("phase", "phaseReason", "readyInstances", "conditions", "pluginStatus")


@dataclass(frozen=True)
class State:
    ready: bool
    says: str


def state(cluster: Object) -> State:
    status, wanted = cluster.get("status") or {}, int(cluster["spec"].get("instances") or 1)
    phase, ready = status.get("phase"), int(status.get("readyInstances") or 0)
    if not phase:
        return State(False, "CloudNativePG has said nothing about it yet: does its operator run?")
    reason = f" ({status['phaseReason']})" if status.get("phaseReason") else ""
    says = f"{phase}{reason}; {ready} of {wanted} instances ready"
    well = phase == HEALTHY and ready >= wanted and (condition(cluster, "Ready") or {}).get("status") == "True"
    return State(well, says)


def condition(cluster: Object, type_: str) -> Mapping[str, Any] | None:
    listed = (cluster.get("status") or {}).get("conditions") or ()
    return next((each for each in listed if each.get("type") == type_), None)


def can_be_backed_up(cluster: Object) -> bool:
    """An instance runs, and nothing says that its WAL does not arrive in the archive."""
    return bool((cluster.get("status") or {}).get("readyInstances")) and not not_archived(cluster)


def not_archived(cluster: Object) -> str:
    """Why the WAL does not arrive in the archive; empty if nothing says so."""
    archiving = condition(cluster, "ContinuousArchiving") or {}
    if archiving.get("status") != "False":
        return ""
    name, why = cluster["metadata"]["name"], archiving.get("message") or "no reason is told"
    return f"the WAL of Cluster {name} is not archived ({why}): look at the address and credentials of its archive"


def instances(name: str) -> str:
    """Selector of the Cluster's pods, those of its Jobs included."""
    return f"{LABEL_CLUSTER}={name}"


def recovers(obj: Object) -> bool:
    """A Job, or a pod of one, that recovers."""
    return (obj["metadata"].get("labels") or {}).get(LABEL_JOB_ROLE) in RECOVERY_ROLES


def failed_for_good(jobs: Iterable[Object]) -> bool:
    """The Job that recovers has used up its retries; CloudNativePG makes no other."""
    return any(
        each["type"] == "Failed" and each["status"] == "True"
        for job in jobs
        if recovers(job)
        for each in (job.get("status") or {}).get("conditions") or ()
    )


def words(log: str) -> str:
    """What went wrong, by the last lines of an instance manager's log: PostgreSQL's own words first."""
    own: list[str] = []
    others: list[str] = []
    for line in log.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            others.append(line)
            continue
        if not isinstance(entry, dict):
            continue
        record = entry.get("record")
        if isinstance(record, dict) and record.get("error_severity") in ("FATAL", "PANIC", "ERROR"):
            own.append(f"{record['error_severity']}: {record.get('message', '')}")
        elif found := _BY_POSTGRES.search(str(entry.get("msg"))):  # before it has a log of its own
            own.append(found[0])
        elif entry.get("level") == "error":
            others.append(": ".join(str(entry[name]) for name in ("msg", "error", "err") if entry.get(name)))
    lines = dict.fromkeys(text for line in (own or others)[-QUOTED_LINES:] if (text := " ".join(line.split())))
    return clipped(" | ".join(lines), QUOTED)


def unreachable(log: str, not_after: datetime) -> str:
    """What it means that PostgreSQL ran out of WAL before the time that was asked for; empty if it did not."""
    if not re.search(NOT_REACHED, log):
        return ""
    return (
        f"the archive has no transaction that was committed after {not_after.isoformat()}, by which PostgreSQL would"
        " know that it is there: wait until the newest WAL is archived (archive_timeout, 5 minutes by default), or"
        " recover to an earlier time"
    )


def slim(cluster: Object) -> Object:
    """Only what is read here and in `cnpg_backup`."""
    status = cluster.get("status") or {}
    return {
        "metadata": cluster["metadata"],
        "spec": {name: cluster["spec"][name] for name in ("instances", "backup", "plugins") if name in cluster["spec"]},
        "status": {name: status[name] for name in _STATUS if name in status},
    }
