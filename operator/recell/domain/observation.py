"""What was seen of the world, as values: the input of every decision.

Promises: frozen values, no I/O, no clock. A figure that is missing is None, never zero; a moment
is an aware datetime in UTC, a duration is in seconds, a rate is per second, a part is 0..1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from recell.api.cell import WorkloadRef


class WorkloadPhase(StrEnum):
    """Of a workload, by kstatus rules."""

    CURRENT = "Current"
    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    NOT_FOUND = "NotFound"
    UNKNOWN = "Unknown"
    """The API that would tell cannot be read."""


@dataclass(frozen=True)
class WorkloadState:
    """A workload and its pods."""

    ref: WorkloadRef
    phase: WorkloadPhase
    message: str = ""
    """The worst thing seen, for people: `2 of 3 pods ready; web-x: CrashLoopBackOff (exit 1, 5 restarts)`."""
    desired: int | None = None
    ready: int | None = None
    updated: bool = False
    """Every pod is of the newest revision and Available."""
    restart_token: str | None = None
    """Value of the restart annotation in the pod template."""
    stop_token: str | None = None
    """Value of the annotation by which it was scaled to zero."""
    pods: int | None = None
    """Its pods that may still run, those that are ending included: a pod that ends can still write. None: not known;
    told of a workload that is not well, and of one that was scaled to zero. 0 only when no other can come any more."""
    owned_by: str | None = None
    """The tool that writes it from elsewhere, and its instance, for people: `Argo CD Application shop`."""
    since: datetime | None = None
    """Since when it is not Current, where known."""

    @property
    def at_zero(self) -> bool:
        """Seen at zero: nothing of it runs any more (rule 5)."""
        return self.desired == 0 and self.pods == 0


@dataclass(frozen=True)
class Endpoints:
    """The Service's endpoints."""

    service_found: bool
    port_found: bool
    ready: int = 0
    total: int = 0


@dataclass(frozen=True)
class ProbeResult:
    """The last HTTP probes of the backend by the operator."""

    ok: bool
    message: str
    at: datetime
    since: datetime
    """First probe of the present run of equal results."""
    operator_cut_off: bool = False
    """Every probed cell fails at once from here: more likely the operator than the cells (rule 12)."""


@dataclass(frozen=True)
class IntegrityResult:
    """The last verdict about the cell's data; a check that cannot tell does not replace an earlier one (rule 16)."""

    intact: bool | None
    """None: no check could tell yet."""
    message: str
    at: datetime
    """When it was asked."""


@dataclass(frozen=True)
class CellTraffic:
    """What the router saw of a cell in a window."""

    requests: int
    """Requests that ended in the window."""
    requests_per_second: float
    failures: int
    """Answers of 500 and above, and requests without an answer."""
    in_flight: int
    latency_p95: float | None = None
    """Upper bound of the bucket that holds the 95th percentile; None without requests."""
    pod_error_rates: tuple[float, ...] = ()
    """Error rate at each router pod that sent it requests: two pods are two places to see from."""
    check_up: bool | None = None
    """The router's own health check; False when every serving pod sees it down, None when unknown."""

    @property
    def error_rate(self) -> float | None:
        return self.failures / self.requests if self.requests else None


@dataclass(frozen=True)
class RouterTraffic:
    """What the router saw, summed over its pods. Windows lie wholly after `since`."""

    since: datetime
    until: datetime
    pods: int
    cells: Mapping[str, CellTraffic] = field(default_factory=dict)
    rejected: int = 0
    """Requests that the router itself turned away with 503."""

    @property
    def window(self) -> float:
        return (self.until - self.since).total_seconds()

    @property
    def requests(self) -> int:
        return sum(cell.requests for cell in self.cells.values())

    @property
    def requests_per_second(self) -> float:
        return sum(cell.requests_per_second for cell in self.cells.values())


@dataclass(frozen=True)
class Applied:
    """What the data plane has applied of a Placement."""

    uid: str
    epoch: int
    generation: int
    pods: int
    """Serving pods that were asked; every one has at least this (epoch, generation)."""
    at: datetime
    """When the last of them had it."""

    def covers(self, uid: str, epoch: int, generation: int) -> bool:
        return self.pods > 0 and self.uid == uid and (self.epoch, self.generation) >= (epoch, generation)


@dataclass(frozen=True)
class CellObservation:
    """Everything that is known about one cell at one moment."""

    workloads: tuple[WorkloadState, ...] = ()
    endpoints: Endpoints | None = None
    """None for a cell with a fixed address."""
    probe: ProbeResult | None = None
    integrity: IntegrityResult | None = None
    traffic: CellTraffic | None = None
    """None: no fresh figures from the router."""
