"""RouterFailover: customers go through the fallback, the router is brought back, and they go back to it, guarded.

For a router that gives its customers no answer (runbook, procedure 5; strategy ActivateFallbackRouting). What is in
force stands in the world itself: Placement's mode with the order that was frozen, and the switch, whoever moved it.
So a step that is done again after a crash finds where it was.

Must not: leave customers without a way because of an order of writes; send them back to a router that is not well.
"""

from collections.abc import Sequence
from typing import Any

from recell.api.failure import Strategy
from recell.api.meta import duration_text, fraction, seconds
from recell.api.placement import PlacementMode, PlacementSpec
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.recovery_run import RecoveryRunStatus, RunPhase, RunResult, StartWhen
from recell.domain import fallback, placement, router_health
from recell.domain.fallback import Table
from recell.domain.health import Level
from recell.domain.observation import FallbackState, Landed
from recell.domain.runs import effect_token
from recell.domain.wording import listed, percent
from recell.engine.errors import BadInput, NotFound, Retryable
from recell.engine.outcome import Done, Fail, Outcome, Recovered, Wait
from recell.engine.ports import Switch
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext, within

FENCED_WITHIN = 2.0
"""Seconds for which the router's own pods are asked to let their customers go before the switch; who cannot be asked
is nobody to wait for, and DualRouting is recorded."""
BY_ITSELF = 10.0
"""Seconds in which a router that is relieved may come back by itself before it is restarted."""
EACH = 2
MOST = 60
"""Sample customers for each cell, and of all cells together."""
PUBLISHED_WITHIN = 600.0
"""Seconds that a switch may take at most (`publishTimeout` of a switch DNS)."""
SOON = 0.5
"""Seconds between two looks while customers are without service."""


def _is_well(ctx: StepContext) -> bool:
    state = ctx.ports.routers.health(ctx.router_key)
    return state is not None and state.level is Level.HEALTHY


def _fails_now(ctx: StepContext) -> bool:
    """The evidence of this moment, not what was decided on before (rule 4)."""
    failure = ctx.ports.routers.failure(ctx.router_key)
    return failure is not None and router_health.judged(failure.evidence) is Level.FAILED


def _switch(ctx: StepContext) -> Switch | None:
    """The one that this run uses; else the first that can."""
    used = next((str(s.data["switch"]) for s in reversed(ctx.run.status.steps) if s.data and "switch" in s.data), "")
    able = [s for s in fallback.in_order(ctx.router, ctx.ports.switches) if not s.obstacle(ctx.router)]
    return next((switch for switch in able if switch.name == ctx.data.get("switch", used)), next(iter(able), None))


def _at(ctx: StepContext) -> PlacementMode | None:
    passed = fallback.on_the_way(ctx.router, ctx.ports.switches)
    return fallback.side(switch.at(ctx.router_key) for switch in passed)


async def _away(ctx: StepContext) -> None:
    """To the fallback, by one switch."""
    await _able(ctx).to(ctx.router, PlacementMode.FALLBACK)


async def _home(ctx: StepContext) -> None:
    """To the router itself, by every switch that leads to the fallback: whoever is nearer to the customers last."""
    for switch in fallback.on_the_way(ctx.router, ctx.ports.switches):
        if switch.at(ctx.router_key) is PlacementMode.FALLBACK:
            await switch.to(ctx.router, PlacementMode.PRIMARY)


def _able(ctx: StepContext) -> Switch:
    switch = _switch(ctx)
    if switch is None:
        raise Retryable("nothing can move the customers now: " + _no_switch(ctx))
    return switch


def _no_switch(ctx: StepContext) -> str:
    named = fallback.in_order(ctx.router, ctx.ports.switches)
    return "; ".join(f"{switch.name}: {switch.obstacle(ctx.router)}" for switch in named) or "no switch"


def _standby(ctx: StepContext) -> FallbackState | str:
    """The fallback, or why it cannot be used."""
    name = ctx.router.metadata.name
    if not ctx.router.spec.has_fallback:
        return f"Router {name} has no fallback: set spec.fallback"
    state = ctx.ports.routers.fallback(ctx.router_key)
    if state is None:
        return f"the fallback of Router {name} was not made yet"
    if state.obstacle:
        return f"the fallback of Router {name} cannot be used: {state.obstacle}"
    return state


def _table(ctx: StepContext) -> Table | None:
    """As the fallback's pods should have it while they serve."""
    cells = ctx.ports.store.cells_of(ctx.router_key)
    return fallback.table_of(ctx.placement.spec, ctx.routing, cells, (), ())


def _unavailable(ctx: StepContext, why: str) -> Outcome:
    limit, waited = seconds(ctx.policy.steps.apply_timeout), ctx.elapsed("unavailable")
    if waited >= limit:
        return Fail("FallbackUnavailable", f"For {duration_text(limit)} {why}")
    return Wait(SOON, why, reason="FallbackUnavailable" if waited >= LOOK_AGAIN else "")


# 1 assess-router -------------------------------------------------------------------------------------


async def assess_router(ctx: StepContext) -> Outcome:
    name = ctx.router.metadata.name
    if ctx.placement.spec.mode is PlacementMode.FALLBACK:
        return Done(f"Customers of Router {name} go through the fallback already")
    if outcome := _passed_by(ctx):
        return outcome
    state, switch = _standby(ctx), _switch(ctx)
    if isinstance(state, str):
        return _unavailable(ctx, state)
    if switch is None:
        return _unavailable(ctx, f"nothing can move the customers: {_no_switch(ctx)}")
    primary = ctx.ports.routers.primary(ctx.router_key)
    ready = f"{primary.pods.ready} of {primary.pods.desired} router pods are ready" if primary else "it has no pods"
    failure = ctx.ports.routers.failure(ctx.router_key)
    impact = f"impact {failure.impact}, " if failure else ""
    return Done(
        f"{impact}{ready}; the fallback stands by with {len(state.order)} cells: {listed(state.order[:20])}",
        data={"switch": switch.name},
    )


def _passed_by(ctx: StepContext) -> Outcome | None:
    """A router that answers again by itself needs no fallback; one that is asked for all the same gets it."""
    if ctx.run.spec.start_when is StartWhen.ALWAYS or _fails_now(ctx):
        ctx.forget("answers")
        return None
    name = ctx.router.metadata.name
    if _is_well(ctx):
        return Recovered(f"Router {name} is well again by itself; nothing was switched")
    ctx.elapsed("answers")
    return Wait(SOON, f"Router {name} does not fail at this moment: waiting whether that lasts", reason="Passing")


# 2 activate-fallback ---------------------------------------------------------------------------------


async def activate_fallback(ctx: StepContext) -> Outcome:
    spec, board = ctx.placement.spec, ctx.ports.switchboard
    if spec.mode is PlacementMode.PRIMARY:
        if outcome := _passed_by(ctx):
            return outcome
        state = _standby(ctx)
        if isinstance(state, str):
            return _unavailable(ctx, state)
        order = state.order
        await board.change(ctx.router_key, lambda now: fallback.activate(now, order, ctx.holder, ctx.now))
    if _at(ctx) is not PlacementMode.FALLBACK:
        if not ctx.ports.routers.fenced(ctx.router_key):
            if ctx.elapsed("fence") < FENCED_WITHIN:
                return Wait(SOON, "Waiting for the router's own pods to let their customers go")
            await board.change(ctx.router_key, lambda now: fallback.fenced(now, dual_routing=True))
        await _away(ctx)
    if _at(ctx) is not PlacementMode.FALLBACK:
        return Wait(SOON, "Waiting for the switch")
    active = ctx.placement.spec.fallback
    dual = " The router's own pods could not be told to let their customers go: DualRouting is recorded."
    return Done(
        f"Customers of Router {ctx.router.metadata.name} go through the fallback, over"
        f" {len(active.order) if active else 0} cells.{dual if active and active.dual_routing else ''}"
    )


# 3 validate-fallback ---------------------------------------------------------------------------------


async def validate_fallback(ctx: StepContext) -> Outcome:
    """Requests of sample customers of the cells that are well, through the way that customers take, land where the
    table says."""
    if _at(ctx) is PlacementMode.PRIMARY:
        return Recovered("Somebody sent the customers back to the router itself: that is respected")
    table, state = _table(ctx), ctx.ports.routers.fallback(ctx.router_key)
    if table is None:
        return Fail("NoCells", "No cell is left that could serve behind the fallback")
    if state is None or state.table != table.id or not state.current:
        return await _not_serving(ctx, "the fallback's pods do not have the newest table yet")
    expected = dict(fallback.samples(table, EACH, MOST))
    expected = {customer: cell for customer, cell in expected.items() if _cell_is_well(ctx, cell)}
    if not expected:
        return await _not_serving(ctx, "no cell behind it is well")
    switch = _able(ctx)
    if pending := await switch.pending(ctx.router):
        return await _not_serving(ctx, pending)
    try:
        landed = await switch.land(ctx.router, list(expected))
    except (BadInput, NotFound, Retryable) as error:
        return await _not_serving(ctx, f"nobody can be asked by {switch.name}: {error}")
    wrong = [told for one in landed if (told := _misplaced(one, expected[one.customer]))]
    failed = [one for one in landed if one.status is None or one.status >= 500]
    allowed = fraction(ctx.policy.detection.error_rate)
    if wrong:
        return await _not_serving(ctx, f"{len(wrong)} of {len(landed)} sample customers landed elsewhere: {wrong[0]}")
    if len(failed) > allowed * len(landed):
        told = f"{len(failed)} of {len(landed)} sample customers got no good answer: {failed[0].message}"
        return await _not_serving(ctx, told)
    ctx.forget("wrong")
    window, passed = seconds(ctx.policy.detection.window), ctx.elapsed("landing")
    if passed < window:
        return Wait(min(LOOK_AGAIN, window - passed), f"{len(landed)} sample customers landed as they should")
    how = "at home" if table.homes is not None else f"where MD5 modulo {len(table.order)} says"
    return Done(
        f"For {duration_text(window)} requests of {len(landed)} sample customers landed {how};"
        f" {percent(len(failed) / len(landed))} got no good answer"
    )


def _misplaced(landed: Landed, expected: str) -> str:
    """Where it landed instead; empty: where it should, or nowhere, which is another fault."""
    if landed.cell is not None:
        return "" if landed.cell == expected else f"{landed.customer} landed at {landed.cell} instead of {expected}"
    answered = landed.status is not None and landed.status < 500
    return f"{landed.customer} was not answered by the fallback ({landed.message})" if answered else ""


async def _not_serving(ctx: StepContext, why: str) -> Outcome:
    """Waited for, then the next switch is tried beside those that were, then a person has to."""
    ctx.forget("landing")
    switch = _switch(ctx)
    limit = seconds(ctx.policy.steps.apply_timeout) + (switch.within(ctx.router) if switch is not None else 0.0)
    if ctx.elapsed("wrong") < limit:
        return Wait(SOON, why, reason="NotServing")
    ctx.forget("wrong")
    tried = [*ctx.data.get("tried", ()), *([switch.name] if switch is not None else ())]
    named = fallback.in_order(ctx.router, ctx.ports.switches)
    others = [s for s in named if s.name not in tried and not s.obstacle(ctx.router)]
    if others:
        await others[0].to(ctx.router, PlacementMode.FALLBACK)
        return Wait(0.0, f"Trying {others[0].name}: {why}", data={"tried": tried, "switch": others[0].name})
    return Fail("FallbackNotServing", f"For {duration_text(limit)} the fallback did not serve as it should: {why}")


# 4 recover-primary -----------------------------------------------------------------------------------


def remember_primary(ctx: StepContext) -> dict[str, Any]:
    primary = ctx.ports.routers.primary(ctx.router_key)
    return {"uid": primary.uid if primary else "", "token": effect_token(ctx.run.metadata.uid, ctx.step)}


async def recover_primary(ctx: StepContext) -> Outcome:
    """A router that does not come back is no reason to stop: another one is made in its place."""
    primary, token = ctx.ports.routers.primary(ctx.router_key), str(ctx.data["token"])
    restarted = primary is not None and primary.restarted_by == token
    if _is_well(ctx):
        how = "was restarted and is well" if restarted else "is well again by itself"
        return Done(f"Router {ctx.router.metadata.name} {how}", data={"recovered": True})
    limit = seconds(ctx.policy.steps.restart_timeout)
    if ctx.elapsed("recovering") >= limit:
        return Done(f"It did not come back within {duration_text(limit)}", data={"recovered": False})
    if primary is None:
        return Wait(LOOK_AGAIN, "Its Deployment is not there: it is being made")
    told = f"{primary.pods.ready} of {primary.pods.desired} pods are ready"
    if not restarted and (_answers(ctx) or ctx.elapsed("sick") < BY_ITSELF):
        return Wait(LOOK_AGAIN, f"Waiting whether it comes back by itself: {told}")
    if not restarted:
        await ctx.ports.routers.restart(ctx.router, token)
        return Wait(LOOK_AGAIN, "Restarting the router's own pods")
    return Wait(LOOK_AGAIN, f"Restarted, waiting until it is well: {told}")


def _answers(ctx: StepContext) -> bool:
    """It fails nobody at this moment; until it counts as well, that has to last."""
    primary = ctx.ports.routers.primary(ctx.router_key)
    return primary is not None and primary.pods.ready >= primary.pods.desired and not _fails_now(ctx)


# 5 provision-new-primary -----------------------------------------------------------------------------


async def provision_new_primary(ctx: StepContext) -> Outcome:
    if ctx.of("recover-primary").get("recovered"):
        return Done("Not needed: the router came back")
    if _is_well(ctx):
        return Done(f"Router {ctx.router.metadata.name} is well")
    primary, old = ctx.ports.routers.primary(ctx.router_key), str(ctx.of("recover-primary").get("uid", ""))
    if primary is not None and primary.uid == old:
        await ctx.ports.routers.renew(ctx.router, old)
        return Wait(LOOK_AGAIN, "Its Deployment is taken away, another one is made")
    told = f"{primary.pods.ready} of {primary.pods.desired} pods are ready" if primary else "it is being made"
    return Wait(LOOK_AGAIN, f"Waiting until the new one is well: {told}")


# 6 switch-back ---------------------------------------------------------------------------------------


async def switch_back(ctx: StepContext) -> Outcome:
    """New connections go to the router itself at once; those that are open follow by themselves, for the fallback
    closes one answer in twenty. Whatever goes wrong within the guard sends everybody to the fallback again."""
    spec, at = ctx.placement.spec, _at(ctx)
    if spec.mode is PlacementMode.FALLBACK:
        if at is not PlacementMode.PRIMARY and (waiting := await _not_fit(ctx)):
            return waiting
        await ctx.ports.switchboard.change(ctx.router_key, fallback.deactivate)
        return Wait(SOON, "The router's own pods keep their customers again")
    if at is not PlacementMode.PRIMARY:
        if not ctx.applied():
            if ctx.elapsed("apply") >= seconds(ctx.policy.steps.apply_timeout):
                return await _stay(ctx, "NotApplied", "the router's own pods did not apply their Placement")
            return Wait(SOON, "Waiting for the router's own pods to apply the change")
        if waiting := await _not_fit(ctx):
            return waiting
        await _home(ctx)
        return Wait(SOON, "Customers are sent to the router itself")
    return await _guard(ctx)


async def _not_fit(ctx: StepContext) -> Outcome | None:
    """Looked at anew before anybody is sent there (rule 4): it is well, and requests to itself are answered."""
    if not _is_well(ctx):
        return Wait(LOOK_AGAIN, "The router itself is not well at this moment", reason="Unhealthy")
    customers = _customers(ctx)
    if told := _missed(ctx, await ctx.ports.routers.land(ctx.router, PlacementMode.PRIMARY, customers)):
        return Wait(LOOK_AGAIN, f"The router itself does not serve as it should: {told}", reason="Unhealthy")
    return None


def _customers(ctx: StepContext) -> list[str]:
    """Of cells that are well: what another cell's customers miss is that cell's fault, and its own run waits for the
    router."""
    well = {name for name in ctx.ports.store.cells_of(ctx.router_key) if _cell_is_well(ctx, name)}
    return list(placement.samples(ctx.placement.spec, well, EACH, MOST))


def _missed(ctx: StepContext, landed: Sequence[Landed]) -> str:
    """What they miss; empty: nothing that counts."""
    failed = [one for one in landed if one.status is None or one.status >= 500]
    if len(failed) <= fraction(ctx.policy.detection.error_rate) * len(landed):
        return ""
    return f"{len(failed)} of {len(landed)} requests got no good answer ({failed[0].message})"


def _cell_is_well(ctx: StepContext, name: str) -> bool:
    cell = ctx.sibling(name)
    state = ctx.ports.observer.health(cell.key) if cell is not None else None
    return state is not None and state.level is Level.HEALTHY


async def _guard(ctx: StepContext) -> Outcome:
    duration, switch = seconds(ctx.policy.steps.increment_interval), _switch(ctx)
    told = "the router fails" if _fails_now(ctx) else ""
    if not told and switch is not None:
        if pending := await switch.pending(ctx.router):
            limit = seconds(ctx.policy.steps.apply_timeout) + switch.within(ctx.router)
            if ctx.elapsed("pending") < limit:
                return Wait(LOOK_AGAIN, f"Customers still come by the fallback: {pending}")
            return await _stay(ctx, "SwitchBackFailed", pending)
        told = _missed(ctx, await switch.land(ctx.router, _customers(ctx)))
    if told:
        if ctx.elapsed("bad") < LOOK_AGAIN:
            return Wait(SOON, f"Looked at once more before it is believed: {told}")
        return await _stay(ctx, "SwitchBackFailed", told)
    ctx.forget("bad")
    passed = ctx.elapsed("guarded")
    if passed < duration:
        left = min(LOOK_AGAIN, duration - passed)
        return Wait(left, f"Served by the router itself for {duration_text(passed)} of {duration_text(duration)}")
    return Done(f"Customers go through Router {ctx.router.metadata.name} itself again, for {duration_text(duration)}")


async def _stay(ctx: StepContext, reason: str, why: str) -> Outcome:
    """Back to the fallback, if there is one to go to."""
    state = _standby(ctx)
    if isinstance(state, str):
        return Fail(reason, f"{why}, and {state}")
    order = state.order

    def again(spec: PlacementSpec) -> PlacementSpec:
        return fallback.activate(spec, order, ctx.holder, ctx.now, dual_routing=True)  # until its pods say otherwise

    await ctx.ports.switchboard.change(ctx.router_key, again)
    await _away(ctx)
    return Fail(reason, f"{why}: customers were sent to the fallback again")


# the way back ----------------------------------------------------------------------------------------


async def return_to_primary(ctx: StepContext) -> Outcome:
    """A router that is not well gets nobody back (rule 20)."""
    spec, at, name = ctx.placement.spec, _at(ctx), ctx.router.metadata.name
    if at is not PlacementMode.FALLBACK:
        if spec.mode is PlacementMode.FALLBACK:
            await ctx.ports.switchboard.change(ctx.router_key, fallback.deactivate)
        return Done(f"Customers go through Router {name} itself")
    if spec.mode is PlacementMode.FALLBACK and not _is_well(ctx):
        told = (
            f"Router {name} is not well: its customers stay with the fallback. Bring them back, once it is, with:"
            f" recell recover router/{name} --always --strategy ActivateFallbackRouting"
        )
        return Done(told, data={"remains": told})
    return await switch_back(ctx)


def result_of(status: RecoveryRunStatus) -> RunResult | None:
    remains = [str(step.data["remains"]) for step in status.steps if step.data and "remains" in step.data]
    return RunResult(remains=remains) if remains else None


def time_to_return(policy: RecoveryPolicySpec) -> float:
    """Deadline in seconds: it has to be well for a while, then apply, then be guarded."""
    steps = policy.steps
    waits = (steps.health_check_timeout, steps.apply_timeout, steps.increment_interval, steps.inconclusive_timeout)
    return sum(map(seconds, waits)) + PUBLISHED_WITHIN


def _rehearse_activation(ctx: StepContext) -> str:
    state, switch = _standby(ctx), _switch(ctx)
    if isinstance(state, str):
        return f"Could not: {state}"
    how = switch.name if switch else "nothing that is there"
    return f"Would send everybody to the fallback by {how}, over {len(state.order)} cells: {listed(state.order[:20])}"


_WAY_BACK = Step(
    "return-to-primary",
    RunPhase.ABORTING,
    "Send the customers back if the router is well",
    return_to_primary,
    time_to_return,
    rehearse=lambda ctx: "Would send the customers back if the router is well",
)

ROUTER_FAILOVER = Procedure(
    name=Strategy.ACTIVATE_FALLBACK_ROUTING,
    version=1,
    steps=(
        Step(
            "assess-router",
            RunPhase.DRAINING,
            "Look whether the router still fails, and whether its fallback can be used",
            assess_router,
            lambda policy: 2 * seconds(policy.steps.apply_timeout) + seconds(policy.steps.inconclusive_timeout),
            rehearse=_rehearse_activation,
            effects=False,
        ),
        Step(
            "activate-fallback",
            RunPhase.DRAINING,
            "Freeze the order of the cells, let the router's own pods go, and send the customers to the fallback",
            activate_fallback,
            lambda policy: 2 * seconds(policy.steps.apply_timeout) + seconds(policy.steps.inconclusive_timeout),
            rehearse=_rehearse_activation,
        ),
        Step(
            "validate-fallback",
            RunPhase.DRAINING,
            "Try that requests of sample customers land where they should",
            validate_fallback,
            lambda policy: 4 * seconds(policy.steps.apply_timeout) + PUBLISHED_WITHIN,
            rehearse=lambda ctx: "Would try sample customers of every cell through the fallback",
        ),
        Step(
            "recover-primary",
            RunPhase.RESTORING,
            "Restart the router's own pods, unless they come back by themselves",
            recover_primary,
            lambda policy: 2 * seconds(policy.steps.restart_timeout),
            rehearse=lambda ctx: "Would restart the router's own pods, unless they come back by themselves",
            prepare=remember_primary,
        ),
        Step(
            "provision-new-primary",
            RunPhase.RESTORING,
            "Make the router's own pods anew if a restart did not help",
            provision_new_primary,
            within("restart_timeout"),
            rehearse=lambda ctx: "Would make the router's own pods anew if a restart did not help",
        ),
        Step(
            "switch-back",
            RunPhase.PROMOTING,
            "Send the customers back to the router itself, guarded",
            switch_back,
            time_to_return,
            rehearse=lambda ctx: (
                "Would send the customers back and watch them for"
                f" {duration_text(seconds(ctx.policy.steps.increment_interval))}"
            ),
        ),
    ),
    on_abort=(_WAY_BACK,),
    on_recovered=(_WAY_BACK,),
    result=result_of,
)
