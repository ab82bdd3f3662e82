"""The shop's CellTemplates make what its manifests have of each cell, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from recell.api import Cell, CellTemplate
from recell.domain import provisioning
from tests.unit.shop.processes import SHOP
from tests.unit.shop.test_shop_manifests import MANIFESTS, build

DATA = ("incell", "shared")


def read(data: str, name: str) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all((SHOP / "recell" / data / name).read_text()) if one]


@pytest.mark.parametrize("data", DATA)
def test_the_template_has_the_objects_of_a_cell(data: str) -> None:
    of_a_cell = [one for one in build(MANIFESTS / data) if one["metadata"]["name"].startswith("cell-b")]
    for one in of_a_cell:
        del one["metadata"]["namespace"]
    (template,) = read(data, "template.yaml")
    made = json.loads(json.dumps(template["spec"]["objects"]).replace("$(CELL)", "cell-b"))

    def named(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
        return {(one["kind"], one["metadata"]["name"]): one for one in objects}

    assert named(made) == named(of_a_cell)


@pytest.mark.parametrize("data", DATA)
def test_every_cell_is_what_the_template_would_make_under_its_name(data: str) -> None:
    (raw,) = read(data, "template.yaml")
    template = CellTemplate.model_validate(raw)
    assert provisioning.problem(template) is None
    for cell in read(data, "cells.yaml"):
        source = Cell.model_validate(cell)
        assert provisioning.unfit(source, template) is None
        order = provisioning.Order(cell["metadata"]["name"], source, template, "test")
        made = Cell.model_validate(provisioning.cell(order)).spec
        assert made.model_copy(update={"weight": source.spec.weight}) == source.spec
