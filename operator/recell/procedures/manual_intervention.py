"""ManualIntervention: what is done before a failure is left to a person (rule 16).

A cell with corrupted data is kept from everything, so that nobody reads what is wrong, nor writes on it. Nothing is
brought back: however it ends, a person has to act.
"""

from recell.api.failure import Strategy
from recell.engine.procedure import Procedure
from recell.procedures import isolating, returning
from recell.procedures.results import result_of

MANUAL_INTERVENTION = Procedure(
    name=Strategy.MANUAL_INTERVENTION,
    version=1,
    steps=(isolating.ISOLATE_CELL,),
    on_abort=returning.WAY_BACK_FROM_ISOLATION,
    left_to_people=True,
    result=result_of,
)
