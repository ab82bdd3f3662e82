"""The engine: brings one run forward by as much as can be done now.

Promises
- A step is recorded as Running, with what it has to remember, before its first effect; each record is
  written under the run's resourceVersion. Doing a step again does nothing twice.
- Deadline, pause, freeze, abort and approval are looked at before each step's function, in every step.
- An unexpected fault is counted in the record and retried with backoff until the step's deadline.
- Nothing is written when nothing changed.

Must not: know a particular procedure, talk to an API, or read a clock other than its port.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recell.api import Cell, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure
from recell.api.failure import FailureType, Strategy
from recell.api.meta import (
    ANNOTATION_TARGET_UID,
    FINALIZER,
    LABEL_INCIDENT,
    LABEL_MADE_BY,
    LABEL_TARGET,
    LABEL_TARGET_KIND,
    ObjectMeta,
    duration_text,
    seconds,
)
from recell.api.placement import PlacementMode, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import (
    CascadeResult,
    Escalation,
    RecoveryRunSpec,
    RecoveryRunStatus,
    RunPhase,
    RunResult,
    StepRecord,
    StepState,
    TargetKind,
    Trigger,
)
from recell.domain import cascade, fallback, limits, matrix, pace
from recell.domain import failure as failures
from recell.domain.health import HealthState, Level
from recell.domain.placement import idle, members
from recell.domain.wording import listed
from recell.engine import admission, record
from recell.engine.dwell import Dwell
from recell.engine.errors import PERMANENT, Conflict, Fenced, NotFound, RecellError, Retryable, Unreachable
from recell.engine.outcome import Ask, Done, Fail, Outcome, Recovered, Repeat, Wait
from recell.engine.ports import Key, Ports
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext

log = logging.getLogger(__name__)

BACKOFF = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds between two tries of a step that met an unexpected fault; the last one repeats."""
SHORTEST_EXPIRY = 60.0
"""Seconds in which an approval does not lapse, whatever the policy says."""
LOOK_AT_PENDING = 5.0
"""Seconds between two looks at a run whose start depends on time."""


@dataclass
class _Scene:
    run: RecoveryRun
    target: Cell | Router | None
    router: Router | None
    approved: frozenset[str] = field(default_factory=frozenset)


class Engine:
    """Brings runs forward. Keeps in memory only what may be lost: stopwatches."""

    def __init__(self, ports: Ports, procedures: Mapping[str, Procedure]) -> None:
        self._ports = ports
        self._procedures = procedures
        self._dwell = Dwell()
        self._waits_for: dict[str, str] = {}
        """By the run's uid, the last thing that its step waited for."""

    async def advance(self, key: Key) -> float | None:
        """One look at a run. Returns after how many seconds to look again; None: when something changes.

        Raises Conflict (read again), Retryable and Fenced.
        """
        run = self._ports.store.run(key)
        if run is None:
            return None
        if run.phase.ended:
            return await self._after_end(run)
        if not admission.started(run):
            if run.metadata.deletion_timestamp is not None:
                await self._ports.records.release(run)
                return None
            return await self._admit(run)
        return await self._work(run)

    # --- before the start ------------------------------------------------------------------------

    async def _admit(self, run: RecoveryRun) -> float | None:
        ports, now = self._ports, self._ports.clock.now()
        namespace = run.metadata.namespace
        scene, awaiting = self._scene(run), run.status.awaiting
        target, policy = scene.target, self._policy(namespace, scene.target)
        router_key = _router_key(namespace, target)
        router, expires = scene.router, _expiry(policy.spec)
        open_gate = awaiting if awaiting is not None and not record.lapsed(awaiting, now, expires) else None
        situation = admission.Situation(
            run=run,
            target=target,
            health=self._health(target, run),
            failure=self._failure(target),
            policy=policy,
            others=[r for r in ports.store.runs_in(namespace) if r.metadata.name != run.metadata.name],
            router_cells=frozenset(ports.store.cells_of(router_key)) if target else frozenset(),
            router_labels=router.metadata.labels if router else {},
            freezes=ports.store.freezes_in(namespace),
            approved=open_gate is not None and record.approved(run, open_gate),
            now=now,
            mode=self._mode(router_key),
            unavailable=self._unavailable(target),
        )
        answer = admission.admit(situation)
        if isinstance(answer, admission.End):
            await self._end(run, run.status, answer.phase, answer.reason, answer.message)
            return None
        if isinstance(answer, admission.Hold):
            await self._hold(run, answer)
            return LOOK_AT_PENDING
        if isinstance(answer, admission.AskToStart):
            return await self._ask_to_start(run, answer, expires)
        if (
            isinstance(answer, admission.Start)
            and situation.approved
            and (run.status.decision is None or run.status.decision.id != answer.decision.id)
        ):
            return await self._ask_to_start(
                run, admission.AskToStart(answer.decision, f"The decision changed: {answer.decision.message}"), 0.0
            )
        return await self._start(run, answer.decision, pace.fitted(policy.spec, router))

    async def _hold(self, run: RecoveryRun, answer: admission.Hold) -> None:
        now = self._ports.clock.now()
        status = run.status.model_copy(update={"phase": run.status.phase or RunPhase.PENDING})
        status = record.progressing(status, run, now, answer.reason, answer.message, stalled=answer.stalled)
        status = record.paused(status, run, now, (answer.reason, answer.message) if answer.paused else None)
        if await self._save(run, status) is not run:
            self._ports.announcer.announce(run, answer.reason, answer.message)

    async def _ask_to_start(self, run: RecoveryRun, answer: admission.AskToStart, expires: float) -> float:
        now, awaiting = self._ports.clock.now(), run.status.awaiting
        known = run.status.decision
        if (
            awaiting is not None
            and known is not None
            and known.id == answer.decision.id
            and not record.lapsed(awaiting, now, expires)
        ):  # what held it back meanwhile does not any more
            status = record.progressing(run.status, run, now, "AwaitingApproval", awaiting.message)
            await self._save(run, record.paused(status, run, now, None))
            return LOOK_AT_PENDING
        status = run.status.model_copy(update={"decision": answer.decision})
        status = record.await_gate(status, run, "start", answer.message, now, phase=RunPhase.AWAITING_APPROVAL)
        await self._save(run, record.paused(status, run, now, None))
        self._ports.announcer.announce(
            run, "AwaitingApproval", f"{answer.message}. Approve with: recell approve {run.metadata.name}"
        )
        return LOOK_AT_PENDING

    async def _start(self, run: RecoveryRun, decision: Any, policy: RecoveryPolicySpec) -> float | None:
        procedure = self._procedures.get(decision.strategy)
        if procedure is None:
            await self._end(
                run,
                run.status.model_copy(update={"decision": decision}),
                RunPhase.MANUAL_INTERVENTION_REQUIRED,
                "NoProcedure",
                f"{decision.message}. {decision.strategy} cannot be carried out by this version: follow the runbook by"
                f" hand{_and_then(run)}",
            )
            return None
        now = self._ports.clock.now()
        status = record.begin(run, procedure, decision, policy, epoch=self._ports.leadership.epoch, now=now)
        if run.spec.escalated_from:
            level = admission.escalations(run, self._ports.store.runs_in(run.metadata.namespace))
            status = status.model_copy(update={"escalation": Escalation(from_=run.spec.escalated_from, level=level)})
        self._ports.announcer.announce(run, "Started", decision.message)
        scene = self._scene(run)
        if scene.target is not None and scene.router is not None:
            status = await self._first_step(run, status, procedure, scene, policy)
        return await self._work(await self._ports.records.start(run, status))

    async def _first_step(
        self,
        run: RecoveryRun,
        status: RecoveryRunStatus,
        procedure: Procedure,
        scene: _Scene,
        policy: RecoveryPolicySpec,
    ) -> RecoveryRunStatus:
        """The first step started, and where it only looks and finds all well, done: one record for both."""
        step = procedure.steps[0]
        numbers = record.thaw(status.plan) if status.plan else policy
        status = self._start_step(status, step, self._context(scene, step, None, numbers))
        step_record = record.current_step(status)
        if step.effects or run.spec.dry_run or step_record is None:
            return status
        begun = run.model_copy(update={"status": status})
        context = self._context(_Scene(begun, scene.target, scene.router), step, step_record, numbers)
        outcome = await self._act(begun, procedure, step, step_record, context)
        return self._beyond(begun, procedure, step, outcome, context) if isinstance(outcome, Done) else status

    # --- at work ---------------------------------------------------------------------------------

    async def _work(self, run: RecoveryRun) -> float | None:
        plan, procedure = run.status.plan, self._procedure(run.status)
        if plan is None or procedure is None or procedure.version != plan.version:
            wanted = f"{plan.procedure} version {plan.version}" if plan else "no plan"
            now = self._ports.clock.now()
            if _to_abort(run):
                told = f"Aborted. This operator does not have {wanted}, so nothing was undone. {self._left_behind(run)}"
                await self._end(run, run.status, RunPhase.ABORTED, "AbortIncomplete", told)
                return None
            status = record.progressing(
                run.status,
                run,
                now,
                "UnknownProcedure",
                f"The run was begun with {wanted}, which this operator does not have. Nothing is done: run the"
                " operator's former version to its end, or abort",
                stalled=True,
            )
            await self._save(run, status)
            return None
        run = await self._ports.records.claim(run)
        if run.status.epoch != self._ports.leadership.epoch:
            run = await self._save(run, run.status.model_copy(update={"epoch": self._ports.leadership.epoch}))
        while True:
            run, again = await self._turn(run, procedure, record.thaw(plan))
            if run.phase.ended or again is not None:
                return again

    async def _turn(
        self, run: RecoveryRun, procedure: Procedure, policy: RecoveryPolicySpec
    ) -> tuple[RecoveryRun, float | None]:
        """At most one call of a step's function. Returns a wait, or None to go on at once."""
        now = self._ports.clock.now()
        scene = self._scene(run)
        if scene.target is None or scene.router is None:
            ref = run.spec.target_ref
            gone = f"{ref.kind} {ref.name}" if scene.target is None else "The cell's Router"
            result = self._result(run.status)
            made = [result.replacement, *result.emergency_cells] if result else []
            left = f". What this run made stays as it is: Cell {listed(filter(None, made))}" if any(made) else ""
            return await self._end(run, run.status, RunPhase.FAILED, "TargetGone", f"{gone} was deleted{left}"), None
        if _to_abort(run) and not run.status.abort_requested:
            self._dwell.drop((run.metadata.uid,))
            run = await self._save(run, record.abort(run.status, procedure, now))
            self._ports.announcer.announce(
                run, "Aborting", "The run is aborted: what is temporary is undone", warning=True
            )
        elif (by := self._superseded(run, procedure, scene.target)) is not None:
            self._dwell.drop((run.metadata.uid,))
            aborted = record.abort(run.status, procedure, now)
            run = await self._save(run, aborted.model_copy(update={"superseded_by": by}))
            self._ports.announcer.announce(run, "Superseded", f"{by} takes the cell over: what is temporary is undone")
        step_record = record.current_step(run.status)
        if step_record is None:
            return await self._finish(run), None
        step = procedure.step(step_record.name)
        if step is None:
            raise LookupError(f"procedure {procedure.name} has no step {step_record.name}")
        pause = self._pause(run, procedure, scene.target, scene.router)
        status = record.paused(run.status, run, now, pause)
        if pause is not None:
            self._dwell.pause((run.metadata.uid,))
            await self._save(run, status)
            return run, LOOK_AGAIN
        if status is not run.status:
            run = await self._save(run, status)
        if run.status.awaiting is not None:
            opened = await self._gate(run, step_record, _expiry(policy))
            if opened is not run:
                return opened, None
        context = self._context(scene, step, step_record, policy)
        if step_record.state is StepState.PENDING:
            run = await self._save(run, self._start_step(run.status, step, context))
            return run, None
        if run.spec.dry_run:
            return await self._step_done(run, procedure, step, Done(step.rehearse(context)), context), None
        outcome = await self._act(run, procedure, step, step_record, context)
        return await self._take(run, procedure, step, step_record, outcome, context)

    def _superseded(self, run: RecoveryRun, procedure: Procedure, target: Cell | Router) -> str | None:
        """The Router's run that takes this one's cell over; from the moving of customers on none does (rule 23)."""
        if run.status.abort_requested or run.spec.dry_run or not isinstance(target, Cell):
            return None
        if _customers_are_on_their_way(run, procedure):
            return None
        others = self._ports.store.runs_in(run.metadata.namespace)
        line = admission.line(run, others)
        for other in others:
            claiming, ref = self._procedure(other.status), other.spec.target_ref
            if ref.kind is not TargetKind.ROUTER or ref.name != target.spec.router_ref.name or claiming is None:
                continue
            if other.metadata.name in line or other.spec.dry_run or not admission.started(other):
                continue
            if not other.status.abort_requested and target.metadata.name in claiming.claims(other.status):
                return other.metadata.name
        return None

    def _start_step(self, status: RecoveryRunStatus, step: Step, context: StepContext) -> RecoveryRunStatus:
        data = step.prepare(context) if step.prepare and not context.run.spec.dry_run else None
        return record.start_step(status, step, data, context.now)

    async def _act(
        self, run: RecoveryRun, procedure: Procedure, step: Step, step_record: StepRecord, context: StepContext
    ) -> Outcome:
        """The step's function, with its deadline and with unexpected faults turned into waits."""
        limit = step.within(context.policy)
        spent = context.elapsed("deadline")
        waits_for = self._waits_for.pop(run.metadata.uid, step_record.message)
        if spent >= limit:
            return Fail(
                "DeadlineExceeded",
                f"Step {step.name} did not end within {duration_text(limit)}: {waits_for}",
                escalate_to=procedure.escalates if step.phase is not RunPhase.ABORTING else None,
            )
        if obstacle := self._ports.leadership.obstacle():
            context.elapsed("deadline", seen=False)
            return Wait(LOOK_AGAIN, obstacle, reason="Obstacle", observed=False)
        try:
            outcome = await step.act(context)
        except (Conflict, Fenced):
            raise
        except Unreachable as error:  # nothing is observed there, which counts towards no deadline (rule 30)
            context.elapsed("deadline", seen=False)
            return Wait(error.after or LOOK_AGAIN, str(error), reason=error.reason, observed=False)
        except Retryable as error:
            return Wait(error.after or LOOK_AGAIN, str(error), reason="Retrying", observed=False)
        except RecellError as error:
            return Wait(BACKOFF[-1], str(error), reason=error.reason, stalled=isinstance(error, PERMANENT))
        except Exception as error:  # an unexpected fault: counted, retried until the deadline
            log.exception("unexpected fault", extra={"run": run.metadata.name, "step": step.name})
            pause = BACKOFF[min(step_record.attempts, len(BACKOFF) - 1)]
            return Wait(pause, f"Unexpected fault, tried again: {type(error).__name__}: {error}", reason="Fault")
        if isinstance(outcome, Wait) and not outcome.observed:
            context.elapsed("deadline", seen=False)
        return outcome

    async def _take(
        self,
        run: RecoveryRun,
        procedure: Procedure,
        step: Step,
        step_record: StepRecord,
        outcome: Outcome,
        context: StepContext,
    ) -> tuple[RecoveryRun, float | None]:
        now = self._ports.clock.now()
        if isinstance(outcome, Wait):
            self._waits_for[run.metadata.uid] = outcome.message
        if isinstance(outcome, Done):
            return await self._step_done(run, procedure, step, outcome, context), None
        if isinstance(outcome, Fail):
            return await self._step_failed(run, step, outcome, context), None
        if isinstance(outcome, Ask):
            return await self._ask(run, step_record, outcome, context)
        if isinstance(outcome, Recovered | Repeat):
            return await self._turn_off(run, procedure, step, outcome), None
        changes: dict[str, Any] = {}
        if outcome.data is not None and outcome.data != step_record.data:
            changes["data"], changes["message"] = _kept(step_record, outcome.data), outcome.message
        status = run.status
        if status.awaiting is not None and outcome.observed and not outcome.reason:
            # What was asked about is settled otherwise: somebody did by hand what nobody could do here.
            status = status.model_copy(update={"awaiting": None, "phase": step_record.phase})
        shown = next((c.reason for c in status.conditions if c.type == "Reconciling"), "")
        if outcome.reason == "Fault":
            changes["attempts"] = step_record.attempts + 1
        if (outcome.reason or "Running") != shown:
            why = outcome.reason or "Running"
            status = record.progressing(status, run, now, why, outcome.message, stalled=outcome.stalled)
            changes["message"] = outcome.message
        if changes:
            status = record.change_step(status, step.name, **changes)
            if outcome.reason:
                self._ports.announcer.announce(run, outcome.reason, f"{step.name}: {outcome.message}", warning=True)
        return await self._save(run, status), outcome.after

    async def _turn_off(
        self, run: RecoveryRun, procedure: Procedure, step: Step, outcome: Recovered | Repeat
    ) -> RecoveryRun:
        """Off the straight way: to the procedure's way back, or to an earlier step once more."""
        now = self._ports.clock.now()
        self._dwell.drop((run.metadata.uid,))
        if isinstance(outcome, Recovered):
            status = record.recovered(run.status, procedure, step.name, outcome.message, now)
        else:
            status = record.repeat(run.status, step.name, outcome.step, outcome.message, outcome.data)
        self._ports.announcer.announce(run, type(outcome).__name__, f"{step.name}: {outcome.message}", warning=True)
        if record.current_step(status) is None:
            return await self._finish(run.model_copy(update={"status": status}), base=run)
        return await self._save(run, record.progressing(status, run, now, "Running", outcome.message))

    async def _ask(
        self, run: RecoveryRun, step_record: StepRecord, outcome: Ask, context: StepContext
    ) -> tuple[RecoveryRun, float | None]:
        """Ask once; what is asked already waits for the person, whose time counts towards no deadline."""
        self._dwell.pause((run.metadata.uid, context.step))
        asked = (step_record.data or {}).get("asked", "")
        if run.status.awaiting is None or (run.status.awaiting.gate, asked) != (outcome.gate, outcome.about):
            run = await self._ask_anew(run, step_record, outcome)
        return run, LOOK_AT_PENDING

    async def _ask_anew(self, run: RecoveryRun, step_record: StepRecord, ask: Ask) -> RecoveryRun:
        now = self._ports.clock.now()
        status = record.await_gate(run.status, run, ask.gate, ask.message, now, phase=RunPhase.AWAITING_APPROVAL)
        data = step_record.data
        if (data or {}).get("asked", "") != ask.about:
            data = _kept(step_record, {"asked": ask.about})
        run = await self._save(run, record.change_step(status, step_record.name, message=ask.message, data=data))
        how = f"{ask.message}. Approve with: recell approve {run.metadata.name}"
        self._ports.announcer.announce(run, "AwaitingApproval", how, warning=True)
        return run

    async def _gate(self, run: RecoveryRun, step_record: StepRecord, expires: float) -> RecoveryRun:
        """A gate that a person opened is open; one that nobody opened in time is asked for anew (rule 21)."""
        now, awaiting = self._ports.clock.now(), run.status.awaiting
        if awaiting is None:
            return run
        ask = Ask(awaiting.gate, awaiting.message, (step_record.data or {}).get("asked", ""))
        if record.lapsed(awaiting, now, expires):
            return await self._ask_anew(run, step_record, ask)
        if not record.approved(run, awaiting):
            return run
        gates = sorted({ask.opened, *(step_record.data or {}).get("approved", ())})
        status = record.change_step(run.status, step_record.name, data={**(step_record.data or {}), "approved": gates})
        status = status.model_copy(update={"awaiting": None, "phase": step_record.phase})
        self._ports.announcer.announce(run, "Approved", f"Gate {awaiting.gate} was opened by a person")
        return await self._save(run, record.progressing(status, run, now, "Running", "Approved"))

    async def _step_done(
        self, run: RecoveryRun, procedure: Procedure, step: Step, outcome: Done, context: StepContext
    ) -> RecoveryRun:
        """The step's end and the next one's beginning are one write."""
        status = self._beyond(run, procedure, step, outcome, context)
        if record.current_step(status) is None:
            return await self._finish(run.model_copy(update={"status": status}), base=run)
        return await self._save(run, status)

    def _beyond(
        self, run: RecoveryRun, procedure: Procedure, step: Step, outcome: Done, context: StepContext
    ) -> RecoveryRunStatus:
        """The record with the step done and the next one, if there is one, begun."""
        now = self._ports.clock.now()
        self._dwell.drop((run.metadata.uid, step.name))
        status = record.finish_step(run.status, step.name, StepState.DONE, outcome.message, now, outcome.data)
        self._ports.announcer.announce(run, "StepDone", f"{step.name}: {outcome.message}")
        following = record.current_step(status)
        if following is None:
            return status
        next_step = procedure.step(following.name)
        if next_step is None:
            raise LookupError(f"procedure {procedure.name} has no step {following.name}")
        next_context = self._context(_Scene(run, context.target, context.router), next_step, following, context.policy)
        status = self._start_step(status, next_step, next_context)
        return record.progressing(status, run, now, "Running", next_step.does)

    async def _step_failed(self, run: RecoveryRun, step: Step, outcome: Fail, context: StepContext) -> RecoveryRun:
        now = self._ports.clock.now()
        self._dwell.drop((run.metadata.uid, step.name))
        status = record.finish_step(run.status, step.name, StepState.FAILED, outcome.message, now)
        if run.status.abort_requested:  # what else can be undone is
            if record.current_step(status) is None:
                return await self._finish(run.model_copy(update={"status": status}), base=run)
            return await self._save(run, status)
        skipped = [
            s.model_copy(update={"state": StepState.SKIPPED, "message": f"{step.name} failed"})
            if s.state is StepState.PENDING
            else s
            for s in status.steps
        ]
        status = status.model_copy(update={"steps": skipped})
        if outcome.escalate_to is None or run.spec.dry_run:
            return await self._end(
                run,
                status,
                RunPhase.MANUAL_INTERVENTION_REQUIRED,
                outcome.reason,
                f"{step.name}: {outcome.message}. {self._left_behind(run)}",
            )
        try:
            child = await self._ports.records.create(_successor(run, context.target, outcome.escalate_to, outcome))
        except Conflict as error:
            told = f"{step.name}: {outcome.message}. {outcome.escalate_to} has to go on, but {error}"
            return await self._end(
                run, status, RunPhase.MANUAL_INTERVENTION_REQUIRED, outcome.reason, f"{told}. {self._left_behind(run)}"
            )
        level = run.status.escalation.level if run.status.escalation else 0
        status = status.model_copy(
            update={"escalation": Escalation(from_=run.spec.escalated_from, to=child.metadata.name, level=level)}
        )
        return await self._end(
            run,
            status,
            RunPhase.ESCALATED,
            outcome.reason,
            f"{step.name}: {outcome.message}. {child.metadata.name} goes on with {child.spec.strategy}",
        )

    def _left_behind(self, run: RecoveryRun) -> str:
        """What is still held, for whoever takes over by hand."""
        if run.spec.target_ref.kind is TargetKind.ROUTER:
            return self._left_of_router(run)
        cell = self._ports.store.cell((run.metadata.namespace, run.spec.target_ref.name))
        placement = (
            self._ports.switchboard.current((run.metadata.namespace, cell.spec.router_ref.name)) if cell else None
        )
        if cell is None or placement is None:
            return "What this run holds of its cell's traffic is not known"
        idle = self._idle(run, cell, placement.spec)
        made = f". Made for it and serving nobody: Cell {listed(idle)}; delete what is not needed" if idle else ""
        held = next((h for h in placement.spec.holds if h.holder.uid == run.metadata.uid), None)
        if held is None:
            return f"No traffic is held back by this run{made}"
        name = run.spec.target_ref.name
        return (
            f"Cell {name} stays at {held.max_percent} % of its customers;"
            f" give it its traffic back with: recell return {name}{made}"
        )

    def _left_of_router(self, run: RecoveryRun) -> str:
        name = run.spec.target_ref.name
        placement = self._ports.switchboard.current((run.metadata.namespace, name))
        if placement is None:
            return f"Placement {name} is missing: see the conditions of the Router"
        held = sorted(h.cell for h in placement.spec.holds if h.holder.uid == run.metadata.uid)
        holds = f"; held by this run: Cell {listed(held)}, return it with: recell return NAME" if held else ""
        if placement.spec.mode is PlacementMode.FALLBACK:
            return f"Customers of Router {name} go through its fallback{holds}"
        return f"Customers go through Router {name} itself{holds}"

    def _idle(self, run: RecoveryRun, cell: Cell, spec: PlacementSpec) -> list[str]:
        """Cells that were made for this run or for those before it, and that have no customer."""
        cells = self._ports.store.cells_of((run.metadata.namespace, cell.spec.router_ref.name))
        incident = run.metadata.labels.get(LABEL_INCIDENT, run.metadata.name)
        mine = {
            name: other
            for name, other in cells.items()
            if other.metadata.labels.get(LABEL_INCIDENT) == incident and not other.spec.weight
        }
        return idle(mine, spec)

    # --- the end ---------------------------------------------------------------------------------

    async def _finish(self, run: RecoveryRun, base: RecoveryRun | None = None) -> RecoveryRun:
        target = f"{run.spec.target_ref.kind} {run.spec.target_ref.name}"
        if by := run.status.superseded_by:
            told = f"{by} goes on with {target}"
            return await self._end(base or run, run.status, RunPhase.SUPERSEDED, "Superseded", told)
        if run.status.abort_requested:
            undone = [s for s in run.status.steps if s.phase is RunPhase.ABORTING]
            failed = [f"{s.name}: {s.message}" for s in undone if s.state is StepState.FAILED]
            last = "; ".join(failed) or (undone[-1].message if undone else "")
            reason = "AbortIncomplete" if failed else "Aborted"
            return await self._end(base or run, run.status, RunPhase.ABORTED, reason, f"Aborted. {last}")
        if run.spec.dry_run:
            return await self._end(
                base or run, run.status, RunPhase.SUCCEEDED, "DryRun", "Dry run: nothing was changed; see the steps"
            )
        procedure = self._procedure(run.status)
        if procedure is not None and procedure.left_to_people:
            decided = f". {run.status.decision.message}" if run.status.decision else ""
            told = f"{run.status.steps[-1].message}. {self._left_behind(run)}{decided}"
            return await self._end(
                base or run, run.status, RunPhase.MANUAL_INTERVENTION_REQUIRED, admission.LEFT_TO_PEOPLE, told
            )
        healed = any((s.data or {}).get("selfRecovered") for s in run.status.steps)
        result = self._result(run.status)
        reason = "SelfRecovered" if healed else "Recovered"
        took = (self._ports.clock.now() - run.status.started_at).total_seconds() if run.status.started_at else 0.0
        done = "recovered by itself" if healed else "was recovered"
        if result is not None and result.replacement and not healed:
            done = f"was replaced by {result.replacement}"
        if result is not None and result.cascade is not None:
            return await self._finish_cells(base or run, run.status, result.cascade, took)
        partial = result is not None and result.customers is not None and result.customers.failed > 0
        left = f"; {result.customers.failed} customers could not be moved" if partial else ""  # type: ignore[union-attr]
        return await self._end(
            base or run,
            run.status,
            RunPhase.PARTIALLY_SUCCEEDED if partial else RunPhase.SUCCEEDED,
            "PartlyRecovered" if partial else reason,
            f"{target} {done} in {duration_text(took)}, {len(run.status.steps)} steps{left}",
        )

    async def _finish_cells(
        self, run: RecoveryRun, status: RecoveryRunStatus, found: CascadeResult, took: float
    ) -> RecoveryRun:
        """Of a run that recovers several cells: all, some or none are well."""
        told = f"{found.recovered} of {found.total} cells of Router {run.spec.target_ref.name} were recovered in"
        told = f"{told} {duration_text(took)}"
        if not found.total:
            phase, reason, told = RunPhase.SUCCEEDED, "SelfRecovered", "No cell was failed any more"
        elif found.recovered == found.total:
            phase, reason = RunPhase.SUCCEEDED, "Recovered"
        elif found.recovered:
            phase, reason = RunPhase.PARTIALLY_SUCCEEDED, "PartlyRecovered"
        else:
            phase, reason = RunPhase.MANUAL_INTERVENTION_REQUIRED, "NothingRecovered"
        return await self._end(run, status, phase, reason, told)

    async def _end(
        self, run: RecoveryRun, status: RecoveryRunStatus, phase: RunPhase, reason: str, message: str
    ) -> RecoveryRun:
        self._dwell.drop((run.metadata.uid,))
        self._waits_for.pop(run.metadata.uid, None)
        ended = await self._save(run, record.end(status, run, phase, reason, message, self._ports.clock.now()))
        bad = phase not in (RunPhase.SUCCEEDED, RunPhase.SKIPPED)
        self._ports.announcer.announce(ended, phase.value, message, warning=bad)
        if FINALIZER in ended.metadata.finalizers:
            await self._ports.records.release(ended)
        return ended

    async def _after_end(self, run: RecoveryRun) -> float | None:
        """An escalated run repeats its successor's result; a finalizer that a crash left behind goes."""
        if FINALIZER in run.metadata.finalizers:
            await self._ports.records.release(run)
            return None
        escalation = run.status.escalation
        if run.phase is RunPhase.ESCALATED and escalation and escalation.to:
            successor = self._ports.store.run((run.metadata.namespace, escalation.to))
            if successor is not None and (successor.phase.ended):
                await self._save(run, record.with_successor(run.status, run, successor, self._ports.clock.now()))
        return None

    # --- shared ----------------------------------------------------------------------------------

    def _scene(self, run: RecoveryRun) -> _Scene:
        store, namespace = self._ports.store, run.metadata.namespace
        key = (namespace, run.spec.target_ref.name)
        if run.spec.target_ref.kind is TargetKind.ROUTER:
            router = store.router(key)
            return _Scene(run, router, router)
        cell = store.cell(key)
        return _Scene(run, cell, store.router(_router_key(namespace, cell)) if cell else None)

    def _policy(self, namespace: str, target: Cell | Router | None) -> RecoveryPolicy:
        store = self._ports.store
        if isinstance(target, Cell):
            return store.policy_for(target)
        return store.router_policy(target.key) if target else store.policy_for_namespace(namespace)

    def _health(self, target: Cell | Router | None, run: RecoveryRun) -> HealthState | None:
        """Of the cell, of the router itself, or, where the run is about several cells, of the one that is worst."""
        if isinstance(target, Cell):
            return self._ports.observer.health(target.key)
        if target is None or not admission.about_cells(run):
            return self._ports.routers.health(target.key) if target else None
        cells = self._ports.store.cells_of(target.key).values()
        states = [state for cell in cells if (state := self._ports.observer.health(cell.key)) is not None]
        worst = (Level.FAILED, Level.DEGRADED, Level.HEALTHY, Level.UNKNOWN)
        return min(states, key=lambda state: worst.index(state.level), default=None)

    def _mode(self, router: Key) -> PlacementMode | None:
        placed = self._ports.switchboard.current(router)
        return placed.spec.mode if placed else None

    def _unavailable(self, target: Cell | Router | None) -> Mapping[Strategy, str]:
        """What cannot be done for this target now."""
        if not isinstance(target, Router):
            return matrix.NOTHING
        failure = self._failure(target)
        why = fallback.unavailable(
            target, self._ports.routers.fallback(target.key), failure.impact if failure else None
        )
        return {Strategy.ACTIVATE_FALLBACK_ROUTING: why} if why else matrix.NOTHING

    def _failure(self, target: Cell | Router | None) -> Failure | None:
        if isinstance(target, Cell):
            return self._ports.observer.failure(target.key)
        return self._ports.routers.failure(target.key) if target else None

    def _context(
        self, scene: _Scene, step: Step, step_record: StepRecord | None, policy: RecoveryPolicySpec
    ) -> StepContext:
        if scene.target is None or scene.router is None:
            raise NotFound(f"the target of run {scene.run.metadata.name} is gone")
        data = dict(step_record.data or {}) if step_record else {}
        return StepContext(
            run=scene.run,
            target=scene.target,
            router=scene.router,
            policy=policy,
            now=self._ports.clock.now(),
            step=step.name,
            data=data,
            ports=self._ports,
            dwell=self._dwell,
            approved=frozenset(data.get("approved", ())),
        )

    def _pause(
        self, run: RecoveryRun, procedure: Procedure, target: Cell | Router, router: Router
    ) -> tuple[str, str] | None:
        now = self._ports.clock.now()
        labels = [target.metadata.labels, router.metadata.labels]
        frozen = limits.frozen(self._ports.store.freezes_in(run.metadata.namespace), labels, now, running=True)
        if frozen is not None:
            return ("Frozen", limits.frozen_message(frozen))
        if run.spec.control and run.spec.control.paused and not run.status.abort_requested:
            return ("PausedByPerson", "spec.control.paused is true")
        if isinstance(target, Cell) and self._mode(router.key) is PlacementMode.FALLBACK:
            return ("FallbackActive", limits.BEHIND_FALLBACK)
        if isinstance(target, Cell) and not run.status.abort_requested:
            asking = self._asking_about_a_shared_cause(run, router)
            if asking and self._systemic(router) and not _customers_are_on_their_way(run, procedure):
                told = (
                    f"run {asking} asks whether all cells share a cause: until then nothing is moved, made or restarted"
                )
                return ("SharedCause", told)
        return None

    def _systemic(self, router: Router) -> bool:
        """May they share one now? A question that nobody has answered yet outlives what it is about."""
        placed, every = self._ports.switchboard.current(router.key), self._ports.store.cells_of(router.key)
        spec = placed.spec if placed else None
        counted = members(every, spec) if spec else every
        states = {name: self._ports.observer.health(cell.key) for name, cell in counted.items()}
        known = {name: state for name, state in states.items() if state is not None}
        return bool(failures.systemic(known, spec, self._ports.observer.broken(router.key)))

    def _asking_about_a_shared_cause(self, run: RecoveryRun, router: Router) -> str | None:
        """The Router's run that waits for a person's word on it (rule 10); what a person started goes on."""
        others = self._ports.store.runs_in(run.metadata.namespace)
        for other in others:
            ref, status = other.spec.target_ref, other.status
            if ref.kind is not TargetKind.ROUTER or ref.name != router.metadata.name:
                continue
            if other.phase is not RunPhase.AWAITING_APPROVAL:
                continue
            inputs = status.decision.inputs if status.decision else None
            gate = status.awaiting.gate if status.awaiting else None
            if gate != cascade.SYSTEMIC and (inputs is None or inputs.type is not FailureType.SYSTEMIC):
                continue
            if run.spec.trigger is Trigger.AUTOMATIC or other.metadata.name in admission.line(run, others):
                return other.metadata.name
        return None

    def _result(self, status: RecoveryRunStatus) -> RunResult | None:
        procedure = self._procedure(status)
        return procedure.result(status) if procedure else status.result

    def _procedure(self, status: RecoveryRunStatus) -> Procedure | None:
        """The one by which the run works; None before it has a plan, and where this version does not have it."""
        return self._procedures.get(status.plan.procedure) if status.plan else None

    async def _save(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        """Write the status, with its result, if it differs; returns the run as it is now, or the same object."""
        status = status.model_copy(update={"result": self._result(status)})
        if status == run.status:
            return run
        return await self._ports.records.save(run, status)


def _expiry(policy: RecoveryPolicySpec) -> float:
    """Seconds. What lapses before anybody can answer would be asked for without end."""
    return max(SHORTEST_EXPIRY, seconds(policy.limits.approval_expires))


def _customers_are_on_their_way(run: RecoveryRun, procedure: Procedure) -> bool:
    """Then the run finishes first (rule 23)."""
    past = {s.name for s in run.status.steps if s.state in (StepState.RUNNING, StepState.DONE)}
    return any(step.moves and step.name in past for step in procedure.steps)


def _to_abort(run: RecoveryRun) -> bool:
    return bool(run.spec.control and run.spec.control.abort) or run.metadata.deletion_timestamp is not None


def _kept(step_record: StepRecord, data: dict[str, Any]) -> dict[str, Any]:
    """A step's new data; what it prepared and the gates that were opened stay."""
    return {**(step_record.data or {}), **data}


def _router_key(namespace: str, target: Cell | Router | None) -> Key:
    """Of the Router that is the target, or that the target's customers come through."""
    if isinstance(target, Cell):
        return (namespace, target.spec.router_ref.name)
    return (namespace, target.metadata.name if target else "")


def _and_then(run: RecoveryRun) -> str:
    """What is left to do for whoever recovers the target by hand."""
    ref = run.spec.target_ref
    return (
        f", then give the cell its traffic back with: recell return {ref.name}" if ref.kind is TargetKind.CELL else ""
    )


def _successor(run: RecoveryRun, target: Cell | Router, strategy: Strategy, outcome: Fail) -> RecoveryRun:
    """The run that goes on from here; its name is the same however often it is made."""
    meta = run.metadata
    name = f"{meta.name[:240]}-next"
    return RecoveryRun(
        metadata=ObjectMeta(
            name=name,
            namespace=meta.namespace,
            labels={
                LABEL_MADE_BY: "recell",
                LABEL_TARGET_KIND: run.spec.target_ref.kind,
                LABEL_TARGET: run.spec.target_ref.name[:63],
                LABEL_INCIDENT: meta.labels.get(LABEL_INCIDENT, meta.name[:63]),
            },
            annotations={ANNOTATION_TARGET_UID: target.metadata.uid},
            finalizers=[FINALIZER],
        ),
        spec=RecoveryRunSpec(
            target_ref=run.spec.target_ref,
            strategy=strategy,
            failure=outcome.states,
            urgency=run.spec.urgency,
            trigger=Trigger.CHILD,
            escalated_from=meta.name,
            reason=f"{meta.name} escalated: {outcome.message}"[:512],
        ),
    )
