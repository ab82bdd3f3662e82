"""A behaving fake of the Traffic port: routers, their cells and their load, in virtual time.

It obeys Placement as the router's pods do (rising epoch and generation, another UID only with a
higher epoch), divides a settable load by the serving table, and lets each cell err, slow down,
hang or die. Everything is computed when it is read: a change counts from the moment it is made.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Protocol

from recell.api import Placement
from recell.api.placement import READ_ONLY, REJECT, decode_table
from recell.domain.observation import Applied, CellTraffic, ClassTraffic, RouterTraffic
from recell.engine.ports import Key

SAMPLE_INTERVAL = 1.0
BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 30.0)
"""Upper bounds of the latency buckets in seconds; the last is the router's own time-out."""
LONGEST = BUCKETS[-1]
SERVER_TIMEOUT = timedelta(seconds=LONGEST)
KEPT = timedelta(minutes=5)


class Now(Protocol):
    def now(self) -> datetime: ...


class CellBehaviour:
    """How one cell answers. Assigning takes effect from the clock's present moment on."""

    error_rate: float
    """Part of its answers that are 500 and above."""
    latency: float
    """Seconds."""
    hung: bool
    """Accepts requests, never answers; after 30 s the router gives up on each."""
    down: bool
    """Refuses connections: each request fails at once, and the router's check says down."""

    def __init__(self, settle: Callable[[], None]) -> None:
        object.__setattr__(self, "_settle", settle)
        for name, value in {"error_rate": 0.0, "latency": 0.02, "hung": False, "down": False}.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in type(self).__annotations__:
            raise AttributeError(f"a cell's behaviour has no {name!r}")
        self._settle()
        object.__setattr__(self, name, value)

    _settle: Callable[[], None]


class _Behaviours(dict[str, CellBehaviour]):
    """Behaviours by cell name; one that was never named behaves well."""

    def __init__(self, settle: Callable[[], None]) -> None:
        super().__init__()
        self._settle = settle

    def __missing__(self, name: str) -> CellBehaviour:
        self[name] = CellBehaviour(self._settle)
        return self[name]


@dataclass(frozen=True)
class _Stretch:
    """Requests, evenly spread from start to end (all at once where both are the same)."""

    start: datetime
    end: datetime
    requests: float
    failed: float
    latency: float

    def part_in(self, since: datetime, until: datetime) -> float:
        if self.start == self.end:
            return 1.0 if since < self.end <= until else 0.0
        overlap = (min(self.end, until) - max(self.start, since)).total_seconds()
        return max(0.0, overlap) / (self.end - self.start).total_seconds()

    def joined(self, other: "_Stretch") -> "_Stretch | None":
        """Both as one, where the second goes on as the first; so reading often costs no memory."""
        if self.end != other.start or self.latency != other.latency or other.start == other.end:
            return None
        mine, its = ((s.end - s.start).total_seconds() for s in (self, other))
        if not mine or abs(self.requests / mine - other.requests / its) > 1e-9:
            return None
        if abs(self.failed / mine - other.failed / its) > 1e-9:
            return None
        return _Stretch(self.start, other.end, self.requests + other.requests, self.failed + other.failed, self.latency)


@dataclass
class _Record:
    stretches: list[_Stretch] = field(default_factory=list)

    def add(self, new: _Stretch) -> None:
        if not new.requests:
            return
        joined = self.stretches[-1].joined(new) if self.stretches else None
        if joined:
            self.stretches[-1] = joined
        else:
            self.stretches.append(new)
        while self.stretches[0].end < new.end - KEPT:
            self.stretches.pop(0)

    def count(self, since: datetime, until: datetime) -> float:
        return sum(s.requests * s.part_in(since, until) for s in self.stretches)


@dataclass
class _Meter:
    ended: _Record = field(default_factory=_Record)
    waiting: _Record = field(default_factory=_Record)
    """Requests that reached the cell while it hung, by arrival."""
    rate: float = 0.0


@dataclass
class _Router:
    pending: list[tuple[datetime, Placement]] = field(default_factory=list)
    placement: Placement | None = None
    targets: Counter[int] = field(default_factory=Counter)
    """How many slots each entry of the serving table has."""
    applied_at: datetime | None = None
    refused: str = ""
    meters: dict[str, _Meter] = field(default_factory=dict)
    rejected: _Record = field(default_factory=_Record)
    classes: dict[str, _Record] = field(default_factory=dict)
    """By class, all requests; `failed` are those that were shed."""
    settled: datetime | None = None


class FakeTraffic:
    """Implements `recell.engine.ports.Traffic`."""

    def __init__(self, clock: Now) -> None:
        self._clock = clock
        self._routers: dict[Key, _Router] = {}
        self._started = clock.now()
        self._rps = 0.0
        self._customers: dict[str, float] = {}
        self._write_part = 0.0
        self._classes: dict[str, float] = {}
        self._frozen = False
        self._silent_since: datetime | None = None
        self._pods = 2
        self._seen_at = self._started
        self._seen: dict[tuple[Key, float, datetime | None], RouterTraffic | None] = {}
        """What was told at that moment: the engine and the procedures ask for the same many times."""
        self.delay = 0.0
        """Seconds from `apply` until every pod has it."""
        self.cells = _Behaviours(self._change)
        """Behaviour by cell name: error_rate, latency, hung, down."""

    # What a test sets. Each setter first accounts for the time that has passed.

    @property
    def rps(self) -> float:
        """Requests per second of each router, spread evenly over its slots."""
        return self._rps

    @rps.setter
    def rps(self, value: float) -> None:
        self._change()
        self._rps = value

    @property
    def customers(self) -> Mapping[str, float]:
        """Requests per second of single customers, beside `rps`; they go by hash or pin."""
        return self._customers

    @customers.setter
    def customers(self, value: Mapping[str, float]) -> None:
        self._change()
        self._customers = dict(value)

    @property
    def write_part(self) -> float:
        """Part of the requests that write, and so are turned away where a slot is read-only."""
        return self._write_part

    @write_part.setter
    def write_part(self, value: float) -> None:
        self._change()
        self._write_part = value

    @property
    def classes(self) -> Mapping[str, float]:
        """Part of the requests by class; empty: the Router tells no classes apart."""
        return self._classes

    @classes.setter
    def classes(self, value: Mapping[str, float]) -> None:
        self._change()
        self._classes = dict(value)

    @property
    def frozen(self) -> bool:
        """The pods serve and tell, but apply nothing."""
        return self._frozen

    @frozen.setter
    def frozen(self, value: bool) -> None:
        self._change()
        self._frozen = value
        self._change()

    @property
    def silent(self) -> bool:
        """The pods serve, but nothing is heard of them."""
        return self._silent_since is not None

    @silent.setter
    def silent(self, value: bool) -> None:
        self._change()
        if value and self._silent_since is None:
            self._silent_since = self._clock.now()
        elif not value:
            self._silent_since = None

    @property
    def pods(self) -> int:
        """Serving pods of each router; with 0 nobody is served."""
        return self._pods

    @pods.setter
    def pods(self, value: int) -> None:
        self._change()
        self._pods = value

    def apply(self, placement: Placement) -> None:
        """A Placement was written: the pods have it after `delay`, unless they refuse it."""
        self._change()
        router = self._routers.setdefault(placement.key, _Router(settled=self._clock.now()))
        router.pending.append((self._clock.now() + timedelta(seconds=self.delay), placement))
        self._change()

    def refused(self, router: Key) -> str:
        """Why the newest Placement was refused; empty if it was not."""
        self.settle()
        return self._routers[router].refused if router in self._routers else ""

    # The port.

    def applied(self, router: Key) -> Applied | None:
        self.settle()
        state = self._routers.get(router)
        if state is None or state.placement is None or state.applied_at is None or not self._pods:
            return None
        meta, spec = state.placement.metadata, state.placement.spec
        return Applied(meta.uid, spec.epoch, meta.generation, self._pods, state.applied_at)

    def observed(self, router: Key, *, window: float, not_before: datetime | None = None) -> RouterTraffic | None:
        self.settle()
        now, asked = self._clock.now(), (router, window, not_before)
        if now != self._seen_at:
            self._seen_at = now
            self._seen.clear()
        if asked not in self._seen:
            self._seen[asked] = self._observed(router, window, not_before, now)
        return self._seen[asked]

    def _observed(self, router: Key, window: float, not_before: datetime | None, now: datetime) -> RouterTraffic | None:
        state = self._routers.get(router)
        if state is None or state.placement is None or not self._pods:
            return None
        until = self._silent_since or now
        if (now - until).total_seconds() > 2 * SAMPLE_INTERVAL:
            return None
        since = max(until - timedelta(seconds=window), self._started, not_before or self._started)
        if (until - since).total_seconds() < window / 2:
            return None
        return RouterTraffic(
            since=since,
            until=until,
            pods=self._pods,
            cells={
                cell.name: self._cell_traffic(cell.name, state.meters.setdefault(cell.name, _Meter()), since, until)
                for cell in state.placement.spec.cells
            },
            rejected=round(state.rejected.count(since, until)),
            classes={name: _class(record, since, until) for name, record in state.classes.items()},
        )

    def _cell_traffic(self, name: str, meter: _Meter, since: datetime, until: datetime) -> CellTraffic:
        behaviour = self.cells[name]
        parts = [(s, s.part_in(since, until)) for s in meter.ended.stretches]
        ended = sum(s.requests * part for s, part in parts)
        failed = sum(s.failed * part for s, part in parts)
        if behaviour.down:
            in_flight = 0.0
        elif behaviour.hung:
            in_flight = meter.waiting.count(until - SERVER_TIMEOUT, until)
        else:
            in_flight = meter.rate * behaviour.latency
        return CellTraffic(
            requests=round(ended),
            requests_per_second=ended / (until - since).total_seconds(),
            failures=round(failed),
            in_flight=round(in_flight),
            pod_error_rates=(round(failed / ended, 6),) * self._pods if ended else (),
            latency_p95=_p95([(s.latency, s.requests * part) for s, part in parts if part]),
            check_up=not behaviour.down,
        )

    # The passing of time.

    def _change(self) -> None:
        """Something is about to be different from this moment on."""
        self.settle()
        self._seen.clear()

    def settle(self) -> None:
        """Account for everything up to now."""
        now = self._clock.now()
        for router in self._routers.values():
            while not self._frozen and (due := [p for p in router.pending if p[0] <= now]):
                entry = min(due, key=lambda p: p[0])
                router.pending.remove(entry)
                at = max(entry[0], router.settled or entry[0])
                self._serve(router, at)
                self._take(router, entry[1], at)
            self._serve(router, now)

    @staticmethod
    def _take(router: _Router, new: Placement, at: datetime) -> None:
        old = router.placement
        if old is not None:
            same = old.metadata.uid == new.metadata.uid
            version = (new.spec.epoch, new.metadata.generation)
            current = (old.spec.epoch, old.metadata.generation)
            if same and version == current:
                return
            if (version < current) if same else (new.spec.epoch <= old.spec.epoch):
                router.refused = "older than what is applied" if same else "another UID without a higher epoch"
                return
        router.placement, router.applied_at, router.refused = new, at, ""
        router.targets = Counter(decode_table(new.spec.serving))

    def _serve(self, router: _Router, to: datetime) -> None:
        start = router.settled or to
        router.settled = max(start, to)
        if to <= start or router.placement is None:
            return
        shed = self._shed(router.placement, start)
        passing = 1 - sum(part * shed.get(name, 0.0) for name, part in self._classes.items())
        rates, rejected = self._rates(router, router.placement)
        for name, part in self._open(router.placement, start).items():
            if name in rates:
                rejected, rates[name] = rejected + rates[name] * part, rates[name] * (1 - part)
        arrived = sum(rates.values()) + rejected
        rejected += sum(rates.values()) * (1 - passing)
        rates = {name: rate * passing for name, rate in rates.items()}
        took = (to - start).total_seconds()
        for name in router.meters.keys() | rates.keys():
            meter = router.meters.setdefault(name, _Meter())
            meter.rate = rates.get(name, 0.0)
            self._serve_cell(meter, self.cells[name], start, to)
        router.rejected.add(_Stretch(start, to, rejected * took, 0, 0))
        for name, part in self._classes.items():
            count = arrived * part * took
            router.classes.setdefault(name, _Record()).add(_Stretch(start, to, count, count * shed.get(name, 0.0), 0))

    @staticmethod
    def _shed(placement: Placement, now: datetime) -> dict[str, float]:
        """Parts by class; what has expired is not shed any more, whoever is there."""
        return {item.class_: item.percent / 100 for item in placement.spec.shedding if item.expires_at > now}

    @staticmethod
    def _open(placement: Placement, now: datetime) -> dict[str, float]:
        return {item.cell: item.percent / 100 for item in placement.spec.open_circuits if item.expires_at > now}

    @staticmethod
    def _serve_cell(meter: _Meter, cell: CellBehaviour, start: datetime, to: datetime) -> None:
        arrived = meter.rate * (to - start).total_seconds()
        if cell.hung and not cell.down:
            given_up = meter.waiting.count(start - SERVER_TIMEOUT, to - SERVER_TIMEOUT)
            meter.waiting.add(_Stretch(start, to, arrived, 0, 0))
            meter.ended.add(_Stretch(start, to, given_up, given_up, LONGEST))
            return
        if meter.waiting.stretches:
            freed = meter.waiting.count(start - SERVER_TIMEOUT, start)
            meter.ended.add(_Stretch(start, start, freed, freed if cell.down else 0, LONGEST))
            meter.waiting = _Record()
        failed = arrived if cell.down else arrived * cell.error_rate
        meter.ended.add(_Stretch(start, to, arrived, failed, 0.0 if cell.down else cell.latency))

    def _rates(self, router: _Router, placement: Placement) -> tuple[dict[str, float], float]:
        """Requests per second by cell name, and how many are turned away."""
        spec = placement.spec
        rates = {cell.name: 0.0 for cell in spec.cells}
        if not self._pods:
            return rates, 0.0
        names = {cell.index: cell.name for cell in spec.cells}
        load = [(target, self._rps * slots / spec.slots) for target, slots in router.targets.items()]
        if self._customers:
            table = decode_table(spec.serving)
            pins = {pin.customer: pin.serving for pin in spec.pins}
            for customer, rate in self._customers.items():
                digest = hashlib.md5(customer.encode(), usedforsecurity=False).digest()
                slot = int.from_bytes(digest[:4], "big") % spec.slots
                load.append((pins.get(customer, table[slot]), rate))
        rejected = 0.0
        for target, rate in load:
            if target == REJECT:
                rejected += rate
                continue
            turned_away = rate * self._write_part if target & READ_ONLY else 0.0
            rates[names[target & ~READ_ONLY]] += rate - turned_away
            rejected += turned_away
        return rates, rejected


def _class(record: _Record, since: datetime, until: datetime) -> ClassTraffic:
    parts = [(s, s.part_in(since, until)) for s in record.stretches]
    requests, shed = (sum(count * part for count, part in pairs) for pairs in (
        [(s.requests, part) for s, part in parts], [(s.failed, part) for s, part in parts]
    ))  # fmt: skip
    return ClassTraffic(round(requests), requests / (until - since).total_seconds(), round(shed), 0)


def _p95(weights: list[tuple[float, float]]) -> float | None:
    """Upper bound of the bucket that holds the 95th percentile."""
    total = sum(weight for _, weight in weights)
    if not total:
        return None
    for bound in BUCKETS:
        if sum(weight for latency, weight in weights if latency <= bound) >= 0.95 * total:
            return bound
    return BUCKETS[-1]
