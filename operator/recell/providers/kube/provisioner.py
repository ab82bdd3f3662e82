"""Further cells from templates: the `Provisioner` port made real.

Promises
- Nothing is applied of a template of which some object never could be: kinds, scopes, owners and consent are
  looked at first. An object that somebody else made is never taken over.
- An object is applied when it is missing or when something else was applied last, so that asking again writes
  nothing, and what others change in an object is left alone.
- Reading goes through watches (`made`); what they do not know is asked.
- Only what carries this cell's labels is ever deleted, by UID, and nothing of a cell that is the home of
  customers (rule 6): a half-made cell never served, so its claims hold nobody's data.
- What is refused names the template, the object, and who can do what about it.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from recell.api import Cell
from recell.api.cell_template import TargetCluster
from recell.api.meta import ANNOTATION_CONTENT, LABEL_AGGREGATE, LABEL_CELL
from recell.domain import provisioning
from recell.domain.provisioning import Order, Progress, Provisioned, UnfitTemplate
from recell.domain.wording import clipped, listed
from recell.engine.errors import BadInput, Forbidden, NotFound, RecellError, Retryable
from recell.engine.ports import Clock, Key
from recell.providers.kube.api import Api, Object
from recell.providers.kube.discovery import Discovery, Kind
from recell.providers.kube.errors import MissingPermission
from recell.providers.kube.made import MADE, MadeObjects, Place
from recell.providers.kube.ownership import made_for
from recell.providers.kube.paths import CELLS, CLAIMS, STATEFUL_SETS
from recell.providers.kube.readiness import has_pods, readiness
from recell.providers.kube.store import KubeStore

logger = logging.getLogger(__name__)

TOLD = 3
"""Objects whose own words are in one message."""
_CELL = Kind(CELLS, has_status=True)


class Consent(Protocol):
    """Where cells may have workloads."""

    async def ensure(self, cell: Cell) -> None:
        """Raises Forbidden or BadInput unless the namespace of the cell's workloads may be written to."""
        ...


class Ground:
    """A cluster in which objects are made. `on_change` is told as by `MadeObjects`."""

    def __init__(
        self, api: Api, clock: Clock, consent: Consent, *, foreign: bool = False, on_change: Callable[[Key], None]
    ) -> None:
        """`foreign`: another cluster than that of the Cells."""
        self.foreign = foreign
        self.api = api
        self.consent = consent
        self.discovery = Discovery(api)
        self.made = MadeObjects(api, clock, on_change=on_change)
        """The watches that run while a cell is being made or removed."""

    async def stop(self) -> None:
        await self.made.stop()


@dataclass(frozen=True)
class _Site:
    """A kind in a namespace of one cluster."""

    ground: Ground
    place: Place


@dataclass(frozen=True)
class _Wanted:
    """One object as it is to be."""

    site: _Site
    body: Object
    where: str
    """The template and the field in it."""

    @property
    def ground(self) -> Ground:
        return self.site.ground

    @property
    def place(self) -> Place:
        return self.site.place

    @property
    def name(self) -> str:
        return str(self.body["metadata"]["name"])

    @property
    def path(self) -> str:
        return self.place.kind.resource.path(self.place.namespace, self.name)

    def __str__(self) -> str:
        return f"{self.place.kind.resource.kind} {self.place.namespace}/{self.name}"


class KubeProvisioner:
    """`on_change` is told the key (fleet namespace, name) of each cell that is being made or removed and of which an
    object looks different. `is_home` says whether a Router's Placement has home slots for a cell, and is True while
    that is not known. `elsewhere` is asked for the cluster of a cell that is in one of its own, and raises Unreachable;
    without it no cell can be made there."""

    def __init__(
        self,
        api: Api,
        clock: Clock,
        store: KubeStore,
        consent: Consent,
        *,
        is_home: Callable[[Key, str], bool],
        on_change: Callable[[Key], None],
        elsewhere: Callable[[Cell], Ground] | None = None,
    ) -> None:
        self._clock = clock
        self._store = store
        self._is_home = is_home
        self._elsewhere = elsewhere
        self._home = Ground(api, clock, consent, on_change=on_change)

    @property
    def made(self) -> MadeObjects:
        """The watches in the cluster of the Cells."""
        return self._home.made

    async def stop(self) -> None:
        await self._home.stop()

    # Making

    async def ensure(self, order: Order) -> Provisioned:
        """Apply what is missing or differs, in the template's order, the Cell last; say how far it is.

        Raises Forbidden (a permission, a quota, no consent: what to grant), BadInput (the template cannot work: the
        field), Conflict, Retryable, Fenced.
        """
        wanted = await self._wanted(order)
        cell = self._wanted_cell(order)
        grounds = _open(_key(order), [item.site for item in wanted])
        found = [await self._look(item, order) for item in wanted]
        live_cell = await self._look_at_cell(cell, order)
        missing = [n for n, item in enumerate(wanted) if _differs(item, found[n])]
        await self._require_consent(order, [wanted[n] for n in missing])
        for n in missing:
            answer = found[n] = await self._apply(wanted[n], found[n])
            wanted[n].ground.made.put(wanted[n].place, answer)
        if _differs(cell, live_cell):
            answer = live_cell = await self._apply(cell, live_cell)
            self._store.put(Cell, answer)
        for ground in grounds:
            if obstacle := ground.made.obstacle(_key(order)):
                raise _explained(obstacle, f"{_template(order)}: what it makes cannot be watched", ground)
        return self._told(order, wanted, [live for live in found if live is not None], Cell.model_validate(live_cell))

    def _grounds(self, order: Order) -> list[Ground]:
        """Of each object of the template. Raises Unreachable, BadInput."""
        there = self._there(order)
        management = TargetCluster.MANAGEMENT
        return [self._home if each.cluster is management else there for each in order.template.spec.objects]

    def _there(self, order: Order) -> Ground:
        made = Cell.model_validate(_cell(order))
        if made.kubeconfig is None:
            return self._home
        if self._elsewhere is None:
            raise BadInput(f"{_template(order)}: spec.cell.cluster: no cell is made in another cluster from here")
        return self._elsewhere(made)

    def _wanted_cell(self, order: Order) -> _Wanted:
        site = _Site(self._home, Place(_CELL, order.source.metadata.namespace))
        return _Wanted(site, _marked(_cell(order)), f"{_template(order)}: spec.cell")

    async def _wanted(self, order: Order) -> list[_Wanted]:
        made, grounds = [], self._grounds(order)
        for number, body in enumerate(_objects(order)):
            ground = grounds[number]
            where = f"{_template(order)}: spec.objects[{number}]"
            try:
                kind = await ground.discovery.kind(body["apiVersion"], body["kind"])
            except BadInput as error:
                raise BadInput(f"{where}: {error}") from error
            if not kind.resource.namespaced:
                raise BadInput(
                    f"{where}: {body['kind']} is a kind of the whole cluster, and a template makes objects in"
                    f" namespaces only: make {body['metadata']['name']} beforehand and leave it out"
                )
            made.append(_Wanted(_Site(ground, Place(kind, body["metadata"]["namespace"])), _marked(body), where))
        return made

    async def _look(self, item: _Wanted, order: Order) -> Object | None:
        """The object as it is. Raises BadInput for one that was not made for this cell."""
        live = item.ground.made.get(item.place, item.name) or await self._read(item)
        if live is not None:
            _require_own(live, item, order)
            item.ground.made.put(item.place, live)
        return live

    async def _look_at_cell(self, item: _Wanted, order: Order) -> Object | None:
        live = self._store.raw(Cell, _key(order)) or await self._read(item)
        if live is not None:
            _require_own(live, item, order)
        return live

    async def _read(self, item: _Wanted) -> Object | None:
        try:
            return await item.ground.api.get(item.path)
        except NotFound:
            return None
        except RecellError as error:
            raise _explained(error, item.where, item.ground) from error

    async def _require_consent(self, order: Order, wanted: Sequence[_Wanted]) -> None:
        """Of each namespace, as if a cell's workloads were there."""
        for (ground, namespace), item in {(i.ground, i.place.namespace): i for i in reversed(wanted)}.items():
            spec = order.source.spec.model_copy(update={"namespace": namespace})
            try:
                await ground.consent.ensure(order.source.model_copy(update={"spec": spec}))
            except RecellError as error:
                raise _explained(error, item.where, item.ground) from error

    async def _apply(self, item: _Wanted, live: Object | None) -> Object:
        """Without force where nothing was there, so that what somebody makes in the same moment is not taken over."""
        try:
            answer = await item.ground.api.apply(item.path, item.body, force=live is not None)
        except NotFound as error:
            if f'namespaces "{item.place.namespace}"' in str(error):
                raise BadInput(f"{item.where}: namespace {item.place.namespace} does not exist: create it") from error
            item.ground.discovery.forget(item.body["apiVersion"])  # the kind came or went just now
            raise Retryable(f"{item.where}: {error}") from error
        except RecellError as error:
            raise _explained(error, item.where, item.ground) from error
        logger.info("applied %s", item)
        return answer

    def _told(self, order: Order, wanted: Sequence[_Wanted], found: Sequence[Object], cell: Cell) -> Provisioned:
        if cell.metadata.deletion_timestamp is not None:
            return Provisioned(Progress.IN_PROGRESS, f"Cell {order.name} is being deleted")
        said: dict[Progress, list[str]] = {progress: [] for progress in Progress}
        for item, live in zip(wanted, found, strict=True):
            pods = item.ground.made.pods(item.place, item.name)
            state = readiness(item.place.kind, live, pods, self._clock.now())
            said[state.progress].append(f"{item}: {state.says}")
        for progress in (Progress.FAILED, Progress.IN_PROGRESS):
            if words := said[progress]:
                more = f"; and {len(words) - TOLD} more" if len(words) > TOLD else ""
                return Provisioned(progress, clipped("; ".join(words[:TOLD]) + more), cell)
        return Provisioned(Progress.READY, f"{len(wanted)} objects are ready, and Cell {order.name} is made", cell)

    async def weigh(self, cell: Cell, weight: int) -> None:
        """The weight alone, whatever became of the template meanwhile.

        Raises Forbidden, Conflict, NotFound, Retryable, Fenced.
        """
        if cell.spec.weight or not weight:
            return
        body = {"metadata": {"uid": cell.metadata.uid}, "spec": {"weight": weight}}
        self._store.put(Cell, await self._home.api.merge_patch(CELLS.path(*cell.key), body))

    async def unweigh(self, cell: Cell) -> None:
        """Its weight is 0 again, so that the Router gives its customers to the others. Raises as `weigh` does."""
        if not cell.spec.weight:
            return
        body = {"metadata": {"uid": cell.metadata.uid}, "spec": {"weight": 0}}
        self._store.put(Cell, await self._home.api.merge_patch(CELLS.path(*cell.key), body))

    # Removing

    async def remove(self, order: Order) -> Sequence[str]:
        """Delete the half-made cell, the Cell first; returns what is still there, and why if that is no matter of time.

        The objects go once the Cell is gone, which is when no router sends it anything. Repeatable. Raises Forbidden
        with what to grant once all else is gone, BadInput for a template that cannot be read any more, Retryable,
        Fenced.
        """
        key = _key(order)
        if self._is_home((key[0], order.source.spec.router_ref.name), order.name):
            return [f"Cell {order.name} is the home of customers, so it and what was made for it stay"]
        sites, ranks = await self._sites(order)
        grounds = _open(key, sites)
        if left := await self._remove_cell(order):
            return [left]
        found: list[tuple[_Site, Object]] = []
        remaining: list[str] = []
        refused: list[RecellError] = []
        for site in sites:
            try:
                found += [(site, obj) for obj in await self._all_of(site, order)]
            except Forbidden as error:
                refused.append(error)
        found.sort(key=lambda each: ranks.get((each[0], each[1]["metadata"]["name"]), -1), reverse=True)
        for site, obj in found:
            try:
                remaining += filter(None, [await self._remove(site, obj)])
            except Forbidden as error:
                refused.append(error)
        if not remaining:
            for ground in grounds:
                ground.made.close(key)
            if refused:
                raise refused[0]
        return remaining

    async def _sites(self, order: Order) -> tuple[list[_Site], dict[tuple[_Site, str], int]]:
        """Where its objects can be, and their places in the template."""
        sites: dict[_Site, None] = {}
        ranks: dict[tuple[_Site, str], int] = {}
        for number, (ground, body) in enumerate(zip(self._grounds(order), _objects(order), strict=True)):
            kinds = [(body["apiVersion"], body["kind"])]
            if kinds[0] == (STATEFUL_SETS.api_version, STATEFUL_SETS.kind):
                kinds.append((CLAIMS.api_version, CLAIMS.kind))
            for api_version, name in kinds:
                try:
                    kind = await ground.discovery.kind(api_version, name)
                except BadInput:
                    continue  # the kind is gone, and so are its objects
                if kind.resource.namespaced:
                    site = _Site(ground, Place(kind, body["metadata"]["namespace"]))
                    sites[site] = None
                    if name == body["kind"]:
                        ranks[site, body["metadata"]["name"]] = number
        return [*sites], ranks

    async def _remove_cell(self, order: Order) -> str:
        """What keeps it; empty when it is gone."""
        item = self._wanted_cell(order)
        live = self._store.raw(Cell, _key(order)) or await self._read(item)
        if live is None:
            return ""
        if not made_for(live, order.name):
            return f"Cell {order.name} was not made from a template, so it and what belongs to it stay"
        if not live["metadata"].get("deletionTimestamp"):
            logger.info("deleting %s", item)
            answer = await self._delete(item.ground, item.path, live)
            if answer is None:
                return ""
            self._store.put(Cell, answer)
        return f"Cell {order.name}, until its Router sends it nothing any more"

    @staticmethod
    async def _all_of(site: _Site, order: Order) -> Sequence[Object]:
        """Those that an older template made as well."""
        labels, place = f"{MADE},{LABEL_CELL}={order.name}", site.place
        try:
            return (await site.ground.api.list(place.kind.resource.collection(place.namespace), labels=labels)).items
        except NotFound:
            return ()
        except RecellError as error:
            raise _explained(error, f"what was made for cell {order.name} cannot be found", site.ground) from error

    async def _remove(self, site: _Site, obj: Object) -> str:
        """What is still there; empty when it is gone."""
        place = site.place
        name, finalizers = obj["metadata"]["name"], obj["metadata"].get("finalizers")
        told = f"{place.kind.resource.kind} {place.namespace}/{name}"
        if obj["metadata"].get("deletionTimestamp"):
            return f"{told} (kept by {listed(finalizers)})" if finalizers else told
        logger.info("deleting %s", told)
        # With its pods, so that what is gone from here does nothing any more.
        propagation = "Foreground" if has_pods(place.kind) else "Background"
        path = place.kind.resource.path(place.namespace, name)
        return told if await self._delete(site.ground, path, obj, propagation) else ""

    @staticmethod
    async def _delete(ground: Ground, path: str, obj: Object, propagation: str = "Background") -> Object | None:
        """The object as it is still there, until its finalizers or its pods are gone."""
        try:
            answer = await ground.api.delete(path, uid=obj["metadata"]["uid"], propagation=propagation)
        except NotFound:
            return None
        except RecellError as error:
            raise _explained(error, "what was made cannot be deleted", ground) from error
        return answer if (answer.get("metadata") or {}).get("deletionTimestamp") else None


def _key(order: Order) -> Key:
    return (order.source.metadata.namespace, order.name)


def _template(order: Order) -> str:
    return f"CellTemplate {order.template.metadata.name}"


def _objects(order: Order) -> list[Object]:
    try:
        return provisioning.objects(order)
    except UnfitTemplate as error:
        raise BadInput(str(error)) from error


def _cell(order: Order) -> Object:
    try:
        return provisioning.cell(order)
    except UnfitTemplate as error:
        raise BadInput(str(error)) from error


def _open(cell: Key, sites: Iterable[_Site]) -> list[Ground]:
    """Watch there; returns the clusters, the one of the first site first."""
    places: dict[Ground, set[Place]] = {}
    for site in sites:
        places.setdefault(site.ground, set()).add(site.place)
    for ground, there in places.items():
        ground.made.open(cell, there)
    return [*places]


def _marked(body: Object) -> Object:
    """With the hash of what is applied, by which the next look knows that it was."""
    content = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:32]
    annotations = (body["metadata"].get("annotations") or {}) | {ANNOTATION_CONTENT: content}
    return body | {"metadata": body["metadata"] | {"annotations": annotations}}


def _differs(item: _Wanted, live: Object | None) -> bool:
    """Has it to be applied? What is being deleted cannot be made again before it is gone."""
    if live is None:
        return True
    annotations = live["metadata"].get("annotations") or {}
    same = annotations.get(ANNOTATION_CONTENT) == item.body["metadata"]["annotations"][ANNOTATION_CONTENT]
    return not same and not live["metadata"].get("deletionTimestamp")


def _require_own(live: Object, item: _Wanted, order: Order) -> None:
    # Not Conflict, after which one reads again: it takes another name.
    if not made_for(live, order.name):
        raise BadInput(
            f"{item.where}: {item} exists and was not made for cell {order.name}, so it is left alone: give it a name"
            " with $(CELL) in it, or delete it if nobody needs it"
        )


def _explained(error: RecellError, where: str, ground: Ground) -> RecellError:
    """The same error with what it is about and, for a missing permission, how it is granted."""
    text = f"{where}: {error}"
    if isinstance(error, Retryable):
        return type(error)(text, after=error.after)
    if isinstance(error, MissingPermission) and ground.foreign:
        text += ". Whoever owns that cluster can grant it to the user of the kubeconfig"
    elif isinstance(error, MissingPermission):
        text += f'. A ClusterRole with that rule and the label {LABEL_AGGREGATE}: "true" grants it'
    return type(error)(text)
