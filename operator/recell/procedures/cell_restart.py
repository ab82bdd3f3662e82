"""CellRestart: take half of a cell's traffic away, restart its workloads, give the traffic back.

For a single cell with passing trouble, low impact and intact data (runbook, procedure 1).
Every number comes from the policy that was frozen in the run's plan; its defaults are the runbook's:
50 % in 10 increments of 30 s, each verified against 1.2 x the expected traffic; 15 min of stability.
"""

from datetime import timedelta
from typing import Any

from recell.api import Cell
from recell.api.cell import WorkloadKind, WorkloadRef
from recell.api.failure import DataIntegrity, Strategy, Verdict
from recell.api.meta import duration_text, fraction, seconds
from recell.api.placement import HoldState, PlacementSpec
from recell.api.recovery_run import RunPhase, StartWhen, Urgency
from recell.domain import capacity, drain, pace, placement, ramp
from recell.domain.gate import health_gate
from recell.domain.health import Level
from recell.domain.observation import WorkloadPhase, WorkloadState
from recell.domain.runs import effect_token
from recell.domain.wording import listed
from recell.engine.outcome import Ask, Done, Fail, Outcome, Wait
from recell.engine.procedure import LOOK_AGAIN, Procedure, Step, StepContext, within
from recell.procedures import increments, validating

REPLACE = Strategy.TRAFFIC_DRAIN_AND_REPLACE


# 1 check-eligibility ---------------------------------------------------------------------------------


async def check_eligibility(ctx: StepContext) -> Outcome:
    if obstacle := _unfit(ctx):
        return Fail("NotEligible", obstacle, escalate_to=REPLACE)
    integrity = ctx.ports.observer.integrity(ctx.cell)
    if integrity is DataIntegrity.CORRUPTED:
        return Fail(
            "DataCorrupted",
            f"The data of cell {ctx.cell.metadata.name} is corrupted: a restart would not help",
            escalate_to=Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
        )
    if integrity is DataIntegrity.UNKNOWN and "unknown-integrity" not in ctx.approved:
        return _unknown_integrity(ctx)
    if (unseen := _unseen(ctx)) and "unseen-workloads" not in ctx.approved:
        return increments.inconclusive(ctx, "unseen-workloads", unseen)
    ctx.forget("inconclusive")
    bearing = _bearing(ctx, ctx.placement.spec)
    if bearing.verdict is Verdict.FAILED:
        return Fail("NoCapacity", bearing.message, escalate_to=REPLACE)
    if bearing.verdict is Verdict.INCONCLUSIVE and ctx.policy.limits.require_capacity:
        return increments.inconclusive(ctx, "unknown-capacity", bearing.message)
    return Done(f"Cell {ctx.cell.metadata.name} can be restarted: data {integrity}; {bearing.message}")


def _unknown_integrity(ctx: StepContext) -> Outcome:
    """A check that has not told yet is waited for; where there is none, only a person can say it."""
    name = ctx.cell.metadata.name
    if ctx.cell.spec.data.integrity is not None:
        return increments.inconclusive(
            ctx, "unknown-integrity", f"The integrity check of cell {name} does not say whether its data is intact"
        )
    return Ask(
        "unknown-integrity",
        f"Nothing says whether the data of cell {name} is intact. Approve to restart it all the same, or set"
        " data.integrity on the Cell, or detection.withoutIntegrityChecks in the policy",
    )


def _unseen(ctx: StepContext) -> str:
    """Of a cell in another cluster, why its workloads cannot be seen: nothing could be restarted. No traffic is taken
    away for that."""
    if ctx.cell.kubeconfig is None:
        return ""
    unknown = [s for s in ctx.ports.workloads.states(ctx.cell) if s.phase is WorkloadPhase.UNKNOWN]
    return f"{unknown[0].ref} of cell {ctx.cell.metadata.name}: {unknown[0].message}" if unknown else ""


def _unfit(ctx: StepContext) -> str | None:
    name = ctx.cell.metadata.name
    if not _restarted(ctx.cell):
        return f"Cell {name} names no workloads that can be restarted (spec.workloads): there is nothing to restart"
    missing = [s for s in ctx.ports.workloads.states(ctx.cell) if s.phase is WorkloadPhase.NOT_FOUND]
    if missing:
        return f"{missing[0].ref} of cell {name} does not exist in namespace {ctx.cell.workload_namespace}"
    held = [
        h
        for h in ctx.placement.spec.holds
        if h.cell == name and h.state in (HoldState.ISOLATED, HoldState.RETIRED, HoldState.QUARANTINED)
    ]
    if held:
        return f"Cell {name} is {held[0].state} by {held[0].holder.kind} {held[0].holder.name}: {held[0].reason}"
    return None


def _bearing(ctx: StepContext, spec: PlacementSpec) -> capacity.Bearing:
    return increments.bearing(ctx, spec, _drained(ctx, placement.limit(spec, ctx.cell.metadata.name)))


# 2 drain-traffic -------------------------------------------------------------------------------------


def _drained(ctx: StepContext, base: int) -> int:
    return round(base * (1 - fraction(ctx.policy.steps.drain_percent)))


def remember_base(ctx: StepContext) -> dict[str, Any]:
    """The share before the first change: without it a crash would drain twice (rule 24)."""
    base = ctx.others_limit()
    now_at = placement.limit(ctx.placement.spec, ctx.cell.metadata.name)
    router = ctx.ports.traffic.observed(ctx.router_key, window=seconds(ctx.policy.detection.window))
    traffic = router.cells.get(ctx.cell.metadata.name) if router else None
    rate = traffic.error_rate if traffic else None
    measured = None
    if router is not None and traffic is not None and router.requests >= ctx.policy.detection.minimum_requests:
        measured = traffic.requests / router.requests
    target = _drained(ctx, base)
    lost = 1.0 if traffic and traffic.check_up is False else rate
    at_once = ctx.run.spec.urgency is Urgency.IMMEDIATE or drain.drain_at_once(lost)
    count = 1 if at_once else ctx.policy.steps.drain_increments
    values = [v for v in ramp.increments(base, target, count) if v < now_at] or [min(now_at, target)]
    return {
        "base": base,
        "target": values[-1],
        "values": values,
        **({"notServed": lost} if lost is not None else {}),
        "expectedBefore": placement.expected_share(ctx.placement.spec, ctx.cell.metadata.name),
        "measuredBefore": measured,
        "measuredOf": router.requests if router is not None and measured is not None else 0,
    }


async def drain_traffic(ctx: StepContext) -> Outcome:
    name = ctx.cell.metadata.name
    if ctx.own_hold is None:
        lost = ctx.data.get("notServed", 1.0)
        worth = drain.worth_draining(ctx.placement.spec, ctx.routing, name, ctx.data["target"], lost)
        if not worth.worth:
            return Done(f"Traffic left where it is: {worth.message}")
    return await increments.down(ctx, tuple(ctx.data["values"]), room=lambda spec: _bearing(ctx, spec))


def rehearse_drain(ctx: StepContext) -> str:
    plan = remember_base(ctx)
    interval = duration_text(seconds(ctx.policy.steps.increment_interval))
    return (
        f"Would lower cell {ctx.cell.metadata.name} from {plan['base']} % to {plan['target']} % of its customers"
        f" in {len(plan['values'])} increments, {interval} apart{pace.told(ctx.router)}"
    )


# 3 restart-workloads ---------------------------------------------------------------------------------


def _restarted(cell: Cell) -> list[WorkloadRef]:
    """A CronJob is not: its next Job starts anew."""
    return [ref for ref in cell.spec.workloads if ref.kind is not WorkloadKind.CRON_JOB]


def _healthy_again(ctx: StepContext) -> bool:
    state = ctx.ports.observer.health(ctx.cell.key)
    return state is not None and state.level is Level.HEALTHY


async def restart_workloads(ctx: StepContext) -> Outcome:
    if ctx.ports.observer.integrity(ctx.cell) is DataIntegrity.CORRUPTED:
        return Fail(
            "DataCorrupted",
            f"The data of cell {ctx.cell.metadata.name} became corrupted before the restart",
            escalate_to=Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
        )
    token = effect_token(ctx.run.metadata.uid, "restart-workloads", 1)
    states = ctx.ports.workloads.states(ctx.cell)
    begun = any(s.restart_token == token for s in states)
    if not begun and ctx.run.spec.start_when is StartWhen.TARGET_UNHEALTHY and _healthy_again(ctx):
        return Done(
            f"Not restarted: cell {ctx.cell.metadata.name} is healthy again by itself", data={"selfRecovered": True}
        )
    others = [str(s.ref) for s in states if s.ref.kind is WorkloadKind.CRON_JOB]
    states = tuple(s for s in states if s.ref.kind is not WorkloadKind.CRON_JOB)
    for state in states:
        if state.restart_token != token:
            await ctx.ports.workloads.restart(ctx.cell, state.ref, token)
            return Wait(LOOK_AGAIN, f"Restarting {state.ref}")
        if state.phase is WorkloadPhase.NOT_FOUND:
            return Fail("WorkloadMissing", f"{state.ref} disappeared during its restart", escalate_to=REPLACE)
        if state.phase is WorkloadPhase.FAILED:
            return Fail(
                "RestartFailed", f"{state.ref} did not come up after its restart: {state.message}", escalate_to=REPLACE
            )
        if not _back(state):
            return Wait(LOOK_AGAIN, f"{state.ref}: {state.message}", observed=state.phase is not WorkloadPhase.UNKNOWN)
    anew = f"; left alone: {listed(others)}, whose next Job starts anew" if others else ""
    return Done("Restarted " + ", ".join(str(s.ref) for s in states) + anew)


def _back(state: WorkloadState) -> bool:
    return state.phase is WorkloadPhase.CURRENT and state.updated


# 4 check-health --------------------------------------------------------------------------------------


async def check_health(ctx: StepContext) -> Outcome:
    """Every check passes, on figures of one whole window since the restart."""
    window = seconds(ctx.policy.detection.window)
    ctx.elapsed("restarted")
    result = health_gate(ctx.evidence(not_before=ctx.since("restarted")))
    passing = ctx.elapsed("passing", seen=result.verdict is Verdict.PASSED)
    if result.verdict is Verdict.FAILED:
        ctx.forget("passing")
        return Wait(LOOK_AGAIN, result.message, reason="Unhealthy")
    if result.verdict is Verdict.INCONCLUSIVE:
        return increments.inconclusive(ctx, "unverified-health", result.message)
    ctx.forget("inconclusive")
    if passing < window:
        return Wait(min(LOOK_AGAIN, window - passing), f"Every check passes for {passing:.0f} of {window:g} s")
    return Done(result.message)


# 5 restore-traffic -----------------------------------------------------------------------------------


async def restore_traffic(ctx: StepContext) -> Outcome:
    return await increments.up(ctx, ctx.data["start"], ctx.data["base"], escalate_to=REPLACE)


def rehearse_restore(ctx: StepContext) -> str:
    return (
        f"Would give cell {ctx.cell.metadata.name} its traffic back in {ctx.policy.steps.drain_increments} increments,"
        f" as long as errors stay within {ctx.policy.detection.error_rate}"
        f" and answers within {ctx.policy.detection.latency}"
    )


# 6 watch-stability -----------------------------------------------------------------------------------


async def watch_stability(ctx: StepContext) -> Outcome:
    wanted = seconds(ctx.policy.steps.stability_duration)
    result = health_gate(ctx.evidence(not_before=ctx.now - timedelta(seconds=seconds(ctx.policy.detection.window))))
    blips = int(ctx.data.get("blips", 0))
    if result.verdict is Verdict.FAILED:
        if blips > 1 or validating.lasts(ctx):
            return Fail("Unstable", f"Not stable after the restart: {result.message}", escalate_to=REPLACE)
        if not ctx.data.get("failing"):
            ctx.forget("stable")
            return Wait(
                LOOK_AGAIN, f"Watching again from the start: {result.message}", reason="Blip",
                data={"blips": blips + 1, "failing": True},
            )  # fmt: skip
        ctx.forget("stable")
        return Wait(LOOK_AGAIN, result.message, reason="Blip")
    ctx.forget("failing")
    stable = ctx.elapsed("stable", seen=result.verdict is Verdict.PASSED)
    if stable >= wanted:
        again = f" after {blips} short interruption" if blips else ""
        return Done(f"Stable for {duration_text(wanted)}{again}")
    if result.verdict is Verdict.INCONCLUSIVE:
        return increments.inconclusive(ctx, "unverified-stability", result.message)
    ctx.forget("inconclusive")
    after = min(LOOK_AGAIN, wanted - stable)
    data = {"blips": blips, "failing": False} if ctx.data.get("failing") else None
    return Wait(after, f"Stable for {duration_text(stable)} of {duration_text(wanted)}", data=data)


# on abort --------------------------------------------------------------------------------------------


async def return_traffic(ctx: StepContext) -> Outcome:
    """Never raises the traffic of an unhealthy cell (rule 20); of a healthy one in increments."""
    hold = ctx.own_hold
    name = ctx.cell.metadata.name
    if hold is None:
        await increments.let_go(ctx)
        return Done("Nothing to undo: no traffic was taken away")
    if not _healthy_again(ctx):
        stays = await increments.put_back(ctx, ctx.data["start"])
        await increments.let_go(ctx, keep_hold=True)
        return Done(
            f"Cell {name} is not healthy and stays at {stays} % of its customers."
            f" Give it its traffic back with: recell return {name}"
        )
    return await increments.up(ctx, ctx.data["start"], ctx.data["base"], escalate_to=None)


CELL_RESTART = Procedure(
    name=Strategy.CELL_RESTART,
    version=1,
    escalates=REPLACE,
    steps=(
        Step(
            "check-eligibility",
            RunPhase.DRAINING,
            "Check that the cell may be restarted and that the others can bear its traffic",
            check_eligibility,
            within("inconclusive_timeout"),
            rehearse=lambda ctx: _unfit(ctx) or f"Cell can be restarted; {_bearing(ctx, ctx.placement.spec).message}",
            effects=False,
        ),
        Step(
            "drain-traffic",
            RunPhase.DRAINING,
            "Take a part of the cell's traffic away, in increments, each verified by observed traffic",
            drain_traffic,
            increments.time_for_all,
            rehearse=rehearse_drain,
            prepare=remember_base,
        ),
        Step(
            "restart-workloads",
            RunPhase.RESTORING,
            "Restart the cell's workloads, one after the other",
            restart_workloads,
            within("restart_timeout"),
            rehearse=lambda ctx: "Would restart " + ", then ".join(map(str, _restarted(ctx.cell))),
        ),
        Step(
            "check-health",
            RunPhase.RESTORING,
            "Check workloads, probe, data, error rate and latency",
            check_health,
            within("health_check_timeout"),
            rehearse=lambda ctx: (
                "Would wait until every check of the cell passes, at most "
                + duration_text(seconds(ctx.policy.steps.health_check_timeout))
            ),
        ),
        Step(
            "restore-traffic",
            RunPhase.PROMOTING,
            "Give the traffic back in the same increments, each guarded by error rate and latency",
            restore_traffic,
            increments.time_for_all,
            rehearse=rehearse_restore,
            prepare=increments.remember_way_back,
        ),
        Step(
            "watch-stability",
            RunPhase.VALIDATING,
            "Watch the cell without one failed check",
            watch_stability,
            lambda policy: 3 * seconds(policy.steps.stability_duration) + seconds(policy.steps.inconclusive_timeout),
            rehearse=lambda ctx: (
                f"Would watch the cell for {duration_text(seconds(ctx.policy.steps.stability_duration))}"
            ),
        ),
    ),
    on_abort=(
        Step(
            "return-traffic",
            RunPhase.ABORTING,
            "Give the traffic back if the cell is healthy",
            return_traffic,
            increments.time_for_all,
            rehearse=lambda ctx: "Would give the traffic back if the cell is healthy",
            prepare=increments.remember_way_back,
        ),
    ),
)
