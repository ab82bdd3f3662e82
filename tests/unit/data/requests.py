"""Requests and Jobs for the tests of data providers."""

from dataclasses import replace
from typing import Any

from recell.api import Cell
from recell.domain.data import Operation, Request
from recell.providers.data.job_template import FIELDS
from tests.unit.domain import builders


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
