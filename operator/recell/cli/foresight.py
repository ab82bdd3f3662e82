"""What a run that starts would stumble over later, and what it will ask: seen from the objects that are there.

Promises: pure; by the same rules as the steps themselves. Admission starts such a run all the same, and a step of it
fails: a person should know before traffic is moved. What only the operator sees (capacity, backups) is not foreseen.
"""

from collections.abc import Iterator

from recell.api import Cell, CellTemplate, RecoveryPolicy
from recell.api.cell import DataType
from recell.api.failure import Strategy
from recell.api.meta import LABEL_MADE_BY, Model, find_condition
from recell.api.recovery_policy import Gate
from recell.api.router import CustomerData
from recell.cli.fleet import Fleet, router_key
from recell.cli.report import template_problem
from recell.domain import placement, provisioning
from recell.domain.provisioning import Order, UnfitTemplate
from recell.domain.wording import listed

REPLACE, RESTORE, REWIND = (
    Strategy.TRAFFIC_DRAIN_AND_REPLACE,
    Strategy.ISOLATE_AND_RESTORE_FROM_BACKUP,
    Strategy.POINT_IN_TIME_RECOVERY,
)
MAKES_A_CELL = {
    REPLACE: "provision-replacement",
    RESTORE: "provision-replacement",
    REWIND: "create-recovery-environment",
}
"""The step that makes the new cell."""
STOPS_THE_CELL = (*MAKES_A_CELL, Strategy.MANUAL_INTERVENTION)
"""Those that stop it where nothing else keeps it from writing."""
CHOOSES = {RESTORE: "choose-backup", REWIND: "choose-recovery-point"}
"""The step that chooses what to restore from."""


class Foreseen(Model):
    """A step that would fail, with the reason it would give."""

    step: str
    reason: str
    message: str


class Asked(Model):
    """A gate at which the run waits for a person."""

    gate: str
    when: str


def failures(fleet: Fleet, cell: Cell, strategy: Strategy, policy: RecoveryPolicy) -> list[Foreseen]:
    """In the order of the steps."""
    if strategy not in MAKES_A_CELL:
        return []
    found = [*_choice(fleet, cell, strategy), *_new_cell(fleet, cell, strategy, policy), *_data(fleet, cell, strategy)]
    return [Foreseen(step=step, reason=reason, message=message) for step, reason, message in found]


def questions(fleet: Fleet, cell: Cell, strategy: Strategy, policy: RecoveryPolicy) -> list[Asked]:
    """In the order in which they may come."""
    return [*_about_cluster(cell, strategy), *_about_data(fleet, cell, strategy, policy)]


def _about_cluster(cell: Cell, strategy: Strategy) -> list[Asked]:
    """Of a cell in a cluster of its own that cannot be reached now."""
    reach = find_condition(cell.status.conditions, "ClusterReachable")
    gates = {Strategy.CELL_RESTART: "unseen-workloads", **dict.fromkeys(STOPS_THE_CELL, "unfenced-source")}
    if reach is None or reach.status != "False" or strategy not in gates:
        return []
    return [Asked(gate=gates[strategy], when=f"while its cluster cannot be reached ({reach.reason}: {reach.message})")]


def _about_data(fleet: Fleet, cell: Cell, strategy: Strategy, policy: RecoveryPolicy) -> list[Asked]:
    if strategy not in MAKES_A_CELL or (_shared(fleet, cell) and strategy is REPLACE):
        return []
    rpo, jobs = policy.spec.objectives.rpo, cell.spec.data.jobs
    lost = f"more than {rpo} (objectives.rpo) is lost" if rpo else "anything is lost (objectives.rpo is not set)"
    restored = "its customers have to be restored and " if strategy is REPLACE else ""
    asked = [Asked(gate="accept-data-loss", when=f"if {restored}{lost}")]
    if strategy in CHOOSES and not (jobs and jobs.check) and cell.spec.data.integrity is None:
        asked.append(
            Asked(gate="unverified-integrity", when="always: neither data.jobs.check nor data.integrity is set")
        )
    if strategy is REWIND and policy.spec.replacement.promotion_approval is Gate.REQUIRED:
        asked.append(Asked(gate="promote", when="always (replacement.promotionApproval is Required)"))
    return asked


Problem = tuple[str, str, str]
"""Step, reason, message."""


def _shared(fleet: Fleet, cell: Cell) -> bool:
    router = fleet.router_of(cell)
    return router is not None and router.spec.customer_data is CustomerData.SHARED


def _choice(fleet: Fleet, cell: Cell, strategy: Strategy) -> Iterator[Problem]:
    if strategy not in CHOOSES:
        return
    step, jobs, name = CHOOSES[strategy], cell.spec.data.jobs, cell.metadata.name
    if _shared(fleet, cell):
        yield step, "DataIsShared", "the router's cells share their data: it cannot be restored for one of them alone"
    elif not _restored_as_one(cell) and (jobs is None or jobs.inventory is None):
        yield step, "NoInventory", f"Cell {name} names no means to list its backups (spec.data.jobs.inventory)"


def _new_cell(fleet: Fleet, cell: Cell, strategy: Strategy, policy: RecoveryPolicy) -> Iterator[Problem]:
    step, ref, name = MAKES_A_CELL[strategy], cell.spec.template_ref, cell.metadata.name
    if ref is None:
        yield step, "NoTemplate", f"Cell {name} names no template (spec.templateRef): no cell like it can be made"
        return
    if fleet.templates is None:
        return
    template = fleet.template((cell.metadata.namespace, ref.name))
    if template is None:
        yield step, "TemplateMissing", f"CellTemplate {ref.name}, which Cell {name} names, does not exist"
    elif problem := template_problem(template):
        yield step, "ProvisioningFailed", f"CellTemplate {ref.name} was not accepted: {problem.message}"
    elif unfit := _unfit(cell, template):
        yield step, "ProvisioningFailed", unfit
    idle = _idle(fleet, cell)
    most = policy.spec.limits.max_made_cells
    if len(idle) >= most:
        yield (
            step,
            "TooManyMadeCells",
            f"{len(idle)} cells were made here and are the home of nobody ({listed(idle)}), and limits.maxMadeCells is"
            f" {most}: delete those that are not needed",
        )


def _unfit(cell: Cell, template: CellTemplate) -> str | None:
    """What the operator would say when it renders the template for this cell."""
    order = Order(provisioning.name_of(cell, "", provisioning.Purpose.REPLACEMENT), cell, template, "planned")
    try:
        provisioning.objects(order)
        provisioning.cell(order)
    except UnfitTemplate as error:
        return str(error)
    return None


def _idle(fleet: Fleet, cell: Cell) -> list[str]:
    placed = fleet.placement(router_key(cell))
    return sorted(
        other.metadata.name
        for other in fleet.cells_of(router_key(cell))
        if other.metadata.labels.get(LABEL_MADE_BY) == "recell"
        and not (placed and placement.home_share(placed.spec, other.metadata.name))
    )


def _restored_as_one(cell: Cell) -> bool:
    """By a provider that lists and restores backups itself, and restores what it cannot move."""
    return cell.spec.data.type not in (None, DataType.JOBS)


def _data(fleet: Fleet, cell: Cell, strategy: Strategy) -> Iterator[Problem]:
    if _shared(fleet, cell) or _restored_as_one(cell):
        return
    jobs, name = cell.spec.data.jobs, cell.metadata.name
    step = {REPLACE: "move-customers", RESTORE: "restore-customers", REWIND: "restore-data"}[strategy]
    if strategy is REPLACE and (jobs is None or jobs.accessible is None):
        yield step, "NoDataProvider", f"Cell {name} names no means to move its customers (spec.data.jobs.accessible)"
    elif strategy is REPLACE and jobs is not None and jobs.migrate is None:
        yield step, "MigrationFailed", f"Cell {name} names no means to move its customers (spec.data.jobs.migrate)"
    elif strategy in CHOOSES and jobs is not None and jobs.restore is None:
        yield step, "RestoreFailed", f"Cell {name} names no means to restore its customers (spec.data.jobs.restore)"
