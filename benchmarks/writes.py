"""What one whole recovery writes to the API server: a CellRestart of a small cell with real pods under real load."""

import asyncio
from datetime import UTC, datetime, timedelta

from benchmarks import fleet
from benchmarks.audit import Audit, by_kind, by_what
from benchmarks.client import BenchmarkError, Object
from benchmarks.rest import calm
from hack.stage import Stage

NAMESPACE = "bench-run"
ROUTER = "front"
CELLS = ("cell-a", "cell-b", "cell-c")
STEPS = {"incrementInterval": "1s", "stabilityDuration": "5s"}
"""The default ten increments; only the waits are shorter."""

CUSTOMERS = """
import http.client, random, time
end = time.monotonic() + 1200
while time.monotonic() < end:
    try:
        line = http.client.HTTPConnection("front", 80, timeout=5)
        for _ in range(50):
            line.request("GET", "/", headers={"x-customer-id": str(random.randrange(1000))})
            line.getresponse().read()
            time.sleep(0.02)
    except OSError:
        time.sleep(0.5)
"""


def prepare(stage: Stage) -> None:
    fleet.namespace(stage, NAMESPACE)
    objects = [
        fleet.recell("RecoveryPolicy", "default", NAMESPACE, {**fleet.POLICY, "mode": "Observe", "steps": STEPS}),
        fleet.recell(
            "Router",
            ROUTER,
            NAMESPACE,
            {
                "type": "HAProxy",
                "customerData": "Shared",
                "haproxy": {"customerKey": {"type": "Header", "name": "x-customer-id"}, "replicas": 1},
            },
        ),
        {
            "apiVersion": "v1",
            "kind": "Pod",
            **fleet.confined("customers", NAMESPACE, fleet.IMAGE, ["python3", "-c", CUSTOMERS], {"app": "customers"}),
        },
    ]
    for cell in CELLS:
        objects += _cell(cell)
    fleet.apply(stage, objects)
    stage.eventually(
        "the small cells are Healthy",
        lambda: all((cell.get("status") or {}).get("phase") == "Healthy" for cell in stage.all("cells", NAMESPACE)),
        within=180,
    )
    stage.eventually(
        "their Router is Ready", lambda: stage.condition("router", ROUTER, "Ready", NAMESPACE) == "True", within=120
    )


def _cell(name: str) -> list[Object]:
    labels = {"app": name}
    template = fleet.confined(name, NAMESPACE, fleet.IMAGE, ["haproxy", "-db", "-f", "/etc/echo/echo.cfg"], labels)
    probe = {"httpGet": {"path": "/", "port": 8080}, "periodSeconds": 1}
    template["spec"]["containers"][0]["readinessProbe"] = probe
    return [
        {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"selector": labels, "ports": [{"port": 80, "targetPort": 8080}]},
        },
        fleet.recell(
            "Cell",
            name,
            NAMESPACE,
            {
                "routerRef": {"name": ROUTER},
                "backend": {"type": "Service", "service": {"name": name, "port": 80}},
                "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name}],
            },
        ),
    ]


async def whole_run(stage: Stage, audit: Audit) -> tuple[dict[str, int], dict[str, int], int]:
    """One CellRestart from the creation of the run to the last write about it. Returns by kind, by what, steps."""
    await calm(audit)
    audit.again()
    name = f"measured-{datetime.now(UTC):%H%M%S}"
    spec = {
        "targetRef": {"kind": "Cell", "name": CELLS[0]},
        "strategy": "CellRestart",
        "startWhen": "Always",
        "startBefore": (datetime.now(UTC) + timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "reason": "Benchmark",
    }
    fleet.apply(stage, [fleet.recell("RecoveryRun", name, NAMESPACE, spec)])
    phase = ""
    for _ in range(600):
        status = (await asyncio.to_thread(stage.get, "recoveryrun", name, NAMESPACE)).get("status") or {}
        phase = status.get("phase", "")
        if phase in ("Succeeded", "Escalated", "Failed", "Skipped", "ManualInterventionRequired", "AwaitingApproval"):
            break
        await asyncio.sleep(1)
    if phase != "Succeeded":
        raise BenchmarkError(f"the run did not succeed within 600 s, it is {phase}: {status.get('conditions')}")
    await calm(audit)
    seen = [write for write in audit.writes() if write.namespace == NAMESPACE]
    return by_kind(seen), by_what(seen), len(status["steps"])
