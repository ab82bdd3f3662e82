"""What the engine and the procedures need of the world, as Protocols.

A provider makes a port real; `tests/fakes` has a behaving fake of each, and both pass the same
contract suite (`tests/contract`). Reading is synchronous: it looks into memory that watches keep
fresh, and never waits. Writing is asynchronous, may be repeated, and raises `recell.engine.errors`.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Protocol

from recell.api import Cell, Placement, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import WorkloadRef
from recell.api.placement import PlacementSpec
from recell.domain.observation import Applied, CellObservation, RouterTraffic, WorkloadState

Key = tuple[str, str]
"""Namespace and name."""


class Clock(Protocol):
    def now(self) -> datetime:
        """Wall clock, aware, UTC. For records."""
        ...

    def monotonic(self) -> float:
        """Seconds. For waits and deadlines."""
        ...


class Traffic(Protocol):
    """The data plane of the routers."""

    def applied(self, router: Key) -> Applied | None:
        """What every serving pod has applied; None while no pod tells."""
        ...

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        """Traffic of the last `window` seconds, no part of it older than `not_before`.

        None when there are no fresh figures (two sample intervals) or less than half of the window is covered.
        """
        ...


class Switchboard(Protocol):
    """The one writer of each Router's Placement."""

    def current(self, router: Key) -> Placement | None: ...

    async def change(self, router: Key, change: Callable[[PlacementSpec], PlacementSpec]) -> Placement:
        """Apply a pure change by compare-and-swap, together with the others that wait.

        Returns the Placement that carries it (its generation is what the data plane has to apply).
        A change that changes nothing writes nothing. Raises Fenced, NotFound, Retryable, Forbidden.
        """
        ...


class Workloads(Protocol):
    """The workloads that Cells name."""

    def states(self, cell: Cell) -> tuple[WorkloadState, ...]: ...

    async def restart(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Roll the workload's pods once per token. Raises NotFound, Forbidden, Conflict, Retryable, Reverted."""
        ...


class Observer(Protocol):
    """What is known about cells."""

    def observe(self, cell: Cell) -> CellObservation: ...


class Store(Protocol):
    """The watched objects of the fleet; fresh, proof against what vanished while a watch was cut."""

    def cell(self, key: Key) -> Cell | None: ...

    def router(self, key: Key) -> Router | None: ...

    def cells_of(self, router: Key) -> Mapping[str, Cell]: ...

    def run(self, key: Key) -> RecoveryRun | None: ...

    def runs_in(self, namespace: str) -> tuple[RecoveryRun, ...]: ...

    def policy_for(self, cell: Cell) -> RecoveryPolicy: ...
