"""The chart, rendered by the real Helm in the variants that people install."""

import json
import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pytest
import yaml

from tests.unit.delivery.programs import ROOT, program

CHART = ROOT / "helm" / "recell"
NAMESPACE = "recell-system"

Document = dict[str, Any]
Values = Mapping[str, Any]

FEATURES = (
    "workloadRestart",
    "isolation",
    "haproxyRouter",
    "gatewayApi",
    "gatewayShedding",
    "routerFailover",
    "dataJobs",
    "volumeSnapshots",
    "cloudNativePG",
    "velero",
    "cellReplacement",
    "decommission",
    "dnsEndpoints",
    "remoteClusters",
)

VARIANTS: dict[str, Values] = {
    "defaults": {},
    "named-namespaces": {"watch": {"namespaces": ["shop", "billing"], "workloadNamespaces": ["shop-data"]}},
    "everything": {
        "replicas": 3,
        "features": dict.fromkeys(FEATURES, True),
        "remoteClusters": {"secrets": ["cluster-b"]},
        "image": {"digest": "sha256:" + "0" * 64},
        "imagePullSecrets": [{"name": "pull"}],
        "serviceAccount": {"annotations": {"example.com/role": "recell"}},
        "podLabels": {"team": "platform"},
        "podAnnotations": {"example.com/note": "x"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "networkPolicy": {"metricsFrom": [{"namespaceSelector": {"matchLabels": {"name": "monitoring"}}}]},
        "metrics": {
            "serviceMonitor": {"enabled": True, "labels": {"release": "stack"}},
            "podMonitor": {"enabled": True, "labels": {"release": "stack"}},
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "stack"},
                "alertLabels": {"team": "platform"},
                "runbookURL": "https://example.com/runbooks#",
            },
        },
    },
    "least": {
        "replicas": 1,
        "features": dict.fromkeys(FEATURES, False),
        "crds": {"install": False},
        "serviceAccount": {"create": False, "name": "mine"},
        "rbac": {"userRoles": False},
        "admissionPolicies": {"enabled": False},
        "uninstallCheck": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "topologySpread": {"keys": []},
    },
}


@pytest.fixture(scope="session")
def helm() -> str:
    """Path of the helm program."""
    return program("helm")


@pytest.fixture(scope="session")
def kubeconform() -> str:
    """Path of the kubeconform program."""
    return program("kubeconform")


Helm = Callable[..., "subprocess.CompletedProcess[str]"]
Render = Callable[[Values], list[Document]]


@pytest.fixture(scope="session")
def template(helm: str) -> Helm:
    """`helm template` with these values, whatever comes of it."""

    def run(values: Values, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [helm, "template", "recell", CHART, "--namespace", NAMESPACE, "--values", "-", *arguments],
            input=json.dumps(values),
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture(scope="session")
def render(template: Helm) -> Render:
    """What a variant installs, hooks included."""

    @cache
    def documents(values: str) -> list[Document]:
        made = template(json.loads(values))
        assert made.returncode == 0, made.stderr
        return [each for each in parsed(made.stdout) if each]

    return lambda values: documents(json.dumps(values, sort_keys=True))


@pytest.fixture(params=VARIANTS, scope="session")
def variant(request: pytest.FixtureRequest) -> Values:
    return VARIANTS[request.param]


@pytest.fixture(scope="session")
def installed(render: Render, variant: Values) -> list[Document]:
    """What each variant installs, one after another."""
    return render(variant)


def parsed(text: str) -> list[Document]:
    """All documents of a YAML stream; the chart is large, and libyaml ten times faster."""
    return list(yaml.load_all(text, Loader=yaml.CSafeLoader))


def of_kind(documents: list[Document], *kinds: str) -> list[Document]:
    return [each for each in documents if each["kind"] in kinds]


def named(documents: list[Document], kind: str, name: str) -> Document:
    found = [each for each in of_kind(documents, kind) if each["metadata"]["name"] == name]
    assert len(found) == 1, f"{kind} {name}: {len(found)} found"
    return found[0]
