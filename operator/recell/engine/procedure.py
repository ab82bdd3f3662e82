"""Step and Procedure: the words in which procedures are written.

A step's function reads through its context, calls idempotent `ensure_*` effects and returns an
Outcome. It keeps nothing in memory: what it has to remember stands in its record (`prepare` writes it
before the first effect) or in the world itself.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from recell.api import Cell, Placement, RecoveryRun, Router
from recell.api.failure import Evidence, Strategy
from recell.api.meta import seconds
from recell.api.placement import Hold, Holder
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import RecoveryRunStatus, RunPhase, RunResult, TargetKind
from recell.domain import health, runs
from recell.domain.observation import CellObservation
from recell.domain.placement import Routing
from recell.engine.dwell import Dwell
from recell.engine.errors import Retryable
from recell.engine.outcome import Outcome
from recell.engine.ports import Key, Ports

LOOK_AGAIN = 2.0
"""Seconds between two looks at figures that no watch brings. Time in longer gaps is not counted as seen."""


@dataclass(frozen=True)
class StepContext:
    """What a step sees: the run, its target, the frozen policy, the moment, and the ports."""

    run: RecoveryRun
    target: Cell | Router
    router: Router
    """The target itself, or the one that its cell belongs to."""
    policy: RecoveryPolicySpec
    """As frozen in the plan, not as it is now."""
    now: datetime
    step: str
    data: dict[str, Any]
    ports: Ports
    dwell: Dwell
    approved: frozenset[str] = field(default_factory=frozenset)
    """Gates that a person opened for this decision."""

    @property
    def cell(self) -> Cell:
        """The target of a step that is about a Cell. Raises TypeError where the target is a Router."""
        if not isinstance(self.target, Cell):
            raise TypeError(f"step {self.step} needs a Cell, and {self.target.metadata.name} is a Router")
        return self.target

    @property
    def router_key(self) -> Key:
        return self.router.key

    @property
    def routing(self) -> Routing:
        return Routing.of(self.router)

    @property
    def holder(self) -> Holder:
        meta = self.run.metadata
        return Holder(kind=runs.HOLDER, name=meta.name, uid=meta.uid)

    @property
    def placement(self) -> Placement:
        """Raises Retryable while the Router has none."""
        found = self.ports.switchboard.current(self.router_key)
        if found is None:
            raise Retryable(f"Placement {self.router.metadata.name} is missing: see the Router's conditions")
        return found

    @property
    def own_hold(self) -> Hold | None:
        return next(
            (
                h
                for h in self.placement.spec.holds
                if h.cell == self.cell.metadata.name and h.holder.uid == self.run.metadata.uid
            ),
            None,
        )

    def of(self, step: str) -> Mapping[str, Any]:
        """What another step of this run remembers; empty before it began."""
        return next((s.data for s in self.run.status.steps if s.name == step and s.data), {})

    def sibling(self, name: str) -> Cell | None:
        """Another cell of the namespace."""
        return self.ports.store.cell((self.run.metadata.namespace, name))

    def living(self, holder: Holder) -> bool:
        """Does whoever holds a cell still work on it? An ended or deleted run does not."""
        if holder.kind != runs.HOLDER:
            return True
        return runs.at_work(holder, self.ports.store.run((self.run.metadata.namespace, holder.name)))

    def stays(self, holder: Holder) -> bool:
        """Is what it holds to be respected? Not of a run that has ended, nor of the one that this run works for."""
        return self.living(holder) and holder.name not in self._line

    @property
    def cascade(self) -> str | None:
        """Name of the run about the whole Router that this one works for, which sees to capacity; None: none."""
        return next(
            (name for name, run in self._line.items() if run and run.spec.target_ref.kind is TargetKind.ROUTER), None
        )

    @property
    def _line(self) -> dict[str, RecoveryRun | None]:
        """The runs that this one goes on from or works for, by name; None for one that is gone."""
        return runs.line(self.run, lambda name: self.ports.store.run((self.run.metadata.namespace, name)))

    def others_limit(self) -> int:
        """The cell's limit by everybody else who still works on it, in percent of its customers."""
        return min(
            (
                hold.max_percent
                for hold in self.placement.spec.holds
                if hold.cell == self.cell.metadata.name
                and hold.holder.uid != self.run.metadata.uid
                and self.stays(hold.holder)
            ),
            default=100,
        )

    def applied(self) -> bool:
        """Has every serving router pod applied the Placement as it is now?"""
        placement = self.placement
        applied = self.ports.traffic.applied(self.router_key)
        return applied is not None and applied.covers(
            placement.metadata.uid, placement.spec.epoch, placement.metadata.generation
        )

    def observe(self, *, not_before: datetime | None = None) -> CellObservation:
        """The cell as it is seen now; traffic figures wholly after `not_before`."""
        return self.ports.observer.observe(self.cell, not_before=not_before)

    def evidence(self, *, not_before: datetime | None = None) -> tuple[Evidence, ...]:
        return health.assess(self.cell, self.observe(not_before=not_before), self.policy, self.now)

    def elapsed(self, label: str, *, seen: bool = True) -> float:
        """Seconds for which `label` was looked at without a gap, in this process (rule 30)."""
        return self.dwell.elapsed((self.run.metadata.uid, self.step, label), self.ports.clock.monotonic(), seen=seen)

    def since(self, label: str) -> datetime:
        """The moment from which `elapsed(label)` counts."""
        return self.now - timedelta(seconds=self.elapsed(label))

    def forget(self, label: str) -> None:
        self.dwell.forget((self.run.metadata.uid, self.step, label))


def on_cell(ctx: StepContext, cell: Cell, data: Mapping[str, Any] | None = None) -> StepContext:
    """The context of a step about a Router as one about this cell of it, with stopwatches of its own.

    Without `data` it remembers nothing of its own.
    """
    return replace(ctx, target=cell, step=f"{ctx.step} {cell.metadata.name}", data=dict(data or {}))


StepFunction = Callable[[StepContext], Awaitable[Outcome]]


@dataclass(frozen=True)
class Step:
    """One step of a procedure."""

    name: str
    """Kebab-case; stored in status, never renamed."""
    phase: RunPhase
    does: str
    """One line for people, without numbers."""
    act: StepFunction
    within: Callable[[RecoveryPolicySpec], float]
    """Deadline in seconds of observed time; after it the step fails with DeadlineExceeded."""
    rehearse: Callable[[StepContext], str]
    """What it would do now, with numbers: pure. The whole step of a dry run."""
    effects: bool = True
    """False: it only looks, so that nothing has to be recorded before it."""
    prepare: Callable[[StepContext], dict[str, Any]] | None = None
    """What the step has to remember, computed once and recorded before its first effect: pure."""
    moves: bool = False
    """From here on customers are on their way: the run is not superseded any more, it finishes first (rule 23)."""


@dataclass(frozen=True)
class Procedure:
    name: str
    version: int
    """Raised when steps or their meaning change; runs in flight go on by their frozen plan only."""
    steps: tuple[Step, ...]
    on_abort: tuple[Step, ...]
    """Undo what is temporary."""
    escalates: Strategy | None = None
    """What goes on from a step that ran out of time; None is manual intervention."""
    on_recovered: tuple[Step, ...] = ()
    """The way back for a target that became well by itself; appended by the outcome Recovered."""
    claims: Callable[[RecoveryRunStatus], Collection[str]] = lambda _: ()
    """Cells of its Router that a run takes over from runs of their own, from its record: pure."""
    left_to_people: bool = False
    """The target is not recovered when its steps are done: the run ends as ManualInterventionRequired."""
    result: Callable[[RecoveryRunStatus], RunResult | None] = lambda _: None
    """What came of the run, from its record: pure."""

    def step(self, name: str) -> Step | None:
        return next((s for s in (*self.steps, *self.on_abort, *self.on_recovered) if s.name == name), None)


def within(name: str, block: str = "steps") -> Callable[[RecoveryPolicySpec], float]:
    """A deadline that is one of the policy's numbers."""
    return lambda policy: seconds(getattr(getattr(policy, block), name))
