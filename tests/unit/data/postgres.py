"""Cells and requests for the tests of CloudNativePG."""

from datetime import UTC, datetime

from recell.api import Cell
from recell.domain.data import Operation, Request
from tests.unit.domain import builders


def a_cell(name: str) -> Cell:
    return builders.cell(name, data={"type": "CloudNativePG", "cloudNativePG": {"cluster": f"{name}-db"}})


SOURCE, TARGET = a_cell("cell-a"), a_cell("cell-b")
NOT_AFTER = datetime(2026, 1, 31, 9, 59, 0, 250000, tzinfo=UTC)
RESTORE = Request(
    Operation.RESTORE,
    "restore-1-3fa92b7c10",
    SOURCE,
    target=TARGET,
    slots=(0, 1, 2),
    slot_count=1024,
    backup="base-7",
    not_after=NOT_AFTER,
)
