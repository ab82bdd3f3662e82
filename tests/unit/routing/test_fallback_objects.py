"""The fallback's objects: its table is part of its pods, nothing else is needed, and one label is the switch."""

import json
from typing import Any

import pytest

from recell.api.fallback import Fallback
from recell.domain.fallback import Entry, Table
from recell.providers.routing.haproxy.fallback import (
    ANNOTATION_TABLE,
    fallback_objects,
    fallback_selector,
    rendered,
)
from recell.providers.routing.haproxy.objects import ANNOTATION_CONTENT, Surroundings, router_objects, selector
from router.agent import fallback as agent
from router.agent.settings import from_environment
from tests.unit.routing.builders import router

AROUND = Surroundings(image="recell/router:1", operator_namespace="recell-system")
TABLE = Table((Entry("a", "10.0.0.1", 80, "/healthz"), Entry("b", "10.0.0.2", 80, out=True)))


def made(table: Table = TABLE, replicas: int = 2, **haproxy: Any) -> list[dict[str, Any]]:
    found = router(**haproxy)
    spec = found.spec.model_copy(update={"fallback": Fallback(replicas=replicas)})
    return list(fallback_objects(found.model_copy(update={"spec": spec}), AROUND, table))


def deployment(**options: Any) -> dict[str, Any]:
    return next(obj for obj in made(**options) if obj["kind"] == "Deployment")


def test_its_objects_and_whose_they_are() -> None:
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in made()] == [
        ("NetworkPolicy", "shop-fallback"),
        ("Deployment", "shop-fallback"),
        ("PodDisruptionBudget", "shop-fallback"),
        ("Service", "shop-fallback"),
        ("Service", "shop-router"),
    ]
    for obj in made():
        (owner,) = obj["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Router", "shop")
        assert obj["metadata"]["labels"]["recell.dev/router"] == "shop"


def test_a_router_without_one_has_none() -> None:
    with pytest.raises(ValueError, match="has no fallback"):
        fallback_objects(router(), AROUND, TABLE)


def test_one_label_tells_the_two_apart_so_one_patch_switches() -> None:
    one, other = selector("shop"), fallback_selector("shop")
    assert one.keys() == other.keys()
    assert {label for label in one if one[label] != other[label]} == {"app.kubernetes.io/name"}
    services = {
        mode: next(o for o in router_objects(router(), AROUND, pods) if o["kind"] == "Service")
        for mode, pods in (("primary", None), ("fallback", other))
    }
    assert services["primary"]["spec"]["selector"] == one
    assert services["fallback"]["spec"]["selector"] == other
    marks = {service["metadata"]["annotations"][ANNOTATION_CONTENT] for service in services.values()}
    assert len(marks) == 2


def test_the_sides_services_are_for_inside_whatever_the_customers_is() -> None:
    for obj in made(service={"type": "LoadBalancer", "port": 8000, "nodePort": 30080}):
        if obj["kind"] == "Service":
            assert obj["spec"]["type"] == "ClusterIP"
            assert obj["spec"]["ports"] == [{"name": "http", "protocol": "TCP", "port": 8000, "targetPort": 8080}]


def test_another_table_is_another_pod_and_the_same_one_is_not() -> None:
    def template(table: Table) -> dict[str, Any]:
        found: dict[str, Any] = deployment(table=table)["spec"]["template"]
        return found

    assert template(TABLE) == template(Table(TABLE.entries))
    other = Table((TABLE.entries[0],))
    assert template(TABLE) != template(other)
    told = rendered(deployment(table=other))
    assert told is not None
    assert (told.id, told.order) == (other.id, ("a",))
    assert rendered({"metadata": {"annotations": {}}}) is None


def test_nothing_is_lost_while_its_pods_change() -> None:
    spec = deployment(replicas=3)["spec"]
    assert spec["replicas"] == 3
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    (haproxy,) = spec["template"]["spec"]["containers"]
    assert haproxy["lifecycle"]["preStop"] == {"sleep": {"seconds": 3}}


def test_its_pods_have_no_credentials_and_read_the_table_that_they_carry() -> None:
    pod = deployment()["spec"]["template"]
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "serviceAccountName" not in pod["spec"]
    assert [volume for volume in pod["spec"]["volumes"] if "projected" in volume] == []
    decoded = agent.decode(json.loads(pod["metadata"]["annotations"][ANNOTATION_TABLE]))
    assert [(cell.name, cell.check, cell.out) for cell in decoded.cells] == [("a", "/healthz", False), ("b", "", True)]
    assert decoded.id == TABLE.id
    (render,) = pod["spec"]["initContainers"]
    settings = from_environment({entry["name"]: entry["value"] for entry in render["env"]})
    assert str(settings.template) == "/etc/recell/fallback.cfg"
    for container in (*pod["spec"]["initContainers"], *pod["spec"]["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_largest_table_fits_into_a_pods_annotations() -> None:
    entries = tuple(
        Entry(f"{'c' * 59}-{n:03}", "fd00:1234:5678:9abc:def0:1234:5678:9abc", 65535, "/healthz") for n in range(819)
    )
    annotations = deployment(table=Table(entries))["spec"]["template"]["metadata"]["annotations"]
    assert sum(len(name) + len(value) for name, value in annotations.items()) < 256 * 1024
