"""Placement: the record of who gets traffic. One per Router, same name, written by the operator.

It is the only switchboard: the data plane obeys it alone, so that any number of moves are one
atomic write. Everything stands in `spec`, so that backups keep it. Tables are arrays of
unsigned 16-bit numbers, big-endian, in base64: for each slot the index of a cell,
`READ_ONLY | index` for a slot served away from home for reading only, or `REJECT`.
"""

import base64
import struct
from collections.abc import Iterable, Sequence
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import ClassVar

from pydantic import Field

from recell.api.meta import (
    AGE,
    ATOMIC,
    INT32_MAX,
    CellName,
    Column,
    Generation,
    KindInfo,
    Message,
    Model,
    ObjectName,
    Resource,
    cel,
    rules,
)
from recell.api.shedding import ClassName

REJECT = 0xFFFF
READ_ONLY = 0x8000
MAX_INDEX = 0x7FFE
ENDS = "Built-in routers end it by then, with or without the operator; behind a Gateway the operator does."


class PlacementMode(StrEnum):
    PRIMARY = "Primary"
    """The router itself serves."""
    FALLBACK = "Fallback"
    """The fallback serves."""


class PlacedCell(Model):
    """A cell that was admitted; a cell that is not listed gets no request."""

    name: CellName = Field(description="Name of the Cell.")
    uid: str = Field(max_length=64, description="UID of the Cell that was admitted.")
    index: int = Field(ge=0, le=MAX_INDEX, description="The cell's number in the tables; never used twice.")
    address: str = Field(
        max_length=253, description="IP address that the router connects to, or what its DNS record names."
    )
    port: int = Field(ge=1, le=65535, description="TCP port.")
    weight: int = Field(ge=0, le=1000, description="The Cell's weight as of the last change.")


class HoldState(StrEnum):
    DRAINING = "Draining"
    """A run takes traffic away for a while."""
    ISOLATED = "Isolated"
    """Kept from traffic until somebody returns it."""
    RETIRED = "Retired"
    """Out of service for good."""
    QUARANTINED = "Quarantined"
    """Its data is in doubt; nothing may reach it."""


class Holder(Model):
    """Who asked for a hold or a reservation, and alone may change it."""

    kind: str = Field(max_length=63, description="RecoveryRun, Router or Person.")
    name: ObjectName = Field(description="Name of the object or person.")
    uid: str = Field(default="", max_length=64, description="UID of the object; empty for a person.")


class Hold(Model):
    """A limit on a cell's share; the least of a cell's holds counts, until its holder releases it."""

    cell: CellName = Field(description="Name of the Cell.")
    max_percent: int = Field(ge=0, le=100, description="At most this part of the cell's home slots is served by it.")
    state: HoldState = Field(description="Why the cell is held.")
    holder: Holder = Field(description="Who holds it.")
    reason: Message = Field(description="For people.")
    since: datetime = Field(description="When it got its present value.")


class Reservation(Model):
    """Capacity promised to a run before it drains (rule 17)."""

    cell: CellName = Field(description="Cell that has to bear more.")
    requests_per_second: int = Field(ge=0, le=INT32_MAX, description="How much more.")
    holder: Holder = Field(description="The run.")


class Successor(Model):
    """A cell that took the place of another one; pins of that one are its own now."""

    cell: CellName = Field(description="The cell that was replaced.")
    successor: CellName = Field(description="The cell that took its place.")


class Quarantine(Model):
    """Slots that nobody serves: their cell failed, and so did the one that took them over (rule 13)."""

    slots: str = Field(max_length=2736, description="Bitmap in base64: one bit a slot, the first slot's the highest.")
    holder: Holder = Field(description="Who asked for it.")
    reason: Message = Field(description="For people.")
    since: datetime = Field(description="Since when.")


class Shed(Model):
    """So much of a class of requests is turned away until it expires: with a built-in router that of the same customers
    all the time, behind a Gateway that of whoever asks."""

    class_: ClassName = Field(alias="class", description="Class of Router.spec.shedding, or default.")
    percent: int = Field(
        ge=0,
        le=100,
        description="Part of the customers, or behind a Gateway of the requests, of this class that get 503.",
    )
    expires_at: datetime = Field(description=ENDS)
    holder: Holder = Field(description="Who asked for it.")


class OpenCircuit(Model):
    """Requests for a cell are turned away at the router, so that it is spared and nobody waits, until it expires."""

    cell: CellName = Field(description="Name of the Cell.")
    percent: int = Field(ge=1, le=100, description="Part of the cell's requests that get 503; the others try it.")
    expires_at: datetime = Field(description=ENDS)
    holder: Holder = Field(description="Who asked for it.")


class PinnedCustomer(Model):
    """A pin of the Router, resolved."""

    customer: str = Field(min_length=1, max_length=256, description="The customer key.")
    home: int = Field(ge=0, le=REJECT, description="Index of the cell.")
    serving: int = Field(ge=0, le=REJECT, description="As in the table of slots.")


class FallbackRouting(Model):
    """Who is behind the fallback while customers go through it."""

    order: list[CellName] = Field(
        min_length=1,
        max_length=819,
        json_schema_extra=ATOMIC,
        description="Cells in the order that was frozen when the fallback began to serve. Without data in the cells a"
        " customer's is number MD5 modulo their count; the count never changes while the fallback serves.",
    )
    holder: Holder = Field(description="The run or person that switched.")
    since: datetime = Field(description="Since when.")
    dual_routing: bool = Field(
        default=False,
        description="True: the router itself could not be told to let its customers go, so that for a while some may"
        " still be served by it.",
    )


class PlacementSpec(Model):
    """The whole record; people change it through `recell isolate` and `recell return` only."""

    model_config = rules(
        cel(
            "(self.mode == 'Fallback') == has(self.fallback)",
            "fallback says who is behind the fallback: set it in mode Fallback, and in this one only",
            fieldPath=".fallback",
        ),
    )

    epoch: Generation = Field(
        description="Raised by each new leader; a write of an older one is refused.",
    )
    slots: int = Field(ge=1024, le=16384, description="Number of slots.")
    mode: PlacementMode = Field(default=PlacementMode.PRIMARY, description="Primary or Fallback.")
    fallback: FallbackRouting | None = Field(default=None, description="In mode Fallback: who is behind it.")
    next_index: int = Field(ge=0, le=MAX_INDEX, description="Index of the next cell that is admitted.")
    cells: list[PlacedCell] = Field(
        default_factory=list,
        max_length=819,
        json_schema_extra=ATOMIC,
        description="Cells that were admitted.",
    )
    homes: str = Field(max_length=65536, description="Table: slot -> home cell.")
    serving: str = Field(max_length=65536, description="Table: slot -> who serves it now.")
    pins: list[PinnedCustomer] = Field(
        default_factory=list, max_length=256, json_schema_extra=ATOMIC, description="Pins of the Router, resolved."
    )
    holds: list[Hold] = Field(
        default_factory=list, max_length=1024, json_schema_extra=ATOMIC, description="Limits on the shares of cells."
    )
    reservations: list[Reservation] = Field(
        default_factory=list, max_length=1024, json_schema_extra=ATOMIC, description="Capacity promised to runs."
    )
    successors: list[Successor] = Field(
        default_factory=list, max_length=1024, json_schema_extra=ATOMIC, description="Cells that were replaced."
    )
    quarantine: list[Quarantine] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Slots that nobody serves."
    )
    shedding: list[Shed] = Field(
        default_factory=list,
        max_length=9,
        json_schema_extra=ATOMIC,
        description="Classes of requests that are shed; at most one entry a class.",
    )
    open_circuits: list[OpenCircuit] = Field(
        default_factory=list,
        max_length=819,
        json_schema_extra=ATOMIC,
        description="Cells that are spared; at most one entry a cell.",
    )


class Placement(Resource):
    """The record of who gets traffic."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="Placement",
        plural="placements",
        short_names=("rplace",),
        columns=(
            Column("Mode", ".spec.mode"),
            Column("Slots", ".spec.slots", "integer"),
            Column("Generation", ".metadata.generation", "integer"),
            Column("Epoch", ".spec.epoch", "integer"),
            AGE,
        ),
        has_status=False,
    )

    spec: PlacementSpec = Field(description="The record.")


def encode_table(table: Sequence[int]) -> str:
    """Raises ValueError for a number that is not one of 16 bits."""
    try:
        raw = struct.pack(f">{len(table)}H", *table)
    except struct.error as error:
        raise ValueError(f"not a table of slots: {error}") from error
    return base64.b64encode(raw).decode()


def encode_bits(slots: Iterable[int], count: int) -> str:
    """The bitmap of these out of `count` slots."""
    number = sum(1 << (count - 1 - slot) for slot in set(slots))
    return base64.b64encode(number.to_bytes(count // 8, "big")).decode()


@lru_cache(maxsize=32)
def decode_bits(text: str) -> frozenset[int]:
    """The slots of a bitmap. Raises ValueError for text that is none."""
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"not a bitmap of slots in base64: {error}") from error
    return frozenset(8 * at + bit for at, byte in enumerate(raw) for bit in range(8) if byte & (0x80 >> bit))


@lru_cache(maxsize=32)
def decode_table(text: str) -> tuple[int, ...]:
    """Raises ValueError for text that is no table; the caller adds which field it is.

    Remembered for the last few texts: every cell of a Router asks for the same table.
    """
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"not a table of slots in base64: {error}") from error
    if len(raw) % 2:
        raise ValueError("not a table of slots: an odd number of bytes")
    return struct.unpack(f">{len(raw) // 2}H", raw)
