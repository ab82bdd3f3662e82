"""Where a customer is: slot, home, who serves now, and why. The documented shape of `recell where -o json`.

Promises: pure; read from the Placement with the operator's own functions, so that it says what the router does once it
has applied it. What an ended run could not move is named.
"""

from enum import StrEnum

from pydantic import Field

from recell.api import Cell, Placement, RecoveryRun, Router
from recell.api.cell import CellPhase
from recell.api.meta import Model, find_condition, is_true, percent_text
from recell.api.placement import READ_ONLY, REJECT, Hold, HoldState, PlacementSpec, decode_table
from recell.api.router import Capability, CustomerData, KeySource, OffHome
from recell.cli.fleet import Fleet, Key
from recell.cli.report import HoldReport, hold_report
from recell.cli.results import failed_slots
from recell.domain import data, fallback, placement
from recell.domain.capabilities import capabilities
from recell.domain.placement import slot_of


class Access(StrEnum):
    FULL = "Full"
    READ_ONLY = "ReadOnly"
    """Another cell serves, reading requests only."""
    REJECTED = "Rejected"
    """503 with Retry-After."""


class Cause(StrEnum):
    """Why a customer is where it is."""

    PIN = "Pin"
    SUCCESSOR = "Successor"
    HOLD = "Hold"
    OFF_HOME = "OffHome"
    QUARANTINE = "Quarantine"
    NO_HOME = "NoHome"
    NO_CELL = "NoCell"
    NOT_MOVED = "NotMoved"
    NOT_APPLIED = "NotApplied"
    FALLBACK = "Fallback"


class Reason(Model):
    cause: Cause
    message: str


class WhereReport(Model):
    """One customer at one router."""

    namespace: str
    router: str
    key: str
    """The customer key as the router reads it."""
    slot: int | None = None
    slots: int | None = None
    pinned: bool = False
    home: str | None = None
    """Absent: no cell has this customer's data."""
    home_phase: CellPhase | None = None
    cell: str | None = None
    """Who serves now; absent: nobody."""
    access: Access | None = None
    """Absent: the router has no Placement."""
    why: list[Reason] = Field(default_factory=list)
    holds: list[HoldReport] = Field(default_factory=list)
    """Those on the home cell."""
    anywhere: dict[str, str] | None = None
    """Set where the router knows no customers: each request goes to one of these cells, with these shares."""


def key_of(router: Router, customer: str) -> str:
    """The key as the router takes it from a request."""
    block = router.spec.haproxy
    source = block.customer_key.type if block else None
    if source is KeySource.HOST:
        return customer.partition(":")[0].lower()
    return customer.strip() if source is KeySource.HEADER else customer


def where_report(fleet: Fleet, key: Key, customer: str) -> WhereReport:
    """The router has to be in the fleet."""
    router, placed = fleet.router(key), fleet.placement(key)
    assert router is not None
    found = WhereReport(namespace=key[0], router=key[1], key=key_of(router, customer))
    if placed is None:
        return found
    if Capability.STICKY_CUSTOMERS not in capabilities(router):
        shares = placement.shares(placed.spec)
        return found.model_copy(
            update={"anywhere": {name: percent_text(part) for name, part in shares.items() if part}}
        )
    return _Look(fleet, router, placed, found.key).report(found)


class _Look:
    def __init__(self, fleet: Fleet, router: Router, placed: Placement, customer: str) -> None:
        self._fleet, self._router, self._customer = fleet, router, customer
        self._spec = placed.spec
        self._names = {cell.index: cell.name for cell in self._spec.cells}
        self._slot = slot_of(customer, self._spec.slots)
        self._pin = next((pin for pin in self._spec.pins if pin.customer == customer), None)
        home = self._pin.home if self._pin else decode_table(self._spec.homes)[self._slot]
        self._serving = self._pin.serving if self._pin else decode_table(self._spec.serving)[self._slot]
        self._home = self._names.get(home)

    def report(self, found: WhereReport) -> WhereReport:
        home = self._fleet.cell((found.namespace, self._home)) if self._home else None
        access = access_of(self._serving)
        if self._spec.fallback is not None:
            return self._behind_fallback(found, home)
        cell = None if access is Access.REJECTED else self._names.get(self._serving & ~READ_ONLY)
        why = [*self._pinned(), *self._replaced(), *self._moved_away(access), *self._unmoved(), *self._lag()]
        return self._told(found, home, cell, access, why)

    def _behind_fallback(self, found: WhereReport, home: Cell | None) -> WhereReport:
        """While the fallback serves, its own table counts, and no other."""
        cells = {cell.metadata.name: cell for cell in self._fleet.cells_of(self._router.key)}
        table = fallback.table_of(self._spec, placement.Routing.of(self._router), cells, (), ())
        cell = table.cell_of(self._customer) if table is not None else None
        if self._router.spec.customer_data is CustomerData.SHARED:
            how = "the fallback serves: MD5 of the key, modulo the cells behind it; if that cell is down, the next one"
        else:
            how = "the fallback serves: every customer at home, or nowhere"
        access = Access.FULL if cell else Access.REJECTED
        return self._told(found, home, cell, access, [Reason(cause=Cause.FALLBACK, message=how)])

    def _told(
        self, found: WhereReport, home: Cell | None, cell: str | None, access: Access, why: list[Reason]
    ) -> WhereReport:
        return found.model_copy(
            update={
                "slot": self._slot,
                "slots": self._spec.slots,
                "pinned": self._pin is not None,
                "home": self._home,
                "home_phase": home.status.phase if home else None,
                "cell": cell,
                "access": access,
                "why": why,
                "holds": [hold_report(self._fleet, found.namespace, hold) for hold in self._holds()],
            }
        )

    def _holds(self) -> list[Hold]:
        """The strictest first."""
        mine = [hold for hold in self._spec.holds if hold.cell == self._home]
        return sorted(mine, key=lambda hold: hold.max_percent)

    def _pinned(self) -> list[Reason]:
        if self._pin is None:
            return []
        block = self._router.spec.haproxy
        named = next((pin.cell for pin in block.pins if pin.customer == self._customer), None) if block else None
        text = f"pinned to {named or self._home} (spec.haproxy.pins of the router), whatever its slot is"
        if named and self._home and named != self._home:
            text += f"; {named} was replaced by {self._home}, and its pins followed"
        return [Reason(cause=Cause.PIN, message=text)]

    def _replaced(self) -> list[Reason]:
        before = [s.cell for s in self._spec.successors if s.successor == self._home]
        if not before:
            return []
        return [Reason(cause=Cause.SUCCESSOR, message=f"{self._home} took the place of {', '.join(before)}")]

    def _moved_away(self, access: Access) -> list[Reason]:
        if self._home is None:
            if access is Access.REJECTED:
                return [Reason(cause=Cause.NO_HOME, message="no cell has this customer's data: its home was removed")]
            return [Reason(cause=Cause.NO_HOME, message="its home was removed, and the cells share their data")]
        if access is Access.REJECTED and self._pin is None and self._slot in placement.quarantined(self._spec):
            told = "its slot is quarantined: its cell failed, and so did the one that took it over"
            return [Reason(cause=Cause.QUARANTINE, message=f"{told}; give it back with recell return {self._home}")]
        if access is Access.FULL and self._names.get(self._serving) == self._home:
            kept = placement.limit(self._spec, self._home)
            if kept == 100:
                return []
            return [Reason(cause=Cause.HOLD, message=_stays(self._spec, self._home, kept))]
        held = Reason(cause=Cause.HOLD, message=self._held())
        return [held, self._off_home(access)]

    def _held(self) -> str:
        strictest = next(iter(self._holds()), None)
        if strictest is None:
            return f"{self._home} is not held"
        return f"{self._home} is kept at {strictest.max_percent}% of its customers ({strictest.state})"

    def _off_home(self, access: Access) -> Reason:
        if any(hold.state is HoldState.QUARANTINED for hold in self._holds()) and access is Access.REJECTED:
            return Reason(cause=Cause.OFF_HOME, message="it is quarantined: its customers are sent nowhere")
        if self._router.spec.customer_data is CustomerData.SHARED:
            if access is Access.REJECTED:
                return Reason(cause=Cause.NO_CELL, message="no other cell may take customers now")
            return Reason(cause=Cause.OFF_HOME, message="the cells share their data, so any of them can serve")
        if access is Access.READ_ONLY:
            return Reason(
                cause=Cause.OFF_HOME,
                message="the router serves such customers elsewhere for reading (offHome: ReadOnly)",
            )
        if self._router.spec.off_home is OffHome.READ_ONLY:
            return Reason(cause=Cause.NO_CELL, message="no other cell may take customers now, not even for reading")
        return Reason(
            cause=Cause.OFF_HOME,
            message="no other cell has their data, so they get 503 until it is back (offHome: Reject)",
        )

    def _unmoved(self) -> list[Reason]:
        """What runs about the home say of this very customer or of its slot."""
        if self._home is None:
            return []
        runs = self._fleet.runs_about((self._router.metadata.namespace, self._home))
        later = placement.successor(self._spec, self._home)
        told = next(filter(None, map(self._failed, runs)), "")
        if not told and later != self._home:
            told = f"{self._home} was replaced by {later}, but this customer's home was not moved there"
        return [Reason(cause=Cause.NOT_MOVED, message=told)] if told else []

    def _failed(self, run: RecoveryRun) -> str:
        counts = run.status.result.customers if run.status.result else None
        if counts is not None and self._customer in counts.failed_names:
            return f"run {run.metadata.name} could not move this customer"
        stayed = self._pin is None and run.spec.target_ref.name == self._home
        if stayed and self._slot in _slots(failed_slots(run)):
            return f"run {run.metadata.name} could not move every customer of slot {self._slot}: the slot stayed"
        return ""

    def _lag(self) -> list[Reason]:
        conditions = self._router.status.conditions
        programmed = find_condition(conditions, "Programmed")
        if is_true(conditions, "PlacementStale") or (programmed is not None and programmed.status != "True"):
            return [Reason(cause=Cause.NOT_APPLIED, message="the router's pods have not all applied this yet")]
        return []


def access_of(serving: int) -> Access:
    """What an entry of the serving table means."""
    if serving == REJECT:
        return Access.REJECTED
    return Access.READ_ONLY if serving & READ_ONLY else Access.FULL


def _stays(spec: PlacementSpec, home: str, kept: int) -> str:
    share, whole = placement.share(spec, home), placement.home_share(spec, home)
    if share >= whole:
        return f"{home} is kept at {kept}%, but no other cell may take customers now, so all stay"
    return f"{home} is kept at {kept}% of its customers ({percent_text(share)} of all), this one among them"


def _slots(ranges: str) -> tuple[int, ...]:
    try:
        return data.from_ranges(ranges)
    except ValueError:  # a record that somebody changed says nothing
        return ()
