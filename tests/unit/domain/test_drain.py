import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.failure import Evidence, Vantage, Verdict
from recell.api.placement import HoldState
from recell.api.router import CustomerData, OffHome, Verification
from recell.domain import placement
from recell.domain.drain import drain_at_once, published, verify, worth_draining
from recell.domain.observation import RouterTraffic
from recell.domain.placement import Routing
from tests.unit.domain.builders import ANNA, NOW, candidate, cell_traffic, held, later, router_traffic, routing

SHARED = routing()
READING = routing(CustomerData.IN_CELL, OffHome.READ_ONLY)
REJECTING = routing(CustomerData.IN_CELL)


def seen(mine: int, others: int, *, in_flight: int = 0, since: float = 0) -> RouterTraffic:
    """Requests in 10 s."""
    cells = {"cell-a": cell_traffic(mine, in_flight=in_flight), "cell-b": cell_traffic(others)}
    return router_traffic(cells, since=later(since))


def checked(
    observed: RouterTraffic | None,
    *,
    before: float = 1 / 3,
    after: float = 1 / 6,
    baseline: float | None = None,
    tolerance: float = 0.2,
    floor: float = 1,
    baseline_requests: int = 100_000,
) -> Evidence:
    return verify(
        "cell-a",
        expected_before=before,
        expected_after=after,
        observed=observed,
        tolerance=tolerance,
        floor=floor,
        changed_at=NOW,
        baseline=baseline,
        baseline_requests=baseline_requests,
    )


@pytest.mark.parametrize(
    ("mine", "verdict"),
    [
        (0, Verdict.PASSED),
        (16_667, Verdict.PASSED),  # as expected
        (20_000, Verdict.PASSED),  # 1.2 x
        (20_001, Verdict.INCONCLUSIVE),  # 1.2 x and a bit that may be chance: three standard errors are 0.38 %
        (20_379, Verdict.INCONCLUSIVE),
        (20_380, Verdict.FAILED),
        (33_333, Verdict.FAILED),  # nothing left
    ],
)
def test_the_runbooks_factor(mine: int, verdict: Verdict) -> None:
    found = checked(seen(mine, 100_000 - mine))
    assert found.verdict == verdict
    assert (found.check, found.vantage) == ("drained", Vantage.ROUTER)


def test_what_was_seen_expected_and_allowed_is_said() -> None:
    assert checked(seen(30_000, 70_000)).message == (
        "cell-a gets 30 % of 10000 requests/s, expected 16.7 %, allowed 20 % (1.2 x)"
    )
    assert checked(seen(24, 76)).message.endswith("100 requests are too few to tell this from chance")


def test_few_requests_are_no_proof_but_many_are() -> None:
    assert checked(seen(31, 69)).verdict == Verdict.INCONCLUSIVE
    assert checked(seen(33, 67)).verdict == Verdict.FAILED
    assert checked(seen(2600, 7400)).verdict == Verdict.FAILED


@pytest.mark.parametrize(
    ("observed", "message"),
    [
        (None, "no fresh figures"),
        (seen(1, 1, since=-0.001), "began before the change"),
        (router_traffic({"cell-b": cell_traffic()}), "tells no figures about cell-a"),
    ],
)
def test_missing_figures_are_inconclusive(observed: RouterTraffic | None, message: str) -> None:
    found = checked(observed)
    assert found.verdict == Verdict.INCONCLUSIVE
    assert message in found.message


def test_a_window_that_begins_with_the_change_is_after_it() -> None:
    assert checked(seen(0, 1000, since=0)).verdict == Verdict.PASSED


def test_the_floor_is_never_held_against_a_drain() -> None:
    assert checked(seen(10, 0)).verdict == Verdict.PASSED
    assert checked(seen(11, 0)).verdict == Verdict.FAILED
    assert checked(seen(50, 50), floor=5).verdict == Verdict.PASSED
    assert checked(seen(0, 0)).verdict == Verdict.PASSED, "a fresh zero is a figure"


def test_drained_wholly_means_nothing_in_flight_either() -> None:
    assert checked(seen(0, 1000), after=0).verdict == Verdict.PASSED
    found = checked(seen(0, 1000, in_flight=3), after=0)
    assert found.verdict == Verdict.FAILED
    assert "3 requests are still in flight" in found.message
    assert checked(seen(0, 1000, in_flight=3)).verdict == Verdict.PASSED
    assert checked(seen(20, 980), after=0).verdict == Verdict.FAILED


def test_slots_that_weigh_more_are_expected_to() -> None:
    heavy = seen(30_000, 70_000)
    assert checked(heavy).verdict == Verdict.FAILED
    assert checked(heavy, baseline=0.6).verdict == Verdict.PASSED
    assert checked(seen(15_000, 85_000), baseline=0.1).verdict == Verdict.FAILED
    assert checked(heavy, before=0, baseline=0.6).verdict == Verdict.FAILED


def test_a_baseline_of_few_requests_is_a_guess_too() -> None:
    """A third of the slots got 30 % of 90 requests: they may simply weigh more than they seemed to."""
    seldom = seen(32, 58)
    asked = {"before": 1 / 3, "after": 0.7 / 3, "baseline": 0.3}
    assert checked(seldom, **asked).verdict == Verdict.INCONCLUSIVE
    assert checked(seen(38, 52), **asked, baseline_requests=90).verdict == Verdict.INCONCLUSIVE
    assert checked(seen(38, 52), **asked).verdict == Verdict.FAILED
    assert checked(seen(38_000, 52_000), **asked, baseline_requests=90).verdict == Verdict.FAILED


@given(st.integers(0, 10_000), st.integers(0, 10_000), st.floats(0, 1), st.none() | st.floats(0, 1))
def test_more_traffic_at_the_cell_never_reads_better(
    mine: int, others: int, after: float, baseline: float | None
) -> None:
    order = [Verdict.PASSED, Verdict.INCONCLUSIVE, Verdict.FAILED]
    total = mine + others
    verdicts = [
        checked(seen(part, total - part), after=after, baseline=baseline).verdict for part in (0, mine // 2, mine)
    ]
    ranks = [order.index(verdict) for verdict in verdicts]
    assert ranks == sorted(ranks)


def test_where_nothing_is_counted_a_change_counts_once_it_had_its_time() -> None:
    early = published("cell-a", Verification.RESOLVED, in_force_for=4, settle=10)
    assert (early.verdict, early.message) == (
        Verdict.INCONCLUSIVE,
        "in force for 4 of the 10 s that requests are given to follow",
    )
    late = published("cell-a", Verification.RESOLVED, in_force_for=10, settle=10)
    assert late.verdict is Verdict.PASSED
    assert "this router counts no traffic" in late.message


# --- rule 14


def three(how: Routing) -> placement.PlacementSpec:
    return placement.initial(how, [candidate(name) for name in ("cell-a", "cell-b", "cell-c")], epoch=1)


@pytest.mark.parametrize(
    ("how", "to", "failing", "worth"),
    [
        (SHARED, 50, 0.0, True),  # costs nobody anything
        (SHARED, 0, None, True),
        (REJECTING, 50, 0.4, False),  # half are turned away because four in ten fail
        (REJECTING, 50, 0.6, True),
        (REJECTING, 0, 1.0, False),  # the same damage: ask
        (REJECTING, 50, None, False),
        (READING, 50, 0.4, False),  # they could not write
        (READING, 50, 0.6, True),
        (REJECTING, 100, 0.0, True),
    ],
)
def test_a_drain_must_be_better_than_the_fault(how: Routing, to: int, failing: float | None, worth: bool) -> None:
    found = worth_draining(three(how), how, "cell-a", to, failing)
    assert found.worth == worth
    if how is not SHARED:
        assert found.drain == pytest.approx((100 - to) / 300, abs=0.001)
    assert found.present == pytest.approx((failing or 0) / 3, abs=0.001)


def test_both_numbers_are_said() -> None:
    found = worth_draining(three(REJECTING), REJECTING, "cell-b", 50, 0.4)
    assert found.message == "draining cell-b to 50 % costs 16.6 % of the customers, its fault costs 13.3 % now"
    unknown = worth_draining(three(REJECTING), REJECTING, "cell-b", 50, None)
    assert unknown.message.endswith("what its fault costs is not known")


def test_a_drain_to_nowhere_is_worth_nothing() -> None:
    alone = placement.initial(SHARED, [candidate("cell-a"), candidate("cell-b")], epoch=1)
    alone = placement.hold(alone, SHARED, held("cell-b", 0, HoldState.ISOLATED, ANNA))
    found = worth_draining(alone, SHARED, "cell-a", 50, 1.0)
    assert not found.worth
    assert "nobody would leave" in found.message


def test_a_cell_that_is_out_already_can_be_drained_again() -> None:
    spec = placement.hold(three(SHARED), SHARED, held("cell-a", 20, holder=ANNA))
    assert worth_draining(spec, SHARED, "cell-a", 50, 1.0).worth
    assert worth_draining(placement.hold(spec, SHARED, held("cell-a", 0)), SHARED, "cell-a", 0, 1.0).worth


@pytest.mark.parametrize(("failing", "at_once"), [(None, False), (0.5, False), (0.51, True), (1.0, True)])
def test_a_cell_that_serves_less_than_half_drains_at_once(failing: float | None, at_once: bool) -> None:
    assert drain_at_once(failing) is at_once
