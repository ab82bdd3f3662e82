"""What is to be done, from environment variables.

| variable | meaning |
|-|-|
| RECELL_OPERATION | Inventory, Accessible, Migrate, Restore, CheckIntegrity, Backup, Abandon |
| RECELL_KEY | names one effect: a repetition with the same key is the same effect |
| RECELL_CELL, RECELL_TARGET | the cell that it is about, and the cell that is written to |
| RECELL_SLOTS, RECELL_SLOT_COUNT | the customers, as the router's slots, and how many slots the router has |
| RECELL_BACKUP, RECELL_NOT_AFTER | Restore: the backup (or the newest that fits), and the latest time (or none) |
| SHOP_ARCHIVE_URL | the archive, for example http://shop-archive:8080 |
| SHOP_DATABASE_HOST | where a cell's database is: `{cell}-db` unless it is said otherwise |

Promises: a wrong or missing value is an OperationFailed that names the variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from shop_data import slots
from shop_data.failure import OperationFailed

OPERATIONS = ("Inventory", "Accessible", "Migrate", "Restore", "CheckIntegrity", "Backup", "Abandon")
_BETWEEN_CELLS = ("Migrate", "Restore", "Abandon")


@dataclass(frozen=True, slots=True)
class Request:
    """One operation. `slots` are the router's, of which there are `slot_count`; `not_after` None: no limit."""

    operation: str
    key: str
    cell: str
    target: str
    slots: list[int]
    slot_count: int
    backup: str
    not_after: datetime | None
    archive: str
    database_host: str

    def host_of(self, cell: str) -> str:
        """Where the cell's database is."""
        return self.database_host.replace("{cell}", cell)


def read_request(environment: Mapping[str, str]) -> Request:
    """Read and check all variables."""

    def value(name: str, default: str = "") -> str:
        return environment.get(name, "").strip() or default

    def required(name: str) -> str:
        if not value(name):
            raise OperationFailed(f"{name} is not set: Recell sets it in the Jobs that it makes from this CronJob")
        return value(name)

    operation = required("RECELL_OPERATION")
    if operation not in OPERATIONS:
        raise OperationFailed(f"RECELL_OPERATION is {operation!r}: expected one of {', '.join(OPERATIONS)}")
    between = operation in _BETWEEN_CELLS
    count = value("RECELL_SLOT_COUNT", str(slots.SLOTS))
    if not count.isdecimal() or not 0 < int(count) <= slots.SLOTS or slots.SLOTS % int(count):
        raise OperationFailed(f"RECELL_SLOT_COUNT is {count!r}: expected a power of two, at most {slots.SLOTS}")
    try:
        concerned = slots.parse(required("RECELL_SLOTS"), int(count)) if between else []
    except ValueError as wrong:
        raise OperationFailed(f"RECELL_SLOTS: {wrong}") from wrong
    request = Request(
        operation=operation,
        key=value("RECELL_KEY"),
        cell=required("RECELL_CELL"),
        target=required("RECELL_TARGET") if between else "",
        slots=concerned,
        slot_count=int(count),
        backup=value("RECELL_BACKUP"),
        not_after=_time(value("RECELL_NOT_AFTER")),
        archive=value("SHOP_ARCHIVE_URL"),
        database_host=value("SHOP_DATABASE_HOST", "{cell}-db"),
    )
    if operation == "Migrate" and request.cell == request.target:
        raise OperationFailed(f"RECELL_CELL and RECELL_TARGET are both {request.cell}: Migrate needs two cells")
    if operation in ("Inventory", "Restore", "Backup"):
        required("SHOP_ARCHIVE_URL")
    return request


def _time(text: str) -> datetime | None:
    if not text:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise OperationFailed(f"RECELL_NOT_AFTER is {text!r}: expected a time as 2026-01-31T12:00:00Z") from wrong
    if time.tzinfo is None:
        raise OperationFailed(f"RECELL_NOT_AFTER is {text!r}: its time zone is missing, for example a Z at the end")
    return time.astimezone(UTC)
