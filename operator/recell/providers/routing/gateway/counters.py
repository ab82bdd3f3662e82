"""What the pods of a Gateway's implementation counted for one Router, from their Prometheus text. Pure.

Promises: figures by cell, whichever of the Router's rules sent it what, and by class with what was turned away;
whichever of an implementation's series they stand in, and never falling while its process lives: an implementation
drops the series of a backend that leaves its configuration, and begins anew when it is back.
"""

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client.parser import text_string_to_metric_families

from recell.api.gateway import GatewayMetricsType
from recell.engine.ports import Key
from recell.providers.routing.gateway.route import Backend, Rule
from recell.providers.routing.gateway.turn_away import TurnedAway, service_name
from recell.providers.routing.haproxy.report import FIXED, CellCounters, Report

REQUESTS, FAILURES = 0, 1
"""Places in the counters of a cell, where latency buckets follow from FIXED on, and of a class, where SHED does."""
SHED = 2


@dataclass(frozen=True)
class Backends:
    """What the Router's HTTPRoute sends requests to now."""

    router: Key
    indexes: Mapping[str, int]
    """Index in the Placement of every cell of the Router."""
    services: Mapping[Key, str]
    """Cell by namespace and name of its Service."""
    rules: Sequence[Rule]
    """Those of the HTTPRoute, each with its backends, in that order."""

    def rule(self, place: int) -> Rule | None:
        return self.rules[place] if place < len(self.rules) else None


@dataclass(frozen=True)
class Target:
    """Where a request went."""

    cell: str
    """Empty: to none."""
    reason: TurnedAway | None
    """Why it was turned away."""
    name: str
    """Its class; empty where there are none."""


@dataclass(frozen=True)
class Sample:
    series: str
    target: Target
    place: int
    """In the counters."""
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
    _rule = re.compile(r"-(?P<place>\d+)(-[0-9a-f]{20})?$")
    """With a hash of the match where each match has backends of its own."""

    def age(self, lines: Sequence[str], now: float) -> float:
        return now - _value(lines, "process_start_time_seconds")

    def wanted(self, line: str, router: Key) -> bool:
        return line.startswith("traefik_service_request") and f'service="httproute-{router[0]}-{router[1]}-gw-' in line

    def samples(self, lines: str, of: Backends) -> Iterator[Sample]:
        ends: dict[str, tuple[str, TurnedAway | None]] = {
            f"-svc-{namespace}-{name}": (cell, None) for (namespace, name), cell in of.services.items()
        }
        for reason in TurnedAway:
            ends[f"-svc-{of.router[0]}-{service_name(of.router[1], reason)}"] = ("", reason)
        bounds = {bound: place for place, bound in enumerate((*self.bounds, float("inf")), start=FIXED)}
        for name, labels, value in _each(lines):
            service = self._place.sub("", labels.get("service", ""))
            end = max((end for end in ends if service.endswith(end)), key=len, default=None)
            if end is None:
                continue
            place = self._rule.search(service.removesuffix(end))
            rule = of.rule(int(place["place"])) if place is not None else None
            target = Target(*ends[end], rule.name if rule is not None else "")
            series = f"{name} {sorted(labels.items())}"
            if name == "traefik_service_requests_total":
                yield Sample(series, target, REQUESTS, value)
                if not 100 <= int(labels["code"]) < 500:
                    yield Sample(f"failed {series}", target, FAILURES, value)
            elif name == "traefik_service_request_duration_seconds_bucket" and float(labels["le"]) in bounds:
                yield Sample(series, target, bounds[float(labels["le"])], value)

    def in_flight(self, lines: str, of: Backends) -> Mapping[str, int]:
        return {}


class EnvoyGateway:
    """Its clusters are called by route, rule, and the backend's place in the rule."""

    path = "/stats/prometheus"
    bounds: tuple[float, ...] = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
    tells_in_flight = True
    _cluster = re.compile(r"/rule/(?P<rule>\d+)/backend/(?P<place>\d+)$")

    def age(self, lines: Sequence[str], now: float) -> float:
        return _value(lines, "envoy_server_uptime")

    def wanted(self, line: str, router: Key) -> bool:
        return line.startswith("envoy_cluster_upstream_rq") and f'"httproute/{router[0]}/{router[1]}/rule/' in line

    def samples(self, lines: str, of: Backends) -> Iterator[Sample]:
        bounds = {1000 * bound: place for place, bound in enumerate((*self.bounds, float("inf")), start=FIXED)}
        for name, labels, value in _each(lines):
            target = self._target(labels, of)
            if target is None:
                continue
            series = f"{name} {sorted(labels.items())}"
            if name == "envoy_cluster_upstream_rq_completed":
                yield Sample(series, target, REQUESTS, value)
            elif name == "envoy_cluster_upstream_rq_xx" and labels.get("envoy_response_code_class") == "5":
                yield Sample(series, target, FAILURES, value)
            elif name == "envoy_cluster_upstream_rq_time_bucket" and float(labels["le"]) in bounds:
                yield Sample(series, target, bounds[float(labels["le"])], value)

    def in_flight(self, lines: str, of: Backends) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name, labels, value in _each(lines):
            target = self._target(labels, of)
            if target is not None and target.cell and name == "envoy_cluster_upstream_rq_active":
                found[target.cell] = found.get(target.cell, 0) + int(value)
        return found

    def _target(self, labels: Mapping[str, str], of: Backends) -> Target | None:
        named = self._cluster.search(labels.get("envoy_cluster_name", ""))
        rule = of.rule(int(named["rule"])) if named is not None else None
        if named is None or rule is None or int(named["place"]) >= len(rule.backends):
            return None
        backend: Backend = rule.backends[int(named["place"])]
        return Target(backend.cell, backend.reason, rule.name)


DIALECTS: Mapping[GatewayMetricsType, Dialect] = {
    GatewayMetricsType.TRAEFIK: Traefik(),
    GatewayMetricsType.ENVOY_GATEWAY: EnvoyGateway(),
}


@dataclass
class PodCounters:
    """What one pod has counted since its process started."""

    dialect: Dialect
    _started: int = 0
    """How many processes were seen."""
    _age: float = 0.0
    _last: dict[str, float] = field(default_factory=dict)
    _totals: dict[str, "array[int]"] = field(default_factory=dict)
    """By cell."""
    _classes: dict[str, "array[int]"] = field(default_factory=dict)
    _turned_away: int = 0

    def take(self, text: str, of: Backends, now: float) -> Report:
        """The report of a scrape at this moment (seconds since 1970). Raises ValueError for what is no such text."""
        lines = text.splitlines()
        age = max(0.0, self.dialect.age(lines, now))
        if not self._started or age < self._age:
            self._started += 1
            self._last, self._totals, self._classes, self._turned_away = {}, {}, {}, 0
        self._age = age
        mine = "".join(f"{line}\n" for line in lines if self.dialect.wanted(line, of.router))
        seen: dict[str, float] = {}
        size = FIXED + len(self.dialect.bounds) + 1
        for sample in self.dialect.samples(mine, of):
            before = self._last.get(sample.series, 0.0)
            gained = sample.value - before if sample.value >= before else sample.value
            self._count(sample, round(gained), size)
            seen[sample.series] = sample.value
        self._last = seen
        for rule in of.rules:
            if rule.name:
                self._classes.setdefault(rule.name, array("Q", bytes(8 * (SHED + 1))))
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
            rejected=self._turned_away,
            bounds=self.dialect.bounds,
            cells=cells,
            classes={name: array("Q", counted) for name, counted in self._classes.items()},
        )

    def _count(self, sample: Sample, gained: int, size: int) -> None:
        target, place = sample.target, sample.place
        if target.cell:
            self._totals.setdefault(target.cell, array("Q", bytes(8 * size)))[place] += gained
        elif place == REQUESTS:
            self._turned_away += gained
        if not target.name or place not in (REQUESTS, FAILURES):
            return
        counted = self._classes.setdefault(target.name, array("Q", bytes(8 * (SHED + 1))))
        if target.reason is not TurnedAway.SHED:
            counted[place] += gained
        elif place == REQUESTS:  # its 503 is no failure of the class
            counted[REQUESTS] += gained
            counted[SHED] += gained
