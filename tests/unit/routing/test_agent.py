"""The agent's pure parts: decoding, fencing, backends, the map and the configuration, figures."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recell.api.placement import READ_ONLY, REJECT
from recell.providers.routing.haproxy import streams
from router.agent import config, figures, runtime_socket, table
from router.agent.placement import Identity, Refused, Version, check_newer, decode
from router.agent.settings import CustomerKey, Settings, from_environment
from tests.router.rig.placements import placement, spread

ROUTER = Path(__file__).parents[3] / "router"
TEMPLATE = (ROUTER / "haproxy.cfg").read_text()


def some(indexes: tuple[int, ...] = (0, 1), **more: Any) -> dict[str, Any]:
    cells = {f"cell-{index}": (index, f"10.0.{index // 250}.{index % 250 + 1}", 80) for index in indexes}
    return placement(cells, spread(1024, *indexes), generation=1, **more)


def at(uid: str, epoch: int, generation: int) -> Identity:
    return Identity(uid, Version(epoch, generation))


@pytest.mark.parametrize(
    ("current", "new", "expected"),
    [
        (None, at("a", 0, 1), True),
        (at("a", 1, 5), at("a", 1, 6), True),
        (at("a", 1, 5), at("a", 2, 1), True),
        (at("a", 1, 5), at("a", 1, 5), False),
        (at("a", 1, 5), at("a", 1, 4), None),
        (at("a", 2, 5), at("a", 1, 9), None),
        (at("a", 1, 5), at("b", 1, 9), None),
        (at("a", 1, 5), at("b", 1, 5), None),
        (at("a", 2, 5), at("b", 1, 9), None),
        (at("a", 1, 5), at("b", 2, 1), True),
    ],
)
def test_only_what_rises_is_newer(current: Identity | None, new: Identity, expected: bool | None) -> None:
    if expected is None:
        with pytest.raises(Refused):
            check_newer(current, new)
    else:
        assert check_newer(current, new) is expected


@given(st.lists(st.builds(at, st.sampled_from("ab"), st.integers(0, 3), st.integers(0, 5)), max_size=30))
def test_whatever_is_offered_epochs_never_fall_and_generations_rise_within_one(offered: list[Identity]) -> None:
    current: Identity | None = None
    for new in offered:
        before = current
        try:
            if check_newer(current, new):
                current = new
        except Refused:
            continue
        if before is not None and current is not before:
            assert current is not None
            if current.uid == before.uid:
                assert current.version > before.version
            else:
                assert current.version.epoch > before.version.epoch


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(st.sampled_from(["epoch", "slots", "cells", "serving", "pins", "holds"]), JUNK)
def test_any_broken_field_is_refused_by_name_and_nothing_else_is_raised(name: str, junk: Any) -> None:
    obj = some()
    obj["spec"][name] = junk
    refused = ""
    try:
        decode(obj)
    except Refused as error:
        refused = str(error)
    assert not refused or name in refused or "spec.serving" in refused


@given(JUNK)
def test_anything_at_all_is_refused_politely(junk: Any) -> None:
    with pytest.raises(Refused):
        decode({"metadata": junk, "spec": junk})


def test_a_map_says_everything_that_the_configuration_needs() -> None:
    decoded = decode(some((3, 900), pins={"alice": READ_ONLY | 3, "bob": REJECT}))
    servers = table.assign(decoded, table.Held(), last=41)
    lines = table.entries(decoded, servers, {900: 1795624241})
    values = dict(lines)
    assert values["0"] == "b42:3"
    assert values["1"] == "b43:900"
    assert values["pin:alice"] == "b42:3:ro"
    assert values["pin:bob"] == "reject"
    assert len(values) == len(lines)
    again = table.held(table.parse_map(table.map_text(lines)))
    assert again == table.Held(decoded.identity, servers, closing={900: 1795624241})


def test_ipv6_addresses_are_written_as_haproxy_reads_them() -> None:
    decoded = decode(placement({"a": (0, "fd00::1", 80)}, spread(1024, 0), generation=1))
    servers = table.assign(decoded, table.Held(), -1)
    assert table.held(table.entries(decoded, servers, {})).servers == servers
    assert f"server s [fd00::1]:80 {table.CHECK}\n" in table.backends(servers)


def test_what_is_no_entry_of_ours_is_passed_over() -> None:
    lines = [("cell:x", "1/a/10.0.0.1/80"), ("cell:1", "nonsense"), ("cell:2", "99999/a/10.0.0.1/80"), ("epoch", "1")]
    assert table.held(lines) == table.Held()


@settings(max_examples=40)
@given(st.lists(st.sets(st.integers(0, 40), min_size=1, max_size=15), min_size=1, max_size=12))
def test_cells_keep_their_backends_and_never_share_one(fleets: list[set[int]]) -> None:
    held, last = table.Held(), -1
    for fleet in fleets:
        decoded = decode(some(tuple(sorted(fleet))))
        servers = table.assign(decoded, held, last)
        backends = [server.backend for server in servers.values()]
        assert len(set(backends)) == len(backends)
        for index, server in servers.items():
            if index in held.servers:
                assert server.backend == held.servers[index].backend
            else:
                assert server.backend not in {old.backend for old in held.servers.values()}
        last = max([last, *backends])
        held = table.Held(decoded.identity, servers)


def test_a_cell_at_another_address_gets_another_backend() -> None:
    first = decode(placement({"a": (0, "10.0.0.1", 80), "b": (1, "10.0.0.2", 80)}, spread(1024, 0, 1), generation=1))
    held = table.Held(first.identity, table.assign(first, table.Held(), -1))
    moved = decode(placement({"a": (0, "10.0.0.9", 80), "b": (1, "10.0.0.2", 80)}, spread(1024, 0, 1), generation=2))
    servers = table.assign(moved, held, 1)
    assert (servers[0].backend, servers[1].backend) == (2, 1)


def test_a_full_fleet_finds_room_beside_a_full_fleet() -> None:
    cells = {f"c{i}": (i, "10.0.0.1", 80) for i in range(819)}
    first = decode(placement(cells, spread(1024, *range(819)), generation=1))
    held = table.Held(first.identity, table.assign(first, table.Held(), -1))
    others = {f"c{i}": (i, "10.0.0.1", 80) for i in range(5000, 5819)}
    second = decode(placement(others, spread(1024, *range(5000, 5819)), generation=2))
    taken = {server.backend for server in held.servers.values()}
    assert taken.isdisjoint(server.backend for server in table.assign(second, held, 818).values())


def test_a_few_entries_are_changed_in_place_and_the_identity_last() -> None:
    known = {str(slot): "b0:0" for slot in range(1024)} | {"pin:a;b": "b0:0", "uid": "u", "generation": "1"}
    moved = known | {"7": "b1:1", "generation": "2"}
    assert table.few_changes(known, moved) == [("7", "b1:1"), ("generation", "2")]
    assert table.few_changes(known, known) == []
    many = known | {str(slot): "b1:1" for slot in range(table.FEW + 1)}
    assert table.few_changes(known, many) is None, "a transaction is quicker"
    assert table.few_changes(known, known | {"cell:1": "1/b/10.0.0.1/80"}) is None, "a key is added"
    assert table.few_changes(known, {key: value for key, value in known.items() if key != "7"}) is None, "a key goes"
    assert table.few_changes(known, known | {"pin:a;b": "b1:1"}) is None, "a customer's key is no word of a command"


def test_batches_fit_into_haproxys_buffer_and_lose_nothing() -> None:
    lines = [f"{n} " + "x" * (n % 300) for n in range(2000)]
    batches = list(runtime_socket.chunks(lines))
    assert [line for batch in batches for line in batch] == lines
    assert all(sum(len(line) + 1 for line in batch) <= runtime_socket.PAYLOAD for batch in batches)


def test_a_template_without_one_of_the_places_is_refused() -> None:
    made = Settings("fleet", "shop", CustomerKey("Host"))
    with pytest.raises(ValueError, match="@MAP@ is missing"):
        config.render(TEMPLATE.replace("@MAP@", "/somewhere"), made, {})


def test_the_buckets_are_those_of_the_configuration() -> None:
    told = [
        int(ms) / 1000 for ms in re.findall(r"sc-inc-gpc\(\d,0\) if { var\(txn.answered\) -m int le (\d+) }", TEMPLATE)
    ]
    assert tuple(told) == figures.BOUNDS
    assert f"timeout server {streams.SERVER_TIMEOUT:.0f}s" in TEMPLATE


def test_figures_from_haproxys_tables() -> None:
    answer = (
        "# table: cells, type: integer, size:8192, used:2\n"
        "0x7f01: key=5 use=2 exp=0 shard=0 gpc0=7 gpc1=8 gpc2=8 gpc3=8 gpc4=8 gpc5=8 gpc6=8 gpc7=8 gpc8=8 gpc9=3"
        " conn_cur=2 http_req_cnt=12\n"
        "0x7f02: key=65535 use=0 exp=0 shard=0 gpc0=0 conn_cur=0 http_req_cnt=4\n"
    )
    servers = {5: table.Server(1, "a", "10.0.0.1", 80), 6: table.Server(2, "b", "10.0.0.2", 80)}
    running = {1: runtime_socket.RunningServer("10.0.0.1", 80, "down")}
    read = figures.read(answer, running, servers)
    assert read.rejected == 4
    assert read.cells[5] == figures.CellFigures(10, 3, 2, (7, 8, 8, 8, 8, 8, 8, 8, 8), "down")
    assert read.cells[6] == figures.CellFigures()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ROUTER": ""}, "ROUTER is not set"),
        ({"CUSTOMER_KEY_TYPE": "Query"}, "CUSTOMER_KEY_TYPE: 'Query'"),
        ({"CUSTOMER_KEY_NAME": "x y"}, "CUSTOMER_KEY_NAME: 'x y'"),
        ({"CUSTOMER_KEY_TYPE": "PathSegment", "CUSTOMER_KEY_SEGMENT": "99"}, "CUSTOMER_KEY_SEGMENT: 99"),
        ({"CUSTOMER_KEY_WHEN_ABSENT": "Guess"}, "CUSTOMER_KEY_WHEN_ABSENT: 'Guess'"),
        ({"DRAIN_TIMEOUT": "60s"}, "DRAIN_TIMEOUT: '60s' is not a number"),
        ({"IN_FLIGHT_MAX": "many"}, "IN_FLIGHT_MAX: 'many' is not a number"),
        ({"AGENT_BIND": "localhost"}, "AGENT_BIND: 'localhost' is not"),
    ],
)
def test_a_wrong_setting_is_named(changes: dict[str, str], message: str) -> None:
    right = {
        "NAMESPACE": "fleet",
        "ROUTER": "shop",
        "CUSTOMER_KEY_TYPE": "Header",
        "CUSTOMER_KEY_NAME": "x-customer-id",
    }
    from_environment(right)
    with pytest.raises(ValueError, match=re.escape(message)):
        from_environment(right | changes)
