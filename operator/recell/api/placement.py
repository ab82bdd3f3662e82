"""Placement: the record of who gets traffic. One per Router, same name, written by the operator.

It is the only switchboard: the data plane obeys it alone, so that any number of moves are one
atomic write. Everything stands in `spec`, so that backups keep it. Tables are arrays of
unsigned 16-bit numbers, big-endian, in base64: for each slot the index of a cell,
`READ_ONLY | index` for a slot served away from home for reading only, or `REJECT`.
"""

import base64
import struct
from collections.abc import Sequence
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
)

REJECT = 0xFFFF
READ_ONLY = 0x8000
MAX_INDEX = 0x7FFE


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
    address: str = Field(max_length=45, description="IP address that the router connects to.")
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


class PinnedCustomer(Model):
    """A pin of the Router, resolved."""

    customer: str = Field(min_length=1, max_length=256, description="The customer key.")
    home: int = Field(ge=0, le=REJECT, description="Index of the cell.")
    serving: int = Field(ge=0, le=REJECT, description="As in the table of slots.")


class PlacementSpec(Model):
    """The whole record; people change it through `recell isolate` and `recell return` only."""

    epoch: Generation = Field(
        description="Raised by each new leader; a write of an older one is refused.",
    )
    slots: int = Field(ge=1024, le=16384, description="Number of slots.")
    mode: PlacementMode = Field(default=PlacementMode.PRIMARY, description="Primary or Fallback.")
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
