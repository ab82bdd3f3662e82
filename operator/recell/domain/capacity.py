"""Can the others bear what a drain moves to them (rule 17)?

Promises: pure; the answer is worked out on the table that the drain would really make, with the
greater of the load before the failure and now, what is promised to other runs, and the headroom.

Must not: pass on figures that are missing: an unset capacity or no fresh load is Inconclusive, also where the load
before the failure is known.
"""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType

from recell.api.failure import Verdict
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec
from recell.api.router import OffHome
from recell.domain import placement
from recell.domain.observation import RouterTraffic
from recell.domain.placement import Routing
from recell.domain.wording import clipped, percent

_PROBE = Holder(kind="CapacityCheck", name="drain")
_AT = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Bearing:
    """Whether the others can bear it, and what to reserve before it begins."""

    verdict: Verdict
    message: str
    reservations: Mapping[str, int] = field(default_factory=dict)
    """Cell -> requests per second that it has to bear in addition."""


@dataclass(frozen=True)
class Load:
    """What a cell got while it served so many slots."""

    requests_per_second: float
    slots: int


def can_bear(
    spec: PlacementSpec,
    routing: Routing,
    load: RouterTraffic | None,
    capacities: Mapping[str, int | None],
    cell: str,
    drop_to_percent: int,
    headroom: float,
    *,
    before: Mapping[str, Load] = MappingProxyType({}),
    holder: Holder | None = None,
) -> Bearing:
    """Whether the other cells can bear what leaves when the cell keeps `drop_to_percent` of its homes.

    `load` is fresh or None, `before` is what cells got when they were last well, `capacities` are in requests
    per second, `headroom` is the part of each capacity to be left free. Reservations of `holder`
    itself are not counted against it.
    """
    gains = _gains(spec, routing, cell, drop_to_percent)
    moves = routing.shared or routing.off_home == OffHome.READ_ONLY
    if moves and not any(c.name != cell and _receives(spec, c.name, c.weight) for c in spec.cells):
        return Bearing(Verdict.FAILED, f"no other cell can take customers of {cell}")
    if not gains:
        return Bearing(Verdict.PASSED, f"draining {cell} to {drop_to_percent} % moves no request to another cell")
    serves = placement.served_slots(spec)
    rates = {c.name: _rate(c.name, serves[c.index], load, before) for c in spec.cells}
    leaving, served = rates.get(cell), serves[placement.index_of(spec, cell)]
    if leaving is None or not served:
        return Bearing(
            Verdict.INCONCLUSIVE,
            f"how many requests {cell} gets is not known: no fresh figures from the router",
        )
    extra = {name: leaving * slots / served for name, slots in gains.items()}
    promised: Counter[str] = Counter()
    for item in spec.reservations:
        if item.holder != holder:
            promised[item.cell] += item.requests_per_second
    short: list[str] = []
    unknown: list[str] = []
    fine: list[str] = []
    for name, more in sorted(extra.items()):
        capacity, rate = capacities.get(name), rates[name]
        if capacity is None:
            unknown.append(f"{name} has no spec.capacity.requestsPerSecond")
            continue
        if rate is None:
            unknown.append(f"how many requests {name} gets is not known")
            continue
        total, allowed = rate + promised[name] + more, capacity * (1 - headroom)
        told = f"{name} would get {total:.0f} of at most {allowed:.0f} requests/s"
        (fine if total <= allowed else short).append(told)
    reservations = {name: math.ceil(more) for name, more in extra.items() if more > 0}
    failed_with = load is not None and leaving > load.cells[cell].requests_per_second
    then = f"; {cell} counted with the {leaving:.0f} requests/s from before it failed" if failed_with else ""
    free = f"(capacity less {percent(headroom)} headroom{then})"
    if short:
        return Bearing(Verdict.FAILED, clipped(f"too little room {free}: {'; '.join(short)}"), reservations)
    if unknown:
        return Bearing(Verdict.INCONCLUSIVE, clipped("; ".join(unknown)), reservations)
    return Bearing(Verdict.PASSED, clipped(f"the others can bear it {free}: {'; '.join(fine)}"), reservations)


def _gains(spec: PlacementSpec, routing: Routing, cell: str, drop_to_percent: int) -> dict[str, int]:
    """Slots that each other cell would serve in addition."""
    limit = Hold(cell=cell, max_percent=drop_to_percent, state=HoldState.DRAINING, holder=_PROBE, reason="", since=_AT)
    now, then = placement.served_slots(spec), placement.served_slots(placement.hold(spec, routing, limit))
    return {c.name: then[c.index] - now[c.index] for c in spec.cells if c.name != cell and then[c.index] > now[c.index]}


def _receives(spec: PlacementSpec, name: str, weight: int) -> bool:
    return weight > 0 and placement.limit(spec, name) == 100


def _rate(cell: str, slots: int, load: RouterTraffic | None, before: Mapping[str, Load]) -> float | None:
    """The greater of what the cell gets and of what its slots brought when it was well; None without fresh figures.

    A cell that hangs or errs may show little load. One that serves fewer slots than it did gets less for that.
    """
    if load is None or cell not in load.cells:
        return None
    was = before.get(cell)
    usual = was.requests_per_second * slots / was.slots if was is not None and was.slots else 0.0
    return max(load.cells[cell].requests_per_second, usual)
