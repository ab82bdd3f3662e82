"""A real API server with the CRDs of this tree, and a namespace of their own for the tests of a module."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client, config

from recell.api.meta import GROUP, VERSION

ROOT = Path(__file__).parents[2]
ESTABLISHED_SECONDS = 180.0
LISTED_SECONDS = 180.0
FORGOTTEN_AFTER = timedelta(hours=2)
"""No module of tests takes as long: a namespace of ours that is older is of tests that were killed."""

Kubectl = Callable[..., str]


def image_of(kubectl: Kubectl, part: str) -> str:
    """The name of an image that a node has, without its digest, by a part of it. A node tells of one a while after it
    was loaded."""
    deadline = time.monotonic() + LISTED_SECONDS
    while True:
        nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
        entries = [entry for node in nodes for entry in node["status"].get("images") or ()]
        names = [name for entry in entries for name in entry.get("names") or ()]
        found = [name for name in names if part in name and "@" not in name]
        if found:
            return found[0]
        assert time.monotonic() < deadline, f"no node has an image {part}: {names}"
        time.sleep(1)


def kubeconfig_with(kubeconfig: Path, kubectl: Kubectl, namespace: str, rules: list[Any], folder: Path) -> Path:
    """A kubeconfig in `folder` of an account `operator` that has these rights, in this namespace only."""
    group, metadata = "rbac.authorization.k8s.io", {"name": "operator"}
    documents = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}],
        },
    ]
    kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(documents))
    token = kubectl("create", "token", "operator", "-n", namespace, "--duration=1h").strip()
    settings = yaml.safe_load(kubeconfig.read_text())
    context = next(each for each in settings["contexts"] if each["name"] == settings["current-context"])["context"]
    settings["users"] = [{"name": context["user"], "user": {"token": token}}]
    made = folder / "kubeconfig"
    made.write_text(yaml.safe_dump(settings))
    return made


@pytest.fixture(scope="session")
def api(kubeconfig: Path) -> Iterator[client.ApiClient]:
    with config.new_client_from_config(str(kubeconfig)) as made:
        _forget_the_killed(client.CoreV1Api(made))
        yield made


def _forget_the_killed(core: client.CoreV1Api) -> None:
    """Tests that were killed leave namespaces behind, with operators and pods that go on taking their part."""
    before = datetime.now(UTC) - FORGOTTEN_AFTER
    for found in core.list_namespace(_request_timeout=60).items:
        metadata = found.metadata
        ours = metadata.name.startswith(("recell-test-", "recell-chart-"))
        if ours and metadata.creation_timestamp < before and metadata.deletion_timestamp is None:
            with suppress(client.ApiException):  # another process of the same tests was first
                core.delete_namespace(metadata.name, _request_timeout=60)


@pytest.fixture(scope="session")
def kubectl(kubeconfig: Path) -> Kubectl:
    """Runs kubectl and returns what it printed; a failure raises with its words."""

    def run(*arguments: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["kubectl", *arguments],
            env={**os.environ, "KUBECONFIG": str(kubeconfig)},
            input=stdin,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    return run


@pytest.fixture(scope="session")
def crds(api: client.ApiClient, kubectl: Kubectl) -> dict[str, Any]:
    """The CRDs as the API server has them, by kind, all established and served."""
    kubectl("apply", "--server-side", "--force-conflicts", "--field-manager=recell-tests", "-f", str(ROOT / "crds"))
    extensions = client.ApiextensionsV1Api(api)
    deadline = time.monotonic() + ESTABLISHED_SECONDS
    while True:
        listed = extensions.list_custom_resource_definition(_request_timeout=60).to_dict()["items"]
        found = {item["spec"]["names"]["kind"]: item for item in listed if item["spec"]["group"] == "recell.dev"}
        waiting = [
            kind
            for kind, item in found.items()
            if not _is_true(item, "Established") or not _is_served(api, item["spec"]["names"]["plural"])
        ]
        if not waiting:
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"not served after {ESTABLISHED_SECONDS:.0f}s: {', '.join(waiting)}")
        time.sleep(0.2)


@pytest.fixture(scope="session")
def image(kubectl: Kubectl) -> str:
    """One that every node has: the sandbox's own, which does nothing."""
    return image_of(kubectl, "pause")


@pytest.fixture(scope="module")
def namespace(api: client.ApiClient) -> Iterator[str]:
    """A namespace for the tests of one module; it goes with all that is in it."""
    core = client.CoreV1Api(api)
    made = core.create_namespace({"metadata": {"generateName": "recell-test-"}}, _request_timeout=60)
    name: str = made.metadata.name
    yield name
    core.delete_namespace(name, _request_timeout=60)


def _is_served(api: client.ApiClient, plural: str) -> bool:
    """The server answers for a kind a moment after it has said that it is established."""
    objects = client.CustomObjectsApi(api)
    try:
        objects.list_cluster_custom_object(GROUP, VERSION, plural, limit=1, _request_timeout=60)
    except client.ApiException as error:
        if error.status != 404:
            raise
        return False
    return True


def _is_true(crd: dict[str, Any], type: str) -> bool:
    return any(c["type"] == type and c["status"] == "True" for c in crd["status"]["conditions"] or ())
