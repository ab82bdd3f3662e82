"""What users write and read: one module per kind, pure pydantic. The CRDs are made from these models."""

from recell.api.cell import Cell
from recell.api.cell_template import CellTemplate
from recell.api.meta import Resource
from recell.api.placement import Placement
from recell.api.recovery_freeze import RecoveryFreeze
from recell.api.recovery_policy import RecoveryPolicy
from recell.api.recovery_run import RecoveryRun
from recell.api.router import Router

KINDS: tuple[type[Resource], ...] = (
    Cell,
    Router,
    Placement,
    RecoveryRun,
    RecoveryPolicy,
    RecoveryFreeze,
    CellTemplate,
)

__all__ = [
    "KINDS",
    "Cell",
    "CellTemplate",
    "Placement",
    "RecoveryFreeze",
    "RecoveryPolicy",
    "RecoveryRun",
    "Resource",
    "Router",
]
