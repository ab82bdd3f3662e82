"""Objects of a fleet as the API server gives them: three cells of the router `shop` at three in the morning."""

from datetime import UTC, datetime, timedelta
from typing import Any

from recell.api import Router
from recell.api.placement import Hold
from recell.domain import placement as domain
from recell.domain.placement import Candidate, Routing

Object = dict[str, Any]

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
API_VERSION = "recell.dev/v1alpha1"
NAMESPACE = "shop"


def ago(seconds: float, now: datetime = NOW) -> str:
    return (now - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def item(kind: str, name: str, spec: Object, status: Object | None = None, **metadata: Any) -> Object:
    meta = {"name": name, "namespace": NAMESPACE, "creationTimestamp": ago(86400), **metadata}
    made: Object = {"apiVersion": API_VERSION, "kind": kind, "metadata": meta, "spec": spec}
    return made if status is None else {**made, "status": status}


def cell(name: str, phase: str | None = "Healthy", spec: Object | None = None, **status: Any) -> Object:
    full = {
        "routerRef": {"name": "shop"},
        "backend": {"type": "Service", "service": {"name": name, "port": 80}},
        "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": f"{name}-web"}],
        **(spec or {}),
    }
    return item("Cell", name, full, {**({"phase": phase} if phase else {}), **status})


EVIDENCE = [
    {
        "check": "workloads",
        "vantage": "Cluster",
        "verdict": "Failed",
        "message": "Deployment/cell-b-web: 0 of 3 pods ready; cell-b-web-5d9c7: CrashLoopBackOff (exit 1, 5 restarts)",
        "since": ago(150),
    },
    {
        "check": "probe",
        "vantage": "Operator",
        "verdict": "Failed",
        "message": "HTTP /healthz: connection refused",
        "since": ago(140),
    },
    {
        "check": "error-rate",
        "vantage": "Router",
        "verdict": "Failed",
        "message": "42.1 % of 312 requests failed in 10s, at most 5% may",
        "since": ago(130),
    },
    {
        "check": "integrity",
        "vantage": "Operator",
        "verdict": "Inconclusive",
        "message": "the data was not checked yet",
    },
    {
        "check": "latency",
        "vantage": "Router",
        "verdict": "Passed",
        "message": "95 % of 312 answers took at most 210 ms in 10s, allowed are 1000 ms",
    },
]


def failure(impact: str = "Low", integrity: str = "Intact", kind: str = "SingleCell") -> Object:
    return {"type": kind, "impact": impact, "dataIntegrity": integrity, "since": ago(150), "evidence": EVIDENCE}


def router(customer_data: str = "Shared", **metadata: Any) -> Object:
    haproxy: Object = {"customerKey": {"type": "Header", "name": "X-Customer"}}
    if customer_data == "InCell":
        haproxy["initialCells"] = ["cell-a", "cell-b", "cell-c"]
    conditions = [{"type": "Ready", "status": "True", "reason": "Programmed", "lastTransitionTime": ago(3600)}]
    return item(
        "Router",
        "shop",
        {"type": "HAProxy", "customerData": customer_data, "haproxy": haproxy},
        {"conditions": conditions},
        **metadata,
    )


def dns_router(**dns: Any) -> Object:
    """One whose name servers lag behind."""
    answer = "ns2.example.com (192.0.2.52) still answers 192.0.2.11 for A shop.example.com, which no serving cell has"
    conditions = [
        {"type": "Ready", "status": "True", "reason": "Serving", "lastTransitionTime": ago(3600)},
        {
            "type": "Programmed",
            "status": "False",
            "reason": "Pending",
            "message": answer,
            "lastTransitionTime": ago(70),
        },
    ]
    spec = {"type": "DNS", "customerData": "Shared", "dns": {"hostname": "shop.example.com", **dns}}
    return item("Router", "shop", spec, {"conditions": conditions})


def placement(holds: list[Object] | None = None, customer_data: str = "Shared") -> Object:
    """As the operator computes it: homes by weight, and what these holds make of them."""
    routing = Routing.of(Router.model_validate(router(customer_data)))
    cells = [
        Candidate(name=f"cell-{letter}", uid=f"uid-cell-{letter}", address=f"10.96.0.{10 + n}", port=80, weight=100)
        for n, letter in enumerate("abc")
    ]
    spec = domain.initial(routing, cells, epoch=3)
    for wanted in holds or []:
        spec = domain.hold(spec, routing, Hold.model_validate(wanted))
    return item("Placement", "shop", spec.to_dict(), generation=14)


def hold(cell: str, percent: int, state: str, kind: str, holder: str, reason: str, since: float = 65) -> Object:
    return {
        "cell": cell,
        "maxPercent": percent,
        "state": state,
        "holder": {"kind": kind, "name": holder, "uid": f"uid-{holder}" if kind != "Person" else ""},
        "reason": reason,
        "since": ago(since),
    }


def policy(name: str = "default", mode: str = "Automatic", **spec: Any) -> Object:
    return item("RecoveryPolicy", name, {"mode": mode, **spec})


def freeze(name: str = "freeze-1", reason: str = "big sale, hands off", **spec: Any) -> Object:
    return item("RecoveryFreeze", name, {"reason": reason, **spec}, creationTimestamp=ago(600))


STEPS = (
    ("check-eligibility", "Draining"),
    ("drain-traffic", "Draining"),
    ("restart-workloads", "Restoring"),
    ("check-health", "Restoring"),
    ("restore-traffic", "Promoting"),
    ("watch-stability", "Validating"),
)


def steps(running: int, message: str, state: str = "Running") -> list[Object]:
    """The first are done, the one with this number has this message, the rest waits."""
    made: list[Object] = []
    for number, (name, phase) in enumerate(STEPS):
        step: Object = {"name": name, "phase": phase, "state": "Pending", "message": ""}
        if number < running:
            step |= {"state": "Done", "startedAt": ago(128), "finishedAt": ago(122), "message": f"{name} is done"}
        elif number == running:
            step |= {"state": state, "startedAt": ago(120), "message": message}
        made.append(step)
    return made


def run(
    name: str = "cell-b-7fk2p",
    phase: str | None = "Draining",
    target: str = "cell-b",
    spec: Object | None = None,
    **status: Any,
) -> Object:
    filled: Object = {}
    if phase is not None:
        filled = {
            "phase": phase,
            "startedAt": ago(128),
            "decision": {
                "id": "d1",
                "strategy": "CellRestart",
                "row": "single-cell-low-intact",
                "message": "SingleCell failure, impact Low, data Intact: row single-cell-low-intact says CellRestart.",
                "inputs": {"type": "SingleCell", "impact": "Low", "dataIntegrity": "Intact"},
            },
            "plan": {"procedure": "CellRestart", "version": 1, "steps": [step for step, _ in STEPS], "numbers": {}},
            "conditions": [],
        }
    return item(
        "RecoveryRun",
        name,
        {
            "targetRef": {"kind": "Cell", "name": target},
            "urgency": "Graceful",
            "startWhen": "TargetUnhealthy",
            "trigger": "Automatic",
            "dryRun": False,
            **(spec or {}),
        },
        {**filled, **status} if filled or status else None,
        creationTimestamp=ago(130),
        uid=f"uid-{name}",
    )


def draining() -> Object:
    return run(step="drain-traffic", steps=steps(1, "Cell cell-b lowered to 50 %"))


def well() -> list[Object]:
    return [
        router(),
        placement(),
        policy(),
        *(cell(f"cell-{letter}", share={"asked": "33.3%", "applied": "33.3%"}) for letter in "abc"),
    ]


def troubled() -> list[Object]:
    """cell-b is being recovered, cell-c was isolated by a person, and everything is frozen."""
    return [
        router(),
        placement(
            [
                hold("cell-b", 50, "Draining", "RecoveryRun", "cell-b-7fk2p", "increment 10 of 10"),
                hold(
                    "cell-c",
                    0,
                    "Isolated",
                    "Person",
                    "alice",
                    "the disk looks strange, please leave it alone until the storage team has looked at it",
                    7565,
                ),
            ],
        ),
        policy(),
        freeze(until=ago(-3600)),
        cell("cell-a", share={"asked": "83.3%", "applied": "66.7%"}),
        cell(
            "cell-b",
            "Recovering",
            share={"asked": "16.7%", "applied": "33.3%"},
            failure=failure(),
            recovery={"activeRun": "cell-b-7fk2p", "attempts": 1},
        ),
        cell(
            "cell-c",
            "Isolated",
            share={"asked": "0%", "applied": "0%"},
            recovery={
                "lastRun": "cell-c-abcde",
                "attempts": 3,
                "nextAllowedAt": ago(-600),
                "blocked": {
                    "reason": "Isolated",
                    "message": "Cell cell-c was isolated by Person alice: automation leaves it alone until"
                    " `kubectl recell return cell-c`",
                },
            },
        ),
        draining(),
    ]
