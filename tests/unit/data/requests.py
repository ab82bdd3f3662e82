"""Requests and Jobs for the tests of data providers."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from recell.api import Cell
from recell.domain.data import Operation, Request
from recell.providers.data.job_template import FIELDS
from tests.unit.domain import builders

GUIDE = Path(__file__).parents[3] / "docs" / "providers" / "jobs.md"


def a_cell(name: str, **spec: Any) -> Cell:
    jobs = {field: f"shop-{field}" for field in FIELDS.values()}
    return builders.cell(name, **{"data": {"type": "Jobs", "jobs": jobs}, **spec})


SOURCE, TARGET = a_cell("cell-a"), a_cell("cell-b")
MIGRATE = Request(
    Operation.MIGRATE, "migrate-1-3fa92b7c10", SOURCE, target=TARGET, slots=(0, 1, 2, 17), slot_count=1024
)
RESTORE = replace(MIGRATE, operation=Operation.RESTORE, key="restore-1-3fa92b7c10", backup="base-7")


def of(operation: Operation) -> Request:
    moving = operation in (Operation.MIGRATE, Operation.RESTORE, Operation.ABANDON)
    return replace(MIGRATE, operation=operation) if moving else Request(operation, "look-1", SOURCE)


def documented_example() -> list[dict[str, Any]]:
    """ConfigMap and CronJob of the documentation's complete example."""
    blocks = re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return list(yaml.safe_load_all(next(block for block in blocks if "kind: CronJob" in block)))
