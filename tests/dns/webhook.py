"""A DNS provider for ExternalDNS by its webhook protocol: what it is told to publish, a name server in memory answers.

The only server at hand that knows weights, as Route 53 does: an answer names one of the records of a name, as often as
its weight says. Protocol: docs/contributing of ExternalDNS, version 1.
"""

from typing import Any

from aiohttp import web

from tests.fakes.name_server import NameServer
from tests.fakes.ports import free_port

MEDIA = "application/external.dns.webhook+json;version=1"
WEIGHT = "webhook/weight"

Endpoint = dict[str, Any]


class WeightedZone:
    """The zone; `records` are those that ExternalDNS has asked for, by name, type and setIdentifier."""

    def __init__(self, names: NameServer) -> None:
        self.port = free_port()
        self.records: dict[tuple[str, str, str], Endpoint] = {}
        self._names = names
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "WeightedZone":
        app = web.Application()
        app.router.add_get("/", self._domains)
        app.router.add_get("/records", self._listed)
        app.router.add_post("/records", self._change)
        app.router.add_post("/adjustendpoints", self._adjust)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _domains(self, request: web.Request) -> web.Response:
        return self._json({})

    async def _listed(self, request: web.Request) -> web.Response:
        return self._json(list(self.records.values()))

    async def _adjust(self, request: web.Request) -> web.Response:
        return self._json(await request.json())

    async def _change(self, request: web.Request) -> web.Response:
        changes = await request.json()
        for kind in ("delete", "updateOld"):
            for endpoint in changes.get(kind) or ():
                self.records.pop(_key(endpoint), None)
        for kind in ("create", "updateNew"):
            for endpoint in changes.get(kind) or ():
                self.records[_key(endpoint)] = endpoint
        self._publish()
        return web.Response(status=204)

    def _publish(self) -> None:
        self._names.records.clear()
        self._names.weights.clear()
        for (name, record_type, _), endpoint in self.records.items():
            weight = next((p["value"] for p in endpoint.get("providerSpecific") or () if p["name"] == WEIGHT), None)
            ttl, targets = endpoint.get("recordTTL", 1), endpoint["targets"]
            known = self._names.records.get((name, record_type), (ttl, ()))[1]
            self._names.records[name, record_type] = (ttl, [*known, *targets])
            if weight is not None:
                mine = dict(self._names.weights.get((name, record_type), {})) | {targets[0]: int(weight)}
                self._names.weights[name, record_type] = mine

    @staticmethod
    def _json(body: Any) -> web.Response:
        answer = web.json_response(body)
        answer.headers["Content-Type"] = MEDIA
        return answer


def _key(endpoint: Endpoint) -> tuple[str, str, str]:
    return (endpoint["dnsName"], endpoint["recordType"], endpoint.get("setIdentifier", ""))
