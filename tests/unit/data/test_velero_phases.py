"""Each phase of Velero's Backups and Restores has words of its own."""

from typing import Any

import pytest

from recell.domain.data import Progress
from recell.providers.data.velero_phases import progress
from recell.providers.kube.api import Object


def backup(**status: Any) -> Object:
    return {"kind": "Backup", "metadata": {"name": "b-1", "namespace": "velero"}, "spec": {}, "status": status}


def restore(**status: Any) -> Object:
    return backup(**status) | {"kind": "Restore"}


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (
            backup(phase="Failed", failureReason="no bucket"),
            "Backup velero/b-1 failed: no bucket. See velero -n velero",
        ),
        (backup(phase="Failed", errors=2), "Backup velero/b-1 failed: 2 errors. See velero -n velero backup logs b-1"),
        (restore(phase="Failed"), "Restore velero/b-1 failed: Velero says not why"),
        (
            backup(phase="FailedValidation", validationErrors=["no storage location", "a bad selector"]),
            "is not valid for Velero (FailedValidation): no storage location and a bad selector",
        ),
        (backup(phase="FailedValidation"), "(FailedValidation): Velero says not why"),
        (
            restore(phase="PartiallyFailed", errors=1, warnings=3),
            "ended with parts missing (PartiallyFailed): 1 error and 3 warnings. See velero -n velero restore describe",
        ),
        (
            backup(phase="PartiallyFailed", failureReason="found a backup with status InProgress"),
            "(PartiallyFailed): found a backup with status InProgress; Velero counted no errors",
        ),
        (backup(phase="Deleting"), "Backup velero/b-1 is being deleted"),
    ],
)
def test_what_went_wrong_is_told_with_veleros_words(obj: Object, told: str) -> None:
    answer = progress(obj)
    assert answer.progress is Progress.FAILED
    assert told in answer.message


@pytest.mark.parametrize(
    ("obj", "told"),
    [
        (
            backup(),
            "another one is in progress, or Velero's server does not run (kubectl -n velero get deployment velero)",
        ),
        (backup() | {"status": None}, "has not been begun"),
        (restore(phase="New"), "Restore velero/b-1 has not been begun"),
        (backup(phase="Queued", queuePosition=3), "waits for other Backups to end, at place 3 of the queue"),
        (backup(phase="ReadyToStart"), "is about to begin"),
        (backup(phase="WaitingForPluginOperations"), "waits for the storage to finish its snapshots"),
        (backup(phase="WaitingForPluginOperationsPartiallyFailed"), "and will end PartiallyFailed"),
        (restore(phase="Finalizing"), "is being finished"),
        (restore(phase="FinalizingPartiallyFailed"), "is being finished, and will end PartiallyFailed"),
        (backup(phase="Invented"), "is in phase Invented"),
    ],
)
def test_what_takes_its_time_is_told(obj: Object, told: str) -> None:
    answer = progress(obj)
    assert answer.progress is Progress.RUNNING
    assert told in answer.message


@pytest.mark.parametrize(
    "obj",
    [
        backup(phase="InProgress", progress={"itemsBackedUp": 3, "totalItems": 8}),
        restore(phase="InProgress", progress={"itemsRestored": 3, "totalItems": 8}),
    ],
)
def test_how_far_it_is_is_told_in_items(obj: Object) -> None:
    answer = progress(obj)
    assert (answer.progress, answer.done, answer.of) == (Progress.RUNNING, 3, 8)


def test_it_is_done_when_velero_calls_it_completed() -> None:
    assert progress(backup(phase="Completed")).progress is Progress.DONE
