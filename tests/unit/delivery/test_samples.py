"""What the documentation tells people to apply fits the CRDs to the letter."""

import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from recell.api import Cell, CellTemplate
from recell.api.meta import LABEL_AGGREGATE
from recell.domain import provisioning
from tests.unit.delivery.conftest import ROOT, Document, parsed
from tests.unit.delivery.schemas import strict

FOLDERS = ("examples/quickstart", "examples/shop/recell")


def documents() -> list[tuple[Path, Document]]:
    return [
        (path.relative_to(ROOT), document)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.yaml"))
        for document in parsed(path.read_text())
        if document["apiVersion"].startswith("recell.dev/")
    ]


def schema_of(kind: str) -> dict[str, Any]:
    for path in (ROOT / "crds").glob("*.yaml"):
        crd = yaml.safe_load(path.read_text())
        if crd["spec"]["names"]["kind"] == kind:
            schema: dict[str, Any] = strict(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            return schema
    raise AssertionError(f"no CRD of kind {kind}")


@pytest.mark.parametrize(
    ("path", "document"), documents(), ids=lambda value: str(value) if isinstance(value, Path) else value["kind"]
)
def test_a_sample_fits_its_crd(path: Path, document: Document) -> None:
    jsonschema.validate(document, schema_of(document["kind"]))


def test_each_kind_that_people_write_has_a_sample() -> None:
    quickstart = {document["kind"] for path, document in documents() if path.parts[1] == "quickstart"}
    assert quickstart == {"Cell", "CellTemplate", "Router", "RecoveryPolicy", "RecoveryRun", "RecoveryFreeze"}


def test_a_cell_like_each_sample_can_be_made() -> None:
    found = [document for path, document in documents() if path.parts[1] == "quickstart"]
    (template,) = (CellTemplate.model_validate(each) for each in found if each["kind"] == "CellTemplate")
    assert provisioning.problem(template) is None
    cells = [Cell.model_validate(each) for each in found if each["kind"] == "Cell"]
    assert [(cell.spec.template_ref or template.metadata).name for cell in cells] == [template.metadata.name] * 3
    assert [provisioning.unfit(cell, template) for cell in cells] == [None] * 3


def test_the_documented_template_works() -> None:
    """Word for word as people copy it."""
    text = (ROOT / "docs" / "templates.md").read_text()
    template, cell, role = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL))
    jsonschema.validate(template, schema_of("CellTemplate"))
    accepted = CellTemplate.model_validate(template)
    assert provisioning.problem(accepted) is None
    backend = {"type": "Service", "service": {"name": "cell-b", "port": 80}}
    spec = {"routerRef": {"name": "shop"}, "backend": backend} | cell["spec"]
    source = Cell.model_validate({"metadata": {"name": "cell-b", "namespace": "shop"}, "spec": spec})
    assert provisioning.unfit(source, accepted) is None
    made = provisioning.objects(provisioning.Order("cell-b-3fa92b", source, accepted, "run"))
    assert all("cell-b-3fa92b" in each["metadata"]["name"] for each in made)
    assert "$(" not in str(made)
    assert role["metadata"]["labels"] == {LABEL_AGGREGATE: "true"}


def test_samples_survive_a_mistake_in_git() -> None:
    for path, document in documents():
        if document["kind"] in ("Cell", "Router"):
            options = document["metadata"]["annotations"]["argocd.argoproj.io/sync-options"]
            assert options == "Prune=false,Delete=false", path


def test_samples_keep_control_out_of_git() -> None:
    for path, document in documents():
        if document["kind"] == "RecoveryRun":
            assert "control" not in document["spec"], path
