"""A run that only a person can help on says so, with the reason, and goes on when that was done."""

import pytest

from recell.api.recovery_run import RunPhase, StepState
from recell.engine.errors import BadInput, Forbidden, NotFound, RecellError, Reverted
from recell.engine.outcome import Done, Outcome
from recell.engine.procedure import StepContext
from tests.unit.engine.test_router_runs import engine, failing, play, reason, router_run

BY_ARGO = "Deployment fleet/web: the restart was reverted twice, last by argocd-controller: let it leave that alone"


class Troubled:
    """A step that meets this error until somebody mends it."""

    def __init__(self, error: RecellError) -> None:
        self.error: RecellError | None = error

    async def __call__(self, ctx: StepContext) -> Outcome:
        if self.error is not None:
            raise self.error
        return Done("noted")


@pytest.mark.parametrize("error", [Reverted(BY_ARGO), Forbidden("may not patch it"), BadInput("spec.x cannot be")])
async def test_what_only_a_person_can_mend_is_shown_as_stalled_and_goes_on_afterwards(error: RecellError) -> None:
    world, troubled = failing(), Troubled(error)
    key = router_run(world)
    run = await play(world, key, troubled, limit=7)
    assert {c.type: (c.status, c.reason, c.message) for c in run.status.conditions}["Stalled"] == (
        "True",
        error.reason,
        str(error),
    )
    assert reason(run, "Reconciling") == reason(run, "Ready") == error.reason
    assert run.status.steps[1].message == str(error)
    written = len(world.writes)
    await play(world, key, troubled, limit=2)
    assert len(world.writes) == written, "said once"
    troubled.error = None
    run = await play(world, key, troubled)
    assert run.phase is RunPhase.SUCCEEDED
    assert reason(run, "Stalled") == ""


async def test_what_may_come_by_itself_stalls_nothing() -> None:
    world = failing()
    run = await play(world, router_run(world), Troubled(NotFound("Deployment fleet/web does not exist")), limit=7)
    assert reason(run, "Reconciling") == "NotFound"
    assert reason(run, "Stalled") == ""


async def test_a_stalled_run_waits_no_longer_than_its_step_may_and_then_says_by_whom() -> None:
    world = failing()
    run = await play(world, router_run(world), Troubled(Reverted(BY_ARGO)))
    assert run.phase is RunPhase.MANUAL_INTERVENTION_REQUIRED
    assert "argocd-controller" in (run.status.summary or "")
    assert reason(run, "Stalled") == ""


async def test_a_stalled_run_can_be_aborted_and_is_not_stalled_any_more() -> None:
    world, troubled = failing(), Troubled(Reverted(BY_ARGO))
    key = router_run(world)
    await play(world, key, troubled, limit=7)
    world.control(key, abort=True)
    working = engine(world, troubled)
    await working.advance(key)
    run = world.runs[key]
    assert run.phase is RunPhase.ABORTING
    assert run.status.steps[1].state is StepState.SKIPPED
    assert next(c.status for c in run.status.conditions if c.type == "Stalled") == "False"
    assert (await play(world, key, troubled)).phase is RunPhase.ABORTED
