"""Words in which failures are described: type, impact, data integrity, verdict, strategy, evidence."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from recell.api.meta import Message, Model


class FailureType(StrEnum):
    """What has failed."""

    SINGLE_CELL = "SingleCell"
    """One cell of its router."""
    MULTIPLE_CELL = "MultipleCell"
    """Two or more cells of a router within multipleCellWindow, at most half of them."""
    ROUTER = "Router"
    """The router itself; its cells may be well."""
    DATA_CORRUPTION = "DataCorruption"
    """The cell's data is corrupted while the cell still serves."""
    SYSTEMIC = "Systemic"
    """More than half of the router's cells at once: a shared cause; nothing is done unasked (rule 10)."""


class Impact(StrEnum):
    """Part of the customers not served: Low under 5 %, High from 5 %, Critical from 50 %."""

    LOW = "Low"
    """Under 5 % of the router's customers."""
    HIGH = "High"
    """From 5 %, under 50 % of the router's customers."""
    CRITICAL = "Critical"
    """From 50 % of the router's customers."""


class DataIntegrity(StrEnum):
    """What is known about a cell's data."""

    INTACT = "Intact"
    """A check of the data passed, not longer ago than its maxAge."""
    CORRUPTED = "Corrupted"
    """A check of the data failed."""
    UNKNOWN = "Unknown"
    """There is no check, or none that is recent and conclusive."""


class Verdict(StrEnum):
    """The result of a check; missing data is Inconclusive: it neither passes nor fails."""

    PASSED = "Passed"
    """As it should be."""
    FAILED = "Failed"
    """Not as it should be."""
    INCONCLUSIVE = "Inconclusive"
    """The figures are missing or too few."""


class Strategy(StrEnum):
    """A recovery procedure, or none."""

    CELL_RESTART = "CellRestart"
    """Drain half of the cell's share, restart its workloads, restore."""
    TRAFFIC_DRAIN_AND_REPLACE = "TrafficDrainAndReplace"
    """Drain the cell, bring up another one, move the customers there."""
    ISOLATE_AND_RESTORE_FROM_BACKUP = "IsolateAndRestoreFromBackup"
    """Keep the cell from traffic and restore its data from a backup."""
    POINT_IN_TIME_RECOVERY = "PointInTimeRecovery"
    """Keep the cell from traffic and bring its data back to a point in time."""
    EMERGENCY_SCALING = "EmergencyScaling"
    """Make the router's healthy cells larger."""
    ACTIVATE_FALLBACK_ROUTING = "ActivateFallbackRouting"
    """Send the customers through the fallback router."""
    MANUAL_INTERVENTION = "ManualIntervention"
    """A person has to act; a corrupted cell is isolated first where the policy permits."""


FOR_ROUTERS = (Strategy.ACTIVATE_FALLBACK_ROUTING, Strategy.EMERGENCY_SCALING)
"""Strategies that a run of a Router carries out; every other procedure is for a Cell."""


class Vantage(StrEnum):
    """From where something was seen; Failed needs the data plane seen from two (rule 12)."""

    CLUSTER = "Cluster"
    """Workloads, pods and endpoints, as the API server tells."""
    OPERATOR = "Operator"
    """The operator's own probe."""
    ROUTER = "Router"
    """The router's health checks and counters."""
    DECLARED = "Declared"
    """A condition that the Cell's spec names as meaning failure."""


class Evidence(Model):
    """One observation, with its number where there is one."""

    check: str = Field(min_length=1, max_length=63, description="Name of the check, kebab-case.")
    vantage: Vantage = Field(description="From where it was seen.")
    verdict: Verdict = Field(description="Passed, Failed or Inconclusive.")
    message: Message = Field(description="What was seen, with number, unit and threshold.")
    since: datetime | None = Field(default=None, description="Since when.")
