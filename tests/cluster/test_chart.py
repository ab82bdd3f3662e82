"""The chart on a real API server: what its roles allow, what its policies refuse, what upgrade and uninstall keep.

The release watches namespaces of its own only, so that neither its operator nor its policies touch other tests.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

from tests.unit.delivery.programs import program

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "recell"
RELEASE = "recell-chart-test"
IMAGE_VALUES = {"repository": "recell/operator", "tag": "0.1.0", "pullPolicy": "Never"}

HACK_CLUSTER = ROOT / "hack" / "cluster"
BUILD_SECONDS = 1200
KUBECTL_SECONDS = 330
EVENTUALLY = 180.0

Object = dict[str, Any]


@dataclass(frozen=True)
class Namespaces:
    """Where the operator is, the fleet that it watches, a namespace of workloads, and one it knows nothing of."""

    system: str
    fleet: str
    workloads: str
    other: str


class Refused(AssertionError):
    """What kubectl or Helm said."""


class Cluster:
    """kubectl and Helm on the test cluster, as somebody."""

    def __init__(self, kubeconfig: Path, api: client.ApiClient) -> None:
        self._api = api
        self._environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self._helm = program("helm")

    def _run(self, command: list[str], stdin: str | None, within: float) -> str:
        done = subprocess.run(
            command, env=self._environment, input=stdin, capture_output=True, text=True, timeout=within, check=False
        )
        if done.returncode != 0:
            raise Refused(f"{' '.join(command)}: {done.stderr or done.stdout}")
        return done.stdout

    def kubectl(self, *arguments: str, stdin: Object | None = None, account: str | None = None) -> str:
        who = ["--as", f"system:serviceaccount:{account}"] if account else []
        return self._run(["kubectl", *who, *arguments], json.dumps(stdin) if stdin else None, KUBECTL_SECONDS)

    def apply_dry(self, obj: Object, *, account: str | None = None) -> None:
        """Everything but storing: schema, authorization, admission."""
        verb = ("create", "-f", "-", "--dry-run=server", "--validate=strict")
        self.kubectl(*verb, stdin=obj, account=account)

    def refusal(self, obj: Object, *, account: str | None = None) -> str:
        """What is said to it; nothing if it is taken."""
        try:
            self.apply_dry(obj, account=account)
        except Refused as refused:
            return str(refused)
        return ""

    def helm(self, *arguments: str, values: Object | None = None) -> str:
        stdin = json.dumps(values) if values is not None else None
        flags = ["--values", "-"] if values is not None else []
        return self._run([self._helm, *arguments, *flags], stdin, 400)

    def recell(self, *arguments: str) -> str:
        return self._run([str(Path(sys.executable).parent / "recell"), *arguments], None, 90)

    def can(self, account: str, verb: str, resource: str, namespace: str) -> bool:
        """As `kubectl auth can-i` asks; `resource` is written plural[/subresource][.group]."""
        names, _, group = resource.partition(".")
        plural, _, subresource = names.partition("/")
        home = account.partition(":")[0]
        review = client.AuthorizationV1Api(self._api).create_subject_access_review(
            {
                "spec": {
                    "user": f"system:serviceaccount:{account}",
                    "groups": ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"],
                    "resourceAttributes": {
                        "namespace": namespace,
                        "verb": verb,
                        "group": group,
                        "resource": plural,
                        "subresource": subresource,
                    },
                }
            },
            _request_timeout=60,
        )
        return bool(review.status.allowed)


@pytest.fixture(scope="module")
def cluster(kubeconfig: Path, api: client.ApiClient) -> Cluster:
    return Cluster(kubeconfig, api)


@pytest.fixture(scope="module")
def namespaces(api: client.ApiClient, crds: dict[str, Any]) -> Iterator[Namespaces]:
    core = client.CoreV1Api(api)
    made = {}
    for role in ("system", "fleet", "workloads", "other"):
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        metadata = {"generateName": f"recell-chart-{role}-", "labels": labels}
        made[role] = core.create_namespace({"metadata": metadata}, _request_timeout=60).metadata.name
    yield Namespaces(**made)
    for name in made.values():
        core.delete_namespace(name, _request_timeout=60)


@pytest.fixture(scope="module")
def values(namespaces: Namespaces) -> Object:
    return {
        "image": IMAGE_VALUES,
        "watch": {"namespaces": [namespaces.fleet], "workloadNamespaces": [namespaces.workloads]},
        "rbac": {"aggregate": False},
    }


def install(cluster: Cluster, namespaces: Namespaces, values: Object) -> None:
    """Returns once the server acts by it: it learns of roles and policies a moment after it has stored them."""
    where = ("--namespace", namespaces.system)
    cluster.helm("install", RELEASE, str(CHART), *where, "--take-ownership", "--force-conflicts", values=values)
    account = f"{namespaces.system}:{RELEASE}"
    for namespace, resource in ((namespaces.fleet, "cells.recell.dev"), (namespaces.workloads, "deployments.apps")):
        eventually(
            f"its account may write {resource}",
            lambda at=namespace, what=resource: cluster.can(account, "delete", what, at),
        )
    automatic = run(namespaces.fleet, trigger="Automatic")
    eventually("its policies are in force", lambda: "spec.trigger" in cluster.refusal(automatic))


@pytest.fixture(scope="module")
def release(cluster: Cluster, namespaces: Namespaces, values: Object) -> Iterator[str]:
    """The chart, installed; its CRDs were there already and are taken over."""
    where = ("--namespace", namespaces.system)
    install(cluster, namespaces, values)
    yield RELEASE
    cluster.helm("uninstall", RELEASE, *where, "--ignore-not-found", "--no-hooks", "--wait")
    # nobody is left to drop the finalizers of what a failed test left behind
    cluster.recell("uninstall-check", "--force", "--yes", "-n", namespaces.fleet)


@pytest.fixture(scope="module")
def running(cluster: Cluster, kubeconfig: Path, release: str, namespaces: Namespaces) -> str:
    """The release, with pods made from this tree."""
    name = kubeconfig.parent.name
    told = subprocess.run(
        [HACK_CLUSTER, "kubeconfig", "--name", name], capture_output=True, text=True, timeout=60, check=False
    )
    if Path(told.stdout.strip()) != kubeconfig:
        pytest.skip(f"{kubeconfig} is no cluster of hack/cluster: there is no way to bring an image into it")
    tag = f"{IMAGE_VALUES['repository']}:{IMAGE_VALUES['tag']}"
    subprocess.run(
        [HACK_CLUSTER, "build-image", "--name", name, "--tag", tag, "--context", ROOT],
        check=True,
        timeout=BUILD_SECONDS,
    )
    # pods that found no image wait ever longer before they look again
    cluster.kubectl("-n", namespaces.system, "rollout", "restart", f"deployment/{release}")
    cluster.kubectl("-n", namespaces.system, "rollout", "status", f"deployment/{release}", "--timeout=300s")
    return release


@pytest.fixture(scope="module")
def operator(release: str, namespaces: Namespaces) -> str:
    """The operator's account."""
    return f"{namespaces.system}:{release}"


@pytest.fixture(scope="module")
def people(cluster: Cluster, release: str, namespaces: Namespaces) -> dict[str, str]:
    """One account for each role for people, bound in the fleet's namespace."""
    for role in ("view", "edit", "oncall", "admin"):
        cluster.kubectl("-n", namespaces.other, "create", "serviceaccount", role)
        # the roles add up, as aggregation has it
        for part in {"admin": ("view", "edit", "admin"), "edit": ("view", "edit")}.get(role, (role,)):
            cluster.kubectl(
                *("-n", namespaces.fleet, "create", "rolebinding", f"{role}-{part}"),
                *(f"--clusterrole={release}-{part}", f"--serviceaccount={namespaces.other}:{role}"),
            )
    accounts = {role: f"{namespaces.other}:{role}" for role in ("view", "edit", "oncall", "admin")}
    for role, verb, resource in (
        ("view", "list", "cells.recell.dev"),
        ("edit", "create", "recoveryruns.recell.dev"),
        ("oncall", "update", "recoveryruns/approval.recell.dev"),
        ("admin", "update", "placements/switch.recell.dev"),
    ):
        may = lambda who=accounts[role], verb=verb, what=resource: cluster.can(who, verb, what, namespaces.fleet)  # noqa: E731
        eventually(f"{role} is in force", may)
    return accounts


# What the operator may do


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        *((verb, f"{kind}.recell.dev") for verb in ("get", "list", "watch") for kind in ("cells", "recoveryfreezes")),
        ("patch", "cells.recell.dev"),
        ("patch", "cells/status.recell.dev"),
        ("patch", "routers/status.recell.dev"),
        ("patch", "recoveryruns/status.recell.dev"),
        ("create", "recoveryruns.recell.dev"),
        ("delete", "recoveryruns.recell.dev"),
        ("update", "placements.recell.dev"),
        ("create", "events.events.k8s.io"),
        ("create", "deployments.apps"),
        ("create", "networkpolicies.networking.k8s.io"),
        ("patch", "rolebindings.rbac.authorization.k8s.io"),
        ("patch", "statefulsets.apps"),
        ("list", "pods"),
        ("watch", "endpointslices.discovery.k8s.io"),
        ("watch", "celltemplates.recell.dev"),
        ("patch", "celltemplates/status.recell.dev"),
        ("create", "cells.recell.dev"),
        ("delete", "cells.recell.dev"),
        *(
            (verb, kind)
            for verb in ("create", "patch", "delete")
            for kind in ("statefulsets.apps", "services", "configmaps", "persistentvolumeclaims", "serviceaccounts")
        ),
    ],
)
def test_the_operator_may(cluster: Cluster, operator: str, namespaces: Namespaces, verb: str, resource: str) -> None:
    assert cluster.can(operator, verb, resource, namespaces.fleet)
    assert not cluster.can(operator, verb, resource, namespaces.other), "outside of its namespaces"


@pytest.mark.parametrize(
    ("verb", "resource"),
    [
        ("get", "secrets"),
        ("list", "secrets"),
        ("delete", "placements.recell.dev"),
        ("delete", "routers.recell.dev"),
        ("patch", "celltemplates.recell.dev"),
        ("create", "recoveryfreezes.recell.dev"),
        ("create", "daemonsets.apps"),
        ("create", "ingresses.networking.k8s.io"),
        ("delete", "persistentvolumes"),
        ("list", "roles.rbac.authorization.k8s.io"),
        ("create", "pods"),
        ("delete", "pods"),
        ("create", "pods/exec"),
        ("impersonate", "serviceaccounts"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("bind", "roles.rbac.authorization.k8s.io"),
        ("create", "serviceaccounts/token"),
    ],
)
def test_the_operator_may_not(
    cluster: Cluster, operator: str, namespaces: Namespaces, verb: str, resource: str
) -> None:
    for namespace in (namespaces.fleet, namespaces.workloads, namespaces.system):
        assert not cluster.can(operator, verb, resource, namespace)


def test_in_a_namespace_of_workloads_it_restarts_isolates_and_makes_what_cells_consist_of(
    cluster: Cluster, operator: str, namespaces: Namespaces
) -> None:
    for verb in ("patch", "create", "delete"):
        assert cluster.can(operator, verb, "deployments.apps", namespaces.workloads)
        assert not cluster.can(operator, verb, "deployments.apps", namespaces.system)
    for verb in ("list", "create", "patch", "delete"):  # around isolated cells
        assert cluster.can(operator, verb, "networkpolicies.networking.k8s.io", namespaces.workloads)
    assert not cluster.can(operator, "get", "cells.recell.dev", namespaces.workloads)


def test_a_labelled_role_grants_what_else_templates_make(
    cluster: Cluster, operator: str, namespaces: Namespaces
) -> None:
    group = f"{namespaces.fleet}.example.com"  # of these tests: others, which were killed, may have left their role
    databases = f"databases.{group}"

    def granted(namespace: str) -> bool:
        return all(cluster.can(operator, verb, databases, namespace) for verb in ("patch", "delete"))

    assert not granted(namespaces.fleet)
    name = f"{namespaces.fleet}-databases"
    rules = [{"apiGroups": [group], "resources": ["databases"], "verbs": ["patch", "delete"]}]
    metadata = {"name": name, "labels": {"recell.dev/aggregate-to-operator": "true"}}
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": metadata, "rules": rules}
    cluster.kubectl("create", "-f", "-", stdin=role)
    try:
        eventually("the aggregated role is filled in", lambda: granted(namespaces.fleet))
        assert granted(namespaces.workloads)
        assert not granted(namespaces.other)
        assert not granted(namespaces.system)
    finally:
        cluster.kubectl("delete", "clusterrole", name)


def test_a_role_beyond_its_own_rights_cannot_be_made(cluster: Cluster, operator: str, namespaces: Namespaces) -> None:
    """It makes Roles for the routers: never one that says more than it may do itself."""
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "router", "namespace": namespaces.fleet},
        "rules": [{"apiGroups": ["recell.dev"], "resources": ["placements"], "verbs": ["get", "list", "watch"]}],
    }
    cluster.apply_dry(role, account=operator)
    role["rules"] = [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["get"]}]
    with pytest.raises(Refused, match="is attempting to grant RBAC permissions not currently held"):
        cluster.apply_dry(role, account=operator)


# What people may do


def run(namespace: str, name: str = "r1", **spec: Any) -> Object:
    return {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "RecoveryRun",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"targetRef": {"kind": "Cell", "name": "cell-a"}, **spec},
    }


def placement(namespace: str) -> Object:
    return {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "Placement",
        "metadata": {"name": "shop", "namespace": namespace},
        "spec": {"epoch": 1, "slots": 1024, "nextIndex": 0, "homes": "", "serving": ""},
    }


APPROVALS = {"control": {"approvals": [{"gate": "start", "decisionID": "d1"}]}}


def test_only_the_operator_starts_automatic_runs(
    cluster: Cluster, operator: str, people: dict[str, str], namespaces: Namespaces
) -> None:
    automatic = run(namespaces.fleet, trigger="Automatic")
    cluster.apply_dry(automatic, account=operator)
    for account in (people["edit"], people["admin"], None):  # None: the cluster's administrator
        with pytest.raises(Refused, match=r"spec\.trigger: Automatic is for runs that the operator starts"):
            cluster.apply_dry(automatic, account=account)
        cluster.apply_dry(run(namespaces.fleet, trigger="Manual"), account=account)
        cluster.apply_dry(run(namespaces.fleet), account=account)


def test_only_who_may_approve_opens_a_gate(cluster: Cluster, people: dict[str, str], namespaces: Namespaces) -> None:
    refusal = (
        rf"spec\.control\.approvals: system:serviceaccount:{people['edit']} may not open gate start;"
        rf" it needs the verb update on recoveryruns/approval \(group recell\.dev\) in namespace {namespaces.fleet}"
    )
    with pytest.raises(Refused, match=refusal):
        cluster.apply_dry(run(namespaces.fleet, **APPROVALS), account=people["edit"])

    name = "approve-me"
    # an operator that runs ends it as Skipped: the cell is not there, and nothing depends on it here
    cluster.kubectl("create", "-f", "-", stdin=run(namespaces.fleet, name))
    patch = ("-n", namespaces.fleet, "patch", "recoveryrun", name, "--type=merge", "--dry-run=server", "-p")
    approve = json.dumps({"spec": APPROVALS})
    with pytest.raises(Refused, match=refusal):
        cluster.kubectl(*patch, approve, account=people["edit"])
    for role in ("oncall", "admin"):
        cluster.kubectl(*patch, approve, account=people[role])
    # who may not approve may still stop
    for control in ({"paused": True}, {"abort": True}):
        cluster.kubectl(*patch, json.dumps({"spec": {"control": control}}), account=people["edit"])


def test_an_approval_of_somebody_else_is_no_obstacle(
    cluster: Cluster, people: dict[str, str], namespaces: Namespaces
) -> None:
    """Only what is added is looked at: an editor may pause a run that was approved."""
    name = "approved"
    cluster.kubectl("create", "-f", "-", stdin=run(namespaces.fleet, name, **APPROVALS), account=people["oncall"])
    pause = json.dumps({"spec": {"control": {"paused": True}}})
    patch = ("-n", namespaces.fleet, "patch", "recoveryrun", name, "--type=merge", "--dry-run=server", "-p", pause)
    cluster.kubectl(*patch, account=people["edit"])


def test_a_run_without_a_name_can_be_approved_from_the_start(
    cluster: Cluster, people: dict[str, str], namespaces: Namespaces
) -> None:
    unnamed = run(namespaces.fleet, **APPROVALS)
    unnamed["metadata"] = {"generateName": "run-", "namespace": namespaces.fleet}
    cluster.apply_dry(unnamed, account=people["oncall"])
    with pytest.raises(Refused, match="may not open gate start"):
        cluster.apply_dry(unnamed, account=people["edit"])


def test_emptying_a_namespace_takes_its_placements(cluster: Cluster, release: str, namespaces: Namespaces) -> None:
    """As the controller of namespaces does it: one request for all of them."""
    cluster.kubectl("create", "-f", "-", stdin=placement(namespaces.fleet))
    path = f"/apis/recell.dev/v1alpha1/namespaces/{namespaces.fleet}/placements"
    cluster.kubectl("delete", "--raw", path)
    assert cluster.kubectl("-n", namespaces.fleet, "get", "placements", "-o", "name") == ""


def test_only_who_may_switch_traffic_writes_a_placement(
    cluster: Cluster, operator: str, people: dict[str, str], namespaces: Namespaces
) -> None:
    cluster.apply_dry(placement(namespaces.fleet), account=operator)
    cluster.apply_dry(placement(namespaces.fleet), account=people["admin"])
    # RBAC on placements alone, as an administrator of the namespace might give it, is not enough
    cluster.kubectl(
        *("-n", namespaces.fleet, "create", "role", "placements", "--resource=placements.recell.dev"),
        "--verb=get,create,update,patch,delete",
    )
    cluster.kubectl(
        *("-n", namespaces.fleet, "create", "rolebinding", "placements", "--role=placements"),
        f"--serviceaccount={people['edit']}",
    )
    refusal = "a Placement decides who gets traffic and is written by the operator; .* on placements/switch"
    eventually(
        "the policy says it, once the rights are in force",
        lambda: re.search(refusal, cluster.refusal(placement(namespaces.fleet), account=people["edit"])),
    )
    cluster.kubectl("create", "-f", "-", stdin=placement(namespaces.fleet))
    reference = ("-n", namespaces.fleet, "placement", "shop")
    patch = (reference[0], reference[1], "patch", *reference[2:], "--type=merge", "-p", '{"spec":{"epoch":2}}')
    with pytest.raises(Refused, match=refusal):
        cluster.kubectl(*patch, account=people["edit"])
    with pytest.raises(Refused, match="needs the verb delete on placements/switch"):
        cluster.kubectl("-n", namespaces.fleet, "delete", "placement", "shop", account=people["edit"])
    cluster.kubectl("-n", namespaces.fleet, "delete", "placement", "shop", account=people["admin"])


def test_policies_end_at_the_watched_namespaces(cluster: Cluster, release: str, namespaces: Namespaces) -> None:
    cluster.apply_dry(run(namespaces.other, trigger="Automatic"))


def test_the_api_server_finds_no_fault_in_the_policies(cluster: Cluster, release: str) -> None:
    """It checks the types in each expression, and tells in the status."""
    for name in ("run-trigger", "run-approval", "placement"):

        def checked(name: str = name) -> Object | None:
            told = cluster.kubectl("get", "validatingadmissionpolicy", f"{release}-{name}", "-o", "json")
            status: Object = json.loads(told).get("status", {})
            return status if "typeChecking" in status else None

        status = eventually(f"{name} is checked", checked)
        assert status["typeChecking"] == {}, f"{name}: {status}"


# Installing, upgrading, uninstalling


@pytest.mark.parametrize("values", [{}, {"watch": {"namespaces": ["default"]}}], ids=["cluster", "namespaces"])
def test_the_api_server_takes_the_chart_to_the_letter(cluster: Cluster, values: Object, crds: Any) -> None:
    made = cluster.helm("template", "letter", str(CHART), "--namespace", "default", "--no-hooks", values=values)
    # the CRDs have another owner here; tests/cluster/test_crds.py tries them
    documents = [each for each in yaml.safe_load_all(made) if each and each["kind"] != "CustomResourceDefinition"]
    verb = ("create", "-f", "-", "--dry-run=server", "--validate=strict")
    cluster.kubectl(*verb, stdin={"apiVersion": "v1", "kind": "List", "items": documents})


def test_the_quickstart_is_taken_to_the_letter(cluster: Cluster, crds: Any) -> None:
    folder = ROOT / "examples" / "quickstart"
    texts = [cluster.kubectl("kustomize", str(folder))]
    texts += [(folder / name).read_text() for name in ("run.yaml", "freeze.yaml")]
    documents = [document for text in texts for document in yaml.safe_load_all(text)]
    # Another one than a user's, or than that of tests that were killed.
    another = f"recell-chart-quickstart-{time.time_ns():x}"
    for document in documents:
        metadata = document["metadata"]
        metadata["name" if document["kind"] == "Namespace" else "namespace"] = another
    namespace = next(each for each in documents if each["kind"] == "Namespace")
    cluster.kubectl("create", "-f", "-", stdin=namespace)
    try:
        for document in documents:
            if document is not namespace:
                cluster.apply_dry(document)
    finally:
        cluster.kubectl("delete", "namespace", namespace["metadata"]["name"], "--wait=false")


def test_an_upgrade_brings_new_crds_and_keeps_what_is_stored(
    cluster: Cluster, release: str, namespaces: Namespaces, values: Object, tmp_path: Path
) -> None:
    cluster.kubectl(
        *("create", "-f", "-"),
        stdin={
            "apiVersion": "recell.dev/v1alpha1",
            "kind": "RecoveryPolicy",
            "metadata": {"name": "kept", "namespace": namespaces.fleet},
            "spec": {"mode": "Approve"},
        },
    )
    newer = tmp_path / "recell"
    shutil.copytree(CHART, newer)
    path = newer / "files" / "crds" / "recoverypolicies.yaml"
    crd = yaml.safe_load(path.read_text())
    crd["spec"]["versions"][0]["additionalPrinterColumns"].append(
        {"name": "Newer", "type": "string", "jsonPath": ".spec.mode"}
    )
    path.write_text(yaml.safe_dump(crd))

    def upgrade(chart: Path) -> None:
        # forced: these tests applied the CRDs before
        cluster.helm(
            *("upgrade", release, str(chart), "--namespace", namespaces.system, "--force-conflicts"), values=values
        )

    def shown() -> str:
        return cluster.kubectl("-n", namespaces.fleet, "get", "recoverypolicies")

    def newer_shown() -> bool:
        """Tests beside this one apply the CRDs as well, and a server takes a moment to serve what changed."""
        upgrade(newer)
        return "NEWER" in shown()

    try:
        eventually("the new column is shown", newer_shown)
        assert "kept" in shown()
    finally:
        upgrade(CHART)
    eventually("the former columns are shown", lambda: "NEWER" not in shown())
    assert "kept" in shown()


def test_uninstalling_leaves_the_crds_and_what_they_hold(
    cluster: Cluster, release: str, namespaces: Namespaces, values: Object
) -> None:
    cluster.kubectl(
        *("create", "-f", "-"),
        stdin={
            "apiVersion": "recell.dev/v1alpha1",
            "kind": "RecoveryPolicy",
            "metadata": {"name": "left", "namespace": namespaces.fleet},
            "spec": {},
        },
    )
    where = ("--namespace", namespaces.system)
    cluster.helm("uninstall", release, *where, "--no-hooks", "--wait")
    try:
        left = cluster.kubectl("-n", namespaces.fleet, "get", "recoverypolicies", "-o", "name")
        assert "recoverypolicy.recell.dev/left" in left
        gone = ("deployment,service,networkpolicy,role,rolebinding", "-l", f"app.kubernetes.io/instance={release}")
        for namespace in (namespaces.system, namespaces.fleet):
            assert cluster.kubectl("-n", namespace, "get", *gone, "-o", "name") == ""
    finally:
        install(cluster, namespaces, values)


# With the operator itself


def eventually(what: str, look: Callable[[], Any], within: float = EVENTUALLY) -> Any:
    """The first true answer. Fails with what it waited for."""
    deadline = time.monotonic() + within
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within:.0f} s: {what}")
        time.sleep(0.5)


def leader(cluster: Cluster, release: str, namespaces: Namespaces) -> str:
    """Name of the pod that leads; empty while none does."""
    lease = json.loads(cluster.kubectl("-n", namespaces.system, "get", "lease", "-o", "json"))["items"]
    holders = [each["spec"].get("holderIdentity", "") for each in lease if each["metadata"]["name"] == release]
    return "".join(holders).rpartition("_")[0]


def metrics(cluster: Cluster, pod: str, namespaces: Namespaces) -> str:
    return cluster.kubectl("get", "--raw", f"/api/v1/namespaces/{namespaces.system}/pods/{pod}:8080/proxy/metrics")


def test_two_replicas_are_ready_and_one_leads(cluster: Cluster, running: str, namespaces: Namespaces) -> None:
    selector = ("-l", "app.kubernetes.io/component=operator", "-o", "json")

    def pods() -> set[str]:
        items = json.loads(cluster.kubectl("-n", namespaces.system, "get", "pods", *selector))["items"]
        return {each["metadata"]["name"] for each in items if "deletionTimestamp" not in each["metadata"]}

    def one_leads() -> bool:
        try:
            leading = [pod for pod in pods() if "\nrecell_leader 1.0\n" in metrics(cluster, pod, namespaces)]
        except Refused:  # one that is not ready, or is no more
            return False
        return len(pods()) == 2 and leading == [leader(cluster, running, namespaces)]

    eventually("both are there, and the one leads that holds the Lease", one_leads)


def test_the_operator_has_every_right_that_it_uses(cluster: Cluster, running: str, namespaces: Namespaces) -> None:
    """It runs a Router, watches a Cell and its workloads, and is refused nothing."""
    pod = {
        "metadata": {"labels": {"app": "cell-a"}},
        "spec": {
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "web",
                    "image": f"{IMAGE_VALUES['repository']}:{IMAGE_VALUES['tag']}",
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-m", "http.server", "8080", "--directory", "/tmp"],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "cell-a"},
        "spec": {"selector": {"matchLabels": {"app": "cell-a"}}, "template": pod},
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "cell-a"},
        "spec": {"selector": {"app": "cell-a"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    router = {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "Router",
        "metadata": {"name": "shop"},
        "spec": {
            "type": "HAProxy",
            "customerData": "Shared",
            "haproxy": {"customerKey": {"type": "Host"}, "initialCells": ["cell-a"]},
        },
    }
    cell = {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": "cell-a"},
        "spec": {
            "routerRef": {"name": "shop"},
            "backend": {"type": "Service", "service": {"name": "cell-a", "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "cell-a"}],
            "health": {"probe": {"path": "/"}},
        },
    }
    where = ("-n", namespaces.fleet)
    items = {"apiVersion": "v1", "kind": "List", "items": [deployment, service, router, cell]}
    cluster.kubectl(*where, "create", "-f", "-", stdin=items)

    def got(kind: str, name: str) -> Object:
        found = json.loads(cluster.kubectl(*where, "get", kind, "-o", "json"))["items"]
        named: list[Object] = [each for each in found if each["metadata"]["name"] == name]
        return named[0] if named else {}

    for kind in ("deployment", "role", "rolebinding", "serviceaccount", "networkpolicy", "poddisruptionbudget"):
        eventually(f"the router's {kind}", lambda kind=kind: got(kind, "shop-router"))
    eventually("the router's Placement", lambda: got("placement", "shop"))
    for kind in ("deployment", "service"):
        eventually(
            f"the label on the {kind}",
            lambda kind=kind: got(kind, "cell-a")["metadata"].get("labels", {}).get("recell.dev/cell") == "cell-a",
        )
    eventually("the Cell's status", lambda: got("cell", "cell-a").get("status", {}).get("phase"))
    eventually(
        "an Event about one of Recell's objects",
        lambda: "recell.dev/v1alpha1" in cluster.kubectl(*where, "get", "events", "-o", "yaml"),
    )

    def told() -> str:
        try:
            return metrics(cluster, leader(cluster, running, namespaces), namespaces)
        except Refused:  # nobody leads at the moment
            return ""

    requests = [
        line
        for line in eventually("the leader's figures", told).splitlines()
        if line.startswith("recell_api_requests_total")
    ]
    assert requests
    assert [line for line in requests if 'code="403"' in line] == []


def test_the_image_holds_the_command_line_and_no_tools(cluster: Cluster, running: str, namespaces: Namespaces) -> None:
    inside = ("-n", namespaces.system, "exec", f"deployment/{running}", "--")
    assert "uninstall-check" in cluster.kubectl(*inside, "recell", "--help")
    assert cluster.kubectl(*inside, "id", "-u").strip() == "65532"
    for tool in ("pip", "pip3", "gcc", "make", "curl", "git"):
        with pytest.raises(Refused):
            cluster.kubectl(*inside, "sh", "-c", f"command -v {tool}")
    with pytest.raises(Refused, match=r"No module named 'pip'"):
        cluster.kubectl(*inside, "python", "-c", "import pip")
    with pytest.raises(Refused, match=r"Read-only file system|Permission denied"):
        cluster.kubectl(*inside, "touch", "/opt/recell/x")


def test_uninstalling_waits_for_runs(cluster: Cluster, running: str, namespaces: Namespaces) -> None:
    """It names the run, keeps everything, and can be taken back."""
    where = ("-n", namespaces.fleet)
    paused = {"control": {"paused": True}}  # it has to stay in flight
    cluster.kubectl("create", "-f", "-", stdin=run(namespaces.fleet, "in-flight", **paused))
    release = ("--namespace", namespaces.system)
    with pytest.raises(Refused, match="in-flight"):
        cluster.helm("uninstall", running, *release)
    assert f"deployment.apps/{running}" in cluster.kubectl("-n", namespaces.system, "get", "deployment", "-o", "name")
    revision = json.loads(cluster.helm("status", running, *release, "-o", "json"))["version"]
    cluster.helm("rollback", running, str(revision), *release, "--force-conflicts")
    assert "deployed" in cluster.helm("status", running, *release)
    cluster.kubectl(*where, "delete", "recoveryrun", "in-flight", "--timeout=180s")
