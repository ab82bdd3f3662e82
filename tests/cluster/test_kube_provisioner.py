"""Cells made from templates and taken away again, with real controllers, quotas and permissions."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.api import KINDS, Cell, CellTemplate
from recell.api.meta import FINALIZER, LABEL_CELL
from recell.domain.provisioning import Order, Progress, Provisioned
from recell.engine.errors import BadInput, Forbidden, NotFound
from recell.engine.ports import Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.paths import CELLS, CLAIMS, CONFIG_MAPS, DEPLOYMENTS, PODS, SERVICES, STATEFUL_SETS, Resource
from recell.providers.kube.provisioner import KubeProvisioner
from recell.providers.kube.store import KubeStore
from recell.runtime.clock import SystemClock
from tests.cluster.conftest import Kubectl
from tests.fakes.api_proxy import ApiProxy
from tests.fakes.eventually import eventually

pytestmark = pytest.mark.usefixtures("crds")

WITHIN = 120.0
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", namespaced=False)
QUOTAS = Resource("", "v1", "resourcequotas", "ResourceQuota")


class Anywhere:
    """Every namespace consents."""

    async def ensure(self, cell: Cell) -> None: ...


class World:
    """A provisioner behind a proxy, and what woke it."""

    def __init__(self, tested: Api, direct: Api, namespace: str, image: str) -> None:
        self.direct, self.namespace, self.image = direct, namespace, image
        clock = SystemClock()
        self.store = KubeStore(tested, clock, (namespace,))
        self.woken = asyncio.Event()
        self.homes: set[str] = set()
        self.provisioner = KubeProvisioner(
            tested,
            clock,
            self.store,
            Anywhere(),
            is_home=lambda router, cell: cell in self.homes,
            on_change=self._wake,
        )

    def _wake(self, cell: Key) -> None:
        assert cell[0] == self.namespace
        self.woken.set()

    async def start(self) -> None:
        self.store.start()
        await asyncio.wait_for(self.store.wait_synced(), 120)

    async def stop(self) -> None:
        await self.provisioner.stop()
        await self.store.stop()

    def order(self, name: str, *items: Object, cell: Object | None = None) -> Order:
        """`name` of the new Cell; each test has its own."""
        template = {
            "metadata": {"name": "shop-cell", "namespace": self.namespace},
            "spec": {
                "cell": cell or {"backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}}},
                "objects": list(items),
            },
        }
        backend = {"type": "Service", "service": {"name": "cell-b", "port": 80}}
        source = {
            "metadata": {"name": "cell-b", "namespace": self.namespace},
            "spec": {"routerRef": {"name": "shop"}, "backend": backend},
        }
        return Order(name, Cell.model_validate(source), CellTemplate.model_validate(template), "run-1")

    def pod(self, **container: Any) -> Object:
        main = {"name": "main", "image": self.image, "imagePullPolicy": "Never"} | container
        return {
            "metadata": {"labels": {"app": "$(CELL)"}},
            "spec": {"containers": [main], "terminationGracePeriodSeconds": 0},
        }

    def deployment(self, pod: Object | None = None, **spec: Any) -> Object:
        selector = {"matchLabels": {"app": "$(CELL)"}}
        return obj(DEPLOYMENTS, "$(CELL)-web", spec={"selector": selector, "template": pod or self.pod()} | spec)

    async def becomes(self, order: Order, progress: Progress) -> Provisioned:
        """Asked again only when it is woken."""
        async with asyncio.timeout(WITHIN):
            while True:
                self.woken.clear()
                made = await self.provisioner.ensure(order)
                if made.progress is progress:
                    return made
                await self.woken.wait()

    async def removed(self, order: Order) -> None:
        async def gone() -> bool:
            return not await self.provisioner.remove(order)

        await eventually(gone, "it is gone", deadline=WITHIN)

    async def live(self, resource: Resource, name: str) -> Object:
        return await self.direct.get(resource.path(self.namespace, name))


def obj(resource: Resource, name: str = "$(CELL)", **rest: Any) -> Object:
    return {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": {"name": name}, **rest}


CONFIG = obj(CONFIG_MAPS, "$(CELL)-config", data={"cell": "$(CELL)"})
SERVICE = obj(SERVICES, "$(CELL)", spec={"selector": {"app": "$(CELL)"}, "ports": [{"port": 80}]})
CLAIM_SPEC = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}


@asynccontextmanager
async def opened(tested: Path, direct: Path, namespace: str, image: str) -> AsyncIterator[World]:
    apis = await Api.connect(str(tested)), await Api.connect(str(direct))
    world = World(*apis, namespace, image)
    await world.start()
    try:
        yield world
    finally:
        await world.stop()
        for api in apis:
            await api.close()


@pytest.fixture
async def proxy(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[ApiProxy]:
    async with ApiProxy.to(kubeconfig, tmp_path) as proxy:
        yield proxy


@pytest.fixture
async def world(proxy: ApiProxy, kubeconfig: Path, namespace: str, image: str) -> AsyncIterator[World]:
    async with opened(proxy.kubeconfig, kubeconfig, namespace, image) as world:
        yield world


async def test_a_cell_comes_up_and_asking_again_writes_nothing(world: World, proxy: ApiProxy) -> None:
    data = obj(CLAIMS, "$(CELL)-data", spec=CLAIM_SPEC)
    order = world.order("whole", CONFIG, data, world.deployment(), SERVICE)
    made = await world.becomes(order, Progress.READY)
    assert made.cell is not None
    assert made.cell.key == (world.namespace, "whole")
    assert made.cell.spec.weight == 0
    assert made.message == "4 objects are ready, and Cell whole is made"
    deployment = await world.live(DEPLOYMENTS, "whole-web")
    assert deployment["metadata"]["labels"][LABEL_CELL] == "whole"
    assert deployment["status"]["readyReplicas"] == 1

    async def versions() -> list[Object]:
        places = ((CONFIG_MAPS, "whole-config"), (CLAIMS, "whole-data"), (SERVICES, "whole"), (CELLS, "whole"))
        found = [await world.live(*place) for place in places]
        return [{n: o["metadata"][n] for n in ("resourceVersion", "managedFields")} for o in found]

    before = await versions()
    written = {tuple(sorted((m["manager"], m["operation"]) for m in one["managedFields"])) for one in before}
    assert all(("recell", "Apply") in managers for managers in written)
    proxy.seen.clear()
    for _ in range(5):
        assert (await world.provisioner.ensure(order)).progress is Progress.READY
    assert proxy.writes() == []
    assert await versions() == before

    await world.removed(order)
    for place in ((CONFIG_MAPS, "whole-config"), (CLAIMS, "whole-data"), (DEPLOYMENTS, "whole-web"), (CELLS, "whole")):
        with pytest.raises(NotFound):
            await world.live(*place)


async def test_a_process_that_takes_over_goes_on_with_what_is_there(
    world: World, kubeconfig: Path, proxy: ApiProxy, image: str
) -> None:
    order = world.order("resumed", CONFIG, world.deployment())
    await world.provisioner.ensure(order)
    proxy.seen.clear()
    async with opened(proxy.kubeconfig, kubeconfig, world.namespace, image) as second:
        await second.becomes(order, Progress.READY)
        assert proxy.writes() == []
        await second.removed(order)


async def test_a_broken_watch_is_no_obstacle(world: World, proxy: ApiProxy) -> None:
    order = world.order("cut", world.deployment())
    await world.provisioner.ensure(order)
    proxy.cut()
    await world.becomes(order, Progress.READY)
    await world.removed(order)


@pytest.fixture
async def quota(world: World) -> AsyncIterator[dict[str, str]]:
    """One that leaves no room for more of what the test puts into it."""
    hard: dict[str, str] = {}
    yield hard
    await world.direct.delete(QUOTAS.path(world.namespace, "small"))


async def enforce(world: World, kubectl: Kubectl, hard: dict[str, str]) -> None:
    body = obj(QUOTAS, "small", spec={"hard": hard})
    await world.direct.create(QUOTAS.collection(world.namespace), body)
    (what,) = hard
    one = {"services": ("create", "service", "clusterip", "one", "--tcp=80"), "pods": ("run", "one", "--image=one")}

    async def refused() -> bool:
        counted = "used" in (await world.live(QUOTAS, "small")).get("status", {})
        try:
            await asyncio.to_thread(kubectl, "-n", world.namespace, *one[what], "--dry-run=server")
        except AssertionError as error:
            return counted and "exceeded quota" in str(error)
        return False

    await eventually(refused, "the quota is in force")


async def test_an_object_beyond_a_quota_is_refused_with_the_numbers(
    world: World, kubectl: Kubectl, quota: dict[str, str]
) -> None:
    quota["services"] = "0"
    await enforce(world, kubectl, quota)
    order = world.order("counted", CONFIG, SERVICE)
    with pytest.raises(Forbidden) as refused:
        await world.provisioner.ensure(order)
    assert str(refused.value) == (
        f"CellTemplate shop-cell: spec.objects[1]: patch services {world.namespace}/counted: ResourceQuota small of"
        f" namespace {world.namespace} is exceeded: requested services=1, used services=0, limited to services=0; raise"
        " it or free what is not needed"
    )
    with pytest.raises(NotFound):
        await world.live(CELLS, "counted")
    await world.removed(order)
    with pytest.raises(NotFound):
        await world.live(CONFIG_MAPS, "counted-config")


async def test_pods_beyond_a_quota_are_told_in_its_words(world: World, kubectl: Kubectl, quota: dict[str, str]) -> None:
    quota["pods"] = "0"
    await enforce(world, kubectl, quota)
    order = world.order("crowded", world.deployment())
    made = await world.becomes(order, Progress.FAILED)
    assert made.message.startswith(f"Deployment {world.namespace}/crowded-web: ")
    assert "exceeded quota: small, requested: pods=1, used: pods=0, limited: pods=0" in made.message
    await world.removed(order)


async def test_an_image_that_is_not_there_fails(world: World) -> None:
    order = world.order("imageless", world.deployment(world.pod(image="localhost/no/such:image")))
    made = await world.becomes(order, Progress.FAILED)
    assert "ErrImageNeverPull" in made.message
    assert "imageless-web-" in made.message, "the pod is named"
    await world.removed(order)


async def test_pods_that_no_node_takes_are_told_and_waited_for(world: World) -> None:
    pod = world.pod()
    pod["spec"]["nodeSelector"] = {"no-such": "node"}
    order = world.order("homeless", world.deployment(pod))

    async def told() -> Provisioned | None:
        made = await world.provisioner.ensure(order)
        return made if "Unschedulable" in made.message else None

    made = await eventually(told, "the scheduler's words", deadline=WITHIN)
    assert made.progress is Progress.IN_PROGRESS
    await world.removed(order)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"replicas": "three"}, r"\.spec\.replicas: expected numeric"),
        ({"wieght": 1}, r"\.spec\.wieght: field not declared in schema"),
        ({"selector": {"matchLabels": {"app": "other"}}}, r"spec\.template\.metadata\.labels: Invalid value"),
    ],
    ids=["type", "field", "value"],
)
async def test_what_the_api_server_refuses_is_quoted_with_the_object(world: World, change: Object, told: str) -> None:
    order = world.order("wrong", CONFIG, world.deployment(**change))
    where = rf"CellTemplate shop-cell: spec\.objects\[1\]: patch deployments\.apps {world.namespace}/wrong-web: .*"
    with pytest.raises(BadInput, match=where + told):
        await world.provisioner.ensure(order)
    await world.removed(order)


async def test_somebody_elses_object_is_left_alone(world: World) -> None:
    body = obj(CONFIG_MAPS, "shared", data={"a": "b"})
    await world.direct.create(CONFIG_MAPS.collection(world.namespace), body, field_manager="somebody")
    before = await world.live(CONFIG_MAPS, "shared")
    order = world.order("greedy", obj(CONFIG_MAPS, "shared", data={"a": "c"}), SERVICE)
    with pytest.raises(
        BadInput, match=r"spec\.objects\[0\]: ConfigMap .*/shared exists and was not made for cell greedy"
    ):
        await world.provisioner.ensure(order)
    assert await world.provisioner.remove(order) == []
    assert await world.live(CONFIG_MAPS, "shared") == before


async def test_made_at_the_same_moment_by_somebody_else(world: World, proxy: ApiProxy) -> None:
    """Between the look and the apply: the API server refuses, and nothing of theirs is changed."""
    path = CONFIG_MAPS.path(world.namespace, "raced")
    proxy.fail(path, 404, reason="NotFound")
    body = obj(CONFIG_MAPS, "raced", data={"a": "b"})
    await world.direct.create(CONFIG_MAPS.collection(world.namespace), body, field_manager="somebody")
    order = world.order("late", obj(CONFIG_MAPS, "raced", data={"a": "c"}))
    with pytest.raises(Exception, match=r'spec\.objects\[0\]: .*conflict with "somebody"'):
        await world.provisioner.ensure(order)
    assert (await world.live(CONFIG_MAPS, "raced"))["data"] == {"a": "b"}


async def test_a_half_made_cell_is_taken_away_with_its_claims(world: World) -> None:
    """Nothing here gives volumes, so the pods of the StatefulSet never come up."""
    claims = [{"metadata": {"name": "data"}, "spec": CLAIM_SPEC}]
    selector = {"matchLabels": {"app": "$(CELL)"}}
    spec = {"serviceName": "$(CELL)", "selector": selector, "template": world.pod(), "volumeClaimTemplates": claims}
    order = world.order("half", SERVICE, obj(STATEFUL_SETS, "$(CELL)-db", spec=spec))
    assert (await world.provisioner.ensure(order)).progress is Progress.IN_PROGRESS

    async def claimed() -> bool:
        return bool((await world.live(CLAIMS, "data-half-db-0"))["metadata"]["labels"][LABEL_CELL] == "half")

    async def there() -> bool:
        try:
            return await claimed()
        except NotFound:
            return False

    await eventually(there, "the claim that the StatefulSet made", deadline=WITHIN)
    # The operator's own finalizer: the Cell stays until its Router has let it go.
    await world.direct.merge_patch(CELLS.path(world.namespace, "half"), {"metadata": {"finalizers": [FINALIZER]}})
    world.homes.add("half")
    (kept,) = await world.provisioner.remove(order)
    assert "is the home of customers" in kept
    assert "deletionTimestamp" not in (await world.live(CELLS, "half"))["metadata"]
    world.homes.clear()
    for _ in range(2):
        assert await world.provisioner.remove(order) == ["Cell half, until its Router sends it nothing any more"]
    assert await world.live(STATEFUL_SETS, "half-db"), "what it is made of stays for as long"
    await world.direct.merge_patch(CELLS.path(world.namespace, "half"), {"metadata": {"finalizers": None}})
    await world.removed(order)
    pods = await world.direct.list(PODS.collection(world.namespace), labels="app=half")
    assert [*pods.items] == []
    for place in ((STATEFUL_SETS, "half-db"), (CLAIMS, "data-half-db-0"), (SERVICES, "half"), (CELLS, "half")):
        with pytest.raises(NotFound):
            await world.live(*place)


class Acme:
    """A small controller of databases, as somebody else's operator would be."""

    def __init__(self, api: Api, group: str, namespace: str) -> None:
        self.resource = Resource(group, "v1", "databases", "Database")
        self._api, self._namespace = api, namespace

    async def install(self) -> None:
        schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        version = {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}},
        }
        names = {"kind": "Database", "plural": "databases", "singular": "database", "listKind": "DatabaseList"}
        spec = {"group": self.resource.group, "names": names, "scope": "Namespaced", "versions": [version]}
        await self._api.create(CRDS.collection(), obj(CRDS, f"databases.{self.resource.group}", spec=spec))

    async def uninstall(self) -> None:
        await self._api.delete(CRDS.path("", f"databases.{self.resource.group}"))

    async def says(self, name: str, *conditions: tuple[str, str, str], seen: int | None = None) -> None:
        live = await self._api.get(self.resource.path(self._namespace, name))
        told = [{"type": t, "status": s, "reason": "Acme", "message": m} for t, s, m in conditions]
        generation = live["metadata"]["generation"] if seen is None else seen
        status = {"observedGeneration": generation, "conditions": told}
        await self._api.merge_patch(self.resource.status(self._namespace, name), {"status": status})

    async def holds(self, name: str, finalizers: list[str] | None) -> None:
        await self._api.merge_patch(self.resource.path(self._namespace, name), {"metadata": {"finalizers": finalizers}})


async def test_a_kind_of_somebody_elses_that_makes_things_itself(world: World) -> None:
    acme = Acme(world.direct, f"{world.namespace}.example.com", world.namespace)
    database = obj(acme.resource, "$(CELL)-db", spec={"size": "$(CELL)"})
    order = world.order("composed", CONFIG, database)
    with pytest.raises(BadInput, match=r"spec\.objects\[1\]: the API server has no kind Database in apiVersion"):
        await world.provisioner.ensure(order)
    with pytest.raises(NotFound):
        await world.live(CONFIG_MAPS, "composed-config")
    await acme.install()
    try:

        async def known() -> Provisioned | None:
            try:
                return await world.provisioner.ensure(order)
            except BadInput:
                return None

        first = await eventually(known, "the kind is served")
        assert "Database" in first.message
        assert "its controller has said nothing yet" in first.message

        async def hears(
            progress: Progress, told: str, *conditions: tuple[str, str, str], seen: int | None = None
        ) -> None:
            """Asked again whenever it is woken, for it may be by what was said before."""
            await acme.says("composed-db", *conditions, seen=seen)
            async with asyncio.timeout(WITHIN):
                while True:
                    world.woken.clear()
                    made = await world.provisioner.ensure(order)
                    if made.progress is progress and made.message.endswith(told):
                        return
                    await world.woken.wait()

        await hears(Progress.IN_PROGRESS, ": Acme: 3 of 5 replicas", ("Ready", "False", "3 of 5 replicas"))
        await hears(Progress.IN_PROGRESS, "has not seen the newest change yet", ("Ready", "True", "ok"), seen=0)
        await hears(Progress.FAILED, ": Acme: no such size", ("Stalled", "True", "no such size"))
        await hears(Progress.READY, "", ("Ready", "True", "ok"))

        await acme.holds("composed-db", ["acme.example.com/clean-up"])
        kept = f"Database {world.namespace}/composed-db"

        async def waits() -> bool:
            return await world.provisioner.remove(order) == [f"{kept} (kept by acme.example.com/clean-up)"]

        await eventually(waits, "its own controller is waited for")
        await acme.holds("composed-db", None)
        await world.removed(order)
    finally:
        await acme.uninstall()


# Permissions


def kubeconfig_of(kubectl: Kubectl, kubeconfig: Path, namespace: str, folder: Path) -> Path:
    """For an account that may do nothing yet."""
    kubectl("-n", namespace, "create", "serviceaccount", "narrow")
    config = yaml.safe_load(kubeconfig.read_text())
    context = next(c["context"] for c in config["contexts"] if c["name"] == config["current-context"])
    context["user"] = "narrow"
    token = kubectl("-n", namespace, "create", "token", "narrow").strip()
    config["users"] = [{"name": "narrow", "user": {"token": token}}]
    made = folder / "narrow.yaml"
    made.write_text(yaml.safe_dump(config))
    return made


def grant(kubectl: Kubectl, namespace: str, verbs: str, *resources: str, group: str = "") -> None:
    name = f"{resources[0]}-{verbs.replace(' ', '-')}"
    rule = {"apiGroups": [group], "resources": [*resources], "verbs": verbs.split()}
    role = obj(Resource("rbac.authorization.k8s.io", "v1", "roles", "Role"), name, rules=[rule])
    kubectl("-n", namespace, "create", "-f", "-", stdin=json.dumps(role))
    kubectl("-n", namespace, "create", "rolebinding", name, f"--role={name}", f"--serviceaccount={namespace}:narrow")


async def test_missing_permissions_are_named_one_after_the_other(
    kubectl: Kubectl, kubeconfig: Path, namespace: str, image: str, tmp_path: Path
) -> None:
    narrow = kubeconfig_of(kubectl, kubeconfig, namespace, tmp_path)
    own = [kind.INFO.plural for kind in KINDS]
    grant(kubectl, namespace, "get list watch create patch delete", *own, group="recell.dev")
    async with opened(narrow, kubeconfig, namespace, image) as world:
        order = world.order("narrow", CONFIG)

        async def made() -> bool:
            return (await world.provisioner.ensure(order)).progress is Progress.READY

        async def removed() -> bool:
            return not await world.provisioner.remove(order)

        async def refused(what: Callable[[], Awaitable[bool]], verb: str) -> str:
            """The message that says that this is missing."""
            try:
                await what()
            except MissingPermission as error:
                wanted = f'grant verb "{verb}" on resource "configmaps" of apiGroup "" in namespace {namespace}'
                return str(error) if wanted in str(error) else ""
            return ""

        async def works(what: Callable[[], Awaitable[bool]]) -> bool:
            try:
                return await what()
            except MissingPermission:
                return False

        for what, verbs in ((made, ("get", "patch", "create", "watch")), (removed, ("list", "delete"))):
            for verb in verbs:
                told = await eventually(partial(refused, what, verb), f"{verb} is missing")
                hint = 'A ClusterRole with that rule and the label recell.dev/aggregate-to-operator: "true" grants it'
                assert told.endswith(hint)
                grant(kubectl, namespace, verb, "configmaps")
            await eventually(partial(works, what), "all is granted")
        with pytest.raises(NotFound):
            await world.live(CONFIG_MAPS, "narrow-config")
