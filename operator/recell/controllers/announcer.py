"""Transitions of runs as Kubernetes Events and metrics: the `Announcer` port made real. Never fails, never waits."""

import logging

from recell.api import RecoveryRun
from recell.api.recovery_run import ENDED
from recell.providers.kube.paths import RUNS
from recell.providers.platform import Platform

log = logging.getLogger(__name__)

ENDS = frozenset(phase.value for phase in ENDED)


class EventAnnouncer:
    def __init__(self, platform: Platform) -> None:
        self._platform = platform

    def announce(self, run: RecoveryRun, reason: str, message: str, *, warning: bool = False) -> None:
        meta = run.metadata
        obj = {
            "apiVersion": RUNS.api_version,
            "kind": RUNS.kind,
            "metadata": {
                "name": meta.name,
                "namespace": meta.namespace,
                "uid": meta.uid,
                "resourceVersion": meta.resource_version,
            },
        }
        self._platform.recorder.emit(obj, reason, message, warning=warning, action="Recover")
        log.log(
            logging.WARNING if warning else logging.INFO,
            "%s: %s",
            reason,
            message,
            extra={"run": meta.name, "namespace": meta.namespace, "cell": run.spec.target_ref.name},
        )
        if reason in ENDS:
            strategy = run.status.decision.strategy.value if run.status.decision else "none"
            self._platform.reports.run_ended(strategy, reason)
