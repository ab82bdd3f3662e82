"""The objects of a Router: whose they are, what they may, and that the same Router gives the same ones."""

import json
from typing import Any

import pytest

from recell.providers.routing.haproxy.objects import (
    ANNOTATION_CONTENT,
    Surroundings,
    differs,
    key_environment,
    name_of,
    router_objects,
)
from router.agent.settings import from_environment
from tests.unit.routing.builders import router

AROUND = Surroundings(image="recell/router:1", operator_namespace="recell-system")


def by_kind(**haproxy: Any) -> dict[str, dict[str, Any]]:
    return {obj["kind"]: obj for obj in router_objects(router(**haproxy), AROUND)}


def test_each_object_is_the_routers_and_the_placement_is_none_of_them() -> None:
    objects = router_objects(router(), AROUND)
    assert [obj["kind"] for obj in objects] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "Deployment",
        "PodDisruptionBudget",
        "Service",
    ]
    for obj in objects:
        meta = obj["metadata"]
        assert meta["namespace"] == "fleet"
        assert meta["labels"]["recell.dev/router"] == "shop"
        (owner,) = meta["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Router", "shop", "router-uid")
        assert meta["name"] == ("shop" if obj["kind"] == "Service" else name_of("shop"))


def test_the_same_router_gives_the_same_objects_and_any_change_another_hash() -> None:
    def hashes(**haproxy: Any) -> dict[str, str]:
        return {kind: obj["metadata"]["annotations"][ANNOTATION_CONTENT] for kind, obj in by_kind(**haproxy).items()}

    assert json.dumps(router_objects(router(), AROUND)) == json.dumps(router_objects(router(), AROUND))
    assert hashes() == hashes()
    changed = hashes(replicas=3)
    assert {kind for kind, found in hashes().items() if changed[kind] != found} == {"Deployment"}
    changed = hashes(service={"type": "NodePort", "port": 8000, "nodePort": 30080})
    assert {kind for kind, found in hashes().items() if changed[kind] != found} == {"Service"}


def test_what_differs_is_applied_and_nothing_else() -> None:
    wanted = by_kind()["Deployment"]
    assert differs(None, wanted)
    assert not differs({"metadata": {"annotations": dict(wanted["metadata"]["annotations"])}}, wanted)
    assert differs({"metadata": {"annotations": None}}, wanted)
    assert differs({"metadata": {}}, wanted)
    assert differs(by_kind(replicas=7)["Deployment"], wanted)


def test_every_container_passes_pod_security_restricted() -> None:
    pod = by_kind()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    containers = [*pod["initContainers"], *pod["containers"]]
    assert [container["name"] for container in containers] == ["agent", "haproxy"]
    for container in containers:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert pod["initContainers"][0]["restartPolicy"] == "Always", "a native sidecar"


def test_only_the_agent_has_credentials_and_they_are_for_its_own_placement() -> None:
    objects = by_kind()
    (rule,) = objects["Role"]["rules"]
    assert rule == {
        "apiGroups": ["recell.dev"],
        "resources": ["placements"],
        "resourceNames": ["shop"],
        "verbs": ["get", "list", "watch"],
    }
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    mounts = {c["name"]: {m["name"] for m in c["volumeMounts"]} for c in (*pod["initContainers"], *pod["containers"])}
    assert mounts == {"agent": {"run", "credentials"}, "haproxy": {"run"}}


def test_customers_get_in_from_anywhere_and_others_only_from_the_operator() -> None:
    customers, inside = by_kind()["NetworkPolicy"]["spec"]["ingress"]
    assert customers == {"ports": [{"protocol": "TCP", "port": 8080}]}
    (source,) = inside["from"]
    assert source["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "recell-system"}
    assert source["podSelector"]["matchLabels"] == {"app.kubernetes.io/component": "operator"}
    assert [port["port"] for port in inside["ports"]] == [8404, 8405]


def test_a_leaving_pod_has_time_for_what_it_began() -> None:
    pod = by_kind()["Deployment"]["spec"]["template"]["spec"]
    open_still = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > open_still + 30, "hard-stop-after in haproxy.cfg"


def test_a_router_may_name_its_own_image() -> None:
    def images(**haproxy: Any) -> set[str]:
        pod = by_kind(**haproxy)["Deployment"]["spec"]["template"]["spec"]
        return {container["image"] for container in (*pod["initContainers"], *pod["containers"])}

    assert images() == {"recell/router:1"}
    assert images(image="mine:2") == {"mine:2"}


@pytest.mark.parametrize(
    "key",
    [
        {"type": "Header", "name": "x-tenant"},
        {"type": "Cookie", "name": "tenant", "whenAbsent": "ClientAddress"},
        {"type": "Host"},
        {"type": "PathSegment", "segment": 2},
    ],
)
def test_the_agent_understands_what_the_deployment_says(key: dict[str, Any]) -> None:
    made = router(customerKey=key)
    assert made.spec.haproxy is not None
    agent = by_kind(customerKey=key)["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    environment = {item["name"]: item.get("value", "fleet") for item in agent["env"]}
    assert key_environment(made.spec.haproxy.customer_key).items() <= environment.items()
    settings = from_environment(environment)
    assert (settings.namespace, settings.router) == ("fleet", "shop")
    assert settings.customer_key.type == key["type"]
    assert settings.customer_key.name == key.get("name", "")
    assert settings.customer_key.segment == key.get("segment", 0)
    assert settings.customer_key.when_absent == key.get("whenAbsent", "Reject")


@pytest.mark.parametrize(
    ("told", "understood"), [({}, 60), ({"drainTimeout": "1h"}, 3600), ({"drainTimeout": "1500ms"}, 2)]
)
def test_the_agent_is_told_how_long_connections_may_last_in_whole_seconds(
    told: dict[str, Any], understood: int
) -> None:
    agent = by_kind(**told)["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    environment = {item["name"]: item.get("value", "fleet") for item in agent["env"]}
    assert from_environment(environment).drain_timeout == understood


def test_a_router_without_its_block_is_refused() -> None:
    broken = router()
    broken.spec.haproxy = None
    with pytest.raises(ValueError, match=r"Router shop: spec.haproxy is missing"):
        router_objects(broken, AROUND)
