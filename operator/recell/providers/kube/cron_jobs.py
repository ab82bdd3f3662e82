"""What runs of CronJobs: their Jobs and those Jobs' pods.

Promises
- A Job is a CronJob's by its owner reference, a pod by its Job. A data job of the operator has no owner.
- Pods are known only when no Job of the CronJob that is under way may make any more, and only `SETTLED` seconds after
  it was first looked at: a CronJob does not say which change its controller has seen.
- Nothing is read but of CronJobs that are held, and of those only until none of their pods is left.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recell.api.meta import LABEL_DATA_JOB
from recell.engine.errors import RecellError
from recell.engine.ports import Clock
from recell.providers.kube import kstatus
from recell.providers.kube.api import Api, Object
from recell.providers.kube.ownership import owned_by
from recell.providers.kube.paths import JOBS, PODS
from recell.providers.kube.pods import WorkloadKey

logger = logging.getLogger(__name__)

JOB_NAME = "batch.kubernetes.io/job-name"
"""Label of each pod of a Job."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 30.0
"""Seconds between two looks, ever longer: a pod of a lost node may never be gone."""
SETTLED = 5.0
"""Seconds in which a controller that has not seen yet that its CronJob is suspended may make one more Job."""


async def under_way(api: Api, cron_job: Object) -> list[Object]:
    """Its Jobs that have not ended. Raises Forbidden, Retryable."""
    return [job for job in await _jobs(api, cron_job) if _is_of(job, cron_job) and not _ended(job)]


async def pods(api: Api, cron_job: Object) -> list[Object]:
    """Those of its Jobs. Raises Forbidden, Retryable."""
    return await _pods(api, cron_job, await _jobs(api, cron_job))


async def left(api: Api, cron_job: Object) -> Sequence[Object] | None:
    """Its pods; None while there is none that may run, but a Job that may make one."""
    jobs = await _jobs(api, cron_job)
    found = await _pods(api, cron_job, jobs)
    if any(kstatus.may_run(pod) for pod in found):
        return found
    making = [job for job in jobs if _is_of(job, cron_job) and not _ended(job) and not _says(job, "Suspended")]
    return None if making else found


async def _jobs(api: Api, cron_job: Object) -> Sequence[Object]:
    return (await api.list(JOBS.collection(cron_job["metadata"]["namespace"]))).items


async def _pods(api: Api, cron_job: Object, jobs: Sequence[Object]) -> list[Object]:
    """Pods outlive a Job that is deleted or replaced: it is known by its name then."""
    metadata = cron_job["metadata"]
    known = {job["metadata"]["name"] for job in jobs}
    own = {job["metadata"]["name"] for job in jobs if _is_of(job, cron_job)}
    listing = await api.list(PODS.collection(metadata["namespace"]), labels=JOB_NAME)

    def belongs(job: str) -> bool:
        return job in own or (job not in known and job.rpartition("-")[0] == metadata["name"])

    return [pod for pod in listing.items if belongs(pod["metadata"]["labels"][JOB_NAME])]


def _is_of(job: Object, cron_job: Object) -> bool:
    return owned_by(job, cron_job["metadata"]["uid"])


def _ended(job: Object) -> bool:
    return _says(job, "Complete") or _says(job, "Failed")


def _says(job: Object, condition: str) -> bool:
    conditions = (job.get("status") or {}).get("conditions") or ()
    return any(c["type"] == condition and c["status"] == "True" for c in conditions)


def pod_selector(cron_job: Object) -> Mapping[str, Any] | None:
    """What selects the pods of its Jobs, and no data job made from it; None: they have no label of their own."""
    template = cron_job["spec"]["jobTemplate"]["spec"]["template"]
    labels = (template.get("metadata") or {}).get("labels")
    if not labels:
        return None
    return {
        "matchLabels": labels,
        "matchExpressions": [
            {"key": JOB_NAME, "operator": "Exists"},
            {"key": LABEL_DATA_JOB, "operator": "DoesNotExist"},
        ],
    }


class HeldCronJobs:
    """`on_change` is told of each CronJob whose pods look different, or are known from now on."""

    def __init__(self, api: Api, clock: Clock, on_change: Callable[[WorkloadKey], None]) -> None:
        self._api = api
        self._clock = clock
        self._on_change = on_change
        self._looking: dict[WorkloadKey, asyncio.Task[None]] = {}
        self._found: dict[WorkloadKey, Sequence[Object]] = {}

    def pods(self, workload: WorkloadKey) -> Sequence[Object] | None:
        """None while they are not known."""
        return self._found.get(workload)

    def open(self, workload: WorkloadKey, cron_job: Object) -> None:
        """Look until `close`. Repeatable."""
        if workload not in self._looking:
            self._looking[workload] = asyncio.create_task(self._look(workload, cron_job))

    def close(self, workload: WorkloadKey) -> None:
        self._found.pop(workload, None)
        if task := self._looking.pop(workload, None):
            task.cancel()

    async def stop(self) -> None:
        tasks = [*self._looking.values()]
        for workload in [*self._looking]:
            self.close(workload)
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self, workload: WorkloadKey, cron_job: Object) -> None:
        begun, pause = self._clock.monotonic(), FIRST_PAUSE
        while True:
            try:
                found = await left(self._api, cron_job)
            except RecellError as error:
                logger.info("%s %s/%s: its pods are not known: %s", *workload, error)
                found = None
            if not found and self._clock.monotonic() < begun + SETTLED:
                found = None
            if found != self._found.get(workload):
                if found is None:
                    del self._found[workload]
                else:
                    self._found[workload] = found
                self._on_change(workload)
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, LONGEST_PAUSE)
