"""Holding a workload at zero, and what has to be so before that (rule 6): pure functions over JSON.

Promises: the workload carries who holds it and the replicas that it had, so that a person can scale it back; both
are on the workload itself, since its pod template would make a rollout of it. `spec.replicas` is written on the
main resource by a field manager of its own: that is what Argo CD can be told to leave alone.
"""

from recell.api.meta import ANNOTATION_REPLICAS, ANNOTATION_STOP
from recell.providers.kube.api import HOLD_MANAGER, Object
from recell.providers.kube.ownership import last_manager, owner_of

ANNOTATIONS = (ANNOTATION_STOP, ANNOTATION_REPLICAS)


def replicas(obj: Object) -> int:
    return int(obj["spec"].get("replicas", 1))


def stop_token(obj: Object) -> str | None:
    """The token of whoever scaled it last."""
    return _annotations(obj).get(ANNOTATION_STOP)


def held(obj: Object) -> bool:
    """At zero, and the operator keeps it there."""
    return replicas(obj) == 0 and stop_token(obj) is not None


def claims_at_risk(obj: Object) -> bool:
    """Would scaling down delete the claims of a StatefulSet, as far as its spec says? Unsaid is not safe."""
    return bool(obj["spec"].get("volumeClaimTemplates")) and _when_scaled(obj) != "Retain"


def why_at_risk(obj: Object) -> str:
    """For people, after `retain` was written and read back."""
    writer = last_manager(obj, "persistentVolumeClaimRetentionPolicy")
    return (
        "its claims would be deleted with its pods: spec.persistentVolumeClaimRetentionPolicy.whenScaled is"
        f" {_when_scaled(obj) or 'unset'} although it was set to Retain (written last by {writer}): set it to Retain"
        " where that comes from"
    )


def retain(obj: Object) -> Object | None:
    """The merge patch that lets the claims stay, and whenDeleted as it is; None: they stay already."""
    if not claims_at_risk(obj):
        return None
    return {"spec": {"persistentVolumeClaimRetentionPolicy": {"whenScaled": "Retain"}}}


def to_zero(obj: Object, token: str) -> Object | None:
    """The merge patch; None: this very hold is in force."""
    current, known = replicas(obj), stop_token(obj)
    if current == 0 and known == token:
        return None
    # Whoever scales back against a hold does not know better than what was before it.
    before = _annotations(obj).get(ANNOTATION_REPLICAS) if current == 0 or known == token else None
    annotations = {ANNOTATION_STOP: token, ANNOTATION_REPLICAS: before or str(current)}
    return {"metadata": {"annotations": annotations}, "spec": {"replicas": 0}}


def back(obj: Object, token: str) -> Object | None:
    """The merge patch that undoes this hold, by whoever scaled back meanwhile too; None: it is not in force.

    Claims go on being kept: nobody loses data by that.
    """
    if stop_token(obj) != token:
        return None
    patch: Object = {"metadata": {"annotations": dict.fromkeys(ANNOTATIONS)}}
    if replicas(obj) == 0:
        patch["spec"] = {"replicas": int(_annotations(obj).get(ANNOTATION_REPLICAS) or 1)}
    return patch


def reverted(obj: Object) -> str:
    """Who scales it back, and how to make that stop."""
    manager, owner = last_manager(obj, "replicas"), owner_of(obj)
    if manager.endswith("/scale"):
        return f"{manager}: suspend the autoscaler of this workload"
    advice = "let it leave spec.replicas of this workload alone"
    if owner is not None and owner.startswith("Argo CD"):
        advice += f" ({owner}: ignoreDifferences with managedFieldsManagers [{HOLD_MANAGER}], and the sync option"
        advice += " RespectIgnoreDifferences=true)"
    elif owner is not None:
        advice += f" ({owner})"
    return f"{manager}: {advice}"


def _when_scaled(obj: Object) -> str | None:
    said = (obj["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get("whenScaled")
    return None if said is None else str(said)


def _annotations(obj: Object) -> dict[str, str]:
    found: dict[str, str] = obj["metadata"].get("annotations") or {}
    return found
