"""What a data Job and its pods say about how far it is.

Promises: pure functions over JSON. What keeps a pod from starting is told in the pod's own words, since a Job's status
is silent about it.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from recell.api.meta import LABEL_DATA_JOB
from recell.providers.kube.api import Object
from recell.providers.kube.kstatus import stuck_reason

JOB_NAME = "batch.kubernetes.io/job-name"
JOB_UID = "batch.kubernetes.io/controller-uid"
"""On a pod: its Job, and which one of that name."""
DEFAULT_CONTAINER = "kubectl.kubernetes.io/default-container"

NO_POD_YET = 10.0
"""Seconds in which the Job's controller makes its pod, unless something refuses it."""
QUOTED_LINES = 5
QUOTED_LENGTH = 500
_PROGRESS = re.compile(r"^\s*recell-progress (\{.*\})\s*$")


@dataclass(frozen=True)
class Ended:
    succeeded: bool
    reason: str
    message: str


@dataclass(frozen=True)
class Exit:
    """How a container of one of the Job's pods ended."""

    pod: str
    container: str
    code: int
    reason: str
    said: str
    """Its termination message."""
    at: str

    def __str__(self) -> str:
        return f"exit code {self.code}" + (f", {self.reason}" if self.reason not in ("", "Error", "Completed") else "")


def ended(job: Object) -> Ended | None:
    """None while it is at work."""
    for condition in _status(job).get("conditions") or ():
        if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
            text = condition.get("message") or ""
            return Ended(condition["type"] == "Complete", condition.get("reason") or "Failed", text)
    return None


def container_of(job: Object) -> str:
    """The container whose result and log count: the one that kubectl shows too, else the first."""
    template = job["spec"]["template"]
    named = ((template.get("metadata") or {}).get("annotations") or {}).get(DEFAULT_CONTAINER)
    return str(named or template["spec"]["containers"][0]["name"])


def result(pods: Sequence[Object], container: str) -> Exit | None:
    """How the newest pod that succeeded ended."""
    done = [pod for pod in pods if _status(pod).get("phase") == "Succeeded"]
    return _newest(e for pod in done for e in _exits(pod) if e.container == container and e.code == 0)


def failure(pods: Sequence[Object], container: str) -> Exit | None:
    """How the last attempt failed, if need be in another container: one that stands beside is ended by a signal."""
    bad = [e for pod in pods for e in _exits(pod) if e.code != 0]
    return _newest(e for e in bad if e.container == container) or _newest(bad)


def running_pod(pods: Sequence[Object]) -> str | None:
    """Name of a pod whose log may be read."""
    return next((pod["metadata"]["name"] for pod in pods if _status(pod).get("phase") == "Running"), None)


def described(job: Object, pods: Sequence[Object], now: datetime) -> str:
    """A Job at work, for people; what it waits for, if it waits. `pods`: as far as they are known."""
    status = _status(job)
    tried = int(status.get("failed") or 0)
    attempt = f", attempt {tried + 1}" if tried else ""
    if job["spec"].get("suspend"):
        return f"is suspended: set its spec.suspend to false{attempt}"
    waiting = [pod for pod in pods if _status(pod).get("phase") in ("Pending", "Running")]
    stuck = [text for text in map(stuck_reason, waiting) if text]
    if stuck:
        return f"waits{attempt}: {stuck[0]}"
    if not status.get("active") and not tried and _age(job, now) > NO_POD_YET:
        metadata = job["metadata"]
        return (
            "has no pod yet: a quota or an admission rule may refuse it; to see why: kubectl"
            f" -n {metadata['namespace']} describe job {metadata['name']}"
        )
    return f"runs{attempt}"


def progress(log: str) -> tuple[int, int] | None:
    """Done and all, by the last line that tells both as whole numbers."""
    for line in reversed(log.splitlines()):
        match = _PROGRESS.match(line)
        if match is None:
            continue
        try:
            told = json.loads(match[1])
        except ValueError:
            continue
        done, of = told.get("done"), told.get("of")
        if type(done) is int and type(of) is int and 0 <= done <= of:
            return done, of
    return None


def quoted(log: str) -> str:
    """The last lines of a log on one line, without its progress."""
    lines = [" ".join(line.split()) for line in log.splitlines() if line.strip() and not _PROGRESS.match(line)]
    text = " | ".join(line for line in lines[-QUOTED_LINES:])
    # The end says what went wrong.
    return text if len(text) <= QUOTED_LENGTH else "…" + text[1 - QUOTED_LENGTH :]


def slim(job: Object) -> Object:
    """Only what is read here: most of a Job is its template."""
    spec = job["spec"]
    template = spec["template"]
    kept = {
        "metadata": {"annotations": (template.get("metadata") or {}).get("annotations") or {}},
        "spec": {"containers": [{"name": c["name"]} for c in template["spec"]["containers"]]},
    }
    return {
        "metadata": job["metadata"],
        "spec": {"suspend": spec.get("suspend") or False, "template": kept},
        "status": job.get("status") or {},
    }


def of_job(job: Object) -> str:
    """Selector of this very Job's pods; one made anew under its name has others."""
    return f"{JOB_UID}={job['metadata']['uid']}"


def of_name(name: str) -> str:
    """Selector of the pods of every data Job of this name, also of one that is gone."""
    return f"{JOB_NAME}={name},{LABEL_DATA_JOB}=true"


def alive(pod: Object) -> bool:
    return _status(pod).get("phase") not in ("Succeeded", "Failed")


def _status(obj: Object) -> Any:
    return obj.get("status") or {}


def _age(job: Object, now: datetime) -> float:
    return (now - datetime.fromisoformat(job["metadata"]["creationTimestamp"])).total_seconds()


def _exits(pod: Object) -> Iterator[Exit]:
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in _status(pod).get(kind) or ():
            for when in ("lastState", "state"):
                end = (container.get(when) or {}).get("terminated")
                if end:
                    yield Exit(
                        pod=pod["metadata"]["name"],
                        container=container["name"],
                        code=int(end.get("exitCode") or 0),
                        reason=end.get("reason") or "",
                        said=end.get("message") or "",
                        at=end.get("finishedAt") or "",
                    )


def _newest(exits: Iterable[Exit]) -> Exit | None:
    return max(exits, key=lambda e: e.at, default=None)
