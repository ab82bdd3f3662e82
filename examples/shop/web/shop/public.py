"""The public port: what customers and probes ask.

| request | answer |
|-|-|
| `POST /orders` `{"item", "cents"}` | 201 and the order, after its commit; 200 for a repeated `Idempotency-Key` |
| `GET /orders?limit=100&after=SEQ` | the customer's orders, oldest first; `next` is the `after` of the next page |
| `GET /customer` | what the cell knows of the customer; `known` false and no orders if nothing |
| `GET /probe` | goes the way of a customer's request (and through the same faults), without a customer |
| `GET /healthz` | 200: the process lives |
| `GET /readyz` | 200: the database answers; 503: it does not, or the process is stopping |
| `GET /integrity` | 200 Intact, 503 Corrupted, 500 Unknown, each with reasons and counts |

The customer is named by the header `x-customer-id`. Answers about a known customer carry `X-Customer-Home`, the cell
that the customer's data belongs to, and `X-Customer-Moves`, how often it moved, unless the cells share their data.
While a customer moves to another cell, orders are answered with 503 and `Retry-After`.
"""

from __future__ import annotations

import json

from aiohttp import web
from aiohttp.typedefs import Middleware

from shop.answers import HOME_HEADER, MOVES_HEADER, Handler, error, errors_as_answers, name_the_cell
from shop.faults import Faults
from shop.integrity import Integrity
from shop.orders import MAX_PAGE, Home, Order, Orders
from shop.settings import Settings

CUSTOMER_HEADER = "x-customer-id"
IDEMPOTENCY_HEADER = "Idempotency-Key"
MAX_NAME = 200
MAX_CENTS = 10_000_000
MAX_BODY = 16 * 1024

_INTEGRITY_STATUS = {"Intact": 200, "Corrupted": 503, "Unknown": 500}


class Readiness:
    """Whether the process wants requests; `stopping` is set once, when it is told to end."""

    stopping = False


def make_public_app(
    settings: Settings, orders: Orders, integrity: Integrity, faults: Faults, ready: Readiness
) -> web.Application:
    """The application for the public port."""
    app = web.Application(
        middlewares=[_parting(ready), errors_as_answers, _faults_strike(faults)], client_max_size=MAX_BODY
    )
    name_the_cell(app, settings.cell)
    handlers = _Handlers(settings, orders, integrity, ready)
    app.router.add_post("/orders", handlers.place_order)
    app.router.add_get("/orders", handlers.list_orders)
    app.router.add_get("/customer", handlers.show_customer)
    app.router.add_get("/probe", handlers.probe)
    app.router.add_get("/healthz", handlers.alive)
    app.router.add_get("/readyz", handlers.readiness)
    app.router.add_get("/integrity", handlers.check_integrity)
    return app


class _Handlers:
    def __init__(self, settings: Settings, orders: Orders, integrity: Integrity, ready: Readiness) -> None:
        self._cell = settings.cell
        self._shared_data = settings.shared_data
        self._orders = orders
        self._integrity = integrity
        self._ready = ready

    async def place_order(self, request: web.Request) -> web.Response:
        customer = _customer_of(request)
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is not None:
            _check_text(key, IDEMPOTENCY_HEADER)
        item, cents = await _order_in(request)
        placed = await self._orders.place(customer, item, cents, key)
        if (placed.order.item, placed.order.cents) != (item, cents):
            raise web.HTTPUnprocessableEntity(
                text=f"{IDEMPOTENCY_HEADER} {key!r} was used for another order of this customer; use a new key"
            )
        answer = {**_describe(placed.order), "customer": customer, "cell": self._cell}
        status = 201 if placed.is_new else 200
        return web.json_response(answer, status=status, headers=self._home(placed.home))

    async def list_orders(self, request: web.Request) -> web.Response:
        customer = _customer_of(request)
        limit = _number_in(request, "limit", 100, 1, MAX_PAGE)
        home, orders = await self._orders.listed(customer, _number_in(request, "after", 0, 0, 2**62), limit)
        answer = {
            "orders": [_describe(order) for order in orders],
            "next": orders[-1].seq if len(orders) == limit else None,
        }
        return web.json_response(answer, headers=self._home(home))

    async def show_customer(self, request: web.Request) -> web.Response:
        name = _customer_of(request)
        customer = await self._orders.customer(name)
        if customer is None:
            return web.json_response({"customer": name, "known": False, "orders": 0, "cents": 0})
        answer = {
            "customer": name,
            "known": True,
            "home": None if self._shared_data else customer.home.cell,
            "since": customer.since.isoformat(),
            "orders": customer.orders,
            "cents": customer.cents,
        }
        return web.json_response(answer, headers=self._home(customer.home))

    async def probe(self, _request: web.Request) -> web.Response:
        await self._orders.answers()
        return web.json_response({"status": "serving", "cell": self._cell})

    async def alive(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def readiness(self, _request: web.Request) -> web.Response:
        if self._ready.stopping:
            return error(503, "Stopping", "the process was told to end")
        await self._orders.answers()
        return web.json_response({"status": "ready"})

    async def check_integrity(self, _request: web.Request) -> web.Response:
        verdict = await self._integrity.check()
        answer = {"integrity": verdict.state, "reasons": list(verdict.reasons), **verdict.counts}
        return web.json_response(answer, status=_INTEGRITY_STATUS[verdict.state])

    def _home(self, home: Home | None) -> dict[str, str]:
        if home is None or self._shared_data:
            return {}
        return {HOME_HEADER: home.cell, MOVES_HEADER: str(home.moves)}


def _faults_strike(faults: Faults) -> Middleware:
    @web.middleware
    async def strike(request: web.Request, handler: Handler) -> web.StreamResponse:
        refusal = await faults.strike(request.path)
        if refusal is not None:
            return error(refusal.status, "Fault", f"ordered by fault {refusal.fault}")
        return await handler(request)

    return strike


def _parting(ready: Readiness) -> Middleware:
    """While the process stops, tell clients on lasting connections to make their next request elsewhere."""

    @web.middleware
    async def part(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if ready.stopping:
            response.force_close()
        return response

    return part


def _customer_of(request: web.Request) -> str:
    named = request.headers.getall(CUSTOMER_HEADER, [])
    if len(named) != 1:
        raise web.HTTPBadRequest(text=f"name the customer in exactly one header {CUSTOMER_HEADER}; got {len(named)}")
    return _check_text(named[0], CUSTOMER_HEADER)


async def _order_in(request: web.Request) -> tuple[str, int]:
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise web.HTTPBadRequest(text='expected a JSON object, for example {"item": "tea", "cents": 450}')
    item, cents = body.get("item"), body.get("cents")
    if not isinstance(item, str):
        raise web.HTTPBadRequest(text="item: expected a text")
    if isinstance(cents, bool) or not isinstance(cents, int) or not 1 <= cents <= MAX_CENTS:
        raise web.HTTPBadRequest(text=f"cents: expected a whole number from 1 to {MAX_CENTS}")
    return _check_text(item, "item"), cents


def _check_text(text: str, what: str) -> str:
    """Refuse what PostgreSQL could not keep as text, before it gets there."""
    if not 1 <= len(text) <= MAX_NAME or not text.isprintable():
        raise web.HTTPBadRequest(text=f"{what}: expected 1 to {MAX_NAME} printable characters in UTF-8")
    return text


def _number_in(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise web.HTTPBadRequest(text=f"{name}: expected a whole number from {least} to {most}, got {text!r}")
    return int(text)


def _describe(order: Order) -> dict[str, object]:
    return {"id": order.id, "item": order.item, "cents": order.cents, "placedAt": order.placed_at.isoformat()}
