"""What every kind shares: names of the group, text formats, conditions, CEL rules.

Promises: pure pydantic, no I/O, no clock. A value that is outside its format is refused
with the field's name (`ValueError`), never corrected silently.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "recell.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

LABEL_CELL = f"{GROUP}/cell"
"""On a workload, Service or pod template: the Cell that owns it."""
LABEL_ROUTER = f"{GROUP}/router"
LABEL_INCIDENT = f"{GROUP}/incident"
LABEL_MADE_BY = f"{GROUP}/made-by"
LABEL_TARGET_KIND = f"{GROUP}/target-kind"
LABEL_TARGET = f"{GROUP}/target"
LABEL_ORIGIN = f"{GROUP}/origin"
"""On a cell that the operator made, and on its objects: the first cell of its line."""
LABEL_DATA_JOB = f"{GROUP}/data-job"
"""On the pods of data jobs: the only ones that reach an isolated cell."""
LABEL_BACKUP = f"{GROUP}/backup"
"""On VolumeSnapshots that belong together: name of the backup that they are, one for each claim of a cell."""
LABEL_CLAIM = f"{GROUP}/claim"
"""On a PersistentVolumeClaim that Velero backs up: its own name, by which the snapshot of it is known."""
LABEL_FLEET = f"{GROUP}/fleet"
"""On a namespace: the fleet namespace whose Cells may name workloads in it."""
LABEL_AGGREGATE = f"{GROUP}/aggregate-to-operator"
"""On a ClusterRole: "true" gives its rules to the operator, for the kinds that templates make."""
ANNOTATION_CONTENT = f"{GROUP}/content"
"""On an object that the operator made: hash of what was applied last."""
ANNOTATION_STARTED_UID = f"{GROUP}/started-uid"
"""On a RecoveryRun that was started: the UID it had then. Another UID means a restored copy."""
ANNOTATION_TARGET_UID = f"{GROUP}/target-uid"
"""On a RecoveryRun that the operator made: the UID of its target. It is never meant for another one."""
ANNOTATION_RUN_HISTORY = f"{GROUP}/run-history"
"""On a Cell: names and spec hashes of the runs it had, so that a run made anew is not executed again."""
ANNOTATION_PLACEMENT_UID = f"{GROUP}/placement-uid"
"""On a Router: the UID of its Placement; with this set, a missing Placement waits for a person."""
ANNOTATION_RESTART = f"{GROUP}/restarted-by"
"""On a pod template: the run and step whose restart it is; the same value twice restarts once."""
ANNOTATION_STOP = f"{GROUP}/stopped-by"
"""On a workload: the run and step by which it was scaled to zero."""
ANNOTATION_REPLICAS = f"{GROUP}/replicas-before"
"""On a workload that was scaled to zero: the replicas that it had."""
ANNOTATION_SUSPEND = f"{GROUP}/suspend-before"
"""On a CronJob or Job that was suspended: whether it was before."""
ANNOTATION_RETIRED = f"{GROUP}/retired"
"""On a Cell that was replaced: by whom, and what is proven about that (JSON, `domain.decommission.Retirement`)."""
ANNOTATION_REQUEST = f"{GROUP}/request"
"""On a data Job, VolumeSnapshot, restored claim, Backup, Restore or recovering Cluster: digest of what was asked for;
another request under its name is refused."""
ANNOTATION_RESTORE = f"{GROUP}/restore"
"""On a Cell whose claims are made anew from snapshots: the request, and each claim as it is to be (JSON)."""
ANNOTATION_REPLACED_CLUSTER = f"{GROUP}/replaced-cluster"
"""On a Cell: its empty database Cluster (JSON) while one takes its place that recovers a backup."""
ANNOTATION_FORCE = f"{GROUP}/force"
"""On a Cell or Router that is being deleted: "true" lets it go although it still has home slots."""
ANNOTATION_ACKNOWLEDGE = f"{GROUP}/acknowledge"
"""On a Cell: the name of an ended run whose block on automatic recovery a person lifts."""
FINALIZER = f"{GROUP}/finalizer"

DURATION_PATTERN = r"^([0-9]{1,5}(h|m|s|ms)){1,4}$"
PERCENT_PATTERN = r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)%$"
NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
LABEL_NAME_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"

_DURATION_PART = re.compile(r"([0-9]{1,5})(ms|h|m|s)")
_UNIT_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}

Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=24)]
"""A GEP-2257 duration: `30s`, `15m`, `1h30m`, `168h`."""
Percent = Annotated[str, Field(pattern=PERCENT_PATTERN, max_length=7)]
"""A percentage as text, never a float: `50%`, `99.5%`."""
ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=NAME_PATTERN)]
CellName = Annotated[str, Field(min_length=1, max_length=63, pattern=LABEL_NAME_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=r"^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$")]
Message = Annotated[str, Field(max_length=1024)]
INT32_MAX = 2**31 - 1
Generation = Annotated[int, Field(ge=0)]
"""A counter of the API server or of leaders: int64."""


@lru_cache(maxsize=1024)
def seconds(duration: str) -> float:
    """A `Duration` in seconds. Raises ValueError with the text that is wrong."""
    if not re.fullmatch(DURATION_PATTERN, duration):
        raise ValueError(f"{duration!r} is not a duration such as 30s, 15m or 1h30m")
    return sum(int(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(duration))


@lru_cache(maxsize=1024)
def fraction(percent: str) -> float:
    """A `Percent` as a fraction of one. Raises ValueError with the text that is wrong."""
    if not re.fullmatch(PERCENT_PATTERN, percent):
        raise ValueError(f"{percent!r} is not a percentage such as 50% or 99.5%")
    return float(percent.removesuffix("%")) / 100


def percent_text(value: float) -> str:
    """A fraction of one as a `Percent`, to a tenth: 0.3333 -> "33.3%"."""
    return f"{round(value * 100, 1):g}%"


def duration_text(value: float) -> str:
    """Seconds for people: 90 -> "1m30s", 0.25 -> "250ms"."""
    if 0 < value < 0.9995:
        return f"{round(value * 1000)}ms"
    left = round(value)
    parts = []
    for size, unit in ((3600, "h"), (60, "m"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC, to the second, as metav1.Time is written."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Model(BaseModel):
    """Base of every API type: camelCase outside, unknown fields of newer versions ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form: aliases, no absent optional field."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def cel(rule: str, message: str, **extra: str) -> dict[str, Any]:
    """One CEL validation of a schema node."""
    return {"rule": rule, "message": message, **extra}


def rules(*validations: dict[str, Any], **schema: Any) -> ConfigDict:
    """A model's configuration that carries CEL validations into its CRD schema."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": list(validations), **schema})


ATOMIC: dict[str, Any] = {"x-kubernetes-list-type": "atomic"}


def list_map(*keys: str) -> dict[str, Any]:
    """Schema keys of a list that is merged by these keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class ConditionStatus(StrEnum):
    TRUE = "True"
    """It is so."""
    FALSE = "False"
    """It is not so."""
    UNKNOWN = "Unknown"
    """Nobody can say."""


class Condition(Model):
    """A metav1.Condition."""

    type: str = Field(min_length=1, max_length=316, description="Name of the condition in CamelCase.")
    status: ConditionStatus = Field(description="True, False or Unknown.")
    reason: str = Field(default="", max_length=1024, description="Machine-readable reason in CamelCase.")
    message: str = Field(default="", max_length=32768, description="What a person needs to know.")
    last_transition_time: datetime | None = Field(default=None, description="When status last changed.")
    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )


class NameRef(Model):
    """A reference to an object in the same namespace."""

    name: ObjectName = Field(description="Name of the object, in the same namespace.")


class ObjectMeta(Model):
    """What Recell reads of an object's metadata; writing goes through dicts, so nothing is lost."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    finalizers: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Column:
    """One additionalPrinterColumn."""

    name: str
    json_path: str
    type: str = "string"
    priority: int = 0
    description: str = ""


@dataclass(frozen=True)
class KindInfo:
    """What a CRD says about its kind beside the schema."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    selectable: tuple[str, ...] = ()
    has_status: bool = True
    spec_rules: tuple[Mapping[str, Any], ...] = ()
    """CEL rules on the object's root (they see spec as `self.spec`)."""


AGE = Column("Age", ".metadata.creationTimestamp", "date")


class Resource(Model):
    """A custom resource of the group; subclasses add `spec`, `status` and `INFO`."""

    INFO: ClassVar[KindInfo]

    metadata: ObjectMeta = Field(default_factory=ObjectMeta)

    @property
    def key(self) -> tuple[str, str]:
        return (self.metadata.namespace, self.metadata.name)


def set_condition(
    conditions: list[Condition],
    now: datetime,
    *,
    type: str,
    status: ConditionStatus | bool,
    reason: str,
    message: str = "",
    generation: int | None = None,
) -> list[Condition]:
    """A new list with this condition in it; the transition time moves only when the status does."""
    value = status if isinstance(status, ConditionStatus) else ConditionStatus("True" if status else "False")
    old = find_condition(conditions, type)
    since = old.last_transition_time if old and old.status == value else None
    new = Condition(
        type=type,
        status=value,
        reason=reason,
        message=message,
        last_transition_time=since or now.replace(microsecond=0),
        observed_generation=generation,
    )
    if old is None:
        return [*conditions, new]
    return [new if c.type == type else c for c in conditions]


def find_condition(conditions: list[Condition], type: str) -> Condition | None:
    return next((c for c in conditions if c.type == type), None)


def is_true(conditions: list[Condition], type: str) -> bool:
    found = find_condition(conditions, type)
    return found is not None and found.status == ConditionStatus.TRUE
