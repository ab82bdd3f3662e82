"""What the process is told at its start, from environment variables.

Promises: a wrong or missing value ends the start with a message that names the variable.
The connection to PostgreSQL is described by libpq's own variables (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


class BadSettings(Exception):
    """A variable is missing or wrong; the message names it and says what is expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings. Durations are in seconds."""

    cell: str
    pod: str
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
    return Settings(
        cell=cell,
        pod=environment.get("HOSTNAME", "").strip() or cell,
        host=environment.get("SHOP_HOST", "0.0.0.0"),
        port=int(_number(environment, "SHOP_PORT", "8080", 65535)),
        admin_port=int(_number(environment, "SHOP_ADMIN_PORT", "8081", 65535)),
        drain_seconds=_number(environment, "SHOP_DRAIN_SECONDS", "3", 300),
        stop_seconds=_number(environment, "SHOP_STOP_SECONDS", "10", 300),
    )


_MEANING = {
    "SHOP_CELL": "the name of the cell that this process serves, for example cell-a",
    "PGHOST": "the host name (or socket folder) of the cell's PostgreSQL",
}


def _number(environment: Mapping[str, str], name: str, default: str, most: float) -> float:
    text = environment.get(name, "").strip() or default
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= most:
        raise BadSettings(f"{name} is {text!r}: expected a number from 0 to {most:g}")
    return value
