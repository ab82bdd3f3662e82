"""Looks for every acknowledged order: is it there, and is it what was acknowledged?

Promises: an order is called missing only if the shop answered without it; a customer whose orders could not be read
is reported apart. Orders that nobody acknowledged do not matter. It ends within its time limits.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from shop_load.acknowledged import Acknowledged, by_customer
from shop_load.traffic import CUSTOMER_HEADER, name_fault

PAGE = 1000
ATTEMPTS = 5
CONCURRENT = 16


class Unreadable(Exception):
    """A customer's orders could not be read; the message says why."""


@dataclass(slots=True)
class Findings:
    """The result. `unreadable` maps customers to why."""

    checked: int = 0
    customers: int = 0
    missing: list[Acknowledged] = field(default_factory=list)
    altered: list[Acknowledged] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)

    def missing_between(self) -> tuple[str, str] | None:
        """When the first and the last of the missing orders were acknowledged."""
        times = [order.at for order in self.missing]
        return (min(times), max(times)) if times else None

    def described(self) -> dict[str, object]:
        """As a JSON object. The missing orders come with when they were acknowledged."""
        first, last = self.missing_between() or (None, None)
        return {
            "checked": self.checked,
            "customers": self.customers,
            "missing": {order.order: order.at for order in self.missing},
            "altered": [order.order for order in self.altered],
            "firstMissingAt": first,
            "lastMissingAt": last,
            "customersWithMissing": len({order.customer for order in self.missing}),
            "customersWithAltered": len({order.customer for order in self.altered}),
            "unreadable": self.unreadable,
        }


async def verify(target: str, orders: Iterable[Acknowledged], timeout: float) -> Findings:
    """Read the orders of every customer concerned and compare. `timeout` is seconds for one request."""
    findings = Findings()
    turn = asyncio.Semaphore(CONCURRENT)
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=timeout)
    ) as session:

        async def one(customer: str, expected: list[Acknowledged]) -> None:
            async with turn:
                try:
                    found = await _orders_of(session, target, customer)
                except Unreadable as why:
                    findings.unreadable[customer] = str(why)
                    return
            for order in expected:
                findings.checked += 1
                if order.order not in found:
                    findings.missing.append(order)
                elif found[order.order] != (order.item, order.cents):
                    findings.altered.append(order)

        groups = by_customer(orders)
        findings.customers = len(groups)
        async with asyncio.TaskGroup() as tasks:
            for customer, expected in groups.items():
                tasks.create_task(one(customer, expected))
    return findings


async def _orders_of(session: aiohttp.ClientSession, target: str, customer: str) -> dict[str, tuple[object, object]]:
    found: dict[str, tuple[object, object]] = {}
    after = 0
    while True:
        page = await _page(session, f"{target}/orders?limit={PAGE}&after={after}", customer)
        try:
            for order in page["orders"]:
                found[order["id"]] = (order["item"], order["cents"])
            following = page["next"]
        except (KeyError, TypeError) as wrong:
            raise Unreadable("the answer is no list of orders") from wrong
        if following is None:
            return found
        if not isinstance(following, int) or following <= after:
            raise Unreadable("the pages of orders do not end")
        after = following


async def _page(session: aiohttp.ClientSession, url: str, customer: str) -> dict[str, Any]:
    why = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            await asyncio.sleep(0.2 * 2**attempt)
        try:
            async with session.get(url, headers={CUSTOMER_HEADER: customer}) as response:
                if response.status == 200:
                    page: dict[str, Any] = json.loads(await response.read())
                    return page
                why = f"status {response.status}"
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as fault:
            why = "bad-answer" if isinstance(fault, ValueError) else name_fault(fault)
    raise Unreadable(why)
