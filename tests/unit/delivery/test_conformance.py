"""Helm's linter and kubeconform find nothing wrong with the chart, the plain manifests and the samples."""

import json
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.unit.delivery import schemas
from tests.unit.delivery.conftest import CHART, ROOT, Document, Values

OTHERS = ("ServiceMonitor", "PodMonitor", "PrometheusRule")
"""Kinds of the Prometheus operator, which publishes no schema that could be had here."""


@pytest.fixture(scope="session")
def conform(kubeconform: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command that checks documents on its standard input."""
    folder: Path = tmp_path_factory.mktemp("schemas")
    schemas.write_crds(ROOT / "crds", folder)
    skipped = [*OTHERS, "CustomResourceDefinition", "Kustomization"]
    document = schemas.openapi_document()
    command = [kubeconform, "-output", "json", "-schema-location", f"{folder}/{schemas.LOCATION}"]
    if document is None:
        command.append("-ignore-missing-schemas")
    else:
        schemas.write_kubernetes(document, folder)
    return [*command, "-skip", ",".join(skipped)]


def check(command: list[str], text: str) -> None:
    made = subprocess.run(command, input=text, capture_output=True, text=True, timeout=120)
    told = json.loads(made.stdout or "{}")
    assert made.returncode == 0, [f"{each['kind']} {each['name']}: {each['msg']}" for each in told["resources"]]


def test_the_chart_passes_the_linter(helm: str, variant: Values) -> None:
    made = subprocess.run(
        [helm, "lint", "--strict", CHART, "--values", "-"],
        input=json.dumps(variant),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert made.returncode == 0, made.stdout + made.stderr


def test_each_variant_conforms(conform: list[str], installed: list[Document]) -> None:
    check(conform, yaml.safe_dump_all(installed))


@pytest.mark.parametrize("path", ["manifests/install.yaml", "examples/quickstart", "examples/shop/recell"])
def test_files_conform(conform: list[str], path: str) -> None:
    found = [ROOT / path] if path.endswith(".yaml") else sorted((ROOT / path).rglob("*.yaml"))
    assert found
    check(conform, "\n---\n".join(each.read_text() for each in found))


def test_an_unknown_field_is_found(conform: list[str]) -> None:
    """The check itself can fail, for Recell's kinds."""
    policy = {"apiVersion": "recell.dev/v1alpha1", "kind": "RecoveryPolicy", "metadata": {"name": "x"}}
    check(conform, yaml.safe_dump(policy | {"spec": {"mode": "Observe"}}))
    with pytest.raises(AssertionError, match="mood"):
        check(conform, yaml.safe_dump(policy | {"spec": {"mood": "Observe"}}))
