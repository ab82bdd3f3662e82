"""A cell in a cluster of its own that does not answer: nothing is destroyed for that, a person is asked (rule 5)."""

from recell.api.failure import Verdict
from recell.api.recovery_run import RunPhase
from recell.domain import health, placement
from recell.domain.data import Operation
from recell.domain.health import Level
from tests.fakes.world import NAMESPACE, World
from tests.unit.procedures import test_restoring as restoring
from tests.unit.procedures import test_traffic_drain_and_replace as replacing
from tests.unit.procedures.play import play
from tests.unit.procedures.test_cell_restart import failing_fleet
from tests.unit.procedures.test_safety import looks
from tests.unit.procedures.test_traffic_drain_and_replace import IN_CELL, approve, asked, made, spec_of

DESTROYING = ("stop", "isolate", "remove", "restart", "data")


def effects_of(world: World, *kinds: str) -> list[str]:
    return [str(write) for write in world.writes if write.kind in kinds]


def test_a_cell_that_serves_is_not_healthy_while_its_cluster_is_lost() -> None:
    world = World()
    world.fleet("a", "b", policy={})
    world.traffic.rps = 300
    world.tick(60)
    world.lose_cluster_of("b")
    world.tick(60)
    assert world.health_states["b"].level is Level.UNKNOWN
    assert world.health_states["a"].level is Level.HEALTHY
    world.unreachable.clear()
    world.tick(10)
    assert world.health_states["b"].level is Level.HEALTHY


def test_a_lost_cluster_is_no_evidence_of_failure() -> None:
    world = World()
    world.fleet("a", "b", policy={})
    world.lose_cluster_of("b")
    world.tick(60)
    cell = world.cells[NAMESPACE, "b"]
    seen, policy = world.ports().observer.observe(cell), world.policies[NAMESPACE, "default"].spec
    found = {e.check: e for e in health.assess(cell, seen, policy, world.clock.now())}
    assert found["cluster"].verdict is Verdict.INCONCLUSIVE
    assert found["workloads"].verdict is Verdict.INCONCLUSIVE
    assert not [e for e in found.values() if e.verdict is Verdict.FAILED]


async def test_no_traffic_is_taken_away_for_a_restart_that_cannot_be_done() -> None:
    world = failing_fleet()
    world.lose_cluster_of("b")
    key = world.run("r1", "b", strategy="CellRestart")
    run = await asked(world, key, "unseen-workloads")
    assert run.status.awaiting is not None
    assert "Deployment/b-web of cell b: the API server does not answer" in run.status.awaiting.message
    assert effects_of(world, "placement", *DESTROYING) == []
    world.unreachable.clear()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert effects_of(world, "restart") == ["restart Deployment/b-web"]


async def test_a_restart_waits_for_a_cluster_that_is_lost_in_between() -> None:
    world = failing_fleet()
    key = world.run("r1", "b", strategy="CellRestart")
    await play(world, key, until="restart-workloads")
    world.lose_cluster_of("b")
    await looks(world, key, 1200)
    assert world.runs[key].status.step == "restart-workloads"
    world.unreachable.clear()
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED
    assert effects_of(world, "restart") == ["restart Deployment/b-web"]


async def test_a_source_in_a_lost_cluster_is_replaced_with_the_word_of_a_person() -> None:
    steps = {**replacing.QUICK["steps"], "restartTimeout": "30s"}
    world = replacing.fleet(policy={"steps": steps}, **IN_CELL)
    key = replacing.replace(world)
    await play(world, key, until="route-replacement")
    world.lose_cluster_of("b")
    world.writes.clear()
    run = await asked(world, key, "unfenced-source")
    assert run.status.awaiting is not None
    assert "Deployment/b-web of cell b cannot be stopped (after 30s pods are not known)" in run.status.awaiting.message
    assert effects_of(world, *DESTROYING) == []
    assert placement.home_share(spec_of(world), made(world)) == 0, "nobody was moved"
    approve(world, key)
    await play(world, key)
    assert world.runs[key].phase is RunPhase.SUCCEEDED


async def test_the_isolation_of_a_lost_cell_holds_up_nothing_and_asks() -> None:
    world = restoring.fleet(steps={**restoring.POLICY["steps"], "restartTimeout": "30s"})
    restoring.corrupt(world, down=True)
    world.lose_cluster_of("b")
    key = world.run("r1", "b", strategy=restoring.ISOLATE)
    await asked(world, key, "unfenced-source")
    assert placement.share(spec_of(world), "b") == 0, "it gets no traffic"
    assert effects_of(world, "stop", "isolate", "remove") == []
    assert not [what for what in effects_of(world, "data") if Operation.RESTORE in what]
