"""Cells made from templates and taken away again, against a server in memory."""

import asyncio
from collections.abc import AsyncIterator
from copy import deepcopy
from typing import Any, cast

import pytest

from recell.api import Cell, CellTemplate
from recell.api.meta import ANNOTATION_CONTENT, LABEL_CELL, LABEL_MADE_BY
from recell.domain.provisioning import Order, Progress, Provisioned
from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable, Unreachable
from recell.engine.ports import Key
from recell.providers.kube import made
from recell.providers.kube.api import Api, Object
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CELLS, CLAIMS, CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES, STATEFUL_SETS, Resource
from recell.providers.kube.provisioner import Ground, KubeProvisioner
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.fakes.eventually import eventually
from tests.unit.kube.fake_server import FakeApi, FakeServer

NAME = "cell-b-3fa92b"
CELL = ("fleet", NAME)
DATABASES = Resource("acme.example.com", "v1", "databases", "Database")
NODES = Resource("acme.example.com", "v1", "regions", "Region", namespaced=False)
SILENT = (CONFIG_MAPS, SERVICES)
REPORTING = (CLAIMS, PODS, DEPLOYMENTS, STATEFUL_SETS, CELLS)


class TemplateApi(FakeApi):
    """Refuses what it is told to refuse."""

    def __init__(self, server: FakeServer) -> None:
        super().__init__(server)
        self.refused: dict[str, RecellError] = {}
        """Part of a path -> what each call of it raises."""
        self.asked: list[str] = []

    def _refuse(self, path: str) -> None:
        for part, error in self.refused.items():
            if part in path:
                raise error

    async def get(self, path: str) -> Object:
        self.asked.append(path)
        self._refuse(f"get {path}")
        return await super().get(path)

    async def apply(self, path: str, body: Object, *, force: bool = True) -> Object:
        self._refuse(f"apply {path}")
        return await super().apply(path, body, force=force)

    async def delete(self, path: str, *, uid: str | None = None, propagation: str = "Background") -> Object:
        self._refuse(f"delete {path}")
        return await super().delete(path, uid=uid, propagation=propagation)

    async def list(self, path: str, *, labels: str = "", **rest: str) -> Any:
        self._refuse(f"list {path}")
        return await super().list(path, labels=labels, **rest)


class Consents:
    """Of another cluster."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def ensure(self, cell: Cell) -> None:
        self.asked.append(cell.workload_namespace)


class World:
    def __init__(self) -> None:
        self.server = FakeServer()
        self.api = TemplateApi(self.server)
        for resource in (*SILENT, *REPORTING):
            self.install(resource)
        clock = SystemClock()
        api = cast(Api, self.api)
        self.store = KubeStore(api, clock, ("fleet",))
        self.homes: set[str] = set()
        self.consents: list[str] = []
        self.refusing: dict[str, RecellError] = {}
        self.changed: list[Key] = []
        self.provisioner = KubeProvisioner(
            api,
            clock,
            self.store,
            self,
            is_home=lambda router, cell: router == ("fleet", "shop") and cell in self.homes,
            on_change=self.changed.append,
            elsewhere=self.elsewhere,
        )
        self.far = FakeServer()
        self.far.objects = {path: deepcopy(obj) for path, obj in self.server.objects.items()}
        self.far_consents = Consents()
        far: Any = TemplateApi(self.far)
        self.ground = Ground(far, clock, self.far_consents, foreign=True, on_change=self.changed.append)
        self.lost = False

    def elsewhere(self, cell: Cell) -> Ground:
        assert cell.kubeconfig is not None
        if self.lost:
            raise Unreachable(f"the cluster of {cell.kubeconfig.name} does not answer")
        return self.ground

    def install(self, resource: Resource) -> None:
        path = resource.collection().removesuffix(f"/{resource.plural}")
        known = self.server.objects.setdefault(path, {"kind": "APIResourceList", "resources": []})
        one = {"name": resource.plural, "kind": resource.kind, "namespaced": resource.namespaced}
        known["resources"].append(one)
        if resource not in SILENT:
            known["resources"].append(one | {"name": f"{resource.plural}/status"})

    async def ensure(self, cell: Cell) -> None:
        """As `Consent`."""
        self.consents.append(cell.workload_namespace)
        if error := self.refusing.get(cell.workload_namespace):
            raise error

    def order(self, *items: Object, incident: str = "run-1", there: bool = False, **cell: Any) -> Order:
        """`there`: of a cell in a cluster of its own."""
        body: Object = {"backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}}}
        if there:
            address = {"type": "Address", "address": {"host": "10.0.0.7", "port": 80}}
            body = {"backend": address, "cluster": {"kubeconfigSecretRef": {"name": "far"}}}
        template = CellTemplate.model_validate(
            {
                "metadata": {"name": "shop-cell", "namespace": "fleet"},
                "spec": {
                    "cell": body,
                    "objects": list(items),
                },
            }
        )
        backend = {"type": "Service", "service": {"name": "cell-b", "port": 80}}
        source = Cell.model_validate(
            {
                "metadata": {"name": "cell-b", "namespace": "fleet"},
                "spec": {"routerRef": {"name": "shop"}, "backend": backend, **cell},
            }
        )
        return Order(NAME, source, template, incident)

    def writes(self) -> list[str]:
        """Since the last time it was asked."""
        made = [f"{verb} {path.rsplit('/', 2)[1]}/{path.rsplit('/', 1)[1]}" for verb, path in self.server.writes]
        self.server.writes.clear()
        return made

    def there(self, resource: Resource, name: str, namespace: str = "fleet") -> Object:
        return self.server.objects[resource.path(namespace, name)]

    def becomes(self, resource: Resource, name: str, namespace: str = "fleet", **fields: Any) -> None:
        """Its controller writes something."""
        path = resource.path(namespace, name)
        self.server.put(path, self.server.objects[path] | fields)

    def ready(self, name: str, namespace: str = "fleet") -> None:
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
        self.becomes(DEPLOYMENTS, name, namespace, status=counts)


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    world.store.start()
    await asyncio.wait_for(world.store.wait_synced(), 60)
    yield world
    await world.provisioner.stop()
    await world.ground.stop()
    await world.store.stop()


def obj(resource: Resource, name: str = "$(CELL)", **rest: Any) -> Object:
    metadata = {"name": name, **rest.pop("metadata", {})}
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata, **rest}


CONFIG = obj(CONFIG_MAPS, "$(CELL)-config", data={"cell": "$(CELL)"})
WEB = obj(DEPLOYMENTS, "$(CELL)-web", spec={"replicas": 1, "selector": {"matchLabels": {"app": "$(CELL)"}}})
SERVICE = obj(SERVICES, "$(CELL)", spec={"ports": [{"port": 80}]})


class TestMaking:
    async def test_everything_in_order_the_cell_last(self, world: World) -> None:
        order = world.order(CONFIG, WEB, SERVICE)
        first = await world.provisioner.ensure(order)
        assert world.writes() == [
            f"apply configmaps/{NAME}-config",
            f"apply deployments/{NAME}-web",
            f"apply services/{NAME}",
            f"apply cells/{NAME}",
        ]
        assert first.progress is Progress.IN_PROGRESS
        assert first.message.startswith(f"Deployment fleet/{NAME}-web: 0 of 1 pods ready")
        assert first.cell is not None
        assert first.cell.spec.weight == 0
        world.ready(f"{NAME}-web")

        async def ready() -> Provisioned | None:
            made = await world.provisioner.ensure(order)
            return made if made.progress is Progress.READY else None

        made = await eventually(ready, "it is ready")
        assert made.message == f"3 objects are ready, and Cell {NAME} is made"
        assert made.cell is not None
        assert made.cell.key == CELL
        assert made.cell.metadata.labels[LABEL_MADE_BY] == "recell"

    async def test_asking_again_writes_nothing_and_soon_asks_nothing(self, world: World) -> None:
        order = world.order(CONFIG, WEB)
        await world.provisioner.ensure(order)
        world.writes()

        async def quiet() -> bool:
            world.api.asked.clear()
            await world.provisioner.ensure(order)
            return world.api.asked == []

        await eventually(quiet, "all is read from the watches")
        assert world.writes() == []
        assert world.consents == ["fleet"], "asked before the first write, and not again"

    async def test_it_is_woken_by_its_objects_and_no_others(self, world: World) -> None:
        await world.provisioner.ensure(world.order(WEB))
        await eventually(lambda: all(r.synced.is_set() for r in world.provisioner.made.reflectors), "watching")
        world.changed.clear()
        world.server.put(DEPLOYMENTS.path("fleet", "other"), obj(DEPLOYMENTS, "other", spec={}))
        labels = {LABEL_CELL: "another", LABEL_MADE_BY: "recell"}
        world.server.put(
            DEPLOYMENTS.path("fleet", "x"), obj(DEPLOYMENTS, "x", metadata={"labels": labels}, spec={"replicas": 0})
        )
        world.ready(f"{NAME}-web")
        await eventually(lambda: world.changed, "it is told")
        assert set(world.changed) == {CELL}

    async def test_a_changed_template_is_applied_where_it_differs(self, world: World) -> None:
        await world.provisioner.ensure(world.order(CONFIG, WEB))
        world.writes()
        await world.provisioner.ensure(world.order(CONFIG | {"data": {"cell": "another"}}, WEB))
        assert world.writes() == [f"apply configmaps/{NAME}-config"]

    async def test_what_others_change_is_left_alone(self, world: World) -> None:
        order = world.order(WEB)
        await world.provisioner.ensure(order)
        world.writes()
        spec = world.there(DEPLOYMENTS, f"{NAME}-web")["spec"]
        world.becomes(DEPLOYMENTS, f"{NAME}-web", spec=spec | {"replicas": 5})
        world.becomes(CELLS, NAME, spec=world.there(CELLS, NAME)["spec"] | {"weight": 100})
        await world.provisioner.ensure(order)
        assert world.writes() == []

    async def test_a_cell_gets_its_weight_and_nothing_else_whatever_became_of_the_template(self, world: World) -> None:
        made = (await world.provisioner.ensure(world.order(CONFIG, WEB))).cell
        assert made is not None
        world.writes()
        await world.provisioner.weigh(made, 70)
        assert world.writes() == [f"patch cells/{NAME}"]
        weighed = world.store.cell(CELL)
        assert weighed is not None
        assert weighed.spec.weight == 70
        assert weighed.spec.backend == made.spec.backend
        await world.provisioner.weigh(weighed, 100)
        assert world.writes() == [], "what it has by now is somebody's word"
        await world.provisioner.unweigh(weighed)
        assert world.writes() == [f"patch cells/{NAME}"]
        without = world.store.cell(CELL)
        assert without is not None
        assert without.spec.weight == 0
        await world.provisioner.unweigh(without)
        assert world.writes() == []

    async def test_what_somebody_deletes_is_made_again(self, world: World) -> None:
        order = world.order(CONFIG, WEB)
        await world.provisioner.ensure(order)
        world.writes()
        world.server.remove(CONFIG_MAPS.path("fleet", f"{NAME}-config"))

        async def again() -> list[str]:
            await world.provisioner.ensure(order)
            return world.writes()

        assert await eventually(again, "it is made again") == [f"apply configmaps/{NAME}-config"]

    async def test_what_is_being_deleted_is_waited_for(self, world: World) -> None:
        order = world.order(CONFIG)
        await world.provisioner.ensure(order)
        metadata = world.there(CONFIG_MAPS, f"{NAME}-config")["metadata"]
        gone = metadata | {"deletionTimestamp": "2026-01-31T12:00:00Z", "annotations": {}}
        world.becomes(CONFIG_MAPS, f"{NAME}-config", metadata=gone)
        world.writes()

        async def told() -> bool:
            return "is being deleted" in (await world.provisioner.ensure(order)).message

        await eventually(told, "it says so")
        assert world.writes() == []

    async def test_a_cell_that_is_being_deleted_is_not_ready(self, world: World) -> None:
        order = world.order(CONFIG)
        await world.provisioner.ensure(order)
        metadata = world.there(CELLS, NAME)["metadata"] | {"deletionTimestamp": "2026-01-31T12:00:00Z"}
        world.becomes(CELLS, NAME, metadata=metadata)

        async def told() -> bool:
            made = await world.provisioner.ensure(order)
            return made.progress is Progress.IN_PROGRESS and made.message == f"Cell {NAME} is being deleted"

        await eventually(told, "it says so")

    async def test_words_of_pods_are_found(self, world: World) -> None:
        order = world.order(WEB)
        await world.provisioner.ensure(order)
        waiting = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "name": "main"}
        pod = obj(PODS, "web-1", metadata={"labels": {"app": NAME}}, status={"containerStatuses": [waiting]})
        world.server.put(PODS.path("fleet", "web-1"), pod)

        async def failed() -> Provisioned | None:
            made = await world.provisioner.ensure(order)
            return made if made.progress is Progress.FAILED else None

        made = await eventually(failed, "the pod's words")
        assert "web-1: ImagePullBackOff (no such image)" in made.message
        world.ready(f"{NAME}-web")
        pods = PODS.collection("fleet")
        await eventually(lambda: pods not in [path for path, _ in world.server.watched()], "its pods are let go")

    async def test_only_some_of_many_are_told(self, world: World) -> None:
        items = [obj(DEPLOYMENTS, f"$(CELL)-{n}", spec={"replicas": 1, "selector": {}}) for n in range(64)]
        made = await world.provisioner.ensure(world.order(*items))
        assert made.message.endswith("; and 61 more")
        assert len(made.message) <= 1024

    async def test_objects_elsewhere_need_consent(self, world: World) -> None:
        refusal = Forbidden("namespace billing does not consent to cells of fleet")
        world.refusing["billing"] = refusal
        order = world.order(CONFIG, obj(CONFIG_MAPS, metadata={"namespace": "billing"}), namespace="shop")
        with pytest.raises(Forbidden, match=r"shop-cell: spec\.objects\[1\]: namespace billing does not"):
            await world.provisioner.ensure(order)
        assert world.writes() == [], "nothing is made of what cannot be made"
        del world.refusing["billing"]
        await world.provisioner.ensure(order)
        assert world.there(CONFIG_MAPS, f"{NAME}-config", "shop")
        assert world.there(CONFIG_MAPS, NAME, "billing")
        assert sorted(world.consents[-2:]) == ["billing", "shop"]


class TestRefusals:
    @pytest.mark.parametrize(
        "labels",
        [{}, {LABEL_CELL: NAME}, {LABEL_MADE_BY: "recell"}, {LABEL_CELL: "other", LABEL_MADE_BY: "recell"}],
        ids=str,
    )
    async def test_somebody_elses_object_is_not_taken_over(self, world: World, labels: dict[str, str]) -> None:
        path = CONFIG_MAPS.path("fleet", "config")
        world.server.put(path, obj(CONFIG_MAPS, "config", metadata={"labels": labels}, data={"a": "b"}))
        with pytest.raises(BadInput) as refused:
            await world.provisioner.ensure(world.order(SERVICE, CONFIG | {"metadata": {"name": "config"}}))
        assert str(refused.value) == (
            "CellTemplate shop-cell: spec.objects[1]: ConfigMap fleet/config exists and was not made for cell"
            f" {NAME}, so it is left alone: give it a name with $(CELL) in it, or delete it if nobody needs it"
        )
        assert world.writes() == []

    async def test_nor_is_somebody_elses_cell(self, world: World) -> None:
        world.server.put(CELLS.path(*CELL), obj(CELLS, NAME, spec=world.order().source.spec.to_dict()))
        with pytest.raises(BadInput, match=rf"spec\.cell: Cell fleet/{NAME} exists and was not made for cell"):
            await world.provisioner.ensure(world.order(CONFIG))
        assert world.writes() == []

    async def test_a_kind_that_is_not_there_is_named_and_found_once_it_is_installed(self, world: World) -> None:
        order = world.order(CONFIG, obj(DATABASES))
        with pytest.raises(BadInput) as refused:
            await world.provisioner.ensure(order)
        assert str(refused.value) == (
            "CellTemplate shop-cell: spec.objects[1]: the API server has no kind Database in apiVersion"
            " acme.example.com/v1: install the CustomResourceDefinition of Database, or correct apiVersion and kind"
        )
        assert world.writes() == []
        world.install(DATABASES)
        made = await world.provisioner.ensure(order)
        assert made.progress is Progress.IN_PROGRESS

    async def test_kinds_of_the_whole_cluster_are_refused(self, world: World) -> None:
        world.install(NODES)
        with pytest.raises(BadInput, match=r"spec\.objects\[0\]: Region is a kind of the whole cluster"):
            await world.provisioner.ensure(world.order(obj(NODES), CONFIG))
        assert world.writes() == []

    async def test_a_template_that_cannot_be_rendered_is_named(self, world: World) -> None:
        with pytest.raises(BadInput, match=r"CellTemplate shop-cell: spec\.objects\[1\]: ConfigMap .* already"):
            await world.provisioner.ensure(world.order(CONFIG, CONFIG))

    @pytest.mark.parametrize(
        ("error", "told"),
        [
            (MissingPermission("grant it"), r'grant it\. A ClusterRole .* recell\.dev/aggregate-to-operator: "true"'),
            (Forbidden("ResourceQuota small is exceeded"), "ResourceQuota small is exceeded$"),
            (BadInput("spec.replicas: wrong"), "spec.replicas: wrong$"),
            (Conflict("made at the same moment"), "made at the same moment"),
            (Retryable("later", after=7.0), "later"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
    )
    async def test_a_refused_object_is_named_and_those_before_it_stay(
        self, world: World, error: RecellError, told: str
    ) -> None:
        world.api.refused["apply /apis/apps"] = error
        with pytest.raises(type(error), match=rf"CellTemplate shop-cell: spec\.objects\[1\]: {told}") as raised:
            await world.provisioner.ensure(world.order(CONFIG, WEB, SERVICE))
        assert world.writes() == [f"apply configmaps/{NAME}-config"]
        if isinstance(raised.value, Retryable):
            assert raised.value.after == 7.0
        world.api.refused.clear()
        await world.provisioner.ensure(world.order(CONFIG, WEB, SERVICE))
        assert world.writes() == [f"apply deployments/{NAME}-web", f"apply services/{NAME}", f"apply cells/{NAME}"]

    async def test_a_namespace_that_is_not_there_is_named(self, world: World) -> None:
        world.api.refused["apply /api/v1/namespaces/gone"] = NotFound('patch configmaps: namespaces "gone" not found')
        order = world.order(obj(CONFIG_MAPS, metadata={"namespace": "gone"}))
        with pytest.raises(BadInput, match=r"spec\.objects\[0\]: namespace gone does not exist: create it"):
            await world.provisioner.ensure(order)

    async def test_a_kind_that_goes_meanwhile_is_looked_for_anew(self, world: World) -> None:
        world.install(DATABASES)
        order = world.order(obj(DATABASES))
        await world.provisioner.ensure(order)
        world.api.refused["apply /apis/acme"] = NotFound("the server could not find the requested resource")
        changed = world.order(obj(DATABASES, spec={"size": 2}))
        with pytest.raises(Retryable, match="could not find the requested resource"):
            await world.provisioner.ensure(changed)
        del world.server.objects["/apis/acme.example.com/v1"]
        with pytest.raises(BadInput, match="no kind Database"):
            await world.provisioner.ensure(changed)

    async def test_what_cannot_be_watched_is_said(self, world: World) -> None:
        order = world.order(CONFIG)
        world.api.refused["list /api/v1/namespaces/fleet/configmaps"] = MissingPermission("grant list")

        async def refused() -> str:
            try:
                await world.provisioner.ensure(order)
            except MissingPermission as error:
                return str(error)
            return ""

        told = await eventually(refused, "the missing permission")
        assert told.startswith("CellTemplate shop-cell: what it makes cannot be watched: grant list. A ClusterRole")
        assert world.there(CELLS, NAME), "what could be made was made"


class TestWatching:
    async def test_a_watch_lives_as_long_as_somebody_asks(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(made, "KEPT", 0.2)

        def watched() -> list[str]:
            return [path for path, labels in world.server.watched() if labels == "recell.dev/made-by=recell"]

        await world.provisioner.ensure(world.order(CONFIG, WEB))
        await eventually(lambda: len(watched()) == 2, "one for each kind")
        await eventually(lambda: watched() == [], "nobody asked any more")
        assert [*world.provisioner.made.reflectors] == []
        await world.provisioner.ensure(world.order(CONFIG, WEB))
        await eventually(lambda: len(watched()) == 2, "asked again")

    async def test_beyond_so_many_the_server_is_asked(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(made, "WATCHES", 1)
        order = world.order(CONFIG, WEB)
        await world.provisioner.ensure(order)
        world.ready(f"{NAME}-web")

        async def ready() -> bool:
            return (await world.provisioner.ensure(order)).progress is Progress.READY

        await eventually(ready, "it is ready all the same")
        assert len(world.provisioner.made.reflectors) == 1

    async def test_content_of_config_maps_is_not_kept(self, world: World) -> None:
        await world.provisioner.ensure(world.order(CONFIG))
        reflectors = world.provisioner.made.reflectors
        await eventually(lambda: all(r.synced.is_set() for r in reflectors), "watching")
        (kept,) = (o for reflector in reflectors for o in reflector.objects())
        assert set(kept) == {"metadata"}
        assert ANNOTATION_CONTENT in kept["metadata"]["annotations"]


class TestRemoving:
    async def test_the_cell_first_then_the_objects_backwards(self, world: World) -> None:
        order = world.order(CONFIG, WEB, SERVICE)
        await world.provisioner.ensure(order)
        finalized = world.there(CELLS, NAME)["metadata"] | {"finalizers": ["recell.dev/finalizer"]}
        world.becomes(CELLS, NAME, metadata=finalized)
        world.writes()
        assert await world.provisioner.remove(order) == [f"Cell {NAME}, until its Router sends it nothing any more"]
        assert world.writes() == [f"delete cells/{NAME}"]
        assert len(await world.provisioner.remove(order)) == 1
        assert world.writes() == [], "it is asked once"
        world.server.remove(CELLS.path(*CELL))
        await eventually(lambda: world.store.raw(Cell, CELL) is None, "the Cell is gone")

        assert await world.provisioner.remove(order) == [f"Deployment fleet/{NAME}-web"], "until its pods are gone"
        assert world.writes() == [
            f"delete services/{NAME}",
            f"delete deployments/{NAME}-web",
            f"delete configmaps/{NAME}-config",
        ]
        left = await world.provisioner.remove(order)
        assert left == [f"Deployment fleet/{NAME}-web (kept by foregroundDeletion)"]
        world.server.remove(DEPLOYMENTS.path("fleet", f"{NAME}-web"))
        assert await world.provisioner.remove(order) == []
        assert await world.provisioner.remove(order) == []
        assert world.writes() == []

    async def test_a_cell_that_was_never_made(self, world: World) -> None:
        assert await world.provisioner.remove(world.order(CONFIG)) == []
        assert world.writes() == []

    async def test_only_what_was_made_for_it(self, world: World) -> None:
        order = world.order(CONFIG)
        await world.provisioner.ensure(order)
        others = {
            "plain": {},
            "sibling": {LABEL_CELL: "cell-a-000000", LABEL_MADE_BY: "recell"},
            "by-hand": {LABEL_CELL: NAME},
        }
        for name, labels in others.items():
            world.server.put(CONFIG_MAPS.path("fleet", name), obj(CONFIG_MAPS, name, metadata={"labels": labels}))
        assert await world.provisioner.remove(order) == []
        left = [path for path in world.server.objects if "/namespaces/fleet/configmaps/" in path]
        assert sorted(path.rsplit("/", 1)[1] for path in left) == sorted(others)

    async def test_what_an_older_template_made_goes_too(self, world: World) -> None:
        await world.provisioner.ensure(world.order(CONFIG))
        assert await world.provisioner.remove(world.order(obj(CONFIG_MAPS, "$(CELL)-renamed"))) == []
        assert CONFIG_MAPS.path("fleet", f"{NAME}-config") not in world.server.objects

    async def test_claims_that_a_stateful_set_made_go_after_it(self, world: World) -> None:
        claims = [{"metadata": {"name": "data"}}]
        order = world.order(obj(STATEFUL_SETS, "$(CELL)-db", spec={"volumeClaimTemplates": claims, "selector": {}}))
        await world.provisioner.ensure(order)
        (claim,) = world.there(STATEFUL_SETS, f"{NAME}-db")["spec"]["volumeClaimTemplates"]
        name = f"data-{NAME}-db-0"
        metadata = {"labels": claim["metadata"]["labels"], "finalizers": ["kubernetes.io/pvc-protection"]}
        world.server.put(CLAIMS.path("fleet", name), obj(CLAIMS, name, metadata=metadata))
        world.writes()
        left = await world.provisioner.remove(order)
        assert world.writes() == [
            f"delete cells/{NAME}",
            f"delete statefulsets/{NAME}-db",
            f"delete persistentvolumeclaims/{name}",
        ]
        assert left == [f"StatefulSet fleet/{NAME}-db", f"PersistentVolumeClaim fleet/{name}"]

    async def test_the_home_of_customers_stays(self, world: World) -> None:
        order = world.order(CONFIG)
        await world.provisioner.ensure(order)
        world.writes()
        world.homes.add(NAME)
        assert await world.provisioner.remove(order) == [
            f"Cell {NAME} is the home of customers, so it and what was made for it stay"
        ]
        assert world.writes() == []

    async def test_a_persons_cell_of_that_name_stays(self, world: World) -> None:
        world.server.put(CELLS.path(*CELL), obj(CELLS, NAME, spec=world.order().source.spec.to_dict()))
        (left,) = await world.provisioner.remove(world.order(CONFIG))
        assert "was not made from a template" in left
        assert world.writes() == []

    async def test_kinds_that_are_gone_are_no_obstacle(self, world: World) -> None:
        world.install(DATABASES)
        await world.provisioner.ensure(world.order(CONFIG, obj(DATABASES)))
        fresh = World()
        fresh.server.objects |= {k: v for k, v in world.server.objects.items() if "acme" not in k and "cells" not in k}
        assert await fresh.provisioner.remove(fresh.order(CONFIG, obj(DATABASES))) == []
        assert CONFIG_MAPS.path("fleet", f"{NAME}-config") not in fresh.server.objects
        await fresh.provisioner.stop()

    async def test_what_may_not_be_looked_for_keeps_nothing_else(self, world: World) -> None:
        world.install(DATABASES)
        order = world.order(obj(DATABASES), CONFIG)
        await world.provisioner.ensure(order)
        world.api.refused["list /apis/"] = MissingPermission("grant list")
        with pytest.raises(MissingPermission, match="cannot be found: grant list"):
            await world.provisioner.remove(order)
        assert CONFIG_MAPS.path("fleet", f"{NAME}-config") not in world.server.objects

    async def test_a_missing_permission_is_named(self, world: World) -> None:
        order = world.order(CONFIG)
        await world.provisioner.ensure(order)
        world.api.refused["delete /api/v1"] = MissingPermission("grant delete")
        with pytest.raises(MissingPermission, match=r"cannot be deleted: grant delete\. A ClusterRole"):
            await world.provisioner.remove(order)


class TestInAnotherCluster:
    async def test_each_object_goes_where_the_template_says_and_the_cell_to_the_cells(self, world: World) -> None:
        application = CONFIG | {"cluster": "Management"}
        order = world.order(application, WEB, there=True, namespace="apps")
        told = await world.provisioner.ensure(order)
        assert told.progress is Progress.IN_PROGRESS
        assert world.writes() == [f"apply configmaps/{NAME}-config", f"apply cells/{NAME}"]
        assert [path for _, path in world.far.writes] == [DEPLOYMENTS.path("apps", f"{NAME}-web")]
        assert world.far_consents.asked == ["apps"]
        assert world.consents == ["fleet"]
        assert "cluster" not in world.there(CONFIG_MAPS, f"{NAME}-config")
        assert world.there(CELLS, NAME)["spec"]["cluster"] == {"kubeconfigSecretRef": {"name": "far"}}
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"), 1)
        path = DEPLOYMENTS.path("apps", f"{NAME}-web")
        await eventually(lambda: [r for r in world.ground.made.reflectors if r.synced.is_set()], "read")
        world.far.put(path, world.far.objects[path] | {"status": counts})

        async def is_ready() -> bool:
            return (await world.provisioner.ensure(order)).progress is Progress.READY

        await eventually(is_ready, "the watch there tells")
        assert ("fleet", NAME) in world.changed
        assert world.writes() == []

    async def test_it_is_taken_away_from_both(self, world: World) -> None:
        order = world.order(CONFIG | {"cluster": "Management"}, WEB, there=True)
        await world.provisioner.ensure(order)
        while left := await world.provisioner.remove(order):
            for path in [p for p, o in world.far.objects.items() if o.get("metadata", {}).get("deletionTimestamp")]:
                world.far.remove(path)
            assert left
        assert CONFIG_MAPS.path("fleet", f"{NAME}-config") not in world.server.objects
        assert DEPLOYMENTS.path("fleet", f"{NAME}-web") not in world.far.objects
        assert list(world.ground.made.reflectors) == []

    async def test_nothing_is_made_while_it_cannot_be_reached(self, world: World) -> None:
        world.lost = True
        with pytest.raises(Unreachable, match="the cluster of far does not answer"):
            await world.provisioner.ensure(world.order(CONFIG | {"cluster": "Management"}, WEB, there=True))
        assert world.writes() == []

    async def test_a_right_that_is_missing_there_is_for_its_owner_to_grant(self, world: World) -> None:
        api: Any = world.ground.api
        api.refused["apply"] = MissingPermission("permission missing; grant verb create on deployments")
        with pytest.raises(MissingPermission, match="can grant it to the user of the kubeconfig"):
            await world.provisioner.ensure(world.order(WEB, there=True))
