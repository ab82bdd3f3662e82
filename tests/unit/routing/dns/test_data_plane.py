"""The DNSEndpoint of a Router, against an API server in memory: written when it has to be, never over a newer one."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recell.api import Placement, Router
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable, Reverted
from recell.providers.kube import kept
from recell.providers.kube.paths import DNS_ENDPOINTS
from recell.providers.routing.dns import traffic as traffic_module
from recell.providers.routing.dns.data_plane import DNSDataPlane
from recell.providers.routing.dns.traffic import DNSTraffic
from tests.fakes.eventually import eventually
from tests.unit.kube.fake_server import FakeApi, FakeServer
from tests.unit.routing.builders import ManualClock
from tests.unit.routing.dns.builders import KEY, dns_router, placed
from tests.unit.routing.dns.test_traffic import ScriptedNames

PATH = DNS_ENDPOINTS.path(*KEY)
EVEN = {"a": 512, "b": 512}
DRAINED = {"a": 0, "b": 1024}


def router(**dns: Any) -> Router:
    return dns_router({"routingPolicy": "Simple"} | dns)


class VersionedApi(FakeApi):
    """Like an API server: a generation that counts changes of spec, and versions that are compared."""

    async def apply(self, path: str, body: dict[str, Any], *, force: bool = True) -> dict[str, Any]:
        live = self.server.objects.get(path)
        asked = body["metadata"].get("resourceVersion")
        if asked is not None and (live is None or live["metadata"]["resourceVersion"] != asked):
            raise Conflict(path)
        metadata = {**(live or {}).get("metadata", {}), **body["metadata"]}
        same = live is not None and live["spec"] == body["spec"]
        metadata["generation"] = metadata.get("generation", 0) + (0 if same else 1)
        self._may_write("apply", path)
        status = (live or {}).get("status", {})
        return self.server.put(path, {**body, "metadata": metadata, "status": status})


class Rig:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.api = VersionedApi(self.server)
        self.clock = ManualClock()
        self.names = ScriptedNames()
        self.woken: list[str] = []
        self.traffic = DNSTraffic(self.clock, self.names, on_change=lambda key: None)
        self.plane = DNSDataPlane(
            self.api,
            self.clock,
            self.traffic,
            on_change=lambda key: self.woken.append(key[1]),  # type: ignore[arg-type]
        )

    async def reconcile(self, told: Router, placement: Placement) -> None:
        await self.plane.ensure(told)
        await self.plane.tell(KEY, placement)

    @property
    def written(self) -> int:
        return len(self.server.writes)

    def targets(self) -> list[str]:
        return [t for e in self.server.objects[PATH]["spec"]["endpoints"] for t in e["targets"]]

    def somebody(self, **changes: Any) -> None:
        self.server.put(PATH, {**self.server.objects[PATH], **changes})


@pytest.fixture
async def rig(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Rig]:
    monkeypatch.setattr(traffic_module, "LOOK_EVERY", 0.001)
    rig = Rig()
    yield rig
    await rig.plane.stop()


async def test_it_is_written_once_and_again_only_when_it_says_something_else(rig: Rig) -> None:
    await rig.reconcile(router(), placed(EVEN))
    assert rig.targets() == ["192.0.2.1", "192.0.2.2"]
    for generation in (1, 2, 3):
        await rig.reconcile(router(), placed(EVEN, generation=generation))
    assert rig.written == 1
    await rig.reconcile(router(), placed(DRAINED, generation=4))
    assert rig.targets() == ["192.0.2.2"]
    assert rig.written == 2
    await rig.reconcile(router(ttl="10s"), placed(DRAINED, generation=4))
    assert rig.written == 3


async def test_one_that_is_deleted_or_changed_by_somebody_is_seen_and_set_right(rig: Rig) -> None:
    await rig.reconcile(router(), placed(EVEN))
    rig.woken.clear()
    rig.server.remove(PATH)
    await eventually(lambda: rig.woken, "the loss is seen")
    await rig.reconcile(router(), placed(EVEN))
    assert rig.targets() == ["192.0.2.1", "192.0.2.2"]
    for _ in range(kept.REVERTS):
        rig.woken.clear()
        rig.somebody(spec={"endpoints": []})
        await eventually(lambda: rig.woken, "the change is seen")
        await rig.reconcile(router(), placed(EVEN))
        assert rig.targets() == ["192.0.2.1", "192.0.2.2"]
    rig.woken.clear()
    rig.somebody(spec={"endpoints": []})
    await eventually(lambda: rig.woken, "the change is seen")
    with pytest.raises(Reverted, match="put back 2 times and changed again"):
        await rig.reconcile(router(), placed(EVEN))
    rig.clock.seconds += kept.FORGIVEN_AFTER.total_seconds()
    await rig.reconcile(router(), placed(EVEN))


async def test_an_old_leader_writes_nothing_over_a_newer_one(rig: Rig) -> None:
    """SIGSTOP before the write, a new leader meanwhile: refused by version, then by the Placement it names."""
    await rig.reconcile(router(), placed(EVEN, generation=5, epoch=1))
    idle = DNSTraffic(rig.clock, rig.names, on_change=lambda key: None)
    old = DNSDataPlane(rig.api, rig.clock, idle, on_change=lambda key: None)  # type: ignore[arg-type]
    await old.ensure(router())
    await old.stop()  # it sees nothing more
    await rig.reconcile(router(), placed(DRAINED, generation=6, epoch=2))
    with pytest.raises(Conflict):
        await old.tell(KEY, placed({"a": 1024, "b": 0}, generation=5, epoch=1))
    with pytest.raises(Retryable, match="is older or another one"):
        await rig.plane.tell(KEY, placed({"a": 1024, "b": 0}, generation=5, epoch=1))
    assert rig.targets() == ["192.0.2.2"]


async def test_somebody_elses_endpoint_of_that_name_is_left_alone(rig: Rig) -> None:
    theirs = {"metadata": {"name": "shop", "namespace": "fleet", "generation": 1}, "spec": {"endpoints": []}}
    rig.server.put(PATH, theirs)
    with pytest.raises(BadInput, match="DNSEndpoint fleet/shop is there already and was not made for this Router"):
        await rig.reconcile(router(), placed(EVEN))
    assert rig.written == 0


@pytest.mark.parametrize(
    ("broken", "raised", "said"),
    [
        (Forbidden("list dnsendpoints"), Forbidden, "features.dnsEndpoints of the chart"),
        (NotFound("list dnsendpoints"), BadInput, "install ExternalDNS with its CustomResourceDefinition"),
    ],
)
async def test_a_missing_right_or_kind_is_said_with_the_next_step_and_found_later(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, broken: RecellError, raised: type[RecellError], said: str
) -> None:
    monkeypatch.setattr("recell.providers.kube.reflector.REFUSED_BACKOFF", 0.02)
    rig.api.broken = broken
    with pytest.raises(raised, match=said):
        await rig.plane.ensure(router())
    rig.api.broken = None
    await eventually(lambda: rig.plane.reflectors[0].synced.is_set(), "it can be read")
    await rig.reconcile(router(), placed(EVEN))
    assert rig.written == 1


async def test_weights_wait_for_external_dns_which_tells_by_the_observed_generation(rig: Rig) -> None:
    told = router(routingPolicy="Weighted", propagation="1s", ttl="1s")
    await rig.reconcile(told, placed(EVEN))
    rig.names.targets = {"192.0.2.1"}
    await eventually(lambda: "observedGeneration is behind" in rig.plane.progress(KEY), "it waits for ExternalDNS")
    rig.somebody(status={"observedGeneration": rig.server.objects[PATH]["metadata"]["generation"]})
    await eventually(lambda: len(rig.woken) > 1, "the change is seen")
    await rig.reconcile(told, placed(EVEN))

    def passing() -> bool:
        rig.clock.seconds += 1
        return rig.plane.applied(KEY) is not None

    await eventually(passing, "it is in force")
    assert rig.plane.serving(KEY) == 2
    assert rig.plane.observed(KEY, window=10) is None


async def test_a_router_that_is_gone_is_forgotten(rig: Rig) -> None:
    await rig.reconcile(router(), placed(EVEN))
    await rig.plane.tell(KEY, None)
    assert rig.plane.applied(KEY) is None
    rig.woken.clear()
    rig.server.remove(PATH)
    await asyncio.sleep(0.05)
    assert rig.woken == []
