"""Who is served where: from homes, weights, holds and pins to the serving table.

Promises: pure functions from one PlacementSpec to the next; what is passed in is never changed.
`serving` and `pins` are a function of the rest of the spec and the routing alone, so that every
path to the same holds gives the same table: moves are few, nested (who left at 90 % is also out at
80 %) and sticky.

Must not: send anything to a cell that is not listed, serve an Isolated, Retired or Quarantined
cell beyond its hold, lower an epoch, use an index twice, or leave everybody without a cell because
all weights are 0 or all cells are draining.
"""

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from recell.api.cell import Cell
from recell.api.dns import MAX_RECORDS
from recell.api.gateway import MOST_BACKENDS, MOST_BACKENDS_SHEDDING
from recell.api.meta import LABEL_MADE_BY
from recell.api.placement import (
    MAX_INDEX,
    READ_ONLY,
    REJECT,
    Hold,
    Holder,
    HoldState,
    PinnedCustomer,
    PlacedCell,
    PlacementSpec,
    Quarantine,
    Reservation,
    Successor,
    decode_bits,
    decode_table,
    encode_bits,
    encode_table,
)
from recell.api.router import CustomerData, OffHome, Router, RouterType
from recell.domain.wording import listed

MAX_CELLS = 819
"""Cells of one router: 5 % increments need 20 slots a cell, and 16,384 slots are the most."""
MAX_HOLDS = 1024
PERSON = "Person"
"""Kind of a holder that is no object."""

FIRM = frozenset({HoldState.ISOLATED, HoldState.RETIRED, HoldState.QUARANTINED})
"""States of holds that bind even when every cell is held."""
REMEMBERED = frozenset({HoldState.ISOLATED, HoldState.RETIRED})
"""States of holds that outlive the cell's entry, so that nothing under its name is trusted (rule 2)."""


class UnknownProvenance(ValueError):
    """A cell came back under a name that was isolated or retired; a person has to return it."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"Cell {name}: a cell of this name was isolated or retired, and this one is not known to be the same:"
            f" it gets no traffic until `kubectl recell return {name}`"
        )
        self.name = name


class StillHome(ValueError):
    """A cell with home slots cannot go: its customers would have nowhere to be."""

    def __init__(self, name: str, slots: int) -> None:
        super().__init__(
            f"Cell {name}: it is still the home of {slots} slots, which no other cell can take over;"
            f" move its customers first, or set the annotation recell.dev/force to reject them"
        )
        self.name = name
        self.slots = slots


class RouterFull(ValueError):
    """No more cells can share the customers of this Router."""


class StaleEpoch(ValueError):
    """A newer leader has written already."""


@dataclass(frozen=True)
class Routing:
    """What the Router says about where customers may go."""

    customer_data: CustomerData
    off_home: OffHome
    pins: tuple[tuple[str, str], ...]
    """Customer key and name of the cell."""
    slots: int
    most_sharing: int = MAX_CELLS
    """So many cells may have a weight above 0 at once, retired ones not counted."""

    @classmethod
    def of(cls, router: Router) -> "Routing":
        """A router that knows no customers has slots all the same: they say how large the cells' shares are."""
        if router.spec.type is RouterType.GATEWAY:
            most = MOST_BACKENDS if router.spec.shedding is None else MOST_BACKENDS_SHEDDING
            return cls(CustomerData.SHARED, OffHome.REJECT, (), _SMALLEST_TABLE, most)
        if router.spec.type is RouterType.DNS:
            return cls(CustomerData.SHARED, OffHome.REJECT, (), _SMALLEST_TABLE, MAX_RECORDS)
        block = router.spec.haproxy
        if block is None:
            raise ValueError(f"Router {router.metadata.name}: spec.haproxy is missing")
        return cls(
            customer_data=router.spec.customer_data,
            off_home=router.spec.off_home or OffHome.REJECT,
            pins=tuple((pin.customer, pin.cell) for pin in block.pins),
            slots=block.slots,
        )

    @property
    def shared(self) -> bool:
        return self.customer_data == CustomerData.SHARED


@dataclass(frozen=True)
class Candidate:
    """A cell that may be admitted."""

    name: str
    uid: str
    address: str
    port: int
    weight: int


# --- customers and hashes


def slot_of(customer: str | bytes, slots: int) -> int:
    """The slot of a customer: the first four bytes of the key's MD5, big-endian, modulo the slots."""
    key = customer.encode() if isinstance(customer, str) else customer
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "big") % slots


_MASK = (1 << 64) - 1
_ODD, _MIX = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""The multipliers of splitmix64."""


@lru_cache(maxsize=8192)
def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


_SMALLEST_TABLE = 1024


@lru_cache(maxsize=8)
def _slot_hashes(slots: int) -> tuple[int, ...]:
    return tuple(_hash(f"slot {slot}") for slot in range(slots))


@lru_cache(maxsize=8)
def _ranks(slots: int) -> tuple[tuple[int, int], ...]:
    """The order in which slots leave their home: last in this order leave first.

    A slot and those that it was doubled into stand side by side, so that doubling moves nobody.
    """
    roots = [_hash(f"rank {slot}") for slot in range(_SMALLEST_TABLE)]
    return tuple((roots[slot % _SMALLEST_TABLE], slot) for slot in range(slots))


# --- making and changing


def initial(routing: Routing, candidates: Iterable[Candidate], *, epoch: int) -> PlacementSpec:
    """The first Placement: homes striped by weight over the candidates, indices in order of names.

    Raises ValueError when nobody could be served: no candidate, or every weight is 0.
    """
    found = sorted(candidates, key=lambda candidate: candidate.name)
    if not found:
        raise ValueError("no cell can be admitted yet: a first placement needs at least one Cell with a backend")
    if len({candidate.name for candidate in found}) < len(found):
        raise ValueError("two candidates have the same name")
    sharing = sum(1 for candidate in found if candidate.weight)
    if len(found) > MAX_CELLS or sharing > routing.most_sharing:
        raise RouterFull(
            f"{sharing} cells: this Router takes at most {routing.most_sharing}; give the others spec.weight 0, or use"
            " several Routers"
        )
    if not any(candidate.weight for candidate in found):
        raise ValueError(
            f"every cell has weight 0 ({listed(c.name for c in found)}): nobody would be served;"
            " give at least one Cell a spec.weight above 0"
        )
    cells = [_placed(candidate, index) for index, candidate in enumerate(found)]
    quotas = _quotas({cell.index: cell.weight for cell in cells}, routing.slots, {})
    spec = PlacementSpec(
        epoch=epoch,
        slots=routing.slots,
        next_index=len(cells),
        cells=cells,
        homes=encode_table(_striped(quotas)),
        serving=encode_table([REJECT] * routing.slots),
    )
    return reroute(spec, routing)


def admit(spec: PlacementSpec, routing: Routing, candidate: Candidate) -> PlacementSpec:
    """The candidate is listed, with its present address, port and weight.

    Shared: homes follow the weights, moving as few slots as possible. InCell: a new cell gets no
    homes. Raises UnknownProvenance when the name was isolated or retired under another UID, and
    RouterFull when no more cells can be listed, or share the customers.
    """
    known = _find(spec, candidate.name)
    if provenance_unknown(spec, candidate.name, candidate.uid):
        raise UnknownProvenance(candidate.name)
    if candidate.weight and len(_sharing(spec) - {candidate.name}) >= routing.most_sharing:
        raise RouterFull(
            f"Cell {candidate.name}: the customers of this Router are shared by {routing.most_sharing} cells already,"
            " and no more can be; use another Router"
        )
    if known is not None:
        entry = _placed(candidate, known.index)
        if entry == known:
            return spec
        cells = [entry if cell.name == candidate.name else cell for cell in spec.cells]
        changed = _with(spec, cells=cells)
        if known.weight == entry.weight:
            return changed
        return reroute(_rebalanced(changed, routing, since=spec, changed=candidate.name), routing)
    if len(spec.cells) >= MAX_CELLS:
        raise RouterFull(f"Cell {candidate.name}: the Router has {MAX_CELLS} cells already; use another Router")
    if spec.next_index >= MAX_INDEX:
        raise ValueError(f"Cell {candidate.name}: every index of the Placement was used; use another Router")
    cells = [*spec.cells, _placed(candidate, spec.next_index)]
    return reroute(_rebalanced(_with(spec, cells=cells, next_index=spec.next_index + 1), routing, since=spec), routing)


def as_listed(candidate: Candidate, placed: PlacedCell) -> bool:
    """Whether admitting it would change nothing: the same cell, as it is listed."""
    return _placed(candidate, placed.index) == placed


def remove(spec: PlacementSpec, routing: Routing, name: str, *, force: bool = False) -> PlacementSpec:
    """The cell is no longer listed; its reservations and holds go, save Isolated and Retired ones.

    Shared: its home slots go to the others by weight. Raises StillHome when its home slots can go
    nowhere (InCell, or no other cell with a weight) unless forced: then they are rejected.
    """
    gone = _find(spec, name)
    if gone is None:
        return spec
    homes = decode_table(spec.homes)
    slots = homes.count(gone.index)
    cells = [cell for cell in spec.cells if cell.name != name]
    movable = routing.shared and any(cell.weight for cell in cells)
    if slots and not movable and not force:
        raise StillHome(name, slots)
    rest = _with(
        spec,
        cells=cells,
        homes=encode_table([REJECT if home == gone.index else home for home in homes]),
        holds=[hold for hold in spec.holds if hold.cell != name or hold.state in REMEMBERED],
        reservations=[item for item in spec.reservations if item.cell != name],
    )
    return reroute(_rebalanced(rest, routing, since=spec), routing)


def hold(spec: PlacementSpec, routing: Routing, wanted: Hold) -> PlacementSpec:
    """The holder's limit on the cell's share; one per cell and holder.

    `since` stays while `max_percent` does. A cell that is not listed may be held too: the hold then
    counts from its admission on.
    """
    old = next((h for h in spec.holds if h.cell == wanted.cell and h.holder == wanted.holder), None)
    if old is None:
        if len(spec.holds) >= MAX_HOLDS:
            raise ValueError(f"Cell {wanted.cell}: the Placement has {MAX_HOLDS} holds already; release some first")
        return reroute(_with(spec, holds=[*spec.holds, wanted]), routing)
    new = wanted.model_copy(update={"since": old.since}) if wanted.max_percent == old.max_percent else wanted
    if new == old:
        return spec
    return reroute(_with(spec, holds=[new if h is old else h for h in spec.holds]), routing)


def release(spec: PlacementSpec, routing: Routing, *, holder: Holder, cell: str | None = None) -> PlacementSpec:
    """The holder's holds are gone, on this cell or on all."""
    left = [h for h in spec.holds if h.holder != holder or (cell is not None and h.cell != cell)]
    if len(left) == len(spec.holds):
        return spec
    return reroute(_with(spec, holds=left), routing)


def reserve(spec: PlacementSpec, holder: Holder, wanted: Mapping[str, int]) -> PlacementSpec:
    """The holder's reservations become these: cell -> requests per second that it has to bear in addition."""
    mine = [
        Reservation(cell=cell, requests_per_second=rate, holder=holder) for cell, rate in sorted(wanted.items()) if rate
    ]
    if mine == [item for item in spec.reservations if item.holder == holder]:
        return spec
    return _with(spec, reservations=[*(item for item in spec.reservations if item.holder != holder), *mine])


def unreserve(spec: PlacementSpec, holder: Holder) -> PlacementSpec:
    """The holder's reservations are gone."""
    return reserve(spec, holder, {})


def quarantine(
    spec: PlacementSpec, routing: Routing, slots: Iterable[int], *, holder: Holder, reason: str, since: datetime
) -> PlacementSpec:
    """Nobody serves these slots until `unquarantine`; the holder's earlier ones stay."""
    mine = next((q for q in spec.quarantine if q.holder == holder), None)
    wanted = frozenset(slots) | (decode_bits(mine.slots) if mine else frozenset())
    if wanted == (decode_bits(mine.slots) if mine else frozenset()):
        return spec
    made = Quarantine(slots=encode_bits(wanted, spec.slots), holder=holder, reason=reason, since=since)
    return reroute(_with(spec, quarantine=[*(q for q in spec.quarantine if q is not mine), made]), routing)


def unquarantine(spec: PlacementSpec, routing: Routing, slots: Iterable[int]) -> PlacementSpec:
    """These slots are served again, by whoever asked for their quarantine."""
    gone = frozenset(slots)
    left = [
        q.model_copy(update={"slots": encode_bits(kept, spec.slots)})
        for q in spec.quarantine
        if (kept := decode_bits(q.slots) - gone)
    ]
    return spec if left == spec.quarantine else reroute(_with(spec, quarantine=left), routing)


def quarantined(spec: PlacementSpec) -> frozenset[int]:
    """The slots that nobody serves although there are cells for them."""
    return frozenset[int]().union(*(decode_bits(q.slots) for q in spec.quarantine))


def rehome(spec: PlacementSpec, routing: Routing, source: str, target: str, slots: Iterable[int]) -> PlacementSpec:
    """These home slots of the source become the target's; slots that are not the source's are left alone.

    Raises ValueError for a target that is not listed: nobody is sent to a cell that was not admitted.
    """
    there, here = _find(spec, target), _find(spec, source)
    if there is None:
        raise ValueError(f"Cell {target} was not admitted to the Placement yet")
    moved = set(slots)
    homes = [
        there.index if here is not None and home == here.index and slot in moved else home
        for slot, home in enumerate(decode_table(spec.homes))
    ]
    return reroute(_with(spec, homes=encode_table(homes)), routing)


def succeed(spec: PlacementSpec, routing: Routing, source: str, target: str) -> PlacementSpec:
    """The target is the source's successor: the source's pins follow it, all at once. Raises as `rehome`."""
    if _find(spec, target) is None:
        raise ValueError(f"Cell {target} was not admitted to the Placement yet")
    others = [s for s in spec.successors if s.cell not in (source, target)]
    return reroute(_with(spec, successors=[*others, Successor(cell=source, successor=target)]), routing)


def samples(spec: PlacementSpec, cells: Collection[str], each: int, most: int) -> list[str]:
    """Customers that nobody has and whom these cells serve now: so many for each cell, at most `most`."""
    names = {cell.index: cell.name for cell in spec.cells if cell.name in cells}
    serving, found = decode_table(spec.serving), Counter[int]()
    wanted = min(most, each * len(names))
    customers: list[str] = []
    for number in range(4 * spec.slots):
        if len(customers) >= wanted:
            break
        customer = f"recell-probe-{number}"
        target = serving[slot_of(customer, spec.slots)]
        if target in names and found[target] < each:
            found[target] += 1
            customers.append(customer)
    return customers


def has_customers(spec: PlacementSpec, cell: str) -> bool:
    """Whether anybody is at home there, by slot or by pin."""
    index = index_of(spec, cell)
    return bool(_tally(spec.homes)[index]) or any(pin.home == index for pin in spec.pins)


def idle(cells: Mapping[str, Cell], spec: PlacementSpec) -> list[str]:
    """Those that the operator made and where nobody is at home, by name."""
    return sorted(
        name
        for name, cell in cells.items()
        if cell.metadata.labels.get(LABEL_MADE_BY) == "recell" and not has_customers(spec, name)
    )


def members(cells: Mapping[str, Cell], spec: PlacementSpec) -> dict[str, Cell]:
    """Those that count as cells of the router: listed, and not made ones where nobody is at home, which are nobody's
    loss."""
    unused = idle(cells, spec)
    return {name: cell for name, cell in cells.items() if index_of(spec, name) >= 0 and name not in unused}


def successor(spec: PlacementSpec, cell: str) -> str:
    """The cell that has taken this one's place by now; itself when none has."""
    following = {s.cell: s.successor for s in spec.successors}
    seen = {cell}
    while (later := following.get(cell)) is not None and later not in seen:
        cell = later
        seen.add(later)
    return cell


def raise_epoch(spec: PlacementSpec, epoch: int) -> PlacementSpec:
    """The epoch of a new leader. Raises StaleEpoch for a lower one: a newer leader was here."""
    if epoch < spec.epoch:
        raise StaleEpoch(f"the Placement has epoch {spec.epoch}, this leader only {epoch}: another leader took over")
    return spec if epoch == spec.epoch else _with(spec, epoch=epoch)


def resize(spec: PlacementSpec, routing: Routing) -> PlacementSpec:
    """The table grows to the Router's number of slots: slot s becomes s and s + N, so no home changes.

    Raises ValueError for a number that doubling does not reach.
    """
    homes = decode_table(spec.homes)
    if routing.slots == spec.slots:
        return spec
    while len(homes) < routing.slots:
        homes += homes
    if len(homes) != routing.slots:
        raise ValueError(f"slots may only double: the Placement has {spec.slots}, the Router asks for {routing.slots}")
    doubled = [
        q.model_copy(
            update={"slots": base64.b64encode(base64.b64decode(q.slots) * (len(homes) // spec.slots)).decode()}
        )
        for q in spec.quarantine
    ]
    return reroute(_with(spec, slots=len(homes), homes=encode_table(homes), quarantine=doubled), routing)


def reroute(spec: PlacementSpec, routing: Routing) -> PlacementSpec:
    """The serving table and the pins, computed anew from everything else."""
    cells = tuple(_Cell(cell.name, cell.index, cell.weight) for cell in spec.cells)
    holds = tuple(_Limit(h.cell, h.max_percent, h.state) for h in spec.holds)
    followed = tuple((customer, successor(spec, cell)) for customer, cell in routing.pins)
    serving, pins = _routed(spec.homes, cells, holds, replace(routing, pins=followed), quarantined(spec))
    if serving == spec.serving and pins == spec.pins:
        return spec
    return _with(spec, serving=serving, pins=list(pins))


# --- reading


@lru_cache(maxsize=32)
def _tally(table: str) -> Counter[int]:
    """How often each value is in a table; remembered, and so not to be changed."""
    return Counter(decode_table(table))


def index_of(spec: PlacementSpec, cell: str) -> int:
    """The cell's index in the tables; -1, which is in no table, for a cell that is not listed."""
    found = _find(spec, cell)
    return -1 if found is None else found.index


def limit(spec: PlacementSpec, cell: str) -> int:
    """The least of the cell's holds in percent; 100 without any."""
    return min((h.max_percent for h in spec.holds if h.cell == cell), default=100)


def held_by(spec: PlacementSpec, holder: Holder) -> tuple[Hold, ...]:
    return tuple(h for h in spec.holds if h.holder == holder)


def slots_of(spec: PlacementSpec, cell: str) -> tuple[int, ...]:
    """The slots whose home the cell is."""
    index = index_of(spec, cell)
    return tuple(slot for slot, home in enumerate(decode_table(spec.homes)) if home == index)


def data_slots_of(spec: PlacementSpec, routing: Routing, cells: Iterable[str]) -> tuple[int, ...]:
    """The slots of all customers whose data is in these cells: home slots, and the slots of customers pinned there."""
    names = set(cells)
    slots = {slot for name in names for slot in slots_of(spec, name)}
    slots |= {slot_of(customer, spec.slots) for customer, cell in routing.pins if successor(spec, cell) in names}
    return tuple(sorted(slots))


def share(spec: PlacementSpec, cell: str) -> float:
    """Part of all slots that the cell serves now, for reading and writing."""
    return _tally(spec.serving)[index_of(spec, cell)] / spec.slots


def shares(spec: PlacementSpec) -> Mapping[str, float]:
    """`share` of every listed cell."""
    counts = _tally(spec.serving)
    return {cell.name: counts[cell.index] / spec.slots for cell in spec.cells}


def home_share(spec: PlacementSpec, cell: str) -> float:
    """Part of all slots whose home the cell is."""
    return _tally(spec.homes)[index_of(spec, cell)] / spec.slots


def expected_share(spec: PlacementSpec, cell: str) -> float:
    """Part of the requests that reach any cell which should reach this one, were all slots alike.

    Slots served for reading only count as served; rejected ones reach no cell.
    """
    counts = served_slots(spec)
    served = counts.total()
    return counts[index_of(spec, cell)] / served if served else 0.0


def served_share(spec: PlacementSpec) -> float:
    """Part of all slots that any cell serves for reading and writing."""
    return sum(count for value, count in _tally(spec.serving).items() if value < READ_ONLY) / spec.slots


def served_slots(spec: PlacementSpec) -> Counter[int]:
    """By index, the slots that a cell serves, those for reading only included."""
    counts: Counter[int] = Counter()
    for value, count in _tally(spec.serving).items():
        if value != REJECT:
            counts[value & ~READ_ONLY] += count
    return counts


def served_read_only(spec: PlacementSpec, slots: Iterable[int]) -> int:
    """How many of these slots are served away from home for reading only."""
    serving = decode_table(spec.serving)
    return sum(1 for slot in slots if serving[slot] != REJECT and serving[slot] & READ_ONLY)


def orphaned(spec: PlacementSpec, living: Callable[[Holder], bool]) -> tuple[Hold, ...]:
    """Holds whose holder is gone. The share stays as it is (rule 25).

    A person's hold never is orphaned, nor one that is meant to outlive its run: Isolated, Retired.
    """
    return tuple(
        h for h in spec.holds if h.holder.kind != PERSON and h.state not in REMEMBERED and not living(h.holder)
    )


def problems(spec: PlacementSpec) -> list[str]:
    """What makes a Placement unusable that somebody restored or edited; empty for every one made here."""
    found = []
    lengths = {}
    for field, text in (("homes", spec.homes), ("serving", spec.serving)):
        try:
            lengths[field] = len(decode_table(text))
        except ValueError as error:
            found.append(f"spec.{field}: {error}")
            continue
        if lengths[field] != spec.slots:
            found.append(f"spec.{field} has {lengths[field]} entries, but spec.slots is {spec.slots}")
    for field, count in (
        ("name", Counter(cell.name for cell in spec.cells)),
        ("index", Counter(cell.index for cell in spec.cells)),
    ):
        twice = [str(value) for value, times in count.items() if times > 1]
        if twice:
            found.append(f"spec.cells: {field} {listed(twice)} is there twice")
    used = max((cell.index for cell in spec.cells), default=-1)
    if used >= spec.next_index:
        found.append(f"spec.nextIndex is {spec.next_index}, but a cell has index {used}")
    if "homes" in lengths:
        unknown = set(decode_table(spec.homes)) - {cell.index for cell in spec.cells} - {REJECT}
        if unknown:
            found.append(f"spec.homes names {listed(map(str, sorted(unknown)))}, which no listed cell has as its index")
    return found


def provenance_unknown(spec: PlacementSpec, name: str, uid: str) -> bool:
    """The name was isolated or retired, and the cell that has it now is not the one that was (rule 2)."""
    known = _find(spec, name)
    if known is not None and known.uid == uid:
        return False
    return any(h.cell == name and h.state in REMEMBERED for h in spec.holds)


# --- the table


class _Cell(NamedTuple):
    """What routing needs to know of a listed cell."""

    name: str
    number: int
    """Its index in the tables."""
    weight: int


class _Limit(NamedTuple):
    """What routing needs to know of a hold."""

    cell: str
    max_percent: int
    state: HoldState


@lru_cache(maxsize=32)
def _routed(
    homes: str, cells: tuple[_Cell, ...], holds: tuple[_Limit, ...], routing: Routing, out: frozenset[int]
) -> tuple[str, list[PinnedCustomer]]:
    """Remembered: whether a drain is possible, is worth it and is made asks for the same table each time."""
    desk = _Desk(cells, holds, routing)
    serving = desk.serve(decode_table(homes))
    for slot in out:
        serving[slot] = REJECT
    return encode_table(serving), desk.pins()


class _Desk:
    """Decides who serves a slot or a pinned customer."""

    def __init__(self, cells: Sequence[_Cell], holds: Sequence[_Limit], routing: Routing) -> None:
        self._routing = routing
        self._cells = {cell.name: cell for cell in cells}
        least: dict[str, int] = {}
        firm: dict[str, int] = {}
        self._rejected_above: dict[int, int] = {}
        for h in holds:
            cell = self._cells.get(h.cell)
            if cell is None:
                continue
            least[h.cell] = min(h.max_percent, least.get(h.cell, 100))
            if h.state in FIRM:
                firm[h.cell] = min(h.max_percent, firm.get(h.cell, 100))
            if h.state == HoldState.QUARANTINED:
                self._rejected_above[cell.number] = min(h.max_percent, self._rejected_above.get(cell.number, 100))
        # When every cell is held, drains do not bind: nobody leaves a home for nowhere, and customers of a
        # cell that must not serve stay with those who have them. Only firm holds are kept.
        binding = least if _receivers(cells, least) else firm
        self._limits = {self._cells[name].number: percent for name, percent in binding.items()}
        self._receivers = _receivers(cells, binding)

    def serve(self, homes: Sequence[int]) -> list[int]:
        serving = list(homes)
        listed_indices = {cell.number for cell in self._cells.values()}
        limited: dict[int, list[int]] = {index: [] for index, percent in self._limits.items() if percent < 100}
        hashes = _slot_hashes(len(homes))
        moved = limited.keys() | (set(homes) - listed_indices)
        for slot, home in enumerate(homes) if moved else ():
            if home in limited:
                limited[home].append(slot)
            elif home in moved:
                serving[slot] = self._homeless(hashes[slot])
        ranks = _ranks(len(homes))
        for index, slots in limited.items():
            slots.sort(key=ranks.__getitem__)
            kept = _part(len(slots), self._limits[index])
            sound = _part(len(slots), self._rejected_above.get(index, 100))
            for position, slot in enumerate(slots[kept:], start=kept):
                serving[slot] = self._away(hashes[slot]) if position < sound else REJECT
        return serving

    def pins(self) -> list[PinnedCustomer]:
        found = []
        for customer, name in self._routing.pins:
            cell = self._cells.get(name)
            digest = _hash(f"pin {customer}")
            if cell is None:
                found.append(PinnedCustomer(customer=customer, home=REJECT, serving=self._homeless(digest)))
                continue
            position = (digest >> 11) * 100 / (1 << 53)
            if position < self._limits.get(cell.number, 100):
                serving = cell.number
            elif position < self._rejected_above.get(cell.number, 100):
                serving = self._away(digest)
            else:
                serving = REJECT
            found.append(PinnedCustomer(customer=customer, home=cell.number, serving=serving))
        return found

    def _homeless(self, digest: int) -> int:
        """Nobody has the data of a home that is gone, so with InCell there is nothing to read either."""
        return self._away(digest) if self._routing.shared else REJECT

    def _away(self, digest: int) -> int:
        if not self._receivers:
            return REJECT
        if self._routing.shared:
            return self._receiver(digest)
        if self._routing.off_home == OffHome.READ_ONLY:
            return READ_ONLY | self._receiver(digest)
        return REJECT

    def _receiver(self, digest: int) -> int:
        """Weighted rendezvous: only the slots of a receiver that goes, or that a new one wins, move.

        Among equal weights the highest hash wins, so a logarithm is needed only between weights.
        """
        best, chosen = -math.inf, REJECT
        for weight, (salts, indices) in self._receivers.items():
            scores = [(((x := ((digest ^ salt) * _ODD) & _MASK) ^ (x >> 32)) * _MIX) & _MASK for salt in salts]
            top = max(scores)
            score = math.log((top + 1) / (_MASK + 2)) / weight
            if score > best:
                best, chosen = score, indices[scores.index(top)]
        return chosen


def _receivers(cells: Sequence[_Cell], limits: Mapping[str, int]) -> dict[int, tuple[list[int], list[int]]]:
    """Cells that may take others' customers, by weight: their hashes and their indices."""
    found: dict[int, tuple[list[int], list[int]]] = {}
    for cell in cells:
        if cell.weight > 0 and limits.get(cell.name, 100) == 100:
            salts, indices = found.setdefault(cell.weight, ([], []))
            salts.append(_hash(f"cell {cell.name}"))
            indices.append(cell.number)
    return found


def _part(count: int, percent: int) -> int:
    """So much of the count, to the nearest whole."""
    return (2 * count * percent + 100) // 200


def _quotas(weights: Mapping[int, int], slots: int, present: Mapping[int, int]) -> dict[int, int]:
    """Slots for each index, exactly by weight: largest remainder; ties go to who has more than its floor now."""
    total = sum(weights.values())
    quotas = {index: weight * slots // total for index, weight in weights.items()}
    left = slots - sum(quotas.values())
    order = sorted(
        weights,
        key=lambda index: (-(weights[index] * slots % total), -(present.get(index, 0) - quotas[index]), index),
    )
    for index in order[:left]:
        quotas[index] += 1
    return quotas


def _striped(quotas: Mapping[int, int]) -> list[int]:
    """Each cell's slots spread evenly over the table, so that no range of slots belongs to one cell."""
    places = [((2 * k + 1) / quota, index) for index, quota in quotas.items() for k in range(quota)]
    return [index for _, index in sorted(places)]


def _rebalanced(spec: PlacementSpec, routing: Routing, *, since: PlacementSpec, changed: str = "") -> PlacementSpec:
    """Shared: homes by weight with the fewest moves. Else, or when every weight is 0, as they are.

    A retired cell gets none: another one has taken its place. One of weight 0 keeps what a run gave it, for it gets its
    weight when it has proven itself; not when its weight is what `changed`, nor when `since` that Placement there is
    somebody to take customers who stayed for want of any.
    """
    sharing = _sharing(spec)
    weights = {cell.index: cell.weight if cell.name in sharing else 0 for cell in spec.cells}
    if not routing.shared or not sum(weights.values()):
        return spec
    homes = list(decode_table(spec.homes))
    present = Counter(homes)
    kept = {cell.index for cell in spec.cells if not cell.weight and cell.name != changed and _sharing(since)}
    weights = {index: weight for index, weight in weights.items() if index not in kept}
    quotas = _quotas(weights, spec.slots - sum(present[index] for index in kept), present)
    quotas |= {index: present[index] for index in kept}
    surplus = {index: count - quotas.get(index, 0) for index, count in present.items()}
    hashes = _slot_hashes(spec.slots)
    free = []
    for slot in sorted(range(spec.slots), key=hashes.__getitem__):
        if surplus[homes[slot]] > 0:
            surplus[homes[slot]] -= 1
            free.append(slot)
    if not free:
        return spec
    wanting = {index: quota - present[index] for index, quota in quotas.items() if quota > present[index]}
    for slot, index in zip(free, _striped(wanting), strict=True):
        homes[slot] = index
    return _with(spec, homes=encode_table(homes))


def _sharing(spec: PlacementSpec) -> set[str]:
    """The cells among which homes are divided."""
    out = {h.cell for h in spec.holds if h.state == HoldState.RETIRED}
    return {cell.name for cell in spec.cells if cell.weight and cell.name not in out}


# --- specs


def _with(spec: PlacementSpec, **changes: Any) -> PlacementSpec:
    return spec.model_copy(update=changes)


def _placed(candidate: Candidate, index: int) -> PlacedCell:
    return PlacedCell(
        name=candidate.name,
        uid=candidate.uid,
        index=index,
        address=candidate.address,
        port=candidate.port,
        weight=candidate.weight,
    )


def _find(spec: PlacementSpec, name: str) -> PlacedCell | None:
    return next((cell for cell in spec.cells if cell.name == name), None)
