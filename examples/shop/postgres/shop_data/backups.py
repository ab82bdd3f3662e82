"""Base backups: taking them, finding them, forgetting old ones.

Promises: a backup is in the archive's list as complete only after PostgreSQL's own check of it (pg_verifybackup) and
after all of it is there. The same key twice is one backup. At most KEPT complete backups of a database are kept, and
the WAL since the oldest of them.

The order of `found`: newest first; but as long as a database that was made anew under the cell's name holds no
customers, those of the databases before it are the ones that somebody may want, so the new one's are left out.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from shop_data import programs, report, times
from shop_data.archive import Archive
from shop_data.failure import OperationFailed
from shop_data.server import Server

KEPT = 10
BACKUP_SECONDS = 600
KEEP_EVERY_SECONDS = 3600
_LOOK_EVERY_SECONDS = 10
_ID_TIME = "%Y%m%dT%H%M%SZ"

# What is in the backup, for people and for comparison; the sums are independent of any order.
_FIGURES = """
SELECT pg_switch_wal();
SELECT json_build_object(
    'at', clock_timestamp(),
    'lsn', pg_current_wal_lsn(),
    'database', (SELECT id FROM shop.database),
    'customers', (SELECT count(*) FROM shop.customers),
    'orders', (SELECT count(*) FROM shop.orders),
    'digests', json_build_object(
        'customers', (SELECT bit_xor(hashtextextended(concat_ws(' ', id, orders, cents), digest)) FROM shop.customers),
        'orders', (SELECT bit_xor(shop.order_digest(id, customer, item, cents, placed_at)) FROM shop.orders)))
"""


@dataclass(frozen=True, slots=True)
class Backup:
    """A base backup in the archive. `database` is CELL/SYSTEM; `at`: what was committed until then can be restored."""

    id: str
    database: str
    at: datetime
    complete: bool
    verified: bool
    customers: int
    started_at: datetime
    wal_start: str

    @property
    def folder(self) -> str:
        """Its folder in the archive."""
        return f"{self.database}/base/{self.id}/"


def take(server: Server, archive: Archive, cell: str, key: str) -> Backup:
    """Take a base backup of the cell's database, unless there is one with this key."""
    system = str(server.ask("SELECT to_json(system_identifier::text) FROM pg_control_system()"))
    database = f"{cell}/{system}"
    known = _of_key(archive, database, key)
    if known is not None:
        return known
    started = server.ask("SELECT to_json(clock_timestamp())")
    id = f"{times.read(started).strftime(_ID_TIME)}-{hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()[:8]}"
    what = f"the new backup of {cell}"
    with tempfile.TemporaryDirectory(prefix="backup-") as work:
        data, packed, manifest = Path(work, "data"), Path(work, "base.tar.gz"), Path(work, "manifest.json")
        options = ["-D", str(data), "-X", "stream", "--checkpoint=fast", "--no-sync", "--no-password", "--label", id]
        server.run("pg_basebackup", *options, seconds=BACKUP_SECONDS)
        programs.run(["pg_verifybackup", "--quiet", str(data)], what, BACKUP_SECONDS)
        figures = server.ask(_FIGURES)
        programs.run(["tar", "-C", str(data), "-I", "gzip -1", "-cf", str(packed), "."], what, BACKUP_SECONDS)
        described = {
            "id": id,
            "key": key,
            "cell": cell,
            "system": system,
            "startedAt": started,
            "walStart": _wal_start(data),
            "size": packed.stat().st_size,
            "verified": True,
            **figures,
        }
        manifest.write_text(json.dumps(described, indent=1), encoding="utf-8")
        folder = f"{database}/base/{id}"
        archive.put(f"{folder}/base.tar.gz", packed)
        archive.put(f"{folder}/manifest.json", manifest)
    backup = _described(described, database, described["size"])
    _forget_old(archive, database)
    report.say(f"backup {id} of {cell}: {backup.customers} customers, {figures['orders']} orders")
    return backup


def keep(server: Server, archive: Archive, cell: str) -> None:
    """Take a backup whenever one is due: there is none, or none with customers, or none for an hour. Never returns."""
    said = ""
    while True:
        try:
            if _is_due(server, archive, cell):
                take(server, archive, cell, f"kept {time.time_ns()}")
            said = ""
        except (OperationFailed, OSError) as why:
            # The database is younger or shorter-lived than this process: what is wrong now is looked at again.
            if str(why) != said:
                report.say(f"no backup of {cell} now: {why}")
                said = str(why)
        time.sleep(_LOOK_EVERY_SECONDS)


def found(archive: Archive, cell: str) -> list[Backup]:
    """The backups of the cell's databases, newest first."""
    by_database = {}
    for system in archive.names(f"{cell}/"):
        backups = _of_database(archive, f"{cell}/{system}")
        if backups:
            by_database[system] = backups
    filled = [backups for backups in by_database.values() if any(backup.customers for backup in backups)]
    chosen = [backup for backups in filled or by_database.values() for backup in backups]
    return sorted(chosen, key=lambda backup: backup.at, reverse=True)


def _of_database(archive: Archive, database: str) -> list[Backup]:
    listed = []
    for id in archive.names(f"{database}/base/"):
        described = archive.read_json(f"{database}/base/{id}/manifest.json")
        if described is None:
            started = datetime.strptime(id.partition("-")[0], _ID_TIME).replace(tzinfo=UTC)
            listed.append(Backup(id, database, started, False, False, 0, started, ""))
        else:
            size = archive.sizes(f"{database}/base/{id}/").get("base.tar.gz", 0)
            listed.append(_described(described, database, size))
    return listed


def _described(described: dict[str, Any], database: str, size: int) -> Backup:
    return Backup(
        id=described["id"],
        database=database,
        at=times.read(described["at"]),
        complete=size == described["size"],
        verified=bool(described["verified"]) and size == described["size"],
        customers=int(described["customers"]),
        started_at=times.read(described["startedAt"]),
        wal_start=described["walStart"],
    )


def _of_key(archive: Archive, database: str, key: str) -> Backup | None:
    for id in archive.names(f"{database}/base/"):
        described = archive.read_json(f"{database}/base/{id}/manifest.json")
        if described is not None and described["key"] == key and key:
            return _described(described, database, described["size"])
    return None


def _is_due(server: Server, archive: Archive, cell: str) -> bool:
    now = server.ask(
        "SELECT json_build_object('at', clock_timestamp(), 'filled', EXISTS (SELECT FROM shop.customers),"
        " 'system', (SELECT system_identifier::text FROM pg_control_system()))"
    )
    backups = [backup for backup in _of_database(archive, f"{cell}/{now['system']}") if backup.complete]
    if not backups:
        return True
    newest = max(backups, key=lambda backup: backup.at)
    age = (times.read(now["at"]) - newest.at).total_seconds()
    return age > KEEP_EVERY_SECONDS or (bool(now["filled"]) and newest.customers == 0)


def _forget_old(archive: Archive, database: str) -> None:
    backups = sorted(_of_database(archive, database), key=lambda backup: backup.at, reverse=True)
    kept = [backup for backup in backups if backup.complete][:KEPT]
    if not kept:
        return
    for backup in backups:
        if backup.at < kept[-1].at:
            archive.remove(backup.folder)
    for name in archive.names(f"{database}/wal/"):
        if name < kept[-1].wal_start:
            archive.remove(f"{database}/wal/{name}")


def _wal_start(data: Path) -> str:
    label = (data / "backup_label").read_text(encoding="utf-8")
    named = re.search(r"START WAL LOCATION: .*\(file ([0-9A-F]{24})\)", label)
    if named is None:
        raise OperationFailed(f"{data}/backup_label names no WAL file: is this PostgreSQL 15?")
    return named[1]
