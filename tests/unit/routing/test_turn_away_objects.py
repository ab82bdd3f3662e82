"""What answers in place of a Gateway's cells: it needs nothing but its image, and may do nothing."""

from typing import Any

from recell.providers.routing.gateway.turn_away import turn_away_objects, turn_away_selector
from recell.providers.routing.haproxy.fallback import fallback_selector
from recell.providers.routing.haproxy.objects import Surroundings, selector
from tests.unit.routing.test_gateway_route import router

AROUND = Surroundings(image="recell/router:1", operator_namespace="recell-system")


def made(kind: str) -> list[dict[str, Any]]:
    return [obj for obj in turn_away_objects(router(), AROUND) if obj["kind"] == kind]


def test_its_objects_and_whose_they_are() -> None:
    found = turn_away_objects(router(), AROUND)
    assert [(obj["kind"], obj["metadata"]["name"]) for obj in found] == [
        ("NetworkPolicy", "shop-turn-away"),
        ("Deployment", "shop-turn-away"),
        ("PodDisruptionBudget", "shop-turn-away"),
        ("Service", "shop-shed"),
        ("Service", "shop-circuit-open"),
    ]
    for obj in found:
        (owner,) = obj["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"]) == ("Router", "shop")
        assert obj["metadata"]["labels"]["recell.dev/router"] == "shop"


def test_each_reason_is_a_port_of_the_same_pods_and_they_are_nobody_elses() -> None:
    services = [(obj["spec"]["ports"][0]["port"], obj["spec"]["ports"][0]["targetPort"]) for obj in made("Service")]
    assert services == [(80, 8080), (80, 8081)]
    own = turn_away_selector("shop")
    assert all(obj["spec"]["selector"] == own for obj in made("Service"))
    assert own not in (selector("shop"), fallback_selector("shop"))
    (policy,) = made("NetworkPolicy")
    everybody, operator = policy["spec"]["ingress"]
    assert [port["port"] for port in everybody["ports"]] == [8080, 8081]
    assert [port["port"] for port in operator["ports"]] == [8404]


def test_its_pods_need_nothing_and_may_nothing() -> None:
    (deployment,) = made("Deployment")
    pod = deployment["spec"]["template"]["spec"]
    assert turn_away_selector("shop").items() <= deployment["spec"]["template"]["metadata"]["labels"].items()
    assert pod["automountServiceAccountToken"] is False
    assert not {"initContainers", "volumes", "serviceAccountName"} & pod.keys()
    assert pod["securityContext"]["runAsNonRoot"] is True
    (container,) = pod["containers"]
    assert container["image"] == "recell/router:1"
    assert container["command"] == ["haproxy", "-db", "-f", "/etc/recell/turn-away.cfg"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
