"""A Job made from a CronJob's template: its name, what it is told, and its bounds.

Promises: pure; the same request gives the same Job in every process, so that making it twice is making it once.
What the template says stays, save the variables of the contract (docs/providers/jobs.md) and bounds that are missing.

Must not: give the Job an owner. A run that is deleted would take the record of a restore with it (rule 7), and the
CronJob's controller would count it to its history and delete results that nobody has read yet.
"""

import copy
import hashlib
import json
from datetime import UTC, datetime
from typing import Any

from recell.api.meta import ANNOTATION_REQUEST, LABEL_CELL, LABEL_DATA_JOB, LABEL_MADE_BY
from recell.domain.data import Operation, Request, ranges
from recell.domain.provisioning import untracked
from recell.providers.kube.api import Object
from recell.providers.kube.paths import JOBS

FIELDS = {
    Operation.INVENTORY: "inventory",
    Operation.ACCESSIBLE: "accessible",
    Operation.MIGRATE: "migrate",
    Operation.RESTORE: "restore",
    Operation.CHECK: "check",
    Operation.BACKUP: "backup",
    Operation.ABANDON: "abandon",
}
"""The field of the Cell's `spec.data.jobs` that names the CronJob."""
LOOKS = frozenset({Operation.INVENTORY, Operation.ACCESSIBLE})

LOOK_DEADLINE = 600
"""Seconds, where the template has no activeDeadlineSeconds: these two only look, and a recovery waits for them."""
DEADLINE = 4 * 3600
"""Seconds, for the others: the default of the policy's `replacement.dataTimeout`; nobody waits for a result longer."""
RETRIES = 2
"""Where the template has no backoffLimit. Kubernetes' own is 6, ten minutes of pauses alone; what fails three times
wants another decision: an older backup, or a person."""
KEPT = 24 * 3600
"""Seconds that an ended Job is kept, where the template does not say: its log for the day after."""
KEPT_AT_LEAST = 3600
"""Seconds. A Job that is gone before its result was read is made again. That is safe, since the contract asks for
Jobs that can be repeated, but it costs the time of another restore."""


def field_of(request: Request) -> str:
    return f"spec.data.jobs.{FIELDS[request.operation]}"


def cron_job_of(request: Request) -> str | None:
    """The CronJob that the request's cell names for it."""
    jobs = request.cell.spec.data.jobs
    name: str | None = getattr(jobs, FIELDS[request.operation]) if jobs is not None else None
    return name


def variables(request: Request) -> dict[str, str]:
    """What the Job is told; what does not apply is empty, so that nothing of the template's can be taken for it."""
    target = request.target
    return {
        "RECELL_OPERATION": request.operation,
        "RECELL_KEY": request.key,
        "RECELL_CELL": request.cell.metadata.name,
        "RECELL_CELL_NAMESPACE": request.cell.workload_namespace,
        "RECELL_TARGET": target.metadata.name if target else "",
        "RECELL_TARGET_NAMESPACE": target.workload_namespace if target else "",
        "RECELL_SLOTS": ranges(request.slots),
        "RECELL_SLOT_COUNT": str(request.slot_count) if request.slot_count else "",
        "RECELL_BACKUP": request.backup,
        "RECELL_NOT_AFTER": _rfc3339(request.not_after) if request.not_after else "",
    }


def digest(request: Request) -> str:
    """Tells one request from another. A variable that a newer version adds has to be empty where it says nothing new,
    or an operator that is upgraded does not know its own Jobs again."""
    told = {name: value for name, value in variables(request).items() if value}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def made_from(cron_job: Object, request: Request) -> Object:
    """The Job, as `kubectl create job --from` makes it, with the request in its environment."""
    template = copy.deepcopy(cron_job["spec"]["jobTemplate"])
    metadata, spec = template.get("metadata") or {}, template["spec"]
    labels = {LABEL_MADE_BY: "recell", LABEL_DATA_JOB: "true"}
    pod = spec["template"]
    pod_metadata = pod.get("metadata") or {}
    # Not the label of the cell: a Service may select by that, and would send customers to the Job.
    pod["metadata"] = pod_metadata | {"labels": (pod_metadata.get("labels") or {}) | labels}
    told = variables(request)
    for kind in ("initContainers", "containers"):
        for container in pod["spec"].get(kind) or ():
            container["env"] = _environment(told, container.get("env") or [])
    if spec.get("activeDeadlineSeconds") is None:
        spec["activeDeadlineSeconds"] = LOOK_DEADLINE if request.operation in LOOKS else DEADLINE
    if spec.get("backoffLimit") is None:
        spec["backoffLimit"] = RETRIES
    kept = spec.get("ttlSecondsAfterFinished")
    spec["ttlSecondsAfterFinished"] = KEPT if kept is None else max(kept, KEPT_AT_LEAST)
    return {
        "apiVersion": JOBS.api_version,
        "kind": JOBS.kind,
        "metadata": {
            "name": request.key,
            "namespace": request.cell.workload_namespace,
            # Without what Git tools know their own objects by: they would prune it while it works.
            "labels": untracked(metadata.get("labels")) | labels | {LABEL_CELL: request.cell.metadata.name},
            "annotations": untracked(metadata.get("annotations")) | {ANNOTATION_REQUEST: digest(request)},
        },
        "spec": spec,
    }


def _environment(told: dict[str, str], own: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The contract's variables first: a container's own may refer to those before them as $(NAME)."""
    return [{"name": name, "value": value} for name, value in told.items()] + [
        variable for variable in own if variable["name"] not in told
    ]


def _rfc3339(moment: datetime) -> str:
    """To the microsecond where there are any: cut down it would lose, rounded up it would restore too much."""
    return moment.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
