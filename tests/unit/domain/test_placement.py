"""Tables for what a person would check by hand, properties for everything else."""

import copy
import hashlib
from collections import Counter
from functools import lru_cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from recell.api.placement import (
    MAX_INDEX,
    READ_ONLY,
    REJECT,
    Hold,
    HoldState,
    PlacementSpec,
    decode_table,
    encode_table,
)
from recell.api.router import CustomerData, OffHome, Router
from recell.domain import placement
from recell.domain.placement import Routing
from tests.unit.domain.builders import ANNA, OTHER_RUN, RUN, candidate, held, later, routing

SHARED = routing()
REJECTING = routing(CustomerData.IN_CELL)
READING = routing(CustomerData.IN_CELL, OffHome.READ_ONLY)
EVERY_ROUTING = [SHARED, REJECTING, READING]
FIRM = [HoldState.ISOLATED, HoldState.RETIRED, HoldState.QUARANTINED]


def three(how: Routing = SHARED) -> PlacementSpec:
    return placement.initial(how, [candidate("cell-a"), candidate("cell-b"), candidate("cell-c")], epoch=1)


decoded = lru_cache(maxsize=64)(decode_table)


def homes(spec: PlacementSpec) -> tuple[int, ...]:
    return decoded(spec.homes)


def serving(spec: PlacementSpec) -> tuple[int, ...]:
    return decoded(spec.serving)


def kept(spec: PlacementSpec, cell: str) -> set[int]:
    """Home slots of the cell that it serves itself."""
    index = placement.index_of(spec, cell)
    return {slot for slot in placement.slots_of(spec, cell) if serving(spec)[slot] == index}


def moved(before: PlacementSpec, after: PlacementSpec) -> set[int]:
    return {slot for slot, (a, b) in enumerate(zip(serving(before), serving(after), strict=True)) if a != b}


# --- customers and slots


@pytest.mark.parametrize(
    ("customer", "slot"),
    [("alice", 690), ("bob", 444), ("carol", 384), ("vip-1", 916), (b"alice", 690), ("", 217)],
)
def test_known_customers_have_known_slots(customer: str | bytes, slot: int) -> None:
    assert placement.slot_of(customer, 1024) == slot


@given(st.binary(max_size=64), st.sampled_from([1024, 2048, 4096, 8192]))
def test_doubling_sends_a_customer_of_slot_s_to_s_or_s_plus_n(customer: bytes, slots: int) -> None:
    slot = placement.slot_of(customer, slots)
    assert placement.slot_of(customer, 2 * slots) in (slot, slot + slots)
    assert slot == int.from_bytes(hashlib.md5(customer).digest()[:4], "big") % slots


# --- the first table


def test_equal_cells_are_striped_in_order_of_names() -> None:
    spec = placement.initial(SHARED, [candidate("c"), candidate("a"), candidate("b"), candidate("d")], epoch=7)
    assert [(cell.name, cell.index) for cell in spec.cells] == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    assert homes(spec) == (0, 1, 2, 3) * 256
    assert spec.serving == spec.homes
    assert (spec.epoch, spec.next_index, spec.slots) == (7, 4, 1024)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=40).filter(any), st.sampled_from([1024, 2048]))
def test_homes_follow_the_weights_to_the_slot(weights: list[int], slots: int) -> None:
    spec = placement.initial(
        routing(slots=slots), [candidate(f"cell-{i:02}", w) for i, w in enumerate(weights)], epoch=0
    )
    counts = Counter(homes(spec))
    for cell in spec.cells:
        exact = cell.weight * slots / sum(weights)
        assert abs(counts[cell.index] - exact) < 1
        assert cell.weight or not counts[cell.index]


def test_a_first_table_that_serves_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one Cell"):
        placement.initial(SHARED, [], epoch=0)
    with pytest.raises(ValueError, match=r"every cell has weight 0 \(a and b\)"):
        placement.initial(SHARED, [candidate("a", 0), candidate("b", 0)], epoch=0)
    with pytest.raises(ValueError, match="same name"):
        placement.initial(SHARED, [candidate("a"), candidate("a")], epoch=0)
    with pytest.raises(ValueError, match="820 cells"):
        placement.initial(SHARED, [candidate(f"c{i}") for i in range(820)], epoch=0)


# --- admitting


def test_a_new_cell_of_a_shared_router_takes_its_part_and_nothing_else_moves() -> None:
    before = three()
    after = placement.admit(before, SHARED, candidate("cell-d"))
    changed = [slot for slot in range(1024) if homes(before)[slot] != homes(after)[slot]]
    assert len(changed) == 256
    assert {homes(after)[slot] for slot in changed} == {3}
    assert (after.next_index, after.cells[3].index) == (4, 3)


def test_a_new_cell_of_an_in_cell_router_gets_no_home() -> None:
    after = placement.admit(three(REJECTING), REJECTING, candidate("cell-d"))
    assert placement.home_share(after, "cell-d") == 0
    assert after.homes == three(REJECTING).homes


@pytest.mark.parametrize("how", EVERY_ROUTING)
def test_the_same_cell_updates_its_address_and_moves_nobody(how: Routing) -> None:
    spec = three(how)
    after = placement.admit(spec, how, candidate("cell-b", address="10.0.0.9"))
    assert after.cells[1].address == "10.0.0.9"
    assert (after.homes, after.serving) == (spec.homes, spec.serving)
    assert placement.admit(after, how, candidate("cell-b", address="10.0.0.9")) is after


def test_another_weight_moves_the_difference_only() -> None:
    before = three()
    after = placement.admit(before, SHARED, candidate("cell-a", 50))
    gone = {s for s in range(1024) if homes(before)[s] == 0 and homes(after)[s] != 0}
    assert Counter(homes(after)) == {0: 205, 1: 410, 2: 409}
    assert {s for s in range(1024) if homes(before)[s] != homes(after)[s]} == gone


def test_weights_of_an_in_cell_router_move_no_home() -> None:
    assert placement.admit(three(REJECTING), REJECTING, candidate("cell-a", 0)).homes == three(REJECTING).homes


def test_when_the_last_weight_becomes_zero_everybody_stays() -> None:
    spec = placement.initial(SHARED, [candidate("a"), candidate("b", 0)], epoch=0)
    after = placement.admit(spec, SHARED, candidate("a", 0))
    assert after.homes == spec.homes
    assert after.serving == spec.serving
    assert after.cells[0].weight == 0


@pytest.mark.parametrize("taker", ["b", "c"])
def test_who_stayed_for_want_of_a_weight_goes_to_the_first_that_gets_one(taker: str) -> None:
    spec = placement.initial(SHARED, [candidate("a"), candidate("b", 0)], epoch=0)
    idle = placement.admit(placement.admit(spec, SHARED, candidate("a", 0)), SHARED, candidate("c", 0))
    after = placement.admit(idle, SHARED, candidate(taker))
    assert {cell.name for cell in after.cells if cell.index in set(homes(after))} == {taker}


def test_a_recreated_cell_takes_over_its_entry() -> None:
    spec = placement.hold(three(), SHARED, held("cell-b", 40))
    after = placement.admit(spec, SHARED, candidate("cell-b", uid="new", address="10.0.0.9"))
    assert (after.cells[1].uid, after.cells[1].index, after.cells[1].address) == ("new", 1, "10.0.0.9")
    assert after.serving == spec.serving


@pytest.mark.parametrize("state", [HoldState.ISOLATED, HoldState.RETIRED])
@pytest.mark.parametrize("removed", [False, True])
def test_a_cell_of_unknown_provenance_is_not_admitted(state: HoldState, removed: bool) -> None:
    spec = placement.hold(three(), SHARED, held("cell-b", 0, state))
    if removed:
        spec = placement.remove(spec, SHARED, "cell-b")
        assert [h.cell for h in spec.holds] == ["cell-b"]
    with pytest.raises(placement.UnknownProvenance, match="kubectl recell return cell-b"):
        placement.admit(spec, SHARED, candidate("cell-b", uid="from-a-backup"))
    assert placement.provenance_unknown(spec, "cell-b", "from-a-backup")
    assert placement.provenance_unknown(spec, "cell-b", "uid-cell-b") == removed
    returned = placement.release(spec, SHARED, holder=RUN, cell="cell-b")
    admitted = placement.admit(returned, SHARED, candidate("cell-b", uid="from-a-backup"))
    assert {cell.uid for cell in admitted.cells} == {"uid-cell-a", "from-a-backup", "uid-cell-c"}


def test_the_cell_that_was_isolated_may_still_change_its_address() -> None:
    spec = placement.hold(three(), SHARED, held("cell-b", 0, HoldState.ISOLATED))
    after = placement.admit(spec, SHARED, candidate("cell-b", address="10.0.0.9"))
    assert placement.share(after, "cell-b") == 0


def test_a_full_router_refuses_another_cell() -> None:
    big = routing(slots=16384)
    full = placement.initial(big, [candidate(f"c{i}") for i in range(819)], epoch=0)
    with pytest.raises(ValueError, match="819 cells already"):
        placement.admit(full, big, candidate("more"))
    worn = three().model_copy(update={"next_index": MAX_INDEX})
    with pytest.raises(ValueError, match="every index"):
        placement.admit(worn, SHARED, candidate("more"))


# --- removing


def test_a_removed_shared_cell_leaves_its_customers_to_the_others_and_nobody_else_moves() -> None:
    before = three()
    after = placement.remove(before, SHARED, "cell-b")
    changed = {s for s in range(1024) if homes(before)[s] != homes(after)[s]}
    assert changed == set(placement.slots_of(before, "cell-b"))
    assert Counter(homes(after)) == {0: 512, 2: 512}
    assert placement.remove(after, SHARED, "cell-b") is after


def test_an_index_is_never_used_twice() -> None:
    spec = placement.remove(three(), SHARED, "cell-c")
    assert placement.admit(spec, SHARED, candidate("cell-c")).cells[-1].index == 3


@pytest.mark.parametrize("how", [REJECTING, READING])
def test_an_in_cell_cell_with_customers_stays_unless_forced(how: Routing) -> None:
    spec = three(how)
    with pytest.raises(placement.StillHome, match="341 slots") as error:
        placement.remove(spec, how, "cell-b")
    assert (error.value.name, error.value.slots) == ("cell-b", 341)
    after = placement.remove(spec, how, "cell-b", force=True)
    lost = placement.slots_of(spec, "cell-b")
    assert {homes(after)[s] for s in lost} == {serving(after)[s] for s in lost} == {REJECT}


def test_the_last_cell_with_a_weight_stays_unless_forced() -> None:
    spec = placement.initial(SHARED, [candidate("a"), candidate("b", 0)], epoch=0)
    with pytest.raises(placement.StillHome, match="1024 slots"):
        placement.remove(spec, SHARED, "a")
    gone = placement.remove(spec, SHARED, "a", force=True)
    assert set(serving(gone)) == {REJECT}
    back = placement.admit(gone, SHARED, candidate("c"))
    assert set(serving(back)) == {2}, "a cell that comes takes the homeless in"


def test_holds_and_reservations_go_with_the_cell_but_what_forbids_its_return_stays() -> None:
    spec = placement.hold(three(), SHARED, held("cell-b", 50))
    spec = placement.hold(spec, SHARED, held("cell-b", 0, HoldState.ISOLATED, ANNA))
    spec = placement.reserve(spec, RUN, {"cell-b": 5, "cell-c": 7})
    after = placement.remove(spec, SHARED, "cell-b")
    assert [(h.cell, h.state) for h in after.holds] == [("cell-b", HoldState.ISOLATED)]
    assert [(r.cell, r.requests_per_second) for r in after.reservations] == [("cell-c", 7)]


# --- holds


def test_a_drain_by_half_moves_half_of_the_cells_customers_and_nobody_else() -> None:
    before = three()
    after = placement.hold(before, SHARED, held("cell-a", 50))
    assert moved(before, after) <= set(placement.slots_of(before, "cell-a"))
    assert len(moved(before, after)) == 171
    assert placement.share(after, "cell-a") == 171 / 1024
    assert placement.home_share(after, "cell-a") == 342 / 1024
    assert placement.limit(after, "cell-a") == 50


def test_one_hold_a_holder_and_the_least_counts() -> None:
    spec = placement.hold(three(), SHARED, held("cell-a", 50))
    spec = placement.hold(spec, SHARED, held("cell-a", 20, holder=OTHER_RUN))
    assert placement.limit(spec, "cell-a") == 20
    spec = placement.hold(spec, SHARED, held("cell-a", 90, holder=OTHER_RUN))
    assert (len(spec.holds), placement.limit(spec, "cell-a")) == (2, 50)
    assert placement.held_by(spec, RUN) == (held("cell-a", 50),)
    spec = placement.release(spec, SHARED, holder=RUN)
    assert placement.limit(spec, "cell-a") == 90
    assert placement.release(spec, SHARED, holder=RUN) is spec
    assert placement.release(spec, SHARED, holder=OTHER_RUN, cell="cell-b") is spec


def test_since_stays_while_the_limit_does() -> None:
    spec = placement.hold(three(), SHARED, held("cell-a", 50))
    assert placement.hold(spec, SHARED, held("cell-a", 50, since=later(60))) is spec
    again = placement.hold(spec, SHARED, held("cell-a", 50, since=later(60), reason="increment 2"))
    assert (again.holds[0].since, again.holds[0].reason) == (later(0), "increment 2")
    assert placement.hold(spec, SHARED, held("cell-a", 45, since=later(60))).holds[0].since == later(60)


def test_a_table_of_too_many_holds_is_refused_with_the_way_out() -> None:
    full = three().model_copy(update={"holds": [held("x", 1)] * 1024})
    with pytest.raises(ValueError, match="release some first"):
        placement.hold(full, SHARED, held("cell-a", 1))


@given(st.integers(0, 100), st.integers(0, 100))
def test_who_left_at_a_high_share_is_also_out_at_a_low_one(one: int, other: int) -> None:
    low, high = sorted((one, other))
    spec = three(READING)
    deep = placement.hold(spec, READING, held("cell-a", low))
    light = placement.hold(spec, READING, held("cell-a", high))
    assert kept(deep, "cell-a") <= kept(light, "cell-a")
    away = moved(spec, light)
    assert {s: serving(light)[s] for s in away} == {s: serving(deep)[s] for s in away}, "who left stays where it is"


@given(st.permutations([("cell-a", 30, RUN), ("cell-a", 60, OTHER_RUN), ("cell-b", 0, ANNA), ("cell-c", 100, RUN)]))
def test_the_table_does_not_depend_on_the_way_to_it(order: list[tuple[str, int, object]]) -> None:
    spec = three()
    for cell, percent, holder in order:
        spec = placement.hold(spec, SHARED, held(cell, percent, holder=holder))  # type: ignore[arg-type]
    direct = placement.hold(three(), SHARED, held("cell-a", 30))
    direct = placement.hold(direct, SHARED, held("cell-b", 0, holder=ANNA))
    assert spec.serving == direct.serving


def test_a_second_cell_that_fails_moves_only_what_was_served_by_it() -> None:
    first = placement.hold(three(), SHARED, held("cell-a", 50))
    second = placement.hold(first, SHARED, held("cell-b", 0, holder=OTHER_RUN))
    assert moved(first, second) == {s for s in range(1024) if serving(first)[s] == 1}
    assert placement.release(second, SHARED, holder=OTHER_RUN).serving == first.serving


@pytest.mark.parametrize(
    ("how", "value"),
    [(REJECTING, {REJECT}), (READING, {READ_ONLY | 1, READ_ONLY | 2}), (SHARED, {1, 2})],
)
def test_what_customers_of_a_drained_cell_get(how: Routing, value: set[int]) -> None:
    spec = placement.hold(three(how), how, held("cell-a", 0))
    assert {serving(spec)[s] for s in placement.slots_of(spec, "cell-a")} == value


@pytest.mark.parametrize("how", EVERY_ROUTING)
def test_without_a_receiver_everybody_is_served_at_home(how: Routing) -> None:
    spec = three(how)
    for name in ("cell-a", "cell-b", "cell-c"):
        spec = placement.hold(spec, how, held(name, 0))
    assert spec.serving == spec.homes


@pytest.mark.parametrize("how", EVERY_ROUTING)
@pytest.mark.parametrize("state", FIRM)
def test_but_not_by_a_cell_that_must_not_serve(how: Routing, state: HoldState) -> None:
    before = placement.hold(three(how), how, held("cell-a", 0, state))
    spec = before
    for name in ("cell-b", "cell-c"):
        spec = placement.hold(spec, how, held(name, 50))
    assert not {0, READ_ONLY | 0} & set(serving(spec))
    assert spec.serving == before.serving, "drains to nowhere change nothing, for the isolated cell's customers either"


@pytest.mark.parametrize("how", EVERY_ROUTING)
@pytest.mark.parametrize("state", FIRM)
def test_when_no_cell_may_serve_everybody_is_rejected(how: Routing, state: HoldState) -> None:
    spec = three(how)
    for name in ("cell-a", "cell-b", "cell-c"):
        spec = placement.hold(spec, how, held(name, 0, state))
    assert set(serving(spec)) == {REJECT}


def test_customers_of_a_quarantined_cell_are_sent_to_nobody() -> None:
    spec = placement.hold(three(), SHARED, held("cell-a", 25, HoldState.QUARANTINED))
    gone = set(placement.slots_of(spec, "cell-a")) - kept(spec, "cell-a")
    assert {serving(spec)[s] for s in gone} == {REJECT}
    both = placement.hold(spec, SHARED, held("cell-a", 10, holder=OTHER_RUN))
    assert {serving(both)[s] for s in gone} == {REJECT}
    assert {serving(both)[s] for s in kept(spec, "cell-a") - kept(both, "cell-a")} == {1, 2}


def test_cells_of_weight_zero_receive_nobody() -> None:
    spec = placement.initial(SHARED, [candidate("a"), candidate("b"), candidate("c", 0)], epoch=0)
    assert set(serving(placement.hold(spec, SHARED, held("a", 0)))) == {1}


@pytest.mark.parametrize("weights", [(100,) * 8, (50, 80, 110, 140, 170, 200, 230)])
def test_receivers_get_by_weight(weights: tuple[int, ...]) -> None:
    how = routing(slots=16384)
    spec = placement.initial(
        how, [candidate("out", sum(weights))] + [candidate(f"r{i}", w) for i, w in enumerate(weights)], epoch=0
    )
    after = placement.hold(spec, how, held("out", 0))
    away = Counter(serving(after)[s] for s in placement.slots_of(spec, "out"))
    for cell in after.cells[1:]:
        part = cell.weight / sum(weights)
        expected = 8192 * part
        assert abs(away[cell.index] - expected) < 5 * (expected * (1 - part)) ** 0.5, cell.name


# --- pins


def pinned(how: Routing, *pins: tuple[str, str]) -> Routing:
    return Routing(how.customer_data, how.off_home, pins, how.slots)


def test_a_pinned_customer_is_at_home_whatever_the_slot_says() -> None:
    how = pinned(SHARED, ("alice", "cell-c"), ("bob", "cell-a"))
    assert [(p.customer, p.home, p.serving) for p in three(how).pins] == [("alice", 2, 2), ("bob", 0, 0)]


@pytest.mark.parametrize(
    ("how", "value"), [(SHARED, {0, 1}), (REJECTING, {REJECT}), (READING, {READ_ONLY | 0, READ_ONLY | 1})]
)
def test_pinned_customers_leave_like_the_others(how: Routing, value: set[int]) -> None:
    how = pinned(how, *((f"vip-{i}", "cell-c") for i in range(200)))
    spec = three(how)
    at_home: set[str] = {p.customer for p in spec.pins}
    for percent in (80, 50, 20, 0):
        spec = placement.hold(spec, how, held("cell-c", percent))
        still = {p.customer for p in spec.pins if p.serving == 2}
        assert still < at_home
        assert abs(len(still) - 2 * percent) < 40
        assert {p.serving for p in spec.pins if p.serving != 2} <= value
        at_home = still
    assert not at_home


def test_a_pin_to_a_cell_that_is_not_admitted() -> None:
    (lost,) = three(pinned(REJECTING, ("vip", "cell-x"))).pins
    assert (lost.home, lost.serving) == (REJECT, REJECT)
    (shared,) = three(pinned(SHARED, ("vip", "cell-x"))).pins
    assert shared.home == REJECT
    assert shared.serving in (0, 1, 2), "any cell can serve a customer whose data is shared"


def test_changed_pins_are_followed_and_nothing_else_moves() -> None:
    spec = three()
    after = placement.reroute(spec, pinned(SHARED, ("alice", "cell-b")))
    assert after.serving == spec.serving
    assert [p.serving for p in after.pins] == [1]
    assert placement.reroute(after, SHARED).pins == []


def test_a_pinned_customer_of_a_quarantined_cell_is_rejected() -> None:
    how = pinned(SHARED, ("vip", "cell-a"))
    spec = placement.hold(three(how), how, held("cell-a", 0, HoldState.QUARANTINED))
    assert spec.pins[0].serving == REJECT


# --- epoch, reservations, size


def test_an_epoch_only_rises() -> None:
    spec = placement.raise_epoch(three(), 5)
    assert spec.epoch == 5
    assert placement.raise_epoch(spec, 5) is spec
    with pytest.raises(placement.StaleEpoch, match="another leader"):
        placement.raise_epoch(spec, 4)


def test_reservations_are_the_holders_own() -> None:
    spec = placement.reserve(three(), RUN, {"cell-b": 10, "cell-c": 0})
    spec = placement.reserve(spec, OTHER_RUN, {"cell-b": 3})
    assert [(r.cell, r.requests_per_second) for r in spec.reservations] == [("cell-b", 10), ("cell-b", 3)]
    assert placement.reserve(spec, RUN, {"cell-b": 10}) is spec
    spec = placement.reserve(spec, RUN, {"cell-c": 4})
    assert {(r.holder.name, r.cell) for r in spec.reservations} == {("run-1", "cell-c"), ("run-2", "cell-b")}
    spec = placement.unreserve(spec, RUN)
    assert [r.holder for r in spec.reservations] == [OTHER_RUN]
    assert placement.unreserve(spec, RUN) is spec


@pytest.mark.parametrize("how", EVERY_ROUTING)
@pytest.mark.parametrize("target", [2048, 16384])
def test_doubling_moves_no_customer(how: Routing, target: int) -> None:
    spec = three(how)
    after = placement.resize(spec, Routing(how.customer_data, how.off_home, (), target))
    assert after.slots == target
    assert serving(after) == serving(spec) * (target // 1024)


@given(st.integers(0, 100))
def test_doubling_under_a_hold_moves_at_most_one_slot_in_or_out(percent: int) -> None:
    spec = placement.hold(three(REJECTING), REJECTING, held("cell-b", percent))
    after = placement.resize(spec, routing(CustomerData.IN_CELL, slots=2048))
    changed = [s for s in range(2048) if serving(after)[s] != serving(spec)[s % 1024]]
    assert len(changed) <= 1


@pytest.mark.parametrize("slots", [1024, 1536])
def test_other_sizes_are_refused(slots: int) -> None:
    big = placement.initial(routing(slots=2048), [candidate("a")], epoch=0)
    with pytest.raises(ValueError, match="slots may only double"):
        placement.resize(big, Routing(CustomerData.SHARED, OffHome.REJECT, (), slots))


# --- reading


def test_shares_with_rejected_customers() -> None:
    spec = placement.hold(three(REJECTING), REJECTING, held("cell-a", 50))
    assert placement.share(spec, "cell-a") == 171 / 1024
    assert placement.served_share(spec) == (1024 - 171) / 1024
    assert placement.expected_share(spec, "cell-a") == pytest.approx(171 / (1024 - 171))
    assert placement.expected_share(spec, "cell-b") == pytest.approx(341 / (1024 - 171))


def test_shares_with_customers_who_may_only_read() -> None:
    spec = placement.hold(three(READING), READING, held("cell-a", 0))
    assert placement.share(spec, "cell-b") == 341 / 1024
    assert placement.served_share(spec) == 682 / 1024
    assert placement.expected_share(spec, "cell-a") == 0
    assert placement.expected_share(spec, "cell-b") + placement.expected_share(spec, "cell-c") == pytest.approx(1)


def test_a_cell_that_is_not_listed_has_nothing() -> None:
    spec = three()
    assert placement.share(spec, "cell-x") == placement.home_share(spec, "cell-x") == 0
    assert placement.expected_share(spec, "cell-x") == 0
    assert placement.slots_of(spec, "cell-x") == ()
    assert placement.limit(spec, "cell-x") == 100
    gone = placement.remove(spec.model_copy(update={"cells": spec.cells[:1]}), SHARED, "cell-a", force=True)
    assert placement.expected_share(gone, "cell-x") == 0


def test_orphans_are_holds_without_a_living_holder_and_people_live_for_ever() -> None:
    spec = three()
    for wanted in (held("cell-a", 50), held("cell-b", 0, holder=OTHER_RUN), held("cell-c", 0, holder=ANNA)):
        spec = placement.hold(spec, SHARED, wanted)
    assert [h.cell for h in placement.orphaned(spec, lambda holder: holder == RUN)] == ["cell-b"]


def test_routing_of_a_router() -> None:
    router = Router.model_validate(
        {
            "metadata": {"name": "shop"},
            "spec": {
                "type": "HAProxy",
                "customerData": "InCell",
                "haproxy": {
                    "customerKey": {"type": "Host"},
                    "slots": 2048,
                    "pins": [{"customer": "vip", "cell": "cell-a"}],
                    "initialCells": ["cell-a"],
                },
            },
        }
    )
    assert Routing.of(router) == routing(CustomerData.IN_CELL, OffHome.REJECT, 2048, (("vip", "cell-a"),))
    router.spec.haproxy = None
    with pytest.raises(ValueError, match=r"Router shop: spec\.haproxy is missing"):
        Routing.of(router)


GATEWAY = Routing(CustomerData.SHARED, OffHome.REJECT, (), 1024, most_sharing=16)


def test_a_router_that_knows_no_customers_has_slots_for_its_shares() -> None:
    spec = {"type": "Gateway", "customerData": "Shared", "gateway": {"parentRefs": [{"name": "public"}]}}
    assert Routing.of(Router.model_validate({"metadata": {"name": "shop"}, "spec": spec})) == GATEWAY


def test_no_more_cells_share_the_customers_than_the_router_can_name() -> None:
    names = [f"cell-{number:02}" for number in range(17)]
    with pytest.raises(placement.RouterFull, match="17 cells: this Router takes at most 16"):
        placement.initial(GATEWAY, map(candidate, names), epoch=1)
    full = placement.initial(GATEWAY, map(candidate, names[:16]), epoch=1)
    with pytest.raises(placement.RouterFull, match="cell-16: the customers of this Router are shared by 16 cells"):
        placement.admit(full, GATEWAY, candidate("cell-16"))
    assert placement.admit(full, GATEWAY, candidate("cell-00", weight=50)).cells[0].weight == 50


def test_a_full_routers_cell_can_be_replaced() -> None:
    names = [f"cell-{number:02}" for number in range(16)]
    full = placement.initial(GATEWAY, map(candidate, names), epoch=1)
    beside = placement.admit(full, GATEWAY, candidate("new", weight=0))
    moved = placement.rehome(beside, GATEWAY, "cell-00", "new", placement.slots_of(beside, "cell-00"))
    retired = placement.hold(moved, GATEWAY, held("cell-00", 0, HoldState.RETIRED))
    assert placement.share(placement.admit(retired, GATEWAY, candidate("new")), "new") == 64 / 1024


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"homes": "???"}, "spec.homes"),
        ({"serving": encode_table([0] * 10)}, "spec.serving has 10 entries"),
        ({"slots": 2048}, "but spec.slots is 2048"),
        ({"next_index": 1}, "spec.nextIndex is 1, but a cell has index 2"),
        ({"homes": encode_table([9] * 1024)}, "spec.homes names 9"),
    ],
)
def test_a_table_that_somebody_edited_is_recognised(change: dict[str, object], message: str) -> None:
    assert placement.problems(three()) == []
    assert message in "; ".join(placement.problems(three().model_copy(update=change)))


def test_cells_that_are_listed_twice_are_recognised() -> None:
    spec = three()
    found = placement.problems(spec.model_copy(update={"cells": [*spec.cells, spec.cells[0]]}))
    assert found == ["spec.cells: name cell-a is there twice", "spec.cells: index 0 is there twice"]


def test_the_tables_never_change_from_version_to_version() -> None:
    """A new version of the operator must move nobody: these digests are of the first one."""
    how = routing(pins=(("vip", "cell-a"),))
    spec = placement.initial(how, [candidate("cell-a"), candidate("cell-b", 200), candidate("cell-c", 50)], epoch=1)
    drained = placement.hold(spec, how, held("cell-b", 50))
    grown = placement.admit(drained, how, candidate("cell-d", 150))
    assert [hashlib.sha256((s.homes + s.serving).encode()).hexdigest()[:12] for s in (spec, drained, grown)] == GOLDEN


GOLDEN = ["2bf40f12516f", "d21e4a075f0b", "13dc3015e936"]


# --- any sequence of changes


NAMES = ["a", "b", "c", "d", "e"]
HOLDERS = [RUN, OTHER_RUN, ANNA]


class Changes(RuleBasedStateMachine):
    """Whatever is done in whatever order, the promises of the module hold."""

    spec: PlacementSpec

    @initialize(
        how=st.sampled_from(EVERY_ROUTING),
        weights=st.lists(st.sampled_from([0, 1, 50, 100, 1000]), min_size=1, max_size=4).filter(any),
    )
    def start(self, how: Routing, weights: list[int]) -> None:
        pins = tuple((f"vip-{name}", name) for name in NAMES)
        self.how = Routing(how.customer_data, how.off_home, pins, 1024)
        self.spec = placement.initial(
            self.how, [candidate(name, w) for name, w in zip(NAMES, weights, strict=False)], epoch=0
        )
        self.indices = {cell.index for cell in self.spec.cells}
        self.returned = False

    def change(self, after: PlacementSpec, before: PlacementSpec) -> None:
        assert self.spec == before, "what is passed in is never changed"
        assert after.epoch >= before.epoch
        assert after.next_index >= before.next_index
        new = {cell.index for cell in after.cells} - {cell.index for cell in before.cells}
        assert not new & self.indices, "an index is never used twice"
        self.indices |= new
        self.returned |= bool(_retired(before) - _retired(after))
        self.spec = after

    @rule(name=st.sampled_from(NAMES), weight=st.sampled_from([0, 1, 50, 100, 1000]), uid=st.sampled_from(["1", "2"]))
    def admit(self, name: str, weight: int, uid: str) -> None:
        before = copy.deepcopy(self.spec)
        try:
            after = placement.admit(self.spec, self.how, candidate(name, weight, uid))
        except placement.UnknownProvenance:
            assert any(h.cell == name and h.state in (HoldState.ISOLATED, HoldState.RETIRED) for h in before.holds)
            return
        self.change(after, before)

    @rule(name=st.sampled_from(NAMES), force=st.booleans())
    def remove(self, name: str, force: bool) -> None:
        before = copy.deepcopy(self.spec)
        try:
            after = placement.remove(self.spec, self.how, name, force=force)
        except placement.StillHome:
            assert not force
            assert placement.slots_of(before, name)
            return
        self.change(after, before)
        assert all(cell.name != name for cell in after.cells)

    @rule(
        name=st.sampled_from(NAMES),
        percent=st.sampled_from([0, 1, 50, 99, 100]),
        state=st.sampled_from(list(HoldState)),
        holder=st.sampled_from(HOLDERS),
    )
    def hold(self, name: str, percent: int, state: HoldState, holder: object) -> None:
        before = copy.deepcopy(self.spec)
        wanted: Hold = held(name, percent, state, holder)  # type: ignore[arg-type]
        after = placement.hold(self.spec, self.how, wanted)
        assert placement.hold(after, self.how, wanted) is after
        self.change(after, before)

    @rule(name=st.one_of(st.none(), st.sampled_from(NAMES)), holder=st.sampled_from(HOLDERS))
    def release(self, name: str | None, holder: object) -> None:
        before = copy.deepcopy(self.spec)
        self.change(placement.release(self.spec, self.how, holder=holder, cell=name), before)  # type: ignore[arg-type]

    @precondition(lambda self: self.spec.slots < 4096)
    @rule()
    def double(self) -> None:
        before = copy.deepcopy(self.spec)
        self.how = Routing(self.how.customer_data, self.how.off_home, self.how.pins, 2 * self.spec.slots)
        self.change(placement.resize(self.spec, self.how), before)

    @invariant()
    def well_formed(self) -> None:
        assert placement.problems(self.spec) == []
        assert PlacementSpec.model_validate(self.spec.to_dict()) == self.spec
        assert placement.reroute(self.spec, self.how) is self.spec, "the table is a function of the rest"
        names = {cell.name for cell in self.spec.cells}
        assert all(h.cell in names or h.state in FIRM or h.state == HoldState.DRAINING for h in self.spec.holds)

    @invariant()
    def only_listed_cells_serve_and_firm_holds_bind(self) -> None:
        table = serving(self.spec)
        by_index = {cell.index: cell.name for cell in self.spec.cells}
        values = {*table, *(pin.serving for pin in self.spec.pins)} - {REJECT}
        assert {value & ~READ_ONLY for value in values} <= by_index.keys()
        counts = Counter(value & ~READ_ONLY for value in table if value != REJECT)
        for cell in self.spec.cells:
            firm = min((h.max_percent for h in self.spec.holds if h.cell == cell.name and h.state in FIRM), default=100)
            if firm == 0:
                assert counts[cell.index] == 0
                assert all(pin.serving & ~READ_ONLY != cell.index for pin in self.spec.pins if pin.serving != REJECT)
        if self.how.shared:
            assert all(value < READ_ONLY for value in values)

    @invariant()
    def limits_are_exact_where_somebody_else_can_serve(self) -> None:
        receivers = [c for c in self.spec.cells if c.weight and placement.limit(self.spec, c.name) == 100]
        for cell in self.spec.cells:
            mine = placement.slots_of(self.spec, cell.name)
            firm = min((h.max_percent for h in self.spec.holds if h.cell == cell.name and h.state in FIRM), default=100)
            bound = placement.limit(self.spec, cell.name) if receivers else firm
            assert abs(len(kept(self.spec, cell.name)) - len(mine) * bound / 100) <= 0.5

    @invariant()
    def never_all_zero(self) -> None:
        barred = {h.cell for h in self.spec.holds if h.state in FIRM and h.max_percent < 100}
        if self.how.shared and any(c.weight and c.name not in barred for c in self.spec.cells):
            refused = serving(self.spec).count(REJECT)
            quarantined = any(h.state == HoldState.QUARANTINED for h in self.spec.holds)
            assert refused == 0 or quarantined
            assert placement.served_share(self.spec) > 0

    @invariant()
    def shared_homes_are_balanced(self) -> None:
        total = sum(cell.weight for cell in self.spec.cells)
        # A retired cell gets no homes, and returning it brings none back (see `recell return`).
        if self.how.shared and total and not _retired(self.spec) and not self.returned:
            counts = Counter(homes(self.spec))
            # doubling keeps homes, so a rounding of one slot may have grown with the table
            slack = self.spec.slots / 1024
            for cell in self.spec.cells:
                assert abs(counts[cell.index] - cell.weight * self.spec.slots / total) < slack


def _retired(spec: PlacementSpec) -> set[str]:
    return {h.cell for h in spec.holds if h.state == HoldState.RETIRED}


TestChanges = Changes.TestCase
TestChanges.settings = settings(max_examples=40, stateful_step_count=15)
