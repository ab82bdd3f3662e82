"""Sends the customers' requests and judges the answers.

Promises: requests start at the asked rate until the duration is over or a stop is asked for, and each ends within
the time limit; then nothing is left under way.

What counts as a *wrong cell*: an answer from a cell that was not expected (if any are named); a customer's answer
whose data belong to another cell (`X-Customer-Home`); an answer from where the customer's data has left
(`X-Customer-Moves` is lower than before); an answer that lacks orders which this run had acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp

from shop_load.acknowledged import Acknowledged, Memory
from shop_load.customers import Customer, Seen
from shop_load.tally import Outcome, Tally

CUSTOMER_HEADER = "x-customer-id"
CELL_HEADER = "X-Cell"
HOME_HEADER = "X-Customer-Home"
MOVES_HEADER = "X-Customer-Moves"

_TICK_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent. `rate` is requests a second, `duration` and `timeout` are seconds, `write_share` percent."""

    target: str
    rate: float
    duration: float
    timeout: float = 5.0
    write_share: float = 30.0
    in_flight: int = 1000
    keepalive: bool = True
    cells_expected: frozenset[str] = frozenset()
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer's parts that matter here; `error` names what went wrong on the way to a good one."""

    cell: str | None = None
    home: str | None = None
    body: dict[str, object] | None = None
    error: str | None = None
    moves: int = 0


class Traffic:
    """One run. `on_second(number, tally)` is called after each second with what ended in it."""

    def __init__(
        self,
        plan: Plan,
        customers: Sequence[Customer],
        memory: Memory,
        on_second: Callable[[int, Tally], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._plan = plan
        self._customers = customers
        self._memory = memory
        self._on_second = on_second
        self._now = now
        self._chance = random.Random(plan.seed)
        self._second = Tally()
        self._seconds = 0
        self._under_way: set[asyncio.Task[None]] = set()
        self._stop = asyncio.Event()
        self._fault: BaseException | None = None
        self._run = f"{self._chance.getrandbits(32):08x}-{int(now().timestamp() * 1000):x}"
        self.total = Tally()

    def stop(self) -> None:
        """Send no more; what is under way may still end."""
        self._stop.set()

    async def run(self) -> None:
        """Send everything, and return when all of it ended. A fault of our own ends the run and is raised."""
        connector = aiohttp.TCPConnector(limit=0, force_close=not self._plan.keepalive)
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._plan.timeout),
        ) as session:
            reporting = asyncio.create_task(self._report())
            try:
                await self._send(session)
                if self._under_way:
                    await asyncio.wait(self._under_way)
            finally:
                reporting.cancel()
                for task in self._under_way:
                    task.cancel()
        if self._second.sent or self._second.ended:
            self._close_second()
        if self._fault is not None:
            raise self._fault

    async def _send(self, session: aiohttp.ClientSession) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        total = max(1, round(self._plan.rate * self._plan.duration))
        queue: list[Customer] = []
        for number in range(total):
            wait = started + number / self._plan.rate - loop.time()
            # Sleep in ticks: a sleep for every single request would cost more than the request.
            if wait > _TICK_SECONDS or number % 50 == 0:
                await asyncio.sleep(max(wait, 0))
            if self._stop.is_set():
                return
            if not queue:
                queue = self._chance.sample(self._customers, len(self._customers))
            customer = queue.pop()
            if len(self._under_way) >= self._plan.in_flight:
                self._second.unsent += 1
                self.total.unsent += 1
                continue
            self._second.sent += 1
            self.total.sent += 1
            task = asyncio.create_task(self._one(session, customer, number))
            self._under_way.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._under_way.discard(task)
        fault = None if task.cancelled() else task.exception()
        if fault is not None and self._fault is None:
            self._fault = fault
            self.stop()

    async def _one(self, session: aiohttp.ClientSession, customer: Customer, number: int) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        acknowledged_before, moves_before = customer.acknowledged, customer.moves
        dice = self._chance.random() * 100
        writes = self._plan.write_share
        if dice < writes or (customer.seen.requests == 0 and writes > 0):
            answer = await self._place_order(session, customer, number)
        elif dice < writes + (100 - writes) / 2:
            answer = await self._ask(session, customer, "GET", "/customer")
        else:
            answer = await self._ask(session, customer, "GET", "/orders?limit=20")
        error = answer.error
        if error is None and answer.cell is None:
            error = "no-cell"
        moved = answer.cell is not None and customer.answered_by(answer.cell, number)
        wrong = answer.cell is not None and self._is_wrong(answer, acknowledged_before, moves_before)
        customer.moves = max(customer.moves, answer.moves)
        outcome = Outcome(customer.home, answer.cell, error, wrong, moved, (loop.time() - began) * 1000)
        customer.seen.add(Seen(1, error is not None, wrong, moved))
        self._second.count(outcome)
        self.total.count(outcome)

    async def _place_order(self, session: aiohttp.ClientSession, customer: Customer, number: int) -> Answer:
        item, cents = f"item-{number}", self._chance.randint(100, 9999)
        body = json.dumps({"item": item, "cents": cents}).encode()
        answer = await self._ask(session, customer, "POST", "/orders", body, f"{self._run}-{number}")
        if answer.error is not None or answer.body is None:
            return answer
        order = answer.body.get("id")
        if not isinstance(order, str) or (answer.body.get("item"), answer.body.get("cents")) != (item, cents):
            return Answer(answer.cell, answer.home, None, "bad-answer")
        customer.acknowledged += 1
        at = self._now().isoformat(timespec="milliseconds")
        self._memory.remember(Acknowledged(order, customer.key, item, cents, answer.cell or "", at))
        return answer

    async def _ask(
        self,
        session: aiohttp.ClientSession,
        customer: Customer,
        method: str,
        path: str,
        body: bytes | None = None,
        key: str | None = None,
    ) -> Answer:
        headers = {CUSTOMER_HEADER: customer.key}
        if key is not None:
            headers |= {"Idempotency-Key": key, "Content-Type": "application/json"}
        try:
            async with session.request(
                method, self._plan.target + path, data=body, headers=headers, allow_redirects=False
            ) as response:
                text = await response.read()
                cell, home = response.headers.get(CELL_HEADER), response.headers.get(HOME_HEADER)
                if response.status not in (200, 201):
                    return Answer(cell, home, None, str(response.status))
        except (aiohttp.ClientError, OSError, TimeoutError) as fault:
            return Answer(error=name_fault(fault))
        try:
            parsed = json.loads(text)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            return Answer(cell, home, None, "bad-answer")
        moves = response.headers.get(MOVES_HEADER, "")
        return Answer(cell, home, parsed, moves=int(moves) if moves.isdecimal() else 0)

    def _is_wrong(self, answer: Answer, acknowledged: int, moves: int) -> bool:
        if self._plan.cells_expected and answer.cell not in self._plan.cells_expected:
            return True
        if answer.error is not None or answer.body is None:
            return False
        if answer.home is not None and (answer.home != answer.cell or answer.moves < moves):
            return True
        found = answer.body.get("orders")
        return isinstance(found, int) and found < acknowledged

    async def _report(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.time()
        while True:
            await asyncio.sleep(max(0.0, started + self._seconds + 1 - loop.time()))
            self._close_second()

    def _close_second(self) -> None:
        finished, self._second = self._second, Tally()
        self._seconds += 1
        self._on_second(self._seconds, finished)


def name_fault(fault: BaseException) -> str:
    """A short word for why there was no answer."""
    if isinstance(fault, TimeoutError):
        return "timeout"
    if isinstance(fault, aiohttp.ClientConnectorDNSError):
        return "dns"
    if isinstance(fault, aiohttp.ClientConnectorError):
        return "refused" if isinstance(fault.os_error, ConnectionRefusedError) else "unreachable"
    if isinstance(fault, aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | aiohttp.ClientPayloadError):
        return "cut-off"
    return "broken"
