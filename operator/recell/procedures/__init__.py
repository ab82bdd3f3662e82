"""The procedures, one file each; a file reads like the runbook that it carries out."""

from collections.abc import Mapping

from recell.engine.procedure import Procedure
from recell.procedures.cell_restart import CELL_RESTART
from recell.procedures.traffic_drain_and_replace import TRAFFIC_DRAIN_AND_REPLACE

PROCEDURES: Mapping[str, Procedure] = {
    procedure.name: procedure for procedure in (CELL_RESTART, TRAFFIC_DRAIN_AND_REPLACE)
}
"""By strategy. A strategy without a procedure ends in manual intervention."""
