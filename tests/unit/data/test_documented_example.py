"""The complete example of docs/providers/jobs.md keeps the contract: its script, run as its Jobs run it."""

import os
import subprocess
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from recell.api import Cell
from recell.domain.data import Answer, Customers, Operation, Progress, Request
from recell.domain.placement import slot_of
from recell.providers.data.job_result import read
from recell.providers.data.job_status import progress
from recell.providers.data.job_template import cron_job_of, made_from, variables
from tests.unit.data.requests import GUIDE, SOURCE, TARGET, a_cell, documented_example

HALF = tuple(range(512))
NAMES = [f"c-{n}" for n in range(1, 13)]
WANTED = {name for name in NAMES if slot_of(name, 1024) in HALF}
OTHER = a_cell("cell-c")


class Failed(Exception):
    """The script ended with another code than 0."""


class Example:
    def __init__(self, folder: Path) -> None:
        self.data, self._said = folder / "data", folder / "termination-log"
        script = documented_example()[0]["data"]["run"]
        assert "/data" in script
        self._script = script.replace("/dev/termination-log", str(self._said)).replace("/data", str(self.data))
        source = self.data / "cell-a"
        source.mkdir(parents=True)
        for name in NAMES:
            (source / name).write_text("order 1\n")
        self.log = ""

    def run(self, request: Request) -> Answer:
        self._said.write_text("")
        done = subprocess.run(
            ["sh", "-c", self._script],
            env={"PATH": os.environ["PATH"], **variables(request)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.log = done.stdout
        if done.returncode:
            raise Failed(done.stdout + done.stderr)
        answer = read(request, self._said.read_text())
        assert answer.progress is Progress.DONE, answer.message
        return answer

    def there(self, folder: str) -> set[str]:
        return {path.name for path in (self.data / folder).iterdir() if not path.name.startswith(".")}


@pytest.fixture
def example(tmp_path: Path) -> Example:
    return Example(tmp_path)


def moving(operation: Operation, target: Cell = TARGET) -> Request:
    return Request(operation, "key-1", SOURCE, target=target, slots=HALF, slot_count=1024)


def asking(operation: Operation, cell: Cell = SOURCE) -> Request:
    return Request(operation, "key-2", cell)


EVERY = Customers(expected=len(WANTED), done=len(WANTED))


def test_only_the_customers_that_are_asked_for_move_and_once(example: Example) -> None:
    assert 0 < len(WANTED) < len(NAMES)
    assert example.run(moving(Operation.MIGRATE)).customers == EVERY
    assert progress(example.log) == (len(WANTED), len(WANTED))
    assert example.there("cell-b") == WANTED == example.there("cell-a/.stopped")
    arrived = example.data / "cell-b" / min(WANTED)
    arrived.write_text("order 1\norder 2\n")
    assert example.run(replace(moving(Operation.MIGRATE), key="key-9")).customers == EVERY
    assert arrived.read_text() == "order 1\norder 2\n"


def test_who_cannot_be_copied_is_told_with_his_slot_and_may_write(example: Example) -> None:
    (example.data / "cell-b").mkdir()
    (example.data / "cell-b" / ".part").symlink_to("/no/such/folder")
    told = example.run(moving(Operation.MIGRATE)).customers
    assert told.complete is False
    assert set(told.slots) == {slot_of(each, 1024) for each in WANTED}
    assert not example.there("cell-a/.stopped")


def test_abandon_leaves_the_source_as_it_was(example: Example) -> None:
    example.run(moving(Operation.MIGRATE))
    for _ in range(2):
        example.run(moving(Operation.ABANDON))
        assert example.there("cell-b") == set() == example.there("cell-a/.stopped")
    assert example.there("cell-a") == set(NAMES)


def test_backups_and_what_they_bring_back(example: Example) -> None:
    assert example.run(asking(Operation.INVENTORY)).backups == ()
    (made,) = example.run(asking(Operation.BACKUP)).backups
    assert abs(made.at - datetime.now(UTC)) < timedelta(minutes=5)
    assert example.run(asking(Operation.BACKUP)).backups == (made,)
    assert example.run(asking(Operation.INVENTORY)).backups == (made,)
    restored = example.run(replace(moving(Operation.RESTORE, OTHER), backup=made.id, not_after=made.at))
    assert (restored.customers, restored.recovery_point) == (EVERY, made.at)
    assert example.there("cell-c") == WANTED
    assert not example.there("cell-a/.stopped")
    early = made.at - timedelta(seconds=1)
    with pytest.raises(Failed, match="is later than"):
        example.run(replace(moving(Operation.RESTORE, OTHER), backup=made.id, not_after=early))
    with pytest.raises(Failed, match="No such file"):
        example.run(replace(moving(Operation.RESTORE, OTHER), backup="none"))


def test_looking_at_the_data(example: Example) -> None:
    assert example.run(asking(Operation.ACCESSIBLE)).accessible is True
    none = example.run(asking(Operation.ACCESSIBLE, OTHER))
    assert (none.accessible, "cannot be read" in none.message) == (False, True)
    assert example.run(asking(Operation.CHECK)).intact is True
    (example.data / "cell-a" / "c-1").write_text("nonsense\n")
    assert example.run(asking(Operation.CHECK)).intact is False


def test_its_objects_are_what_the_cell_names() -> None:
    text = GUIDE.read_text()
    cell = yaml.safe_load(text[text.index("apiVersion: recell.dev") : text.index("```\n\nWhat is left out")])
    named = a_cell("cell-a", data=cell["spec"]["data"])
    script, cron_job = documented_example()
    for operation in Operation:
        request = asking(operation, named)
        assert cron_job_of(request) == cron_job["metadata"]["name"]
        pod = made_from(cron_job, request)["spec"]["template"]["spec"]
        assert pod["volumes"][1]["configMap"]["name"] == script["metadata"]["name"]
