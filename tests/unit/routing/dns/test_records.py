"""From a Placement to records: who has one, with which weight, and when nothing is to be published."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api.dns import DNS
from recell.providers.routing.dns.records import Record, answered, endpoint, records
from tests.unit.routing.dns.builders import NAME, block, dns_router, hold, placed


def weights(block: DNS, slots: dict[str, int], **more: Any) -> dict[str, int | None]:
    return {record.cell: record.weight for record in records(placed(slots, **more).spec, block)}


def test_the_cell_that_serves_most_has_the_greatest_weight_and_the_others_their_part_of_it() -> None:
    assert weights(block(), {"a": 512, "b": 512}) == {"a": 255, "b": 255}
    assert weights(block(), {"a": 486, "b": 538}) == {"a": 230, "b": 255}
    assert weights(block(weights={"max": 10}), {"a": 512, "b": 512}) == {"a": 10, "b": 10}


def test_a_cell_with_a_single_slot_still_has_a_weight() -> None:
    assert weights(block(), {"a": 1, "b": 1023}) == {"a": 1, "b": 255}


def test_a_drained_cell_has_no_record_or_weight_0_where_records_cannot_be_deleted() -> None:
    assert weights(block(), {"a": 0, "b": 1024}) == {"b": 255}
    kept = block(weights={"drained": "ZeroWeight"})
    assert weights(kept, {"a": 0, "b": 1024}) == {"a": 0, "b": 255}
    assert answered(records(placed({"a": 0, "b": 1024}).spec, kept)) == {"192.0.2.2"}


@pytest.mark.parametrize("state", ["Isolated", "Retired", "Quarantined"])
def test_an_isolated_cell_has_no_record_whatever_is_said_about_drained_ones(state: str) -> None:
    kept = block(weights={"drained": "ZeroWeight"})
    assert weights(kept, {"a": 0, "b": 1024}, holds=[hold("a", state)]) == {"b": 255}


def test_never_are_all_weights_zero_and_nobody_is_sent_to_a_cell_that_may_not_serve() -> None:
    for policy in (block(), block(weights={"drained": "ZeroWeight"}), block(routingPolicy="Simple")):
        assert records(placed({"a": 0, "b": 0}).spec, policy) == ()


@given(st.lists(st.integers(0, 400), min_size=1, max_size=8).filter(lambda parts: 0 < sum(parts) <= 1024))
def test_weights_are_whole_bounded_and_in_proportion(parts: list[int]) -> None:
    found = weights(block(), {f"c{n}": part for n, part in enumerate(parts)})
    assert set(found) == {f"c{n}" for n, part in enumerate(parts) if part}
    assert max(found.values(), default=None, key=lambda w: w or 0) == 255
    for name, weight in found.items():
        assert weight is not None
        assert 1 <= weight <= 255
        assert abs(weight / 255 - parts[int(name[1:])] / max(parts)) <= 1 / 255


def test_one_simple_record_has_the_addresses_of_all_cells_that_serve() -> None:
    assert records(placed({"a": 400, "b": 0, "c": 624}).spec, block(routingPolicy="Simple")) == (
        Record(("192.0.2.1", "192.0.2.3")),
    )


def test_the_endpoint_is_what_external_dns_reads() -> None:
    router = dns_router()
    told = block(ttl="30s", providerSpecific=[{"name": "aws/evaluate-target-health", "value": "false"}])
    made = endpoint(router, placed({"a": 256, "b": 768}, generation=7, epoch=3), told)
    assert (made["apiVersion"], made["kind"]) == ("externaldns.k8s.io/v1alpha1", "DNSEndpoint")
    assert made["metadata"]["annotations"]["recell.dev/placement"] == "placement-1/3/7"
    assert made["metadata"]["ownerReferences"][0]["uid"] == "r1"
    assert made["spec"]["endpoints"][0] == {
        "dnsName": NAME,
        "recordType": "A",
        "recordTTL": 30,
        "targets": ["192.0.2.1"],
        "setIdentifier": "a",
        "providerSpecific": [
            {"name": "aws/evaluate-target-health", "value": "false"},
            {"name": "aws/weight", "value": "85"},
        ],
    }
    simple = endpoint(router, placed({"a": 256, "b": 768}), block(routingPolicy="Simple"))
    assert simple["spec"]["endpoints"] == [
        {"dnsName": NAME, "recordType": "A", "recordTTL": 60, "targets": ["192.0.2.1", "192.0.2.2"]}
    ]


def test_a_newer_placement_with_the_same_records_gives_the_same_content_and_any_other_record_another() -> None:
    router = dns_router()

    def content(told: DNS, **slots: int) -> str:
        for generation in (1, 9):
            made = endpoint(router, placed(slots, generation=generation), told)
        return str(made["metadata"]["annotations"]["recell.dev/content"])

    assert content(block(), a=512, b=512) == content(block(), a=256, b=256)
    told = {content(block(), a=512, b=512), content(block(), a=100, b=924), content(block(ttl="5s"), a=512, b=512)}
    assert len(told) == 3


def test_the_same_address_in_two_forms_is_one() -> None:
    made = records(placed({"a": 512, "b": 512}, addresses={"a": "2001:DB8:0:0::1", "b": "2001:db8::2"}).spec, block())
    assert answered(made) == {"2001:db8::1", "2001:db8::2"}
    assert answered([Record(("Shop-A.Example.COM.",), "a", 1)]) == {"shop-a.example.com"}
