"""Copies customers from one cell's database to another's, so many slots at a time.

Promises, for each customer: after a copy that counts as done, the target has exactly the orders, with the same ids,
times and idempotency keys, that make up the figures which the source keeps of the customer; and it commits them, the
customer's new home and the note of the arrival together. A copy that is repeated changes nothing, also after the
customer placed orders in the target. No order is removed from the target unless the same order arrives.

A customer whose orders do not make up those figures, or who has orders in the target that do not arrive, is not copied
and counts as failed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from shop_data import report, slots
from shop_data.server import Server

CHUNK_SECONDS = 300
# A chunk is one transaction. Slots: what the lock table of a database bears beside its customers' own transactions.
_CHUNK_SLOTS = 2048
_CHUNK_CUSTOMERS = 500

# Whoever copies customers into a target, or takes them back, holds this lock there.
TURN = 7_304_553

_CUSTOMERS = "SELECT id, since, moves, orders, cents, digest FROM shop.customers WHERE slot = ANY ('{slots}')"
_ORDERS = (
    "SELECT o.seq, o.id, o.customer, o.idempotency_key, o.item, o.cents, o.placed_at"
    " FROM shop.orders o JOIN shop.customers c ON c.id = o.customer WHERE c.slot = ANY ('{slots}')"
)
_BEGIN = f"""
BEGIN;
SELECT pg_advisory_xact_lock({TURN});
CREATE TEMP TABLE arriving (
    id text PRIMARY KEY, since timestamptz, moves int, orders bigint, cents bigint, digest bigint
) ON COMMIT DROP;
CREATE TEMP TABLE arriving_orders (
    seq bigint, id uuid PRIMARY KEY, customer text, idempotency_key text, item text, cents bigint, placed_at timestamptz
) ON COMMIT DROP;
COPY arriving FROM STDIN;
"""
_BETWEEN = """\\.
COPY arriving_orders FROM STDIN;
"""
_FINISH = r"""\.
CREATE INDEX ON arriving_orders (customer);
ANALYZE arriving, arriving_orders;
CREATE TEMP TABLE verdicts ON COMMIT DROP AS
SELECT a.id, a.orders,
       CASE WHEN (f.orders, f.cents, f.digest) IS DISTINCT FROM (a.orders, a.cents, a.digest) THEN 'broken'
            WHEN (v.moves, v.orders, v.cents, v.digest) IS NOT DISTINCT FROM (a.moves + 1, a.orders, a.cents, a.digest)
                THEN 'done'
            WHEN c.id IS NULL THEN 'new'
            WHEN EXISTS (SELECT FROM shop.orders o WHERE o.customer = a.id
                         AND NOT EXISTS (SELECT FROM arriving_orders n WHERE n.id = o.id AND n.customer = a.id))
                THEN 'conflict'
            ELSE 'older' END AS verdict
FROM arriving a
LEFT JOIN shop.customers c ON c.id = a.id
LEFT JOIN shop.arrivals v ON v.customer = a.id
CROSS JOIN LATERAL (
    SELECT count(*) AS orders, coalesce(sum(cents), 0)::bigint AS cents,
           coalesce(bit_xor(shop.order_digest(o.id, customer, item, cents, placed_at)), 0) AS digest
    FROM arriving_orders o WHERE customer = a.id
) f;
CREATE TEMP TABLE taken ON COMMIT DROP AS
SELECT a.*, v.verdict FROM arriving a JOIN verdicts v USING (id) WHERE v.verdict IN ('new', 'older');

-- Customers come back here as well, and leave a copy behind when they go.
DELETE FROM shop.write_stops WHERE slot = ANY (:'slots');
DELETE FROM shop.orders o USING taken t WHERE o.customer = t.id;
INSERT INTO shop.customers AS c (id, home, moves, since, orders, cents, digest)
SELECT id, :'target', moves + 1, since, orders, cents, digest FROM taken
ON CONFLICT (id) DO UPDATE SET
    home = excluded.home, moves = greatest(c.moves + 1, excluded.moves), since = excluded.since,
    orders = excluded.orders, cents = excluded.cents, digest = excluded.digest;
INSERT INTO shop.ledger AS l (slot, customers)
SELECT shop.slot_of(id), count(*) FROM taken WHERE verdict = 'new' GROUP BY 1
ON CONFLICT (slot) DO UPDATE SET customers = l.customers + excluded.customers;
INSERT INTO shop.orders (id, customer, idempotency_key, item, cents, placed_at)
SELECT o.id, o.customer, o.idempotency_key, o.item, o.cents, o.placed_at
FROM arriving_orders o JOIN taken t ON t.id = o.customer ORDER BY o.seq;
INSERT INTO shop.arrivals (customer, source, moves, orders, cents, digest)
SELECT id, :'source', moves + 1, orders, cents, digest FROM taken
ON CONFLICT (customer) DO UPDATE SET
    source = excluded.source, moves = excluded.moves, orders = excluded.orders, cents = excluded.cents,
    digest = excluded.digest, arrived_at = clock_timestamp();

DO $$
DECLARE
    different bigint;
BEGIN
    SELECT count(*) INTO different FROM taken t CROSS JOIN LATERAL (
        SELECT count(*) AS orders, coalesce(sum(cents), 0)::bigint AS cents,
               coalesce(bit_xor(shop.order_digest(id, customer, item, cents, placed_at)), 0) AS digest
        FROM shop.orders WHERE customer = t.id
    ) f WHERE (f.orders, f.cents, f.digest) IS DISTINCT FROM (t.orders, t.cents, t.digest);
    IF different > 0 THEN
        RAISE EXCEPTION '% customers are not here as they were sent', different;
    END IF;
END
$$;
SELECT coalesce(json_agg(json_build_object('id', id, 'orders', orders, 'verdict', verdict,
                                           'slot', shop.slot_of(id))), '[]') FROM verdicts;
COMMIT;
"""
_FAILURES = {
    "broken": "the orders in {source} are not those that its figures tell of: restore an earlier state",
    "conflict": "{target} has orders of the customer that {source} does not have: decide which are right",
}


@dataclass(slots=True)
class Outcome:
    """What became of the customers in question. `failed` maps their names to why; `lost` have not even a name."""

    expected: int = 0
    done: int = 0
    orders: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    failed_slots: set[int] = field(default_factory=set)
    lost: int = 0

    def described(self, slot_count: int) -> dict[str, object]:
        """As the result of an operation, in slots of a router that has `slot_count`."""
        customers = {
            "expected": self.expected,
            "done": self.done,
            "failed": len(self.failed) + self.lost,
            "names": sorted(self.failed),
            "slots": slots.write(slot % slot_count for slot in self.failed_slots),
        }
        conflicts = [f"{name}: {why}" for name, why in sorted(self.failed.items())]
        if self.lost:
            conflicts.append(f"{self.lost} customers are counted in the ledger of the source, and are not there")
        return {"customers": customers, "records": self.orders, "conflicts": conflicts}


def copy_customers(
    source: Server,
    target: Server,
    cells: tuple[str, str],
    concerned: Sequence[int],
    before_chunk: Callable[[list[int]], None] = lambda _: None,
) -> Outcome:
    """Copy the customers of some of the databases' slots. `cells` names the source's cell and the target's;
    `before_chunk` is called with slots before their customers are counted and read."""
    outcome = Outcome()
    at_first = _count(source, concerned)
    for chunk in _chunks(concerned, at_first):
        before_chunk(chunk)
        counted = _count(source, chunk)
        outcome.expected += sum(counted.values())
        for verdict in _copy(source, target, cells, chunk):
            counted[verdict["slot"]] = counted.get(verdict["slot"], 0) - 1
            _judge(outcome, verdict, cells)
        lost = {slot: number for slot, number in counted.items() if number > 0}
        outcome.lost += sum(lost.values())
        outcome.failed_slots.update(lost)
        report.progress(outcome.done, max(sum(at_first.values()), outcome.expected))
    return outcome


def _chunks(concerned: Sequence[int], customers: dict[int, int]) -> Iterator[list[int]]:
    chunk: list[int] = []
    size = 0
    for slot in concerned:
        size += customers.get(slot, 0)
        if chunk and (len(chunk) == _CHUNK_SLOTS or size > _CHUNK_CUSTOMERS):
            yield chunk
            chunk, size = [], customers.get(slot, 0)
        chunk.append(slot)
    yield chunk


def _count(source: Server, concerned: Sequence[int]) -> dict[int, int]:
    """How many customers the source must have in each slot, by its ledger."""
    counted = source.ask(
        "SELECT coalesce(json_object_agg(slot, customers), '{}') FROM shop.ledger WHERE slot = ANY (:'slots')",
        slots=array(concerned),
    )
    return {int(slot): int(number) for slot, number in counted.items()}


def _copy(source: Server, target: Server, cells: tuple[str, str], chunk: Sequence[int]) -> Any:
    with tempfile.TemporaryFile() as script:
        parts = ((_BEGIN, _CUSTOMERS), (_BETWEEN, _ORDERS), (_FINISH, None))
        for statements, query in parts:
            _append(script, statements.encode())
            if query is not None:
                source.copy_out(query.replace("{slots}", array(chunk)), script, CHUNK_SECONDS)
        script.seek(0)
        return target.ask_by_file(script, CHUNK_SECONDS, slots=array(chunk), source=cells[0], target=cells[1])


def _append(file: IO[bytes], content: bytes) -> None:
    file.seek(0, 2)
    file.write(content)
    # psql appends by the same descriptor.
    file.flush()


def _judge(outcome: Outcome, verdict: dict[str, Any], cells: tuple[str, str]) -> None:
    why = _FAILURES.get(verdict["verdict"])
    if why is None:
        outcome.done += 1
        outcome.orders += verdict["orders"]
    else:
        outcome.failed[verdict["id"]] = why.format(source=cells[0], target=cells[1])
        outcome.failed_slots.add(verdict["slot"])


def array(concerned: Sequence[int]) -> str:
    """Slots, as PostgreSQL writes an array of numbers."""
    return "{" + ",".join(map(str, concerned)) + "}"
