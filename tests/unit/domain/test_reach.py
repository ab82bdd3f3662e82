"""Which cells a Router can have, by what their address is."""

import pytest

from recell.api import Router
from recell.api.dns import RecordType
from recell.domain.reach import record_type, unfit
from tests.unit.domain.builders import cell
from tests.unit.routing.dns.builders import dns_router

HAPROXY = Router.model_validate(
    {
        "spec": {
            "type": "HAProxy",
            "customerData": "Shared",
            "haproxy": {"customerKey": {"type": "Header", "name": "x-customer-id"}},
        }
    }
)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("192.0.2.1", RecordType.A),
        ("2001:db8::1", RecordType.AAAA),
        ("a-1.elb.example.com", RecordType.CNAME),
        ("10.example", RecordType.CNAME),
    ],
)
def test_an_address_is_the_target_of_one_type_of_record(address: str, kind: RecordType) -> None:
    assert record_type(address) is kind
    for wanted in RecordType:
        why = unfit(dns_router({"recordType": str(wanted)}), cell(), address)
        assert (why is None) == (wanted is kind)
        assert why is None or (address in why and f"spec.dns.recordType {kind}" in why)


def test_a_router_that_connects_itself_needs_an_ip_address() -> None:
    assert unfit(HAPROXY, cell(), "10.0.0.7") is None
    assert unfit(HAPROXY, cell(), "2001:db8::1") is None
    assert "needs an IP address" in str(unfit(HAPROXY, cell(), "shop-a.example.com"))
