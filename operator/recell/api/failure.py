"""Words in which failures are described: type, impact, data integrity, verdict, strategy, evidence."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from recell.api.meta import Message, Model


class FailureType(StrEnum):
    SINGLE_CELL = "SingleCell"
    MULTIPLE_CELL = "MultipleCell"
    ROUTER = "Router"
    DATA_CORRUPTION = "DataCorruption"
    SYSTEMIC = "Systemic"
    """More than half of the router's cells at once: a shared cause; nothing is done unasked (rule 10)."""


class Impact(StrEnum):
    """Part of the customers not served: Low under 5 %, High from 5 %, Critical from 50 %."""

    LOW = "Low"
    HIGH = "High"
    CRITICAL = "Critical"


class DataIntegrity(StrEnum):
    INTACT = "Intact"
    CORRUPTED = "Corrupted"
    UNKNOWN = "Unknown"


class Verdict(StrEnum):
    """The result of a check; missing data is Inconclusive: it neither passes nor fails."""

    PASSED = "Passed"
    FAILED = "Failed"
    INCONCLUSIVE = "Inconclusive"


class Strategy(StrEnum):
    CELL_RESTART = "CellRestart"
    TRAFFIC_DRAIN_AND_REPLACE = "TrafficDrainAndReplace"
    ISOLATE_AND_RESTORE_FROM_BACKUP = "IsolateAndRestoreFromBackup"
    POINT_IN_TIME_RECOVERY = "PointInTimeRecovery"
    EMERGENCY_SCALING = "EmergencyScaling"
    ACTIVATE_FALLBACK_ROUTING = "ActivateFallbackRouting"
    MANUAL_INTERVENTION = "ManualIntervention"


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

    check: str = Field(max_length=63, description="Name of the check, kebab-case.")
    vantage: Vantage = Field(description="From where it was seen.")
    verdict: Verdict = Field(description="Passed, Failed or Inconclusive.")
    message: Message = Field(description="What was seen, with number, unit and threshold.")
    since: datetime | None = Field(default=None, description="Since when.")
