"""What the pods of a Gateway's implementation counted for the cells of one Router, from their Prometheus text. Pure.

Promises: figures by cell, whichever of an implementation's series they stand in, and never falling while its process
lives: an implementation drops the series of a backend that leaves its configuration, and begins anew when it is back.
"""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from recell.api.gateway import GatewayMetricsType
from recell.engine.ports import Key
from recell.providers.routing.gateway.route import Backend
from recell.providers.routing.haproxy.report import FIXED, CellCounters, Report

REQUESTS, FAILURES = 0, 1
"""Places in a cell's counters; latency buckets follow from FIXED on."""


@dataclass(frozen=True)
class Backends:
    """The cells of the Router as its HTTPRoute names them now."""

    router: Key
    indexes: Mapping[str, int]
    """Index in the Placement of every cell of the Router."""
    services: Mapping[Key, str]
    """Cell by namespace and name of its Service."""
    ordered: Sequence[Backend]
    """Those that the rules list, in that order."""


@dataclass(frozen=True)
class Sample:
    series: str
    cell: str
    place: int
    """In the cell's counters."""
    value: float


class Dialect(Protocol):
    """How an implementation names things."""

    path: str
    bounds: tuple[float, ...]
    """Upper bounds of its latency buckets in seconds, unless it is told otherwise."""
    tells_in_flight: bool

    def age(self, lines: Sequence[str], now: float) -> float:
        """Seconds that the process has run. Raises ValueError when it does not say."""
        ...

    def wanted(self, line: str, router: Key) -> bool:
        """Whether the line is about the Router's cells; cheap."""
        ...

    def samples(self, lines: str, of: Backends) -> Iterator[Sample]: ...

    def in_flight(self, lines: str, of: Backends) -> Mapping[str, int]: ...


def _value(lines: Sequence[str], name: str) -> float:
    for line in lines:
        if line.startswith(name) and line[len(name)] in " {":
            return float(line.rsplit(" ", 1)[1])
    raise ValueError(f"not metrics of this implementation: {name} is missing")


def _each(lines: str) -> Iterator[tuple[str, Mapping[str, str], float]]:
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


class Traefik:
    """Its services are called by route, Gateway, rule, and the backend's namespace, Service and place in the rule."""

    path = "/metrics"
    bounds: tuple[float, ...] = (0.1, 0.3, 1.2, 5.0)
    tells_in_flight = False
    _place = re.compile(r"-\d+@kubernetesgateway$")

    def age(self, lines: Sequence[str], now: float) -> float:
        return now - _value(lines, "process_start_time_seconds")

    def wanted(self, line: str, router: Key) -> bool:
        return line.startswith("traefik_service_request") and f'service="httproute-{router[0]}-{router[1]}-gw-' in line

    def samples(self, lines: str, of: Backends) -> Iterator[Sample]:
        ends = {f"-svc-{namespace}-{name}": cell for (namespace, name), cell in of.services.items()}
        bounds = {bound: place for place, bound in enumerate((*self.bounds, float("inf")), start=FIXED)}
        for name, labels, value in _each(lines):
            service = self._place.sub("", labels.get("service", ""))
            end = max((end for end in ends if service.endswith(end)), key=len, default=None)
            if end is None:
                continue
            cell = ends[end]
            series = f"{name} {sorted(labels.items())}"
            if name == "traefik_service_requests_total":
                yield Sample(series, cell, REQUESTS, value)
                if not 100 <= int(labels["code"]) < 500:
                    yield Sample(f"failed {series}", cell, FAILURES, value)
            elif name == "traefik_service_request_duration_seconds_bucket" and float(labels["le"]) in bounds:
                yield Sample(series, cell, bounds[float(labels["le"])], value)

    def in_flight(self, lines: str, of: Backends) -> Mapping[str, int]:
        return {}


class EnvoyGateway:
    """Its clusters are called by route, rule, and the backend's place in the rule."""

    path = "/stats/prometheus"
    bounds: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
    tells_in_flight = True
    _cluster = re.compile(r"/rule/\d+/backend/(?P<place>\d+)$")

    def age(self, lines: Sequence[str], now: float) -> float:
        return _value(lines, "envoy_server_uptime")

    def wanted(self, line: str, router: Key) -> bool:
        return line.startswith("envoy_cluster_upstream_rq") and f'"httproute/{router[0]}/{router[1]}/rule/' in line

    def samples(self, lines: str, of: Backends) -> Iterator[Sample]:
        bounds = {1000 * bound: place for place, bound in enumerate((*self.bounds, float("inf")), start=FIXED)}
        for name, labels, value in _each(lines):
            cell = self._cell(labels, of)
            if cell is None:
                continue
            series = f"{name} {sorted(labels.items())}"
            if name == "envoy_cluster_upstream_rq_completed":
                yield Sample(series, cell, REQUESTS, value)
            elif name == "envoy_cluster_upstream_rq_xx" and labels.get("envoy_response_code_class") == "5":
                yield Sample(series, cell, FAILURES, value)
            elif name == "envoy_cluster_upstream_rq_time_bucket" and float(labels["le"]) in bounds:
                yield Sample(series, cell, bounds[float(labels["le"])], value)

    def in_flight(self, lines: str, of: Backends) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name, labels, value in _each(lines):
            cell = self._cell(labels, of)
            if cell is not None and name == "envoy_cluster_upstream_rq_active":
                found[cell] = found.get(cell, 0) + int(value)
        return found

    def _cell(self, labels: Mapping[str, str], of: Backends) -> str | None:
        place = self._cluster.search(labels.get("envoy_cluster_name", ""))
        if place is None or int(place["place"]) >= len(of.ordered):
            return None
        return of.ordered[int(place["place"])].cell


DIALECTS: Mapping[GatewayMetricsType, Dialect] = {
    GatewayMetricsType.TRAEFIK: Traefik(),
    GatewayMetricsType.ENVOY_GATEWAY: EnvoyGateway(),
}


@dataclass
class PodCounters:
    """What one pod has counted since its process started, by cell."""

    dialect: Dialect
    _started: int = 0
    """How many processes were seen."""
    _age: float = 0.0
    _last: dict[str, float] = field(default_factory=dict)
    _totals: dict[str, "array[int]"] = field(default_factory=dict)

    def take(self, text: str, of: Backends, now: float) -> Report:
        """The report of a scrape at this moment (seconds since 1970). Raises ValueError for what is no such text."""
        lines = text.splitlines()
        age = max(0.0, self.dialect.age(lines, now))
        if not self._started or age < self._age:
            self._started += 1
            self._last, self._totals = {}, {}
        self._age = age
        mine = "".join(f"{line}\n" for line in lines if self.dialect.wanted(line, of.router))
        seen: dict[str, float] = {}
        size = FIXED + len(self.dialect.bounds) + 1
        for sample in self.dialect.samples(mine, of):
            before = self._last.get(sample.series, 0.0)
            gained = sample.value - before if sample.value >= before else sample.value
            total = self._totals.setdefault(sample.cell, array("Q", bytes(8 * size)))
            total[sample.place] += round(gained)
            seen[sample.series] = sample.value
        self._last = seen
        waiting = self.dialect.in_flight(mine, of)
        nothing = array("Q", bytes(8 * size))
        cells = {
            index: CellCounters(
                array("Q", self._totals.get(cell, nothing)),
                waiting.get(cell, 0) if self.dialect.tells_in_flight else None,
                "unknown",
            )
            for cell, index in of.indexes.items()
        }
        return Report(
            instance=str(self._started),
            age=age,
            applied=None,
            refused="",
            source="Synced",
            source_message="",
            error="",
            rejected=0,
            bounds=self.dialect.bounds,
            cells=cells,
        )
