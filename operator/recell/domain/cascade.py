"""Several cells at once: who is recovered first, what the others can bear, and what must not spread.

Promises: pure. Load and room are worked out on the table that the drains would really make, with figures that are
scaled up by what is shed already; a figure that is missing makes the answer Inconclusive, never good. One slot is
reassigned once: when the cell that took it over fails too, nobody gets it any more (rule 13).

Must not: decide that nothing is wrong; it is asked when cells have failed.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from recell.api import Cell
from recell.api.failure import Impact
from recell.api.placement import READ_ONLY, REJECT, Hold, Holder, HoldState, PlacementSpec, decode_table
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import failure, placement, shedding
from recell.domain.observation import RouterTraffic
from recell.domain.placement import Routing
from recell.domain.wording import clipped, listed

TRIED = tuple(range(0, 101, 10))
"""Percent of their customers that failed cells may keep while the others cannot bear all of them."""
_PROBE = Holder(kind="CapacityCheck", name="cascade")
_AT = datetime(1970, 1, 1, tzinfo=UTC)


SYSTEMIC = "systemic"
"""Gate: what failed may be shared by all cells."""


def order(cells: Mapping[str, Cell], spec: PlacementSpec, failed: Iterable[str]) -> tuple[str, ...]:
    """In which they are recovered: priority, then customers, then name."""

    def rank(name: str) -> tuple[int, float, str]:
        priority = cells[name].spec.priority if name in cells else 0
        return (-priority, -placement.home_share(spec, name), name)

    return tuple(sorted(set(failed), key=rank))


def alone(spec: PlacementSpec, cell: str, not_served: float) -> Impact:
    """The impact of this cell's failure by itself; the others have their own."""
    return failure.impact(placement.home_share(spec, cell) * not_served)


def emergency_cells(failed: int, idle: int, policy: RecoveryPolicySpec) -> int:
    """How many are made: as many as failed and `extraCells`, within both limits of the policy.

    `idle` are cells that were made before and serve nobody; they count towards `limits.maxMadeCells`.
    """
    room = policy.limits.max_made_cells - idle
    return max(0, min(failed + policy.cascade.extra_cells, policy.cascade.max_emergency_cells, room))


# --- load and room


@dataclass(frozen=True)
class Need:
    """What the cells that are well would have to bear."""

    lacking: float | None
    """Part (0..1) of their load that is too much for the one that is worst off; None: nobody can say."""
    message: str
    extra: Mapping[str, int] = field(default_factory=dict)
    """Cell -> requests per second beyond what it gets now."""


def need(
    spec: PlacementSpec,
    routing: Routing,
    load: RouterTraffic | None,
    drained: Mapping[str, int],
    failed: Collection[str],
    capacities: Mapping[str, int | None],
    headroom: float,
    *,
    holder: Holder | None = None,
) -> Need:
    """When each cell of `drained` keeps so many percent of its customers.

    `load` is fresh or None; a failed cell of which no request ended is taken to have as many for a slot as the others.
    `capacities` are in requests per second, `headroom` is the part of each that stays free, reservations of `holder`
    are its own.
    """
    if load is None:
        return Need(None, "how many requests the cells get is not known: no fresh figures from the router")
    after = _drained(spec, routing, drained)
    names = {cell.index: cell.name for cell in spec.cells}
    rates = _rate_per_slot(spec, load, names, failed)
    if rates is None:
        return Need(None, "the cells that are well get no requests, so how many there are of a slot is not known")
    wanted: defaultdict[str, float] = defaultdict(float)
    gained: defaultdict[str, float] = defaultdict(float)
    mean = rates[-1]
    for was, now in zip(decode_table(spec.serving), decode_table(after.serving), strict=True):
        if now == REJECT:
            continue
        source, target = was & ~READ_ONLY if was != REJECT else -1, now & ~READ_ONLY
        rate = rates.get(source, mean)
        wanted[names[target]] += rate
        if source != target:
            gained[names[target]] += rate
    scale = 1 / max(0.01, 1 - shedding.shed_now(load))
    promised: Counter[str] = Counter()
    for item in spec.reservations:
        if item.holder != holder:
            promised[item.cell] += item.requests_per_second
    worst, told = 0.0, ""
    unknown: list[str] = []
    for name in sorted(wanted):
        if name in failed:
            continue
        capacity = capacities.get(name)
        if capacity is None:
            unknown.append(name)
            continue
        total, allowed = wanted[name] * scale + promised[name], capacity * (1 - headroom)
        part = max(0.0, 1 - allowed / total) if total > 0 else 0.0
        if not told or part > worst:
            worst, told = part, f"{name} would get {total:.0f} of at most {allowed:.0f} requests/s"
    extra = {name: math.ceil(rate * scale) for name, rate in gained.items() if rate > 0 and name not in failed}
    if unknown:
        message = f"what they can bear is not known (spec.capacity.requestsPerSecond): {listed(unknown)}"
        return Need(None, message, extra)
    if not told:
        return Need(None, "no cell is well that could take customers over", extra)
    return Need(worst, told, extra)


def _rate_per_slot(
    spec: PlacementSpec, load: RouterTraffic, names: Mapping[int, str], failed: Collection[str]
) -> dict[int, float] | None:
    """By index of a cell, requests per second of each slot that it serves; under -1 the mean of the cells that are
    well. None while they get nothing."""
    slots = placement.served_slots(spec)
    well = [index for index, name in names.items() if name not in failed and slots[index] and name in load.cells]
    total = sum(load.cells[names[index]].requests_per_second for index in well)
    if not total:
        return None
    mean = total / sum(slots[index] for index in well)
    rates = {-1: mean}
    for index, name in names.items():
        seen = load.cells.get(name)
        if seen is not None and slots[index] and (name not in failed or seen.requests):
            rates[index] = seen.requests_per_second / slots[index]
    return rates


def _drained(spec: PlacementSpec, routing: Routing, drained: Mapping[str, int]) -> PlacementSpec:
    holds = [h for h in spec.holds if h.holder != _PROBE]
    for name, keep in drained.items():
        holds.append(
            Hold(cell=name, max_percent=keep, state=HoldState.DRAINING, holder=_PROBE, reason="", since=_AT)
        )  # fmt: skip
    return placement.reroute(spec.model_copy(update={"holds": holds}), routing)


@dataclass(frozen=True)
class Relief:
    """What is done at once for the customers: shed so much, and let the failed cells' customers go so far."""

    keep: int
    """Percent of its customers that each drained cell keeps."""
    plan: shedding.Plan
    need: Need
    message: str


def relief(
    spec: PlacementSpec,
    routing: Routing,
    load: RouterTraffic | None,
    drained: Collection[str],
    failed: Collection[str],
    capacities: Mapping[str, int | None],
    classes: Sequence[str],
    policy: RecoveryPolicySpec,
    headroom: float,
    *,
    holder: Holder | None = None,
) -> Relief:
    """The most customers of failed cells that the others can bear, and the least shedding that this takes.

    Shedding comes before leaving customers at a failed cell: it turns away what matters least. Without figures nothing
    is shed, and the drain is made unless the policy asks for capacity figures (`limits.requireCapacity`).
    """
    for keep in TRIED:
        wanted = need(
            spec, routing, load, dict.fromkeys(drained, keep), failed, capacities, headroom, holder=holder
        )  # fmt: skip
        if wanted.lacking is None:
            keep = 100 if policy.limits.require_capacity else 0
            nothing = shedding.Plan({}, 0.0, 0.0, f"nothing is shed, for {wanted.message}")
            return Relief(keep, nothing, wanted, clipped(nothing.message))
        untold = shedding.Plan({}, 0.0, wanted.lacking, "nothing is shed: the router tells no requests by class")
        plan = shedding.plan(classes, load, wanted.lacking) or untold
        if plan.enough or keep == TRIED[-1]:
            break
    stays = f", failed cells keep {keep} % of their customers" if keep and drained else ""
    return Relief(keep, plan, wanted, clipped(f"{wanted.message}: {plan.message}{stays}"))


# --- what must not spread


@dataclass(frozen=True)
class Poison:
    """Cells that failed after they took customers over."""

    slots: frozenset[int]
    """Nobody gets these any more: they were reassigned once."""
    spared: frozenset[str]
    """Cells that failed so soon after they gained slots that they are not drained."""


def poison(spec: PlacementSpec, failing_since: Mapping[str, datetime], window: timedelta) -> Poison:
    """`failing_since` has the failed cells. A slot that a failed cell serves away from its home has been reassigned
    already, and may be what brought both down."""
    names = {cell.index: cell.name for cell in spec.cells}
    moved_at: dict[str, datetime] = {}
    for hold in spec.holds:
        moved_at[hold.cell] = max(hold.since, moved_at.get(hold.cell, hold.since))
    slots: set[int] = set()
    spared: set[str] = set()
    tables = zip(decode_table(spec.homes), decode_table(spec.serving), strict=True)
    for slot, (home, serving) in enumerate(tables):
        if serving in (REJECT, home):
            continue
        receiver, source = names.get(serving & ~READ_ONLY), names.get(home)
        if receiver is None or source is None or receiver == source or receiver not in failing_since:
            continue
        gained = moved_at.get(source)
        if gained is None or failing_since[receiver] < gained:
            continue  # it had failed already, only nobody knew: these slots have proven nothing
        slots.add(slot)
        if failing_since[receiver] - gained <= window:
            spared.add(receiver)
    return Poison(frozenset(slots), frozenset(spared))


def same_check(failed: Iterable[Collection[str]], fresh: Collection[str]) -> tuple[str, ...]:
    """Checks that fail at a cell which was just made from the template, and at every failed cell too (rule 10)."""
    shared = set(fresh)
    for checks in failed:
        shared &= set(checks)
    return tuple(sorted(shared))
