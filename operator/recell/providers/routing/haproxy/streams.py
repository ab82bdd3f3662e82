"""The Traffic port for Routers of type HAProxy: one stream from each router pod, kept in memory.

Promises
- What is told is what every serving pod told: a pod of which nothing fresh is known makes the figures
  None, and one that never said what it applied makes `applied` None. Missing is never zero.
- Pods that left or restarted within a window still count in it, so a rollout of the router does not
  look like traffic that went away.
- A stream that breaks is opened again within seconds; nothing else depends on it.

Must not: write anything, or read a Placement's table. Only the index -> name of its cells is used.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property

import aiohttp

from recell.api import Placement
from recell.domain.observation import Applied, CellTraffic, ClassTraffic, Processes, RouterTraffic
from recell.engine.ports import Clock, Key
from recell.providers.routing.haproxy.history import KEPT, Counted, PodHistory, Snapshot
from recell.providers.routing.haproxy.objects import AGENT_PORT
from recell.providers.routing.haproxy.report import Report, Version, parse

logger = logging.getLogger(__name__)

SAMPLE_INTERVAL = 1.0
"""Seconds between two reports of a pod."""
STALE = timedelta(seconds=3 * SAMPLE_INTERVAL)
"""One report that is lost, or late because this process has much to do, is no silence: the figures of a hundred cells
that go and come back would give it more to do."""
SERVER_TIMEOUT = 30.0
"""`timeout server` in the router's haproxy.cfg: no answer took longer, so it bounds the last bucket."""
CONNECT_WITHIN = 3.0
SILENT_FOR = 5.0
BACKOFF = (0.2, 0.5, 1.0, 2.0)
AWAY_FOR = timedelta(seconds=10)
"""A pod that cannot read its Placement for this long is complained about; shorter is a restart."""
KEPT_FIGURES = timedelta(seconds=SAMPLE_INTERVAL)
"""Figures are summed up anew after each report, and after this time even without one."""
MOST_FIGURES = 64
LIMIT = 4 * 1024 * 1024
"""Bytes of one report; 819 cells take 130 KB."""


@dataclass
class _Pod:
    ip: str
    serving: bool
    task: asyncio.Task[None] | None = None
    history: PodHistory = field(default_factory=PodHistory)
    report: Report | None = None
    """The last one; None before the first."""
    heard_at: datetime | None = None
    applied: Version | None = None
    """What it said last; an agent never goes back, so it holds while nothing is heard."""
    applied_at: datetime | None = None
    away_since: datetime | None = None
    lost: str = ""
    """Why there is no stream; empty while there is one."""


@dataclass
class _Router:
    names: dict[int, str] = field(default_factory=dict)
    """Cells of the Placement by index."""
    pods: dict[str, _Pod] = field(default_factory=dict)
    gone: list[PodHistory] = field(default_factory=list)
    """Of pods that left, for as long as a window can reach back to them."""
    figures: dict[tuple[float, datetime | None], tuple[datetime, RouterTraffic]] = field(default_factory=dict)
    """What was summed up since the last report, by window and start, and when: many cells ask the same."""

    def serving(self) -> dict[str, _Pod]:
        return {name: pod for name, pod in self.pods.items() if pod.serving}


class HAProxyTraffic:
    """Implements `recell.engine.ports.Traffic`. `on_change` is called with a Router's key when what its pods
    applied, refuse or see of the cells' checks changed; not for each report. `reports` are those of a pod, by Router
    and IP, where it has no agent that streams them."""

    def __init__(
        self,
        clock: Clock,
        *,
        on_change: Callable[[Key], None],
        port: int = AGENT_PORT,
        reports: Callable[[Key, str], AsyncIterator[Report]] | None = None,
    ) -> None:
        self._clock = clock
        self._on_change = on_change
        self._port = port
        self._reports = reports or self._of_agent
        self._routers: dict[Key, _Router] = {}
        self._session: aiohttp.ClientSession | None = None
        self._ending: set[asyncio.Task[None]] = set()

    # What the controller says.

    def set_pods(self, router: Key, pods: Mapping[str, tuple[str, bool]]) -> None:
        """The router's pods now: name -> (IP, may customers' requests reach it?). Needs a running loop."""
        state = self._routers.setdefault(router, _Router())
        for name in [name for name, pod in state.pods.items() if name not in pods or pods[name][0] != pod.ip]:
            self._forget(state, name)
        for name, (ip, serving) in pods.items():
            pod = state.pods.get(name)
            if pod is None:
                pod = state.pods[name] = _Pod(ip, serving)
                pod.task = asyncio.get_running_loop().create_task(
                    self._follow(router, name, pod), name=f"router pod {name}"
                )
            if pod.serving != serving:
                pod.serving = serving
                state.figures.clear()

    def set_placement(self, router: Key, placement: Placement) -> None:
        """The Placement that counts: names for the indexes in the pods' reports."""
        state = self._routers.setdefault(router, _Router())
        names = {cell.index: cell.name for cell in placement.spec.cells}
        if names != state.names:
            state.names = names
            state.figures.clear()

    def drop(self, router: Key) -> None:
        """The Router is gone. Repeatable."""
        state = self._routers.pop(router, _Router())
        for name in list(state.pods):
            self._forget(state, name)

    async def stop(self) -> None:
        for router in list(self._routers):
            self.drop(router)
        await asyncio.gather(*self._ending, return_exceptions=True)
        if self._session is not None:
            await self._session.close()
            self._session = None

    # What the port tells.

    def applied(self, router: Key) -> Applied | None:
        state = self._routers.get(router)
        serving = state.serving().values() if state else ()
        told = [(pod.applied, pod.applied_at) for pod in serving if pod.applied and pod.applied_at]
        if not told or len(told) < len(serving):
            return None
        least = min((version for version, _ in told), key=lambda version: (version.epoch, version.generation))
        return Applied(least.uid, least.epoch, least.generation, len(told), max(at for _, at in told))

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        state = self._routers.get(router)
        serving = state.serving() if state else {}
        if state is None or not serving or not state.names:
            return None
        now = self._clock.now()
        if not all(_fresh(pod, now) for pod in serving.values()):
            return None
        known = state.figures.get((window, not_before))
        if known is not None and now - known[0] < KEPT_FIGURES:
            return known[1]
        # From the report that is nearest to the window's length before the last one: of few reports, one that comes a
        # little early or late would leave the window half empty now and then.
        nearest = window + SAMPLE_INTERVAL / 2
        spans = [_span(pod.history, _since(pod.heard_at or now, nearest, not_before)) for pod in serving.values()]
        whole = [span for span in spans if span is not None and not span.from_zero]
        new = [span for span in spans if span is not None and span.from_zero]
        measured = whole or new
        if len(whole) + len(new) < len(spans) or not measured:
            return None
        begin, end = min(s.since.at for s in measured), max(s.until.at for s in measured)
        if min(s.seconds for s in whole or [max(new, key=lambda s: s.seconds)]) < window / 2:
            return None
        left = [pod.history for pod in state.pods.values() if not pod.serving] + state.gone
        new += [span for history in left if (span := _span(history, _since(now, window, not_before))) is not None]
        told = _Told(
            serving=[pod.report for pod in serving.values() if pod.report],
            # Also pods that only end what they began.
            fresh=[pod.report for pod in state.pods.values() if pod.report and _fresh(pod, now)],
        )
        seconds = (end - begin).total_seconds()
        summed = RouterTraffic(
            since=begin,
            until=end,
            pods=len(serving),
            cells={name: _cell(index, whole, new, seconds, told) for index, name in state.names.items()},
            rejected=sum(span.until.rejected - span.since.rejected for span in (*whole, *new)),
            classes={name: _class(name, (*whole, *new), seconds) for name in _classes((*whole, *new))},
        )
        if len(state.figures) >= MOST_FIGURES:
            state.figures.clear()
        state.figures[window, not_before] = (now, summed)
        return summed

    def let_go(self, router: Key, uid: str, epoch: int, generation: int) -> bool:
        """Has every pod, also one that gets nothing new, applied this or a newer Placement? True without pods."""
        state = self._routers.get(router)
        return all(
            pod.applied is not None
            and pod.applied.uid == uid
            and (pod.applied.epoch, pod.applied.generation) >= (epoch, generation)
            and pod.heard_at is not None
            and _fresh(pod, self._clock.now())
            for pod in (state.pods.values() if state else ())
        )

    def processes(self, router: Key) -> Processes | None:
        """What the agents of all its pods tell of the processes beside them; None while nothing fresh is heard."""
        state, now = self._routers.get(router), self._clock.now()
        told = [pod.report for pod in (state.pods.values() if state else ()) if pod.report and _fresh(pod, now)]
        if not told:
            return None
        return Processes(told=len(told), answering=sum(report.rejected is not None for report in told))

    def complaint(self, router: Key) -> str:
        """What serving pods refuse or cannot do, and why; empty when they have what they should."""
        state = self._routers.get(router)
        now = self._clock.now()
        return "; ".join(
            f"pod {name} {text}"
            for name, pod in sorted((state.serving() if state else {}).items())
            if (text := _complaint(pod, now))
        )

    def lost(self, router: Key) -> str:
        """From which pods nothing is heard, and why; empty if from all."""
        state = self._routers.get(router)
        pods = sorted(state.pods.items()) if state else ()
        return "; ".join(f"nothing is heard from pod {name}: {pod.lost}" for name, pod in pods if pod.lost)

    # The streams.

    def _forget(self, state: _Router, name: str) -> None:
        pod = state.pods.pop(name)
        state.figures.clear()
        if pod.task is not None:
            pod.task.cancel()
            self._ending.add(pod.task)
            pod.task.add_done_callback(self._ending.discard)
        state.gone.append(pod.history)
        oldest = self._clock.now() - KEPT
        state.gone = [history for history in state.gone if history.last and history.last.at >= oldest]

    async def _follow(self, router: Key, name: str, pod: _Pod) -> None:
        """Until cancelled."""
        failures = 0
        while True:
            try:
                async for report in self._reports(router, pod.ip):
                    failures, pod.lost = 0, ""
                    self._heard(router, pod, report)
                raise ValueError("the stream ended")
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                text = f"{type(error).__name__} {error}".strip()
                if text != pod.lost:
                    logger.info("no stream from router pod %s/%s (%s): %s", router[0], name, pod.ip, text)
                pod.lost = text
            pause = BACKOFF[min(failures, len(BACKOFF) - 1)]
            failures += 1
            await asyncio.sleep(pause * random.uniform(0.75, 1.0))  # noqa: S311 - spreads the tries

    async def _of_agent(self, router: Key, ip: str) -> AsyncIterator[Report]:
        """What a pod tells, until it stops telling; raises as a connection does, or ValueError."""
        async for line in self._lines(ip):
            yield parse(line)

    async def _lines(self, ip: str) -> AsyncIterator[bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        host = f"[{ip}]" if ":" in ip else ip
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_WITHIN, sock_read=SILENT_FOR)
        async with self._session.get(f"http://{host}:{self._port}/watch", timeout=timeout) as answer:
            if answer.status != 200:
                raise ValueError(f"HTTP {answer.status}")
            rest = b""
            async for chunk in answer.content.iter_any():
                *lines, rest = (rest + chunk).split(b"\n")
                if len(rest) > LIMIT:
                    raise ValueError(f"a report of more than {LIMIT} bytes")
                for line in lines:
                    yield line

    def _heard(self, router: Key, pod: _Pod, report: Report) -> None:
        now = self._clock.now()
        changed = pod.report is None or pod.report.facts != report.facts
        if report.applied != pod.applied:
            pod.applied, pod.applied_at = report.applied, now
        pod.away_since = (pod.away_since or now) if report.source == "Away" else None
        pod.report, pod.heard_at = report, now
        pod.history.add(report, now)
        if router in self._routers:
            self._routers[router].figures.clear()
        if changed:
            self._on_change(router)


@dataclass(frozen=True)
class _Span:
    """What a pod's history holds of a window."""

    history: PodHistory
    since: Snapshot
    until: Snapshot

    @cached_property
    def seconds(self) -> float:
        return (self.until.at - self.since.at).total_seconds()

    @property
    def from_zero(self) -> bool:
        """The pod began within the window: nothing is missing, although the window is not covered."""
        return self.history.begins_with(self.since)

    def counted(self, index: int | str) -> Counted:
        return self.history.counted(index, self.since, self.until)


@dataclass(frozen=True)
class _Told:
    """The last reports of pods."""

    serving: list[Report]
    fresh: list[Report]


def _fresh(pod: _Pod, now: datetime) -> bool:
    return pod.heard_at is not None and now - pod.heard_at <= STALE


def _since(ends: datetime, window: float, not_before: datetime | None) -> datetime:
    begin = ends - timedelta(seconds=window)
    return max(begin, not_before or begin)


def _span(history: PodHistory, since: datetime) -> _Span | None:
    first, last = history.first_since(since), history.last
    return _Span(history, first, last) if first is not None and last is not None else None


def _cell(index: int, whole: list[_Span], part: list[_Span], window: float, told: _Told) -> CellTraffic:
    """`whole` cover the window by and large, each at its own times; `part` only served in some of it."""
    cells = [report.cells[index] for report in told.serving if index in report.cells]
    check_up = _check([cell.check for cell in cells], len(told.serving))
    waiting = [report.cells[index].in_flight for report in told.fresh if index in report.cells]
    in_flight = None if None in waiting else sum(number for number in waiting if number is not None)
    of_whole = [(span, span.counted(index)) for span in whole]
    of_part = [(span, span.counted(index)) for span in part]
    requests = sum(counted.requests for _, counted in (*of_whole, *of_part))
    if requests == 0:
        return CellTraffic(0, 0.0, 0, in_flight, check_up=check_up, breaker_tripped=any(c.tripped for c in cells))
    rate = sum(counted.requests / span.seconds for span, counted in of_whole if span.seconds)
    rate += sum(counted.requests for _, counted in of_part) / window if window else 0.0
    return CellTraffic(
        requests=requests,
        requests_per_second=rate,
        failures=min(requests, sum(counted.failures for _, counted in (*of_whole, *of_part))),
        in_flight=in_flight,
        pod_error_rates=tuple(counted.failures / counted.requests for _, counted in of_whole if counted.requests),
        latency_p95=_p95([(span.history.bounds, counted.rest) for span, counted in (*of_whole, *of_part)]),
        check_up=check_up,
        breaker_tripped=any(cell.tripped for cell in cells),
    )


def _classes(spans: Iterable[_Span]) -> set[str]:
    return {name for span in spans for name in span.until.cells if isinstance(name, str)}


def _class(name: str, spans: Iterable[_Span], window: float) -> ClassTraffic:
    of_spans = [span.counted(name) for span in spans]
    requests, shed = sum(counted.requests for counted in of_spans), sum(counted.rest[-1] for counted in of_spans)
    rate = requests / window if window else 0.0
    return ClassTraffic(requests, rate, min(requests, shed), sum(counted.failures for counted in of_spans))


def _p95(buckets: list[tuple[tuple[float, ...], tuple[int, ...]]]) -> float | None:
    """Upper bound of the bucket that holds the 95th percentile; None without answers."""
    bounds = max((b for b, counts in buckets if counts[-1]), default=None, key=len)
    if bounds is None:
        return None
    summed = list(map(sum, zip(*(counts for b, counts in buckets if b == bounds), strict=True)))
    for bound, count in zip((*bounds, SERVER_TIMEOUT), summed, strict=True):
        if count >= 0.95 * summed[-1]:
            return bound
    return SERVER_TIMEOUT


def _check(seen: list[str], pods: int) -> bool | None:
    if "up" in seen:
        return True
    return False if seen and seen == ["down"] * pods else None


def _complaint(pod: _Pod, now: datetime) -> str:
    report = pod.report
    if report is None:
        return ""
    if report.refused:
        return f"refuses the Placement: {report.refused}"
    if report.error:
        return f"could not apply the Placement: {report.error}"
    if report.source == "Missing":
        return f"keeps the last table: {report.source_message}"
    if pod.away_since is not None and now - pod.away_since >= AWAY_FOR:
        return f"keeps the last table, for it cannot read its Placement: {report.source_message}"
    return ""
