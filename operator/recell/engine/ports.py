"""What the engine and the procedures need of the world, as Protocols.

A provider makes a port real; `tests/fakes` has a behaving fake of each, and both pass the same
contract suite (`tests/contract`). Reading is synchronous: it looks into memory that watches keep
fresh, and never waits. Writing is asynchronous, may be repeated, and raises `recell.engine.errors`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api.cell import Failure, WorkloadRef
from recell.api.failure import DataIntegrity
from recell.api.fallback import SwitchType
from recell.api.placement import PlacementMode, PlacementSpec
from recell.api.recovery_run import RecoveryRunStatus
from recell.domain import data
from recell.domain.capacity import Load
from recell.domain.decommission import Retirement
from recell.domain.health import HealthState
from recell.domain.observation import (
    Applied,
    CellObservation,
    FallbackState,
    Landed,
    PrimaryState,
    ProbeResult,
    RouterTraffic,
    WorkloadState,
)
from recell.domain.provisioning import Order, Provisioned

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
        """Roll the workload's pods once per token. Raises BadInput for what a restart would not roll (a CronJob),
        NotFound, Forbidden, Conflict, Retryable, Reverted."""
        ...

    async def scale_back(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Undo `scale_to_zero` of this token; does nothing where another token or none is. Raises as `restart` does."""
        ...

    async def scale_to_zero(self, cell: Cell, ref: WorkloadRef, token: str) -> None:
        """Scale the workload to zero once per token; a StatefulSet's claims are kept, read back first (rule 6).

        A CronJob is suspended, with its Jobs that are under way. To be called again until the workload's state is
        `at_zero`. Raises BadInput for what cannot be scaled (a DaemonSet) or would lose its claims, and as `restart`
        does.
        """
        ...


class Provisioner(Protocol):
    """Further cells from templates."""

    async def ensure(self, order: Order) -> Provisioned:
        """Apply what is missing or differs, in the template's order, the Cell last; say how far it is.

        Repeatable. Raises Forbidden with what to grant, BadInput with the field, Conflict, Retryable.
        """
        ...

    async def weigh(self, cell: Cell, weight: int) -> None:
        """Give a made Cell that has weight 0 this one, and change nothing else: it has customers by then.

        Repeatable. Raises Forbidden, Conflict, NotFound, Retryable.
        """
        ...

    async def unweigh(self, cell: Cell) -> None:
        """Take the weight of a made Cell back to 0, so that the others have its customers. Repeatable; raises alike."""
        ...

    async def remove(self, order: Order) -> Sequence[str]:
        """Delete the half-made cell, the Cell first; returns what is still there. Repeatable."""
        ...


class Isolation(Protocol):
    """Nothing but data jobs reaches a cell's pods."""

    async def isolate(self, cell: Cell) -> None:
        """NetworkPolicies around the pods of the cell's workloads. Repeatable."""
        ...

    async def lift(self, cell: Cell) -> None:
        """They are gone. Repeatable."""
        ...

    async def tried(self, cell: Cell) -> data.Isolated:
        """What came of trying to connect to the cell's pods."""
        ...


class Data(Protocol):
    """The cells' data; the provider is the one that the request's cell names."""

    async def ensure(self, request: data.Request) -> data.Answer:
        """Begin it if it has not begun, and say how far it is. Repeatable: one request is done once.

        Raises Forbidden with what to grant, BadInput with the field, Retryable.
        """
        ...

    async def cancel(self, request: data.Request) -> bool:
        """Stop it if it still runs; True once nothing of it runs any more. Repeatable."""
        ...


class Access(Protocol):
    """The customers' way in."""

    async def try_slot(self, router: Router, cell: Cell, slot: int) -> ProbeResult:
        """A request of an invented customer of this slot through the real router: GET of the cell's probe path."""
        ...


class Observer(Protocol):
    """What is known about cells."""

    def observe(self, cell: Cell, *, not_before: datetime | None = None) -> CellObservation:
        """Everything seen of the cell; no traffic figure older than `not_before`."""
        ...

    def health(self, cell: Key) -> HealthState | None:
        """The cell's health with its hysteresis; None before the first full detection period."""
        ...

    def failure(self, cell: Key) -> Failure | None:
        """What is wrong, while the cell is Degraded or Failed."""
        ...

    def integrity(self, cell: Cell, *, not_before: datetime | None = None) -> DataIntegrity:
        """What is known about the cell's data now (rule 16); with `not_before` by what was found since then, for data
        that was restored meanwhile."""
        ...

    def broken(self, router: Key) -> tuple[str, ...]:
        """What all cells of the router depend on (`dependencies` of its policy) and does not answer."""
        ...

    def loads(self, router: Key) -> Mapping[str, Load]:
        """What the cells of the router got when they were last well, as far as this process saw (rule 17)."""
        ...

    def last_intact(self, cell: Cell) -> datetime | None:
        """A moment up to which the cell's data is known to be intact, as far as this process saw (rule 9)."""
        ...


class Routers(Protocol):
    """What is known about routers themselves, whatever their cells do."""

    def health(self, router: Key) -> HealthState | None:
        """With its hysteresis; None before the router was looked at."""
        ...

    def failure(self, router: Key) -> Failure | None:
        """What is wrong, while the router is Degraded or Failed."""
        ...

    def fallback(self, router: Key) -> FallbackState | None:
        """None: it has none."""
        ...

    def primary(self, router: Key) -> PrimaryState | None:
        """None: its Deployment is not there."""
        ...

    def fenced(self, router: Key) -> bool:
        """Has every pod of the router itself, also one that is not ready, applied its Placement as it is now? True
        where there is no pod."""
        ...

    async def restart(self, router: Router, token: str) -> None:
        """Roll the router's own pods once per token. Raises NotFound, Forbidden, Conflict, Retryable."""
        ...

    async def renew(self, router: Router, uid: str) -> None:
        """Take the Deployment of this UID away, with its pods; another one is made in its place. Repeatable.

        Raises Forbidden, Retryable.
        """
        ...

    async def land(self, router: Router, side: PlacementMode, customers: Sequence[str]) -> Sequence[Landed]:
        """A request of each of these customers that nobody has, to the router itself or to its fallback, whomever
        customers reach. Never raises for what the other side does; raises NotFound, Retryable."""
        ...


class Switch(Protocol):
    """One means of moving the customers between a router and its fallback."""

    @property
    def type(self) -> SwitchType: ...

    @property
    def name(self) -> str:
        """For people."""
        ...

    def obstacle(self, router: Router) -> str:
        """Why it cannot move this router's customers; empty: it can."""
        ...

    def at(self, router: Key) -> PlacementMode | None:
        """Where it sends customers now; None: not known."""
        ...

    async def to(self, router: Router, side: PlacementMode) -> None:
        """Send them there. Repeatable. Raises BadInput, Conflict, Forbidden, NotFound, Retryable, Reverted."""
        ...

    def within(self, router: Router) -> float:
        """Seconds after which customers who were sent somewhere are late there."""
        ...

    async def pending(self, router: Router) -> str:
        """Why customers do not go yet where it sends them; empty: nothing is known that keeps them."""
        ...

    async def land(self, router: Router, customers: Sequence[str]) -> Sequence[Landed]:
        """One request of each of these customers that nobody has, by the way that customers take through it.

        Raises BadInput, NotFound or Retryable with what keeps anybody from asking.
        """
        ...


class Records(Protocol):
    """The runs' own objects. Each write is fenced and raises `recell.engine.errors`."""

    async def save(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        """Write the status under the run's resourceVersion; raises Conflict if it was changed meanwhile."""
        ...

    async def start(self, run: RecoveryRun, status: RecoveryRunStatus) -> RecoveryRun:
        """`save`, and beside it the part of `claim` that waits for no answer; `claim` has to follow."""
        ...

    async def claim(self, run: RecoveryRun) -> RecoveryRun:
        """Finalizer on the run, name and spec hash in its target's history; writes only what is missing."""
        ...

    async def release(self, run: RecoveryRun) -> None:
        """Take the finalizer away. Repeatable."""
        ...

    async def abort(self, run: RecoveryRun) -> None:
        """Say in a run that the operator made that it is to be aborted. Repeatable; writes only what is missing."""
        ...

    async def retire(self, cell: Cell, retirement: Retirement) -> None:
        """Say on the Cell by whom it was replaced and what is proven about that. Repeatable."""
        ...

    async def create(self, run: RecoveryRun) -> RecoveryRun:
        """Create, or return the one of that name if it was made for the same cause; raises Conflict if not."""
        ...


class Announcer(Protocol):
    """Kubernetes Events and metrics of transitions; never fails and never waits."""

    def announce(self, run: RecoveryRun, reason: str, message: str, *, warning: bool = False) -> None: ...


class Leadership(Protocol):
    """The right to write."""

    @property
    def epoch(self) -> int: ...

    def check(self) -> None:
        """Raises Fenced when this process may not write any more."""
        ...

    def obstacle(self) -> str | None:
        """Why no effect may begin now although this process leads, for example a skewed clock (rule 30)."""
        ...


class Store(Protocol):
    """The watched objects of the fleet; fresh, proof against what vanished while a watch was cut."""

    def cell(self, key: Key) -> Cell | None: ...

    def router(self, key: Key) -> Router | None: ...

    def cells_of(self, router: Key) -> Mapping[str, Cell]: ...

    def run(self, key: Key) -> RecoveryRun | None: ...

    def runs_in(self, namespace: str) -> tuple[RecoveryRun, ...]: ...

    def policy_for(self, cell: Cell) -> RecoveryPolicy:
        """Cell.policyRef, else Router.policyRef, else `default`, else built in (mode Observe)."""
        ...

    def router_policy(self, router: Key) -> RecoveryPolicy:
        """Router.policyRef, else `default`, else built in."""
        ...

    def policy_for_namespace(self, namespace: str) -> RecoveryPolicy:
        """The policy named `default`, else built in."""
        ...

    def template(self, key: Key) -> CellTemplate | None: ...

    def freezes_in(self, namespace: str) -> tuple[RecoveryFreeze, ...]: ...


@dataclass(frozen=True)
class Ports:
    """Everything that the engine needs of the world."""

    clock: Clock
    store: Store
    records: Records
    observer: Observer
    routers: Routers
    switches: Sequence[Switch]
    """In the order in which they are tried."""
    traffic: Traffic
    switchboard: Switchboard
    workloads: Workloads
    provisioner: Provisioner
    isolation: Isolation
    data: Data
    access: Access
    announcer: Announcer
    leadership: Leadership
