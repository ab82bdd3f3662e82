import re
from datetime import timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from recell.api.meta import ANNOTATION_RUN_HISTORY, ANNOTATION_STARTED_UID, ANNOTATION_TARGET_UID
from recell.domain.runs import REMEMBERED, automatic_run_name, effect_token, is_replay, remembered, spec_hash
from tests.unit.domain.builders import NOW, cell, later, run

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
CELL_NAMES = st.from_regex(LABEL, fullmatch=True)


# --- the hash of a spec


def test_the_hash_is_of_what_cannot_change() -> None:
    plain = run(strategy="CellRestart")
    assert spec_hash(plain) == spec_hash(run("another", strategy="CellRestart", control={"paused": True}))
    others = [
        run(strategy="PointInTimeRecovery"),
        run(target="cell-b", strategy="CellRestart"),
        run(),
        run(strategy="CellRestart", dryRun=True),
        run(strategy="CellRestart", reason="why"),
        run(strategy="CellRestart", urgency="Immediate"),
        run(strategy="CellRestart", trigger="Child", escalatedFrom="run-0"),
        run(strategy="CellRestart", startWhen="Always", startBefore="2026-11-25T20:00:00Z"),
        run(strategy="CellRestart", failure={"impact": "Low"}),
    ]
    assert len({spec_hash(plain), *map(spec_hash, others)}) == 10


def test_the_hash_is_the_same_in_every_process_and_version() -> None:
    assert spec_hash(run(strategy="CellRestart")) == "5cc0b173fd8eab18cfbd"


# --- replays


def test_a_new_run_and_the_run_that_was_started_are_no_replays() -> None:
    assert is_replay(run()) is None
    assert is_replay(run(), cell()) is None
    assert is_replay(run(annotations={ANNOTATION_STARTED_UID: "uid-run-1"}), cell()) is None


def test_a_restored_copy_is_not_executed() -> None:
    copy = run(uid="new", annotations={ANNOTATION_STARTED_UID: "uid-run-1"})
    replay = is_replay(copy, cell())
    assert replay is not None
    assert replay.reason == "RecordLost"
    assert "UID uid-run-1" in replay.message


def test_a_run_that_was_made_anew_is_recognised_by_its_target() -> None:
    target = cell(metadata={"annotations": {ANNOTATION_RUN_HISTORY: remembered(cell(), run())}})
    anew = is_replay(run(uid="new"), target)
    assert anew is not None
    assert anew.reason == "Replayed"
    assert is_replay(run(), target) is None, "the very run that is remembered, if the claim was cut between two writes"
    assert is_replay(run(uid="new", reason="another spec"), target) is None
    assert is_replay(run("run-2"), target) is None


def test_a_run_that_the_operator_made_is_for_one_cell_alone() -> None:
    made = run(annotations={ANNOTATION_TARGET_UID: cell().metadata.uid})
    assert is_replay(made, cell()) is None
    another = is_replay(made, cell(metadata={"uid": "uid-of-another"}))
    assert another is not None
    assert another.reason == "TargetReplaced"


def test_a_cell_remembers_its_last_runs_and_forgets_the_oldest() -> None:
    target = cell()
    for number in range(REMEMBERED + 10):
        target.metadata.annotations[ANNOTATION_RUN_HISTORY] = remembered(target, run(f"run-{number}"))
    text = target.metadata.annotations[ANNOTATION_RUN_HISTORY]
    assert len(text.split()) == REMEMBERED
    assert is_replay(run("run-9", uid="new"), target) is None
    assert is_replay(run("run-10", uid="new"), target) is not None
    assert remembered(target, run(f"run-{REMEMBERED + 9}")) == text
    assert len(text) < 10_000


@given(st.text(max_size=200))
def test_a_history_that_somebody_broke_is_no_obstacle(text: str) -> None:
    target = cell(metadata={"annotations": {ANNOTATION_RUN_HISTORY: text}})
    assert is_replay(run(), target) is None
    target.metadata.annotations[ANNOTATION_RUN_HISTORY] = remembered(target, run())
    assert is_replay(run(uid="new"), target) is not None


# --- names


def test_the_name_of_an_automatic_run() -> None:
    name = automatic_run_name("cell-b", NOW)
    assert name.startswith("cell-b-20261125184500-")
    assert name == automatic_run_name("cell-b", NOW.astimezone(timezone(timedelta(hours=2))))
    assert len({name, automatic_run_name("cell-b", NOW, 2), automatic_run_name("cell-b", later(0.001))}) == 3


@given(CELL_NAMES, st.datetimes(timezones=st.just(NOW.tzinfo)), st.integers(1, 1000))
def test_names_are_labels(name: str, moment: object, attempt: int) -> None:
    made = automatic_run_name(name, moment, attempt)  # type: ignore[arg-type]
    assert len(made) <= 63
    assert re.fullmatch(LABEL, made)


def test_long_names_that_begin_alike_stay_apart() -> None:
    assert automatic_run_name("x" * 62 + "a", NOW) != automatic_run_name("x" * 62 + "b", NOW)


@given(st.uuids().map(str), st.from_regex(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?", fullmatch=True), st.integers(1, 999))
def test_tokens_are_labels_and_differ_by_run_step_and_iteration(uid: str, step: str, iteration: int) -> None:
    token = effect_token(uid, step, iteration)
    assert len(token) <= 63
    assert re.fullmatch(LABEL, token)
    assert token == effect_token(uid, step, iteration)
    assert token != effect_token(uid, step, iteration + 1)
    assert token != effect_token(uid + "0", step, iteration)
