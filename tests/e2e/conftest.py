"""A stage for end-to-end tests: the shop on a real cluster, with the operator installed as a user does."""

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from hack.stage import CELLS, SHOP, Stage

QUICK = {
    "apiVersion": "recell.dev/v1alpha1",
    "kind": "RecoveryPolicy",
    "metadata": {"name": "default", "namespace": SHOP},
    "spec": {
        "mode": "Automatic",
        "detection": {"failedAfter": "3s", "healthyAfter": "5s", "window": "6s", "flappingTransitions": 100},
        "limits": {"cooldown": "0s", "maxAttempts": 100},
        "steps": {"drainIncrements": 3, "incrementInterval": "2s", "stabilityDuration": "6s"},
    },
}
"""The defaults but for waits and the limits that would keep one test from the next."""


@pytest.fixture(scope="session")
def whole_stage() -> Iterator[Stage]:
    """On a cluster of each process's own, which goes on running: nobody else's operator, and nobody else's load."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    cluster = f"{os.environ.get('RECELL_E2E_CLUSTER', 'recell-e2e')}-{number}"
    stage = Stage(cluster, say=lambda what: print(f"stage: {what}", file=sys.__stderr__))
    stage.up()
    if stage.is_in_use() and "RECELL_TEST_KUBECONFIG" not in os.environ:
        # By tests that were killed: held, frozen, throttled, stopped, and by pods of what the images were then.
        for command in ("down", "up"):
            stage.hack_cluster(command, show=True)
    stage.install_operator()
    yield stage
    stage.close_shop()
    stage.remove_operator()


@pytest.fixture
def stage(whole_stage: Stage) -> Iterator[Stage]:
    """The shop with a shared database as it should be: no runs, no freezes, every cell Healthy and whole."""
    if not whole_stage.is_as_opened():
        whole_stage.close_shop()
        whole_stage.open_shop(QUICK)
        _warm_up(whole_stage)
    _reset(whole_stage)
    yield whole_stage
    if whole_stage.is_as_opened():
        _reset(whole_stage)


def _warm_up(stage: Stage) -> None:
    """The first requests of fresh pods are slow, and on a busy machine too slow: no cell's failure, so no test's."""
    stage.patch("recoverypolicy", "default", {"spec": {"mode": "Observe"}})
    with stage.load(rate=30) as load:
        stage.eventually("the shop answers quickly", lambda: _quick(load.seconds), within=240)


def _quick(seconds: list[dict[str, Any]]) -> bool:
    last = seconds[-3:]
    return len(last) == 3 and all(not second["errors"] and (second["p99Ms"] or 0) < 500 for second in last)


def _reset(stage: Stage) -> None:
    # No run may begin between the deletion of the others and the moment at which every cell is seen to be well.
    stage.patch("recoverypolicy", "default", {"spec": {"mode": "Observe"}})
    for cell in CELLS:
        stage.heal(cell)
    for kind in ("recoveryfreezes", "recoveryruns"):
        stage.kubectl("-n", SHOP, "delete", kind, "--all", "--timeout=240s", within=300)

    def nobody_is_held() -> bool:
        """The operator may still be about to return one itself."""
        holds = stage.get("placement", "shop")["spec"].get("holds", [])
        for hold in holds:
            stage.recell("return", hold["cell"], "-n", SHOP, "--yes", check=False)
        return not holds

    stage.eventually("no cell is held", nobody_is_held, within=120)
    stage.eventually("every cell is Healthy", stage.all_healthy, within=240)
    stage.apply(json.dumps(QUICK))
