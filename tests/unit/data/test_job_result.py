"""Termination messages: what is believed, and what is refused with which words."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from recell.domain.data import Answer, Backup, Customers, Operation, Progress
from recell.providers.data.job_result import read
from tests.unit.data.requests import RESTORE, of

AT = datetime(2026, 1, 31, 3, tzinfo=UTC)
COUNTS = {"expected": 120, "done": 120}
POINT = {"recoveryPoint": "2026-01-31T03:00:00Z"}


def told(operation: Operation, **result: Any) -> Answer:
    return read(of(operation), json.dumps(result))


def customers(**changed: Any) -> dict[str, Any]:
    return {**COUNTS, **changed}


def test_inventory() -> None:
    answer = told(
        Operation.INVENTORY,
        backups=[
            {"id": "old", "at": "2026-01-30T03:00:00Z", "verified": True},
            {"id": "new", "at": "2026-01-31T05:00:00+02:00", "complete": False},
        ],
        until="2026-01-31T09:59:00.5Z",
        message="of two stores",
    )
    assert answer == Answer(
        Progress.DONE,
        "of two stores",
        backups=(Backup("new", AT, complete=False), Backup("old", AT.replace(day=30), verified=True)),
        until=datetime(2026, 1, 31, 9, 59, 0, 500000, tzinfo=UTC),
    )


def test_of_many_backups_the_newest_count() -> None:
    every = [{"id": f"b-{n}", "at": f"2026-01-{n + 1:02}T00:00:00Z"} for n in range(25)]
    assert [b.id for b in told(Operation.INVENTORY, backups=every).backups] == [f"b-{n}" for n in range(24, 4, -1)]


def test_migrate() -> None:
    answer = told(
        Operation.MIGRATE,
        customers=customers(done=118, failed=2, names=["c-17", "c-99"], slots="2,17"),
        records=4711,
        conflicts=["order 7 of c-1"],
    )
    assert answer == Answer(
        Progress.DONE,
        customers=Customers(120, 118, 2, ("c-17", "c-99"), (2, 17)),
        records=4711,
        conflicts=("order 7 of c-1",),
    )


def test_restore() -> None:
    answer = told(Operation.RESTORE, customers=customers(expected=None), **POINT)
    assert answer == Answer(Progress.DONE, customers=Customers(None, 120), recovery_point=AT)


def test_the_others() -> None:
    assert told(Operation.ACCESSIBLE, accessible=True).accessible is True
    silent = told(Operation.ACCESSIBLE, accessible=False, message="connection refused")
    assert (silent.accessible, silent.message) == (False, "connection refused")
    assert told(Operation.CHECK, intact=False, message="12 rows").intact is False
    assert told(Operation.BACKUP, id="b-7", at="2026-01-31T03:00:00Z").backups == (Backup("b-7", AT),)
    assert told(Operation.ABANDON) == Answer(Progress.DONE)


def test_newer_fields_are_no_harm() -> None:
    assert told(Operation.ACCESSIBLE, accessible=True, latency=0.2).accessible is True


@pytest.mark.parametrize(
    ("operation", "result", "why"),
    [
        (Operation.INVENTORY, {}, "backups: Field required"),
        (Operation.INVENTORY, {"backups": [{"id": "", "at": "2026-01-31T03:00:00Z"}]}, "backups.0.id"),
        (Operation.INVENTORY, {"backups": [{"id": "b", "at": "2026-01-31T03:00:00"}]}, "backups.0.at"),
        (Operation.INVENTORY, {"backups": [{"id": "b", "at": "2026-01-31"}]}, "backups.0.at"),
        (Operation.INVENTORY, {"backups": [{"id": "b", "at": 1769828400}]}, "backups.0.at"),
        (Operation.INVENTORY, {"backups": [], "until": "yesterday"}, "until"),
        (Operation.ACCESSIBLE, {"accessible": "yes"}, "accessible"),
        (Operation.ACCESSIBLE, {"accessible": 1}, "accessible"),
        (Operation.CHECK, {"ok": True}, "intact: Field required"),
        (Operation.BACKUP, {"id": "b"}, "at: Field required"),
        (Operation.MIGRATE, {}, "customers: Field required"),
        (Operation.MIGRATE, {"customers": {"done": 1}}, "customers.expected: Field required"),
        (Operation.MIGRATE, {"customers": customers(done="120")}, "customers.done"),
        (Operation.MIGRATE, {"customers": customers(done=1.5)}, "customers.done"),
        (Operation.MIGRATE, {"customers": customers(done=-1)}, "customers.done"),
        (Operation.MIGRATE, {"customers": customers(done=2**40)}, "customers.done"),
        (Operation.MIGRATE, {"customers": customers(done=119, failed=1)}, "slots does not say whose"),
        (Operation.MIGRATE, {"customers": customers(done=100, failed=1, slots="17")}, "do not account for 120"),
        (Operation.MIGRATE, {"customers": customers(failed=1, slots="17,900")}, "900, which was not asked for"),
        (Operation.MIGRATE, {"customers": customers(failed=1, slots="0-99999")}, "'0-99999' is neither a slot"),
        (Operation.MIGRATE, {"customers": customers(), "records": True}, "records"),
        (Operation.RESTORE, {"customers": COUNTS}, "recoveryPoint: Field required"),
        (Operation.RESTORE, {"customers": COUNTS, "recovery_point": POINT["recoveryPoint"]}, "recoveryPoint"),
    ],
)
def test_what_is_not_the_contract_is_refused(operation: Operation, result: dict[str, Any], why: str) -> None:
    answer = told(operation, **result)
    assert answer.progress is Progress.FAILED
    assert why in answer.message
    assert f"The result of {operation} cannot be used" in answer.message
    assert "expected is one JSON object such as {" in answer.message
    assert answer.customers == Customers()


@pytest.mark.parametrize(
    ("said", "why", "shown"),
    [
        ("", "there is none", "is empty"),
        ("  \n", "there is none", "is empty"),
        ("OK", "it is not JSON", "'OK'"),
        ("[]", "Input should be an object", "'[]'"),
        ("null", "Input should be an object", "'null'"),
        ('{"accessible": tr', "it is not JSON", '{"accessible": tr'),
        ('{"message": "' + "x" * 4083, "it was cut off, since Kubernetes keeps 4,096 bytes", "xxx…"),
    ],
)
def test_what_is_no_result_is_quoted(said: str, why: str, shown: str) -> None:
    answer = read(of(Operation.ACCESSIBLE), said)
    assert answer.progress is Progress.FAILED
    assert why in answer.message
    assert shown in answer.message
    assert len(answer.message) <= 1024


def test_data_later_than_asked_is_refused() -> None:
    """It may hold the very corruption that the restore is about (rule 9)."""
    said = json.dumps({"customers": COUNTS, **POINT})
    assert read(replace(RESTORE, not_after=AT), said).progress is Progress.DONE
    late = read(replace(RESTORE, not_after=AT.replace(hour=2)), said)
    assert late.progress is Progress.FAILED
    assert "is later than 2026-01-31T02:00:00+00:00" in late.message


def test_lists_and_texts_are_bounded() -> None:
    answer = told(
        Operation.MIGRATE,
        message="m" * 3000,
        customers=customers(done=90, failed=30, slots="17", names=[f"c-{n}" for n in range(30)]),
        conflicts=["c" * 2000] * 25,
    )
    assert len(answer.message) == 1024
    assert len(answer.customers.names) == 20
    assert [len(text) for text in answer.conflicts] == [1024] * 20
