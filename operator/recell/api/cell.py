"""Cell: one isolated copy of the service, which serves a share of the customers."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, ClassVar, NamedTuple, Self

from pydantic import Field, model_validator

from recell.api.cell_template import TemplateRef
from recell.api.failure import DataIntegrity, Evidence, FailureType, Impact
from recell.api.meta import (
    AGE,
    ATOMIC,
    INT32_MAX,
    NAME_PATTERN,
    CellName,
    Column,
    Condition,
    ConditionStatus,
    Duration,
    Generation,
    KindInfo,
    Message,
    Model,
    NameRef,
    ObjectName,
    Percent,
    Resource,
    cel,
    list_map,
    rules,
)


def _at_least_a_second(field: str) -> dict[str, Any]:
    """Shorter ones would make the operator a load on the cell that it watches."""
    return cel(f"duration(self.{field}) >= duration('1s')", f"{field} must be at least 1s", fieldPath=f".{field}")


class BackendType(StrEnum):
    SERVICE = "Service"
    """A Service in this cluster."""
    ADDRESS = "Address"
    """A fixed address and port."""


class ServiceBackend(Model):
    """A Service in this cluster."""

    name: ObjectName = Field(description="Name of the Service in the namespace of the cell's workloads.")
    port: int = Field(ge=1, le=65535, description="Port of the Service (its number, not the pod's).")


class AddressBackend(Model):
    """A fixed address."""

    model_config = rules(
        cel(
            "isIP(self.host) || (self.host.matches('[a-z]')"
            " && self.host.matches('^([a-z0-9]([-a-z0-9]*[a-z0-9])?[.])*[a-z0-9]([-a-z0-9]*[a-z0-9])?$'))",
            "host must be an IP address, for example 10.0.0.7, or a host name in lower case",
            fieldPath=".host",
        )
    )

    host: str = Field(
        min_length=1,
        max_length=253,
        description="IP address that the router connects to; a host name only for a Router of type DNS with CNAME"
        " records.",
    )
    port: int = Field(ge=1, le=65535, description="TCP port.")


class Backend(Model):
    """Where the router sends the cell's requests."""

    model_config = rules(
        cel(
            "self.type == 'Service' ? has(self.service) && !has(self.address)"
            " : has(self.address) && !has(self.service)",
            "set exactly the block that type names: service for Service, address for Address",
        )
    )

    type: BackendType = Field(description="Service or Address; says which block is set.")
    service: ServiceBackend | None = Field(default=None, description="A Service in this cluster.")
    address: AddressBackend | None = Field(default=None, description="A fixed address, for a cell elsewhere.")

    @property
    def port(self) -> int:
        block = self.service or self.address
        if block is None:
            raise ValueError("spec.backend: neither service nor address is set")
        return block.port


class WorkloadKind(StrEnum):
    DEPLOYMENT = "Deployment"
    """Restarted by a rollout."""
    STATEFUL_SET = "StatefulSet"
    """Restarted by a rollout, pod by pod."""
    DAEMON_SET = "DaemonSet"
    """Restarted by a rollout, node by node."""
    CRON_JOB = "CronJob"
    """Not restarted, for its next Job starts anew. Stopped by being suspended, with its Jobs that are under way."""


class WorkloadRef(Model):
    """A workload of the cell."""

    model_config = rules(
        cel(
            "(self.kind == 'CronJob') == (self.apiVersion == 'batch/v1')",
            "apiVersion must be batch/v1 for a CronJob, and apps/v1 for every other kind",
            fieldPath=".apiVersion",
        )
    )

    api_version: str = Field(
        pattern="^(apps|batch)/v1$", max_length=8, description="apps/v1, or batch/v1 for a CronJob."
    )
    kind: WorkloadKind = Field(description="Deployment, StatefulSet, DaemonSet or CronJob.")
    name: ObjectName = Field(description="Name, in the namespace of the cell's workloads.")

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"


class ProbeScheme(StrEnum):
    HTTP = "HTTP"
    """Plain HTTP."""
    HTTPS = "HTTPS"
    """HTTP over TLS; the certificate is not verified."""


class HTTPProbe(Model):
    """An HTTP request that the operator sends to the cell's backend."""

    model_config = rules(_at_least_a_second("interval"))

    path: str = Field(
        default="/healthz",
        max_length=256,
        pattern="^/",
        description="Path; any status from 200 to 399 passes.",
    )
    scheme: ProbeScheme = Field(default=ProbeScheme.HTTP, description="HTTP, or HTTPS without verification.")
    interval: Duration = Field(default="5s", description="Time between two probes.")
    timeout: Duration = Field(default="2s", description="A probe without an answer by then has failed.")


class ConditionCheck(Model):
    """A condition of the Cell, set by any other controller, that means the cell has failed."""

    type: str = Field(min_length=1, max_length=316, description="Type of the condition in the Cell's status.")
    status: ConditionStatus = Field(description="The status that means failure.")
    for_: Duration = Field(alias="for", description="How long it has to last, for example 0s or 1m.")


class Health(Model):
    """How the cell's health is seen, beside its workloads and the router's own figures."""

    probe: HTTPProbe | None = Field(default=None, description="HTTP probe of the backend.")
    conditions: list[ConditionCheck] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra=list_map("type", "status"),
        description="Conditions of this Cell, set by other controllers, that mean failure.",
    )


class IntegrityCheck(Model):
    """An HTTP request whose answer says whether the cell's data is intact."""

    model_config = rules(_at_least_a_second("interval"))

    path: str = Field(
        max_length=256,
        pattern="^/",
        description="2xx: intact. 409 or 503: corrupted. Anything else, or no answer: not known.",
    )
    interval: Duration = Field(default="1m", description="Time between two checks.")
    timeout: Duration = Field(default="10s", description="A check without an answer by then is inconclusive.")
    max_age: Duration = Field(
        default="1h", description="An older verdict no longer says anything about the data (rule 16)."
    )


class DataType(StrEnum):
    JOBS = "Jobs"
    """Jobs of your own, made from CronJobs."""
    VOLUME_SNAPSHOTS = "VolumeSnapshots"
    """CSI snapshots of the cell's volumes; everything is restored as one."""
    CLOUD_NATIVE_PG = "CloudNativePG"
    """A PostgreSQL Cluster of CloudNativePG, its backups and archived WAL; everything is restored as one."""
    VELERO = "Velero"
    """Backups by Velero, with CSI snapshots of the cell's volumes; everything is restored as one."""


ClaimName = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
"""Of a claim or Schedule that is told apart by a label's value."""


class DataJobs(Model):
    """CronJobs, usually suspended, in the namespace of the cell's workloads: each operation is a Job made from one."""

    inventory: ObjectName | None = Field(default=None, description="Lists the backups.")
    accessible: ObjectName | None = Field(default=None, description="Says whether the cell's data can be read.")
    migrate: ObjectName | None = Field(default=None, description="Copies customers to another cell.")
    restore: ObjectName | None = Field(default=None, description="Restores customers from a backup to another cell.")
    check: ObjectName | None = Field(default=None, description="Checks the integrity of a cell's data.")
    backup: ObjectName | None = Field(default=None, description="Makes a backup.")
    abandon: ObjectName | None = Field(default=None, description="Undoes a migration that was not routed.")


class VolumeSnapshots(Model):
    """Volumes with the cell's data. A cell that is made from a template names its own, in the same order."""

    claims: list[ObjectName] = Field(
        min_length=1,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="PersistentVolumeClaims in the namespace of the cell's workloads.",
    )
    class_name: ObjectName | None = Field(
        default=None, description="VolumeSnapshotClass of the snapshots that are made; the cluster's default if unset."
    )


class CloudNativePG(Model):
    """The cell's database."""

    cluster: str = Field(
        min_length=1,
        max_length=50,
        pattern=NAME_PATTERN,
        description="Cluster (postgresql.cnpg.io) in the namespace of the cell's workloads.",
    )


class Velero(Model):
    """Volumes with the cell's data, and the Velero that backs them up. A cell that is made from a template names claims
    of its own, in the same order."""

    model_config = rules(
        cel(
            "self.claims.all(c, self.claims.exists_one(d, d == c))",
            "each claim may be named once",
            fieldPath=".claims",
        )
    )

    claims: list[ClaimName] = Field(
        min_length=1,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="PersistentVolumeClaims in the namespace of the cell's workloads, with CSI volumes. Velero's"
        " snapshots are found again by the label recell.dev/claim, with the claim's name as its value.",
    )
    namespace: ObjectName = Field(
        default="velero", description="Namespace of Velero's server, its Backups and Restores."
    )
    storage_location: ObjectName | None = Field(
        default=None, description="BackupStorageLocation of the Backups that are made; Velero's default if unset."
    )
    ttl: Duration | None = Field(
        default=None, description="How long Velero keeps the Backups that are made; its default if unset (720h)."
    )
    schedules: list[ClaimName] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="Velero Schedules whose Backups hold these claims; others are found by the label recell.dev/cell.",
    )


def _block(name: str, type_: DataType) -> str:
    return f"has(self.{name}) == (has(self.type) && self.type == '{type_}')"


class Data(Model):
    """What is known about the cell's data, and how it is moved and restored."""

    model_config = rules(
        cel(
            f"{_block('volumeSnapshots', DataType.VOLUME_SNAPSHOTS)}"
            f" && {_block('cloudNativePG', DataType.CLOUD_NATIVE_PG)}"
            f" && {_block('velero', DataType.VELERO)}"
            " && (!has(self.type) ? !has(self.jobs) : self.type != 'Jobs' || has(self.jobs))",
            "set the block that type names: jobs for Jobs, volumeSnapshots for VolumeSnapshots, cloudNativePG for"
            " CloudNativePG, velero for Velero; jobs may stand beside another one",
        ),
        cel(
            "!has(self.type) || self.type == 'Jobs' || !has(self.jobs) || !(has(self.jobs.inventory)"
            " || has(self.jobs.restore) || has(self.jobs.backup))",
            "inventory, restore and backup are done by what type names: leave them out of jobs",
            fieldPath=".jobs",
        ),
        cel(
            "!has(self.type) || self.type == 'Jobs' || !has(self.jobs)"
            " || has(self.jobs.migrate) == has(self.jobs.accessible)",
            "jobs.migrate and jobs.accessible go together: customers are moved by Jobs while the data can be read",
            fieldPath=".jobs",
        ),
    )

    integrity: IntegrityCheck | None = Field(default=None, description="HTTP check of the data's integrity.")
    type: DataType | None = Field(
        default=None, description="How data is moved and restored; says which block is set. Unset: people do it."
    )
    jobs: DataJobs | None = Field(
        default=None,
        description="Jobs of your own; beside another type for what that cannot do: accessible, migrate, abandon,"
        " check.",
    )
    volume_snapshots: VolumeSnapshots | None = Field(default=None, description="Volumes with the cell's data.")
    cloud_native_pg: CloudNativePG | None = Field(
        default=None, alias="cloudNativePG", description="The cell's database."
    )
    velero: Velero | None = Field(default=None, description="Volumes with the cell's data, backed up by Velero.")


class Capacity(Model):
    """What the cell can bear; without it every capacity check about this cell is inconclusive."""

    requests_per_second: int | None = Field(
        default=None, ge=1, le=10_000_000, description="Requests per second that the cell bears."
    )
    customers: int | None = Field(default=None, ge=1, le=INT32_MAX, description="Customers that the cell has room for.")


KUBECONFIG = "kubeconfig"
"""Default key in a Secret."""


class KubeconfigSecretRef(Model):
    """A Secret with a kubeconfig."""

    name: ObjectName = Field(description="Name of the Secret, in the namespace of the Cell.")
    key: str = Field(
        default=KUBECONFIG,
        min_length=1,
        max_length=253,
        pattern="^[-._a-zA-Z0-9]+$",
        description="Key of the kubeconfig in the Secret; Cluster API and Flux use value.",
    )


class CellCluster(Model):
    """The cluster of the cell's workloads."""

    kubeconfig_secret_ref: KubeconfigSecretRef = Field(
        description="How the operator gets there. The Secret is watched: credentials are rotated by its content."
        " A kubeconfig that runs programs (exec, auth-provider) or names files is refused."
    )


class SecretKey(NamedTuple):
    """One entry of a Secret."""

    namespace: str
    name: str
    key: str

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.name} (key {self.key})"


class CellSpec(Model):
    """What the cell is, and how it is watched and recovered."""

    model_config = rules(
        cel(
            "!has(self.cluster) || self.backend.type == 'Address'",
            "a cell in a cluster of its own needs backend type Address: the router reaches no Service of another"
            " cluster by its name",
            fieldPath=".backend.type",
        ),
        cel(
            "has(self.cluster) == has(oldSelf.cluster) && (!has(self.cluster)"
            " || (self.cluster.kubeconfigSecretRef.name == oldSelf.cluster.kubeconfigSecretRef.name"
            " && self.cluster.kubeconfigSecretRef.key == oldSelf.cluster.kubeconfigSecretRef.key))",
            "cluster is immutable: rotate credentials by the content of the Secret, or make a new Cell",
            fieldPath=".cluster",
        ),
        cel(
            "self.routerRef.name == oldSelf.routerRef.name",
            "routerRef is immutable: make a new Cell instead",
            fieldPath=".routerRef",
        ),
        cel(
            "has(self.__namespace__) == has(oldSelf.__namespace__)"
            " && (!has(self.__namespace__) || self.__namespace__ == oldSelf.__namespace__)",
            "namespace is immutable: make a new Cell instead",
            fieldPath=".namespace",
        ),
    )

    router_ref: NameRef = Field(description="The Router that this cell belongs to.")
    weight: int = Field(
        default=100,
        ge=0,
        le=1000,
        description="Share of the customers relative to the router's other cells; 0 gets none.",
    )
    backend: Backend = Field(description="Where the router sends the cell's requests.")
    namespace: ObjectName | None = Field(
        default=None,
        description="Namespace of the workloads and the Service; the Cell's own if unset. Another one"
        " needs the label recell.dev/fleet with the Cell's namespace as its value; in another cluster it always does.",
    )
    cluster: CellCluster | None = Field(
        default=None, description="Cluster of the workloads, if that is not the one of the Cell."
    )
    workloads: list[WorkloadRef] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra=ATOMIC,
        description="The cell's workloads, in the order in which they are restarted.",
    )
    priority: int = Field(default=100, ge=0, le=1000, description="Cells of higher priority are recovered first.")
    capacity: Capacity = Field(default=Capacity(), description="What the cell can bear.")
    health: Health = Field(default=Health(), description="How the cell's health is seen.")
    data: Data = Field(default=Data(), description="What is known about the cell's data.")
    template_ref: TemplateRef | None = Field(
        default=None, description="How a cell like this one is made. Without it the cell cannot be replaced."
    )
    policy_ref: NameRef | None = Field(
        default=None, description="RecoveryPolicy; else the Router's, else the one named default."
    )
    paused: bool = Field(default=False, description="No automatic run is started for this cell.")


class CellPhase(StrEnum):
    JOINING = "Joining"
    """Not yet admitted by its router, or not yet healthy for the first time."""
    HEALTHY = "Healthy"
    """All checks pass."""
    DEGRADED = "Degraded"
    """Serves, but a check fails that alone does not make a cell Failed."""
    FAILED = "Failed"
    """Does not serve its customers; a recovery is due."""
    RECOVERING = "Recovering"
    """A RecoveryRun works on it."""
    ISOLATED = "Isolated"
    """Kept from all traffic until somebody returns it."""
    RETIRED = "Retired"
    """Out of service for good; another cell has taken its place."""
    UNKNOWN = "Unknown"
    """Too little is known to say."""


class Share(Model):
    """The cell's part of its router's slots, from Placement."""

    asked: Percent = Field(description="What Placement says.")
    applied: Percent | None = Field(
        default=None, description="What every serving router pod has applied; absent while not known."
    )


class Failure(Model):
    """Why the cell counts as failed or degraded."""

    type: FailureType = Field(description="Kind of failure.")
    impact: Impact = Field(description="How much of the router's customers it touches.")
    data_integrity: DataIntegrity = Field(description="What is known about the cell's data.")
    since: datetime = Field(description="First evidence.")
    evidence: list[Evidence] = Field(
        default_factory=list, max_length=32, json_schema_extra=ATOMIC, description="What was seen."
    )


class Blocked(Model):
    """Why no automatic run is started."""

    reason: str = Field(max_length=64, description="CamelCase reason.")
    message: Message = Field(description="What has to change, and who can do it.")


class CellRecovery(Model):
    """The cell's recoveries."""

    active_run: str | None = Field(default=None, max_length=253, description="RecoveryRun that works on it.")
    last_run: str | None = Field(default=None, max_length=253, description="RecoveryRun that ended last.")
    attempts: int = Field(default=0, ge=0, le=INT32_MAX, description="Runs counted in the policy's window.")
    next_allowed_at: datetime | None = Field(default=None, description="End of the cooldown.")
    blocked: Blocked | None = Field(default=None, description="Why no automatic run is started.")


class CellStatus(Model):
    """What the operator found; for reading only."""

    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )
    phase: CellPhase | None = Field(default=None, description="Summary of the cell's state.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra=list_map("type"),
        description="Accepted, Ready, Available, Performing, DataIntact, ClusterReachable of a cell in a cluster of"
        " its own, those of other controllers, and of a retired cell DeletionBlocked and RemoveFromGit.",
    )
    share: Share | None = Field(default=None, description="The cell's part of the router's slots.")
    failure: Failure | None = Field(
        default=None, description="Set while Degraded or Failed, and until it is known to be over."
    )
    recovery: CellRecovery | None = Field(default=None, description="The cell's recoveries.")


class Cell(Resource):
    """One isolated copy of the service."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="Cell",
        plural="cells",
        short_names=("rcell",),
        columns=(
            Column("Router", ".spec.routerRef.name"),
            Column("Phase", ".status.phase"),
            Column("Share", ".status.share.asked"),
            Column("Applied", ".status.share.applied"),
            Column("Run", ".status.recovery.activeRun"),
            AGE,
        ),
        selectable=(".status.phase", ".spec.routerRef.name"),
        spec_rules=(
            cel(
                "self.metadata.name.size() <= 63 && !self.metadata.name.contains('.')",
                "a Cell's name is also a label value: at most 63 characters, no dots",
            ),
        ),
    )

    spec: CellSpec = Field(description="What the cell is.")
    status: CellStatus = Field(default_factory=CellStatus, description="What the operator found.")

    @property
    def workload_namespace(self) -> str:
        return self.spec.namespace or self.metadata.namespace

    @property
    def kubeconfig(self) -> SecretKey | None:
        """Where the way to its cluster is; None: it is in the cluster of the Cell."""
        if self.spec.cluster is None:
            return None
        ref = self.spec.cluster.kubeconfig_secret_ref
        return SecretKey(self.metadata.namespace, ref.name, ref.key)

    @model_validator(mode="after")
    def _named(self) -> Self:
        if self.metadata.name and len(self.metadata.name) > 63:
            raise ValueError("metadata.name: at most 63 characters")
        return self


__all__ = ["Cell", "CellName", "CellPhase", "CellSpec", "CellStatus"]
