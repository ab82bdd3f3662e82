"""What it means to return a cell that an ended run isolated or retired.

Promises: pure. Isolated and Retired holds outlive their run on purpose, so nobody but a person releases them; what
speaks against it is told apart from what is good to know. Only what is recorded counts: data is called corrupted if
the cell's status says so now, or if a run was made for it and nothing has said since that it is intact.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recell.api import Cell
from recell.api.failure import DataIntegrity, Verdict
from recell.api.meta import find_condition, timestamp
from recell.api.placement import Hold, HoldState
from recell.api.router import CustomerData, OffHome
from recell.cli.fleet import Fleet, router_key
from recell.cli.foresight import CHOOSES
from recell.domain import placement
from recell.domain.health import DATA_INTACT, INTEGRITY


@dataclass(frozen=True)
class Meaning:
    against: tuple[str, ...] = ()
    """Why it is refused unless a person insists."""
    notes: tuple[str, ...] = ()


def meaning(fleet: Fleet, cell: Cell, holds: Sequence[Hold]) -> Meaning:
    """Of releasing these holds on the cell."""
    against, notes = _retired(fleet, cell, holds)
    found, told = integrity(fleet, cell, holds)
    if found is DataIntegrity.CORRUPTED:
        against.append(f"its data is known to be corrupted ({told}), and customers would be served corrupted data")
    elif found is DataIntegrity.UNKNOWN and _by_runs(holds, HoldState.ISOLATED):
        notes.append("nothing says whether its data is intact: look at it first")
    return Meaning(tuple(against), tuple(notes))


def _by_runs(holds: Sequence[Hold], *states: HoldState) -> list[Hold]:
    return [hold for hold in holds if hold.state in states and hold.holder.kind != placement.PERSON]


def _retired(fleet: Fleet, cell: Cell, holds: Sequence[Hold]) -> tuple[list[str], list[str]]:
    """Its customers may have another home."""
    successor, placed = fleet.successor(cell), fleet.placement(router_key(cell))
    if placed is None or (successor is None and not any(hold.state is HoldState.RETIRED for hold in holds)):
        return [], []
    name, notes = cell.metadata.name, []
    slots = len(placement.slots_of(placed.spec, name))
    if any(hold.state is HoldState.RETIRED for hold in holds):
        notes.append("workloads that were stopped when it was retired are not started by returning it")
    if slots:
        others = f"; those that {successor} has stay there" if successor else ""
        told = f"{slots} of {placed.spec.slots} slots still have their home in it and come back{others}"
        return [], [f"{told}: see recell customers {name}", *notes]
    now_at = f"its customers have their home in {successor} now" if successor else "it is the home of no customer"
    use = _other_use(fleet, cell)
    return [f"{now_at}: returning it brings none back{f', it could only {use}' if use else ''}"], notes


def _other_use(fleet: Fleet, cell: Cell) -> str:
    """What a cell without customers of its own can still get; empty: nothing."""
    router = fleet.router_of(cell)
    if router is None or not cell.spec.weight:
        return ""
    if router.spec.customer_data is CustomerData.SHARED:
        return "be sent customers of other cells"
    return "be sent reading requests of other cells' customers" if router.spec.off_home is OffHome.READ_ONLY else ""


def integrity(fleet: Fleet, cell: Cell, holds: Sequence[Hold]) -> tuple[DataIntegrity, str]:
    """What is known about the cell's data, and who said so."""
    told = find_condition(cell.status.conditions, DATA_INTACT)
    if told is not None and told.status in ("True", "False"):
        known = DataIntegrity.INTACT if told.status == "True" else DataIntegrity.CORRUPTED
        return known, f"condition {DATA_INTACT} is {told.status}: {told.message or told.reason}"
    failure = cell.status.failure
    if failure is not None and failure.data_integrity is not DataIntegrity.UNKNOWN:
        seen = next((e.message for e in failure.evidence if e.check == INTEGRITY and e.verdict is Verdict.FAILED), "")
        return failure.data_integrity, seen or f"data {failure.data_integrity} since {timestamp(failure.since)}"
    for hold in holds:
        if said := _found_by_run(fleet, cell, hold):
            return DataIntegrity.CORRUPTED, said
    return DataIntegrity.UNKNOWN, ""


def _found_by_run(fleet: Fleet, cell: Cell, hold: Hold) -> str:
    run = fleet.run((cell.metadata.namespace, hold.holder.name)) if hold.holder.kind != placement.PERSON else None
    decision = run.status.decision if run else None
    if run is None or decision is None:
        return ""
    inputs = decision.inputs
    corrupted = inputs.data_integrity is DataIntegrity.CORRUPTED if inputs else decision.strategy in CHOOSES
    if not corrupted:
        return ""
    since = run.status.started_at or run.metadata.creation_timestamp
    at = f" of {timestamp(since)}" if since else ""
    return f"run {run.metadata.name}{at} was about that, and nothing has said since that it is intact"
