"""Endpoints of a Service, counted once each."""

from typing import Any

import pytest

from recell.domain.observation import Endpoints
from recell.engine.errors import BadInput, NotFound
from recell.providers.kube.api import Object
from recell.providers.kube.services import Address, address, endpoints, public_addresses, slim_service


def service(*ports: Any, **spec: Any) -> Object:
    metadata = {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "1"}
    return {"metadata": metadata, "spec": {"clusterIP": "10.0.0.7", "ports": [*ports] or [{"port": 80}]} | spec}


def piece(*found: Any, port_name: str | None = None) -> Object:
    return {"metadata": {}, "ports": [{"name": port_name, "port": 8080}], "endpoints": [*found]}


def endpoint(uid: str, *, ip: str = "10.1.0.1", **conditions: bool | None) -> Object:
    return {"addresses": [ip], "conditions": conditions, "targetRef": {"kind": "Pod", "name": f"web-{uid}", "uid": uid}}


@pytest.mark.parametrize(
    ("slices", "ready", "total"),
    [
        ([piece()], 0, 0),
        ([{"metadata": {}, "ports": None, "endpoints": None}], 0, 0),
        ([piece(endpoint("1", ready=True), endpoint("2", ready=False))], 1, 2),
        ([piece(endpoint("1"), endpoint("2", ready=None))], 2, 2),
        ([piece(endpoint("1", ready=True), endpoint("2", ready=False, serving=True, terminating=True))], 1, 1),
        ([piece(endpoint("1", ready=True)), piece(endpoint("1", ip="fd00::1", ready=True))], 1, 1),
        ([piece(endpoint("1", ready=True)), piece(endpoint("2", ready=True))], 2, 2),
        ([piece({"addresses": ["192.0.2.1"]}, {"addresses": ["192.0.2.2"]})], 2, 2),
        ([piece(endpoint("1", ready=True), port_name="admin")], 0, 1),
    ],
)
def test_counting(slices: list[Object], ready: int, total: int) -> None:
    assert endpoints(service(), slices, 80) == Endpoints(True, True, ready, total)


def test_what_is_not_known_is_not_zero() -> None:
    assert endpoints(service(), [], 80) is None


def test_a_port_is_found_by_its_number_and_its_slices_by_its_name() -> None:
    two = service({"name": "http", "port": 80}, {"name": "admin", "port": 81})
    slices = [piece(endpoint("1", ready=True), port_name="http")]
    assert endpoints(two, slices, 80) == Endpoints(True, True, 1, 1)
    assert endpoints(two, slices, 81) == Endpoints(True, True, 0, 1)
    assert endpoints(two, slices, 8080) == Endpoints(service_found=True, port_found=False)


def test_the_address_is_the_cluster_ip() -> None:
    assert address(slim_service(service()), 80) == Address("10.0.0.7", 80)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (service(clusterIP="None"), "is headless"),
        (service(type="ExternalName", clusterIP=""), "type ExternalName"),
        (service({"port": 8080}, {"port": 8443}), "has no TCP port 80; its ports: 8080, 8443"),
        (service({"port": 80, "protocol": "UDP"}), "has no TCP port 80"),
    ],
)
def test_what_the_router_cannot_use_is_refused_by_field(seen: Object, told: str) -> None:
    with pytest.raises(BadInput, match=told) as refused:
        address(slim_service(seen), 80)
    assert str(refused.value).startswith("spec.backend.service.")


def balanced(*ingress: Object, type: str = "LoadBalancer") -> Object:
    return service(type=type) | {"status": {"loadBalancer": {"ingress": [*ingress]}}}


def test_what_a_load_balancer_is_reached_by_is_public() -> None:
    found = public_addresses(balanced({"ip": "192.0.2.1"}, {"hostname": "web.elb.example.com"}), 80)
    assert found == (Address("192.0.2.1", 80), Address("web.elb.example.com", 80))
    assert public_addresses(slim_service(balanced({"ip": "192.0.2.1"})), 80) == (Address("192.0.2.1", 80),)


def test_a_service_without_a_public_address_is_refused_with_the_next_step() -> None:
    with pytest.raises(BadInput, match="is of type ClusterIP, which has no public address"):
        public_addresses(balanced(type="ClusterIP"), 80)
    with pytest.raises(NotFound, match=r"shop/web has no address yet: status.loadBalancer.ingress is empty"):
        public_addresses(balanced(), 80)
