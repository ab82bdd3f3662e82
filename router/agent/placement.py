"""The Placement object as a checked value, and which of two Placements is the newer. Pure.

What the API server let through is checked again: a table that names a cell which is not listed
would send requests nowhere, so such an object is refused whole, with the field and the reason.
"""

import base64
import binascii
import datetime
import ipaddress
import struct
from dataclasses import dataclass
from typing import Any

REJECT = 0xFFFF
READ_ONLY = 0x8000
MAX_INDEX = 0x7FFE
MAX_CELLS = 819
MAX_PINS = 256
MAX_KEY = 256
MAX_NAME = 63
SLOTS = (1024, 2048, 4096, 8192, 16384)
FIRM = ("Isolated", "Retired", "Quarantined")
"""States of holds on cells that must not serve beyond them, not even who is there already."""


class Refused(Exception):
    """Why a Placement is not applied; the last table stays."""


@dataclass(frozen=True, order=True)
class Version:
    epoch: int
    generation: int


@dataclass(frozen=True)
class Identity:
    uid: str
    version: Version

    def __str__(self) -> str:
        return f"epoch {self.version.epoch}, generation {self.version.generation}, UID {self.uid}"


@dataclass(frozen=True)
class Cell:
    name: str
    index: int
    address: str
    port: int


@dataclass(frozen=True)
class Limit:
    """Part of some requests that is turned away for a while."""

    key: str
    """In the map: `shed:` and a class, or `circuit:` and the index of a cell."""
    percent: int
    until: int
    """Seconds since 1970; from then on it is as if it were not there."""


@dataclass(frozen=True)
class Placement:
    identity: Identity
    cells: tuple[Cell, ...]
    serving: tuple[int, ...]
    """For each slot the index of a cell, READ_ONLY | index, or REJECT."""
    pins: tuple[tuple[str, int], ...]
    """Customer key -> as in the table."""
    limits: tuple[Limit, ...] = ()
    shut: frozenset[str] = frozenset()
    """Names of cells that may serve nobody, listed or not: what is open there is closed at once."""
    leaving: bool = False
    """Customers are to go to the fallback: every answer closes its connection."""

    @property
    def slots(self) -> int:
        return len(self.serving)


def identity(obj: dict[str, Any]) -> Identity:
    """Raises Refused for an object that does not say what it is."""
    meta, spec = _part(obj, "metadata", dict), _part(obj, "spec", dict)
    uid = _part(meta, "uid", str, "metadata.")
    epoch, generation = _number(spec, "epoch", 0, 2**63 - 1), _number(meta, "generation", 0, 2**63 - 1, "metadata.")
    if not uid or not uid.isprintable() or " " in uid:
        raise Refused(f"metadata.uid: {uid!r} is not a UID")
    return Identity(uid, Version(epoch, generation))


def decode(obj: dict[str, Any]) -> Placement:
    """Raises Refused with the field for anything that cannot be served as it stands."""
    who = identity(obj)
    spec = _part(obj, "spec", dict)
    slots = _number(spec, "slots", 0, 2**31)
    if slots not in SLOTS:
        raise Refused(f"spec.slots: {slots} is not a power of two from {SLOTS[0]} to {SLOTS[-1]}")
    cells = _cells(spec)
    known = {cell.index for cell in cells}
    serving = _table(_part(spec, "serving", str), slots)
    for slot, target in enumerate(serving):
        _check_target(target, known, f"spec.serving: slot {slot}")
    leaving = spec.get("mode") == "Fallback"
    return Placement(who, cells, serving, _pins(spec, known), _limits(spec, cells), _shut(spec), leaving)


def check_newer(current: Identity | None, new: Identity) -> bool:
    """True: apply it; False: it is what is applied already. Raises Refused if it is older or foreign."""
    if current is None:
        return True
    if new.uid != current.uid:
        if new.version.epoch > current.version.epoch:
            return True
        raise Refused(
            f"another object (UID {new.uid}, epoch {new.version.epoch}) than the one applied ({current}):"
            " it was deleted and made again or restored, and no leader has raised its epoch since"
        )
    if new.version < current.version:
        raise Refused(
            f"epoch {new.version.epoch}, generation {new.version.generation} is older than what is applied ({current})"
        )
    return new.version > current.version


def _cells(spec: dict[str, Any]) -> tuple[Cell, ...]:
    listed = _part(spec, "cells", list, default=[])
    if len(listed) > MAX_CELLS:
        raise Refused(f"spec.cells: {len(listed)} cells, at most {MAX_CELLS} can be served")
    cells = []
    seen: set[int] = set()
    for position, item in enumerate(listed):
        where = f"spec.cells[{position}]."
        if not isinstance(item, dict):
            raise Refused(f"spec.cells[{position}]: not an object")
        name = _part(item, "name", str, where)
        if not name or not name.replace("-", "").replace(".", "").isalnum() or not name.isascii() or len(name) > 253:
            raise Refused(f"{where}name: {name!r} is not a name")
        index = _number(item, "index", 0, MAX_INDEX, where)
        if index in seen:
            raise Refused(f"{where}index: {index} is given twice")
        seen.add(index)
        try:
            address = str(ipaddress.ip_address(_part(item, "address", str, where)))
        except ValueError as error:
            raise Refused(f"{where}address: {error}") from None
        cells.append(Cell(name, index, address, _number(item, "port", 1, 65535, where)))
    return tuple(cells)


def _table(text: str, slots: int) -> tuple[int, ...]:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused(f"spec.serving: not base64: {error}") from None
    if len(raw) != 2 * slots:
        raise Refused(f"spec.serving: {len(raw)} bytes instead of {2 * slots} for {slots} slots")
    return struct.unpack(f">{slots}H", raw)


def _pins(spec: dict[str, Any], known: set[int]) -> tuple[tuple[str, int], ...]:
    listed = _part(spec, "pins", list, default=[])
    if len(listed) > MAX_PINS:
        raise Refused(f"spec.pins: {len(listed)} pins, at most {MAX_PINS} can be served")
    pins: dict[str, int] = {}
    for position, item in enumerate(listed):
        where = f"spec.pins[{position}]."
        if not isinstance(item, dict):
            raise Refused(f"spec.pins[{position}]: not an object")
        customer = _part(item, "customer", str, where)
        if not 1 <= len(customer) <= MAX_KEY or any(not "!" <= c <= "~" for c in customer):
            raise Refused(f"{where}customer: {customer!r} is not printable ASCII without spaces")
        if customer in pins:
            raise Refused(f"{where}customer: {customer!r} is given twice")
        target = _number(item, "serving", 0, REJECT, where)
        _check_target(target, known, f"{where}serving")
        pins[customer] = target
    return tuple(pins.items())


def _limits(spec: dict[str, Any], cells: tuple[Cell, ...]) -> tuple[Limit, ...]:
    """Classes that this pod does not know are kept: they match nothing. A cell that is not listed gets no request."""
    indexes = {cell.name: cell.index for cell in cells}
    limits: dict[str, Limit] = {}
    for name, prefix, of in (("shedding", "shed:", "class"), ("openCircuits", "circuit:", "cell")):
        for position, item in enumerate(_part(spec, name, list, default=[])):
            where = f"spec.{name}[{position}]."
            if not isinstance(item, dict):
                raise Refused(f"spec.{name}[{position}]: not an object")
            what = _part(item, of, str, where)
            if not what or not what.replace("-", "").isalnum() or not what.isascii() or len(what) > MAX_NAME:
                raise Refused(f"{where}{of}: {what!r} is not a name")
            if of == "cell" and what not in indexes:
                continue
            key = f"{prefix}{indexes[what] if of == 'cell' else what}"
            if key in limits:
                raise Refused(f"{where}{of}: {what!r} is given twice")
            limits[key] = Limit(key, _number(item, "percent", 0, 100, where), _second(item, "expiresAt", where))
    return tuple(limits.values())


def _shut(spec: dict[str, Any]) -> frozenset[str]:
    names = set()
    for position, item in enumerate(_part(spec, "holds", list, default=[])):
        where = f"spec.holds[{position}]."
        if not isinstance(item, dict):
            raise Refused(f"spec.holds[{position}]: not an object")
        name, state = _part(item, "cell", str, where), _part(item, "state", str, where)
        if _number(item, "maxPercent", 0, 100, where) == 0 and state in FIRM:
            names.add(name)
    return frozenset(names)


def _second(obj: dict[str, Any], name: str, where: str) -> int:
    text = _part(obj, name, str, where)
    try:
        moment = datetime.datetime.fromisoformat(text)
    except ValueError as error:
        raise Refused(f"{where}{name}: {error}") from None
    if moment.tzinfo is None:
        raise Refused(f"{where}{name}: {text!r} does not say its time zone")
    return int(moment.timestamp())


def _check_target(target: int, known: set[int], where: str) -> None:
    if target != REJECT and target & ~READ_ONLY not in known:
        raise Refused(f"{where}: index {target & ~READ_ONLY} is no cell in spec.cells")


def _part(obj: dict[str, Any], name: str, kind: type, where: str = "", default: Any = None) -> Any:
    value = obj.get(name, default)
    if not isinstance(value, kind):
        raise Refused(f"{where or ('' if name in ('metadata', 'spec') else 'spec.')}{name}: missing or of a wrong type")
    return value


def _number(obj: dict[str, Any], name: str, low: int, high: int, where: str = "spec.") -> int:
    value = _part(obj, name, int, where)
    if isinstance(value, bool) or not low <= value <= high:
        raise Refused(f"{where}{name}: {value} is not from {low} to {high}")
    return int(value)
