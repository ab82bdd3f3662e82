"""Holding a workload at zero, and what has to be so before that (rule 6): pure functions over JSON.

Promises: the workload carries who holds it and what it had (its replicas; of a CronJob or Job, whether it was
suspended), so that a person can take it back; both are on the workload itself, since its pod template would make a
rollout of it. The field is written on the main resource by a field manager of its own: that is what Argo CD can be
told to leave alone.
"""

import json
from dataclasses import dataclass

from recell.api.cell import WorkloadKind
from recell.api.meta import ANNOTATION_REPLICAS, ANNOTATION_STOP, ANNOTATION_SUSPEND
from recell.providers.kube.api import HOLD_MANAGER, Object
from recell.providers.kube.ownership import last_manager, owner_of

ANNOTATIONS = (ANNOTATION_STOP, ANNOTATION_REPLICAS, ANNOTATION_SUSPEND)


def stop_token(obj: Object) -> str | None:
    """The token of whoever stopped it last."""
    return _annotations(obj).get(ANNOTATION_STOP)


@dataclass(frozen=True)
class Lever:
    """The field of the spec that stops a workload."""

    field: str
    default: int
    """What a spec that does not say means; `back` gives it where nothing is remembered."""
    zero: int
    annotation: str
    """Where what was before is kept."""
    does: str

    def now(self, obj: Object) -> int:
        said = obj["spec"].get(self.field)
        return self.default if said is None else said

    def stopped(self, obj: Object) -> bool:
        return self.now(obj) == self.zero

    def held(self, obj: Object) -> bool:
        """Stopped, and the operator keeps it so."""
        return self.stopped(obj) and stop_token(obj) is not None

    def to_zero(self, obj: Object, token: str) -> Object | None:
        """The merge patch; None: this very hold is in force."""
        known = stop_token(obj)
        if self.stopped(obj) and known == token:
            return None
        # Whoever scales back against a hold does not know better than what was before it.
        before = _annotations(obj).get(self.annotation) if self.stopped(obj) or known == token else None
        annotations = {ANNOTATION_STOP: token, self.annotation: before or json.dumps(self.now(obj))}
        return {"metadata": {"annotations": annotations}, "spec": {self.field: self.zero}}

    def back(self, obj: Object, token: str) -> Object | None:
        """The merge patch that undoes this hold, by whoever scaled back meanwhile too; None: it is not in force.

        Claims go on being kept: nobody loses data by that.
        """
        if stop_token(obj) != token:
            return None
        patch: Object = {"metadata": {"annotations": {ANNOTATION_STOP: None, self.annotation: None}}}
        if self.stopped(obj):
            before = _annotations(obj).get(self.annotation)
            patch["spec"] = {self.field: json.loads(before) if before else self.default}
        return patch

    def reverted(self, obj: Object) -> str:
        """What was reverted, by whom, and how to make that stop."""
        manager, owner = last_manager(obj, self.field), owner_of(obj)
        told = f"{self.does} was reverted twice, last by {manager}"
        if manager.endswith("/scale"):
            return f"{told}: suspend the autoscaler of this workload"
        advice = f"let it leave spec.{self.field} of this workload alone"
        if owner is not None and owner.startswith("Argo CD"):
            advice += f" ({owner}: ignoreDifferences with managedFieldsManagers [{HOLD_MANAGER}], and the sync option"
            advice += " RespectIgnoreDifferences=true)"
        elif owner is not None:
            advice += f" ({owner})"
        return f"{told}: {advice}"


REPLICAS = Lever("replicas", default=1, zero=0, annotation=ANNOTATION_REPLICAS, does="scaling to zero")
SUSPEND = Lever("suspend", default=False, zero=True, annotation=ANNOTATION_SUSPEND, does="suspending it")


def lever(kind: WorkloadKind) -> Lever:
    return SUSPEND if kind is WorkloadKind.CRON_JOB else REPLICAS


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


def _when_scaled(obj: Object) -> str | None:
    said = (obj["spec"].get("persistentVolumeClaimRetentionPolicy") or {}).get("whenScaled")
    return None if said is None else str(said)


def _annotations(obj: Object) -> dict[str, str]:
    found: dict[str, str] = obj["metadata"].get("annotations") or {}
    return found
