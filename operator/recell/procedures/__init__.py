"""The procedures, one file each; a file reads like the runbook that it carries out."""

from collections.abc import Mapping

from recell.engine.procedure import Procedure
from recell.procedures.cascade_recovery import CASCADE_RECOVERY
from recell.procedures.cell_restart import CELL_RESTART
from recell.procedures.isolate_and_restore_from_backup import ISOLATE_AND_RESTORE_FROM_BACKUP
from recell.procedures.manual_intervention import MANUAL_INTERVENTION
from recell.procedures.point_in_time_recovery import POINT_IN_TIME_RECOVERY
from recell.procedures.router_failover import ROUTER_FAILOVER
from recell.procedures.traffic_drain_and_replace import TRAFFIC_DRAIN_AND_REPLACE

PROCEDURES: Mapping[str, Procedure] = {
    procedure.name: procedure
    for procedure in (
        CELL_RESTART,
        TRAFFIC_DRAIN_AND_REPLACE,
        ISOLATE_AND_RESTORE_FROM_BACKUP,
        POINT_IN_TIME_RECOVERY,
        CASCADE_RECOVERY,
        ROUTER_FAILOVER,
        MANUAL_INTERVENTION,
    )
}
"""By strategy. Admission starts that of ManualIntervention only where the policy permits something to be done."""
