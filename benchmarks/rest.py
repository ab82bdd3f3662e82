"""The operator at rest: what it writes when nothing changes, and the memory that it takes."""

import asyncio
import time

from benchmarks.audit import Audit
from benchmarks.client import BenchmarkError, Client
from hack.stage import SYSTEM, Stage

MEMORY = "process_resident_memory_bytes"
CPU = "process_cpu_seconds_total"
LOOKS_AT_CELLS = 'recell_reconcile_total{controller="Cell",result="ok"}'
"""Figures of the operator."""


async def calm(audit: Audit, quiet: float = 10, within: float = 300) -> None:
    """Wait until the operator has not written for a while: what was set up is behind it."""
    deadline = time.monotonic() + within
    last, since = -1, time.monotonic()
    while time.monotonic() - since < quiet:
        count = sum(write.kind not in ("leases",) for write in audit.writes())
        if count != last:
            last, since = count, time.monotonic()
        if time.monotonic() > deadline:
            raise BenchmarkError(f"not within {within:g} s: the operator writes nothing for {quiet:g} s")
        await asyncio.sleep(1)


async def own_figures(client: Client, stage: Stage, *wanted: str) -> list[float]:
    """What the leading operator tells at /metrics at one moment, by names and labels as they stand there."""
    path = f"/api/v1/namespaces/{SYSTEM}/pods/{stage.leader()}:8080/proxy/metrics"
    told = dict(line.rsplit(" ", 1) for line in (await client.text(path)).splitlines() if not line.startswith("#"))
    missing = [figure for figure in wanted if figure not in told]
    if missing:
        raise BenchmarkError(f"{path} does not tell {', '.join(missing)}")
    return [float(told[figure]) for figure in wanted]


def scale(stage: Stage, replicas: int) -> None:
    """So many operators, and no more."""
    stage.kubectl("-n", SYSTEM, "scale", "deployment/recell", f"--replicas={replicas}")
    if replicas:
        stage.kubectl("-n", SYSTEM, "rollout", "status", "deployment/recell", "--timeout=180s", within=200)

    def settled() -> bool:
        pods = stage.all("pods", SYSTEM, labels="app.kubernetes.io/component=operator")
        return len(pods) == replicas and (not replicas or stage.leader() == pods[0]["metadata"]["name"])

    stage.eventually(
        f"{replicas} operators run, and one of them leads" if replicas else "no operator runs", settled, within=120
    )
