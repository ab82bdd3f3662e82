"""What is made from the chart and the CRDs is current, and the chart carries the CRDs unchanged."""

import os
import subprocess
import sys

import yaml

from tests.unit.delivery.conftest import CHART, ROOT, VARIANTS, Document, Helm, Render, of_kind, parsed


def test_generated_files_are_current(helm: str) -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "hack" / "manifests", "--check"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HELM": helm},
    )
    assert made.returncode == 0, made.stderr


def test_the_chart_installs_the_crds_as_they_are(render: Render) -> None:
    ours = {path.name: yaml.safe_load(path.read_text()) for path in (ROOT / "crds").glob("*.yaml")}
    rendered = {each["metadata"]["name"]: each for each in of_kind(render({}), "CustomResourceDefinition")}
    assert set(rendered) == {crd["metadata"]["name"] for crd in ours.values()}
    for crd in ours.values():
        assert rendered[crd["metadata"]["name"]]["spec"] == crd["spec"]


def test_crds_stay_at_uninstall_unless_told_otherwise(render: Render) -> None:
    for values, kept in (({}, True), ({"crds": {"keep": False}}, False)):
        for crd in of_kind(render(values), "CustomResourceDefinition"):
            annotations = crd["metadata"].get("annotations") or {}
            assert (annotations.get("helm.sh/resource-policy") == "keep") is kept


def test_crds_can_be_left_out(render: Render) -> None:
    assert of_kind(render(VARIANTS["least"]), "CustomResourceDefinition") == []


def test_plain_manifests_hold_nothing_of_helm() -> None:
    text = (ROOT / "manifests" / "install.yaml").read_text()
    documents: list[Document] = parsed(text)
    assert documents[0]["kind"] == "Namespace"
    assert documents[0]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    assert not of_kind(documents, "Job")
    assert "helm.sh" not in text
    assert ": Helm" not in text


def test_kustomize_builds_the_same(helm: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", ROOT / "manifests"], check=True, capture_output=True, text=True, timeout=60
    )
    documents = parsed((ROOT / "manifests" / "install.yaml").read_text())
    assert len(parsed(made.stdout)) == len(documents)


def test_notes_name_the_next_steps(template: Helm) -> None:
    notes = (CHART / "templates" / "NOTES.txt").read_text()
    for wanted in ("uninstall", "kubectl", "RecoveryFreeze"):
        assert wanted in notes
