"""The fleet's own objects, watched and parsed: the `Store` port made real.

Promises: what the API server has, ghosts excluded (see `Reflector`); a model is parsed once per
resourceVersion, and at most `PARSED` of them are kept. The models are shared: whoever gets one
must not change it. An object that does not fit its model raises BadInput with the field, because
a Cell that cannot be read must not look like a Cell that is gone.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError

from recell.api import (
    KINDS,
    Cell,
    CellTemplate,
    Placement,
    RecoveryFreeze,
    RecoveryPolicy,
    RecoveryRun,
    Resource,
    Router,
)
from recell.api.cell import KUBECONFIG, SecretKey
from recell.api.meta import ObjectMeta
from recell.api.recovery_run import ENDED, TargetKind
from recell.engine.errors import BadInput
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.collection import Collection
from recell.providers.kube.paths import OWN
from recell.providers.kube.reflector import Index, Reflector, key_of

PARSED = 4096
DEFAULT_POLICY = "default"

K = TypeVar("K", bound=Resource)
OnKey = Callable[[Key], None]
Matters = Callable[[Object | None, Object | None], bool]


def _namespace(obj: Object) -> Iterable[Hashable]:
    return (obj["metadata"].get("namespace", ""),)


def _workload_namespace(cell: Object) -> str:
    return str(cell["spec"].get("namespace") or cell["metadata"].get("namespace", ""))


def _router_of(cell: Object) -> Iterable[Hashable]:
    return ((cell["metadata"].get("namespace", ""), cell["spec"]["routerRef"]["name"]),)


def _kubeconfig(cell: Object) -> SecretKey | None:
    ref = (cell["spec"].get("cluster") or {}).get("kubeconfigSecretRef")
    return SecretKey(cell["metadata"].get("namespace", ""), ref["name"], ref.get("key", KUBECONFIG)) if ref else None


def _workloads_of(cell: Object) -> Iterable[Hashable]:
    cluster, namespace = _kubeconfig(cell), _workload_namespace(cell)
    return [(cluster, w["kind"], namespace, w["name"]) for w in cell["spec"].get("workloads") or ()]


def _service_of(cell: Object) -> Iterable[Hashable]:
    service = cell["spec"]["backend"].get("service")
    return ((_workload_namespace(cell), service["name"]),) if service else ()


def _target_of(run: Object) -> Iterable[Hashable]:
    target = run["spec"]["targetRef"]
    return ((target["kind"], run["metadata"].get("namespace", ""), target["name"]),)


def _open(run: Object) -> Iterable[Hashable]:
    """The namespace of a run that has not ended."""
    return () if (run.get("status") or {}).get("phase") in ENDED else _namespace(run)


INDEXES: dict[type[Resource], dict[str, Index]] = {
    Cell: {"router": _router_of, "workload": _workloads_of, "service": _service_of},
    RecoveryRun: {"target": _target_of, "open": _open},
}


class KubeStore:
    """All kinds of the group, in the given namespaces (("",): all)."""

    def __init__(self, api: Api, clock: Clock, namespaces: Sequence[str] = ("",)) -> None:
        self._collections: dict[type[Resource], Collection] = {
            kind: Collection(
                api, OWN[kind], clock, namespaces, indexes={"namespace": _namespace} | INDEXES.get(kind, {})
            )
            for kind in KINDS
        }
        self._parsed: OrderedDict[tuple[type[Resource], Key], tuple[str, Resource]] = OrderedDict()

    # Running

    @property
    def reflectors(self) -> Sequence[Reflector]:
        return tuple(r for collection in self._collections.values() for r in collection.reflectors)

    def subscribe(self, kind: type[Resource], listener: OnKey, *, when: Matters | None = None) -> None:
        """Told the key of each object of the kind that was created, changed or deleted; with `when` only of
        those of which the object before and after says so."""

        def changed(key: Key, old: Object | None, new: Object | None) -> None:
            if when is None or when(old, new):
                listener(key)

        self._collections[kind].subscribe(changed)

    def start(self) -> None:
        for collection in self._collections.values():
            collection.start()

    async def wait_synced(self) -> None:
        """No deadline of its own: the caller has one."""
        await asyncio.gather(*(collection.wait_synced() for collection in self._collections.values()))

    async def stop(self) -> None:
        await asyncio.gather(*(collection.stop() for collection in self._collections.values()))

    @property
    def synced(self) -> bool:
        return all(collection.synced for collection in self._collections.values())

    @property
    def blind_for(self) -> float:
        """Seconds since when some kind is not watched, so that this may be out of date; 0: all are (rule 30)."""
        return max(collection.blind_for for collection in self._collections.values())

    def put(self, kind: type[Resource], obj: Object) -> None:
        """A write's answer. Never replaces newer, never revives what was deleted."""
        self._collections[kind].put(obj)

    def gone(self, kind: type[Resource], obj: Object) -> None:
        """Another watch saw this object deleted; `obj` is what the event carried."""
        self._collections[kind].gone(obj)

    # Reading

    def keys(self, kind: type[Resource], namespace: str | None = None) -> list[Key]:
        """Of all namespaces, or of one. Parses nothing, so it is cheap for thousands too."""
        collection = self._collections[kind]
        found = collection if namespace is None else collection.by("namespace", namespace)
        return [key_of(obj) for obj in found]

    def raw(self, kind: type[Resource], key: Key) -> Object | None:
        """As JSON, for what the models leave out. Not to be changed."""
        return self._collections[kind].get(key)

    def get(self, kind: type[K], key: Key) -> K | None:
        return self._model(kind, self._collections[kind].get(key))

    def cell(self, key: Key) -> Cell | None:
        return self.get(Cell, key)

    def router(self, key: Key) -> Router | None:
        return self.get(Router, key)

    def placement(self, key: Key) -> Placement | None:
        """The key is that of the Router."""
        return self.get(Placement, key)

    def run(self, key: Key) -> RecoveryRun | None:
        return self.get(RecoveryRun, key)

    def policy(self, key: Key) -> RecoveryPolicy | None:
        return self.get(RecoveryPolicy, key)

    def template(self, key: Key) -> CellTemplate | None:
        return self.get(CellTemplate, key)

    def all(self, kind: type[K], namespace: str | None = None) -> tuple[K, ...]:
        """Of all namespaces, or of one."""
        collection = self._collections[kind]
        found = collection if namespace is None else collection.by("namespace", namespace)
        return tuple(self._parse(kind, obj) for obj in found)

    def cells_of(self, router: Key) -> Mapping[str, Cell]:
        return {cell.metadata.name: cell for cell in self._by(Cell, "router", router)}

    def cells_naming_workload(
        self, kind: str, namespace: str, name: str, cluster: SecretKey | None = None
    ) -> tuple[Key, ...]:
        found = self._collections[Cell].by("workload", (cluster, kind, namespace, name))
        return tuple(key_of(obj) for obj in found)

    def cells_naming_service(self, namespace: str, name: str) -> tuple[Key, ...]:
        return tuple(key_of(obj) for obj in self._collections[Cell].by("service", (namespace, name)))

    def runs_in(self, namespace: str) -> tuple[RecoveryRun, ...]:
        return self._by(RecoveryRun, "namespace", namespace)

    def open_runs(self, namespace: str) -> tuple[RecoveryRun, ...]:
        """Those that have not ended: waiting or at work."""
        return self._by(RecoveryRun, "open", namespace)

    def runs_of(self, kind: TargetKind, target: Key) -> tuple[RecoveryRun, ...]:
        """Ended ones included."""
        return self._by(RecoveryRun, "target", (kind.value, *target))

    def freezes_in(self, namespace: str) -> tuple[RecoveryFreeze, ...]:
        return self._by(RecoveryFreeze, "namespace", namespace)

    def policy_for(self, cell: Cell) -> RecoveryPolicy:
        """Cell.policyRef, else the Router's policy (see `router_policy`).

        A policy that is named but does not exist is the built-in one, in mode Observe: nothing
        moves by numbers that nobody gave.
        """
        if cell.spec.policy_ref is not None:
            return self._named(cell.metadata.namespace, cell.spec.policy_ref.name)
        return self.router_policy((cell.metadata.namespace, cell.spec.router_ref.name))

    def router_policy(self, router: Key) -> RecoveryPolicy:
        """Router.policyRef, else the one named `default`, else built in (mode Observe).

        Storm, concurrency and capacity limits come from this one alone.
        """
        found = self.router(router)
        if found is not None and found.spec.policy_ref is not None:
            return self._named(router[0], found.spec.policy_ref.name)
        return self.policy_for_namespace(router[0])

    def policy_for_namespace(self, namespace: str) -> RecoveryPolicy:
        """The one named `default`, else built in (mode Observe)."""
        return self._named(namespace, DEFAULT_POLICY)

    # How

    def _named(self, namespace: str, name: str) -> RecoveryPolicy:
        return self.policy((namespace, name)) or RecoveryPolicy(metadata=ObjectMeta(namespace=namespace))

    def _by(self, kind: type[K], index: str, value: Hashable) -> tuple[K, ...]:
        return tuple(self._parse(kind, obj) for obj in self._collections[kind].by(index, value))

    def _model(self, kind: type[K], obj: Object | None) -> K | None:
        return None if obj is None else self._parse(kind, obj)

    def _parse(self, kind: type[K], obj: Object) -> K:
        slot, version = (kind, key_of(obj)), obj["metadata"]["resourceVersion"]
        known = self._parsed.get(slot)
        if known is not None and known[0] == version and isinstance(known[1], kind):
            self._parsed.move_to_end(slot)
            return known[1]
        try:
            model = kind.model_validate(obj)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            namespace, name = key_of(obj)
            raise BadInput(
                f"{kind.INFO.kind} {namespace}/{name}: {field}: {first['msg']}"
                " (are the installed CRDs those of this version?)"
            ) from error
        self._parsed[slot] = (version, model)
        if len(self._parsed) > PARSED:
            self._parsed.popitem(last=False)
        return model
