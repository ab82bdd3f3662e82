"""Behaving fakes of making, isolating and reaching cells, in the virtual time of a `World`.

A made cell takes `takes` seconds to become ready and is then admitted by its Router as any other Cell; objects,
permissions and pods may be made to fail.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING

from recell.api import Cell, Router
from recell.api.failure import Verdict
from recell.domain import data, placement, provisioning
from recell.domain.observation import ProbeResult
from recell.domain.provisioning import Order, Progress, Provisioned
from recell.engine.errors import RecellError

if TYPE_CHECKING:
    from tests.fakes.world import World


@dataclass
class MadeCell:
    order: Order
    at: datetime
    removing: bool = False


@dataclass
class FakeProvisioner:
    world: "World"
    takes: float = 20.0
    refuses: RecellError | None = None
    """Raised instead of applying anything."""
    keeps: RecellError | None = None
    """Raised instead of taking anything away."""
    fails: str = ""
    """What an object says that cannot become ready."""
    made: dict[str, MadeCell] = field(default_factory=dict)

    async def ensure(self, order: Order) -> Provisioned:
        world = self.world
        world.guard()
        if self.refuses is not None:
            raise self.refuses
        rendered = provisioning.cell(order)
        if order.name not in self.made:
            provisioning.objects(order)
            self.made[order.name] = MadeCell(order, world.clock.now())
            world.add_cell(order.name, rendered["spec"], rendered["metadata"]["labels"])
            world.wrote("provision", f"{order.name} weight {order.weight}")
        if self.fails:
            return Provisioned(Progress.FAILED, self.fails)
        age = (world.clock.now() - self.made[order.name].at).total_seconds()
        if age < self.takes:
            return Provisioned(Progress.IN_PROGRESS, f"Deployment/{order.name}-web: 0 of 2 pods ready")
        return Provisioned(Progress.READY, "", world.cells.get((order.source.metadata.namespace, order.name)))

    async def weigh(self, cell: Cell, weight: int) -> None:
        world = self.world
        world.guard()
        if cell.spec.weight or not weight:
            return
        world.cells[cell.key] = cell.model_copy(update={"spec": cell.spec.model_copy(update={"weight": weight})})
        world.admit()
        world.wrote("provision", f"{cell.metadata.name} weight {weight}")

    async def unweigh(self, cell: Cell) -> None:
        world = self.world
        world.guard()
        if cell.spec.weight:
            world.cells[cell.key] = cell.model_copy(update={"spec": cell.spec.model_copy(update={"weight": 0})})
            world.admit()
            world.wrote("provision", f"{cell.metadata.name} weight 0")

    async def remove(self, order: Order) -> Sequence[str]:
        world = self.world
        world.guard()
        if self.keeps is not None:
            raise self.keeps
        if order.name not in self.made:
            return ()
        if not self.made[order.name].removing:
            self.made[order.name].removing = True
            world.wrote("remove", order.name)
            return (f"Cell/{order.name}",)
        del self.made[order.name]
        world.drop_cell(order.name)
        return ()


@dataclass
class FakeIsolation:
    world: "World"
    enforced: bool = True
    """False: the cluster's network ignores NetworkPolicies."""
    isolated: set[str] = field(default_factory=set)

    async def isolate(self, cell: Cell) -> None:
        self.world.reach(cell)
        if cell.metadata.name not in self.isolated:
            self.isolated.add(cell.metadata.name)
            self.world.wrote("isolate", cell.metadata.name)

    async def lift(self, cell: Cell) -> None:
        self.world.reach(cell)
        if cell.metadata.name in self.isolated:
            self.isolated.remove(cell.metadata.name)
            self.world.wrote("lift", cell.metadata.name)

    async def tried(self, cell: Cell) -> data.Isolated:
        self.world.reach(cell)
        if cell.metadata.name in self.isolated and self.enforced:
            return data.Isolated(Verdict.PASSED, "2 pods were tried, none was reached")
        return data.Isolated(Verdict.FAILED, f"pod {cell.metadata.name}-web-0 was reached on port 8080")


@dataclass
class FakeAccess:
    world: "World"

    async def try_slot(self, router: Router, cell: Cell, slot: int) -> ProbeResult:
        now = self.world.clock.now()
        placed = self.world.placements[router.key].spec
        home = placement.slots_of(placed, cell.metadata.name)
        behaviour = self.world.traffic.cells[cell.metadata.name]
        ok = slot in home and not (behaviour.down or behaviour.hung)
        return ProbeResult(ok=ok, message="HTTP 200" if ok else "HTTP 503", at=now, since=now)
