"""The admin port: faults on order. It must not be reachable by customers.

| request | what it does |
|-|-|
| `GET /chaos` | the faults that are active in this process |
| `POST /chaos` `{"kind", ...}` | orders a fault (`crash`, `hang`, `err`, `slow`), or spoils data once (`corrupt`) |
| `DELETE /chaos`, `DELETE /chaos/ID` | takes all faults back, or one |

A fault of the cell reaches the cell's other pods within half a second.
"""

from __future__ import annotations

import asyncio
import json
import uuid

from aiohttp import web

from shop.answers import errors_as_answers, name_the_cell
from shop.faults import BadFault, Fault, Faults, FaultSpec, describe_spec, parse_spec
from shop.faults_store import FaultsStore
from shop.orders import Orders

CORRUPTIONS = ("amounts", "rows")


def make_admin_app(cell: str, pod: str, orders: Orders, faults: Faults, store: FaultsStore) -> web.Application:
    """The application for the admin port."""
    app = web.Application(middlewares=[errors_as_answers])
    name_the_cell(app, cell)
    handlers = _Handlers(cell, pod, orders, faults, store)
    app.router.add_get("/chaos", handlers.show)
    app.router.add_post("/chaos", handlers.order)
    app.router.add_delete("/chaos", handlers.take_back)
    app.router.add_delete("/chaos/{id}", handlers.take_back)
    return app


class _Handlers:
    def __init__(self, cell: str, pod: str, orders: Orders, faults: Faults, store: FaultsStore) -> None:
        self._cell = cell
        self._pod = pod
        self._orders = orders
        self._faults = faults
        self._store = store

    async def show(self, _request: web.Request) -> web.Response:
        return web.json_response(
            {"cell": self._cell, "pod": self._pod, "faults": [_describe(fault) for fault in self._faults.active()]}
        )

    async def order(self, request: web.Request) -> web.Response:
        try:
            data: object = json.loads(await request.read())
        except ValueError:
            data = None
        if isinstance(data, dict) and data.get("kind") == "corrupt":
            return await self._corrupt(data)
        try:
            spec = parse_spec(data)
        except BadFault as refused:
            raise web.HTTPBadRequest(text=str(refused)) from refused
        if spec.scope == "cell":
            fault_id = await self._store.add(spec)
        else:
            fault_id = self._add_to_pod(spec)
        return web.json_response({"id": fault_id, **describe_spec(spec)}, status=201)

    async def take_back(self, request: web.Request) -> web.Response:
        fault_id = request.match_info.get("id")
        removed = await self._store.remove(fault_id)
        if fault_id is not None and removed == 0:
            raise web.HTTPNotFound(text=f"no fault {fault_id}; GET /chaos lists the active ones")
        return web.json_response({"removed": removed})

    def _add_to_pod(self, spec: FaultSpec) -> str:
        fault_id = str(uuid.uuid4())
        now = asyncio.get_running_loop().time()
        self._faults.add_to_pod(Fault(fault_id, spec, None if spec.seconds is None else now + spec.seconds))
        return fault_id

    async def _corrupt(self, data: dict[str, object]) -> web.Response:
        unknown = sorted(data.keys() - {"kind", "what", "percent"})
        if unknown:
            raise web.HTTPBadRequest(
                text=f"{unknown[0]}: data are spoilt at once and for good, so there is only what and percent"
            )
        what, percent = data.get("what", "amounts"), data.get("percent", 100)
        if not isinstance(what, str) or what not in CORRUPTIONS:
            raise web.HTTPBadRequest(text=f"what: expected one of {', '.join(CORRUPTIONS)}")
        if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 < percent <= 100:
            raise web.HTTPBadRequest(text="percent: expected a number above 0, at most 100")
        rows = await self._orders.corrupt(what, float(percent))
        if rows == 0:
            raise web.HTTPConflict(text="there are no orders yet that could be spoilt")
        return web.json_response({"kind": "corrupt", "what": what, "rows": rows}, status=201)


def _describe(fault: Fault) -> dict[str, object]:
    left = None if fault.ends_at is None else round(fault.ends_at - asyncio.get_running_loop().time(), 1)
    return {"id": fault.id, **describe_spec(fault.spec), "secondsLeft": left}
