"""What a Backup or Restore of Velero says about itself: how far it is, and what to do where it does not go on.

Promises: pure functions over JSON. Every phase of velero.io/v1 has words of its own, with what Velero said; one that is
done is only what Velero calls Completed, for one that it calls PartiallyFailed lacks something that was asked for.
"""

from recell.domain.data import Answer, Progress
from recell.domain.wording import clipped, listed
from recell.providers.kube.api import Object

COMPLETED = "Completed"
_GOES_ON = {
    "ReadyToStart": "is about to begin",
    "WaitingForPluginOperations": "waits for the storage to finish its snapshots",
    "WaitingForPluginOperationsPartiallyFailed": "waits for the storage, and will end PartiallyFailed",
    "Finalizing": "is being finished",
    "FinalizingPartiallyFailed": "is being finished, and will end PartiallyFailed",
}
"""What takes its time, beside New, Queued and InProgress."""


def phase_of(obj: Object) -> str:
    """Empty: no server has looked at it."""
    return str((obj.get("status") or {}).get("phase") or "")


def progress(obj: Object) -> Answer:
    """Of a Backup or Restore; when it is done, what it holds or brought is for the caller to prove."""
    status, phase, name = obj.get("status") or {}, phase_of(obj), named(obj)
    if phase == COMPLETED:
        return Answer(Progress.DONE, f"{name} is completed")
    if phase in ("FailedValidation", "PartiallyFailed", "Failed", "Deleting"):
        return Answer(Progress.FAILED, clipped(f"{name} {_why(obj, phase, status)}"))
    if phase in ("", "New"):
        return Answer(
            Progress.RUNNING,
            f"{name} has not been begun: another one is in progress, or Velero's server does not run (kubectl -n"
            f" {obj['metadata']['namespace']} get deployment velero)",
        )
    if phase == "Queued":
        position = status.get("queuePosition")
        told = f", at place {position} of the queue" if position else ""
        return Answer(Progress.RUNNING, f"{name} waits for other Backups to end{told}")
    if phase == "InProgress":
        items = status.get("progress") or {}
        done, of = items.get("itemsBackedUp", items.get("itemsRestored")), items.get("totalItems")
        return Answer(Progress.RUNNING, f"{name} is in progress", done=done, of=of)
    return Answer(Progress.RUNNING, f"{name} {_GOES_ON.get(phase, f'is in phase {phase}')}")


def named(obj: Object) -> str:
    metadata = obj["metadata"]
    return f"{obj['kind']} {metadata['namespace']}/{metadata['name']}"


def _why(obj: Object, phase: str, status: Object) -> str:
    metadata, kind = obj["metadata"], obj["kind"].lower()
    ask = f"velero -n {metadata['namespace']} {kind}"
    if phase == "Deleting":
        return "is being deleted"
    if phase == "FailedValidation":
        words = listed(status.get("validationErrors") or ()) or "Velero says not why"
        return f"is not valid for Velero (FailedValidation): {words}"
    counted = [
        f"{count} {what if count > 1 else what[:-1]}"
        for what in ("errors", "warnings")
        if (count := int(status.get(what) or 0))
    ]
    reason = status.get("failureReason")
    if phase == "Failed":
        return f"failed: {reason or listed(counted) or 'Velero says not why'}. See {ask} logs {metadata['name']}"
    told = f"{reason}; " if reason else ""
    return (
        f"ended with parts missing (PartiallyFailed): {told}{listed(counted) or 'Velero counted no errors'}. See {ask}"
        f" describe {metadata['name']} --details"
    )
