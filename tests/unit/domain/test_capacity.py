from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.failure import Verdict
from recell.api.placement import HoldState, PlacementSpec
from recell.api.router import CustomerData, OffHome
from recell.domain import placement
from recell.domain.capacity import Bearing, Load, can_bear
from recell.domain.observation import CellTraffic, RouterTraffic
from recell.domain.placement import Routing
from tests.unit.domain.builders import OTHER_RUN, RUN, candidate, cell_traffic, held, router_traffic, routing

SHARED = routing()
READING = routing(CustomerData.IN_CELL, OffHome.READ_ONLY)
REJECTING = routing(CustomerData.IN_CELL)
NAMES = ("cell-a", "cell-b", "cell-c")


def rate(per_second: float) -> CellTraffic:
    return cell_traffic(int(per_second * 10))


def load(a: float = 100, b: float = 100, c: float = 100) -> RouterTraffic:
    return router_traffic({name: rate(r) for name, r in zip(NAMES, (a, b, c), strict=True)})


def three(how: Routing = SHARED) -> PlacementSpec:
    return placement.initial(how, [candidate(name) for name in NAMES], epoch=1)


def bear(
    *,
    spec: PlacementSpec | None = None,
    how: Routing = SHARED,
    seen: RouterTraffic | None = None,
    before: Mapping[str, Load] | None = None,
    capacity: int | None = 200,
    drop_to: int = 50,
    mine: bool = True,
) -> Bearing:
    return can_bear(
        spec or three(how),
        how,
        seen,
        dict.fromkeys(NAMES, capacity),
        "cell-a",
        drop_to,
        0.2,
        before=before or {},
        holder=RUN if mine else None,
    )


def test_half_a_cell_onto_two_others() -> None:
    found = bear(seen=load())
    assert found.verdict == Verdict.PASSED
    assert found.reservations.keys() == {"cell-b", "cell-c"}
    assert 50 <= sum(found.reservations.values()) <= 52, "the half that leaves, rounded up for each"
    assert "of at most 160 requests/s" in found.message
    assert "(capacity less 20 % headroom)" in found.message


@pytest.mark.parametrize(
    ("capacity", "verdict"),
    [(250, Verdict.PASSED), (180, Verdict.FAILED), (None, Verdict.INCONCLUSIVE)],
)
def test_all_of_it(capacity: int | None, verdict: Verdict) -> None:
    found = bear(seen=load(), drop_to=0, capacity=capacity)
    assert found.verdict == verdict
    assert sum(found.reservations.values()) in (100, 101, 102)


def test_one_cell_that_is_too_small_is_named_with_its_numbers() -> None:
    found = bear(seen=load(b=159), drop_to=0)
    assert found.verdict == Verdict.FAILED
    assert found.message.startswith("too little room (capacity less 20 % headroom): cell-b would get 2")
    assert "cell-c" not in found.message


def test_missing_figures_are_inconclusive() -> None:
    assert bear(seen=None).verdict == Verdict.INCONCLUSIVE
    assert "no fresh figures" in bear(seen=None).message
    only_a = router_traffic({"cell-a": rate(100)})
    found = bear(seen=only_a)
    assert found.verdict == Verdict.INCONCLUSIVE
    assert "how many requests cell-b gets is not known" in found.message
    without = can_bear(three(), SHARED, load(), {"cell-b": 200}, "cell-a", 50, 0.2)
    assert without.verdict == Verdict.INCONCLUSIVE
    assert without.message == "cell-c has no spec.capacity.requestsPerSecond"


def test_too_small_for_sure_outweighs_what_is_missing() -> None:
    found = can_bear(three(), SHARED, load(), {"cell-b": 101}, "cell-a", 0, 0.2)
    assert found.verdict == Verdict.FAILED


def test_the_load_from_before_the_failure_counts_where_it_was_greater() -> None:
    now, slots = load(a=2), placement.served_slots(three())[0]
    assert bear(seen=now, drop_to=0).verdict == Verdict.PASSED
    found = bear(seen=now, before={"cell-a": Load(300, slots)}, drop_to=0)
    assert found.verdict == Verdict.FAILED
    assert sum(found.reservations.values()) in range(300, 303)
    assert "cell-a counted with the 300 requests/s from before it failed" in found.message
    least = bear(seen=load(a=300), before={"cell-a": Load(2, slots)}, drop_to=0)
    assert least.verdict == Verdict.FAILED
    assert "before it failed" not in least.message


def test_what_receivers_got_before_they_erred_counts_too() -> None:
    slots = placement.served_slots(three())[1]
    found = bear(seen=load(b=2), before={"cell-b": Load(159, slots)}, drop_to=0)
    assert found.verdict == Verdict.FAILED
    assert "cell-b would get 2" in found.message


def test_a_cell_that_is_half_drained_brings_half_of_what_it_got_before() -> None:
    half = placement.hold(three(), SHARED, held("cell-a", 50))
    found = bear(spec=half, seen=load(a=1), before={"cell-a": Load(300, placement.served_slots(three())[0])}, drop_to=0)
    assert sum(found.reservations.values()) in range(149, 154)


def test_without_fresh_figures_what_was_before_is_not_enough() -> None:
    slots = placement.served_slots(three())[0]
    assert bear(seen=None, before={name: Load(10, slots) for name in NAMES}).verdict == Verdict.INCONCLUSIVE


def test_two_runs_and_room_for_one() -> None:
    """Rule 17: what the first run was promised is not there for the second."""
    first = bear(seen=load(), capacity=200)
    assert first.verdict == Verdict.PASSED
    reserved = placement.reserve(three(), OTHER_RUN, first.reservations)
    second = can_bear(reserved, SHARED, load(), dict.fromkeys(NAMES, 180), "cell-a", 50, 0.2, holder=RUN)
    assert second.verdict == Verdict.FAILED
    alone = can_bear(three(), SHARED, load(), dict.fromkeys(NAMES, 180), "cell-a", 50, 0.2, holder=RUN)
    assert alone.verdict == Verdict.PASSED
    own = placement.reserve(three(), RUN, first.reservations)
    again = can_bear(own, SHARED, load(), dict.fromkeys(NAMES, 180), "cell-a", 50, 0.2, holder=RUN)
    assert again.verdict == Verdict.PASSED, "asked again after a crash, a run does not stand in its own way"


@pytest.mark.parametrize("how", [SHARED, READING])
def test_nobody_else_can_take_them(how: Routing) -> None:
    spec = three(how)
    for name in ("cell-b", "cell-c"):
        spec = placement.hold(spec, how, held(name, 0, HoldState.ISOLATED, OTHER_RUN))
    found = bear(spec=spec, how=how, seen=load())
    assert (found.verdict, found.message) == (Verdict.FAILED, "no other cell can take customers of cell-a")


def test_rejected_customers_are_borne_by_nobody() -> None:
    found = bear(how=REJECTING, seen=None, drop_to=0)
    assert found.verdict == Verdict.PASSED
    assert not found.reservations
    assert bear(how=READING, seen=load(), drop_to=0).reservations.keys() == {"cell-b", "cell-c"}


def test_a_cell_that_is_drained_already_moves_nobody() -> None:
    spec = placement.hold(three(), SHARED, held("cell-a", 20, holder=OTHER_RUN))
    found = bear(spec=spec, seen=None)
    assert found.verdict == Verdict.PASSED
    assert "moves no request" in found.message


@given(st.integers(0, 100), st.floats(0, 1000), st.integers(1, 2000), st.sampled_from([SHARED, READING, REJECTING]))
def test_passing_means_that_the_drained_table_fits(drop_to: int, of_a: float, capacity: int, how: Routing) -> None:
    seen = load(a=of_a)
    found = bear(how=how, seen=seen, drop_to=drop_to, capacity=capacity)
    after = placement.hold(three(how), how, held("cell-a", drop_to))
    gained = {name: placement.expected_share(after, name) - 1 / 3 for name in ("cell-b", "cell-c")}
    if how is REJECTING or drop_to == 100:
        assert found.verdict == Verdict.PASSED
        return
    left = seen.cells["cell-a"].requests_per_second
    fits = all(100 + 3 * gain * left <= capacity * 0.8 + left / 100 for gain in gained.values())
    assert fits or found.verdict == Verdict.FAILED
