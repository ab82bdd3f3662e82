"""A backup brought back to life for a while: a PostgreSQL in a temporary folder, recovered up to a moment.

Promises: nothing that was committed after `not_after` is in it, and everything else that the archive has is. What the
archive gets while the recovery runs is not looked at. The server listens on a socket in its folder alone, archives
nothing, and is gone with its folder afterwards.
"""

from __future__ import annotations

import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from shop_data import programs, report, times, wal
from shop_data.archive import Archive
from shop_data.backups import Backup
from shop_data.failure import OperationFailed
from shop_data.server import Server

RECOVERY_SECONDS = 1800
_UNPACK_SECONDS = 600
_STOP_SECONDS = 10
_NAMED = 5

_SETTINGS = """
listen_addresses = ''
unix_socket_directories = '{folder}'
shared_buffers = '32MB'
jit = off
fsync = off
archive_mode = off
hot_standby = off  # connections come only when all is recovered
restore_command = 'test -f "{folder}/wal/%f.gz" && gzip -dc "{folder}/wal/%f.gz" > "%p"'
recovery_target_action = 'promote'
"""


@dataclass(frozen=True, slots=True)
class Recovered:
    """A recovered database: `point` is the time of the last commit in it, `note` what the user should know."""

    server: Server
    point: datetime
    note: str


def choose(backups: Sequence[Backup], cell: str, id: str, not_after: datetime | None) -> Backup:
    """The backup with this id, or the newest from which `not_after` can be reached."""
    usable = [backup for backup in backups if backup.complete and backup.verified]
    if not usable:
        raise OperationFailed(f"the archive has no complete backup of {cell}")
    if id:
        named = [backup for backup in backups if backup.id == id]
        if not named:
            raise OperationFailed(f"the archive has no backup {id} of {cell}; it has {_list(usable)}")
        if named[0] not in usable:
            raise OperationFailed(f"backup {id} of {cell} is not complete; these are: {_list(usable)}")
        usable = named
    reachable = [backup for backup in usable if not_after is None or backup.at <= not_after]
    if not reachable and not_after is not None:
        raise OperationFailed(
            f"{times.write(not_after)} cannot be reached from {f'backup {id}' if id else 'any backup'} of {cell}:"
            f" a backup reaches times from its own on. There are {_list(backups)}"
        )
    return reachable[0]


@contextmanager
def recovered(archive: Archive, cell: str, backup: Backup, not_after: datetime | None) -> Iterator[Recovered]:
    """Recover a backup, as late as possible but not after a time."""
    with tempfile.TemporaryDirectory(prefix="recovery-") as work:
        folder = Path(work)
        _unpack(archive, cell, backup, folder)
        names, ends = _fetch_wal(archive, backup, folder)
        target, note = _target(backup, not_after, ends)
        (folder / "postgresql.conf").write_text(_SETTINGS.format(folder=folder) + target, encoding="utf-8")
        (folder / "data" / "recovery.signal").touch()
        report.say(f"recovering {cell} from backup {backup.id} and {len(names)} segments of WAL")
        server = Server(f"the database recovered from backup {backup.id}", work)
        log = folder / "log"
        with log.open("wb") as output:
            command = ["postgres", "-D", str(folder / "data"), "-c", f"config_file={folder / 'postgresql.conf'}"]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        try:
            _wait(process, server, log, backup)
            last = server.ask("SELECT to_json(pg_last_xact_replay_timestamp())")
            # No commit since the backup began: it has all that was committed until then.
            point = backup.started_at if last is None else times.read(last)
            if not target and ends is not None and point < ends:
                note = f"WAL is missing after {times.write(point)}, though the archive goes on to {times.write(ends)}"
            yield Recovered(server, point, note)
        finally:
            _stop(process)


def _unpack(archive: Archive, cell: str, backup: Backup, folder: Path) -> None:
    data, packed = folder / "data", folder / "base.tar.gz"
    data.mkdir(mode=0o700)
    archive.fetch(f"{backup.folder}base.tar.gz", packed)
    what = f"backup {backup.id} of {cell} is damaged, choose another"
    programs.run(["tar", "-C", str(data), "-xzf", str(packed)], what, _UNPACK_SECONDS)
    packed.unlink()
    programs.run(["pg_verifybackup", "--quiet", str(data)], what, _UNPACK_SECONDS)


def _fetch_wal(archive: Archive, backup: Backup, folder: Path) -> tuple[list[str], datetime | None]:
    """The segments since the backup, copied, and the time of the last commit in them."""
    stored = folder / "wal"
    stored.mkdir()
    names = [name for name in wal.segments(archive, backup.database) if name >= backup.wal_start]
    for name in names:
        archive.fetch(f"{backup.database}/wal/{name}", stored / name)
    return names, wal.last_commit(archive, backup.database, names, stored)


def _target(backup: Backup, not_after: datetime | None, ends: datetime | None) -> tuple[str, str]:
    """The setting that stops the recovery, and what is to be told."""
    if not_after is None:
        return "", ""
    # PostgreSQL refuses a target that no commit lies behind: then all that there is, is what was asked for.
    if ends is None or not_after >= ends:
        until = times.write(ends or backup.at)
        return "", f"the archive tells of no commit after {until}, which is before {times.write(not_after)}"
    # Names of time zones, as Z, are not known yet when this is read.
    return f"recovery_target_time = '{not_after.astimezone(UTC)}'\n", ""


def _wait(process: subprocess.Popen[bytes], server: Server, log: Path, backup: Backup) -> None:
    deadline = time.monotonic() + RECOVERY_SECONDS
    asking = ["pg_isready", "-q", "-h", server.host]
    while subprocess.run(asking, check=False, timeout=_STOP_SECONDS).returncode != 0:
        if process.poll() is not None:
            fatal = [
                line for line in log.read_text(errors="replace").splitlines() if "FATAL" in line or "PANIC" in line
            ]
            said = " ".join(fatal[-1:]) or f"exit code {process.returncode}"
            raise OperationFailed(f"backup {backup.id} could not be recovered: {said}")
        if time.monotonic() > deadline:
            raise OperationFailed(f"backup {backup.id} was not recovered within {RECOVERY_SECONDS} s of replay")
        time.sleep(0.2)


def _stop(process: subprocess.Popen[bytes]) -> None:
    # At once: nobody needs this data any more.
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(_STOP_SECONDS)


def _list(backups: Sequence[Backup]) -> str:
    named = [f"{backup.id} from {times.write(backup.at)} on" for backup in backups[:_NAMED]]
    return ", ".join(named) + (f" and {len(backups) - _NAMED} older" if len(backups) > _NAMED else "")
