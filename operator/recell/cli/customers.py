"""A cell's customers: whose home it is, who serves them now, and how far a run has come with them.

Promises: pure; the documented shape of `recell customers -o json`. Customers are counted by whoever moves them, never
here: what nobody told is absent.
"""

from collections import Counter

from pydantic import Field

from recell.api import Cell, RecoveryRun
from recell.api.cell import CellPhase
from recell.api.meta import Model, percent_text
from recell.api.placement import READ_ONLY, PlacementSpec, decode_table
from recell.cli.fleet import Fleet, router_key
from recell.cli.foresight import MAKES_A_CELL
from recell.cli.report import HoldReport, RunReport, hold_report, origin, run_report
from recell.cli.whereabouts import Access, access_of
from recell.domain import data, placement


class ServedReport(Model):
    """A part of the cell's customers that is served alike."""

    cell: str | None = None
    """Absent: nobody serves them."""
    access: Access
    slots: int
    share: str
    """Of all slots of the router."""
    pins: list[str] = Field(default_factory=list)


class CustomersReport(Model):
    namespace: str
    cell: str
    router: str
    phase: CellPhase | None = None
    customer_data: str | None = None
    origin: str | None = None
    successor: str | None = None
    slots: int | None = None
    """How many have their home here; absent: the router has no Placement."""
    of: int | None = None
    share: str | None = None
    ranges: str | None = None
    """The slots themselves: 0-511,700."""
    pins: list[str] = Field(default_factory=list)
    served: list[ServedReport] = Field(default_factory=list)
    holds: list[HoldReport] = Field(default_factory=list)
    run: RunReport | None = None
    """The newest that moves customers; absent: none did."""


def customers_report(fleet: Fleet, cell: Cell) -> CustomersReport:
    namespace, name = cell.key
    router, placed = fleet.router_of(cell), fleet.placement(router_key(cell))
    moving = next((run for run in fleet.runs_about(cell.key) if _moves(run)), None)
    report = CustomersReport(
        namespace=namespace,
        cell=name,
        router=cell.spec.router_ref.name,
        phase=cell.status.phase,
        customer_data=router.spec.customer_data if router else None,
        origin=origin(cell),
        successor=fleet.successor(cell),
        holds=[hold_report(fleet, namespace, hold) for hold in fleet.holds(cell)],
        run=run_report(moving) if moving else None,
    )
    return report.model_copy(update=_placed(placed.spec, name)) if placed else report


def _placed(spec: PlacementSpec, name: str) -> dict[str, object]:
    slots, index = placement.slots_of(spec, name), placement.index_of(spec, name)
    pins = [pin for pin in spec.pins if pin.home == index]
    table = decode_table(spec.serving)
    by_slot = Counter(table[slot] for slot in slots)
    names = {cell.index: cell.name for cell in spec.cells}
    served = [
        ServedReport(
            cell=None if access_of(value) is Access.REJECTED else names.get(value & ~READ_ONLY),
            access=access_of(value),
            slots=by_slot[value],
            share=percent_text(by_slot[value] / spec.slots),
            pins=[pin.customer for pin in pins if pin.serving == value],
        )
        for value in sorted({*by_slot, *(pin.serving for pin in pins)}, key=lambda v: (v != index, -by_slot[v], v))
    ]
    return {
        "slots": len(slots),
        "of": spec.slots,
        "share": percent_text(len(slots) / spec.slots),
        "ranges": data.ranges(slots),
        "pins": [pin.customer for pin in pins],
        "served": served,
    }


def _moves(run: RecoveryRun) -> bool:
    """Does the run's procedure move customers at all, and not only rehearse it?"""
    decision = run.status.decision
    return not run.spec.dry_run and decision is not None and decision.strategy in MAKES_A_CELL
