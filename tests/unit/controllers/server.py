"""An API server with a store on it, in memory, as far as the controllers know them: versions rise and conflict,
a finalizer keeps a deleted object, an apply replaces its manager's status."""

import copy
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Resource, Router
from recell.api.cell import Failure
from recell.api.meta import ObjectMeta
from recell.controllers.router_recovery import Told
from recell.controllers.status import Wanted
from recell.domain.health import HealthState, Level
from recell.domain.observation import Applied, Reach
from recell.engine.errors import Conflict, NotFound
from recell.providers.kube.api import Listing
from recell.providers.kube.paths import OWN, parse
from tests.fakes.merging import merged

Object = dict[str, Any]
PLURALS = {resource.plural: kind for kind, resource in OWN.items()}


class Clock:
    def __init__(self) -> None:
        self.at = datetime(2026, 11, 25, 3, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def advance(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Server:
    def __init__(self) -> None:
        self.clock = Clock()
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.writes: list[str] = []
        self.terminating: set[str] = set()
        self._version = 100

    # For tests

    def add(self, kind: type[Resource], name: str, spec: Object, **metadata: Any) -> None:
        self._version += 1
        meta = {
            "name": name, "namespace": "fleet", "uid": f"uid-{name}", "generation": 1,
            "resourceVersion": str(self._version), "creationTimestamp": self.clock.now().isoformat(), **metadata,
        }  # fmt: skip
        self.objects[OWN[kind].plural, "fleet", name] = {"metadata": meta, "spec": spec}

    def read(self, kind: type[Resource], name: str) -> Object:
        return self.objects[OWN[kind].plural, "fleet", name]

    def change(self, kind: type[Resource], name: str, body: Object) -> None:
        """Somebody edits it."""
        self._merge((OWN[kind].plural, "fleet", name), body)

    def delete_softly(self, kind: type[Resource], name: str) -> None:
        if self.read(kind, name)["metadata"].get("finalizers"):
            self.change(kind, name, {"metadata": {"deletionTimestamp": self.clock.now().isoformat()}})
        else:
            del self.objects[OWN[kind].plural, "fleet", name]

    # As recell.providers.kube.api.Api

    async def get(self, path: str) -> Object:
        place = parse(path)
        if place.resource == "namespaces":
            gone = {"deletionTimestamp": "2026-11-25T03:00:00Z"} if place.name in self.terminating else {}
            return {"metadata": {"name": place.name, **gone}}
        return copy.deepcopy(self._there(path))

    async def create(self, path: str, body: Object) -> Object:
        place, name = parse(path), body["metadata"]["name"]
        slot = (place.resource, place.namespace, name)
        if slot in self.objects:
            raise Conflict(f"{name} exists")
        self._version += 1
        meta = {
            "uid": f"made-{self._version}", "generation": 1, "resourceVersion": str(self._version),
            "creationTimestamp": self.clock.now().isoformat(), **body["metadata"],
        }  # fmt: skip
        self.objects[slot] = {**copy.deepcopy(body), "metadata": meta}
        self.writes.append(f"create {place.resource}/{name}")
        return copy.deepcopy(self.objects[slot])

    async def merge_patch(self, path: str, body: Object) -> Object:
        place = parse(path)
        found = self._there(path)["metadata"]
        wanted = body.get("metadata", {})
        if wanted.get("resourceVersion") not in (None, found["resourceVersion"]):
            raise Conflict(f"{place} changed")
        if wanted.get("uid") not in (None, found["uid"]):
            raise Conflict(f"{place} is another one")
        self.writes.append(f"patch {place.resource}/{place.name}")
        slot = (place.resource.partition("/")[0], place.namespace, place.name)
        self._merge(slot, body)
        answer = copy.deepcopy(self.objects[slot])
        if answer["metadata"].get("deletionTimestamp") and not answer["metadata"].get("finalizers"):
            del self.objects[slot]
        return answer

    async def replace(self, path: str, body: Object) -> Object:
        """What the body leaves out of the spec is gone."""
        gone = dict.fromkeys(self._there(path).get("spec", {}).keys() - body["spec"].keys())
        return await self.merge_patch(path, {**body, "spec": {**gone, **body["spec"]}})

    async def list(self, path: str, *, labels: str = "") -> Listing:
        place, wanted = parse(path), dict(term.split("=") for term in labels.split(",") if term)
        found = [
            copy.deepcopy(obj)
            for (plural, namespace, _), obj in sorted(self.objects.items())
            if (plural, namespace) == (place.resource, place.namespace)
            and wanted.items() <= obj["metadata"].get("labels", {}).items()
        ]
        return Listing(found, str(self._version))

    async def delete(
        self, path: str, *, uid: str | None = None, resource_version: str | None = None, propagation: str = "Background"
    ) -> Object:
        place = parse(path)
        found = self._there(path)
        if uid not in (None, found["metadata"]["uid"]):
            raise Conflict(f"{place} is another one")
        if resource_version not in (None, found["metadata"]["resourceVersion"]):
            raise Conflict(f"{place} changed")
        self.writes.append(f"delete {place.resource}/{place.name}")
        slot = (place.resource, place.namespace, place.name)
        if found["metadata"].get("finalizers"):
            self._merge(slot, {"metadata": {"deletionTimestamp": self.clock.now().isoformat()}})
        else:
            del self.objects[slot]
        return copy.deepcopy(found)

    async def apply(self, path: str, body: Object) -> Object:
        place = parse(path)
        self.writes.append(f"apply {place.resource}/{place.name}")
        slot = (place.resource.partition("/")[0], place.namespace, place.name)
        self.objects[slot]["status"] = {}
        self._merge(slot, {"status": body["status"]})
        return copy.deepcopy(self.objects[slot])

    # As recell.providers.kube.store.KubeStore

    def put(self, kind: type[Resource], obj: Object) -> None:
        """The store is the server."""

    def raw(self, kind: type[Resource], key: tuple[str, str]) -> Object | None:
        return copy.deepcopy(self.objects.get((OWN[kind].plural, *key)))

    def _model(self, kind: Any, key: tuple[str, str]) -> Any:
        found = self.raw(kind, key)
        return kind.model_validate(found) if found else None

    def _all(self, kind: Any) -> Sequence[Any]:
        return [self._model(kind, slot[1:]) for slot in sorted(self.objects) if slot[0] == OWN[kind].plural]

    def cell(self, key: tuple[str, str]) -> Cell | None:
        found: Cell | None = self._model(Cell, key)
        return found

    def router(self, key: tuple[str, str]) -> Router | None:
        found: Router | None = self._model(Router, key)
        return found

    def placement(self, key: tuple[str, str]) -> Placement | None:
        found: Placement | None = self._model(Placement, key)
        return found

    def run(self, key: tuple[str, str]) -> RecoveryRun | None:
        found: RecoveryRun | None = self._model(RecoveryRun, key)
        return found

    def template(self, key: tuple[str, str]) -> CellTemplate | None:
        found: CellTemplate | None = self._model(CellTemplate, key)
        return found

    def cells_of(self, router: tuple[str, str]) -> Mapping[str, Cell]:
        return {c.metadata.name: c for c in self._all(Cell) if c.spec.router_ref.name == router[1]}

    def runs_in(self, namespace: str) -> tuple[RecoveryRun, ...]:
        return tuple(self._all(RecoveryRun))

    def open_runs(self, namespace: str) -> tuple[RecoveryRun, ...]:
        return tuple(run for run in self._all(RecoveryRun) if not run.phase.ended)

    def runs_of(self, kind: Any, target: tuple[str, str]) -> tuple[RecoveryRun, ...]:
        return tuple(
            r for r in self._all(RecoveryRun) if (r.spec.target_ref.kind, r.spec.target_ref.name) == (kind, target[1])
        )

    def freezes_in(self, namespace: str) -> tuple[RecoveryFreeze, ...]:
        return tuple(self._all(RecoveryFreeze))

    def cells_naming_workload(self, kind: str, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
        return tuple(c.key for c in self._all(Cell) if (kind, name) in {(w.kind, w.name) for w in c.spec.workloads})

    def cells_naming_service(self, namespace: str, name: str) -> tuple[tuple[str, str], ...]:
        services = {cell.key: cell.spec.backend.service for cell in self._all(Cell)}
        return tuple(key for key, service in services.items() if service is not None and service.name == name)

    def policy_for(self, cell: Cell) -> RecoveryPolicy:
        return self.policy_for_namespace(cell.metadata.namespace)

    def router_policy(self, router: tuple[str, str]) -> RecoveryPolicy:
        return self.policy_for_namespace(router[0])

    def policy_for_namespace(self, namespace: str) -> RecoveryPolicy:
        return self._model(RecoveryPolicy, (namespace, "default")) or RecoveryPolicy(metadata=ObjectMeta())

    # How

    def _there(self, path: str) -> Object:
        place = parse(path)
        found = self.objects.get((place.resource.partition("/")[0], place.namespace, place.name))
        if found is None:
            raise NotFound(str(place))
        return found

    def _merge(self, slot: tuple[str, str, str], body: Object) -> None:
        old = self.objects[slot]
        patched: Object = merged(old, body)
        self._version += 1
        patched["metadata"]["resourceVersion"] = str(self._version)
        if patched.get("spec") != old.get("spec"):
            patched["metadata"]["generation"] += 1
        self.objects[slot] = patched


class Surroundings:
    """What the controllers see beside the server: addresses, health, the data plane. All is well unless said."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.levels: dict[str, Level] = {}
        self.failures: dict[str, Failure] = {}
        self.unreachable: dict[str, Exception] = {}
        self.public: dict[str, tuple[tuple[str, int], ...]] = {}
        """Of load balancers, by cell; else as the router's own."""
        self.reaches: dict[str, Reach] = {}
        self.pods = 2
        self.in_force = True
        self.complaints = ""
        self.progresses = ""
        self.refused: Exception | None = None
        """Why the data plane cannot do what it is asked."""
        self.told: Placement | None = None
        self.broke: tuple[str, ...] = ()
        """Dependencies of all cells that do not answer."""
        self.events: list[str] = []
        self.epoch = 1

    # Cluster

    def address_of(self, cell: Cell) -> tuple[str, int]:
        if error := self.unreachable.get(cell.metadata.name):
            raise error
        return (f"10.0.0.{ord(cell.metadata.name[-1])}", 80)

    def public_addresses_of(self, cell: Cell) -> tuple[tuple[str, int], ...]:
        if error := self.unreachable.get(cell.metadata.name):
            raise error
        return self.public.get(cell.metadata.name) or (self.address_of(cell),)

    async def ensure_labels(self, cell: Cell) -> None:
        if error := self.unreachable.get(cell.metadata.name):
            raise error

    def reach(self, cell: Cell) -> Reach | None:
        return self.reaches.get(cell.metadata.name)

    # Observer

    def health(self, cell: tuple[str, str]) -> HealthState | None:
        level = self.levels.get(cell[1])
        return HealthState(level=level, since=self.server.clock.now()) if level else None

    # Data plane and traffic

    async def ensure(self, router: Router) -> None:
        """Its objects are there, unless it may not make them."""
        if self.refused is not None:
            raise self.refused

    async def tell(self, router: tuple[str, str], placement: Placement | None) -> None:
        self.told = placement

    def serving(self, router: tuple[str, str]) -> int:
        return self.pods

    def complaint(self, router: tuple[str, str]) -> str:
        return self.complaints

    def progress(self, router: tuple[str, str]) -> str:
        return self.progresses

    def unseen(self, router: tuple[str, str]) -> str:
        return ""

    def applied(self, router: tuple[str, str]) -> Applied | None:
        placed = self.server.placement(router)
        if placed is None or not self.pods or not self.in_force:
            return None
        meta = placed.metadata
        return Applied(meta.uid, placed.spec.epoch, meta.generation, self.pods, self.server.clock.now())

    # Standby

    async def keep(self, router: Router, cells: Mapping[str, Cell]) -> None:
        """It asks for none."""

    async def agree(self, router: Router) -> None:
        """The router serves by itself."""

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, Wanted]:
        return {}

    # Recoveries

    async def look(self, router: Router) -> Told:
        return Told(None, None, None)

    def forget(self, router: tuple[str, str]) -> None:
        """Nothing is known."""

    # Storms and dependencies

    async def detect(self, router: Router, cells: Mapping[str, Cell]) -> None:
        """There are none."""

    def watch(self, router: tuple[str, str], policy: object) -> None:
        """Nothing is shared."""

    def drop(self, router: tuple[str, str]) -> None:
        """Nothing was asked."""

    def broken(self, router: tuple[str, str]) -> tuple[str, ...]:
        return self.broke

    # Leadership and events

    def outrank(self, epoch: int) -> None:
        self.epoch = max(self.epoch, epoch + 1)

    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False) -> None:
        self.events.append(f"{'Warning' if warning else 'Normal'} {reason}")
