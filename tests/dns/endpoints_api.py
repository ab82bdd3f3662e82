"""So much of a Kubernetes API server as ExternalDNS and the operator need for DNSEndpoints, over real HTTP.

Versions rise, a generation counts changes of spec, an apply that carries a resourceVersion is a compare-and-swap, and
watches tell every change, initial events included. Nothing is validated, and nobody is refused.
"""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from recell.providers.kube.paths import DNS_ENDPOINTS
from tests.fakes.ports import free_port

Object = dict[str, Any]

GROUP = {"groupVersion": DNS_ENDPOINTS.api_version, "version": DNS_ENDPOINTS.version}
VERBS = ["get", "list", "watch", "patch", "update", "create", "delete"]


class EndpointsApi:
    def __init__(self) -> None:
        self.port = free_port()
        self.objects: dict[tuple[str, str], Object] = {}
        self._version = 100
        self._watches: list[tuple[str, asyncio.Queue[Object]]] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> "EndpointsApi":
        app = web.Application()
        base = f"/apis/{DNS_ENDPOINTS.api_version}"
        app.router.add_get("/version", self._answer({"major": "1", "minor": "36", "gitVersion": "v1.36.3"}))
        app.router.add_get("/api", self._answer({"kind": "APIVersions", "versions": ["v1"]}))
        app.router.add_get("/api/v1", self._resources("v1"))
        group = {"name": DNS_ENDPOINTS.group, "versions": [GROUP], "preferredVersion": GROUP}
        app.router.add_get("/apis", self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": [group]}))
        kind = {"kind": DNS_ENDPOINTS.kind, "namespaced": True, "verbs": VERBS}
        plural = DNS_ENDPOINTS.plural
        app.router.add_get(
            base,
            self._resources(DNS_ENDPOINTS.api_version, {"name": plural} | kind, {"name": f"{plural}/status"} | kind),
        )
        one = f"{base}/namespaces/{{namespace}}/{plural}/{{name}}"
        app.router.add_get(f"{base}/namespaces/{{namespace}}/{plural}", self._listed)
        app.router.add_get(one, self._get)
        app.router.add_patch(one, self._apply)
        app.router.add_put(f"{one}/status", self._status)
        self._runner = web.AppRunner(app, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._runner is not None
        for _, queue in self._watches:
            queue.put_nowait({})
        await self._runner.cleanup()

    def kubeconfig(self, folder: Path) -> Path:
        made = folder / "kubeconfig"
        name = "memory"
        made.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{"name": name, "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": name, "user": {"token": "none"}}],
                    "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
                    "current-context": name,
                }
            )
        )
        return made

    # How

    def _put(self, obj: Object) -> Object:
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        known = key in self.objects
        self._version += 1
        obj["metadata"]["resourceVersion"] = str(self._version)
        self.objects[key] = obj
        for namespace, queue in self._watches:
            if namespace == key[0]:
                queue.put_nowait({"type": "MODIFIED" if known else "ADDED", "object": obj})
        return obj

    async def _listed(self, request: web.Request) -> web.StreamResponse:
        namespace = request.match_info["namespace"]
        found = [obj for key, obj in self.objects.items() if key[0] == namespace]
        if request.query.get("watch") not in ("true", "1"):
            metadata = {"resourceVersion": str(self._version)}
            return web.json_response(
                {"kind": "DNSEndpointList", "apiVersion": DNS_ENDPOINTS.api_version, "metadata": metadata}
                | {"items": found}
            )
        events: asyncio.Queue[Object] = asyncio.Queue()
        if request.query.get("sendInitialEvents") == "true":
            for obj in found:
                events.put_nowait({"type": "ADDED", "object": obj})
            annotations = {"k8s.io/initial-events-end": "true"}
            ends = _typed({"metadata": {"resourceVersion": str(self._version), "annotations": annotations}})
            events.put_nowait({"type": "BOOKMARK", "object": ends})
        entry = (namespace, events)
        self._watches.append(entry)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        try:
            while event := await events.get():
                await response.write(json.dumps(event).encode() + b"\n")
        except ConnectionError:
            pass
        finally:
            self._watches.remove(entry)
        return response

    async def _get(self, request: web.Request) -> web.Response:
        found = self.objects.get(_key(request))
        return web.json_response(found) if found is not None else _refused(404, "NotFound")

    async def _apply(self, request: web.Request) -> web.Response:
        body = yaml.safe_load(await request.text())
        key = _key(request)
        live = self.objects.get(key)
        asked = body["metadata"].get("resourceVersion")
        if asked is not None and (live is None or live["metadata"]["resourceVersion"] != asked):
            return _refused(409, "Conflict")
        generation = live["metadata"]["generation"] if live is not None else 0
        changed = live is None or live["spec"] != body["spec"]
        metadata = body["metadata"] | {"uid": f"uid-{key[1]}", "generation": generation + (1 if changed else 0)}
        return web.json_response(self._put(body | {"metadata": metadata, "status": (live or {}).get("status", {})}))

    async def _status(self, request: web.Request) -> web.Response:
        body, live = await request.json(), self.objects.get(_key(request))
        if live is None:
            return _refused(404, "NotFound")
        if body["metadata"].get("resourceVersion") not in (None, "", live["metadata"]["resourceVersion"]):
            return _refused(409, "Conflict")
        return web.json_response(self._put({**live, "metadata": dict(live["metadata"]), "status": body["status"]}))

    @staticmethod
    def _answer(body: Mapping[str, Any]) -> Any:
        async def answer(request: web.Request) -> web.Response:
            return web.json_response(body)

        return answer

    @classmethod
    def _resources(cls, version: str, *resources: Object) -> Any:
        return cls._answer(
            {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": [*resources]}
        )


def _key(request: web.Request) -> tuple[str, str]:
    return (request.match_info["namespace"], request.match_info["name"])


def _typed(obj: Object) -> Object:
    return {"apiVersion": DNS_ENDPOINTS.api_version, "kind": DNS_ENDPOINTS.kind} | obj


def _refused(status: int, reason: str) -> web.Response:
    body = {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": reason,
        "code": status,
        "message": reason,
    }
    return web.json_response(body, status=status)
