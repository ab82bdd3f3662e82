"""Is an object of any kind Current? By the rules of kstatus, and in the object's own words where it is not.

Promises: pure functions over JSON. Failed is only what does not pass without somebody mending something: a cell
that is just being made has pods that crash until their database answers, and that wait for a node or a volume.

Beyond kstatus: an Argo CD Application, which has no such conditions, is Current when it is Synced and Healthy; a
Cluster of CloudNativePG, which has none at first, when it is Ready; a claim that waits for its first pod is Current,
because a pod that needs it says so itself; a kind with a status of which nothing is known yet is given `SILENCE`
seconds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recell.api.cell import WorkloadKind, WorkloadRef
from recell.domain.observation import WorkloadPhase
from recell.domain.provisioning import Progress
from recell.domain.wording import clipped
from recell.providers.kube import kstatus
from recell.providers.kube.api import Object
from recell.providers.kube.discovery import Kind

SILENCE = 30.0
"""Seconds that a new object of a kind with a status subresource may say nothing. Many controllers never write one."""
SAID = 300
"""Most characters of an object's own words."""
UNUSABLE_IMAGE = frozenset({"ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"})
"""Reasons for which a container of a new cell never starts."""
NOT_ALLOWED = ("exceeded quota", "violates PodSecurity")
"""In the words of ReplicaFailure: refusals that do not pass by themselves. Others do, a ServiceAccount that is about
to be made for example."""
_PROVISIONER = ("volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner")
"""Annotation of a claim for which a volume is being made."""


@dataclass(frozen=True)
class Readiness:
    progress: Progress
    says: str = ""
    """What is waited for, or what has failed."""


READY = Readiness(Progress.READY)

Rule = Callable[[Object, Sequence[Object]], Readiness]


def readiness(kind: Kind, obj: Object, pods: Sequence[Object], now: datetime) -> Readiness:
    """`pods`: those of its selector where they are known; needed for what is wrong, not for what is right."""
    if obj["metadata"].get("deletionTimestamp"):
        return _waits("is being deleted")
    rule = _RULES.get((kind.resource.group, kind.resource.kind))
    if rule is not None:
        return rule(obj, pods)
    if kind.has_status and not obj.get("status") and _age(obj, now) < SILENCE:
        return _waits("its controller has said nothing yet")
    return _by_conditions(obj)


def has_pods(kind: Kind) -> bool:
    """Its pods' own words are of use while it is not Current."""
    return (kind.resource.group, kind.resource.kind) in _WITH_PODS


def _waits(says: str) -> Readiness:
    return Readiness(Progress.IN_PROGRESS, clipped(says, SAID))


def _failed(says: str) -> Readiness:
    return Readiness(Progress.FAILED, clipped(says, SAID))


def _age(obj: Object, now: datetime) -> float:
    made = obj["metadata"].get("creationTimestamp")
    return (now - datetime.fromisoformat(made)).total_seconds() if made else 0.0


def _conditions(obj: Object) -> dict[str, Mapping[str, Any]]:
    listed = (obj.get("status") or {}).get("conditions")
    found = listed if isinstance(listed, list) else ()
    return {str(c["type"]): c for c in found if isinstance(c, dict) and "type" in c}


def _words(condition: Mapping[str, Any]) -> str:
    said = [str(condition[name]) for name in ("reason", "message") if condition.get(name)]
    return ": ".join(said) or f"{condition['type']} is {condition.get('status')}"


def _is(condition: Mapping[str, Any] | None, status: str) -> bool:
    return condition is not None and condition.get("status") == status


def _by_conditions(obj: Object) -> Readiness:
    """Flux, Crossplane, and whoever else keeps to Ready, Reconciling, Stalled."""
    status, generation = obj.get("status") or {}, int(obj["metadata"].get("generation") or 0)
    conditions = _conditions(obj)
    ready = conditions.get("Ready")
    if _is(conditions.get("Stalled"), "True"):
        return _failed(_words(conditions["Stalled"]))
    for seen in (status.get("observedGeneration"), (ready or {}).get("observedGeneration")):
        if isinstance(seen, int) and seen < generation:
            return _waits("its controller has not seen the newest change yet")
    if ready is not None and not _is(ready, "True"):
        return _waits(_words(ready))
    if _is(conditions.get("Reconciling"), "True"):
        return _waits(_words(conditions["Reconciling"]))
    if ready is None and _is(conditions.get("Synced"), "False"):  # Crossplane, before it knows of readiness
        return _waits(_words(conditions["Synced"]))
    return READY


def _with_pods(state: Readiness, pods: Sequence[Object]) -> Readiness:
    """The same with the words of the pods that do not come up, and Failed where an image cannot be had."""
    if state.progress is Progress.READY:
        return state
    words = [text for text in (kstatus.stuck_reason(pod) for pod in pods) if text]
    if not words:
        return state
    more = f"; and {len(words) - kstatus.PODS_NAMED} more" if len(words) > kstatus.PODS_NAMED else ""
    says = f"{state.says}; {'; '.join(words[: kstatus.PODS_NAMED])}{more}"
    return _failed(says) if any(_has_no_image(pod) for pod in pods) else Readiness(state.progress, clipped(says, SAID))


def _has_no_image(pod: Object) -> bool:
    waiting = [(c.get("state") or {}).get("waiting") or {} for c in kstatus.containers(pod.get("status") or {})]
    return any(state.get("reason") in UNUSABLE_IMAGE for state in waiting)


def _not_made(obj: Object) -> Readiness | None:
    """Pods that the API server refuses, by the condition that Deployments and ReplicaSets have for it."""
    refused = _conditions(obj).get("ReplicaFailure")
    if refused is None or not _is(refused, "True"):
        return None
    says = str(refused.get("message") or refused.get("reason"))
    return _failed(says) if any(words in says for words in NOT_ALLOWED) else _waits(says)


def _workload(kind: WorkloadKind) -> Rule:
    def rule(obj: Object, pods: Sequence[Object]) -> Readiness:
        ref = WorkloadRef(api_version="apps/v1", kind=kind, name=obj["metadata"]["name"])
        state = kstatus.assess(ref, obj)
        if state.phase is WorkloadPhase.CURRENT:
            return READY
        if state.phase is WorkloadPhase.FAILED:
            return _with_pods(_failed(state.message), pods)
        return _with_pods(_not_made(obj) or _waits(state.message), pods)

    return rule


def _replica_set(obj: Object, pods: Sequence[Object]) -> Readiness:
    status = obj.get("status") or {}
    desired, ready = int(obj["spec"].get("replicas", 1)), int(status.get("readyReplicas") or 0)
    seen = int(status.get("observedGeneration") or 0) >= int(obj["metadata"].get("generation") or 0)
    if seen and ready >= desired:
        return READY
    return _with_pods(_not_made(obj) or _waits(f"{ready} of {desired} pods ready"), pods)


def _job(obj: Object, pods: Sequence[Object]) -> Readiness:
    conditions, status = _conditions(obj), obj.get("status") or {}
    if _is(conditions.get("Complete"), "True"):
        return READY
    for name in ("Failed", "FailureTarget"):
        if _is(conditions.get(name), "True"):
            return _failed(_words(conditions[name]))
    if obj["spec"].get("suspend"):
        return _waits("spec.suspend is true, so it does not begin")
    active, failed = int(status.get("active") or 0), int(status.get("failed") or 0)
    return _with_pods(_waits(f"not complete: {active} pods at work, {failed} failed"), pods)


def _pod(obj: Object, pods: Sequence[Object]) -> Readiness:
    status = obj.get("status") or {}
    phase = status.get("phase")
    if phase == "Succeeded" or (phase == "Running" and _is(_conditions(obj).get("Ready"), "True")):
        return READY
    if phase == "Failed":
        return _failed(kstatus.stuck_reason(obj))
    return _with_pods(_waits(f"{phase or 'Pending'}, not ready"), (obj,))


def _claim(obj: Object, pods: Sequence[Object]) -> Readiness:
    phase = (obj.get("status") or {}).get("phase")
    if phase == "Lost":
        return _failed("Lost: its volume is gone")
    makers = [by for name in _PROVISIONER if (by := (obj["metadata"].get("annotations") or {}).get(name))]
    if phase == "Bound" or not makers:
        return READY  # without a maker no volume was asked for yet: a pod that needs it waits for it by itself
    return _waits(f"Pending: its volume is to be made by {makers[0]}")


def _service(obj: Object, pods: Sequence[Object]) -> Readiness:
    ingress = ((obj.get("status") or {}).get("loadBalancer") or {}).get("ingress")
    if obj["spec"].get("type") == "LoadBalancer" and not ingress:
        return _waits("its load balancer has no address yet")
    return READY


def _application(obj: Object, pods: Sequence[Object]) -> Readiness:
    """Argo CD. Degraded is not Failed: it also says so while pods crash that come up in the end."""
    status = obj.get("status") or {}
    conditions, operation = _conditions(obj), status.get("operationState") or {}
    if "InvalidSpecError" in conditions:
        return _failed(f"InvalidSpecError: {conditions['InvalidSpecError'].get('message', '')}")
    if operation.get("phase") in ("Failed", "Error"):
        return _failed(f"its sync ended as {operation['phase']}: {operation.get('message', '')}")
    sync, health = (status.get("sync") or {}).get("status"), status.get("health") or {}
    said = "".join(f"; {name}: {c.get('message', '')}" for name, c in conditions.items() if name.endswith("Error"))
    if not sync:
        return _waits(f"Argo CD has not compared it yet{said}")
    if sync != "Synced":
        by_hand = not ((obj["spec"].get("syncPolicy") or {}).get("automated") or operation)
        hint = " and spec.syncPolicy.automated is not set, so nothing syncs it" if by_hand else ""
        return _waits(f"{sync}{hint}{said}")
    if health.get("status") != "Healthy":
        told = f": {health['message']}" if health.get("message") else ""
        return _waits(f"Synced, health {health.get('status') or 'Unknown'}{told}{said}")
    return READY


def _postgres(obj: Object, pods: Sequence[Object]) -> Readiness:
    """CloudNativePG: a Cluster tells its phase long before it has any condition."""
    if _is(_conditions(obj).get("Ready"), "True"):
        return READY
    status = obj.get("status") or {}
    reason = f": {status['phaseReason']}" if status.get("phaseReason") else ""
    return _waits(f"{status.get('phase') or 'CloudNativePG has said nothing yet'}{reason}")


def _exists(obj: Object, pods: Sequence[Object]) -> Readiness:
    return READY


_WITH_PODS: dict[tuple[str, str], Rule] = {
    ("apps", "Deployment"): _workload(WorkloadKind.DEPLOYMENT),
    ("apps", "StatefulSet"): _workload(WorkloadKind.STATEFUL_SET),
    ("apps", "DaemonSet"): _workload(WorkloadKind.DAEMON_SET),
    ("apps", "ReplicaSet"): _replica_set,
    ("batch", "Job"): _job,
}
_RULES: dict[tuple[str, str], Rule] = _WITH_PODS | {
    ("", "Pod"): _pod,
    ("", "PersistentVolumeClaim"): _claim,
    ("", "Service"): _service,
    ("batch", "CronJob"): _exists,
    ("networking.k8s.io", "Ingress"): _exists,
    ("argoproj.io", "Application"): _application,
    ("postgresql.cnpg.io", "Cluster"): _postgres,
}
