"""The Router controller: keeps the data plane running and Placement true to the cells that there are.

Promises
- Cells join, change and leave in one write; a cell is admitted only with an address and, after the very
  start, only once it was healthy (rule 2).
- A Placement that is missing although it was made before is not invented anew: the Router waits for a
  person. One that came back from a backup is put above everything that its pods have seen.
- Health alone moves no traffic unless the Router says `onUnhealthy: Shift` (rule 11), and then only
  while the cause is not likely shared (rule 10).
- Deleting a Router or a Cell never drops customers silently (rule 25).
"""

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from recell.api import Cell, Placement, Router
from recell.api.cell import CellPhase
from recell.api.meta import ANNOTATION_FORCE, ANNOTATION_PLACEMENT_UID, FINALIZER, find_condition
from recell.api.placement import REJECT, Holder, PlacementSpec, decode_table
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.api.router import CellCounts, OnUnhealthy, RouterStatus, RouterType
from recell.controllers import status
from recell.controllers.finalizers import drop_finalizer, namespace_ends
from recell.controllers.observer import CellObserver, states_of
from recell.controllers.programming import MOMENT, Programming
from recell.controllers.router_recovery import Told
from recell.controllers.switchboard import PlacementSwitchboard
from recell.domain import placement, runs, shedding, shift
from recell.domain.capabilities import capabilities_with
from recell.domain.health import Level
from recell.domain.placement import Candidate, Routing
from recell.domain.reach import out_of_reach, unfit
from recell.engine.errors import PERMANENT, BadInput, Conflict, Forbidden, NotFound
from recell.engine.ports import Clock, Key, Leadership
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import CELLS, ROUTERS
from recell.providers.kube.store import KubeStore

log = logging.getLogger(__name__)

STALLING = frozenset(
    {
        *("PlacementMissing", "NoWeight", "TooManyCells", "StillHome"),
        *("BadInput", "Forbidden", "MissingPermission", "Reverted"),
    }
)
"""Reasons for which nothing goes on until a person changes something."""
_PLACES = {RouterType.HAPROXY: "pods", RouterType.GATEWAY: "Gateways", RouterType.DNS: "name servers"}
"""Where customers come in."""
LOOK_AGAIN = 5.0
"""Seconds until something is looked at that no watch brings."""


class Cluster(Protocol):
    def address_of(self, cell: Cell) -> tuple[str, int]: ...

    def public_addresses_of(self, cell: Cell) -> Sequence[tuple[str, int]]: ...


class DataPlane(Protocol):
    """The pods that route."""

    async def ensure(self, router: Router) -> None:
        """The router's objects are as its spec says; no write when they are.

        Raises Forbidden with what to grant, BadInput with the field, Reverted, Conflict, Retryable.
        """
        ...

    async def tell(self, router: Key, placement: Placement | None) -> None:
        """What the pods should have; None when the Router is gone. Raises as `ensure`."""
        ...

    def serving(self, router: Key) -> int:
        """Pods that customers' requests may reach."""
        ...

    def complaint(self, router: Key) -> str:
        """What the pods refuse, and why; empty when they have what they should."""
        ...

    def progress(self, router: Key) -> str:
        """How far the newest Placement is, for people; empty where no more is known than whether it is in force."""
        ...

    def unseen(self, router: Key) -> str:
        """Why traffic cannot be observed that is to be; empty if nothing is known to be wrong."""
        ...


class Recoveries(Protocol):
    """The router's own failure and runs."""

    async def look(self, router: Router) -> Told: ...

    def forget(self, router: Key) -> None: ...


class Storms(Protocol):
    """Failures of several cells at once."""

    async def detect(self, router: Router, cells: Mapping[str, Cell]) -> None: ...


class Dependencies(Protocol):
    """What all cells of a router share."""

    def watch(self, router: Key, policy: RecoveryPolicySpec) -> None: ...

    def drop(self, router: Key) -> None: ...


class Standby(Protocol):
    """The router's fallback."""

    async def keep(self, router: Router, cells: Mapping[str, Cell]) -> None: ...

    async def agree(self, router: Router) -> None: ...

    def serving(self, router: Key) -> int: ...

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, status.Wanted]: ...


class Overload(Protocol):
    """What answers in place of the cells, where the data plane cannot turn requests away by itself."""

    async def ensure(self, router: Router) -> None: ...

    async def tidy(self, router: Router) -> None: ...

    def conditions(self, router: Router, placed: Placement | None) -> dict[str, status.Wanted]: ...


class Outranking(Leadership, Protocol):
    def outrank(self, epoch: int) -> None: ...


class Events(Protocol):
    def emit(self, obj: Object, reason: str, message: str, *, warning: bool = False) -> None: ...


async def _trouble(made: Awaitable[None]) -> tuple[str, str] | None:
    """Reason and message of what only a person can change; it is shown, and the rest goes on."""
    try:
        await made
    except PERMANENT as error:
        return (error.reason, str(error))
    return None


class RouterController:
    def __init__(
        self,
        clock: Clock,
        api: Api,
        store: KubeStore,
        cluster: Cluster,
        data_plane: DataPlane,
        observer: CellObserver,
        programming: Programming,
        switchboard: PlacementSwitchboard,
        leadership: Outranking,
        events: Events,
        recoveries: Recoveries,
        standby: Standby,
        overload: Overload,
        storms: Storms,
        dependencies: Dependencies,
    ) -> None:
        self._clock = clock
        self._api = api
        self._store = store
        self._cluster = cluster
        self._data_plane = data_plane
        self._observer = observer
        self._programming = programming
        self._switchboard = switchboard
        self._leadership = leadership
        self._events = events
        self._recoveries = recoveries
        self._storms = storms
        self._dependencies = dependencies
        self._standby = standby
        self._overload = overload

    async def reconcile(self, key: Key) -> float | None:
        router = self._store.router(key)
        if router is None:
            await self._data_plane.tell(key, None)
            self._programming.forget(key)
            self._recoveries.forget(key)
            self._dependencies.drop(key)
            return None
        cells = self._store.cells_of(key)
        if router.metadata.deletion_timestamp is not None:
            return await self._leave(router, cells)
        await self._ensure_finalizer(ROUTERS.path(*key), router)
        unmade = await _trouble(self._data_plane.ensure(router))
        unmade = unmade or await _trouble(self._overload.ensure(router))
        trouble = await self._ensure_placement(self._store.router(key) or router, cells)
        placed = self._switchboard.current(key)
        router, cells = self._store.router(key) or router, self._store.cells_of(key)
        if placed is not None:
            untold = await _trouble(self._data_plane.tell(key, placed))
            trouble = trouble or untold
            await self._let_cells_go(router, cells, placed)
        unmade = unmade or await _trouble(self._standby.keep(router, cells))
        unmade = unmade or await _trouble(self._overload.tidy(router))
        await self._standby.agree(router)
        placed = self._switchboard.current(key)
        self._dependencies.watch(key, self._store.router_policy(key).spec)
        await self._storms.detect(router, cells)
        told = await self._recoveries.look(router)
        await self._show(router, cells, placed, unmade or trouble, told)
        waits = (
            LOOK_AGAIN,
            told.again,
            MOMENT if self._programming.under_way(key) else None,
            self._until_expiry(placed),
        )
        return min(wait for wait in waits if wait is not None)

    def _until_expiry(self, placed: Placement | None) -> float | None:
        """Seconds until something is to be turned away no longer: not every data plane ends that by itself."""
        shed = [item.expires_at for item in placed.spec.shedding] if placed is not None else []
        opened = [item.expires_at for item in placed.spec.open_circuits] if placed is not None else []
        ends = min((*shed, *opened), default=None)
        return max(MOMENT, (ends - self._clock.now()).total_seconds()) if ends is not None else None

    # --- placement -------------------------------------------------------------------------------

    async def _ensure_placement(self, router: Router, cells: Mapping[str, Cell]) -> tuple[str, str] | None:
        """Placement says what the cells are now. Returns reason and message of what keeps it from that."""
        placed = self._switchboard.current(router.key)
        known = router.metadata.annotations.get(ANNOTATION_PLACEMENT_UID)
        if placed is None:
            if known:
                return (
                    "PlacementMissing",
                    f"Placement {router.metadata.name} (UID {known}) is gone, and with it which customers are where."
                    f" Restore it from a backup, or start anew with: recell placement init {router.metadata.name}",
                )
            return await self._first_placement(router, cells)
        if placed.metadata.uid != known:
            if known:
                self._leadership.outrank(max(placed.spec.epoch, self._leadership.epoch))
            await self._remember(router, placed.metadata.uid)
        elif placed.spec.epoch > self._leadership.epoch:
            self._leadership.outrank(placed.spec.epoch)
        refused: list[str] = []

        def change(spec: PlacementSpec) -> PlacementSpec:
            refused.clear()
            return self._true_to(placement.raise_epoch(spec, self._leadership.epoch), router, cells, refused)

        try:
            await self._switchboard.change(router.key, change)
        except BadInput as error:
            return ("BadInput", str(error))
        if refused:
            return ("CellsRefused", "; ".join(refused))
        return None

    async def _first_placement(self, router: Router, cells: Mapping[str, Cell]) -> tuple[str, str] | None:
        wanted = router.spec.haproxy.initial_cells if router.spec.haproxy else []
        missing = sorted(set(wanted) - set(cells))
        if missing:
            return ("WaitingForCells", f"spec.haproxy.initialCells: there are no Cells {', '.join(missing)} yet")
        candidates, unreachable = [], []
        for name in wanted or sorted(cells):
            candidate = self._candidate(router, cells[name])
            if isinstance(candidate, str):
                unreachable.append(candidate)
            else:
                candidates.append(candidate)
        if unreachable and (wanted or not candidates):
            return ("WaitingForCells", "; ".join(unreachable))
        if not candidates:
            return ("NoCells", f"No Cell names this Router in spec.routerRef ({router.metadata.name})")
        for candidate in candidates:
            await self._ensure_finalizer(CELLS.path(router.metadata.namespace, candidate.name), cells[candidate.name])
        try:
            spec = placement.initial(Routing.of(router), candidates, epoch=self._leadership.epoch)
        except placement.RouterFull as error:
            return ("TooManyCells", str(error))
        except ValueError as error:
            return ("NoWeight", str(error))
        try:
            made = await self._switchboard.create(router.key, spec)
        except Conflict:
            return ("WaitingForPlacement", "The Placement was made by somebody else just now")
        await self._remember(router, made.metadata.uid)
        return None

    def _true_to(
        self, spec: PlacementSpec, router: Router, cells: Mapping[str, Cell], refused: list[str]
    ) -> PlacementSpec:
        """Pure but for what is known of the cells: the Placement that fits them."""
        routing = Routing.of(router)
        spec = placement.resize(spec, routing)
        listed = {placed.name: placed for placed in spec.cells}
        nobody = all(cell.spec.weight == 0 for cell in cells.values())  # then the table stays as it is
        for name in sorted(listed):
            cell = cells.get(name)
            if cell is None or cell.metadata.deletion_timestamp is not None:
                force = cell is None or cell.metadata.annotations.get(ANNOTATION_FORCE) == "true"
                try:
                    spec = placement.remove(spec, routing, name, force=force)
                except placement.StillHome as error:
                    refused.append(str(error))
        for name, cell in sorted(cells.items()):
            if cell.metadata.deletion_timestamp is not None:
                continue
            if name not in listed and not self._may_join(cell):
                continue
            candidate = self._candidate(router, cell)
            if isinstance(candidate, str):
                refused.append(candidate)
                continue
            if nobody and name in listed:
                candidate = replace(candidate, weight=listed[name].weight)
            if name in listed and placement.as_listed(candidate, listed[name]):
                continue
            try:
                spec = placement.admit(spec, routing, candidate)
            except (placement.UnknownProvenance, placement.RouterFull) as error:
                refused.append(str(error))
        spec = self._shifted(spec, routing, router, cells)
        spec = shedding.without_expired(spec, self._clock.now())
        return placement.reroute(spec, routing)

    def _may_join(self, cell: Cell) -> bool:
        """After the start, only a cell that was seen healthy, and that has its finalizer, gets customers."""
        state = self._observer.health(cell.key)
        return state is not None and state.level is Level.HEALTHY and FINALIZER in cell.metadata.finalizers

    def _candidate(self, router: Router, cell: Cell) -> Candidate | str:
        if why := out_of_reach(router, cell):
            return why
        public = router.spec.type is RouterType.DNS
        try:
            places = self._cluster.public_addresses_of(cell) if public else (self._cluster.address_of(cell),)
        except (BadInput, NotFound, Forbidden) as error:
            return f"Cell {cell.metadata.name}: {error}" if public else str(error)
        address, port = next((place for place in places if not unfit(router, cell, place[0])), places[0])
        if why := unfit(router, cell, address):
            return why
        return Candidate(
            name=cell.metadata.name, uid=cell.metadata.uid, address=address, port=port, weight=cell.spec.weight
        )

    def _shifted(
        self, spec: PlacementSpec, routing: Routing, router: Router, cells: Mapping[str, Cell]
    ) -> PlacementSpec:
        holder = Holder(kind="Router", name=router.metadata.name, uid=router.metadata.uid)
        if router.spec.on_unhealthy is not OnUnhealthy.SHIFT:
            return placement.release(spec, routing, holder=holder)
        states, broken = states_of(self._observer, cells), self._observer.broken(router.key)
        return shift.shifted(spec, routing, cells, states, broken, holder=holder, now=self._clock.now())

    async def _remember(self, router: Router, uid: str) -> None:
        body = {"metadata": {"uid": router.metadata.uid, "annotations": {ANNOTATION_PLACEMENT_UID: uid}}}
        self._store.put(Router, await self._api.merge_patch(ROUTERS.path(*router.key), body))

    # --- leaving ---------------------------------------------------------------------------------

    async def _ensure_finalizer(self, path: str, obj: Router | Cell) -> None:
        if FINALIZER in obj.metadata.finalizers or obj.metadata.deletion_timestamp is not None:
            return
        body = {
            "metadata": {
                "resourceVersion": obj.metadata.resource_version,
                "finalizers": [*obj.metadata.finalizers, FINALIZER],
            }
        }
        self._store.put(type(obj), await self._api.merge_patch(path, body))

    async def _let_cells_go(self, router: Router, cells: Mapping[str, Cell], placed: Placement) -> None:
        """Cells that are new get their finalizer; deleted ones lose it once no pod sends them anything."""
        namespace = router.metadata.namespace
        in_force = self._programming.in_force(router.key)
        listed = {c.name for c in placed.spec.cells}
        # Name servers that are silent do not mean that nobody has an answer of theirs.
        unserved = self._data_plane.serving(router.key) == 0 and router.spec.type is not RouterType.DNS

        def forced(cell: Cell) -> bool:
            return cell.metadata.annotations.get(ANNOTATION_FORCE) == "true"

        for name, cell in cells.items():
            path = CELLS.path(namespace, name)
            if cell.metadata.deletion_timestamp is None:
                await self._ensure_finalizer(path, cell)
            elif (name not in listed and (in_force or unserved or forced(cell))) or (
                name in listed and await namespace_ends(self._api, namespace)
            ):
                await drop_finalizer(self._api, path, cell)

    async def _leave(self, router: Router, cells: Mapping[str, Cell]) -> float | None:
        """A deleted Router stays as long as customers depend on it. Its Placement stays in any case."""
        path = ROUTERS.path(*router.key)
        forced = router.metadata.annotations.get(ANNOTATION_FORCE) == "true"
        placed = self._switchboard.current(router.key)
        homes = any(home != REJECT for home in decode_table(placed.spec.homes)) if placed else False
        if forced or not homes or not cells or await namespace_ends(self._api, router.metadata.namespace):
            for name, cell in cells.items():
                if cell.metadata.deletion_timestamp is not None:
                    await drop_finalizer(self._api, CELLS.path(router.metadata.namespace, name), cell)
            await drop_finalizer(self._api, path, router)
            return None
        trouble = (
            "StillHome",
            f"Customers of {len(cells)} cells are served by this Router. Delete its Cells first, or set the"
            f" annotation {ANNOTATION_FORCE}=true to cut them off",
        )
        if placed is not None:
            await _trouble(self._data_plane.ensure(router))  # its customers may still have to be moved
            await _trouble(self._data_plane.tell(router.key, placed))
        await self._show(router, cells, placed, trouble, Told(router.status.failure, router.status.recovery, None))
        return LOOK_AGAIN

    # --- what is shown ---------------------------------------------------------------------------

    async def _show(
        self,
        router: Router,
        cells: Mapping[str, Cell],
        placed: Placement | None,
        trouble: tuple[str, str] | None,
        told: Told,
    ) -> None:
        generation = router.metadata.generation
        conditions = status.conditions(
            router.status.conditions,
            self._conditions(router, cells, placed, trouble),
            generation,
            self._clock.now(),
        )
        wanted = RouterStatus(
            observed_generation=generation,
            mode=placed.spec.mode.value if placed else None,
            verification=router.spec.verification,
            capabilities=list(capabilities_with(router.spec, conditions)),
            cells=self._counts(cells.values()),
            failure=told.failure,
            recovery=told.recovery,
            conditions=conditions,
        )
        answer = await status.show(self._api, self._store, router, wanted)
        if answer is None:
            return
        before = {c.type: c.status for c in router.status.conditions}
        for condition in wanted.conditions:
            if condition.type in ("Ready", "Stalled") and before.get(condition.type) != condition.status:
                bad = (condition.type == "Ready") != (condition.status == "True")
                if condition.type == "Ready" or condition.status == "True":
                    self._events.emit(answer, condition.reason, condition.message or condition.reason, warning=bad)

    def _conditions(
        self,
        router: Router,
        cells: Mapping[str, Cell],
        placed: Placement | None,
        trouble: tuple[str, str] | None,
    ) -> dict[str, status.Wanted]:
        pods = self._data_plane.serving(router.key)
        was = find_condition(router.status.conditions, "Programmed")
        programmed = self._programming.in_force(router.key) or (
            was is not None and was.status == "True" and self._programming.under_way(router.key)
        )
        complaint = self._data_plane.complaint(router.key)
        ready, reason, message = self._ready(router, cells, placed, trouble, complaint)
        orphans = self._orphans(router, placed)
        lost = trouble is not None and trouble[0] in STALLING
        progress = self._data_plane.progress(router.key)
        pending = f"{pods} {_PLACES[router.spec.type]} serve; the newest Placement is not in force in all of them"
        found: dict[str, status.Wanted] = {
            "Accepted": (trouble is None, trouble[0] if trouble else "Accepted", trouble[1] if trouble else ""),
            "Ready": (ready, reason, message),
            "Programmed": (
                programmed,
                "Programmed" if programmed else "Pending",
                progress if programmed or progress else pending,
            ),
            "PlacementStale": (bool(complaint), "Refused" if complaint else "UpToDate", complaint),
            **self._turned_away(placed),
            **self._overload.conditions(router, placed),
            **self._standby.conditions(router, placed),
            "OrphanedHold": (bool(orphans), "HolderGone" if orphans else "None", orphans),
            "Stalled": (lost, trouble[0] if trouble and lost else "None", trouble[1] if trouble and lost else ""),
            "Reconciling": (not programmed and not lost, "Programming" if not programmed else "Done", ""),
        }
        if unseen := self._data_plane.unseen(router.key):
            found["TrafficUnseen"] = (True, "NoFigures", unseen)
        return found

    def _turned_away(self, placed: Placement | None) -> dict[str, status.Wanted]:
        """What the router turns away because a run asked for it. Without the time of its end, which is renewed."""
        now = self._clock.now()
        shed = [item for item in placed.spec.shedding if item.expires_at > now] if placed else []
        opened = [item for item in placed.spec.open_circuits if item.expires_at > now] if placed else []
        amounts = "; ".join(f"{item.percent} % of {item.class_} for {item.holder.name}" for item in shed)
        circuits = "; ".join(f"{item.percent} % of {item.cell} for {item.holder.name}" for item in opened)
        return {
            "Shedding": (bool(shed), "Overload" if shed else "None", amounts[:1024]),
            "CircuitsOpen": (bool(opened), "CellsSpared" if opened else "None", circuits[:1024]),
        }

    def _ready(
        self,
        router: Router,
        cells: Mapping[str, Cell],
        placed: Placement | None,
        trouble: tuple[str, str] | None,
        complaint: str,
    ) -> tuple[bool, str, str]:
        pods, places = self._data_plane.serving(router.key), _PLACES[router.spec.type]
        if placed is None:
            return (False, *(trouble or ("NoPlacement", "There is no Placement yet")))
        if placed.spec.fallback is not None:
            pods, behind = self._standby.serving(router.key), len(placed.spec.fallback.order)
            if pods == 0:
                return (False, "NoRouterPods", "No fallback pod is ready: no customer is served")
            return (True, "FallbackServes", f"{pods} fallback pods serve {behind} cells")
        if pods == 0 and router.spec.type is RouterType.HAPROXY:
            return (False, "NoRouterPods", "No router pod is ready: no customer is served")
        if pods == 0:
            why = trouble[1] if trouble else complaint or self._data_plane.progress(router.key)
            reason = "NotResolved" if router.spec.type is RouterType.DNS else "NotAccepted"
            return (False, reason, f"No customer is served: {why or 'none has taken up the route of the router yet'}")
        healthy = [name for name, cell in cells.items() if self._level(cell) is not Level.FAILED]
        if not healthy:
            return (False, "NoHealthyCell", "Every cell has failed; everyone is served at home, as far as cells answer")
        if cells and all(cell.spec.weight == 0 for cell in cells.values()):
            return (True, "AllWeightsZero", "Every Cell has spec.weight 0: the table stays as it was")
        if router.spec.on_unhealthy is OnUnhealthy.SHIFT:
            states, broken = states_of(self._observer, cells), self._observer.broken(router.key)
            if why := shift.obstacle(placed.spec, cells, states, broken):
                return (True, "SharedCause", f"{why}: the cause is likely shared, so Shift moves nobody away from home")
        return (True, "Serving", f"{pods} {places} serve {len(placed.spec.cells)} cells")

    def _orphans(self, router: Router, placed: Placement | None) -> str:
        """Holds that nobody works on any more: the share stays (rule 25), and is said."""
        if placed is None:
            return ""

        def living(holder: Holder) -> bool:
            if holder.kind == "Router":
                return holder.uid == router.metadata.uid
            return runs.at_work(holder, self._store.run((router.metadata.namespace, holder.name)))

        left = placement.orphaned(placed.spec, living)
        return "; ".join(
            f"cell {h.cell} is held at {h.max_percent} % by the ended {h.holder.kind} {h.holder.name}:"
            f" recell return {h.cell}"
            for h in left
        )

    def _level(self, cell: Cell) -> Level | None:
        state = self._observer.health(cell.key)
        return state.level if state else None

    @staticmethod
    def _counts(cells: Iterable[Cell]) -> CellCounts:
        phases = [cell.status.phase for cell in cells]
        return CellCounts(
            total=len(phases),
            healthy=phases.count(CellPhase.HEALTHY),
            failed=phases.count(CellPhase.FAILED),
            recovering=phases.count(CellPhase.RECOVERING),
        )
