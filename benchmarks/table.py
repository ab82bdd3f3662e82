"""The table: one line a figure, at most 100 columns."""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.reaction import Stop

WIDTH = 96


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of all do not exceed."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """In milliseconds."""
    return {
        "samples": len(seconds),
        "p50_ms": round(1000 * percentile(seconds, 50), 1),
        "p99_ms": round(1000 * percentile(seconds, 99), 1),
    }


def lines(figures: dict[str, Any]) -> list[str]:
    out = [_title(figures["machine"]), "-" * WIDTH]
    for count, at in figures.get("reaction", {}).items():
        recell, floor, accepted = at["recell"], at["floor"], at["accepted"]
        ratio = f"{recell['p50_ms'] / floor['p50_ms']:.1f} x / {recell['p99_ms'] / floor['p99_ms']:.1f} x the floor"
        out += [
            _line(f"condition turns bad -> applied in the data plane, {count} Cells", _both(recell), ratio),
            _line("  of it until the Placement with the hold is seen", _both(at["placed"]), ""),
            _line("  of it until the server took the condition", _both(accepted), ""),
            _line("  floor: plain watch loop, one PATCH, seen by a third", _both(floor), f"{floor['samples']} samples"),
        ]
    if idle := figures.get("idle"):
        rest = f"in {idle['minutes']:g} min, {idle['cells']} Cells; Lease: {idle['leases']}"
        out.append(_line("writes of the operator at rest", str(idle["writes"]), rest))
        out.append(_line("CPU of the operator at rest", f"{idle['cpu_percent']:.1f} %", "of one core"))
        looks = f"{idle['looks_per_cell_and_minute']:.1f}"
        out.append(_line("  looks at each Cell in a minute", looks, "one at least, though nothing happens"))
    for count, megabytes in figures.get("memory_mb", {}).items():
        out.append(_line(f"memory of the operator, {count} Cells", f"{megabytes:.0f} MB", "resident"))
    if writes := figures.get("writes_per_run"):
        kinds = writes["by_kind"]
        order = ("status", "metadata", "effects", "events")
        told = ", ".join(f"{kinds.get(kind, 0)} {kind}" for kind in order)
        total = sum(kinds.get(kind, 0) for kind in order)
        out.append(_line(f"API writes of a CellRestart ({writes['steps']} steps)", str(total), told))
        out += ["", "those writes, one by one:"]
        out += [f"  {count:4d}  {what}" for what, count in writes["by_what"].items()]
    for count, at in figures.get("reaction", {}).items():
        out += ["", f"the way of the reaction, {count} Cells: the operator's writes, medians in ms"]
        out.append(f"  {'sent at':>8} {'took':>6}   write")
        out += [f"  {1000 * stop.begins:8.1f} {1000 * stop.took:6.1f}   {stop.what}" for stop in at["way"]]
    out += [f"not measured: {what}: {why}" for what, why in figures.get("not_measured", {}).items()]
    return out


def plain(figures: dict[str, Any]) -> dict[str, Any]:
    """For JSON."""

    def made(value: Any) -> Any:
        if isinstance(value, Stop):
            return {"write": value.what, "at_ms": round(1000 * value.begins, 1), "took_ms": round(1000 * value.took, 1)}
        if isinstance(value, dict):
            return {str(key): made(one) for key, one in value.items()}
        return [made(one) for one in value] if isinstance(value, list) else value

    found: dict[str, Any] = made(figures)
    return found


def _title(machine: dict[str, Any]) -> str:
    cores, load, cluster = machine["cores"], machine["load"], machine["cluster"]
    return f"Recell {machine['version']}, cluster {cluster}, {cores} cores, load {load} (15 min)"


def _line(what: str, value: str, rest: str) -> str:
    return f"{what:<56} {value:<16} {rest}".rstrip()


def _both(figure: dict[str, Any]) -> str:
    return f"{figure['p50_ms']:.0f} / {figure['p99_ms']:.0f} ms"
