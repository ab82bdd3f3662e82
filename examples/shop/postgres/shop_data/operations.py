"""The operations, each from a request to its result.

Promises: Migrate, Restore, Backup and Abandon can be repeated: they do nothing twice and go on where they stopped.
A result tells what was found, never what was hoped for; what could not be found out is an OperationFailed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from shop_data import backups, report, slots, times, transfer, wal
from shop_data.archive import Archive
from shop_data.failure import OperationFailed
from shop_data.recovery import choose, recovered
from shop_data.request import Request
from shop_data.server import Server, ServerFailed, ServerUnreachable

_LISTED = 20
_CHECK_SECONDS = 600
_CORRUPTION_FOUND = 2  # pg_amcheck's exit code


def run(request: Request) -> dict[str, Any]:
    """Do what is asked for."""
    return _OPERATIONS[request.operation](request)


def _database(request: Request, cell: str) -> Server:
    return Server(f"the database of {cell}", request.host_of(cell))


def _inventory(request: Request) -> dict[str, Any]:
    archive = Archive(request.archive)
    found = backups.found(archive, request.cell)
    if not found:
        return {"backups": [], "message": f"the archive has no backup of {request.cell}"}
    until = found[0].at
    with tempfile.TemporaryDirectory(prefix="wal-") as folder:
        segments = wal.segments(archive, found[0].database)
        last = wal.last_commit(archive, found[0].database, segments, Path(folder))
    if last is not None:
        until = max(until, last)
    listed = [
        {"id": one.id, "at": times.write(one.at), "complete": one.complete, "verified": one.verified}
        for one in found[:_LISTED]
    ]
    return {"backups": listed, "until": times.write(until)}


def _accessible(request: Request) -> dict[str, Any]:
    database = _database(request, request.cell)
    try:
        read = database.ask(
            "SELECT json_build_object('customers', (SELECT count(*) FROM shop.customers),"
            " 'orders', (SELECT count(*) FROM (SELECT * FROM shop.orders OFFSET 0) o WHERE o.cents IS NOT NULL))"
        )
    except (ServerUnreachable, ServerFailed) as why:
        return {"accessible": False, "message": str(why)}
    return {"accessible": True, "message": f"{read['customers']} customers and {read['orders']} orders can be read"}


def _backup(request: Request) -> dict[str, Any]:
    taken = backups.take(_database(request, request.cell), Archive(request.archive), request.cell, request.key)
    return {"id": taken.id, "at": times.write(taken.at)}


def _check(request: Request) -> dict[str, Any]:
    database = _database(request, request.cell)
    wrong = _differences(database)
    try:
        options = ["--database=shop", "--schema=shop", "--install-missing", "--heapallindexed", "--no-password"]
        database.run("pg_amcheck", *options, seconds=_CHECK_SECONDS)
    except ServerFailed as fault:
        if fault.code != _CORRUPTION_FOUND:
            raise
        wrong.append("amcheck: " + " ".join(fault.output.split()))
    return {"intact": not wrong, **({"message": "; ".join(wrong)} if wrong else {})}


def _differences(database: Server) -> list[str]:
    """Where the data are not what the figures say that they must be."""
    found = database.ask(
        "SELECT json_build_object('miscounted', count(*) FILTER (WHERE miscounted),"
        " 'altered', count(*) FILTER (WHERE altered AND NOT miscounted), 'customers', count(*),"
        " 'expected', (SELECT coalesce(sum(customers), 0) FROM shop.ledger)) FROM shop.compared",
        seconds=_CHECK_SECONDS,
    )
    wrong = []
    if found["customers"] != found["expected"]:
        wrong.append(f"{database.name}: {found['customers']} customers found, {found['expected']} expected")
    if found["miscounted"]:
        wrong.append(f"{database.name}: {found['miscounted']} customers have more or fewer orders than they placed")
    if found["altered"]:
        wrong.append(f"{database.name}: {found['altered']} customers have orders that differ from what they placed")
    return wrong


def _migrate(request: Request) -> dict[str, Any]:
    source, target = _database(request, request.cell), _database(request, request.target)
    concerned = slots.of_databases(request.slots, request.slot_count)
    _ensure_schema(target, request.target)

    # Noted in the target first, so that no stop is without a note.
    target.ask(
        "INSERT INTO shop.migrations (source, slot) SELECT :'source', unnest(:'slots'::int[]) ON CONFLICT DO NOTHING",
        source=request.cell, slots=transfer.array(concerned),
    )  # fmt: skip

    def stop_writes(chunk: Sequence[int]) -> None:
        source.ask("SELECT shop.stop_writes(:'slots', :'target')", slots=transfer.array(chunk), target=request.target)

    outcome = transfer.copy_customers(source, target, (request.cell, request.target), concerned, stop_writes)
    return outcome.described(request.slot_count)


def _restore(request: Request) -> dict[str, Any]:
    archive, target = Archive(request.archive), _database(request, request.target)
    concerned = slots.of_databases(request.slots, request.slot_count)
    _ensure_schema(target, request.target)
    backup = choose(backups.found(archive, request.cell), request.cell, request.backup, request.not_after)
    with recovered(archive, request.cell, backup, request.not_after) as source:
        report.say(f"recovered as of {times.write(source.point)}")
        wrong = _differences(source.server)
        outcome = transfer.copy_customers(source.server, target, (request.cell, request.target), concerned)
    notes = [note for note in (source.note, *wrong) if note]
    message = {"message": "; ".join(notes)} if notes else {}
    return {**outcome.described(request.slot_count), "recoveryPoint": times.write(source.point), **message}


def _abandon(request: Request) -> dict[str, Any]:
    source, target = _database(request, request.cell), _database(request, request.target)
    concerned = transfer.array(slots.of_databases(request.slots, request.slot_count))
    known: dict[str, Any] | None = None
    notes = []
    try:
        _ensure_schema(target, request.target)
        known = target.ask(_ABANDON, slots=concerned, source=request.cell)
    except ServerUnreachable as why:
        # The customers must be able to write again. A later copy to the target replaces what is left there.
        notes.append(f"the copies stay in {request.target} until another migration: {why}")
    if known is not None and known["used"]:
        raise OperationFailed(
            f"{known['used']} of {known['copies']} customers placed orders in {request.target} since they were copied:"
            f" they belong there. Nothing was changed; migrate them from {request.target} instead"
        )
    try:
        if _has_schema(source):
            source.ask(
                "DELETE FROM shop.write_stops WHERE slot = ANY (:'slots') AND moved_to = :'target'",
                slots=concerned, target=request.target,
            )  # fmt: skip
    except ServerUnreachable as why:
        if known is None or known["migrations"]:
            raise OperationFailed(
                f"customers of {request.cell} may still be unable to write: {why}. Repeat Abandon when it answers"
            ) from why
    if known is not None:
        target.ask(
            "DELETE FROM shop.migrations WHERE slot = ANY (:'slots') AND source = :'source'",
            slots=concerned, source=request.cell,
        )  # fmt: skip
    return {"message": "; ".join(notes)} if notes else {}


_ABANDON = f"""
BEGIN;
SELECT pg_advisory_xact_lock({transfer.TURN});
CREATE TEMP TABLE copies ON COMMIT DROP AS
SELECT c.id, c.slot, (c.orders, c.cents, c.digest) IS DISTINCT FROM (v.orders, v.cents, v.digest) AS used
FROM shop.arrivals v JOIN shop.customers c ON c.id = v.customer
WHERE v.source = :'source' AND c.slot = ANY (:'slots');
CREATE TEMP TABLE removed ON COMMIT DROP AS
SELECT id, slot FROM copies WHERE NOT EXISTS (SELECT FROM copies WHERE used);
DELETE FROM shop.orders o USING removed r WHERE o.customer = r.id;
DELETE FROM shop.customers c USING removed r WHERE c.id = r.id;
DELETE FROM shop.arrivals v USING removed r WHERE v.customer = r.id;
UPDATE shop.ledger l SET customers = l.customers - r.customers
FROM (SELECT slot, count(*) AS customers FROM removed GROUP BY slot) r WHERE l.slot = r.slot;
SELECT json_build_object('copies', count(*), 'used', count(*) FILTER (WHERE used), 'migrations',
    EXISTS (SELECT FROM shop.migrations WHERE source = :'source' AND slot = ANY (:'slots'))) FROM copies;
COMMIT;
"""


def _has_schema(server: Server) -> bool:
    return bool(server.ask("SELECT to_json(to_regclass('shop.arrivals') IS NOT NULL)"))


def _ensure_schema(target: Server, cell: str) -> None:
    if not _has_schema(target):
        raise OperationFailed(f"{target.name} is empty: start the web app of {cell}, which makes the tables")


_OPERATIONS: dict[str, Callable[[Request], dict[str, Any]]] = {
    "Inventory": _inventory,
    "Accessible": _accessible,
    "Migrate": _migrate,
    "Restore": _restore,
    "CheckIntegrity": _check,
    "Backup": _backup,
    "Abandon": _abandon,
}
