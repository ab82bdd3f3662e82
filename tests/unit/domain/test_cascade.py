"""Several cells at once: order, load against room, and that nothing spreads."""

from datetime import datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from recell.api.failure import FailureType, Impact
from recell.api.placement import REJECT, HoldState, PlacementSpec, decode_table
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.router import CustomerData
from recell.domain import cascade, failure, placement, shedding
from recell.domain.health import HealthState, Level
from recell.domain.observation import CellTraffic, ClassTraffic, RouterTraffic
from tests.unit.domain.builders import NOW, OTHER_RUN, RUN, candidate, cell, held, later, routing

POLICY = RecoveryPolicySpec()
NAMES = ("a", "b", "c", "d")


def spec_of(*names: str) -> PlacementSpec:
    return placement.initial(routing(), [candidate(name) for name in names or NAMES], epoch=1)


def load(*, shed: float = 0.0, low: float = 0.5, failures: tuple[str, ...] = (), **rates: float) -> RouterTraffic:
    cells = {
        name: CellTraffic(round(10 * rate), rate, round(10 * rate) if name in failures else 0, 0)
        for name, rate in rates.items()
    }
    total = round(10 * sum(rates.values()) / (1 - shed))
    classes = {
        "low": ClassTraffic(round(total * low), total * low / 10, round(total * shed), 0),
        "high": ClassTraffic(round(total * (1 - low)), total * (1 - low) / 10, 0, 0),
    }
    return RouterTraffic(NOW - timedelta(seconds=10), NOW, 2, cells=cells, classes=classes)


def state(level: Level, since: datetime = NOW) -> HealthState:
    return HealthState(level=level, since=since)


# --- order and numbers


def test_recovery_is_in_order_of_priority_then_customers() -> None:
    spec = placement.initial(routing(), [candidate("a", 50), candidate("b", 100), candidate("c", 200)], epoch=1)
    cells = {"a": cell("a", priority=200), "b": cell("b"), "c": cell("c")}
    assert cascade.order(cells, spec, ["c", "b", "a"]) == ("a", "c", "b")
    assert cascade.order(cells, spec, ["b", "gone"]) == ("b", "gone")


def test_the_impact_of_a_cell_alone_is_its_own_share() -> None:
    spec = spec_of(*(f"cell-{number}" for number in range(30)))
    assert cascade.alone(spec, "cell-3", 1.0) is Impact.LOW
    assert cascade.alone(spec_of(), "a", 1.0) is Impact.HIGH
    assert cascade.alone(spec_of(), "a", 0.1) is Impact.LOW


def test_emergency_cells_are_failed_and_two_within_the_limits() -> None:
    assert cascade.emergency_cells(1, 0, POLICY) == 3
    assert cascade.emergency_cells(5, 0, POLICY) == 4, "cascade.maxEmergencyCells"
    assert cascade.emergency_cells(5, 3, POLICY) == 1, "limits.maxMadeCells"
    assert cascade.emergency_cells(5, 9, POLICY) == 0


# --- load and room


def test_what_lacks_is_measured_at_the_cell_that_is_worst_off() -> None:
    """Four cells of 60 requests/s, two of them fail: 240 requests/s for two cells of 100, of which 20 % stay free."""
    traffic = load(a=60, b=60, c=60, d=60, failures=("a", "b"))
    need = cascade.need(spec_of(), routing(), traffic, {"a": 0, "b": 0}, {"a", "b"}, dict.fromkeys(NAMES, 100), 0.2)
    assert need.lacking is not None
    assert 0.3 < need.lacking < 0.4
    assert set(need.extra) == {"c", "d"}
    assert 110 <= sum(need.extra.values()) <= 125
    assert "of at most 80 requests/s" in need.message


def test_what_is_shed_already_counts_as_load() -> None:
    """Otherwise shedding would make itself look needless."""
    whole = load(a=60, b=60, c=60, d=60)
    half = load(a=30, b=30, c=30, d=30, shed=0.5, low=0.6)
    drained, capacities = {"a": 0, "b": 0}, dict.fromkeys(NAMES, 100)
    needs = [cascade.need(spec_of(), routing(), t, drained, {"a", "b"}, capacities, 0.2) for t in (whole, half)]
    assert needs[0].lacking is not None
    assert needs[1].lacking is not None
    assert abs(needs[0].lacking - needs[1].lacking) < 0.01


def test_a_hung_cell_of_which_no_request_ends_counts_like_the_others() -> None:
    traffic = load(a=0, b=60, c=60, d=60)
    need = cascade.need(spec_of(), routing(), traffic, {"a": 0}, {"a"}, dict.fromkeys(NAMES, 100), 0.0)
    assert 55 <= sum(need.extra.values()) <= 65


def test_promises_to_other_runs_are_kept_and_own_ones_are_not_counted_twice() -> None:
    spec = placement.reserve(spec_of(), OTHER_RUN, {"c": 30})
    traffic = load(a=60, b=60, c=60, d=60)
    capacities = dict.fromkeys(NAMES, 100)
    theirs, own = (
        cascade.need(spec, routing(), traffic, {"a": 0}, {"a"}, capacities, 0.2, holder=holder)
        for holder in (RUN, OTHER_RUN)
    )
    assert theirs.lacking is not None
    assert own.lacking is not None
    assert theirs.lacking > own.lacking


def test_without_figures_or_capacities_nobody_can_say() -> None:
    assert cascade.need(spec_of(), routing(), None, {"a": 0}, {"a"}, {}, 0.2).lacking is None
    traffic = load(a=60, b=60, c=60, d=60)
    unset = cascade.need(spec_of(), routing(), traffic, {"a": 0}, {"a"}, {"b": 100, "c": 100, "d": None}, 0.2)
    assert unset.lacking is None
    assert "spec.capacity.requestsPerSecond" in unset.message
    everything = cascade.need(spec_of(), routing(), traffic, {}, set(NAMES), dict.fromkeys(NAMES, 100), 0.2)
    assert everything.lacking is None


def relief(traffic: RouterTraffic | None, classes: tuple[str, ...] = ("low",), **policy: object) -> cascade.Relief:
    changed = POLICY.model_copy(update={"limits": POLICY.limits.model_copy(update=policy)})
    failed = ("a", "b")
    return cascade.relief(
        spec_of(), routing(), traffic, failed, failed, dict.fromkeys(NAMES, 100), classes, changed, 0.2, holder=RUN
    )


def test_what_matters_least_is_turned_away_so_that_the_others_are_served() -> None:
    found = relief(load(a=60, b=60, c=60, d=60))
    assert found.keep == 0
    assert found.plan.enough
    assert 60 < found.plan.percents["low"] < 80


def test_where_too_little_may_be_shed_customers_stay_at_the_failed_cells() -> None:
    """Never drained into cells that cannot bear it."""
    traffic = load(a=60, b=60, c=60, d=60, low=0.1)
    found = relief(traffic)
    assert found.plan.percents == {"low": found.plan.percents["low"]}
    assert 0 < found.keep < 100
    assert found.plan.enough
    left = cascade.need(
        spec_of(), routing(), traffic, {"a": found.keep, "b": found.keep}, {"a", "b"}, dict.fromkeys(NAMES, 100), 0.2
    )
    assert left.lacking is not None
    assert left.lacking <= found.plan.relieved + shedding.NEGLIGIBLE
    unsheddable = relief(load(a=60, b=60, c=60, d=60), classes=())
    assert (unsheddable.plan.percents, unsheddable.keep > 0) == ({}, True)


def test_without_figures_nothing_is_shed_and_the_policy_says_whether_to_drain() -> None:
    assert (relief(None).keep, relief(None).plan.percents) == (0, {})
    assert relief(None, require_capacity=True).keep == 100


@settings(max_examples=60)
@given(
    rates=st.lists(st.floats(1, 200), min_size=6, max_size=6),
    capacity=st.integers(20, 400),
    low=st.floats(0, 1),
    down=st.sets(st.integers(0, 5), min_size=1, max_size=5),
)
def test_relief_never_overloads_a_cell_that_bore_its_own(
    rates: list[float], capacity: int, low: float, down: set[int]
) -> None:
    names = tuple(f"cell-{number}" for number in range(6))
    failed = {names[number] for number in down}
    spec, traffic = spec_of(*names), load(low=low, **dict(zip(names, rates, strict=True)))
    capacities = dict.fromkeys(names, capacity)
    found = cascade.relief(spec, routing(), traffic, failed, failed, capacities, ("low",), POLICY, 0.2, holder=RUN)
    need = cascade.need(spec, routing(), traffic, dict.fromkeys(failed, found.keep), failed, capacities, 0.2)
    assert need.lacking is not None
    if found.keep < 100:
        assert need.lacking <= found.plan.relieved + shedding.NEGLIGIBLE
    if not found.plan.enough:
        assert found.keep == 100, "then nobody is moved into cells that have too much already"


# --- what is shared


def test_more_than_half_or_a_dependency_is_systemic() -> None:
    def found(failed: int, of: int, broken: tuple[str, ...] = ()) -> str:
        states = {f"c{n}": state(Level.FAILED if n < failed else Level.HEALTHY) for n in range(of)}
        return failure.systemic(states, None, broken)

    assert not found(0, 4)
    assert not found(2, 4)
    assert "3 of 4 cells failed at once" in found(3, 4)
    assert found(2, 2)
    assert not found(1, 1), "one of one is a single cell"
    assert "dns" in found(1, 4, ("dns",))
    assert not found(0, 4, ("dns",)), "no cell failed: nothing to recover"


def test_a_broken_dependency_makes_a_cells_failure_systemic() -> None:
    states = {"a": state(Level.FAILED), "b": state(Level.HEALTHY), "c": state(Level.HEALTHY)}
    found = failure.derive(cell("a"), states, (), spec_of("a", "b", "c"), None, POLICY, NOW, broken=("database",))
    assert found is not None
    assert found.type is FailureType.SYSTEMIC


def test_a_storm_is_so_many_failures_within_one_window() -> None:
    def found(*since: float, **detection: object) -> tuple[str, ...]:
        policy = POLICY.model_copy(update={"detection": POLICY.detection.model_copy(update=detection)})
        states = {f"c{n}": state(Level.FAILED, later(at)) for n, at in enumerate(since)}
        return failure.storm({**states, "well": state(Level.HEALTHY)}, None, policy)

    assert found(0) == ()
    assert found(0, 299) == ("c0", "c1")
    assert found(0, 301) == ()
    assert found(0, 1000, 1100) == ("c0", "c1", "c2"), "the one that failed before is recovered with them"
    assert found(0, 100, multiple_cell_failures=3) == ()
    assert found(0, 100, 200, multiple_cell_failures=3) == ("c0", "c1", "c2")


def test_cells_that_were_taken_out_make_no_storm() -> None:
    spec = placement.hold(spec_of(), routing(), held("a", 0, HoldState.ISOLATED))
    states = {"a": state(Level.FAILED), "b": state(Level.FAILED), "c": state(Level.HEALTHY)}
    assert failure.storm(states, spec, POLICY) == ()


def test_a_check_that_a_fresh_cell_fails_too_is_shared() -> None:
    assert cascade.same_check([{"probe", "error-rate"}, {"probe"}], {"probe"}) == ("probe",)
    assert cascade.same_check([{"probe"}, {"error-rate"}], {"probe"}) == ()
    assert cascade.same_check([{"probe"}], ()) == ()


# --- poison


def drain(spec: PlacementSpec, name: str, at: datetime) -> PlacementSpec:
    return placement.hold(spec, routing(), held(name, 0, since=at))


def test_a_receiver_that_fails_soon_is_spared_and_what_it_took_over_goes_to_nobody() -> None:
    spec = drain(spec_of(), "a", NOW)
    since = {"a": later(-60), "b": later(300)}
    found = cascade.poison(spec, since, timedelta(minutes=10))
    homes, serving = decode_table(spec.homes), decode_table(spec.serving)
    a, b = (placement.index_of(spec, name) for name in ("a", "b"))
    assert found.spared == {"b"}
    assert found.slots == {slot for slot in range(1024) if homes[slot] == a and serving[slot] == b}
    assert 0 < len(found.slots) < 256, "what others took over goes on there"
    out = placement.quarantine(spec, routing(), found.slots, holder=RUN, reason="poison", since=NOW)
    table = decode_table(out.serving)
    assert all(table[slot] == REJECT for slot in found.slots)
    assert [t for s, t in enumerate(table) if s not in found.slots] == [
        t for s, t in enumerate(serving) if s not in found.slots
    ]
    assert cascade.poison(out, since, timedelta(minutes=10)).slots == frozenset(), "and no further"


def test_one_that_fails_later_is_drained_without_what_it_took_over() -> None:
    """One reassignment per slot and incident."""
    found = cascade.poison(drain(spec_of(), "a", NOW), {"b": later(601)}, timedelta(minutes=10))
    assert found.spared == frozenset()
    assert found.slots


def test_one_that_had_failed_before_it_took_anything_over_proves_nothing() -> None:
    found = cascade.poison(drain(spec_of(), "a", NOW), {"a": later(-9), "b": later(-5)}, timedelta(minutes=10))
    assert found == cascade.Poison(frozenset(), frozenset())


def test_a_cell_that_took_nothing_over_is_no_receiver() -> None:
    assert cascade.poison(spec_of(), {"a": NOW, "b": NOW}, timedelta(minutes=10)) == cascade.Poison(
        frozenset(), frozenset()
    )
    in_cell = routing(CustomerData.IN_CELL)
    spec = placement.hold(placement.initial(in_cell, map(candidate, NAMES), epoch=1), in_cell, held("a", 0))
    assert cascade.poison(spec, {"a": NOW, "b": later(5)}, timedelta(minutes=10)).slots == frozenset()


@settings(max_examples=60)
@given(
    poisonous=st.sets(st.integers(0, 1023), min_size=1, max_size=3),
    kills_after=st.lists(st.integers(1, 3600), min_size=1, max_size=12),
    looks_after=st.integers(1, 120),
)
def test_a_poison_slot_kills_at_most_two_cells(poisonous: set[int], kills_after: list[int], looks_after: int) -> None:
    """Whoever serves a poison slot dies some time after; each death is handled some time after that."""
    names = [f"cell-{number}" for number in range(12)]
    spec, window = spec_of(*names), timedelta(minutes=10)
    failing: dict[str, datetime] = {}
    at = NOW
    for _, delay in zip(range(12), kills_after * 12, strict=False):
        serving = decode_table(spec.serving)
        victims = {names[serving[slot]] for slot in poisonous if serving[slot] != REJECT} - set(failing)
        if not victims:
            break
        at += timedelta(seconds=delay)
        failing.update(dict.fromkeys(victims, at))
        at += timedelta(seconds=looks_after)
        found = cascade.poison(spec, failing, window)
        spec = placement.quarantine(spec, routing(), found.slots, holder=RUN, reason="poison", since=at)
        for name in victims - found.spared:
            spec = placement.hold(spec, routing(), held(name, 0, since=at))
    assert len(failing) <= 2 * len(poisonous)


# --- quarantine in Placement


def test_doubling_the_table_keeps_the_quarantine() -> None:
    spec = placement.quarantine(spec_of(), routing(), {3, 700}, holder=RUN, reason="poison", since=NOW)
    doubled = placement.resize(spec, routing(slots=2048))
    assert placement.quarantined(doubled) == {3, 700, 1027, 1724}
    assert all(decode_table(doubled.serving)[slot] == REJECT for slot in (3, 700, 1027, 1724))
    back = placement.unquarantine(doubled, routing(slots=2048), {3, 1027, 700, 1724})
    assert back.quarantine == []
    assert back.serving == back.homes


def test_slots_are_given_back_one_by_one_and_twice_is_once() -> None:
    spec = spec_of()
    out = placement.quarantine(spec, routing(), {1, 2}, holder=RUN, reason="poison", since=NOW)
    assert placement.quarantine(out, routing(), {2}, holder=RUN, reason="poison", since=later(5)) is out
    more = placement.quarantine(out, routing(), {9}, holder=OTHER_RUN, reason="poison", since=NOW)
    assert placement.quarantined(more) == {1, 2, 9}
    less = placement.unquarantine(more, routing(), {2, 9, 17})
    assert placement.quarantined(less) == {1}
    assert placement.unquarantine(less, routing(), {17}) is less


def test_a_cell_that_a_run_fills_keeps_its_homes_while_others_get_their_weight() -> None:
    spec = placement.admit(spec_of(), routing(), candidate("new", 0))
    spec = placement.rehome(spec, routing(), "a", "new", placement.slots_of(spec, "a"))
    theirs = placement.slots_of(spec, "new")
    spec = placement.admit(spec, routing(), candidate("emergency", 100))
    assert placement.slots_of(spec, "new") == theirs
    assert len(placement.slots_of(spec, "emergency")) in (153, 154)
    emptied = placement.admit(spec, routing(), candidate("emergency", 0))
    assert placement.slots_of(emptied, "emergency") == ()
    assert placement.slots_of(emptied, "new") == theirs
