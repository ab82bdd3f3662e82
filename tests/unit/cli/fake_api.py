"""The API server as far as the command line knows it, in memory, on plain dictionaries.

It behaves: resourceVersions rise and conflict, names are generated, what is not there is NotFound,
a merge patch is merged. Tests may let a call fail, or let somebody else write first.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count

from recell.engine.errors import Conflict, NotFound
from recell.providers.kube.api import Listing, Object
from recell.providers.kube.connection import Answer
from recell.providers.kube.errors import translate
from recell.providers.kube.paths import NETWORK_POLICIES, OWN, PODS, Place, parse
from tests.fakes.merging import merged

ROOT = ("kind", "apiVersion")


@dataclass
class FakeConnection:
    """Raw requests: the metrics of pods, by pod name."""

    metrics: dict[str, list[str]]
    status: int = 200

    async def request(self, method: str, path: str, *, timeout: float) -> Answer:
        assert method == "GET"
        assert timeout > 0
        pod = path.split("/pods/")[1].split(":")[0]
        if self.status != 200:
            return Answer(self.status, {}, b'pods "x" is forbidden: User "u" cannot get resource "pods/proxy"')
        texts = self.metrics[pod]
        return Answer(200, {}, (texts.pop(0) if len(texts) > 1 else texts[0]).encode())


class FakeApi:
    def __init__(self, objects: list[Object], metrics: Mapping[str, list[str]] | None = None) -> None:
        self._objects: dict[tuple[str, str, str], Object] = {}
        self._versions, self._names = count(100), count(1)
        self.connection = FakeConnection(dict(metrics or {}))
        self.writes: list[str] = []
        self.fails: Callable[[str, str], Exception | None] = lambda verb, path: None
        self.before_write: Callable[[], None] | None = None
        """Runs once, before the next write: somebody else is faster."""
        for item in objects:
            self.put(item)
        for pod in self.connection.metrics:
            self.put({"kind": "Pod", "metadata": {"namespace": "shop", "name": pod}})

    # For the tests

    def put(self, item: Object) -> None:
        """As if the operator, or somebody else, had written it."""
        stored = copy.deepcopy(item)
        meta = stored["metadata"]
        meta["resourceVersion"] = str(next(self._versions))
        meta.setdefault("generation", 1)
        meta.setdefault("uid", f"uid-{meta['name']}")
        self._objects[(_plural(stored["kind"]), meta["namespace"], meta["name"])] = stored

    def read(self, kind: str, name: str, namespace: str = "shop") -> Object:
        return self._objects[(_plural(kind), namespace, name)]

    def names(self, kind: str) -> list[str]:
        return [name for plural, _, name in self._objects if plural == _plural(kind)]

    # As recell.providers.kube.api.Api

    async def close(self) -> None:
        pass

    async def get(self, path: str, *, timeout: float = 10.0) -> Object:
        self._may("get", path)
        return copy.deepcopy(self._there("get", path))

    async def list(self, path: str, *, labels: str = "", fields: str = "") -> Listing:
        self._may("list", path)
        place = parse(path)
        if not place.namespace and place.name:
            raise AssertionError(f"{path} is no collection")
        found = [
            copy.deepcopy(item)
            for (plural, namespace, _), item in sorted(self._objects.items())
            if plural == place.resource and place.namespace in ("", namespace)
        ]
        return Listing(found, "1")

    async def create(self, path: str, body: Object, *, field_manager: str = "recell") -> Object:
        place = self._write("create", path)
        made = copy.deepcopy(body)
        meta = made["metadata"]
        meta["namespace"] = place.namespace
        meta.setdefault("name", f"{meta.get('generateName', '')}{next(self._names):05d}")
        if (place.resource, place.namespace, meta["name"]) in self._objects:
            raise Conflict(f"create {place}: exists")
        meta["creationTimestamp"] = "2026-11-25T03:00:00Z"
        self.put(made)
        return copy.deepcopy(self.read(made["kind"], meta["name"], place.namespace))

    async def merge_patch(self, path: str, body: Object, *, field_manager: str = "recell") -> Object:
        self._write("patch", path)
        found = self._there("patch", path)
        version = body.get("metadata", {}).get("resourceVersion")
        if version is not None and version != found["metadata"]["resourceVersion"]:
            raise Conflict(f"patch {path}: the object has been modified")
        old = copy.deepcopy(found.get("spec"))
        patched = merged(found, body)
        if patched.get("spec") != old:
            patched["metadata"]["generation"] += 1
        self.put(patched)
        place = parse(path)
        return copy.deepcopy(self._objects[(place.resource, place.namespace, place.name)])

    async def delete(self, path: str, *, uid: str | None = None) -> Object:
        place = self._write("delete", path)
        found = self._there("delete", path)
        if uid and found["metadata"]["uid"] != uid:
            raise Conflict(f"delete {place}: another uid")
        del self._objects[(place.resource, place.namespace, place.name)]
        return {}

    def _may(self, verb: str, path: str) -> None:
        if error := self.fails(verb, path):
            raise error

    def _write(self, verb: str, path: str) -> Place:
        if self.before_write:
            somebody, self.before_write = self.before_write, None
            somebody()
        self._may(verb, path)
        self.writes.append(f"{verb} {parse(path)}")
        return parse(path)

    def _there(self, verb: str, path: str) -> Object:
        place = parse(path)
        found = self._objects.get((place.resource, place.namespace, place.name))
        if found is None:
            raise translate(verb, path, 404, b"", {})
        return found


def _plural(kind: str) -> str:
    return next(r.plural for r in (*OWN.values(), NETWORK_POLICIES, PODS) if r.kind == kind)


__all__ = ["FakeApi", "NotFound"]
