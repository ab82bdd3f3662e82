"""Behaving fakes of the Routers and Switch ports: the Router `shop`, its fallback, and whom customers reach.

Pods answer, hang or are gone; the operator asks through each way in; the agents tell; health and failure are derived
as the product derives them. It counts how often customers are seen without service.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from recell.api import Router
from recell.api.cell import Failure
from recell.api.failure import Evidence
from recell.api.fallback import SwitchType
from recell.api.meta import seconds
from recell.api.placement import PlacementMode, decode_table
from recell.api.recovery_policy import RecoveryPolicySpec
from recell.domain import fallback, health, placement, router_health
from recell.domain.fallback import Table
from recell.domain.health import HealthState
from recell.domain.observation import (
    Asked,
    FallbackState,
    Landed,
    Pods,
    PrimaryState,
    Processes,
    RouterObservation,
)
from recell.engine.ports import Key

if TYPE_CHECKING:
    from tests.fakes.world import World

KEY = ("fleet", "shop")


class FakeSwitch:
    """Implements `recell.engine.ports.Switch`: one that stands on the customers' way."""

    def __init__(self, routers: "FakeRouters", type: SwitchType) -> None:
        self._routers = routers
        self.type = type
        self.name = f"the fake {type}"
        self.side = PlacementMode.PRIMARY
        self.stuck = ""
        """Why it cannot move anybody."""
        self.deaf = False
        """It says that it moved, and customers stay where they are."""
        self.takes = 0.0
        """Seconds until customers go where it sends them."""
        self._moved_at = float("-inf")

    @property
    def leads_to(self) -> PlacementMode:
        """Where customers go by it, as it is by now."""
        away = PlacementMode.FALLBACK if self.side is PlacementMode.PRIMARY else PlacementMode.PRIMARY
        return PlacementMode.PRIMARY if self.deaf else away if self._still() else self.side

    def obstacle(self, router: Router) -> str:
        return self.stuck

    def at(self, router: Key) -> PlacementMode | None:
        return self.side

    async def to(self, router: Router, side: PlacementMode) -> None:
        self._routers.guard()
        if self.side is not side:
            self.side, self._moved_at = side, self._routers.clock()
            self._routers.wrote(f"{'' if self.type is SwitchType.SERVICE else f'{self.type} '}{side}")

    def within(self, router: Router) -> float:
        return 2 * self.takes

    async def pending(self, router: Router) -> str:
        return f"{self.name} takes its time" if self._still() else ""

    async def land(self, router: Router, customers: Sequence[str]) -> Sequence[Landed]:
        return await self._routers.land(router, self._routers.reached, customers)

    def _still(self) -> bool:
        return self._routers.clock() < self._moved_at + self.takes


class FakeRouters:
    """Implements `recell.engine.ports.Routers`."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.desired = 2
        self.gone = 0
        self.hung = 0
        self.cut_off = False
        """The operator's own requests get nowhere."""
        self.heals_on_restart = True
        self.heals_when_new = True
        self.takes = 8.0
        """Seconds from a restart until the pods answer."""
        self.fallback_pods = 2
        self.fallback_table: Table | None = None
        """As its pods have it; they get another one when the world is looked at."""
        self.frozen = False
        """The fallback's pods get no other table."""
        self.switch = FakeSwitch(self, SwitchType.SERVICE)
        self.switches = [self.switch]
        self.reached = PlacementMode.PRIMARY
        self.uid = "primary-1"
        self.token: str | None = None
        self.restarts = 0
        self.renewals = 0
        self._back_at: float | None = None
        self._asked: dict[PlacementMode | None, list[tuple[float, bool]]] = {}
        self.state: HealthState | None = None
        self.without_service = 0
        """Looks at which customers got no answer."""

    def fail(self, *, gone: int = 0, hung: int = 0) -> None:
        """So many pods are not there, and so many have a process that does nothing: the kubelet has seen that, and the
        agent beside it tells. None at all: the router is well."""
        self.gone, self.hung, self._back_at = gone, hung, None
        self._world.traffic.pods = self.answering

    @property
    def answering(self) -> int:
        return max(0, self.desired - self.gone - self.hung)

    def answers(self, side: PlacementMode) -> bool:
        if side is PlacementMode.PRIMARY:
            return self.answering > 0
        return self.fallback_pods > 0 and self.fallback_table is not None

    # --- time

    def look(self) -> None:
        """As the Router's controller does; whenever the world is looked at."""
        world, now = self._world, self._world.clock.monotonic()
        if self._back_at is not None and now >= self._back_at:
            self.fail()
        self._keep_table()
        away = any(switch.leads_to is PlacementMode.FALLBACK for switch in self.switches)
        self.reached = PlacementMode.FALLBACK if away else PlacementMode.PRIMARY
        if not self.answers(self.reached):
            self.without_service += 1
        for side in (None, *PlacementMode):
            samples = self._asked.setdefault(side, [])
            ok = self.answers(side or self.reached) and not self.cut_off
            samples += [(now, ok), (now, ok)]
            self._asked[side] = [sample for sample in samples if sample[0] > now - 60]
        self.state = health.advance(
            self.state, self.evidence(), self._policy, world.clock.now(), judge=router_health.judged
        )

    def _keep_table(self) -> None:
        world = self._world
        router, placed = world.routers.get(KEY), world.placements.get(KEY)
        if router is None or placed is None or not router.spec.has_fallback or self.frozen:
            return
        cells = {name: cell for (_, name), cell in world.cells.items()}
        known = self.fallback_table.order if self.fallback_table is not None else ()
        found = fallback.table_of(placed.spec, placement.Routing.of(router), cells, (), known)
        self.fallback_table = found or self.fallback_table

    # --- what is seen

    def _recent(self, side: PlacementMode | None) -> Asked | None:
        window, now = seconds(self._policy.detection.window), self._world.clock.now()
        recent = [ok for at, ok in self._asked.get(side, ()) if at > self._world.clock.monotonic() - window]
        return Asked(len(recent), recent.count(False), "no answer within 2 s", now, now) if recent else None

    def seen(self) -> RouterObservation:
        world = self._world
        window = seconds(self._policy.detection.window)
        placed = world.placements.get(KEY)
        relieved = any(switch.side is PlacementMode.FALLBACK for switch in self.switches) or (
            placed is not None and placed.spec.mode is PlacementMode.FALLBACK
        )
        return RouterObservation(
            asked=self._recent(PlacementMode.PRIMARY if relieved else None),
            pods=Pods(self.desired, self.answering),
            processes=Processes(self.desired - self.gone, self.answering) if self.desired > self.gone else None,
            traffic=world.traffic.observed(KEY, window=window),
            usual=world.traffic.observed(KEY, window=router_health.USUAL),
            relieved=relieved,
        )

    def evidence(self) -> tuple[Evidence, ...]:
        return router_health.assess(self.seen(), self._policy, self._world.clock.now())

    def health(self, router: Key) -> HealthState | None:
        return self.state

    def failure(self, router: Key) -> Failure | None:
        return router_health.derive(self.state, self.evidence(), self.seen(), self._world.clock.now())

    def fallback(self, router: Key) -> FallbackState | None:
        table = self.fallback_table
        if table is None:
            return None
        return FallbackState(
            table.order,
            table.id,
            Pods(2, self.fallback_pods),
            current=True,
            asked=self._recent(PlacementMode.FALLBACK),
        )

    def primary(self, router: Key) -> PrimaryState | None:
        return PrimaryState(self.uid, self.token, Pods(self.desired, self.answering), rolled_out=self._back_at is None)

    def fenced(self, router: Key) -> bool:
        if self.desired == self.gone:
            return True
        placed, applied = self._world.placements[KEY], self._world.traffic.applied(KEY)
        return (
            self.hung == 0
            and applied is not None
            and applied.covers(placed.metadata.uid, placed.spec.epoch, placed.metadata.generation)
        )

    # --- what is done

    async def restart(self, router: Router, token: str) -> None:
        self._world.guard()
        if self.token == token:
            return
        self.token = token
        self.restarts += 1
        if self.heals_on_restart:
            self._back_at = self._world.clock.monotonic() + self.takes
        self._world.wrote("restart", "router")

    async def renew(self, router: Router, uid: str) -> None:
        self._world.guard()
        if self.uid != uid:
            return
        self.uid, self.token = f"{uid}-new", None
        self.renewals += 1
        self.fail(gone=self.desired)
        if self.heals_when_new:
            self._back_at = self._world.clock.monotonic() + self.takes
        self._world.wrote("renew", "router")

    async def land(self, router: Router, side: PlacementMode, customers: Sequence[str]) -> Sequence[Landed]:
        return [self._landed(customer, side) for customer in customers]

    def _landed(self, customer: str, side: PlacementMode) -> Landed:
        if not self.answers(side):
            return Landed(customer, None, None, "no connection within 2 s")
        if side is PlacementMode.PRIMARY or self.fallback_table is None:
            return self._by_primary(customer)
        table, cells = self.fallback_table, self._world.traffic.cells
        down = [replace(e, out=e.out or cells[e.name].down) for e in table.entries]
        cell = Table(tuple(down), table.homes, table.pins).cell_of(customer)
        if cell is None:
            return Landed(customer, 503, None, "status 503 no-cell")
        status = 500 if cells[cell].error_rate >= 1 else 200
        return Landed(customer, status, cell, f"status {status}")

    def _by_primary(self, customer: str) -> Landed:
        spec = self._world.placements[KEY].spec
        names = {cell.index: cell.name for cell in spec.cells}
        target = decode_table(spec.serving)[placement.slot_of(customer, spec.slots)]
        down = target not in names or self._world.traffic.cells[names[target]].down
        return Landed(customer, 503 if down else 200, None, f"status {503 if down else 200}")

    # --- for its switches

    def clock(self) -> float:
        return self._world.clock.monotonic()

    def guard(self) -> None:
        self._world.guard()

    def wrote(self, what: str) -> None:
        self._world.wrote("switch", what)

    @property
    def _policy(self) -> RecoveryPolicySpec:
        return self._world.policies["fleet", "default"].spec
