"""The archived WAL of one database: which segments there are, and until when they tell of commits.

Must not: read WAL by itself; pg_waldump does.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
from datetime import datetime
from pathlib import Path

from shop_data import times
from shop_data.archive import Archive
from shop_data.failure import OperationFailed

_SEGMENT = re.compile(r"[0-9A-F]{24}\.gz")
_COMMIT = re.compile(r"desc: COMMIT (\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?) UTC")
# How far back a commit is looked for; segments without any come from a database that nobody writes to.
_LOOKED_AT = 20
_DUMP_SECONDS = 30


def segments(archive: Archive, database: str) -> list[str]:
    """The names (with .gz) of the segments of a database (CELL/SYSTEM), oldest first."""
    return [name for name in archive.names(f"{database}/wal/") if _SEGMENT.fullmatch(name)]


def last_commit(archive: Archive, database: str, names: list[str], folder: Path) -> datetime | None:
    """When the last commit was that these segments tell of; None if the newest of them tell of none."""
    for name in reversed(names[-_LOOKED_AT:]):
        packed = folder / name
        if not packed.exists():
            archive.fetch(f"{database}/wal/{name}", packed)
        found = _COMMIT.findall(_dump(packed))
        if found:
            return max(times.read(f"{time}+00:00") for time in found)
    return None


def _dump(packed: Path) -> str:
    plain = packed.with_suffix("")
    try:
        with gzip.open(packed) as source, plain.open("wb") as target:
            shutil.copyfileobj(source, target)
    except (OSError, EOFError) as damaged:
        raise OperationFailed(f"WAL segment {packed.name} in the archive is damaged: {damaged}") from damaged
    # It ends with an error where the segment's last record goes on in the next one: what it printed counts.
    dumped = subprocess.run(
        ["pg_waldump", "--rmgr=Transaction", str(plain)],
        capture_output=True, text=True, check=False, timeout=_DUMP_SECONDS, env={**os.environ, "TZ": "UTC"},
    )  # fmt: skip
    plain.unlink()
    return dumped.stdout
