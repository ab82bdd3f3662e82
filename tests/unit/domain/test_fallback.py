"""The fallback's table: MD5 modulo the cells in a frozen order, at home where data is in the cells, never a cell that
is out (rule 15)."""

import hashlib
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api import Cell
from recell.api.placement import Hold, Holder, HoldState, PlacementMode, PlacementSpec, decode_table
from recell.domain import fallback, placement
from recell.domain.fallback import Entry, Table, activate, deactivate, fenced, samples, table_of
from recell.domain.placement import Candidate, Routing
from tests.unit.domain.test_placement import REJECTING, SHARED

NOW = datetime(2026, 11, 26, 3, tzinfo=UTC)
ANN = Holder(kind="Person", name="ann")
NAMES = ("a", "b", "c", "d")


def cell(name: str, path: str = "/healthz", scheme: str = "HTTP") -> Cell:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    probe = {"probe": {"path": path, "scheme": scheme}}
    spec = {"routerRef": {"name": "shop"}, "backend": backend, "health": probe}
    return Cell.model_validate({"metadata": {"name": name, "namespace": "fleet"}, "spec": spec})


CELLS = {name: cell(name) for name in NAMES}


def placed(routing: Routing = SHARED, *names: str, weight: int = 100) -> PlacementSpec:
    return placement.initial(
        routing,
        [Candidate(name, f"uid-{name}", f"10.0.0.{n}", 80, weight) for n, name in enumerate(names or NAMES, start=1)],
        epoch=1,
    )


def held(spec: PlacementSpec, name: str, percent: int = 0, state: HoldState = HoldState.ISOLATED) -> PlacementSpec:
    hold = Hold(cell=name, max_percent=percent, state=state, holder=ANN, reason="", since=NOW)
    return placement.hold(spec, SHARED, hold)


def made(spec: PlacementSpec, *failed: str, known: tuple[str, ...] = (), routing: Routing = SHARED) -> Table:
    found = table_of(spec, routing, CELLS, failed, known)
    assert found is not None
    return found


@given(st.text(min_size=1, max_size=40), st.integers(1, 9))
def test_a_customers_bucket_is_md5_modulo_the_count(customer: str, count: int) -> None:
    table = Table(tuple(Entry(f"c{n}", "10.0.0.1", 80) for n in range(count)))
    digest = hashlib.md5(customer.encode(), usedforsecurity=False).digest()
    assert table.cell_of(customer) == f"c{int.from_bytes(digest[:4], 'big') % count}"


def test_all_is_well_every_cell_in_service_stands_behind_it() -> None:
    table = made(placed())
    assert table.order == NAMES
    first = table.entries[0]
    assert (first.address, first.port, first.check, first.out) == ("10.0.0.1", 80, "/healthz", False)
    assert table.homes is None
    assert table.id == made(placed()).id


def test_isolated_drained_and_failed_cells_are_absent() -> None:
    spec = held(held(placed(), "a"), "b", 0, HoldState.DRAINING)
    assert made(spec, "c").order == ("d",)
    assert made(held(placed(), "a", 40, HoldState.DRAINING)).order == NAMES, "a part of its customers is still its own"


def test_when_most_are_down_it_is_no_news_about_cells() -> None:
    assert made(placed(), "a", "b").order == ("c", "d")
    assert made(placed(), "a", "b", "c").order == NAMES


def test_nobody_left_is_no_table() -> None:
    spec = placed()
    for name in NAMES:
        spec = held(spec, name)
    assert table_of(spec, SHARED, CELLS, (), ()) is None


def test_cells_that_stay_keep_their_places() -> None:
    spec = placed()
    assert made(spec, known=("d", "c", "a")).order == ("d", "c", "a", "b")
    assert made(spec, "c", known=("d", "c", "a")).order == ("d", "a", "b")


def test_a_cell_without_weight_and_without_customers_is_not_behind_it() -> None:
    spec = placement.admit(placed(), SHARED, Candidate("e", "uid-e", "10.0.0.9", 80, 0))
    assert made(spec).order == NAMES


@pytest.mark.parametrize(("path", "scheme"), [("/a b", "HTTP"), ('/"', "HTTP"), ("/healthz", "HTTPS")])
def test_a_path_that_haproxy_could_not_ask_is_a_connection_check(path: str, scheme: str) -> None:
    table = table_of(placed(SHARED, "a"), SHARED, {"a": cell("a", "/x", scheme)} if scheme == "HTTPS" else {}, (), ())
    assert table is not None
    assert table.entries[0].check == ""
    assert not fallback._plain(path) or scheme == "HTTPS"


# --- while it serves


def test_order_and_count_are_frozen_and_a_cell_moves_its_bucket_alone() -> None:
    spec = activate(placed(), ("d", "b", "a", "c"), ANN, NOW)
    before = made(spec)
    assert before.order == ("d", "b", "a", "c")
    after = made(held(spec, "b"), "c")
    assert after.order == before.order
    customers = [f"customer-{n}" for n in range(400)]
    for customer in customers:
        old, new = before.cell_of(customer), after.cell_of(customer)
        assert new == ("a" if old == "b" else old), "b's customers go to the next of the ring, all others stay"


def test_a_cell_that_is_gone_or_came_later_changes_no_count() -> None:
    spec = activate(placed(), NAMES, ANN, NOW)
    spec = placement.remove(spec, SHARED, "c")
    spec = placement.admit(spec, SHARED, Candidate("e", "uid-e", "10.0.0.9", 80, 100))
    table = made(spec)
    assert table.order == NAMES
    assert [e.out for e in table.entries] == [False, False, True, False]


def test_it_is_activated_once_and_what_is_known_of_the_primary_is_recorded() -> None:
    spec = placed()
    active = activate(spec, NAMES, ANN, NOW)
    assert active.fallback is not None
    assert (active.mode, active.fallback.order, active.fallback.dual_routing) == (
        PlacementMode.FALLBACK,
        list(NAMES),
        False,
    )
    assert activate(active, ("d",), Holder(kind="Person", name="bob"), NOW) == active
    dual = activate(active, NAMES, ANN, NOW, dual_routing=True)
    assert dual.fallback is not None
    assert dual.fallback.dual_routing
    assert fenced(dual, dual_routing=False) == active
    assert fenced(active, dual_routing=False) is active
    assert deactivate(active) == spec
    assert deactivate(spec) is spec


# --- data in the cells


def test_with_data_in_the_cells_everybody_is_at_home() -> None:
    spec = placed(REJECTING)
    table = made(spec, "b", routing=REJECTING)
    assert table.order == NAMES, "a cell that is down keeps its customers: nobody else has their data"
    assert table.homes is not None
    names = {c.index: c.name for c in spec.cells}
    homes = decode_table(spec.homes)
    for number in range(300):
        customer = f"customer-{number}"
        assert table.cell_of(customer) == names[homes[placement.slot_of(customer, spec.slots)]]


def test_with_data_in_the_cells_the_customers_of_one_that_is_out_are_rejected() -> None:
    spec = held(activate(placed(REJECTING), NAMES, ANN, NOW), "b")
    table = made(spec, routing=REJECTING)
    served = {table.cell_of(f"customer-{n}") for n in range(200)}
    assert served == {"a", "c", "d", None}


# --- samples


def test_samples_are_spread_over_the_cells_that_serve_and_bounded() -> None:
    table = made(held(activate(placed(), NAMES, ANN, NOW), "b"))
    found = samples(table, 3, 100)
    assert sorted(cell for _, cell in found) == sorted([*"aaacccddd"])
    assert all(table.cell_of(customer) == cell for customer, cell in found)
    assert len(samples(table, 3, 6)) == 6
    large = Table(tuple(Entry(f"cell-{n}", "10.0.0.1", 80) for n in range(819)))
    assert len(samples(large, 2, 60)) == 60
