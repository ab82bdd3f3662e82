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
class Reach:
    """Whether the API server of a cell's own cluster can be read."""

    ok: bool
    reason: str
    """CamelCase."""
    message: str
    """Why not, and what to do; the same until something changes."""
    since: datetime | None = None
    """Since when not, where known."""


@dataclass(frozen=True)
class ProbeResult:
    """The last HTTP probes of the backend by the operator."""

    ok: bool
    message: str
    at: datetime
    since: datetime
    """First probe of the present run of equal results."""
    operator_cut_off: bool = False
    """It says nothing about the cell: every probed cell fails at once from here, so more likely the operator than the
    cells (rule 12), or there is no way to try it."""


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
    in_flight: int | None
    """None: the router does not tell."""
    latency_p95: float | None = None
    """Upper bound of the bucket that holds the 95th percentile; None without requests."""
    pod_error_rates: tuple[float, ...] = ()
    """Error rate at each router pod that sent it requests: two pods are two places to see from."""
    check_up: bool | None = None
    """The router's own health check; False when every serving pod sees it down, None when unknown."""
    breaker_tripped: bool = False
    """A router pod's own circuit breaker turns most of its requests away."""

    @property
    def error_rate(self) -> float | None:
        return self.failures / self.requests if self.requests else None


@dataclass(frozen=True)
class ClassTraffic:
    """What the router saw of a class of requests in a window."""

    requests: int
    """All that arrived, those that were shed included."""
    requests_per_second: float
    shed: int
    failures: int
    """Answers of 500 and above for another reason."""

    @property
    def error_rate(self) -> float | None:
        """Of the requests that were not shed."""
        passed = self.requests - self.shed
        return self.failures / passed if passed else None


@dataclass(frozen=True)
class RouterTraffic:
    """What the router saw, summed over its pods. Windows lie wholly after `since`."""

    since: datetime
    until: datetime
    pods: int
    cells: Mapping[str, CellTraffic] = field(default_factory=dict)
    rejected: int = 0
    """Requests that the router itself turned away with 503."""
    classes: Mapping[str, ClassTraffic] = field(default_factory=dict)
    """By class of requests; empty where the Router has no classes, or cannot tell them apart."""

    @property
    def window(self) -> float:
        return (self.until - self.since).total_seconds()

    @property
    def requests(self) -> int:
        return sum(cell.requests for cell in self.cells.values())

    @property
    def requests_of_classes(self) -> int:
        """All that arrived, as far as they are told apart by class."""
        return sum(seen.requests for seen in self.classes.values())

    @property
    def requests_per_second(self) -> float:
        return sum(cell.requests_per_second for cell in self.cells.values())


@dataclass(frozen=True)
class Asked:
    """What came of the operator's own requests through a way in for customers, in a window."""

    asked: int
    unanswered: int
    """No answer by a router, or one that says that it has no table; a cell's own error is an answer."""
    message: str
    """Of the last one that was not answered, else of the last one."""
    at: datetime
    """Of the last one."""
    since: datetime
    """First one of the present run of equal results."""
    operator_cut_off: bool = False
    """Whatever the operator probes fails at once: more likely its own fault (rule 12)."""

    @property
    def part(self) -> float:
        """Part (0..1) that was not answered."""
        return self.unanswered / self.asked if self.asked else 0.0


@dataclass(frozen=True)
class Pods:
    """Pods of a Deployment."""

    desired: int
    ready: int


@dataclass(frozen=True)
class FallbackState:
    """The fallback as it stands by, or serves."""

    order: tuple[str, ...]
    """Of the table that its newest pods have."""
    table: str
    """Id of that table."""
    pods: Pods
    current: bool
    """No pod with another table is left."""
    asked: Asked | None = None
    """What came of the operator's requests through it; None: nobody was asked yet."""

    @property
    def obstacle(self) -> str:
        """Why nobody should be sent there now; empty: nothing is in the way."""
        if self.pods.ready == 0:
            return f"none of its {self.pods.desired} pods is ready"
        if not self.current:
            return "its pods are just getting another table"
        if self.asked is None:
            return "nobody has asked through it yet"
        if self.asked.part >= 0.5:
            return f"{self.asked.unanswered} of {self.asked.asked} requests got no answer ({self.asked.message})"
        return ""


@dataclass(frozen=True)
class PrimaryState:
    """The router's own pods, as a Deployment."""

    uid: str
    """Of the Deployment: another one is another primary."""
    restarted_by: str | None
    """Token of the last restart."""
    pods: Pods
    rolled_out: bool
    """Every pod is of the newest revision, and no other is left."""


@dataclass(frozen=True)
class Landed:
    """Where a request of an invented customer landed."""

    customer: str
    status: int | None
    """None: no answer."""
    cell: str | None
    """The cell that answered, as the fallback tells; None: it does not."""
    message: str


@dataclass(frozen=True)
class Processes:
    """What the agents tell of the routers' processes beside them."""

    told: int
    """Agents of which something fresh is known."""
    answering: int
    """Those whose process answers."""


@dataclass(frozen=True)
class RouterObservation:
    """Everything that is known about one router at one moment."""

    asked: Asked | None = None
    """None: nobody was asked yet."""
    pods: Pods | None = None
    processes: Processes | None = None
    """None: nothing fresh is heard of any agent."""
    traffic: RouterTraffic | None = None
    """Of the detection window; None: no fresh figures."""
    usual: RouterTraffic | None = None
    """Of the minutes before."""
    relieved: bool = False
    """Customers go through the fallback: that none come here is as it should be, and the requests are the operator's
    own, to the router itself."""


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
    cluster: Reach | None = None
    """None for a cell in the operator's own cluster."""
    probe: ProbeResult | None = None
    integrity: IntegrityResult | None = None
    traffic: CellTraffic | None = None
    """None: no fresh figures from the router."""
