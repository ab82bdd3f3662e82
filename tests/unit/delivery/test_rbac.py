"""The operator may do what its features need, and nothing else."""

from collections.abc import Iterator

import pytest
import yaml

from tests.unit.delivery.conftest import VARIANTS, Document, Render, named, of_kind
from tests.unit.delivery.programs import ROOT

Right = tuple[str, str, str]
"""Verb, group, resource."""

OPERATOR_ROLES = ("recell", "recell-namespaces", "recell-leadership", "recell-velero")
ROUTER_RIGHTS = {
    ("create", "apps", "deployments"),
    ("create", "", "services"),
    ("create", "", "serviceaccounts"),
    ("create", "rbac.authorization.k8s.io", "roles"),
    ("create", "rbac.authorization.k8s.io", "rolebindings"),
    ("create", "policy", "poddisruptionbudgets"),
    ("create", "networking.k8s.io", "networkpolicies"),
}
TEMPLATE_RIGHTS = {
    (verb, group, resource)
    for verb in ("create", "delete")
    for group, resources in (
        ("apps", ("deployments", "statefulsets")),
        ("", ("services", "configmaps", "persistentvolumeclaims", "serviceaccounts")),
    )
    for resource in resources
}
"""What the ordinary CellTemplate makes."""
RESTART_RIGHTS = {("patch", "apps", kind) for kind in ("deployments", "statefulsets", "daemonsets")} | {
    ("patch", "batch", "cronjobs"),
    ("patch", "batch", "jobs"),
    ("patch", "", "services"),
    ("patch", "discovery.k8s.io", "endpointslices"),
}
DATA_JOB_RIGHTS = {(verb, "batch", "jobs") for verb in ("get", "watch", "create", "delete")} | {("get", "", "pods/log")}

SNAPSHOT_RIGHTS = {
    (verb, group, resource)
    for verb in ("get", "list", "watch", "create", "delete")
    for group, resource in (("snapshot.storage.k8s.io", "volumesnapshots"), ("", "persistentvolumeclaims"))
}

POSTGRES_RIGHTS = {
    *((verb, "postgresql.cnpg.io", "clusters") for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *((verb, "postgresql.cnpg.io", "backups") for verb in ("get", "list", "watch", "create")),
}
VELERO_RIGHTS = {
    *((verb, "snapshot.storage.k8s.io", "volumesnapshots") for verb in ("list", "watch")),
    *((verb, "", "persistentvolumeclaims") for verb in ("get", "list", "watch", "create", "patch", "delete")),
}
"""Where cells' workloads live."""
GATEWAY_RIGHTS = {
    *((verb, "gateway.networking.k8s.io", "httproutes") for verb in ("get", "list", "watch", "create", "patch")),
    ("get", "gateway.networking.k8s.io", "gateways"),
}
GATEWAY_SHEDDING_RIGHTS = {
    (verb, group, resource)
    for verb in ("create", "patch")
    for group, resource in (
        ("apps", "deployments"),
        ("", "services"),
        ("policy", "poddisruptionbudgets"),
        ("networking.k8s.io", "networkpolicies"),
    )
}
ISOLATION_RIGHTS = {(verb, "networking.k8s.io", "networkpolicies") for verb in ("create", "patch", "delete", "list")}
DECOMMISSION_RIGHTS = {
    ("delete", "recell.dev", "cells"),
    ("delete", "apps", "deployments"),
    ("delete", "apps", "statefulsets"),
    ("delete", "apps", "daemonsets"),
    ("delete", "batch", "cronjobs"),
    ("delete", "", "persistentvolumeclaims"),
    ("delete", "", "services"),
    ("delete", "", "configmaps"),
    ("delete", "networking.k8s.io", "networkpolicies"),
    ("delete", "policy", "poddisruptionbudgets"),
}
FAILOVER_RIGHTS = {
    ("delete", "apps", "deployments"),
    ("delete", "", "services"),
    ("delete", "policy", "poddisruptionbudgets"),
    ("delete", "networking.k8s.io", "networkpolicies"),
}
FEATURES = {
    "haproxyRouter": ROUTER_RIGHTS,
    "gatewayApi": GATEWAY_RIGHTS,
    "gatewayShedding": GATEWAY_SHEDDING_RIGHTS,
    "routerFailover": FAILOVER_RIGHTS,
    "workloadRestart": RESTART_RIGHTS,
    "isolation": ISOLATION_RIGHTS,
    "dataJobs": DATA_JOB_RIGHTS,
    "volumeSnapshots": SNAPSHOT_RIGHTS,
    "cloudNativePG": POSTGRES_RIGHTS,
    "velero": VELERO_RIGHTS,
    "cellReplacement": TEMPLATE_RIGHTS | {(verb, "recell.dev", "cells") for verb in ("create", "delete")},
    "decommission": DECOMMISSION_RIGHTS,
    "dnsEndpoints": {
        (verb, "externaldns.k8s.io", "dnsendpoints") for verb in ("get", "list", "watch", "create", "patch")
    },
}


def roles(documents: list[Document]) -> list[Document]:
    return of_kind(documents, "Role", "ClusterRole")


def operator_roles(documents: list[Document]) -> list[Document]:
    return [role for role in roles(documents) if role["metadata"]["name"] in OPERATOR_ROLES]


def rights(role: Document) -> Iterator[Right]:
    for rule in role.get("rules", ()):  # the control plane fills in an aggregated role
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                for verb in rule["verbs"]:
                    yield verb, group, resource


def test_no_role_has_a_wildcard(installed: list[Document]) -> None:
    for role in roles(installed):
        for right in rights(role):
            assert "*" not in "".join(right), f"{role['metadata']['name']}: {right}"


def test_no_role_reaches_secrets_or_into_pods(installed: list[Document]) -> None:
    """But for the kubeconfigs that are named, where the feature is on."""
    forbidden = {"secrets", "pods/exec", "pods/attach", "pods/portforward", "pods/eviction", "serviceaccounts/token"}
    for role in roles(installed):
        for rule in role.get("rules", ()):
            if rule["resources"] == ["secrets"]:
                assert (rule["verbs"], rule["resourceNames"]) == (["list", "watch"], ["cluster-b"])
            else:
                assert not {*rule["resources"]} & forbidden, role["metadata"]["name"]


def test_kubeconfigs_are_read_in_fleet_namespaces_only(render: Render) -> None:
    documents = render({**VARIANTS["named-namespaces"], "features": {"remoteClusters": True}})
    reading = [role for role in roles(documents) if any(r["resources"] == ["secrets"] for r in role.get("rules", ()))]
    assert {(role["kind"], role["metadata"]["namespace"]) for role in reading} == {
        ("Role", "shop"),
        ("Role", "billing"),
    }
    off = render(VARIANTS["named-namespaces"])
    assert not [right for role in roles(off) for right in rights(role) if right[2] == "secrets"]


REMOTE = yaml.safe_load_all((ROOT / "manifests" / "remote-cluster.yaml").read_text())
REMOTE_ROLES = {d["metadata"]["name"]: d for d in REMOTE if d["kind"] == "Role"}
PARTS = {
    "recell-workloads": "workloadRestart",
    "recell-isolation": "isolation",
    "recell-data-jobs": "dataJobs",
    "recell-templates": "cellReplacement",
    "recell-decommission": "decommission",
}


@pytest.mark.parametrize(("name", "feature"), PARTS.items())
def test_the_rights_in_another_cluster_are_those_of_a_workload_namespace(
    render: Render, name: str, feature: str
) -> None:
    """But for those on Services: no cell of another cluster is reached by one, they are only made and deleted."""

    def at_home(*on: str) -> set[Right]:
        documents = render({**VARIANTS["named-namespaces"], "features": {name: name in on for name in FEATURES}})
        (role,) = (r for r in of_kind(documents, "Role") if r["metadata"]["namespace"] == "shop-data")
        return set(rights(role))

    seeing = at_home()
    needed = at_home(feature) if name == "recell-workloads" else at_home(feature) - seeing
    if name == "recell-workloads":
        needed = {right for right in needed if right[2] not in ("services", "endpointslices")}
    else:
        needed |= {right for right in seeing if right[2] == "services" and ("delete", *right[1:]) in needed}
    granted = set(rights(REMOTE_ROLES[name]))
    unread = {("get", "", "services"), ("watch", "", "services")} if name == "recell-decommission" else set()
    assert granted == needed - unread


def test_the_rights_in_another_cluster_are_in_one_namespace_but_for_its_consent() -> None:
    documents = [*yaml.safe_load_all((ROOT / "manifests" / "remote-cluster.yaml").read_text())]
    assert {*REMOTE_ROLES} == {*PARTS}
    (cluster,) = of_kind(documents, "ClusterRole")
    assert cluster["rules"] == [
        {"apiGroups": [""], "resources": ["namespaces"], "resourceNames": ["shop"], "verbs": ["get"]}
    ]
    bound = of_kind(documents, "RoleBinding", "ClusterRoleBinding")
    assert {each["roleRef"]["name"] for each in bound} == {*PARTS, "recell-consent"}
    assert {(s["kind"], s["name"]) for each in bound for s in each["subjects"]} == {("ServiceAccount", "recell")}


def test_the_operator_cannot_raise_its_own_rights(installed: list[Document]) -> None:
    for role in operator_roles(installed):
        for verb, group, resource in rights(role):
            assert verb not in ("bind", "escalate", "impersonate"), resource
            assert not (group == "rbac.authorization.k8s.io" and resource.startswith("cluster"))


def test_the_operator_deletes_what_a_feature_is_about_and_nothing_else(render: Render) -> None:
    """Rules 6 and 7: one by one, never a whole collection; no Router, no Placement, no Secret."""
    deleting = {name: {right for right in rights_of if right[0] == "delete"} for name, rights_of in FEATURES.items()}
    runs = {("delete", "recell.dev", "recoveryruns")}
    for feature in FEATURES:
        on = render({"features": {name: name == feature for name in FEATURES}})
        for role in operator_roles(on):
            deleted = {right for right in rights(role) if right[0].startswith("delete")}
            assert deleted <= deleting[feature] | runs, role["metadata"]["name"]


def test_other_kinds_of_templates_are_granted_by_a_label(render: Render) -> None:
    (role,) = (r for r in of_kind(render({}), "ClusterRole") if "aggregationRule" in r)
    assert role["metadata"]["name"] == "recell-templates"
    assert role["aggregationRule"] == {
        "clusterRoleSelectors": [{"matchLabels": {"recell.dev/aggregate-to-operator": "true"}}]
    }
    assert "rules" not in role, "they are the control plane's to fill in: an upgrade would fight over them"
    (bound,) = (b for b in of_kind(render({}), "ClusterRoleBinding") if b["roleRef"]["name"] == "recell-templates")
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "recell", "namespace": "recell-system"}]

    narrow = render(VARIANTS["named-namespaces"])
    places = {
        b["metadata"]["namespace"]
        for b in of_kind(narrow, "RoleBinding")
        if b["roleRef"] | {"apiGroup": ""} == {"kind": "ClusterRole", "name": "recell-templates", "apiGroup": ""}
    }
    assert places == {"shop", "billing", "shop-data"}
    off = render({"features": {"cellReplacement": False}})
    assert not [each for each in off if each["metadata"]["name"] == "recell-templates"]


def test_named_namespaces_get_roles_and_no_cluster_wide_rights(render: Render) -> None:
    documents = render(VARIANTS["named-namespaces"])
    bound = {each["roleRef"]["name"] for each in of_kind(documents, "ClusterRoleBinding")}
    assert bound == {"recell-namespaces"}
    cluster = named(documents, "ClusterRole", "recell-namespaces")
    assert cluster["rules"] == [
        {
            "apiGroups": [""],
            "resources": ["namespaces"],
            "resourceNames": ["billing", "shop", "shop-data"],
            "verbs": ["get"],
        }
    ]
    placed = {role["metadata"]["namespace"] for role in of_kind(documents, "Role")}
    assert placed == {"recell-system", "shop", "billing", "shop-data"}


def test_a_workload_namespace_gets_rights_on_workloads_only(render: Render) -> None:
    documents = render(VARIANTS["named-namespaces"])
    role = next(role for role in of_kind(documents, "Role") if role["metadata"]["namespace"] == "shop-data")
    assert set(rights(role)) > RESTART_RIGHTS
    others = set(rights(role)) - ISOLATION_RIGHTS - DATA_JOB_RIGHTS - DECOMMISSION_RIGHTS
    assert not [right for right in others if right[1] == "recell.dev"]
    assert {right for right in others if right[0] in ("create", "delete")} <= TEMPLATE_RIGHTS


@pytest.mark.parametrize(("feature", "belonging"), FEATURES.items())
def test_a_feature_brings_its_rights_and_takes_them_away(render: Render, feature: str, belonging: set[Right]) -> None:
    def granted(on: bool) -> set[Right]:
        # what one feature makes, another patches or deletes too
        others = {name: False for name in FEATURES if name != feature}
        documents = render({"features": {feature: on, **others}})
        return set(rights(named(documents, "ClusterRole", "recell")))

    assert belonging <= granted(True)
    assert not belonging & granted(False)


def test_in_veleros_namespace_backups_and_restores_are_made_and_never_deleted(render: Render) -> None:
    on = {"features": {"velero": True}, "velero": {"namespace": "backups"}}
    for values in (on, {**VARIANTS["named-namespaces"], **on}):
        role = named(render(values), "Role", "recell-velero")
        assert role["metadata"]["namespace"] == "backups"
        assert set(rights(role)) == {
            (verb, "velero.io", kind) for verb in ("get", "list", "watch", "create") for kind in ("backups", "restores")
        }
        (bound,) = (b for b in of_kind(render(values), "RoleBinding") if b["metadata"]["name"] == "recell-velero")
        assert bound["metadata"]["namespace"] == "backups"
    assert not [each for each in render({}) if each["metadata"]["name"] == "recell-velero"]


def test_every_operator_role_is_bound_to_the_operator_alone(installed: list[Document]) -> None:
    accounts = {each["spec"]["template"]["spec"]["serviceAccountName"] for each in of_kind(installed, "Deployment")}
    for binding in of_kind(installed, "RoleBinding", "ClusterRoleBinding"):
        subjects = {(each["kind"], each["namespace"], each["name"]) for each in binding["subjects"]}
        assert subjects == {("ServiceAccount", "recell-system", account) for account in accounts}


def test_the_lease_role_is_for_its_own_lease(installed: list[Document]) -> None:
    role = named(installed, "Role", "recell-leadership")
    for rule in role["rules"]:
        if rule["resources"] == ["leases"] and rule["verbs"] != ["create"]:
            assert rule["resourceNames"] == ["recell"]


def test_approving_and_moving_traffic_are_apart_from_editing(render: Render) -> None:
    documents = render({})
    edit = set(rights(named(documents, "ClusterRole", "recell-edit")))
    admin = set(rights(named(documents, "ClusterRole", "recell-admin")))
    for right in (
        ("update", "recell.dev", "recoveryruns/approval"),
        ("update", "recell.dev", "placements/switch"),
        ("patch", "recell.dev", "placements"),
    ):
        assert right in admin
        assert right not in edit


def test_people_are_given_no_status(installed: list[Document]) -> None:
    """A forged status would be believed: it is the record of a run."""
    for name in ("recell-view", "recell-edit", "recell-oncall", "recell-admin"):
        for role in roles(installed):
            if role["metadata"]["name"] == name:
                assert not [right for right in rights(role) if right[2].endswith("/status")]


def test_aggregation_can_be_switched_off(render: Render) -> None:
    for documents, expected in ((render({}), True), (render({"rbac": {"aggregate": False}}), False)):
        labels = named(documents, "ClusterRole", "recell-view")["metadata"]["labels"]
        assert ("rbac.authorization.k8s.io/aggregate-to-view" in labels) is expected
