"""Backups, the archive and the inventory, against real PostgreSQL and nginx."""

from __future__ import annotations

import gzip
import json
import subprocess
import time
import urllib.request
from datetime import datetime

import pytest

from tests.unit.shop.cells import Cells, as_nobody
from tests.unit.shop.processes import Web, wait_until


def fill(web: Web, customers: int = 3, orders: int = 2) -> None:
    for customer in range(customers):
        for number in range(orders):
            assert web.order(f"customer-{customer}", f"item-{number}", 100 + number).status == 201


def time_of(text: str) -> datetime:
    return datetime.fromisoformat(text)


def test_a_backup_is_verified_described_and_listed(cells: Cells, web_a: Web) -> None:
    fill(web_a)
    before = cells.now("cell-a")
    taken = cells.data("Backup")
    assert taken.code == 0, taken.output
    assert before < time_of(taken.result["at"]) < cells.now("cell-a")

    listed = cells.data("Inventory").result
    assert listed["backups"] == [
        {"id": taken.result["id"], "at": taken.result["at"], "complete": True, "verified": True}
    ]
    system = cells.sql("cell-a", "SELECT system_identifier FROM pg_control_system()")
    manifest = json.loads(
        (cells.archived("cell-a") / system / "base" / taken.result["id"] / "manifest.json").read_text()
    )
    assert (manifest["customers"], manifest["orders"], manifest["verified"]) == (3, 6, True)
    assert manifest["digests"].keys() == {"customers", "orders"}


def test_the_same_key_is_one_backup(cells: Cells, web_a: Web) -> None:
    first, again, other = (cells.data("Backup", KEY=key) for key in ("k1", "k1", "k2"))

    assert first.result == again.result != other.result
    assert [one["id"] for one in cells.data("Inventory").result["backups"]] == [other.result["id"], first.result["id"]]


def test_the_inventory_tells_the_last_commit_that_can_be_restored(cells: Cells, web_a: Web) -> None:
    taken = cells.data("Backup")
    fill(web_a)
    after = cells.now("cell-a")
    time.sleep(0.2)
    cells.wait_archived("cell-a")

    until = time_of(cells.data("Inventory").result["until"])
    assert time_of(taken.result["at"]) < until <= after


def test_an_interrupted_backup_is_not_complete_and_comes_in_its_order(cells: Cells, web_a: Web) -> None:
    first, second = (cells.data("Backup").result["id"] for _ in range(2))
    # The older one loses what is put there last, and a later one was never finished.
    system = next(cells.archived("cell-a").iterdir())
    (system / "base" / first / "manifest.json").unlink()
    third = "29990101T000000Z-00000000"
    subprocess.run(["cp", "-a", system / "base" / first, system / "base" / third], check=True)

    listed = cells.data("Inventory").result["backups"]
    assert [(one["id"], one["complete"]) for one in listed] == [(third, False), (second, True), (first, False)]
    # What was cut off is not complete either.
    base = system / "base" / second / "base.tar.gz"
    base.write_bytes(base.read_bytes()[:1000])
    listed = cells.data("Inventory").result["backups"]
    assert [(one["complete"], one["verified"]) for one in listed] == [(False, False)] * 3


def test_a_cell_without_backups_says_so(cells: Cells) -> None:
    done = cells.data("Inventory", "cell-z")
    assert (done.code, done.result) == (0, {"backups": [], "message": "the archive has no backup of cell-z"})


def test_old_backups_and_their_wal_are_forgotten(cells: Cells, web_a: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    from shop_data import backups
    from shop_data.archive import Archive

    kept = []
    for _ in range(3):
        fill(web_a, 1, 1)
        kept.append(cells.data("Backup").result["id"])
        cells.wait_archived("cell-a")
    monkeypatch.setattr(backups, "KEPT", 2)
    system = next(cells.archived("cell-a").iterdir())
    backups._forget_old(Archive(cells.archive_url), f"cell-a/{system.name}")

    listed = backups.found(Archive(cells.archive_url), "cell-a")
    assert [backup.id for backup in listed] == [kept[2], kept[1]]
    assert min(path.name for path in (system / "wal").iterdir()) >= listed[-1].wal_start


def test_archived_wal_is_never_overwritten(cells: Cells, web_a: Web) -> None:
    fill(web_a)
    cells.wait_archived("cell-a")
    system = next(cells.archived("cell-a").iterdir())
    segment = max((system / "wal").iterdir())
    data = cells.folder / "cell-a" / "data"
    path = cells.scratch / "segment"

    def archive() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [cells.image / "bin" / "archive-wal", path, segment.stem], cwd=data, env=cells.environment("cell-a"),
            capture_output=True, text=True, check=False, timeout=120, **as_nobody(),
        )  # fmt: skip

    path.write_bytes(gzip.decompress(segment.read_bytes()))
    assert archive().returncode == 0  # PostgreSQL may archive a segment again after a crash
    path.write_bytes(b"something else")
    refused = archive()
    assert (refused.returncode, "holds another content" in refused.stderr) == (1, True)
    assert gzip.decompress(segment.read_bytes()) != b"something else"


def test_wal_waits_for_an_archive_that_does_not_answer(cells: Cells, web_a: Web) -> None:
    system = next(cells.archived("cell-a").iterdir())
    (system / "wal").rename(system / "away")
    (system / "wal").write_text("not a folder")
    fill(web_a, 1, 1)
    last = cells.sql("cell-a", "SELECT pg_walfile_name(pg_switch_wal())")
    wait_until(lambda: "archive command failed" in cells.log("cell-a"), "PostgreSQL says that it could not archive")
    assert web_a.order("alice").status == 201

    (system / "wal").unlink()
    (system / "away").rename(system / "wal")
    wait_until(lambda: (system / "wal" / f"{last}.gz").exists(), f"{last} is archived after all")


def test_a_database_made_anew_does_not_hide_the_old_ones_backups(cells: Cells, web_a: Web) -> None:
    fill(web_a)
    old = cells.data("Backup").result["id"]
    cells.wait_archived("cell-a")
    cells.lose_volume("cell-a")
    cells.start("cell-a")
    web_a.restart()
    web_a.wait_ready()
    cells.data("Backup")
    assert [one["id"] for one in cells.data("Inventory").result["backups"]] == [old]

    fill(web_a, 1, 1)
    new = cells.data("Backup").result["id"]
    assert [one["id"] for one in cells.data("Inventory").result["backups"]][:1] == [new]
    assert old in [one["id"] for one in cells.data("Inventory").result["backups"]]
    assert len(list(cells.archived("cell-a").iterdir())) == 2


def test_a_backup_is_kept_beside_the_database(cells: Cells, web_a: Web) -> None:
    def listed() -> int:
        return len(cells.data("Inventory").result["backups"])

    cells.begin_keeping("cell-a")
    wait_until(lambda: listed() == 1, "the first backup, of the empty database")
    fill(web_a)
    wait_until(lambda: listed() == 2, "another one as soon as there are customers")
    with urllib.request.urlopen(f"{cells.archive_url}/cell-a/", timeout=60) as answer:
        assert len(json.loads(answer.read())) == 1
