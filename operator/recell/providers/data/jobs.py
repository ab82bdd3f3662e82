"""Data by Jobs of the users' own: the `Data` port made real by the contract in docs/providers/jobs.md.

Promises
- One request is one Job, under a name that follows from its key: begun once, however often it is asked for, and by
  whichever process. Another request under that name is refused.
- Only with the consent of the namespace in which it runs, asked right before it begins.
- Jobs are watched once something was asked of their namespace, pods while their Job is at work, and each change
  wakes who waits (`on_change`).
- What a Job says is believed as far as `job_result` can read it, and told in its own words where it failed.

Must not: delete a Job that has ended (its log is for people; Kubernetes removes it in time), nor read or write data
itself.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from recell.api import Cell
from recell.api.meta import ANNOTATION_REQUEST, LABEL_DATA_JOB
from recell.domain.data import Answer, Progress, Request
from recell.domain.wording import clipped
from recell.engine.errors import BadInput, Conflict, NotFound
from recell.engine.ports import Clock, Key
from recell.providers.data import job_result, job_status, job_template
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CRON_JOBS, JOBS, PODS
from recell.providers.kube.pods import PodWatches, WorkloadKey, log_of
from recell.providers.kube.reflector import Reflector, key_of

logger = logging.getLogger(__name__)

LOG_INTERVAL = 5.0
"""Seconds between two looks into a log for progress: no watch serves logs."""
LOG_LINES = 20
LOG_BYTES = 16384


@dataclass
class _Awaited:
    """A Job at work that somebody asked for."""

    cell: Key
    uid: str
    counted: tuple[int, int] | None = None
    """Progress as its log told it last."""
    looked: float = float("-inf")
    """Monotonic moment of that look."""


class JobsData:
    """`require_consent` raises Forbidden unless the namespace of the cell's workloads consents to the Cell.
    `on_change` is told the key of the Cell of a request whose Job or pods changed. `namespaces` as they are watched:
    ("",) is all of them."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        namespaces: Sequence[str] = ("",),
        *,
        require_consent: Callable[[Cell], Awaitable[None]],
        on_change: Callable[[Key], None],
    ) -> None:
        self._api = api
        self._clock = clock
        self._everywhere = "" in namespaces
        self._require_consent = require_consent
        self._on_change = on_change
        self._watches: dict[str, Reflector] = {}
        self._pods = PodWatches(api, clock, lambda workload: self._changed(workload[1:]))
        self._awaited: dict[Key, _Awaited] = {}

    @property
    def reflectors(self) -> Sequence[Reflector]:
        """Those that run at present; they come with the first request."""
        return (*self._watches.values(), *self._pods.reflectors)

    async def stop(self) -> None:
        await self._pods.stop()
        await asyncio.gather(*(watch.stop() for watch in self._watches.values()))

    # The port

    async def ensure(self, request: Request) -> Answer:
        """Raises BadInput when its name belongs to another Job, beside what the port says."""
        cron_job = job_template.cron_job_of(request)
        if cron_job is None:
            field, cell = job_template.field_of(request), "/".join(request.cell.key)
            return Answer(Progress.UNSUPPORTED, f"Cell {cell}: {field} is not set: name the CronJob that does it")
        place = (request.cell.workload_namespace, request.key)
        job = await self._find(place)
        if job is None:
            job = await self._begin(request, cron_job)
        if (job["metadata"].get("annotations") or {}).get(ANNOTATION_REQUEST) != job_template.digest(request):
            raise BadInput(
                f"Job {place[0]}/{place[1]} is not the one of this request ({request.operation} of cell"
                f" {request.cell.metadata.name}): another request, or somebody else, has taken its name; delete it"
            )
        return await self._answer(request, job)

    async def cancel(self, request: Request) -> bool:
        """Deletes the Job with its pods, unless it has ended."""
        place = (request.cell.workload_namespace, request.key)
        path = JOBS.path(*place)
        try:
            job = await self._api.get(path)
        except NotFound:
            self._forget(place)
            pods = await self._api.list(PODS.collection(place[0]), labels=job_status.of_name(place[1]))
            return not any(map(job_status.alive, pods.items))
        metadata = job["metadata"]
        if ANNOTATION_REQUEST not in (metadata.get("annotations") or {}) or job_status.ended(job):
            self._forget(place)
            return True
        self._watch(place[0])
        self._await(request, job)
        if not metadata.get("deletionTimestamp"):
            logger.info("stopping Job %s/%s", *place)
            with suppress(NotFound, Conflict):  # it went by itself: the next look tells
                await self._api.delete(path, uid=metadata["uid"], propagation="Foreground")
        return False

    # Finding and beginning

    async def _find(self, place: Key) -> Object | None:
        watch = self._watch(place[0])
        if watch.current:
            return watch.get(place)
        try:
            return await self._api.get(JOBS.path(*place))
        except NotFound:
            return None

    async def _begin(self, request: Request, cron_job: str) -> Object:
        cell, namespace = request.cell, request.cell.workload_namespace
        await self._require_consent(cell)
        try:
            template = await self._api.get(CRON_JOBS.path(namespace, cron_job))
        except NotFound as error:
            raise BadInput(
                f"Cell {cell.key[0]}/{cell.key[1]}: {job_template.field_of(request)}: CronJob {namespace}/{cron_job}"
                " does not exist: create it or correct the name"
            ) from error
        try:
            job = await self._api.create(JOBS.collection(namespace), job_template.made_from(template, request))
            logger.info("made Job %s/%s from CronJob %s (%s)", namespace, request.key, cron_job, request.operation)
        except Conflict:
            job = await self._api.get(JOBS.path(namespace, request.key))
        if LABEL_DATA_JOB in (job["metadata"].get("labels") or {}):
            self._watch(namespace).put(job)
        return job

    def _watch(self, namespace: str) -> Reflector:
        scope = "" if self._everywhere else namespace
        if scope not in self._watches:
            labels = f"{LABEL_DATA_JOB}=true"
            watch = Reflector(self._api, JOBS.collection(scope), self._clock, labels=labels, trim=job_status.slim)
            watch.subscribe(self._job_changed)
            watch.start()
            self._watches[scope] = watch
        return self._watches[scope]

    # Answering

    async def _answer(self, request: Request, job: Object) -> Answer:
        place = key_of(job)
        name = f"Job {place[0]}/{place[1]}"
        if job["metadata"].get("deletionTimestamp"):
            self._await(request, job)
            return Answer(Progress.RUNNING, f"{name} is being deleted; it is made again when it is gone")
        end = job_status.ended(job)
        if end is None:
            return await self._at_work(request, job, name)
        self._forget(place)
        pods = (await self._api.list(PODS.collection(place[0]), labels=job_status.of_job(job))).items
        if not end.succeeded:
            return Answer(Progress.FAILED, await self._why_failed(job, end, pods))
        result = job_status.result(pods, job_status.container_of(job))
        if result is None:
            return Answer(
                Progress.FAILED, f"{name} succeeded, but its pod is gone, and with it the result: nobody may delete it"
            )
        return job_result.read(request, result.said)

    async def _at_work(self, request: Request, job: Object, name: str) -> Answer:
        place = key_of(job)
        awaited = self._await(request, job)
        workload: WorkloadKey = (JOBS.kind, *place)
        self._pods.open(workload, job_status.of_job(job))
        pods = self._pods.pods(workload) or ()
        await self._count(awaited, job, pods)
        done, of = awaited.counted or (None, None)
        described = job_status.described(job, pods, self._clock.now())
        return Answer(Progress.RUNNING, clipped(f"{name} {described}"), done=done, of=of)

    async def _count(self, awaited: _Awaited, job: Object, pods: Sequence[Object]) -> None:
        pod, now = job_status.running_pod(pods), self._clock.monotonic()
        if pod is None or now < awaited.looked + LOG_INTERVAL:
            return
        awaited.looked = now
        log = await self._log(job["metadata"]["namespace"], pod, job_status.container_of(job))
        awaited.counted = job_status.progress(log) or awaited.counted

    async def _why_failed(self, job: Object, end: job_status.Ended, pods: Sequence[Object]) -> str:
        namespace, name = key_of(job)
        text = f"Job {namespace}/{name} failed: {end.reason}" + (f" ({end.message})" if end.message else "")
        last = job_status.failure(pods, job_status.container_of(job))
        if last is None:
            # Kubernetes deletes the pods of a Job that ran too long, and those that are restarted in place.
            return clipped(f"{text}. None of its pods is left to say more")
        log = await self._log(namespace, last.pod, last.container) or last.said
        words = job_status.quoted(log)
        text += f"; the last attempt ended with {last}"
        return clipped(f"{text}. It said last: {words}" if words else f"{text} and said nothing")

    async def _log(self, namespace: str, pod: str, container: str) -> str:
        return await log_of(self._api, namespace, pod, container, lines=LOG_LINES, most=LOG_BYTES)

    # Waking

    def _await(self, request: Request, job: Object) -> _Awaited:
        place, uid = key_of(job), job["metadata"]["uid"]
        known = self._awaited.get(place)
        if known is None or known.uid != uid:
            known = self._awaited[place] = _Awaited(request.cell.key, uid)
        return known

    def _forget(self, place: Key) -> None:
        self._awaited.pop(place, None)
        self._pods.close((JOBS.kind, *place))

    def _job_changed(self, place: Key, old: Object | None, new: Object | None) -> None:
        self._changed(place)
        if new is None or job_status.ended(new):
            self._forget(place)  # whoever asked may never come back

    def _changed(self, place: Key) -> None:
        awaited = self._awaited.get(place)
        if awaited is not None:
            self._on_change(awaited.cell)
