"""The whole operator with a Router of type DNS: a cell is restarted, and replaced, while no customer resolves to it."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from tests.cluster.conftest import ROOT, Kubectl
from tests.dns.bind import Bind
from tests.dns.conftest import ExternalDNS
from tests.dns.customers import Customers
from tests.dns.test_external_dns import NAME, nameservers, rfc2136
from tests.fakes.eventually import eventually
from tests.fakes.ports import free_port

pytestmark = pytest.mark.usefixtures("crds", "dns_endpoints")

CELLS = {"a": "127.0.0.11", "b": "127.0.0.12"}
MADE = "127.0.0.13"
"""Of the cell that is made in the place of another."""
STEPS = {"drainPercent": "100%", "drainIncrements": 2, "incrementInterval": "1s", "stabilityDuration": "2s"}


def fleet(port: int, image: str, zone: tuple[Bind, Bind]) -> Iterator[dict[str, Any]]:
    """Router, policy and two cells, each with a workload to restart."""

    def made(kind: str, name: str, spec: dict[str, Any], version: str = "recell.dev/v1alpha1") -> dict[str, Any]:
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec}

    dns = {"hostname": NAME, "ttl": "2s", "routingPolicy": "Simple", "nameservers": nameservers(*zone)}
    yield made("Router", "shop", {"type": "DNS", "customerData": "Shared", "dns": dns})
    detection = {"window": "2s", "healthyAfter": "2s", "withoutIntegrityChecks": "Intact"}
    validation = {"duration": "4s"}
    yield made(
        "RecoveryPolicy",
        "default",
        {"mode": "Observe", "detection": detection, "steps": STEPS, "validation": validation},
    )

    def deployment(name: str) -> dict[str, Any]:
        labels = {"app": name}
        pod = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "web", "image": image}]}}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": pod}
        return made("Deployment", name, spec, "apps/v1")

    def cell(name: str, host: str) -> dict[str, Any]:
        return {
            "backend": {"type": "Address", "address": {"host": host, "port": port}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name}],
            "health": {"probe": {"path": "/healthz", "interval": "1s"}},
        }

    yield made("CellTemplate", "cell", {"cell": cell("$(CELL)", MADE), "objects": [deployment("$(CELL)")]})
    for name, host in CELLS.items():
        yield deployment(name)
        yield made("Cell", name, {"routerRef": {"name": "shop"}, "templateRef": {"name": "cell"}, **cell(name, host)})


@contextlib.asynccontextmanager
async def serving(port: int) -> AsyncIterator[None]:
    """What customers of the cells reach."""

    async def well(request: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_get("/{path:.*}", well)
    runner = web.AppRunner(app, shutdown_timeout=0.5)
    await runner.setup()
    for host in (*CELLS.values(), MADE):
        await web.TCPSite(runner, host, port).start()
    try:
        yield
    finally:
        await runner.cleanup()


@contextlib.contextmanager
def operator(kubeconfig: Path, namespace: str, log: Path) -> Iterator[None]:
    command = [
        *(sys.executable, "-c", "from recell.runtime.main import main; main()"),
        *(f"--kubeconfig={kubeconfig}", f"--namespaces={namespace}"),
        *(f"--lease-namespace={namespace}", "--identity=dns", "--host=127.0.0.1", "--port=0", "--log-format=text"),
    ]
    path = os.pathsep.join(filter(None, (f"{ROOT}/operator", str(ROOT), os.environ.get("PYTHONPATH"))))
    with log.open("wb") as told:
        process = subprocess.Popen(command, stdout=told, stderr=told, cwd=ROOT, env={**os.environ, "PYTHONPATH": path})
        try:
            yield
        except BaseException:
            print(log.read_text()[-4000:])
            raise
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.mark.parametrize(
    ("strategy", "away"),
    [
        ("CellRestart", ("restart-workloads", "check-health")),
        ("TrafficDrainAndReplace", ("validate-replacement",)),
    ],
)
async def test_a_cell_is_recovered_while_no_customer_resolves_to_it(
    kubeconfig: Path,
    kubectl: Kubectl,
    namespace: str,
    image: str,
    zone: tuple[Bind, Bind],
    external_dns: ExternalDNS,
    tmp_path: Path,
    strategy: str,
    away: tuple[str, ...],
) -> None:
    """`away`: the steps in which customers must not reach the cell."""
    port, name = free_port(), f"by-{strategy.lower()}"

    async def told(kind: str, name: str) -> dict[str, Any]:
        shown = await asyncio.to_thread(kubectl, "get", kind, name, "-n", namespace, "-o", "json")
        status: dict[str, Any] = json.loads(shown).get("status") or {}
        return status

    async def programmed() -> bool:
        found = {c["type"]: c["status"] for c in (await told("router", "shop")).get("conditions") or ()}
        return (found.get("Ready"), found.get("Programmed")) == ("True", "True")

    kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump_all(fleet(port, image, zone)))
    with (
        external_dns(kubeconfig, namespace, *rfc2136(zone[0])),
        operator(kubeconfig, namespace, tmp_path / "operator.log"),
    ):
        async with serving(port), Customers(NAME, *(server.port for server in zone)) as customers:
            await eventually(programmed, "the Router serves, and its records are in force", deadline=120)

            async def reachable() -> bool:
                return await customers.ask() == set(CELLS.values())

            await eventually(reachable, "customers reach both cells", deadline=60)  # the status may be of a test before
            router = await told("router", "shop")
            assert (router["verification"], router["capabilities"]) == ("Resolved", [])
            run = {"targetRef": {"kind": "Cell", "name": "a"}, "strategy": strategy, "startWhen": "Always"}
            body = {
                "apiVersion": "recell.dev/v1alpha1",
                "kind": "RecoveryRun",
                "metadata": {"name": name},
                "spec": run | {"startBefore": "2099-01-01T00:00:00Z"},
            }
            kubectl("apply", "-n", namespace, "-f", "-", stdin=json.dumps(body))
            reached: set[str] = set()

            async def ended() -> dict[str, Any] | None:
                status = await told("recoveryrun", name)
                if status.get("step") in away:
                    seen = await customers.ask()
                    if (await told("recoveryrun", name)).get("step") in away:
                        reached.update(seen)
                return status if status.get("finishedAt") else None

            status = await eventually(ended, "the run has ended", deadline=300)
            assert status is not None
            assert status["phase"] == "Succeeded", status.get("summary")
            instead = {CELLS["a"] if strategy == "CellRestart" else MADE, CELLS["b"]}
            assert reached == ({CELLS["b"]} if strategy == "CellRestart" else instead)
            drained = next(step for step in status["steps"] if step["name"].startswith("drain-traffic"))
            assert "is seen to be published" in drained["message"]
            await eventually(programmed, "its records are in force", deadline=60)
            assert await customers.ask() == instead
