"""A run's record: pure changes of RecoveryRunStatus. Nothing here reads a clock or the world."""

import hashlib
from datetime import datetime
from typing import Any

from recell.api.meta import Condition, set_condition, timestamp
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import (
    Awaiting,
    Decision,
    Plan,
    RecoveryRun,
    RecoveryRunStatus,
    RunPhase,
    StepRecord,
    StepState,
)
from recell.engine.procedure import Procedure, Step

MESSAGE_LIMIT = 1024
HEALED = {"selfRecovered": True}
"""In a step's data: the target was well again by itself."""
FROZEN = ("detection", "limits", "steps", "replacement", "cascade", "validation", "objectives")
"""Blocks of the policy whose numbers are frozen in a plan."""


def clip(message: str) -> str:
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 1] + "…"


def frozen_numbers(policy: RecoveryPolicySpec) -> dict[str, str]:
    """Every number that steps use, as text, by its path in the policy."""
    numbers: dict[str, str] = {}
    for block in FROZEN:
        for name, value in getattr(policy, block).to_dict().items():
            numbers[f"{block}.{name}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return numbers


def thaw(plan: Plan) -> RecoveryPolicySpec:
    """The policy as it was when the plan was made; what the plan does not name has its default."""
    blocks: dict[str, dict[str, str]] = {block: {} for block in FROZEN}
    for path, value in plan.numbers.items():
        block, _, name = path.partition(".")
        if block in blocks:
            blocks[block][name] = value
    return RecoveryPolicySpec.model_validate(blocks)


def begin(
    run: RecoveryRun, procedure: Procedure, decision: Decision, policy: RecoveryPolicySpec, *, epoch: int, now: datetime
) -> RecoveryRunStatus:
    """The record of a run that starts: decision and plan frozen, every step Pending."""
    status = run.status.model_copy(
        update={
            "observed_generation": run.metadata.generation,
            "epoch": epoch,
            "phase": procedure.steps[0].phase,
            "started_at": now.replace(microsecond=0),
            "decision": decision,
            "awaiting": None,
            "plan": Plan(
                procedure=procedure.name,
                version=procedure.version,
                steps=[step.name for step in procedure.steps],
                numbers=frozen_numbers(policy),
            ),
            "steps": [
                StepRecord(name=step.name, phase=step.phase, state=StepState.PENDING) for step in procedure.steps
            ],
        }
    )
    return progressing(status, run, now, "Running", decision.message)


def start_step(status: RecoveryRunStatus, step: Step, data: dict[str, Any] | None, now: datetime) -> RecoveryRunStatus:
    record = _record(status, step.name).model_copy(
        update={
            "state": StepState.RUNNING,
            "started_at": now.replace(microsecond=0),
            "message": step.does,
            "data": {**(_record(status, step.name).data or {}), **(data or {})} or None,
        }
    )
    return _with(status, record).model_copy(update={"step": step.name, "phase": step.phase})


def change_step(status: RecoveryRunStatus, name: str, **changes: Any) -> RecoveryRunStatus:
    if "message" in changes:
        changes["message"] = clip(changes["message"])
    return _with(status, _record(status, name).model_copy(update=changes))


def finish_step(
    status: RecoveryRunStatus,
    name: str,
    state: StepState,
    message: str,
    now: datetime,
    data: dict[str, Any] | None = None,
) -> RecoveryRunStatus:
    changes: dict[str, Any] = {"state": state, "message": clip(message), "finished_at": now.replace(microsecond=0)}
    record = _record(status, name)
    if data is not None:
        changes["data"] = {**(record.data or {}), **data}
    return _with(status, record.model_copy(update=changes)).model_copy(update={"awaiting": None})


def abort(status: RecoveryRunStatus, procedure: Procedure, now: datetime) -> RecoveryRunStatus:
    """Latch the abort: what has not run is Skipped, the procedure's undoing steps are appended."""
    steps = [
        record
        if record.state in (StepState.DONE, StepState.FAILED)
        else record.model_copy(
            update={
                "state": StepState.SKIPPED,
                "message": "Aborted" if record.state is StepState.RUNNING else "Not started: the run was aborted",
                "finished_at": now.replace(microsecond=0),
            }
        )
        for record in status.steps
    ]
    undo = [StepRecord(name=s.name, phase=s.phase, state=StepState.PENDING) for s in procedure.on_abort]
    return status.model_copy(
        update={
            "abort_requested": True,
            "phase": RunPhase.ABORTING,
            "steps": [*steps, *undo],
            "awaiting": None,
        }
    )


def recovered(
    status: RecoveryRunStatus, procedure: Procedure, name: str, message: str, now: datetime
) -> RecoveryRunStatus:
    """The target is well by itself: the step is done, the rest Skipped, the procedure's way back appended."""
    status = finish_step(status, name, StepState.DONE, message, now, HEALED)
    steps = [
        record.model_copy(update={"state": StepState.SKIPPED, "message": "Not needed: the target is well again"})
        if record.state is StepState.PENDING
        else record
        for record in status.steps
    ]
    back = [StepRecord(name=s.name, phase=s.phase, state=StepState.PENDING) for s in procedure.on_recovered]
    return status.model_copy(update={"steps": [*steps, *back]})


def repeat(status: RecoveryRunStatus, name: str, to: str, message: str, data: dict[str, Any]) -> RecoveryRunStatus:
    """Back to the step `to`, with what it has to know; it and everything after it is to be done again."""
    names = [record.name for record in status.steps]
    first, last = names.index(to), names.index(name)
    steps = []
    for number, record in enumerate(status.steps):
        if first <= number <= last:
            record = StepRecord(name=record.name, phase=record.phase, state=StepState.PENDING, attempts=record.attempts)
            if record.name == to:
                record = record.model_copy(update={"data": data, "message": clip(message)})
        steps.append(record)
    return status.model_copy(update={"steps": steps, "awaiting": None})


def current_step(status: RecoveryRunStatus) -> StepRecord | None:
    """The first step that is neither done nor skipped."""
    return next((s for s in status.steps if s.state in (StepState.PENDING, StepState.RUNNING)), None)


def await_gate(
    status: RecoveryRunStatus,
    run: RecoveryRun,
    gate: str,
    message: str,
    now: datetime,
    *,
    phase: RunPhase | None = None,
) -> RecoveryRunStatus:
    """Ask at a gate; the decision's id is new, so that an earlier approval does not open it (rule 21)."""
    base = status.decision.id if status.decision else run.metadata.uid
    digest = hashlib.sha256(f"{base}|{run.metadata.uid}|{gate}|{timestamp(now)}".encode()).hexdigest()[:12]
    awaiting = Awaiting(gate=gate, decision_id=digest, since=now.replace(microsecond=0), message=clip(message))
    changed = status.model_copy(update={"awaiting": awaiting, **({"phase": phase} if phase else {})})
    return progressing(changed, run, now, "AwaitingApproval", message)


def lapsed(awaiting: Awaiting, now: datetime, expires: float) -> bool:
    """What was asked so many seconds ago is asked anew, approved or not (rule 21)."""
    return (now - awaiting.since).total_seconds() >= expires


def approved(run: RecoveryRun, awaiting: Awaiting) -> bool:
    control = run.spec.control
    return control is not None and any(
        a.gate == awaiting.gate and a.decision_id == awaiting.decision_id for a in control.approvals or ()
    )


def progressing(
    status: RecoveryRunStatus, run: RecoveryRun, now: datetime, reason: str, message: str, *, stalled: bool = False
) -> RecoveryRunStatus:
    """What the run does or waits for; `stalled`: it waits for a person to change something."""
    states = {"Reconciling": (True, reason, message), "Ready": (False, reason, message)}
    if stalled:
        states["Stalled"] = (True, reason, message)
    elif any(c.type == "Stalled" for c in status.conditions):
        states["Stalled"] = (False, "Running", "")
    conditions = _conditions(status, run, now, states)
    return status.model_copy(update={"conditions": conditions, "observed_generation": run.metadata.generation})


def paused(
    status: RecoveryRunStatus, run: RecoveryRun, now: datetime, pause: tuple[str, str] | None
) -> RecoveryRunStatus:
    """The Paused condition; `pause` is its reason and message, None when the run goes on."""
    if pause is None:
        if not any(c.type == "Paused" for c in status.conditions):
            return status
        conditions = _conditions(status, run, now, {"Paused": (False, "Running", "")})
    else:
        conditions = _conditions(status, run, now, {"Paused": (True, *pause)})
    return status.model_copy(update={"conditions": conditions})


def end(
    status: RecoveryRunStatus, run: RecoveryRun, phase: RunPhase, reason: str, message: str, now: datetime
) -> RecoveryRunStatus:
    """The end of a run: phase, summary, and the conditions that `kubectl wait` and Argo CD look at."""
    succeeded = phase in (RunPhase.SUCCEEDED, RunPhase.PARTIALLY_SUCCEEDED)
    failed = phase in (RunPhase.FAILED, RunPhase.MANUAL_INTERVENTION_REQUIRED)
    states: dict[str, tuple[bool, str, str]] = {
        "Reconciling": (False, reason, ""),
        "Ready": (succeeded or phase is RunPhase.SKIPPED, reason, message),
    }
    if phase is not RunPhase.ESCALATED:  # an escalated run shows its successor's result
        states["Succeeded"] = (succeeded, reason, message)
        states["Failed"] = (failed, reason, message)
    changed = status.model_copy(
        update={
            "phase": phase,
            "finished_at": now.replace(microsecond=0),
            "summary": message[:4096],
            "awaiting": None,
            "observed_generation": run.metadata.generation,
            "conditions": _conditions(status, run, now, states),
        }
    )
    cleared = [c for c in changed.conditions if c.type != "Stalled"]
    return paused(changed.model_copy(update={"conditions": cleared}), run, now, None)


def with_successor(
    status: RecoveryRunStatus, run: RecoveryRun, successor: RecoveryRun, now: datetime
) -> RecoveryRunStatus:
    """An escalated run repeats its successor's result, so that a wait for it returns."""
    wanted = {c.type: c for c in successor.status.conditions if c.type in ("Succeeded", "Failed", "Ready")}
    states = {
        name: (c.status == "True", c.reason, clip(f"{successor.metadata.name}: {c.message}"))
        for name, c in wanted.items()
    }
    return status.model_copy(update={"conditions": _conditions(status, run, now, states)})


def _conditions(
    status: RecoveryRunStatus, run: RecoveryRun, now: datetime, states: dict[str, tuple[bool, str, str]]
) -> list[Condition]:
    conditions = status.conditions
    for name, (value, reason, message) in states.items():
        conditions = set_condition(
            conditions,
            now,
            type=name,
            status=value,
            reason=reason,
            message=clip(message),
            generation=run.metadata.generation,
        )
    return conditions


def _record(status: RecoveryRunStatus, name: str) -> StepRecord:
    return next(s for s in status.steps if s.name == name)


def _with(status: RecoveryRunStatus, record: StepRecord) -> RecoveryRunStatus:
    return status.model_copy(update={"steps": [record if s.name == record.name else s for s in status.steps]})
