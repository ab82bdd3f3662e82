"""What the controllers of Cells and Routers share about failures: how one and its recoveries are shown, and the run
that is made of it.

Promises: pure.
"""

from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from recell.api import Cell, RecoveryRun, Router
from recell.api.cell import Blocked, CellRecovery, Failure
from recell.api.failure import Verdict
from recell.api.meta import (
    ANNOTATION_TARGET_UID,
    FINALIZER,
    LABEL_INCIDENT,
    LABEL_MADE_BY,
    LABEL_TARGET,
    LABEL_TARGET_KIND,
    ObjectMeta,
)
from recell.api.recovery_run import RecoveryRunSpec, TargetKind, TargetRef, Trigger
from recell.api.router import RouterRecovery
from recell.domain import limits, matrix
from recell.domain.health import HealthState, Level
from recell.engine.admission import started

Recovery = TypeVar("Recovery", CellRecovery, RouterRecovery)


def stable(old: Failure | None, failure: Failure | None, state: HealthState) -> Failure | None:
    """The failure as written first, until another check fails too: figures that come and go cause no write.

    While nobody can say that it is over it stays, so that the next process knows of it too (`health.recalled`).
    """
    if failure is None and state.level is Level.UNKNOWN and state.known in (Level.DEGRADED, Level.FAILED):
        return old
    if old is None or failure is None:
        return failure
    same = (old.type, old.impact, old.data_integrity) == (failure.type, failure.impact, failure.data_integrity)
    return old if same and _failed(failure) <= _failed(old) else failure


def _failed(failure: Failure) -> set[str]:
    return {e.check for e in failure.evidence if e.verdict is Verdict.FAILED}


def why(failure: Failure) -> str:
    """The checks that failed, with what each says."""
    return "; ".join(f"{e.check}: {e.message}" for e in failure.evidence if e.verdict is Verdict.FAILED)


def active_and_last(runs: Iterable[RecoveryRun]) -> tuple[RecoveryRun | None, RecoveryRun | None]:
    """Of one target: the active run and the one that ended last."""
    own = tuple(runs)
    active = next((run for run in own if started(run)), None)
    ended = [run for run in own if run.phase.ended and run.status.finished_at is not None]
    return active, max(ended, key=lambda run: (run.status.finished_at, run.metadata.name), default=None)


def shown_block(
    state: HealthState,
    failure: Failure | None,
    blocked: Blocked | None,
    *,
    lifted_by_person: Collection[str],
    decide: Callable[[Failure], matrix.Choice],
) -> Blocked | None:
    """A block is shown while it matters: the target has failed, or a person has to lift it."""
    if blocked is None or blocked.reason == "RunActive":
        return None
    if state.level is not Level.FAILED:
        return blocked if blocked.reason in lifted_by_person else None
    if failure is None or blocked.reason != "Observe":
        return blocked
    choice = decide(failure)
    message = f"{choice.strategy} would be started. {blocked.message} ({choice.message})"
    return Blocked(reason=blocked.reason, message=message[:1024])


def recovery(
    kind: type[Recovery],
    known: limits.Allowance,
    blocked: Blocked | None,
    active: RecoveryRun | None,
    last: RecoveryRun | None,
) -> Recovery | None:
    """What the status shows of recoveries; None where there is nothing to show."""
    if active is None and last is None and blocked is None and not known.attempts:
        return None
    return kind(
        active_run=active.metadata.name if active else None,
        last_run=last.metadata.name if last else None,
        attempts=known.attempts,
        next_allowed_at=known.next_allowed_at,
        blocked=blocked,
    )


def automatic(target: Cell | Router, name: str, failure: Failure) -> RecoveryRun:
    """The run that the operator makes by its own decision."""
    kind = TargetKind.ROUTER if isinstance(target, Router) else TargetKind.CELL
    return RecoveryRun(
        metadata=ObjectMeta(
            name=name,
            namespace=target.metadata.namespace,
            labels={
                LABEL_MADE_BY: "recell",
                LABEL_TARGET_KIND: kind,
                LABEL_TARGET: target.metadata.name,
                LABEL_INCIDENT: name,
            },
            annotations={ANNOTATION_TARGET_UID: target.metadata.uid},
            finalizers=[FINALIZER],
        ),
        spec=RecoveryRunSpec(
            target_ref=TargetRef(kind=kind, name=target.metadata.name),
            trigger=Trigger.AUTOMATIC,
            reason=f"{failure.type}, impact {failure.impact}, data {failure.data_integrity}: {why(failure)}"[:512],
        ),
    )
