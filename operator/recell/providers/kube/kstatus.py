"""What the fields of a Deployment, StatefulSet, DaemonSet or CronJob say, by the rules of kstatus.

Promises: pure functions over JSON. Beyond kstatus, pods that cannot come up by themselves (crash
loops, images that cannot be pulled, no node that takes them) make a workload Failed, because its
own status tells of them only after minutes, or never. A CronJob that is there is Current: how its Jobs
end says nothing of whether customers are served.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RESTART
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.providers.kube import ownership, scaling
from recell.providers.kube.api import Object

STUCK = frozenset(
    {
        "CrashLoopBackOff",
        "ImagePullBackOff",
        "ErrImagePull",
        "ErrImageNeverPull",
        "InvalidImageName",
        "ImageInspectError",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
        "PreStartHookError",
        "PostStartHookError",
    }
)
"""Reasons for which a container waits and that do not pass without somebody mending something."""

PODS_NAMED = 3
ENDED = frozenset({"Succeeded", "Failed"})
"""Phases of a pod whose containers have all ended for good."""
_ANNOTATIONS = (*ownership.ANNOTATIONS, *scaling.ANNOTATIONS)


@dataclass(frozen=True)
class _Counts:
    desired: int
    ready: int
    settled: str
    """Empty when every pod is of the newest revision and available, else what is awaited."""
    failed: str = ""


def assess(ref: WorkloadRef, obj: Object, pods: Sequence[Object] | None = None) -> WorkloadState:
    """`pods`: those of its selector where they are known; needed for what is wrong, not for what is right."""
    if ref.kind is WorkloadKind.CRON_JOB:
        return _cron_job(ref, obj, pods)
    counts = _ASSESS[ref.kind](obj)
    unseen = _unseen(obj)
    stuck = [text for text in (stuck_reason(pod) for pod in pods or ()) if text]
    running = _running(obj, pods)
    message = f"{counts.ready} of {counts.desired} pods ready"
    if counts.desired == 0 and running:
        message = f"{message}; {running} not yet ended"
    if counts.failed:
        phase, message = WorkloadPhase.FAILED, f"{message}; {counts.failed}"
    elif unseen or counts.settled:
        phase, message = WorkloadPhase.IN_PROGRESS, f"{message}; {unseen or counts.settled}"
    else:
        phase = WorkloadPhase.CURRENT
    if stuck and phase != WorkloadPhase.CURRENT:
        more = f"; and {len(stuck) - PODS_NAMED} more" if len(stuck) > PODS_NAMED else ""
        phase, message = WorkloadPhase.FAILED, f"{message}; {'; '.join(stuck[:PODS_NAMED])}{more}"
    return WorkloadState(
        ref=ref,
        phase=phase,
        message=message,
        desired=counts.desired,
        ready=counts.ready,
        updated=not unseen and not counts.settled and not counts.failed,
        restart_token=restart_token(obj),
        stop_token=scaling.stop_token(obj),
        pods=running,
        owned_by=ownership.owner_of(obj),
    )


def _cron_job(ref: WorkloadRef, obj: Object, pods: Sequence[Object] | None) -> WorkloadState:
    suspended = scaling.SUSPEND.stopped(obj)
    running = None if pods is None else sum(1 for pod in pods if may_run(pod))
    message = "suspended" if suspended else "scheduled"
    return WorkloadState(
        ref=ref,
        phase=WorkloadPhase.CURRENT,
        message=f"{message}; {running} pods not yet ended" if running else message,
        desired=0 if suspended else None,
        updated=True,
        stop_token=scaling.stop_token(obj),
        pods=running,
        owned_by=ownership.owner_of(obj),
    )


def restart_token(obj: Object) -> str | None:
    annotations = (_template(obj).get("metadata") or {}).get("annotations") or {}
    value = annotations.get(ANNOTATION_RESTART)
    return None if value is None else str(value)


def cannot_restart(ref: WorkloadRef, obj: Object) -> str:
    """Why a new template would not replace every pod: the field and what to do; empty if it would."""
    spec = obj["spec"]
    if ref.kind == WorkloadKind.CRON_JOB:
        return "its next Job starts anew"
    if ref.kind == WorkloadKind.DEPLOYMENT:
        return "spec.paused is true: resume the Deployment first" if spec.get("paused") else ""
    strategy = spec.get("updateStrategy") or {}
    if strategy.get("type") == "OnDelete":
        return "spec.updateStrategy.type is OnDelete, so pods are not replaced by themselves: use RollingUpdate"
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    if ref.kind == WorkloadKind.STATEFUL_SET and partition > 0:
        return (
            f"spec.updateStrategy.rollingUpdate.partition is {partition}, so pods below that ordinal"
            " are not replaced: set it to 0"
        )
    return ""


def selector_of(obj: Object) -> str:
    """The workload's pod selector as a query."""
    selector = obj["spec"].get("selector") or {}
    terms = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for expression in selector.get("matchExpressions") or ():
        key, values = expression["key"], ",".join(expression.get("values") or ())
        terms.append(
            {
                "In": f"{key} in ({values})",
                "NotIn": f"{key} notin ({values})",
                "Exists": key,
                "DoesNotExist": f"!{key}",
            }[expression["operator"]]
        )
    return ",".join(terms)


def _running(obj: Object, pods: Sequence[Object] | None) -> int | None:
    """None: not known. No pod at all is not known either while its controller may be about to make or count some."""
    if pods is None:
        return None
    running, status = sum(1 for pod in pods if may_run(pod)), obj.get("status") or {}
    counted = status.get("replicas") or status.get("currentNumberScheduled")
    return None if not running and (counted or _unseen(obj)) else running


def may_run(pod: Object) -> bool:
    """A pod that is ending still runs, until its phase says otherwise or it is gone."""
    return (pod.get("status") or {}).get("phase") not in ENDED


def stuck_reason(pod: Object) -> str:
    """Why a pod does not come up by itself: `web-x: CrashLoopBackOff (exit 1, 5 restarts)`; else empty."""
    if pod["metadata"].get("deletionTimestamp"):
        return ""
    status = pod.get("status") or {}
    name = pod["metadata"]["name"]
    for container in containers(status):
        waiting = (container.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") in STUCK:
            return f"{name}: {waiting['reason']}{_detail(container, waiting)}"
        ended = (container.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode") and int(container.get("restartCount") or 0) > 0:
            return f"{name}: {container['name']} ended{_detail(container, ended)}"
    if status.get("phase") == "Failed":
        return f"{name}: {status.get('reason') or 'Failed'}{_short(status.get('message'))}"
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return f"{name}: {condition.get('reason', 'Unschedulable')}{_short(condition.get('message'))}"
    return ""


def slim_workload(obj: Object) -> Object:
    """Only what `assess`, `cannot_restart`, `selector_of` and `scaling.Lever` read."""
    spec, template = obj["spec"], _template(obj)
    kept = {
        name: spec[name] for name in ("replicas", "selector", "paused", "updateStrategy", "suspend") if name in spec
    }
    kept["template"] = {"metadata": {"annotations": (template.get("metadata") or {}).get("annotations") or {}}}
    slim = _head(obj) | {"spec": kept, "status": obj.get("status") or {}}
    annotations = obj["metadata"].get("annotations") or {}
    if marks := {name: annotations[name] for name in _ANNOTATIONS if name in annotations}:
        slim["metadata"]["annotations"] = marks
    return slim


def slim_pod(obj: Object) -> Object:
    """Only what `stuck_reason` and `may_run` read."""
    status = obj.get("status") or {}
    names = ("phase", "reason", "message", "conditions", "containerStatuses", "initContainerStatuses")
    return _head(obj) | {"status": {name: status[name] for name in names if name in status}}


def _head(obj: Object) -> Object:
    names = ("name", "namespace", "uid", "resourceVersion", "generation", "labels", "deletionTimestamp")
    return {"metadata": {name: obj["metadata"][name] for name in names if name in obj["metadata"]}}


def _template(obj: Object) -> Object:
    template: Object = obj["spec"].get("template") or {}
    return template


def _unseen(obj: Object) -> str:
    generation = int(obj["metadata"].get("generation") or 0)
    observed = int((obj.get("status") or {}).get("observedGeneration") or 0)
    return "" if observed >= generation else "its controller has not seen the newest change yet"


def _deployment(obj: Object) -> _Counts:
    status = obj.get("status") or {}
    desired = scaling.REPLICAS.now(obj)
    total, updated, ready, available = _numbers(
        status, "replicas", "updatedReplicas", "readyReplicas", "availableReplicas"
    )
    for condition in status.get("conditions") or ():
        if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
            return _Counts(desired, ready, "", f"ProgressDeadlineExceeded{_short(condition.get('message'))}")
    if updated < desired:
        awaited = f"{updated} of {desired} pods are of the newest revision"
    elif total > updated:
        awaited = f"{total - updated} pods of an older revision are ending"
    elif total > desired:
        awaited = f"{total - desired} pods too many are ending"
    elif available < desired:
        awaited = f"{available} of {desired} pods are available"
    else:
        awaited = "" if ready >= desired else f"{ready} of {desired} pods are ready"
    return _Counts(desired, ready, awaited)


def _stateful_set(obj: Object) -> _Counts:
    status = obj.get("status") or {}
    desired = scaling.REPLICAS.now(obj)
    total, updated, ready = _numbers(status, "replicas", "updatedReplicas", "readyReplicas")
    # Servers before 1.22 and sets with minReadySeconds 0 may leave it out.
    available = int(status.get("availableReplicas", ready) or 0)
    strategy = obj["spec"].get("updateStrategy") or {}
    partition = int((strategy.get("rollingUpdate") or {}).get("partition") or 0)
    if ready < desired:
        return _Counts(desired, ready, f"{ready} of {desired} pods are ready")
    if available < desired:
        return _Counts(desired, ready, f"{available} of {desired} pods are available")
    if total > desired:
        return _Counts(desired, ready, f"{total - desired} pods too many are ending")
    if strategy.get("type") == "OnDelete" or desired == 0:
        return _Counts(desired, ready, "")
    if partition > 0:
        wanted = max(0, desired - partition)
        return _Counts(
            desired, ready, "" if updated >= wanted else f"{updated} of {wanted} pods above the partition are new"
        )
    newest, current = status.get("updateRevision"), status.get("currentRevision")
    if newest != current and updated < desired:
        return _Counts(desired, ready, f"{updated} of {desired} pods are of the newest revision")
    return _Counts(desired, ready, "")


def _daemon_set(obj: Object) -> _Counts:
    status = obj.get("status") or {}
    desired, current, updated, ready, available = _numbers(
        status,
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "updatedNumberScheduled",
        "numberReady",
        "numberAvailable",
    )
    on_delete = (obj["spec"].get("updateStrategy") or {}).get("type") == "OnDelete"
    if current < desired:
        awaited = f"{current} of {desired} pods are scheduled"
    elif updated < desired and not on_delete:
        awaited = f"{updated} of {desired} pods are of the newest revision"
    elif available < desired:
        awaited = f"{available} of {desired} pods are available"
    else:
        awaited = "" if ready >= desired else f"{ready} of {desired} pods are ready"
    return _Counts(desired, ready, awaited)


_ASSESS = {
    WorkloadKind.DEPLOYMENT: _deployment,
    WorkloadKind.STATEFUL_SET: _stateful_set,
    WorkloadKind.DAEMON_SET: _daemon_set,
}


def _numbers(status: Mapping[str, Any], *names: str) -> tuple[int, ...]:
    return tuple(int(status.get(name) or 0) for name in names)


def containers(status: Mapping[str, Any]) -> Iterator[Object]:
    for name in ("initContainerStatuses", "containerStatuses"):
        yield from status.get(name) or ()


def _detail(container: Object, state: Mapping[str, Any]) -> str:
    last = (container.get("lastState") or {}).get("terminated") or {}
    code = state.get("exitCode", last.get("exitCode"))
    reason = state.get("reason") if "exitCode" in state else last.get("reason")
    parts = [] if code is None else [f"exit {code}" + (", OOMKilled" if reason == "OOMKilled" else "")]
    restarts = int(container.get("restartCount") or 0)
    if restarts:
        parts.append(f"{restarts} restarts" if restarts > 1 else "1 restart")
    if parts:
        return f" ({', '.join(parts)})"
    return _short(state.get("message"))


def _short(message: str | None) -> str:
    text = " ".join((message or "").split())
    if not text:
        return ""
    return f" ({text})" if len(text) <= 160 else f" ({text[:157]}...)"
