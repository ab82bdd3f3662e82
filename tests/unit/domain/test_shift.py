"""Who is served away from failed cells by health alone, and when nobody is."""

import pytest

from recell.api.meta import LABEL_MADE_BY
from recell.api.placement import Holder, HoldState, PlacementSpec
from recell.domain import placement
from recell.domain.health import HealthState, Level
from recell.domain.shift import obstacle, shifted
from tests.unit.domain.builders import NOW, RUN, candidate, cell, health, held, later, routing

ROUTER = Holder(kind="Router", name="shop", uid="uid-shop")
LEVELS = {"F": Level.FAILED, "H": Level.HEALTHY, "D": Level.DEGRADED, "U": Level.UNKNOWN}


def states_of(levels: str) -> dict[str, HealthState]:
    """`FH`: cell-a failed, cell-b healthy; `-`: nothing is known."""
    return {f"cell-{n}": health(LEVELS[x], NOW) for n, x in zip("abcdefgh", levels, strict=False) if x != "-"}


def table(count: int) -> PlacementSpec:
    return placement.initial(routing(), [candidate(f"cell-{n}") for n in "abcdefgh"[:count]], epoch=1)


def shift(spec: PlacementSpec, levels: str, *, broken: tuple[str, ...] = (), at: float = 0) -> PlacementSpec:
    cells = {placed.name: cell(placed.name) for placed in spec.cells}
    return shifted(spec, routing(), cells, states_of(levels), broken, holder=ROUTER, now=later(at))


def out(spec: PlacementSpec) -> str:
    """Of whom nobody is served where they are at home."""
    return "".join(placed.name[-1] for placed in spec.cells if placement.share(spec, placed.name) == 0)


@pytest.mark.parametrize(
    ("levels", "away"),
    [
        ("FH", "a"),  # half is not more than half
        ("FHH", "a"),
        ("FFH", ""),
        ("FFHH", "ab"),
        ("FFFHH", ""),
        ("FFF", ""),
        ("FDDD", "a"),  # whoever is degraded still serves
        ("FFUH", "ab"),  # unknown is not failed
        ("HHH", ""),
    ],
)
def test_most_cells_are_never_left_for_the_few(levels: str, away: str) -> None:
    spec = shift(table(len(levels)), levels)
    assert out(spec) == away
    assert len(spec.holds) == len(away)


def test_when_more_fail_those_who_were_shifted_are_at_home_again() -> None:
    whole = table(3)
    few = shift(whole, "FHH")
    assert out(few) == "a"
    most = shift(few, "FFH", at=60)
    assert most.holds == []
    assert most.serving == whole.serving
    assert shift(most, "FFF", at=90) == most
    assert out(shift(most, "FHH", at=120)) == "a"


def test_a_cause_that_all_share_moves_nobody_however_few_failed() -> None:
    few = shift(table(3), "FHH")
    assert shift(few, "FHH", broken=("payments",)).holds == []
    assert "payments" in obstacle(few, {n: cell(n) for n in ("cell-a", "cell-b")}, states_of("FH"), ("payments",))


def test_a_hold_stands_until_its_cell_is_healthy() -> None:
    spec = shift(table(3), "FHH")
    for levels in ("DHH", "UHH", "-HH"):
        assert out(shift(spec, levels, at=10)) == "a"
    assert shift(spec, "FHH", at=10) == spec, "since when it is held is kept"
    assert out(shift(spec, "HHH", at=10)) == ""


def test_what_others_hold_is_left_alone() -> None:
    drained = placement.hold(table(3), routing(), held("cell-a", 50))
    isolated = placement.hold(drained, routing(), held("cell-b", 0, HoldState.ISOLATED))
    assert [h for h in shift(isolated, "HFF").holds if h.holder == RUN] == isolated.holds
    assert shift(isolated, "FHF").holds == isolated.holds, "two of the two that are in service failed"


def test_a_made_cell_without_customers_makes_no_failure_few() -> None:
    spec = placement.admit(table(3), routing(), candidate("cell-d", weight=0))
    cells = {placed.name: cell(placed.name) for placed in spec.cells}
    cells["cell-d"] = cell("cell-d", metadata={"labels": {LABEL_MADE_BY: "recell"}})
    assert obstacle(spec, cells, states_of("FFHH"), ()) == "2 of 3 cells failed at once (cell-a and cell-b)"
