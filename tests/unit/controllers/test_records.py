"""A run that goes on from another one is made once, whatever the one that makes it has to say the second time."""

from typing import cast

import pytest

from recell.api import RecoveryRun
from recell.controllers.records import RunRecords
from recell.engine.errors import Conflict
from recell.providers.kube.api import Api
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.unit.kube.fake_server import FakeApi, FakeServer


def records() -> RunRecords:
    api = cast(Api, FakeApi(FakeServer()))
    return RunRecords(api, KubeStore(api, SystemClock(), ("fleet",)))


def run(reason: str, *, strategy: str = "TrafficDrainAndReplace", parent: str = "r", cell: str = "b") -> RecoveryRun:
    spec = {
        "targetRef": {"kind": "Cell", "name": cell},
        "strategy": strategy,
        "trigger": "Child",
        "escalatedFrom": parent,
        "reason": reason,
    }
    return RecoveryRun.model_validate({"metadata": {"name": "r-next", "namespace": "fleet"}, "spec": spec})


async def test_other_words_or_another_strategy_make_no_second_one() -> None:
    made = records()
    first = await made.create(run("r escalated: failed for 12 s"))
    again = await made.create(run("r escalated: failed for 14 s", strategy="IsolateAndRestoreFromBackup"))
    assert again.metadata.uid == first.metadata.uid
    assert again.spec.strategy == "TrafficDrainAndReplace"


@pytest.mark.parametrize("other", [run("x", parent="another"), run("x", cell="c")])
async def test_somebody_elses_run_of_that_name_is_left_alone(other: RecoveryRun) -> None:
    made = records()
    await made.create(run("r escalated"))
    with pytest.raises(Conflict, match="made for something else"):
        await made.create(other)


async def test_a_run_is_told_once_that_it_is_to_be_aborted() -> None:
    made = records()
    child = await made.create(run("works for r"))
    await made.abort(child)
    told = made._store.run(("fleet", "r-next"))
    assert told is not None
    assert told.spec.control is not None
    assert told.spec.control.abort is True
    version = told.metadata.resource_version
    await made.abort(told)
    again = made._store.run(("fleet", "r-next"))
    assert again is not None
    assert again.metadata.resource_version == version, "nothing is written twice"
