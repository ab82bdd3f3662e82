"""The fleet that is measured: many Cells of ten Routers, in front of one address that answers.

A cell's backend is of type Address, so that a thousand of them need no thousand pods; its health is the declared
condition BenchmarkFailed and the router's own check of the address.
"""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

from benchmarks.client import GROUP, BenchmarkError, Client, Object
from hack.stage import Stage

NAMESPACE = "bench"
ROUTERS = tuple(f"bench-{letter}" for letter in "abcdefghij")
SLOTS = 2048
"""Twenty for each of a hundred cells of a Router, so that an increment of 5 % moves one."""
FAILED = "BenchmarkFailed"
"""The condition that `spec.health.conditions` declares, with for: 0s."""
CELLS = f"{GROUP}/namespaces/{NAMESPACE}/cells"
IMAGE = "recell/router:0.1.0"
"""It holds an HAProxy, which here plays the service too."""

ECHO = """
global
  maxconn 4000
defaults
  mode http
  timeout client 30s
  timeout server 30s
  timeout connect 1s
frontend all
  bind :8080
  http-request return status 200 content-type text/plain string "ok"
"""

POLICY: Object = {
    "mode": "Automatic",
    "builtinRules": "None",
    "rules": [{"name": "everything", "strategy": "CellRestart"}],
    "detection": {
        "failedAfter": "1s",
        "healthyAfter": "1s",
        "window": "2s",
        "withoutIntegrityChecks": "Intact",
    },
    "limits": {"maxConcurrentRuns": 1000, "cooldown": "0s", "maxAttempts": 100},
}


def name(number: int) -> str:
    return f"cell-{number:04d}"


def router_of(number: int) -> str:
    return ROUTERS[number % len(ROUTERS)]


def confined(name: str, namespace: str, image: str, command: list[str], labels: dict[str, str]) -> Object:
    """A pod's template that passes PodSecurity `restricted`; the ConfigMap `echo` is at /etc/echo."""
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": command,
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                    "volumeMounts": [{"name": "echo", "mountPath": "/etc/echo"}],
                }
            ],
            "volumes": [{"name": "echo", "configMap": {"name": "echo"}}],
        },
    }


def namespace(stage: Stage, name: str) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    objects: list[Object] = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}},
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "echo", "namespace": name},
            "data": {"echo.cfg": ECHO},
        },
    ]
    apply(stage, objects)


def apply(stage: Stage, objects: list[Object]) -> None:
    stage.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def recell(kind: str, name: str, namespace: str, spec: Object) -> Object:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "recell.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def prepare(stage: Stage) -> str:
    """Namespace, policy, Routers and the pod that answers. Returns its address."""
    namespace(stage, NAMESPACE)
    key = {"type": "Header", "name": "x-customer-id"}
    pod = confined("echo", NAMESPACE, IMAGE, ["haproxy", "-db", "-f", "/etc/echo/echo.cfg"], {"app": "echo"})
    apply(
        stage,
        [
            {"apiVersion": "v1", "kind": "Pod", **pod},
            recell("RecoveryPolicy", "default", NAMESPACE, POLICY),
            *(
                recell(
                    "Router",
                    router,
                    NAMESPACE,
                    {
                        "type": "HAProxy",
                        "customerData": "Shared",
                        "haproxy": {"customerKey": key, "slots": SLOTS, "replicas": 1},
                    },
                )
                for router in ROUTERS
            ),
        ],
    )
    stage.kubectl("-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/echo", "--timeout=120s", within=150)
    return str(stage.get("pod", "echo", NAMESPACE)["status"]["podIP"])


async def grow(client: Client, count: int, address: str, with_workload: range) -> None:
    """As many Cells as this; those `with_workload` have a Deployment (of no pods), since CellRestart wants one."""
    found = await client.call("GET", CELLS)
    known = {cell["metadata"]["name"] for cell in found["items"]}

    async def make(number: int) -> None:
        if number in with_workload:
            path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
            await client.call("POST", path, _deployment(name(number)), allow=(409,))
            if name(number) in known:
                await client.merge(f"{CELLS}/{name(number)}", {"spec": {"workloads": _workloads(number)}})
        if name(number) not in known:
            await client.call("POST", CELLS, _cell(number, address, number in with_workload))
            await say(client, number, FAILED, False, "made")

    await client.each(lambda number=number: make(number) for number in range(count))  # type: ignore[misc]


async def first_unused(client: Client) -> int:
    """The first cell that never had a run: after an abort no run starts by itself for an hour."""
    runs = (await client.call("GET", f"{GROUP}/namespaces/{NAMESPACE}/recoveryruns"))["items"]
    targets = [run["spec"]["targetRef"]["name"] for run in runs]
    return max((int(target.removeprefix("cell-")) + 1 for target in targets), default=0)


def _cell(number: int, address: str, workload: bool) -> Object:
    spec: Object = {
        "routerRef": {"name": router_of(number)},
        "backend": {"type": "Address", "address": {"host": address, "port": 8080}},
        "health": {"conditions": [{"type": FAILED, "status": "True", "for": "0s"}]},
    }
    if workload:
        spec["workloads"] = _workloads(number)
    return recell("Cell", name(number), NAMESPACE, spec)


def _workloads(number: int) -> list[Object]:
    return [{"apiVersion": "apps/v1", "kind": "Deployment", "name": name(number)}]


def _deployment(name: str) -> Object:
    labels = {"app": name}
    template = confined(name, NAMESPACE, IMAGE, ["haproxy", "-db", "-f", "/etc/echo/echo.cfg"], labels)
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels}, "template": template},
    }


async def say(client: Client, number: int, type: str, value: bool, message: str) -> None:
    """Set a condition of a Cell, as any other controller would."""
    condition: dict[str, Any] = {
        "type": type,
        "status": "True" if value else "False",
        "reason": "Benchmark",
        "message": message,
        "lastTransitionTime": _now(),
    }
    body = {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "Cell",
        "metadata": {"name": name(number), "namespace": NAMESPACE},
        "status": {"conditions": [condition]},
    }
    await client.apply(f"{CELLS}/{name(number)}/status", body)


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


async def whole(client: Client, count: int, within: float = 600) -> None:
    """Every Cell is Healthy and has its part of the slots, in force in the data plane."""
    state = "nothing was seen"
    for _ in range(int(within / 2)):
        cells = (await client.call("GET", CELLS))["items"]
        routers = (await client.call("GET", f"{GROUP}/namespaces/{NAMESPACE}/routers"))["items"]
        well = sum((cell.get("status") or {}).get("phase") == "Healthy" for cell in cells)
        shared = sum(bool((cell.get("status") or {}).get("share", {}).get("applied")) for cell in cells)
        programmed = sum(
            condition["type"] == "Programmed" and condition["status"] == "True"
            for router in routers
            for condition in (router.get("status") or {}).get("conditions") or ()
        )
        state = f"{well} of {count} Cells are Healthy, {shared} have their share, {programmed} Routers are programmed"
        if well == shared == count and programmed == len(ROUTERS):
            return
        await asyncio.sleep(2)
    raise BenchmarkError(f"not within {within:g} s: every Cell is Healthy ({state})")
