"""RouterFailover where customers come through a Gateway, or by a name: the real Traefik; the real ExternalDNS and BIND.

In both tests the customers' Service is never switched: what leads them to the fallback and back is the route, or the
record.
"""

import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from hack.localnode import gotools, versions
from hack.localnode.progress import Progress
from hack.stage import SHOP, Stage
from tests.dns import bind
from tests.dns.conftest import external_dns
from tests.dns.test_external_dns import NAME, rfc2136
from tests.e2e.rights import role
from tests.e2e.test_cell_restart import ended, step_of
from tests.e2e.test_router_failover import STEPS, by_hash, condition, outage, selected, the_run
from tests.fakes.eventually import eventually as until
from tests.fakes.ports import free_port
from tests.gateway.cluster import GatewayCluster, Traefik
from tests.gateway.conftest import program
from tests.router.rig import Load
from tests.router.rig.load import ask

__all__ = ["external_dns"]

INGRESS = "ingress"


@pytest.fixture
def shop(stage: Stage) -> Iterator[Stage]:
    """The shop, with rights for routes and records, and a router that is well."""
    api = gotools.source(gotools.GATEWAY_API, versions.GATEWAY_API, Progress()) / "config" / "crd" / "standard"
    dns = gotools.source("sigs.k8s.io/external-dns", versions.EXTERNAL_DNS, Progress())
    kinds = (
        *(path for path in sorted(api.glob("*.yaml")) if path.name != "kustomization.yaml"),
        dns / "config/crd/standard/dnsendpoints.externaldns.k8s.io.yaml",
    )
    for path in kinds:
        stage.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
    crds = ("httproutes.gateway.networking.k8s.io", "dnsendpoints.externaldns.k8s.io")
    stage.kubectl("wait", "--for=condition=Established", "--timeout=30s", *(f"crd/{name}" for name in crds))
    stage.apply(role("--set", "features.gatewayApi=true,features.dnsEndpoints=true"))
    stage.patch("recoverypolicy", "default", {"spec": {"steps": STEPS}})
    yield stage
    stage.patch("router", "shop", {"spec": {"fallback": {"switches": None}}})
    for kind in ("httproute", "dnsendpoint"):
        stage.kubectl("-n", SHOP, "delete", kind, "--all", "--timeout=30s")
    stage.apply(role())


def switched_by(stage: Stage, switch: dict[str, Any]) -> None:
    stage.patch("router", "shop", {"spec": {"fallback": {"replicas": 2, "switches": [switch]}}})
    stage.eventually("the fallback stands by", lambda: condition(stage, "FallbackReady") == "True", within=120)
    stage.eventually("the router is well", lambda: "failure" not in stage.get("router", "shop")["status"], within=60)


@asynccontextmanager
async def gateway(stage: Stage) -> AsyncIterator[Traefik]:
    """The Gateway `one`, in a namespace of its own; pods and customers of this machine reach it."""
    stage.apply(json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": INGRESS}}))
    async with (
        GatewayCluster(Path(stage.kubeconfig), INGRESS) as cluster,
        Traefik(
            cluster, program("traefik"), "one", number=1, metrics_port=free_port(), address=cluster.address
        ) as traefik,
    ):
        yield traefik
    stage.kubectl("delete", "namespace", INGRESS, "--wait=false")


def leads_to(stage: Stage) -> str:
    """Empty while there is no route."""
    routes = [route for route in stage.all("httproutes") if route["metadata"]["name"] == "shop"]
    return str(routes[0]["spec"]["rules"][0]["backendRefs"][0]["name"]) if routes else ""


async def test_a_gateways_route_leads_to_the_fallback_and_back(shop: Stage) -> None:
    stage = shop

    async def eventually(what: str, check: Callable[[], bool], within: float) -> None:
        await asyncio.to_thread(stage.eventually, what, check, within=within)

    async with gateway(stage) as traefik:
        switch = {"type": "Gateway", "gateway": {"parentRefs": [{"name": "one", "namespace": INGRESS}]}}
        await asyncio.to_thread(switched_by, stage, switch)
        await eventually("the route leads to the router", lambda: leads_to(stage) == "shop", 60)

        async def served() -> bool:
            asked = await ask(traefik.port, ("x-customer-id", b"alice"), path="/probe", address=traefik.address)
            return asked.status == 200

        await until(served, "Traefik has taken the route up", deadline=30)
        async with Load(
            (traefik.port,), address=traefik.address, clients=6, path="/probe", within=300, limit=60_000, pause=0.05
        ) as load:
            await asyncio.sleep(8)
            assert load.statuses.keys() == {200}
            broken = time.monotonic()
            await asyncio.to_thread(stage.break_router)
            name = await asyncio.to_thread(the_run, stage)
            await eventually("it is validated", lambda: step_of(stage, name) == "recover-primary", 90)
            assert (leads_to(stage), selected(stage)) == ("shop-fallback", "recell-router")
            order = stage.get("placement", "shop")["spec"]["fallback"]["order"]
            for number in range(60):
                customer = f"sample-{number}"
                answer = await ask(traefik.port, ("x-customer-id", customer.encode()), address=traefik.address)
                assert answer.cell == by_hash(order, customer)
            relieved = time.monotonic()
            await eventually("the run ends", lambda: ended(stage, name), 240)
            await asyncio.sleep(5)
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    assert (leads_to(stage), selected(stage)) == ("shop", "recell-router")
    served = sorted(at for at, _, status, _ in load.answers if status == 200)
    gaps = [later - earlier for earlier, later in pairwise(served)]
    failed = [(at, status) for at, _, status, _ in load.answers if status != 200]
    print(f"\nby a Gateway's route: {max(gaps):.1f} s without service, {len(failed) + len(load.errors)} of")
    print(f"{len(load.answers) + len(load.errors)} requests failed, the last {max(failed)[0] - broken:.1f} s after")
    assert [at for at, _ in failed if at > relieved] == [], "it takes over again without a failed request"


def test_a_name_leads_to_the_fallback_and_back(shop: Stage, tmp_path: Path, external_dns: Any) -> None:
    stage, where = shop, _address(shop)
    with (
        bind.servers(tmp_path, where) as zone,
        external_dns(Path(stage.kubeconfig), SHOP, *rfc2136(zone[0])),
    ):
        stage.patch("router", "shop", {"spec": {"fallback": {"replicas": 2}}})
        stage.eventually("it has a Service", lambda: "shop-fallback" in _services(stage), within=60)
        addresses = {name: stage.get("service", name)["spec"]["clusterIP"] for name in ("shop", "shop-fallback")}
        named = {
            "hostname": NAME,
            "ttl": "2s",
            "routerTargets": [addresses["shop"]],
            "fallbackTargets": [addresses["shop-fallback"]],
            "nameservers": [{"host": where, "port": server.port} for server in zone],
            "publishTimeout": "20s",
        }
        switched_by(stage, {"type": "DNS", "dns": named})
        with customers(stage, where, zone[1].port) as seconds:
            stage.eventually("customers are served", lambda: _served(seconds), within=60)
            stage.break_router()
            name = the_run(stage)
            stage.eventually("it is validated", lambda: step_of(stage, name) == "recover-primary", within=120)
            targets = stage.get("dnsendpoint", "shop")["spec"]["endpoints"][0]["targets"]
            assert (targets, selected(stage)) == ([addresses["shop-fallback"]], "recell-router")
            time.sleep(4)  # whoever asked before the change has asked again
            relieved = len(seconds)
            stage.eventually("the run ends", lambda: ended(stage, name), within=240)
            time.sleep(5)
            back = seconds[relieved:]
    run = stage.get("recoveryrun", name)
    assert run["status"]["phase"] == "Succeeded", run["status"]
    targets = stage.get("dnsendpoint", "shop")["spec"]["endpoints"][0]["targets"]
    assert (targets, selected(stage)) == ([addresses["shop"]], "recell-router")
    without, failed = outage(seconds)
    print(f"\nby a name: {without} s without service, {failed} requests failed")
    assert sum(sum(second["errors"].values()) for second in back) == 0, "it takes over again without a failed request"


def _services(stage: Stage) -> set[str]:
    return {service["metadata"]["name"] for service in stage.all("service")}


def _address(stage: Stage) -> str:
    """Of this machine, as pods see it."""
    return GatewayCluster(Path(stage.kubeconfig), SHOP).address


def _served(seconds: list[dict[str, Any]]) -> bool:
    return len(seconds) > 5 and all(second["ok"] and not second["errors"] for second in seconds[-5:])


@contextmanager
def customers(stage: Stage, server: str, port: int) -> Iterator[list[dict[str, Any]]]:
    """In a pod: they ask for the name as often as its TTL says, and connect anew for each request.

    What they saw, second by second."""
    seconds: list[dict[str, Any]] = []
    command = ["kubectl", f"--kubeconfig={stage.kubeconfig}", "-n", SHOP, "exec", "deployment/load", "--"]
    asked = [*command, "python3", "-u", "-c", _RESOLVING, server, str(port), NAME]
    with subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=sys.__stderr__, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                seconds.append(json.loads(line))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            yield seconds
        finally:
            process.terminate()
            reader.join(timeout=30)


_RESOLVING = """
import collections, concurrent.futures, json, random, socket, struct, sys, threading, time, urllib.error, urllib.request
server, port, name = sys.argv[1], int(sys.argv[2]), sys.argv[3]
known = {"at": 0.0, "ttl": 0.0, "targets": []}
told, lock = collections.Counter(), threading.Lock()

def resolve():
    if time.monotonic() < known["at"] + known["ttl"]:
        return known["targets"]
    number = random.randrange(65536)
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\\0"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.settimeout(2)
        asked.sendto(struct.pack(">6H", number, 0, 1, 0, 0, 0) + labels + struct.pack(">2H", 1, 1), (server, port))
        answer = asked.recv(4096)
    count, at, targets, ttl = struct.unpack(">H", answer[6:8])[0], 12 + len(labels) + 4, [], 0
    for _ in range(count):
        at += 2 if answer[at] >= 192 else len(labels)
        kind, _, ttl, size = struct.unpack(">2HIH", answer[at:at + 10])
        if kind == 1:
            targets.append(socket.inet_ntoa(answer[at + 10:at + 10 + size]))
        at += 10 + size
    known.update(at=time.monotonic(), ttl=float(ttl), targets=targets)
    return targets

def ask(number):
    try:
        target = random.choice(resolve())
        headers = {"x-customer-id": f"customer-{number % 300}", "Connection": "close"}
        with urllib.request.urlopen(urllib.request.Request(f"http://{target}/probe", headers=headers), timeout=3):
            result = "ok"
    except urllib.error.HTTPError as error:
        result = f"status {error.code}"
    except (OSError, IndexError) as error:
        result = type(error).__name__
    with lock:
        told[result] += 1

with concurrent.futures.ThreadPoolExecutor(32) as beside:
    for number in range(1000000):
        if number % 40 == 0 and number:
            with lock:
                errors = {what: count for what, count in told.items() if what != "ok"}
                print(json.dumps({"ok": told["ok"], "errors": errors}), flush=True)
                told.clear()
        beside.submit(ask, number)
        time.sleep(0.025)
"""
