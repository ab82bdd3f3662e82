"""A replaced cell is deleted only when every single proof is there that nobody needs it (rules 6, 7, 8)."""

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import reduce
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.meta import ANNOTATION_RETIRED
from recell.api.placement import HoldState, PlacementSpec
from recell.api.router import CustomerData
from recell.domain import placement
from recell.domain.data import Backup
from recell.domain.decommission import (
    SKEW,
    Backups,
    Claim,
    Retirement,
    Situation,
    blocked,
    retirement_of,
    unprotected,
    withheld,
)
from recell.domain.health import Level
from recell.domain.observation import WorkloadPhase, WorkloadState
from tests.unit.domain.builders import NOW, RUN, candidate, cell, freeze, health, held, later, routing, run

WEEK = 7 * 24 * 3600.0
IN_CELL = routing(CustomerData.IN_CELL, pins=(("big-customer", "b"),))
STATEFUL_SET = WorkloadRef(api_version="apps/v1", kind=WorkloadKind.STATEFUL_SET, name="b")

Change = Callable[[Situation], Situation]


def replaced(*, slots_left: int = 0) -> PlacementSpec:
    """b's customers have their home at b2; a is beside them."""
    spec = placement.initial(IN_CELL, [candidate(name) for name in ("a", "b", "b2")], epoch=1)
    moved = placement.slots_of(spec, "b")[slots_left:]
    spec = placement.rehome(spec, IN_CELL, "b", "b2", moved)
    spec = placement.succeed(spec, IN_CELL, "b", "b2")
    return placement.hold(spec, IN_CELL, held("b", 0, HoldState.RETIRED))


RETIREMENT = Retirement(
    successor="b2",
    successor_uid="uid-b2",
    until=later(WEEK),
    complete=True,
    conflicts=0,
    promoted_at=NOW,
    by=RUN.name,
)
GOOD = Backup("b2/after", later(WEEK - 3600), complete=True, verified=True)
PROVEN = Situation(
    cell=cell("b"),
    retirement=RETIREMENT,
    now=later(WEEK + 60),
    shared=False,
    placement=replaced(),
    workloads=(WorkloadState(STATEFUL_SET, WorkloadPhase.CURRENT, desired=0, ready=0),),
    successor=cell("b2"),
    health=health(Level.HEALTHY),
    backups=Backups([GOOD], frozenset({"b/before"})),
)


def retired(**changes: Any) -> Change:
    return lambda s: replace(s, retirement=s.retirement.model_copy(update=changes))


def stated(**changes: Any) -> Change:
    return lambda s: replace(s, **changes)


def backup(**changes: Any) -> Change:
    return lambda s: replace(s, backups=replace(s.backups, successors=[replace(GOOD, **changes)]))


def told(**changes: Any) -> Change:
    return lambda s: replace(s, backups=replace(s.backups, **changes))


def workload(**changes: Any) -> Change:
    return lambda s: replace(s, workloads=(replace(PROVEN.workloads[0], **changes),))


def placed(change: Callable[[PlacementSpec], PlacementSpec]) -> Change:
    return lambda s: replace(s, placement=change(s.placement) if s.placement else None)


def holding(state: HoldState, of: str) -> Change:
    return placed(lambda spec: placement.hold(spec, IN_CELL, held(of, 0, state, holder=RUN)))


def without_hold(spec: PlacementSpec) -> PlacementSpec:
    return placement.release(spec, IN_CELL, holder=RUN)


def of_another_run(spec: PlacementSpec) -> PlacementSpec:
    other = RUN.model_copy(update={"name": "run-2"})
    return placement.hold(without_hold(spec), IN_CELL, held("b", 0, HoldState.RETIRED, holder=other))


def pinned(spec: PlacementSpec) -> PlacementSpec:
    pin = spec.pins[0].model_copy(update={"home": placement.index_of(spec, "b")})
    return spec.model_copy(update={"pins": [pin]})


def unlisted(name: str) -> Callable[[PlacementSpec], PlacementSpec]:
    return lambda spec: spec.model_copy(update={"cells": [c for c in spec.cells if c.name != name]})


def followed_by_another(spec: PlacementSpec) -> PlacementSpec:
    entries = [entry.model_copy(update={"successor": "a"}) for entry in spec.successors]
    return spec.model_copy(update={"successors": entries})


MISSING: dict[str, tuple[str, Change]] = {
    "people delete it": ("Kept", retired(until=None)),
    "its time is not up": ("Retained", stated(now=later(WEEK - 1))),
    "a person says hands off": ("Paused", stated(cell=cell("b", paused=True))),
    "a freeze": ("Frozen", stated(freeze=freeze())),
    "a freeze of new runs": ("Frozen", stated(freeze=freeze(scope="NewRuns"))),
    "a run works on it": ("RunActive", stated(runs=[run("r9", "b", status={"phase": "Draining"})])),
    "a run waits": ("RunActive", stated(runs=[run("r9", "b2")])),
    "no Placement": ("PlacementMissing", stated(placement=None)),
    "no Router": ("PlacementMissing", stated(shared=None)),
    "another cell under its name": ("UnknownProvenance", stated(cell=cell("b", metadata={"uid": "restored"}))),
    "not listed": ("UnknownProvenance", placed(unlisted("b"))),
    "returned to service": ("NotRetired", placed(without_hold)),
    "merely isolated": ("NotRetired", holding(HoldState.ISOLATED, "b")),
    "a record of an earlier run": ("NotRetired", placed(of_another_run)),
    "another successor": ("NotRetired", placed(followed_by_another)),
    "home slots": ("StillHome", stated(placement=replaced(slots_left=1))),
    "all its home slots": ("StillHome", stated(placement=replaced(slots_left=10_000))),
    "a pin": ("StillHome", placed(pinned)),
    "counts that are not complete": ("MoveIncomplete", retired(complete=False)),
    "a conflict": ("Conflicts", retired(conflicts=1)),
    "a workload runs": ("StillRunning", workload(desired=1)),
    "a pod that is ending": ("StillRunning", workload(pods=1)),
    "a workload that cannot be seen": ("WorkloadsUnknown", workload(phase=WorkloadPhase.UNKNOWN, desired=None)),
    "no successor": ("SuccessorMissing", stated(successor=None)),
    "a successor made anew": ("SuccessorMissing", stated(successor=cell("b2", metadata={"uid": "new"}))),
    "a successor that goes": (
        "SuccessorMissing",
        stated(successor=cell("b2", metadata={"deletionTimestamp": NOW.isoformat()})),
    ),
    "a successor that is not listed": ("SuccessorMissing", placed(unlisted("b2"))),
    "a successor that was replaced": ("SuccessorMissing", holding(HoldState.RETIRED, "b2")),
    "an isolated successor": ("SuccessorMissing", holding(HoldState.ISOLATED, "b2")),
    "a quarantined successor": ("SuccessorMissing", holding(HoldState.QUARANTINED, "b2")),
    "a degraded successor": ("SuccessorUnwell", stated(health=health(Level.DEGRADED))),
    "a failed successor": ("SuccessorUnwell", stated(health=health(Level.FAILED))),
    "a successor of which nothing is known yet": ("SuccessorUnknown", stated(health=None)),
    "backups that nobody listed": ("NoBackup", stated(backups=Backups())),
    "no backup": ("NoBackup", told(successors=())),
    "the cell's own backups are not known": ("NoBackup", told(own=None)),
    "an incomplete backup": ("NoBackup", backup(complete=False)),
    "a backup that nobody verified": ("NoBackup", backup(verified=False)),
    "a backup from before the promotion": ("NoBackup", backup(at=later(-1))),
    "a backup that may be from before, by another clock": ("NoBackup", backup(at=NOW + SKEW - timedelta(seconds=1))),
    "a backup from the future": ("NoBackup", backup(at=later(2 * WEEK))),
    "one place for the backups of both": ("NoBackup", told(own=frozenset({GOOD.id, "b/before"}))),
}


def test_with_every_proof_it_may_go() -> None:
    assert blocked(PROVEN) is None


@pytest.mark.parametrize(("reason", "change"), MISSING.values(), ids=MISSING)
def test_each_proof_that_is_missing_keeps_it(reason: str, change: Change) -> None:
    found = blocked(change(PROVEN))
    assert found is not None
    assert found.reason == reason
    assert len(found.message) > 10


@given(st.sets(st.sampled_from(sorted(MISSING)), min_size=1))
def test_nothing_makes_up_for_a_missing_proof(missing: set[str]) -> None:
    situation = reduce(lambda s, name: MISSING[name][1](s), sorted(missing), PROVEN)
    assert blocked(situation) is not None


@given(
    st.booleans(),
    st.booleans(),
    st.floats(-2 * WEEK, 2 * WEEK),
    st.booleans(),
    st.sampled_from(sorted(Level, key=str)),
    st.integers(0, 3),
    st.booleans(),
)
def test_whatever_is_deleted_has_a_verified_copy_elsewhere(
    complete: bool, verified: bool, at: float, in_both: bool, level: Level, conflicts: int, whole: bool
) -> None:
    """Stated once more, without the code's own words."""
    situation = replace(
        retired(complete=whole, conflicts=conflicts)(PROVEN),
        health=health(level),
        backups=Backups(
            [Backup("x", later(at), complete=complete, verified=verified)], frozenset({"x"} if in_both else ())
        ),
    )
    copied = complete and verified and not in_both and SKEW.total_seconds() <= at <= WEEK + 60 + SKEW.total_seconds()
    assert (blocked(situation) is None) == (copied and whole and not conflicts and level is Level.HEALTHY)


def test_the_provider_is_asked_only_when_all_else_is_there() -> None:
    unasked = stated(backups=Backups())(PROVEN)
    assert withheld(unasked) is None
    assert unprotected(unasked) is not None


def test_with_shared_data_there_is_nothing_to_back_up() -> None:
    assert blocked(replace(PROVEN, shared=True, backups=Backups())) is None
    assert blocked(replace(PROVEN, shared=True, health=health(Level.FAILED))) is not None


def test_a_cell_that_was_nobodys_home_has_no_successor_in_the_placement() -> None:
    def forgotten(spec: PlacementSpec) -> PlacementSpec:
        return spec.model_copy(update={"successors": []})

    assert blocked(placed(forgotten)(PROVEN)) is None


def test_a_daemon_set_cannot_be_stopped_but_by_its_deletion() -> None:
    ref = WorkloadRef(api_version="apps/v1", kind=WorkloadKind.DAEMON_SET, name="b")
    assert blocked(workload(ref=ref, desired=3, ready=3)(PROVEN)) is None


@pytest.mark.parametrize(
    ("desired", "pods", "token", "deleted"),
    [(0, 0, "run-1.fence", True), (0, None, None, True), (0, 1, "run-1.fence", False), (0, None, "run-1.fence", False),
     (None, None, None, False)],
)  # fmt: skip
def test_a_cron_job_is_stopped_when_it_is_suspended_and_without_pods(
    desired: int | None, pods: int | None, token: str | None, deleted: bool
) -> None:
    ref = WorkloadRef(api_version="batch/v1", kind=WorkloadKind.CRON_JOB, name="b")
    found = blocked(workload(ref=ref, desired=desired, ready=None, pods=pods, stop_token=token)(PROVEN))
    assert (found is None) is deleted
    if found is not None:
        assert "CronJob/b has not been suspended until no pod was left" in str(found)


def test_what_is_gone_already_does_not_run() -> None:
    assert blocked(workload(phase=WorkloadPhase.NOT_FOUND, desired=None)(PROVEN)) is None


def test_with_mode_delete_it_waits_until_a_backup_is_surely_from_after_the_promotion() -> None:
    at_once = retired(until=NOW)(PROVEN)
    due = at_once.retirement.due
    assert due is not None
    assert due - NOW == 2 * SKEW
    begun_then = [replace(GOOD, at=due - SKEW)]  # by a clock that is as late as it may be
    assert blocked(replace(at_once, now=due, backups=Backups(begun_then, frozenset()))) is None


def test_messages_say_what_was_seen() -> None:
    found = blocked(backup(verified=False)(PROVEN))
    assert found is not None
    assert "b2/after of 2026-12-02T17:45:00Z (not verified)" in found.message
    found = blocked(told(successors=(), told="Another one could not be made: no space left")(PROVEN))
    assert found is not None
    assert "there is none. Another one could not be made: no space left." in found.message
    found = blocked(stated(backups=Backups(told="the Job failed"))(PROVEN))
    assert found is not None
    assert found.message.endswith("is not known: the Job failed")


@given(st.lists(st.integers(0, 10_000), max_size=8))
def test_the_hours_are_counted_from_when_it_may_go(minutes: list[int]) -> None:
    for minute in minutes:
        assert replace(PROVEN, now=later(WEEK + 60 * minute)).hour == minute // 60
    assert replace(PROVEN, now=NOW).hour == 0


# The record


def annotated(text: str) -> Cell:
    return cell("b", metadata={"annotations": {ANNOTATION_RETIRED: text}})


def test_the_record_is_read_as_it_was_written() -> None:
    written = RETIREMENT.model_copy(update={"claims": [Claim(name="data-b-0", uid="u")]})
    assert retirement_of(annotated(written.text())) == written
    assert retirement_of(cell("b")) is None
    assert json.loads(RETIREMENT.text()) == {
        "by": "run-1",
        "complete": True,
        "conflicts": 0,
        "promotedAt": "2026-11-25T18:45:00Z",
        "successor": "b2",
        "successorUid": "uid-b2",
        "until": "2026-12-02T18:45:00Z",
    }


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "JSON"),
        ("{}", "successor"),
        (RETIREMENT.text().replace('"complete": true, ', ""), "complete"),
        (RETIREMENT.text().replace("25T18:45:00Z", "25T18:45:00"), "promotedAt: Input should have timezone"),
        (RETIREMENT.text().replace('"conflicts": 0', '"conflicts": -1'), "conflicts"),
    ],
)
def test_a_record_that_cannot_be_read_says_which_field(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=part):
        retirement_of(annotated(text))
