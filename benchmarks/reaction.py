"""From a condition turning bad to the first change applied in the data plane, and the bare floor beside it.

Both clocks start when another client sends the condition. The floor's ends when a third client sees the answering
PATCH of a plain watch loop; Recell's when the router pod's agent reports the Placement generation with the hold.
"""

import asyncio
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from benchmarks import fleet
from benchmarks.audit import Audit, Write
from benchmarks.client import GROUP, BenchmarkError, Client, Object, Seen, streaming, watching
from benchmarks.fleet import NAMESPACE
from benchmarks.floor import ANNOTATION
from hack.stage import ROOT, Stage
from recell.api import Placement, Router
from recell.domain import placement

FLOOR_CONDITION = "BenchmarkFloor"
AGENT_PORT = 8405
ENDED = ("Succeeded", "Aborted", "Escalated", "Failed", "Skipped", "ManualInterventionRequired")


@dataclass(frozen=True)
class Sample:
    """Seconds after the condition was sent."""

    sent: float
    """Of the epoch."""
    accepted: float
    placed: float
    """The Placement with the hold reached a third client."""
    applied: float


@dataclass(frozen=True)
class Stop:
    """A write of the operator on the way from the condition to the Placement; medians over the samples."""

    what: str
    begins: float
    took: float
    samples: int


# --- the floor ---------------------------------------------------------------------------------------


async def floor(client: Client, kubeconfig: str, numbers: range) -> list[float]:
    """Seconds from the condition to the sight of the answer. No operator may run."""
    command = [sys.executable, "-m", "benchmarks.floor", kubeconfig, NAMESPACE, FLOOR_CONDITION]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, cwd=ROOT)
    try:
        if process.stdout is None or await asyncio.wait_for(process.stdout.readline(), 30) != b"watching\n":
            raise BenchmarkError("the plain watch loop did not start")
        async with watching(client, fleet.CELLS, _annotated) as cells:
            return [await _answered(client, cells, number) for number in numbers]
    finally:
        process.kill()
        await process.wait()


async def _answered(client: Client, cells: Seen, number: int) -> float:
    await asyncio.sleep(random.uniform(0.2, 0.5))
    begin, message = time.monotonic(), f"sample {time.time()}"
    await fleet.say(client, number, FLOOR_CONDITION, True, message)
    seen, _ = await cells.first("the loop's answer", lambda cell: cell["answer"] == message or None, since=begin)
    return seen - begin


def _annotated(cell: Object) -> Object:
    return {"answer": (cell["metadata"].get("annotations") or {}).get(ANNOTATION)}


# --- Recell ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Watches:
    placements: Seen
    runs: Seen
    cells: Seen
    agents: dict[str, Seen]
    """By Router."""


@asynccontextmanager
async def looking(client: Client, stage: Stage) -> AsyncIterator[Watches]:
    collection = f"{GROUP}/namespaces/{NAMESPACE}"
    async with AsyncExitStack() as stack:
        agents = {}
        for router in fleet.ROUTERS:
            pods = stage.all("pods", NAMESPACE, labels=f"recell.dev/router={router}")
            ready = [pod["metadata"]["name"] for pod in pods if not pod["metadata"].get("deletionTimestamp")]
            if len(ready) != 1:
                raise BenchmarkError(f"Router {router} has {len(ready)} pods, not one")
            path = f"/api/v1/namespaces/{NAMESPACE}/pods/{ready[0]}:{AGENT_PORT}/proxy/watch"
            agents[router] = await stack.enter_async_context(
                streaming(client, path, lambda report: report["placement"])
            )
        yield Watches(
            placements=await stack.enter_async_context(watching(client, f"{collection}/placements", _holds)),
            runs=await stack.enter_async_context(watching(client, f"{collection}/recoveryruns", _phase)),
            cells=await stack.enter_async_context(watching(client, f"{collection}/cells", _phase)),
            agents=agents,
        )


def _holds(obj: Object) -> Object:
    return {
        "name": obj["metadata"]["name"],
        "generation": obj["metadata"]["generation"],
        "holds": {hold["cell"]: hold["holder"]["name"] for hold in obj["spec"].get("holds") or ()},
    }


def _phase(obj: Object) -> Object:
    return {"name": obj["metadata"]["name"], "phase": (obj.get("status") or {}).get("phase")}


async def reaction(client: Client, watches: Watches, number: int) -> Sample:
    """One cell fails, its run drains it, the run is aborted, the cell comes back: as before but for a record."""
    await asyncio.sleep(random.uniform(0.5, 1.5))  # out of step with whatever happens each second
    cell, router = fleet.name(number), fleet.router_of(number)
    sent, begin = time.time(), time.monotonic()
    await fleet.say(client, number, fleet.FAILED, True, "fails")
    accepted = time.monotonic()

    def held(seen: Object) -> tuple[int, str] | None:
        if seen["name"] != router or cell not in seen["holds"]:
            return None
        return seen["generation"], seen["holds"][cell]

    placed, (generation, run) = await watches.placements.first(f"a hold on {cell}", held, since=begin)
    applied, _ = await watches.agents[router].first(
        f"generation {generation} of Placement {router} in force",
        lambda report: (report or {}).get("generation", 0) >= generation or None,
        since=begin,
    )
    await _put_back(client, watches, number, run)
    return Sample(sent, accepted - begin, placed - begin, applied - begin)


async def _put_back(client: Client, watches: Watches, number: int, run: str) -> None:
    cell, since = fleet.name(number), time.monotonic()
    await client.merge(f"{GROUP}/namespaces/{NAMESPACE}/recoveryruns/{run}", {"spec": {"control": {"abort": True}}})
    await watches.runs.first(
        f"run {run} has ended", lambda obj: (obj["name"] == run and obj["phase"] in ENDED) or None, since=since
    )
    await _release(client, fleet.router_of(number), cell)
    since = time.monotonic()
    await fleet.say(client, number, fleet.FAILED, False, "well again")
    await watches.cells.first(
        f"{cell} is Healthy", lambda obj: (obj["name"] == cell and obj["phase"] == "Healthy") or None, since=since
    )


async def _release(client: Client, router: str, cell: str) -> None:
    """What `recell return` does, without its start: the holds on the cell go."""
    collection = f"{GROUP}/namespaces/{NAMESPACE}"
    routing = placement.Routing.of(Router.model_validate(await client.call("GET", f"{collection}/routers/{router}")))
    path = f"{collection}/placements/{router}"
    for _ in range(5):
        found = await client.call("GET", path)
        spec = Placement.model_validate(found).spec
        for hold in [hold for hold in spec.holds if hold.cell == cell]:
            spec = placement.release(spec, routing, holder=hold.holder, cell=cell)
        if (await client.call("PUT", path, {**found, "spec": spec.to_dict()}, allow=(409,)))["kind"] != "Status":
            return
    raise BenchmarkError(f"Placement {router} was changed by others five times in a row")


def way(samples: list[Sample], audit: Audit) -> list[Stop]:
    """The operator's writes between the condition and the data plane, in their usual order."""
    writes = audit.writes()
    found: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for sample in samples:
        counted: dict[str, int] = defaultdict(int)
        for write in _between(writes, sample):
            counted[write.what] += 1
            found[(write.what, counted[write.what])].append((write.at - sample.sent, write.took))
    stops = [
        Stop(
            what if ordinal == 1 else f"{what} ({ordinal})",
            statistics.median(at for at, _ in seen),
            statistics.median(took for _, took in seen),
            len(seen),
        )
        for (what, ordinal), seen in found.items()
        if 2 * len(seen) > len(samples)
    ]
    return sorted(stops, key=lambda stop: stop.begins)


def _between(writes: list[Write], sample: Sample) -> Iterator[Write]:
    for write in writes:
        if sample.sent <= write.at <= sample.sent + sample.applied and write.resource not in ("leases", "events"):
            yield write
