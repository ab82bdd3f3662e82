"""Cells in clusters of their own: opened, shared, closed, rotated, lost and found, in virtual time."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from recell.api.cell import DataType
from recell.api.failure import Verdict
from recell.api.meta import ANNOTATION_RESTART, LABEL_CELL
from recell.domain.data import Answer, Operation, Progress, Request
from recell.domain.observation import WorkloadPhase
from recell.engine.errors import BadInput, Forbidden, Unreachable
from recell.engine.ports import Data
from recell.providers.data.by_cluster import DataByCluster
from recell.providers.kube import clusters as clusters_module
from recell.providers.kube.by_cluster import OUTSIDE, CellIsolation, remains_of
from recell.providers.kube.clusters import BEAT_AT_LEAST, EXPECTED, LOST_AFTER, Cluster, PerCluster
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import SECRETS
from tests.unit.kube.far import WEB, FarServer, Fleet
from tests.unit.runtime.virtual_time import play

Story = Callable[[Fleet], Awaitable[None]]
HIDDEN = "tok-that-nobody-may-see"


def tell(story: Story, **servers: bool) -> None:
    """Play it with these clusters; False: without consent of the namespace there."""

    async def told() -> None:
        fleet = Fleet(**{name: FarServer(consents=consents) for name, consents in servers.items()})
        await fleet.started()
        try:
            await story(fleet)
        finally:
            await fleet.stop()
        assert all(way.closed for way in fleet.ways)
        assert not any(server.watched() for server in fleet.servers.values())
        assert fleet.home.watched() == []

    play(told())


async def with_cells(fleet: Fleet, *names: str) -> None:
    """Cells whose Secret and cluster have the name of theirs."""
    for name in names:
        fleet.give(name, name)
        fleet.make(name, name)
    await fleet.adopted(*names)


def test_workloads_are_seen_labelled_and_restarted_there() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        there = fleet.servers["a"]
        assert (fleet.reach("a").ok, fleet.reach("a").message) == (
            True,
            "Kubernetes v1.36.3, by Secret fleet/a (key kubeconfig)",
        )
        assert fleet.state("a").phase is WorkloadPhase.CURRENT
        assert there.objects[WEB]["metadata"]["labels"] == {LABEL_CELL: "a"}
        asked = len(fleet.fenced_by)
        cell = fleet.cell("a")
        await fleet.workloads.restart(cell, cell.spec.workloads[0], "token-1")
        assert there.restarts == {ANNOTATION_RESTART: "token-1"}
        assert len(fleet.fenced_by) == asked + 1, "only while this process leads"
        await fleet.workloads.scale_to_zero(cell, cell.spec.workloads[0], "token-2")
        assert there.objects[WEB]["spec"]["replicas"] == 0
        assert fleet.home.writes == []

    tell(story, a=True)


def test_one_connection_serves_all_cells_of_a_secret_and_ends_with_the_last() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.give("shared", "a")
        fleet.make("one", "shared")
        fleet.make("two", "shared", namespace="other", workloads=[])
        await asyncio.sleep(3)
        assert len(fleet.ways) == 1
        assert (fleet.reach("one").ok, fleet.reach("two").ok) == (True, True)
        namespaces = {path.split("/")[5] for path, _ in fleet.servers["a"].watched()}
        assert namespaces == {"shop", "other"}
        fleet.unmake("two")
        await asyncio.sleep(1)
        assert {path.split("/")[5] for path, _ in fleet.servers["a"].watched()} == {"shop"}
        assert fleet.reach("one").ok
        fleet.unmake("one")
        await asyncio.sleep(1)
        assert fleet.ways[0].closed
        assert fleet.servers["a"].watched() == []
        assert SECRETS.collection("fleet") not in [path for path, _ in fleet.home.watched()]

    tell(story, a=True)


def test_only_the_secret_that_is_named_is_read() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.give("others", content=HIDDEN.encode())
        await with_cells(fleet, "a")
        (used,) = fleet.clusters._used.values()
        assert len(used.watch) == 1

    tell(story, a=True)


def test_new_credentials_are_taken_without_a_restart() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        fleet.give("a", "a.2")
        await asyncio.sleep(3)
        assert [(way.token, way.closed) for way in fleet.ways] == [("a", True), ("a.2", False)]
        assert fleet.reach("a").ok
        await fleet.adopted("a")
        assert fleet.state("a").phase is WorkloadPhase.CURRENT
        fleet.give("a", "a.2")  # written again with the same content
        await asyncio.sleep(3)
        assert len(fleet.ways) == 2

    tell(story, a=True)


def test_credentials_that_are_refused_are_told_and_renewed() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        fleet.servers["a"].refuses = 401
        await asyncio.sleep(60)
        assert (fleet.reach("a").ok, fleet.reach("a").reason) == (False, "Unreachable")
        assert "the credentials are refused: renew them" in fleet.reach("a").message
        fleet.servers["a"].refuses = 0
        fleet.give("a", "a.2")
        await asyncio.sleep(3)
        assert fleet.reach("a").ok

    tell(story, a=True)


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (f"token: {HIDDEN}".encode(), "KubeconfigRefused", "current-context is missing"),
        (f"{HIDDEN}: [".encode(), "KubeconfigRefused", "is not YAML"),
        (None, "KubeconfigMissing", "the Secret has no such key"),
    ],
)
def test_a_kubeconfig_that_cannot_work_is_told_without_its_content(
    content: bytes | None, reason: str, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def story(fleet: Fleet) -> None:
        fleet.give("a", content=content)
        fleet.make("a", "a")
        await asyncio.sleep(3)
        found = fleet.reach("a")
        assert (found.ok, found.reason) == (False, reason)
        assert found.message.startswith("Secret fleet/a (key kubeconfig)")
        assert message in found.message
        assert ("fleet", "a") in fleet.told
        with pytest.raises(Unreachable) as unreachable:
            fleet.clusters.of(fleet.cell("a"))
        said = f"{found} {unreachable.value} {caplog.text}"
        assert HIDDEN not in said
        assert not [word for word in fleet.secret_words() if word in said]
        fleet.give("a", "a")
        await fleet.adopted("a")
        assert fleet.state("a").phase is WorkloadPhase.CURRENT

    tell(story, a=True)


def test_a_secret_that_is_not_there_or_not_to_be_read_is_told() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.make("a", "a")
        await asyncio.sleep(3)
        assert fleet.reach("a").reason == "SecretNotFound"
        assert ("fleet", "a") in fleet.told
        fleet.give("a", "a")
        await fleet.adopted("a")
        assert fleet.reach("a").ok
        fleet.take("a")
        await asyncio.sleep(3)
        assert fleet.reach("a").reason == "SecretNotFound"
        assert fleet.state("a").phase is WorkloadPhase.UNKNOWN
        assert fleet.ways[0].closed
        fleet.api.broken = MissingPermission("permission missing; grant verb watch on resource secrets")
        fleet.make("b", "b")
        await asyncio.sleep(10)
        assert fleet.reach("b").reason == "Forbidden"
        assert "features.remoteClusters of the chart grants it" in fleet.reach("b").message

    tell(story, a=True)


def test_a_cluster_that_goes_away_is_unknown_and_comes_back() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a", "b")
        cell, far = fleet.cell("a"), fleet.servers["a"]
        far.away.set()
        await asyncio.sleep(LOST_AFTER / 2)
        assert fleet.reach("a").ok, "a moment is nothing"
        fleet.told.clear()
        await asyncio.sleep(LOST_AFTER)
        found = fleet.reach("a")
        assert (found.ok, found.reason) == (False, "Unreachable")
        assert "has not answered since 2026-11-25T03:00:" in found.message
        assert "no answer in time" in found.message
        assert fleet.told == [("fleet", "a")], "told once, and of nobody else"
        state = fleet.state("a")
        assert state.phase is WorkloadPhase.UNKNOWN
        assert (state.pods, state.desired, state.at_zero, state.updated) == (None, None, False, False)
        assert "seen last: Current" in state.message
        with pytest.raises(Unreachable):
            await fleet.workloads.restart(cell, cell.spec.workloads[0], "t")
        with pytest.raises(Unreachable):
            remains_of(fleet.clusters, cell)
        await fleet.workloads.ensure_labels(cell)
        assert fleet.workloads.address_of(cell) == ("10.0.0.7", 80), "it goes on being served"
        assert fleet.ways[0].silent, "nothing else is sent there"
        assert fleet.reach("b").ok
        assert (fleet.clusters.foreign, fleet.clusters.unreachable) == (2, 1)

        message, beats = fleet.reach("a").message, far.beats
        fleet.told.clear()
        await asyncio.sleep(20 * BEAT_AT_LEAST)
        assert fleet.reach("a").message == message, "nothing to write while nothing changes"
        assert fleet.told == []
        assert far.beats - beats <= 26

        far.away.clear()
        await asyncio.sleep(2 * BEAT_AT_LEAST)
        assert fleet.reach("a").ok
        assert fleet.state("a").phase is WorkloadPhase.CURRENT
        assert fleet.ways[0].silent is None
        assert ("fleet", "a") in fleet.told
        await fleet.workloads.restart(cell, cell.spec.workloads[0], "t")
        assert far.restarts == {ANNOTATION_RESTART: "t"}

    tell(story, a=True, b=True)


def test_what_was_never_seen_is_unknown() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.servers["a"].away.set()
        fleet.give("a", "a")
        fleet.make("a", "a")
        await asyncio.sleep(5)
        assert fleet.reach("a").reason == "Connecting"
        with pytest.raises(Unreachable):
            fleet.clusters.of(fleet.cell("a"))
        await asyncio.sleep(60)
        assert fleet.reach("a").reason == "Unreachable"
        assert "has not answered yet" in fleet.reach("a").message
        assert fleet.state("a").phase is WorkloadPhase.UNKNOWN

    tell(story, a=True)


def test_what_vanished_there_meanwhile_is_known_afterwards() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        far = fleet.servers["a"]
        far.away.set()
        await asyncio.sleep(2 * LOST_AFTER)
        far.remove(WEB)
        assert fleet.state("a").phase is WorkloadPhase.UNKNOWN
        far.away.clear()
        await asyncio.sleep(2 * BEAT_AT_LEAST)
        await fleet.adopted("a")
        assert fleet.state("a").phase is WorkloadPhase.NOT_FOUND

    tell(story, a=True)


def test_a_right_that_is_missing_there_is_told() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        workloads = fleet.clusters.of(fleet.cell("a")).workloads("shop")
        for reflector in workloads.reflectors:
            reflector.trouble = Forbidden("grant verb watch on resource deployments")
        assert fleet.reach("a").reason == "Forbidden"
        assert "grant verb watch" in fleet.reach("a").message

    tell(story, a=True)


def test_every_namespace_there_has_to_consent() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.give("a", "a")
        fleet.make("a", "a")
        await asyncio.sleep(2)
        with pytest.raises(Forbidden, match="in the cell's cluster, namespace shop does not consent"):
            await fleet.workloads.ensure_labels(fleet.cell("a"))
        cell = fleet.cell("a")
        with pytest.raises(Forbidden):
            await fleet.workloads.scale_to_zero(cell, cell.spec.workloads[0], "t")
        assert fleet.servers["a"].writes == []
        fleet.make("here", "a", namespace=None)
        await asyncio.sleep(2)
        with pytest.raises(Forbidden, match="namespace fleet does not consent"):
            await fleet.workloads.ensure_labels(fleet.cell("here"))

    tell(story, a=False)


def test_the_same_names_in_two_clusters_are_two_workloads() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a", "b")
        for name in ("a", "b"):
            assert fleet.state(name).phase is WorkloadPhase.CURRENT
            assert fleet.servers[name].objects[WEB]["metadata"]["labels"] == {LABEL_CELL: name}
        fleet.told.clear()
        fleet.servers["a"].put(WEB, fleet.servers["a"].objects[WEB] | {"status": {}})
        await asyncio.sleep(1)
        assert set(fleet.told) == {("fleet", "a")}

    tell(story, a=True, b=True)


def test_two_secrets_that_lead_to_one_cluster_are_noticed() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        fleet.give("b", "a.by-mistake")
        fleet.make("b", "b")
        await asyncio.sleep(2)
        with pytest.raises(BadInput, match="labelled as part of Cell a, whose cluster is named by another Secret"):
            await fleet.workloads.ensure_labels(fleet.cell("b"))
        assert fleet.servers["a"].objects[WEB]["metadata"]["labels"] == {LABEL_CELL: "a"}

    tell(story, a=True)


def test_no_more_than_so_many_are_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters_module, "MOST", 1)

    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        fleet.give("b", "b")
        fleet.make("b", "b")
        await asyncio.sleep(2)
        assert fleet.reach("b").reason == "TooMany"
        fleet.unmake("a")
        await fleet.adopted("b")
        assert fleet.reach("b").ok

    tell(story, a=True, b=True)


def test_the_cluster_of_a_cell_that_is_about_to_be_made_is_opened_for_a_while() -> None:
    async def story(fleet: Fleet) -> None:
        fleet.give("a", "a")
        fleet.make("pattern", "a")
        await asyncio.sleep(1)
        pattern = fleet.cell("pattern")
        fleet.unmake("pattern")
        await asyncio.sleep(1)
        expected = pattern.model_copy(update={"metadata": pattern.metadata.model_copy(update={"name": "next"})})
        before = len(fleet.ways)
        with pytest.raises(Unreachable):
            fleet.clusters.of(expected)
        await asyncio.sleep(5)
        assert fleet.clusters.of(expected).foreign
        fleet.make("next", "a")
        await asyncio.sleep(2 * EXPECTED)
        assert len(fleet.ways) == before + 1
        assert fleet.reach("next").ok, "it was made"
        fleet.unmake("next")
        await asyncio.sleep(5)
        assert fleet.ways[-1].closed
        with pytest.raises(Unreachable):
            fleet.clusters.of(expected)
        await asyncio.sleep(5)
        assert not fleet.ways[-1].closed
        await asyncio.sleep(2 * EXPECTED)
        assert fleet.ways[-1].closed, "it never was"

    tell(story, a=True)


def test_isolation_is_never_proven_from_outside() -> None:
    async def story(fleet: Fleet) -> None:
        await with_cells(fleet, "a")
        isolation = CellIsolation(fleet.clusters, cut_off=lambda: False)
        pod = {
            "metadata": {"name": "web-1", "namespace": "shop", "labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "ports": [{"containerPort": 1}]}]},
            "status": {"podIP": "127.0.0.1", "containerStatuses": [{"name": "web", "state": {"running": {}}}]},
        }
        fleet.servers["a"].put("/api/v1/namespaces/shop/pods/web-1", pod)
        await isolation.isolate(fleet.cell("a"))
        assert [path for verb, path in fleet.servers["a"].writes if verb == "apply"]
        tried = await isolation.tried(fleet.cell("a"))
        assert (tried.verdict, tried.message) == (Verdict.INCONCLUSIVE, OUTSIDE)

    tell(story, a=True)


class Provider:
    """Of one cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.stopped = False

    async def ensure(self, request: Request) -> Answer:
        return Answer(Progress.DONE, "done")

    async def cancel(self, request: Request) -> bool:
        return True

    async def stop(self) -> None:
        self.stopped = True


def test_data_is_asked_in_the_cluster_of_the_cell() -> None:
    async def story(fleet: Fleet) -> None:
        made: list[Provider] = []

        def make(cluster: Cluster) -> Provider:
            made.append(Provider(cluster))
            return made[-1]

        port: Data = DataByCluster(PerCluster(fleet.clusters, make))
        await with_cells(fleet, "a", "b")
        a, b = fleet.cell("a"), fleet.cell("b")
        for _ in range(2):
            assert (await port.ensure(Request(Operation.BACKUP, "k", a))).progress is Progress.DONE
        assert [provider.cluster for provider in made] == [fleet.clusters.of(a)]
        data = a.spec.data.model_copy(update={"type": DataType.VOLUME_SNAPSHOTS})
        whole = a.model_copy(update={"spec": a.spec.model_copy(update={"data": data})})
        answer = await port.ensure(Request(Operation.RESTORE, "k", whole, target=b))
        assert answer.progress is Progress.UNSUPPORTED
        assert "restores within one cluster" in answer.message

        fleet.servers["a"].away.set()
        await asyncio.sleep(2 * LOST_AFTER)
        readable = await port.ensure(Request(Operation.ACCESSIBLE, "k", a))
        assert (readable.progress, readable.accessible) == (Progress.FAILED, None), "a person is asked"
        with pytest.raises(Unreachable):
            await port.ensure(Request(Operation.BACKUP, "k", a))
        assert not made[0].stopped
        fleet.unmake("a")
        await asyncio.sleep(1)
        assert made[0].stopped

    tell(story, a=True, b=True)


def test_a_cell_without_a_cluster_meets_none_of_this() -> None:
    async def story(fleet: Fleet) -> None:
        backend = {"type": "Service", "service": {"name": "web", "port": 80}}
        fleet.make("home", "a", cluster=None, namespace=None, backend=backend, workloads=[])
        await asyncio.sleep(2)
        cell = fleet.cell("home")
        assert fleet.workloads.reach(cell) is None
        assert fleet.clusters.of(cell) is fleet.clusters.home
        assert fleet.workloads.states(cell) == ()
        assert fleet.ways == []

    tell(story)
