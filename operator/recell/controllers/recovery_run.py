"""The RecoveryRun controller: gives each run to the engine, and keeps the history bounded.

Promises: runs that people or Git made are never deleted; the operator's own are kept by the policy's
history limits, and as long as attempts and cooldown count them. Where the namespace ends, no run holds it up.
"""

import logging
from datetime import timedelta

from recell.api import RecoveryPolicy, RecoveryRun
from recell.api.meta import FINALIZER, LABEL_MADE_BY, seconds
from recell.api.recovery_run import RunPhase, TargetKind, Trigger
from recell.controllers.finalizers import drop_finalizer, namespace_ends
from recell.engine.engine import Engine
from recell.engine.errors import Conflict, NotFound
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api
from recell.providers.kube.paths import RUNS
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)


class RecoveryRunController:
    def __init__(self, clock: Clock, api: Api, store: KubeStore, engine: Engine) -> None:
        self._clock = clock
        self._api = api
        self._store = store
        self._engine = engine

    async def reconcile(self, key: Key) -> float | None:
        run = self._store.run(key)
        if run is not None and run.metadata.deletion_timestamp is not None and await namespace_ends(self._api, key[0]):
            # What an abort would need may be gone, and nothing new can be made there: it could go on without end.
            if FINALIZER in run.metadata.finalizers:
                log.warning("its namespace ends: nothing is undone", extra={"run": run.metadata.name})
            await drop_finalizer(self._api, RUNS.path(*key), run)
            return None
        again = await self._engine.advance(key)
        run = self._store.run(key)
        if run is not None and run.phase.ended:
            await self._prune(run)
        return again

    async def _prune(self, ended: RecoveryRun) -> None:
        """Delete the oldest of the operator's own ended runs of this target, beyond the limits."""
        target = (ended.metadata.namespace, ended.spec.target_ref.name)
        limits = self._policy(ended.spec.target_ref.kind, target).spec.limits
        counted_until = self._clock.now() - timedelta(
            seconds=max(seconds(limits.attempts_window), seconds(limits.cooldown))
        )
        own = [run for run in self._store.runs_of(ended.spec.target_ref.kind, target) if _own_and_ended(run)]
        own.sort(key=lambda run: run.status.finished_at or run.metadata.creation_timestamp or counted_until)
        for good, keep in ((True, limits.successful_runs_kept), (False, limits.failed_runs_kept)):
            same = [run for run in own if (run.phase is RunPhase.SUCCEEDED) is good]
            for run in same[: max(0, len(same) - keep)]:
                if run.status.finished_at is not None and run.status.finished_at < counted_until:
                    await self._delete(run)

    def _policy(self, kind: TargetKind, target: Key) -> RecoveryPolicy:
        if kind is TargetKind.ROUTER:
            return self._store.router_policy(target)
        cell = self._store.cell(target)
        return self._store.policy_for(cell) if cell else self._store.policy_for_namespace(target[0])

    async def _delete(self, run: RecoveryRun) -> None:
        try:
            await self._api.delete(RUNS.path(*run.key), uid=run.metadata.uid)
        except (NotFound, Conflict):
            return


def _own_and_ended(run: RecoveryRun) -> bool:
    made_here = run.metadata.labels.get(LABEL_MADE_BY) == "recell" and run.spec.trigger is not Trigger.MANUAL
    return made_here and run.phase.ended
