"""Short ways to make the values that the tests of the domain are about."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from recell.api import Cell, RecoveryFreeze, RecoveryRun
from recell.api.failure import Evidence, Vantage, Verdict
from recell.api.meta import timestamp
from recell.api.placement import Hold, Holder, HoldState
from recell.api.router import CustomerData, OffHome
from recell.domain.health import HealthState, Level
from recell.domain.observation import CellTraffic, RouterTraffic
from recell.domain.placement import Candidate, Routing

NOW = datetime(2026, 11, 25, 18, 45, tzinfo=UTC)
RUN = Holder(kind="RecoveryRun", name="run-1", uid="run-uid-1")
OTHER_RUN = Holder(kind="RecoveryRun", name="run-2", uid="run-uid-2")
ANNA = Holder(kind="Person", name="anna")


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def candidate(name: str, weight: int = 100, uid: str | None = None, address: str = "10.0.0.1") -> Candidate:
    return Candidate(name=name, uid=uid or f"uid-{name}", address=address, port=8080, weight=weight)


def routing(
    data: CustomerData = CustomerData.SHARED,
    off_home: OffHome = OffHome.REJECT,
    slots: int = 1024,
    pins: tuple[tuple[str, str], ...] = (),
) -> Routing:
    return Routing(customer_data=data, off_home=off_home, pins=pins, slots=slots)


def held(
    cell: str,
    percent: int,
    state: HoldState = HoldState.DRAINING,
    holder: Holder = RUN,
    since: datetime = NOW,
    reason: str = "test",
) -> Hold:
    return Hold(cell=cell, max_percent=percent, state=state, holder=holder, reason=reason, since=since)


def cell(name: str = "cell-a", *, status: Mapping[str, Any] | None = None, metadata: Any = None, **spec: Any) -> Cell:
    """A cell with a Service; keywords are fields of its spec as a user writes them."""
    return Cell.model_validate(
        {
            "metadata": {"name": name, "namespace": "fleet", "uid": f"uid-{name}", **(metadata or {})},
            "spec": {
                "routerRef": {"name": "shop"},
                "backend": {"type": "Service", "service": {"name": "web", "port": 80}},
                **spec,
            },
            "status": status or {},
        }
    )


def run(
    name: str = "run-1",
    target: str = "cell-a",
    *,
    uid: str | None = None,
    status: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    created: datetime = NOW,
    **spec: Any,
) -> RecoveryRun:
    return RecoveryRun.model_validate(
        {
            "metadata": {
                "name": name,
                "namespace": "fleet",
                "uid": uid or f"uid-{name}",
                "annotations": dict(annotations or {}),
                "creationTimestamp": timestamp(created),
            },
            "spec": {"targetRef": {"kind": "Cell", "name": target}, **spec},
            "status": status or {},
        }
    )


def ended(
    name: str, phase: str, at: datetime, *, trigger: str = "Automatic", started: datetime | None = None, **spec: Any
) -> RecoveryRun:
    times = {"startedAt": timestamp(started or at - timedelta(minutes=5)), "finishedAt": timestamp(at)}
    if trigger == "Child":
        spec = {"escalatedFrom": "parent", **spec}
    return run(name, trigger=trigger, status={"phase": phase, **times}, created=started or at, **spec)


def freeze(name: str = "stop", **spec: Any) -> RecoveryFreeze:
    return RecoveryFreeze.model_validate(
        {"metadata": {"name": name, "namespace": "fleet"}, "spec": {"reason": "sale day", **spec}}
    )


def evidence(check: str, vantage: Vantage, verdict: Verdict) -> Evidence:
    return Evidence(check=check, vantage=vantage, verdict=verdict, message=f"{check} {verdict}")


def cell_traffic(
    requests: int = 1000, failures: int = 0, *, window: float = 10.0, in_flight: int = 0, **more: Any
) -> CellTraffic:
    return CellTraffic(
        requests=requests,
        requests_per_second=requests / window,
        failures=failures,
        in_flight=in_flight,
        latency_p95=more.pop("latency_p95", 0.05 if requests else None),
        check_up=more.pop("check_up", True),
    )


def router_traffic(cells: Mapping[str, CellTraffic], *, since: datetime = NOW, window: float = 10.0) -> RouterTraffic:
    return RouterTraffic(since=since, until=since + timedelta(seconds=window), pods=2, cells=cells)


def health(level: Level, since: datetime = NOW, **more: Any) -> HealthState:
    failing = since if level in (Level.DEGRADED, Level.FAILED) else None
    return HealthState(level=level, since=since, failing_since=more.pop("failing_since", failing), known=level, **more)
