"""The operator's own figures, for Prometheus. No label has a Cell's, a run's or a customer's name.

Promises: an own registry, nothing global; counting never fails and never waits.
"""

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from recell.providers.kube.paths import parse
from recell.providers.kube.reflector import Reflector

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (0.025, 0.05, 0.06, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)

READS = frozenset({"get", "list", "watch"})


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        ProcessCollector(registry=r)
        PlatformCollector(registry=r)
        self._reconciles = Counter(
            "recell_reconcile", "Reconciles, by controller and result.", ["controller", "result"], registry=r
        )
        self._reconcile_seconds = Histogram(
            "recell_reconcile_seconds", "Duration of reconciles.", ["controller"], buckets=_SHORT, registry=r
        )
        self._queue_wait = Histogram(
            "recell_queue_wait_seconds",
            "Time from when a key was due until a worker had it.",
            ["controller"],
            buckets=_SHORT,
            registry=r,
        )
        self._queue_depth = Gauge("recell_queue_depth", "Keys that wait for a worker.", ["controller"], registry=r)
        self._leader = Gauge("recell_leader", "1 while this process leads.", registry=r)
        self._epoch = Gauge("recell_leader_epoch", "Epoch of this process's leadership; 0 on a standby.", registry=r)
        self._skew = Gauge(
            "recell_clock_skew_seconds",
            "How far this machine's clock is ahead of the API server's, as far as it is certain.",
            registry=r,
        )
        self._loop_lag = Gauge(
            "recell_event_loop_lag_seconds", "Longest delay of the event loop within a minute.", registry=r
        )
        self._relieved = Gauge(
            "recell_routers_in_fallback", "Routers whose customers go through the fallback.", registry=r
        )
        self._asking = Gauge("recell_runs_awaiting_approval", "Runs that wait for a person's word.", registry=r)
        self._clusters = Gauge("recell_clusters", "Kubeconfigs of other clusters that Cells name.", registry=r)
        self._unreachable = Gauge(
            "recell_clusters_unreachable", "Those of them by which the cluster cannot be reached.", registry=r
        )
        self._requests = Counter(
            "recell_api_requests",
            "Requests to the API server, by RBAC verb, resource and HTTP code (0: no answer).",
            ["verb", "resource", "code"],
            registry=r,
        )
        self._writes = Counter(
            "recell_api_writes", "Writes that the API server accepted.", ["verb", "resource"], registry=r
        )
        self._runs = Counter(
            "recell_runs", "Runs that ended, by strategy and result.", ["strategy", "result"], registry=r
        )
        self._action = Histogram(
            "recell_detection_to_action_seconds",
            "From the moment a failure was known to the first effect of its run.",
            buckets=_LONG,
            registry=r,
        )

    def render(self) -> bytes:
        return generate_latest(self.registry)

    # What is counted

    def reconciled(self, controller: str, result: str, seconds: float) -> None:
        self._reconciles.labels(controller, result).inc()
        self._reconcile_seconds.labels(controller).observe(seconds)

    def queue_waits(self, controller: str) -> Callable[[float], None]:
        """The hook for a queue's waits."""
        return self._queue_wait.labels(controller).observe

    def called(self, verb: str, resource: str, status: int) -> None:
        """See `recell.providers.kube.api.CallHook`."""
        self._requests.labels(verb, resource, str(status)).inc()
        if verb not in READS and 200 <= status < 300:
            self._writes.labels(verb, resource).inc()

    def run_ended(self, strategy: str, result: str) -> None:
        self._runs.labels(strategy, result).inc()

    def acted(self, seconds: float) -> None:
        self._action.observe(max(0.0, seconds))

    # What is looked at when somebody asks

    def watch_queue(self, controller: str, depth: Callable[[], int]) -> None:
        self._queue_depth.labels(controller).set_function(depth)

    def watch_leadership(self, leading: Callable[[], bool], epoch: Callable[[], int]) -> None:
        self._leader.set_function(lambda: float(leading()))
        self._epoch.set_function(lambda: epoch() if leading() else 0)

    def watch_clock(self, skew: Callable[[], float | None], lag: Callable[[], float]) -> None:
        self._skew.set_function(lambda: skew() or 0.0)
        self._loop_lag.set_function(lag)

    def watch_fallbacks(self, count: Callable[[], int]) -> None:
        self._relieved.set_function(count)

    def watch_runs(self, asking: Callable[[], int]) -> None:
        self._asking.set_function(asking)

    def watch_clusters(self, used: Callable[[], int], unreachable: Callable[[], int]) -> None:
        self._clusters.set_function(used)
        self._unreachable.set_function(unreachable)

    def watch_reflectors(self, reflectors: Callable[[], Mapping[str, list[Reflector]]]) -> None:
        """By the name of the resource, summed over namespaces."""
        self.registry.register(_Watches(reflectors))


class _Watches(Collector):
    def __init__(self, reflectors: Callable[[], Mapping[str, list[Reflector]]]) -> None:
        self._reflectors = reflectors

    def collect(self) -> Iterator[Metric]:
        restarts = CounterMetricFamily("recell_watch_restarts", "Watches begun again.", labels=["resource"])
        objects = GaugeMetricFamily("recell_watch_objects", "Objects in the copy.", labels=["resource"])
        blind = GaugeMetricFamily(
            "recell_watch_blind_seconds", "Since when no watch is open; 0 while one is.", labels=["resource"]
        )
        for resource, watched in self._reflectors().items():
            restarts.add_metric([resource], sum(r.restarts for r in watched))
            objects.add_metric([resource], sum(len(r) for r in watched))
            blind.add_metric([resource], max((r.blind_for for r in watched), default=0.0))
        yield from (restarts, objects, blind)


def by_resource(reflectors: list[Reflector]) -> dict[str, list[Reflector]]:
    found: dict[str, list[Reflector]] = {}
    for reflector in reflectors:
        found.setdefault(parse(reflector.path).resource, []).append(reflector)
    return found
