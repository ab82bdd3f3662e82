"""`onUnhealthy: Shift`: traffic leaves failed cells by health alone, without a run.

Promises: pure. A failed cell is held at 0 from when it failed until it is healthy. While the cause is likely shared
(rule 10) no such hold stands, not even one from when few had failed: everybody is served at home, for the cells that
are left would not bear the customers of the most. When fewer fail, the failed ones are held again; the dwells of health
keep that from going back and forth.

Must not: touch a hold of anybody else.
"""

from collections.abc import Mapping
from datetime import datetime

from recell.api import Cell
from recell.api.placement import Hold, Holder, HoldState, PlacementSpec
from recell.domain import failure, placement
from recell.domain.health import HealthState, Level
from recell.domain.placement import Routing


def obstacle(
    spec: PlacementSpec, cells: Mapping[str, Cell], states: Mapping[str, HealthState], broken: tuple[str, ...]
) -> str:
    """Why nobody may be shifted although cells failed; empty when nothing is in the way.

    `states` are those of the cells whose health is known, `broken` are dependencies that do not answer.
    """
    counted = placement.members(cells, spec)
    return failure.systemic({name: state for name, state in states.items() if name in counted}, spec, broken)


def shifted(
    spec: PlacementSpec,
    routing: Routing,
    cells: Mapping[str, Cell],
    states: Mapping[str, HealthState],
    broken: tuple[str, ...],
    *,
    holder: Holder,
    now: datetime,
) -> PlacementSpec:
    """The holder's holds are those of Shift: on every failed cell and on no healthy one, or on none at all."""
    if obstacle(spec, cells, states, broken):
        return placement.release(spec, routing, holder=holder)
    for name, state in states.items():
        if state.level is Level.FAILED:
            reason = "failed, and the Router says onUnhealthy: Shift"
            wanted = Hold(
                cell=name, max_percent=0, state=HoldState.DRAINING, holder=holder, reason=reason,
                since=now.replace(microsecond=0),
            )  # fmt: skip
            spec = placement.hold(spec, routing, wanted)
        elif state.level is Level.HEALTHY:
            spec = placement.release(spec, routing, holder=holder, cell=name)
    return spec
