"""The runs' own objects on the API server: the `Records` port made real.

Promises: each status write is a merge patch of what differs, under the run's resourceVersion; the answer
is in the store at once, so that the next look sees it. Claim and release may be repeated.
"""

import asyncio
from collections.abc import Awaitable
from typing import cast

from recell.api import Cell, RecoveryRun, Router
from recell.api.meta import ANNOTATION_RETIRED, ANNOTATION_RUN_HISTORY, ANNOTATION_STARTED_UID, FINALIZER
from recell.api.recovery_run import RecoveryRunStatus, TargetKind
from recell.controllers.patch import merge_patch
from recell.domain import runs
from recell.domain.decommission import Retirement
from recell.engine.errors import Conflict, NotFound
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, OWN, RUNS
from recell.providers.kube.store import KubeStore


def _cause(run: RecoveryRun) -> object:
    return run.spec.target_ref, run.spec.escalated_from


class RunRecords:
    def __init__(self, api: Api, store: KubeStore) -> None:
        self._api = api
        self._store = store

    async def save(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        patch = merge_patch(run.status.to_dict(), status.to_dict())
        body = {"metadata": {"resourceVersion": run.metadata.resource_version}, "status": patch}
        return self._keep(await self._patched(run, body, "status"))

    async def start(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        return await _at_once(self.save(run, status), self._remember(run))

    async def claim(self, run: RecoveryRun) -> RecoveryRun:
        return await _at_once(self._mark(run), self._remember(run))

    async def _mark(self, run: RecoveryRun) -> RecoveryRun:
        """The operator's own runs are born with their finalizer, and get the other mark when they end. What is being
        deleted may get no finalizer any more: it is aborted without."""
        meta = run.metadata
        if FINALIZER in meta.finalizers or meta.deletion_timestamp is not None:
            return run
        body = {
            "metadata": {
                "resourceVersion": meta.resource_version,
                "annotations": {ANNOTATION_STARTED_UID: meta.uid},
                "finalizers": sorted({*meta.finalizers, FINALIZER}),
            }
        }
        return self._keep(await self._patched(run, body))

    async def release(self, run: RecoveryRun) -> None:
        if FINALIZER not in run.metadata.finalizers:
            return
        meta = run.metadata
        finalizers = [name for name in meta.finalizers if name != FINALIZER]
        body: Object = {"metadata": {"resourceVersion": meta.resource_version, "finalizers": finalizers}}
        if run.status.started_at is not None:
            body["metadata"]["annotations"] = {ANNOTATION_STARTED_UID: meta.uid}
        try:
            answer = await self._patched(run, body)
        except NotFound:
            return
        if finalizers or run.metadata.deletion_timestamp is None:
            self._keep(answer)

    async def create(self, run: RecoveryRun) -> RecoveryRun:
        body = {
            "apiVersion": RUNS.api_version,
            "kind": RUNS.kind,
            "metadata": {
                "name": run.metadata.name,
                "namespace": run.metadata.namespace,
                "labels": run.metadata.labels,
                "annotations": run.metadata.annotations,
                "finalizers": run.metadata.finalizers,
            },
            "spec": run.spec.to_dict(),
        }
        try:
            return self._keep(await self._api.create(RUNS.collection(run.metadata.namespace), body))
        except Conflict:
            known = await self._api.get(RUNS.path(run.metadata.namespace, run.metadata.name))
            found = RecoveryRun.model_validate(known)
            # A run that was killed here may fail again in other words, or for another reason.
            if _cause(found) != _cause(run):
                raise Conflict(
                    f"RecoveryRun {run.metadata.name} exists already and was made for something else: delete it"
                ) from None
            return self._keep(known)

    async def abort(self, run: RecoveryRun) -> None:
        if run.spec.control is not None and run.spec.control.abort:
            return
        body = {"metadata": {"uid": run.metadata.uid}, "spec": {"control": {"abort": True}}}
        self._keep(await self._patched(run, body))

    async def retire(self, cell: Cell, retirement: Retirement) -> None:
        wanted = retirement.text()
        if cell.metadata.annotations.get(ANNOTATION_RETIRED) == wanted:
            return
        annotations = {ANNOTATION_RETIRED: wanted}
        body = {"metadata": {"uid": cell.metadata.uid, "annotations": annotations}}  # never another Cell of this name
        self._store.put(Cell, await self._api.merge_patch(CELLS.path(*cell.key), body))

    async def _remember(self, run: RecoveryRun) -> None:
        """The run's name and spec in its target's history: what is deleted and made anew is not run again."""
        key = (run.metadata.namespace, run.spec.target_ref.name)
        kind: type[Cell] | type[Router] = Cell if run.spec.target_ref.kind is TargetKind.CELL else Router
        target = self._store.cell(key) if kind is Cell else self._store.router(key)
        if target is None:
            return
        history = runs.remembered(target, run)
        if history != target.metadata.annotations.get(ANNOTATION_RUN_HISTORY):
            body = {
                "metadata": {
                    "uid": target.metadata.uid,  # never another one of this name
                    "annotations": {ANNOTATION_RUN_HISTORY: history},
                }
            }
            self._store.put(kind, await self._api.merge_patch(OWN[kind].path(*key), body))

    async def _patched(self, run: RecoveryRun, body: Object, subresource: str = "") -> Object:
        path = RUNS.path(run.metadata.namespace, run.metadata.name, subresource)
        try:
            return await self._api.merge_patch(path, body)
        except Conflict:
            self._store.put(RecoveryRun, await self._api.get(RUNS.path(run.metadata.namespace, run.metadata.name)))
            raise

    def _keep(self, answer: Object) -> RecoveryRun:
        self._store.put(RecoveryRun, answer)
        stored = self._store.run((answer["metadata"]["namespace"], answer["metadata"]["name"]))
        if stored is not None and stored.metadata.resource_version == answer["metadata"]["resourceVersion"]:
            return stored  # parsed already
        return RecoveryRun.model_validate(answer)


async def _at_once(wanted: Awaitable[RecoveryRun], beside: Awaitable[None]) -> RecoveryRun:
    """The answer of the first; both have ended, whatever becomes of either."""
    answer, other = await asyncio.gather(wanted, beside, return_exceptions=True)
    for failed in (answer, other):
        if isinstance(failed, BaseException):
            raise failed
    return cast(RecoveryRun, answer)
