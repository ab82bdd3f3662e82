"""What the process is told at its start, from environment variables.

Promises: a wrong or missing value ends the start with a message that names the variable.
The connection to PostgreSQL is described by libpq's own variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MAX_SECONDS = 300


class BadSettings(Exception):
    """A variable is missing or wrong; the message names it and says what is expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings. Durations are in seconds; `shared_data`: other cells use the same database."""

    cell: str
    pod: str
    shared_data: bool
    host: str
    port: int
    admin_port: int
    drain_seconds: float
    stop_seconds: float


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read and check all variables; raises BadSettings."""
    for required in ("SHOP_CELL", "PGHOST"):
        if not environment.get(required, "").strip():
            raise BadSettings(f"{required} is not set: " + _MEANING[required])
    cell = environment["SHOP_CELL"].strip()
    data = environment.get("SHOP_DATA", "").strip() or "cell"
    if data not in ("cell", "shared"):
        raise BadSettings(f"SHOP_DATA is {data!r}: expected cell (a database of its own) or shared (with other cells)")
    return Settings(
        cell=cell,
        pod=environment.get("HOSTNAME", "").strip() or cell,
        shared_data=data == "shared",
        host=environment.get("SHOP_HOST", "0.0.0.0"),
        port=_port(environment, "SHOP_PORT", "8080"),
        admin_port=_port(environment, "SHOP_ADMIN_PORT", "8081"),
        drain_seconds=_seconds(environment, "SHOP_DRAIN_SECONDS", "3"),
        stop_seconds=_seconds(environment, "SHOP_STOP_SECONDS", "10"),
    )


_MEANING = {
    "SHOP_CELL": "the name of the cell that this process serves, for example cell-a",
    "PGHOST": "the host name (or socket folder) of the cell's PostgreSQL",
}


def _port(environment: Mapping[str, str], name: str, default: str) -> int:
    text = environment.get(name, "").strip() or default
    if not text.isdecimal() or int(text) > 65535:
        raise BadSettings(f"{name} is {text!r}: expected a port from 0 (any free one) to 65535")
    return int(text)


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name, "").strip() or default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_SECONDS:
        raise BadSettings(f"{name} is {text!r}: expected seconds from 0 to {MAX_SECONDS}")
    return value
