"""The fallback's table: which cells stand behind it, in which order, and which of them get nothing now.

Promises: pure. With shared data a customer's bucket is the first four bytes of MD5 of the customer key, modulo the
number of cells; with data in the cells it is that of the customer's home, so that nobody is sent to a cell that does
not have the customer's data. While the fallback serves, order and count are what they were when it began to: a cell
that is taken out gives away its own bucket and moves no other (rule 15).

Must not: name a cell that is not admitted, or let one that is isolated, retired or drained to nothing serve.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol, TypeVar

from recell.api.cell import Cell
from recell.api.failure import Impact
from recell.api.fallback import SwitchType
from recell.api.placement import (
    REJECT,
    FallbackRouting,
    Holder,
    PlacedCell,
    PlacementMode,
    PlacementSpec,
    decode_table,
    encode_table,
)
from recell.api.router import CustomerData, Router
from recell.domain import placement
from recell.domain.observation import FallbackState
from recell.domain.placement import Routing, slot_of


class Way(Protocol):
    """What sends customers to the fallback or to the router itself."""

    @property
    def type(self) -> SwitchType: ...


@dataclass(frozen=True)
class Entry:
    """A cell of the table; its place in the order is its bucket."""

    name: str
    address: str
    port: int
    check: str = ""
    """Path that tells whether it is well; empty: whether it takes connections."""
    out: bool = False


@dataclass(frozen=True)
class Table:
    entries: tuple[Entry, ...]
    homes: str | None = None
    """Data is in the cells: for each slot the bucket of its home, as tables in Placement are written."""
    pins: tuple[tuple[str, int], ...] = ()
    """With homes: customers with a home of their own choice, and its bucket."""

    @property
    def order(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)

    @property
    def id(self) -> str:
        """The same for the same table, in every process."""
        return hashlib.sha256(json.dumps(self._content(), sort_keys=True).encode()).hexdigest()[:10]

    def document(self) -> dict[str, Any]:
        """As the fallback's pods read it."""
        return {"id": self.id, **self._content()}

    def _content(self) -> dict[str, Any]:
        cells = [
            {"name": e.name, "address": e.address, "port": e.port, "check": e.check, "out": e.out} for e in self.entries
        ]
        homes = None if self.homes is None else {"table": self.homes, "pins": dict(self.pins)}
        return {"cells": cells, "homes": homes}

    def cell_of(self, customer: str) -> str | None:
        """Who serves the customer while every cell that is not out is well; None: nobody."""
        bucket = self._bucket(customer)
        if bucket is None:
            return None
        ring = [*self.entries[bucket:], *self.entries[:bucket]]
        if self.homes is not None:
            ring = ring[:1]
        return next((entry.name for entry in ring if not entry.out), None)

    def _bucket(self, customer: str) -> int | None:
        if self.homes is None:
            return slot_of(customer, len(self.entries))
        table = decode_table(self.homes)
        found = dict(self.pins).get(customer, table[slot_of(customer, len(table))])
        return None if found == REJECT else found


def table_of(
    spec: PlacementSpec, routing: Routing, cells: Mapping[str, Cell], failed: Collection[str], known: Sequence[str]
) -> Table | None:
    """The table that the fallback should have. None: no cell could stand behind it.

    While the fallback serves, the order is the frozen one; otherwise that of the cells that are in service. `failed`
    are cells that are down: they are left out of the order, unless they are more than half of all (rule 10) or their
    customers' data is in them. `known` is the order that the fallback's pods have: cells that stay keep their places,
    so that a cell which comes or goes changes the table once.
    """
    if spec.mode is PlacementMode.FALLBACK and spec.fallback is not None:
        return _rendered(spec, routing, cells, spec.fallback.order)
    serving = [cell.name for cell in spec.cells if _in_service(spec, cell)]
    if routing.shared:
        well = [name for name in serving if name not in failed]
        if 2 * len(well) >= len(serving):
            serving = well
    if not serving:
        return None
    return _rendered(spec, routing, cells, _kept(serving, known))


def _kept(serving: Sequence[str], known: Sequence[str]) -> list[str]:
    stay = [name for name in known if name in set(serving)]
    return [*stay, *(name for name in serving if name not in set(stay))]


def _in_service(spec: PlacementSpec, cell: PlacedCell) -> bool:
    there = cell.weight > 0 or placement.has_customers(spec, cell.name)
    return there and placement.limit(spec, cell.name) > 0


def _rendered(spec: PlacementSpec, routing: Routing, cells: Mapping[str, Cell], order: Sequence[str]) -> Table | None:
    listed = {cell.name: cell for cell in spec.cells}
    entries = []
    for name in order:
        placed, cell = listed.get(name), cells.get(name)
        probe = cell.spec.health.probe if cell is not None else None
        entries.append(
            Entry(
                name=name,
                address=placed.address if placed else NOWHERE,
                port=placed.port if placed else 80,
                check=probe.path if probe is not None and probe.scheme.value == "HTTP" and _plain(probe.path) else "",
                out=placed is None or placement.limit(spec, name) == 0,
            )
        )
    if all(entry.out for entry in entries):
        return None
    if routing.shared:
        return Table(tuple(entries))
    position = {listed[name].index: number for number, name in enumerate(order) if name in listed}
    homes = encode_table([position.get(home, REJECT) for home in decode_table(spec.homes)])
    pins = tuple((pin.customer, position.get(pin.home, REJECT)) for pin in spec.pins)
    return Table(tuple(entries), homes, pins)


NOWHERE = "192.0.2.1"
"""Address of a cell that is gone (TEST-NET-1); it is out, so nobody connects to it."""


def _plain(path: str) -> bool:
    """A path that stands in HAProxy's configuration as it is."""
    return all("!" <= c <= "~" and c not in "\"'\\#" for c in path)


def activate(
    spec: PlacementSpec, order: Sequence[str], holder: Holder, now: datetime, *, dual_routing: bool = False
) -> PlacementSpec:
    """Customers go through the fallback, with this order frozen. One that is active already keeps its order."""
    if spec.mode is PlacementMode.FALLBACK and spec.fallback is not None:
        kept = spec.fallback.model_copy(update={"dual_routing": spec.fallback.dual_routing or dual_routing})
        return spec.model_copy(update={"fallback": kept})
    frozen = FallbackRouting(
        order=list(order), holder=holder, since=now.replace(microsecond=0), dual_routing=dual_routing
    )
    return spec.model_copy(update={"mode": PlacementMode.FALLBACK, "fallback": frozen})


def fenced(spec: PlacementSpec, *, dual_routing: bool) -> PlacementSpec:
    """What is known by now of whether the router itself still serves somebody."""
    if spec.fallback is None or spec.fallback.dual_routing == dual_routing:
        return spec
    return spec.model_copy(update={"fallback": spec.fallback.model_copy(update={"dual_routing": dual_routing})})


def deactivate(spec: PlacementSpec) -> PlacementSpec:
    """Customers go through the router itself."""
    if spec.mode is PlacementMode.PRIMARY and spec.fallback is None:
        return spec
    return spec.model_copy(update={"mode": PlacementMode.PRIMARY, "fallback": None})


Means = TypeVar("Means", bound=Way)


def in_order(router: Router, switches: Iterable[Means]) -> list[Means]:
    """Those that the Router names, as it orders them."""
    ways = router.spec.fallback.ways if router.spec.fallback is not None else ()
    return sorted((switch for switch in switches if switch.type in ways), key=lambda switch: ways.index(switch.type))


def on_the_way(router: Router, switches: Iterable[Means]) -> list[Means]:
    """Those that customers pass: what the Router names, and its Service whether it is named or not."""
    switches = tuple(switches)
    named = in_order(router, switches)
    return [*named, *(s for s in switches if s.type is SwitchType.SERVICE and s not in named)]


def side(sides: Iterable[PlacementMode | None]) -> PlacementMode | None:
    """Whom customers reach, by what all of their switches say: each of them is on their way, so one is enough to lead
    to the fallback. None: not known."""
    said = list(sides)
    if PlacementMode.FALLBACK in said:
        return PlacementMode.FALLBACK
    return PlacementMode.PRIMARY if said and None not in said else None


def unavailable(router: Router, state: FallbackState | None, impact: Impact | None) -> str:
    """Why the matrix may not choose it (rule 15); empty: it may."""
    if not router.spec.has_fallback:
        return f"needs a fallback: set spec.fallback of Router {router.metadata.name}"
    if reason := reserved(router, impact):
        return reason
    why = state.obstacle if state is not None else "it was not made yet"
    return f"has no fallback to use: {why}" if why else ""


def reserved(router: Router, impact: Impact | None) -> str:
    """Why a failure of this impact does not get it, where data is in the cells; empty: it may."""
    if router.spec.customer_data is CustomerData.IN_CELL and impact not in (None, Impact.CRITICAL):
        return "is for Critical impact only where customers' data is in the cells"
    return ""


def samples(table: Table, each: int, most: int) -> list[tuple[str, str]]:
    """Customers that nobody has, with the cell that each has to land at: so many for each cell, at most `most`."""
    wanted = [entry.name for entry in table.entries if not entry.out]
    found: dict[str, list[str]] = {name: [] for name in wanted[: max(1, most // max(1, each))]}
    for number in range(200 * len(table.entries)):
        if all(len(customers) >= each for customers in found.values()):
            break
        customer = f"recell-probe-{number}"
        cell = table.cell_of(customer)
        if cell in found and len(found[cell]) < each:
            found[cell].append(customer)
    return [(customer, cell) for cell, customers in found.items() for customer in customers]
