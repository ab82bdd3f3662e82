"""Writes the fallback's configuration from its table: `python3 -m agent.fallback`, once, before HAProxy starts.

The table is a file, so nothing else has to be there. It says which cells share the customers, in an order that does
not change while the fallback serves: a customer belongs to bucket MD5 modulo the number of cells, or, where data is
in the cells, to the bucket of its home. Pure but for reading the table and writing the two files.
"""

import base64
import binascii
import ipaddress
import json
import os
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import filled, key_rules
from .placement import MAX_CELLS, MAX_KEY, MAX_PINS, REJECT, SLOTS
from .settings import Settings, from_environment

SPARE = 2
"""Cells of the ring that stand behind each bucket's own."""
NONE = "none"


class Unfit(Exception):
    """A table that cannot be served as it stands, with the field."""


@dataclass(frozen=True)
class Cell:
    name: str
    address: str
    port: int
    check: str
    """Path of the request that tells whether it is well; empty: a connection."""
    out: bool
    """It gets nothing; its bucket is the next cell's."""


@dataclass(frozen=True)
class Homes:
    """Where data is in the cells: nobody goes anywhere but home."""

    table: tuple[int, ...]
    """For each slot the position of its cell in the order, or REJECT."""
    pins: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Table:
    id: str
    cells: tuple[Cell, ...]
    """In the order: the position is the bucket."""
    homes: Homes | None


def decode(obj: Any) -> Table:
    """Raises Unfit."""
    if not isinstance(obj, dict) or not isinstance(obj.get("cells"), list):
        raise Unfit("cells: missing")
    cells = tuple(_cell(item, position) for position, item in enumerate(obj["cells"]))
    if not 1 <= len(cells) <= MAX_CELLS:
        raise Unfit(f"cells: {len(cells)}, from 1 to {MAX_CELLS} can be served")
    if len({cell.name for cell in cells}) < len(cells):
        raise Unfit("cells: a name is given twice")
    if all(cell.out for cell in cells):
        raise Unfit("cells: all of them are out")
    name = str(obj.get("id") or "none")
    if not name.isalnum() or not name.isascii():
        raise Unfit(f"id: {name!r} is not a word")
    return Table(name, cells, _homes(obj["homes"], len(cells)) if obj.get("homes") else None)


def _cell(item: Any, position: int) -> Cell:
    where = f"cells[{position}]"
    try:
        name, port, check = str(item["name"]), int(item["port"]), str(item.get("check") or "")
        address = str(ipaddress.ip_address(item["address"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Unfit(f"{where}: {type(error).__name__} {error}") from None
    if not name or not name.replace("-", "").replace(".", "").isalnum() or not name.isascii():
        raise Unfit(f"{where}.name: {name!r} is not a name")
    if not 1 <= port <= 65535:
        raise Unfit(f"{where}.port: {port} is not a port")
    if check and (not check.startswith("/") or any(not "!" <= c <= "~" or c in "\"'\\#" for c in check)):
        raise Unfit(f"{where}.check: {check!r} is not a path")
    return Cell(name, address, port, check, bool(item.get("out", False)))


def _homes(item: Any, cells: int) -> Homes:
    try:
        raw = base64.b64decode(item["table"], validate=True)
        pins = tuple((str(customer), int(position)) for customer, position in dict(item.get("pins") or {}).items())
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Unfit(f"homes: {type(error).__name__} {error}") from None
    if len(raw) // 2 not in SLOTS or len(raw) % 2:
        raise Unfit(f"homes.table: {len(raw)} bytes are no table of slots")
    table = struct.unpack(f">{len(raw) // 2}H", raw)
    if any(position >= cells and position != REJECT for position in (*table, *(p for _, p in pins))):
        raise Unfit("homes: a position is no cell's")
    if len(pins) > MAX_PINS or any(not 1 <= len(c) <= MAX_KEY or any(not "!" <= x <= "~" for x in c) for c, _ in pins):
        raise Unfit("homes.pins: too many, or not printable ASCII without spaces")
    return Homes(table, pins)


def servers_of(table: Table, bucket: int) -> list[int]:
    """Positions of the cells that serve a bucket: its own, then the next of the ring; with data in the cells its own
    alone. Empty: nobody does."""
    ring = [(bucket + step) % len(table.cells) for step in range(len(table.cells))]
    found = [position for position in (ring[:1] if table.homes else ring) if not table.cells[position].out]
    return found[: 1 + SPARE]


def route(table: Table, homes: Path) -> str:
    """The lines that put the bucket into txn.bucket."""
    md5 = "var(txn.key),digest(md5),bytes(0,4),hex,hex2i"
    if table.homes is None:
        return f"  http-request set-var(txn.bucket) {md5},mod({len(table.cells)})"
    return "\n".join(
        (
            f"  http-request set-var(txn.slot) {md5},mod({len(table.homes.table)})",
            f"  http-request set-var(txn.bucket) str(pin:),concat(,txn.key),map_str({homes})",
            f"  http-request set-var(txn.bucket) var(txn.slot),map_str({homes},{NONE})"
            " unless { var(txn.bucket) -m found }",
        )
    )


def homes_text(table: Table) -> str:
    """The map of slots and pins; empty where any cell serves any customer."""
    if table.homes is None:
        return ""

    def to(position: int) -> str:
        return NONE if position == REJECT or not servers_of(table, position) else str(position)

    lines = [f"{slot} {to(position)}\n" for slot, position in enumerate(table.homes.table)]
    return "".join([*lines, *(f"pin:{customer} {to(position)}\n" for customer, position in table.homes.pins)])


def backends(table: Table) -> str:
    """One for each bucket. A cell is checked once, in its own bucket; wherever it stands in, that check counts."""
    return "".join(_backend(table, bucket, servers_of(table, bucket)) for bucket in range(len(table.cells)))


def _backend(table: Table, bucket: int, servers: Sequence[int]) -> str:
    if not servers:
        return ""
    lines = [f"backend b{bucket} from cell"]
    if servers[0] == bucket and (path := table.cells[bucket].check):
        lines += ["  option httpchk", f"  http-check send meth GET uri {path} ver HTTP/1.1 hdr Host cell"]
        lines += ["  http-check expect rstatus ^[23]"]
    for place, position in enumerate(servers):
        cell = table.cells[position]
        where = f"[{cell.address}]:{cell.port}" if ":" in cell.address else f"{cell.address}:{cell.port}"
        checked = "check" if position == bucket else f"track b{position}/{cell.name}"
        lines.append(f"  server {cell.name} {where} {checked}{' backup' if place else ''}")
    return "\n".join(lines) + "\n"


def render(template: str, settings: Settings, table: Table) -> str:
    """Raises ValueError for a template with a place that nothing fills."""
    fill = {
        "@CUSTOMERS_BIND@": settings.customers_bind,
        "@ADMIN_BIND@": settings.admin_bind,
        "@CUSTOMER_KEY@": key_rules(settings.customer_key),
        "@ROUTE@": route(table, settings.map),
        "@TABLE@": table.id,
        "@BACKENDS@": backends(table),
    }
    return filled(template, fill, settings)


def write(settings: Settings, table: Table) -> None:
    """The map, then the configuration that names it. Raises OSError and ValueError."""
    text = render(settings.template.read_text(encoding="utf-8"), settings, table)
    settings.map.write_text(homes_text(table), encoding="utf-8")
    settings.config.write_text(text, encoding="utf-8")


def main() -> None:
    path = Path(os.environ.get("TABLE", "/etc/recell/table/table.json"))
    try:
        write(from_environment(os.environ), decode(json.loads(path.read_text(encoding="utf-8"))))
    except (ValueError, OSError, Unfit) as error:
        sys.exit(f"{path}: {error}")


if __name__ == "__main__":
    main()
