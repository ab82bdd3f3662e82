"""`python -m benchmarks.storm`: a thousand cells fail in waves, in virtual time, with and without storm handling.

Ten Routers of a hundred cells, no cluster. Who is drained how far, what is shed, what is quarantined and in which order
cells are recovered is decided by the product's own pure functions; how long a step takes is the policy's default, or is
assumed below. What is assumed about cells: one bears `CAPACITY`, and one that is asked for more for two minutes fails
too.
"""

import random
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from recell.api import Cell
from recell.api.failure import Verdict
from recell.api.meta import duration_text, fraction, seconds
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec, decode_table
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.router import CustomerData, OffHome
from recell.domain import cascade, placement
from recell.domain.capacity import can_bear
from recell.domain.observation import CellTraffic, ClassTraffic, RouterTraffic
from recell.domain.placement import Candidate, Routing

ROUTERS, CELLS, SLOTS = 10, 100, 2048
CAPACITY, LOAD = 100, 65.0
"""Requests per second that a cell bears, and that it gets while all are well."""
CLASSES = {"checkout": 0.3, "browse": 0.4, "bulk": 0.3}
SHEDDABLE = ("bulk", "browse")
WAVES, EVERY, EACH = 6, 240, 0.06
"""So many waves, seconds apart, each of this part of the cells."""
BELIEVED = 10.0
"""Seconds until a failure is believed (detection.failedAfter)."""
OVERLOADED = 120.0
RESTART = 60.0
"""Seconds that the workloads of a cell take to come up again."""
TICK = 10.0
AT_MOST = 48 * 3600.0
POLICY = RecoveryPolicySpec()
ROUTING = Routing(CustomerData.SHARED, OffHome.REJECT, (), SLOTS)
RUN = Holder(kind="RecoveryRun", name="storm", uid="storm")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

WAYS = {
    "left alone": "nobody does anything",
    "traffic follows health": "customers leave failed cells, whoever can bear them or not",
    "one run a cell": "each by itself, one at a time in each Router; drained as far as the others can bear",
    "storm handling": "shed by class, drained together, recovered one after another",
    "  poisonWindow 1s": "the same, but a cell that fails soon after it took customers over is drained too",
}
STORM = tuple(WAYS)[3:]
"""With storm handling."""
POISON = {STORM[0]: seconds(POLICY.cascade.poison_window), STORM[1]: 1.0}


def whole_recovery() -> float:
    """Seconds of a CellRestart: restart, health, the way back in increments, stability."""
    steps = POLICY.steps
    back = steps.drain_increments * seconds(steps.increment_interval)
    return RESTART + seconds(POLICY.detection.window) + back + seconds(steps.stability_duration)


@dataclass
class Side:
    """One Router and its cells under one way of handling."""

    way: str
    seed: int
    now: float = 0.0
    spec: PlacementSpec = field(init=False)
    failed: dict[str, float] = field(default_factory=dict)
    """Since when."""
    too_much: dict[str, float] = field(default_factory=dict)
    shed: dict[str, int] = field(default_factory=dict)
    spared: set[str] = field(default_factory=set)
    known: set[str] = field(default_factory=set)
    at_work: tuple[str, float] | None = None
    """The cell that is recovered, and until when."""
    rest_until: float = 0.0
    ever: set[str] = field(default_factory=set)
    seen: tuple[str, dict[str, float]] = ("", {})
    """The serving table, and what it comes to: it changes seldom."""

    def __post_init__(self) -> None:
        names = [f"cell-{number:02d}" for number in range(CELLS)]
        self.spec = placement.initial(ROUTING, [Candidate(n, n, "10.0.0.1", 80, 100) for n in names], epoch=1)
        order = random.Random(self.seed).sample(names, CELLS)
        count = round(CELLS * EACH)
        self.waves = [(wave * EVERY, order[wave * count : (wave + 1) * count]) for wave in range(WAVES)]
        self.cells = {n: _cell(n) for n in names}

    # --- what happens

    def step(self) -> None:
        self.now += TICK
        while self.waves and self.waves[0][0] <= self.now:
            for name in self.waves.pop(0)[1]:
                self._fail(name)
        for name, load in self.loads().items():
            if name in self.failed or load <= CAPACITY:
                self.too_much.pop(name, None)
            elif self.now - self.too_much.setdefault(name, self.now) >= OVERLOADED:
                self._fail(name)
        new = {n for n, since in self.failed.items() if self.now - since >= BELIEVED} - self.known
        self.known |= new
        match self.way:
            case "traffic follows health":
                for name in new:
                    self._hold(name, 0)
            case "one run a cell":
                self._recover()
            case "storm handling" | "  poisonWindow 1s":
                self._weather(new)
                self._recover()
            case _:
                pass

    def _fail(self, name: str) -> None:
        self.failed.setdefault(name, self.now)
        self.ever.add(name)

    # --- what is done

    def _weather(self, new: set[str]) -> None:
        if new:
            since = {name: self._at(self.failed[name]) for name in self.known}
            poison = cascade.poison(self.spec, since, timedelta(seconds=POISON[self.way]))
            self.spared |= poison.spared
            self.spec = placement.quarantine(
                self.spec, ROUTING, poison.slots, holder=RUN, reason="poison", since=self._at(self.now)
            )
        drained = self.known - self.spared - ({self.at_work[0]} if self.at_work else set())
        if new or self._settled():
            found = cascade.relief(
                self.spec, ROUTING, self._traffic(), drained, self.known, dict.fromkeys(self.cells, CAPACITY),
                SHEDDABLE, POLICY, fraction(POLICY.limits.capacity_headroom), holder=RUN,
            )  # fmt: skip
            self.shed = dict(found.plan.percents)
            for name in drained:
                self._hold(name, found.keep)

    def _settled(self) -> bool:
        """A cell came back just now: perhaps less has to be shed."""
        return self.at_work is None and 0 <= self.now - self.rest_until < TICK

    def _recover(self) -> None:
        if self.at_work is not None:
            name, until = self.at_work
            if self.now < until:
                return
            self.at_work = None
            self.failed.pop(name, None)
            self.known.discard(name)
            self.spared.discard(name)
            self.spec = placement.release(self.spec, ROUTING, holder=RUN, cell=name)
            between = seconds(POLICY.cascade.stability_between) if self.way in STORM else 0.0
            self.rest_until = self.now + between
        if not self.known or self.now < self.rest_until:
            return
        name = next(iter(cascade.order(self.cells, self.spec, self.known)))
        if self.way == "one run a cell":
            tried = (p for p in cascade.TRIED if self._bearable(name, p))
            self._hold(name, next(tried, 100))
        self.at_work = (name, self.now + whole_recovery())

    def _bearable(self, name: str, percent: int) -> bool:
        room = fraction(POLICY.limits.capacity_headroom)
        capacities = dict.fromkeys(self.cells, CAPACITY)
        found = can_bear(self.spec, ROUTING, self._traffic(), capacities, name, percent, room, holder=RUN)
        return found.verdict is not Verdict.FAILED

    def _hold(self, name: str, percent: int) -> None:
        hold = Hold(
            cell=name, max_percent=percent, state=HoldState.DRAINING, holder=RUN, reason="failed",
            since=self._at(self.now),
        )  # fmt: skip
        self.spec = placement.hold(self.spec, ROUTING, hold)

    # --- what is seen

    def _at(self, moment: float) -> datetime:
        return BEGIN + timedelta(seconds=moment)

    @property
    def passing(self) -> float:
        return 1 - sum(part * self.shed.get(name, 0) / 100 for name, part in CLASSES.items())

    def _wanted(self) -> dict[str, float]:
        """Requests per second that would reach each cell if nothing were shed."""
        if self.seen[0] != self.spec.serving:
            slots: Counter[int] = Counter(decode_table(self.spec.serving))
            rates = {cell.name: slots[cell.index] / SLOTS * LOAD * CELLS for cell in self.spec.cells}
            self.seen = (self.spec.serving, rates)
        return self.seen[1]

    def loads(self) -> dict[str, float]:
        return {name: rate * self.passing for name, rate in self._wanted().items()}

    def _traffic(self) -> RouterTraffic:
        loads, total = self.loads(), LOAD * CELLS
        cells = {n: CellTraffic(round(10 * load), load, 0, 0) for n, load in loads.items()}
        classes = {
            n: ClassTraffic(round(10 * total * part), total * part, round(total * part * self.shed.get(n, 0) / 10), 0)
            for n, part in CLASSES.items()
        }
        return RouterTraffic(self._at(self.now - 10), self._at(self.now), 2, cells=cells, classes=classes)

    def served(self) -> tuple[float, float]:
        """Parts (0..1) of all requests, and of those of the class checkout, that get a good answer."""
        good = 0.0
        for name, wanted in self._wanted().items():
            if name not in self.failed and wanted:
                load = wanted * self.passing
                good += wanted * min(1.0, CAPACITY / load if load else 1.0)
        part = good / (LOAD * CELLS)
        return part * self.passing, part


def _cell(name: str) -> Cell:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    return Cell.model_validate({"metadata": {"name": name}, "spec": {"routerRef": {"name": "r"}, "backend": backend}})


@dataclass
class Course:
    """What came of one way."""

    hour: float = 0.0
    """Part of all requests served in the first hour."""
    checkout: float = 0.0
    least: float = 1.0
    failed: int = 0
    """Cells that failed in all, those that fell to overload included."""
    out: float = 0.0
    """Part of the slots that is quarantined at the end: served by nobody until a person says so."""
    whole_after: float | None = None
    """Seconds from the last wave until (nearly) everything else is served again; None: not within two days."""


def course(way: str) -> Course:
    sides = [Side(way, seed) for seed in range(ROUTERS)]
    found = Course()
    hour: list[tuple[float, float]] = []
    last_wave = (WAVES - 1) * EVERY
    while True:
        for side in sides:
            side.step()
        now = sides[0].now
        each = [side.served() for side in sides]
        all_of, checkout = (sum(one[kind] for one in each) / ROUTERS for kind in (0, 1))
        if now <= 3600:
            hour.append((all_of, checkout))
            found.least = min(found.least, all_of)
        found.out = sum(len(placement.quarantined(side.spec)) for side in sides) / (ROUTERS * SLOTS)
        whole = all_of > 0.999 * (1 - found.out)
        if now > last_wave and whole and found.whole_after is None:
            found.whole_after = now - last_wave
        if now > max(3600, last_wave) and (whole or now >= AT_MOST or not any(map(_moves, sides))):
            break
    found.hour, found.checkout = (sum(one[kind] for one in hour) / len(hour) for kind in (0, 1))
    found.failed = sum(len(side.ever) for side in sides)
    return found


def _moves(side: Side) -> bool:
    """Can anything still change?"""
    return side.way in ("one run a cell", *STORM) and bool(side.failed)


def lines() -> Iterator[str]:
    yield f"{ROUTERS * CELLS} cells behind {ROUTERS} Routers, {LOAD:g} of {CAPACITY} requests/s each; {WAVES} waves of"
    yield f"{EACH:.0%} of the cells, {EVERY // 60} min apart; virtual time"
    yield "-" * 96
    yield f"{'':<24}{'served in the first hour':>26}{'least':>9}{'cells':>9}{'quaran-':>9}{'all else served':>17}"
    yield f"{'':<24}{'all':>14}{'checkout':>12}{'':>9}{'failed':>9}{'tined':>9}{'again after':>17}"
    for way in WAYS:
        of = course(way)
        whole = duration_text(of.whole_after) if of.whole_after is not None else "not by itself"
        yield f"{way:<24}{of.hour:>13.1%}{of.checkout:>13.1%}{of.least:>9.1%}{of.failed:>9}{of.out:>9.1%}{whole:>17}"
    yield ""
    yield from (f"{way.strip()}: {what}" for way, what in WAYS.items())


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
    sys.exit(0)
