"""One line of a router pod's `/watch`, as a value. Pure."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

FIXED = 2
"""Numbers of a cell before its latency buckets: requests, failures."""


@dataclass(frozen=True)
class Version:
    """Which Placement: object, epoch of its leader, generation."""

    uid: str
    epoch: int
    generation: int


class CellCounters(NamedTuple):
    counted: "array[int]"
    """Requests, failures and answers by latency bucket, cumulative since the HAProxy process started."""
    in_flight: int | None
    """None: the router does not tell."""
    check: str
    """up, down, maint or unknown."""
    tripped: bool = False
    """The pod's own circuit breaker turns most of the cell's requests away."""


@dataclass(frozen=True)
class Report:
    instance: str
    """Of the HAProxy process; empty while none runs."""
    age: float
    """Seconds that the process has run."""
    applied: Version | None
    refused: str
    """Why the newest Placement is refused; empty if it is not."""
    source: str
    """Synced, Missing or Away: whether the pod can read its Placement."""
    source_message: str
    error: str
    """Why an accepted Placement is not applied."""
    rejected: int | None
    """None: HAProxy told no counters this time."""
    bounds: tuple[float, ...] = ()
    """Upper bounds of the latency buckets in seconds; one more follows for everything."""
    cells: Mapping[int, CellCounters] = field(default_factory=dict)
    """By index."""
    classes: Mapping[str, "array[int]"] = field(default_factory=dict)
    """By class of requests: all, failures other than by shedding, and shed; cumulative. Older routers tell none."""

    @property
    def counters(self) -> "dict[int | str, array[int]]":
        """Everything that only ever rises, by cell and by class."""
        counters: dict[int | str, array[int]] = {index: cell.counted for index, cell in self.cells.items()}
        for name, counted in self.classes.items():
            counters[name] = counted
        return counters

    @property
    def facts(self) -> tuple[object, ...]:
        """What somebody has to be told of when it changes: everything but counters and ages."""
        checks = tuple((index, cell.check, cell.tripped) for index, cell in self.cells.items())
        return (self.instance, self.applied, self.refused, self.source, self.source_message, self.error, checks)


def parse(line: bytes) -> Report:
    """Raises ValueError for a line that is no report."""
    try:
        told = orjson.loads(line)
        process, placement, refused, source = told["haproxy"], told["placement"], told["refused"], told["source"]
        return Report(
            instance=str(process["instance"]) if process is not None else "",
            age=max(0.0, float(told["at"]) - float(process["startedAt"])) if process is not None else 0.0,
            applied=Version(str(placement["uid"]), int(placement["epoch"]), int(placement["generation"]))
            if placement is not None
            else None,
            refused=str(refused["reason"]) if refused is not None else "",
            source=str(source["state"]),
            source_message=str(source["message"]),
            error=str(told["error"]),
            rejected=None if told["rejected"] is None else int(told["rejected"]),
            bounds=tuple(float(bound) for bound in told["bounds"]),
            cells={int(index): _cell(cell, len(told["bounds"])) for index, cell in told["cells"].items()},
            classes={
                str(name): array("Q", (counted["requests"], counted["failures"], counted["shed"]))
                for name, counted in told.get("classes", {}).items()
            },
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"not a report of a router pod: {type(error).__name__} {error}") from error


def _cell(told: Mapping[str, Any], bounds: int) -> CellCounters:
    """Unsigned 64-bit numbers in a row, so that a thousand cells each second cost little."""
    counted = array("Q", (told["requests"], told["failures"], *told["latency"]))
    if len(counted) != FIXED + bounds + 1:
        raise ValueError(f"not a report of a router pod: {len(counted) - FIXED} buckets for {bounds} bounds")
    return CellCounters(counted, int(told["inFlight"]), str(told["check"]), told.get("breaker") == "Tripped")
