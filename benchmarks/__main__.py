"""`python -m benchmarks`: a cluster of its own, the operator as a user installs it, and the table of numbers.

The order: for each number of Cells the floor without an operator, then the operator and its reaction; with the
greatest number also the writes at rest and the memory; last the writes of one whole run.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks import fleet, reaction, rest, table, writes
from benchmarks.audit import Audit, by_kind, by_what
from benchmarks.client import BenchmarkError, Client
from hack.stage import IMAGES, ROOT, Stage, StageError
from recell import __version__
from recell.engine.errors import RecellError

WARM = 2
"""Reactions before those that count: connections are opened, code is loaded."""


def main() -> int:
    options = _options()
    stage = Stage(options.cluster, say=lambda what: _say(f"stage: {what}"))
    figures: dict[str, Any] = {}
    try:
        set_up(stage)
        asyncio.run(measure(stage, options, figures))
    except (BenchmarkError, StageError, RecellError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1
    finally:
        if figures:
            print("\n".join(table.lines({"machine": _machine(options), **figures})))
            if options.json:
                text = json.dumps(table.plain({"machine": _machine(options), **figures}), indent=2)
                options.json.write_text(text + "\n")
        if not options.keep:
            stage.hack_cluster("down")
    return 1 if figures.get("not_measured") else 0


def set_up(stage: Stage) -> None:
    stage.up()
    for tag in ("recell/operator:0.1.0", "recell/router:0.1.0"):
        file, context = IMAGES[tag]
        _say(f"image {tag}")
        stage.hack_cluster("build-image", "--tag", tag, "--file", str(ROOT / file), "--context", str(ROOT / context))
    stage.install_operator()


async def measure(stage: Stage, options: argparse.Namespace, figures: dict[str, Any]) -> None:
    """Each part for itself: one that cannot be measured is named in the table, and the others are measured."""
    rest.scale(stage, 0)
    address = fleet.prepare(stage)
    audit = Audit(stage)
    async with Client.to(stage.kubeconfig) as client:
        used = await fleet.first_unused(client)
        for count in sorted(options.cells):
            wanted = range(used, used + WARM + options.samples)
            used = wanted.stop
            with _part(figures, f"reaction with {count} Cells"):
                await _with_cells(client, stage, audit, count, wanted, address, figures)
        with _part(figures, "rest"):
            figures["idle"] = await _idle(client, stage, audit, max(options.cells), options.idle_minutes)
        with _part(figures, "writes of a run"):
            _say("one whole run")
            writes.prepare(stage)
            kinds, each, steps = await writes.whole_run(stage, audit)
            figures["writes_per_run"] = {"by_kind": kinds, "by_what": each, "steps": steps}


@contextmanager
def _part(figures: dict[str, Any], what: str) -> Iterator[None]:
    try:
        yield
    except (BenchmarkError, StageError, RecellError) as error:
        _say(f"not measured: {what}: {error}")
        figures.setdefault("not_measured", {})[what] = str(error)


async def _with_cells(
    client: Client, stage: Stage, audit: Audit, count: int, wanted: range, address: str, figures: dict[str, Any]
) -> None:
    _say(f"{count} Cells")
    if wanted.stop > count:
        raise BenchmarkError(f"{len(wanted)} samples need {wanted.stop} Cells: each fails once")
    rest.scale(stage, 0)
    await fleet.grow(client, count, address, wanted)
    _say(f"the floor, {len(wanted)} samples")
    floor = await reaction.floor(client, stage.kubeconfig, wanted)
    rest.scale(stage, 1)
    _say("waiting until every Cell is Healthy")
    await fleet.whole(client, count)
    await rest.calm(audit)
    (resident,) = await rest.own_figures(client, stage, rest.MEMORY)
    figures.setdefault("memory_mb", {})[count] = round(resident / 1e6, 1)
    _say(f"the reaction, {len(wanted)} samples")
    audit.again()
    at = await _reactions(client, stage, wanted, audit)
    figures.setdefault("reaction", {})[count] = {**at, "floor": table.summary(floor[WARM:])}


async def _reactions(client: Client, stage: Stage, numbers: range, audit: Audit) -> dict[str, Any]:
    samples = []
    async with reaction.looking(client, stage) as watches:
        for number in numbers:
            samples.append(await reaction.reaction(client, watches, number))
    counted = samples[WARM:]
    return {
        "recell": table.summary([sample.applied for sample in counted]),
        "placed": table.summary([sample.placed for sample in counted]),
        "accepted": table.summary([sample.accepted for sample in counted]),
        "each_ms": [round(1000 * sample.applied, 1) for sample in counted],
        "way": reaction.way(counted, audit),
    }


async def _idle(client: Client, stage: Stage, audit: Audit, cells: int, minutes: float) -> dict[str, Any]:
    await rest.calm(audit)
    _say(f"at rest for {minutes:g} min")
    audit.again()
    before = await rest.own_figures(client, stage, rest.CPU, rest.LOOKS_AT_CELLS)
    await asyncio.sleep(60 * minutes)
    seen = audit.writes()
    after = await rest.own_figures(client, stage, rest.CPU, rest.LOOKS_AT_CELLS)
    spent, looks = (now - then for now, then in zip(after, before, strict=True))
    other = [write for write in seen if write.kind != "leases"]
    return {
        "cells": cells,
        "minutes": minutes,
        "writes": len(other),
        "by_what": by_what(other),
        "leases": by_kind(seen).get("leases", 0),
        "cpu_percent": round(100 * spent / (60 * minutes), 1),
        "looks_per_cell_and_minute": round(looks / cells / minutes, 1),
    }


def _machine(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "version": __version__,
        "cores": os.cpu_count(),
        "load": f"{os.getloadavg()[2]:.1f}",
        "cluster": options.cluster,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="The table of numbers.")
    parser.add_argument("--cluster", default="recell-bench", help="name of the cluster (default: recell-bench)")
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000], help="numbers of Cells")
    parser.add_argument("--samples", type=int, default=40, help="reactions with each number of Cells")
    parser.add_argument("--idle-minutes", type=float, default=10, help="how long writes at rest are counted")
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    parser.add_argument("--keep", action="store_true", help="leave the cluster as it is at the end")
    return parser.parse_args()


_BEGAN = time.monotonic()


def _say(what: str) -> None:
    print(f"{time.monotonic() - _BEGAN:7.1f}s  {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
