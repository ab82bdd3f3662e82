"""The part of the Kubernetes API that the agent uses: list and watch of Placements by field selector."""

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from recell.api.placement import encode_table
from tests.fakes.ports import free_port

NAMESPACE = "fleet"
NAME = "shop"


def spread(slots: int, *indexes: int) -> list[int]:
    """A table in which these cells have every so manieth slot."""
    return [indexes[slot % len(indexes)] for slot in range(slots)]


def placement(
    cells: Mapping[str, tuple[int, str, int]],
    table: Sequence[int],
    *,
    generation: int,
    epoch: int = 1,
    uid: str = "placement-1",
    pins: Mapping[str, int] | None = None,
    name: str = NAME,
    shed: Mapping[str, tuple[int, str]] | None = None,
    circuits: Mapping[str, tuple[int, str]] | None = None,
    held: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """A Placement as the API server answers it; `cells`: name -> (index, address, port); `shed` and `circuits`: class
    or cell -> (percent, when it expires); `held`: cell -> state of a hold at 0 %."""
    holder = {"kind": "RecoveryRun", "name": "storm", "uid": "run-1"}
    return {
        "apiVersion": "recell.dev/v1alpha1",
        "kind": "Placement",
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": uid, "generation": generation},
        "spec": {
            "epoch": epoch,
            "slots": len(table),
            "mode": "Primary",
            "nextIndex": max((index for index, _, _ in cells.values()), default=-1) + 1,
            "cells": [
                {"name": cell, "uid": f"uid-{cell}", "index": index, "address": address, "port": port, "weight": 100}
                for cell, (index, address, port) in cells.items()
            ],
            "homes": encode_table(table),
            "serving": encode_table(table),
            "pins": [
                {"customer": customer, "home": target, "serving": target} for customer, target in (pins or {}).items()
            ],
            "holds": [
                {
                    "cell": cell,
                    "maxPercent": 0,
                    "state": state,
                    "holder": holder,
                    "reason": "",
                    "since": "2026-11-20T10:00:00Z",
                }
                for cell, state in (held or {}).items()
            ],
            "reservations": [],
            "shedding": [
                {"class": what, "percent": percent, "expiresAt": until, "holder": holder}
                for what, (percent, until) in (shed or {}).items()
            ],
            "openCircuits": [
                {"cell": cell, "percent": percent, "expiresAt": until, "holder": holder}
                for cell, (percent, until) in (circuits or {}).items()
            ],
        },
    }


class PlacementApi:
    """Serves what `put` and `delete` leave; `cut` ends every watch, `away` refuses connections."""

    def __init__(self) -> None:
        self._objects: dict[str, dict[str, Any]] = {}
        self._version = 100
        self._watches: list[tuple[str, asyncio.Queue[dict[str, Any] | None]]] = []
        self._runner: web.AppRunner | None = None
        self._port = free_port()
        """Nobody else's while it is away."""
        self.lists = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    async def __aenter__(self) -> "PlacementApi":
        await self.back()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.away()

    async def back(self) -> None:
        app = web.Application()
        app.router.add_get("/apis/recell.dev/v1alpha1/namespaces/{namespace}/placements", self._get)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port)
        await site.start()

    async def away(self) -> None:
        self.cut()
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def cut(self) -> None:
        for _, queue in self._watches:
            queue.put_nowait(None)

    def put(self, obj: dict[str, Any]) -> None:
        name = obj["metadata"]["name"]
        self._version += 1
        stored = json.loads(json.dumps(obj))
        stored["metadata"]["resourceVersion"] = str(self._version)
        kind = "MODIFIED" if name in self._objects else "ADDED"
        self._objects[name] = stored
        self._send(name, {"type": kind, "object": stored})

    def delete(self, name: str = NAME) -> None:
        self._version += 1
        self._send(name, {"type": "DELETED", "object": self._objects.pop(name)})

    def _send(self, name: str, event: dict[str, Any]) -> None:
        for watched, queue in self._watches:
            if watched == name:
                queue.put_nowait(event)

    async def _get(self, request: web.Request) -> web.StreamResponse:
        selector = request.query.get("fieldSelector", "")
        if request.match_info["namespace"] != NAMESPACE or not selector.startswith("metadata.name="):
            # What RBAC by resourceNames answers to a list without this field selector.
            return web.json_response({"kind": "Status", "code": 403}, status=403)
        name = selector.removeprefix("metadata.name=")
        if "watch" not in request.query:
            self.lists += 1
            found = self._objects.get(name)
            return web.json_response(
                {"metadata": {"resourceVersion": str(self._version)}, "items": [found] if found else []}
            )
        return await self._watch(request, name)

    async def _watch(self, request: web.Request, name: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        current = self._objects.get(name)
        if current and int(current["metadata"]["resourceVersion"]) > int(request.query["resourceVersion"]):
            queue.put_nowait({"type": "MODIFIED", "object": current})
        entry = (name, queue)
        self._watches.append(entry)
        try:
            with contextlib.suppress(ConnectionError):
                while (event := await queue.get()) is not None:
                    await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watches.remove(entry)
        return response
