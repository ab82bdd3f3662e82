"""Where the API server keeps each resource that Recell reads or writes.

Promises: pure values; the only place where a group, a version or a plural is spelled out.
"""

from dataclasses import dataclass

from recell.api import Cell, CellTemplate, Placement, RecoveryFreeze, RecoveryPolicy, RecoveryRun, Router
from recell.api import Resource as Model
from recell.api.cell import WorkloadKind
from recell.api.meta import GROUP, VERSION


@dataclass(frozen=True)
class Resource:
    """One resource type of the API server."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str
    namespaced: bool = True

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        """As in RBAC rules and kubectl: `deployments.apps`, `pods`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def collection(self, namespace: str = "") -> str:
        """Path of all objects, of one namespace or ("") of all."""
        prefix = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace and self.namespaced:
            prefix += f"/namespaces/{namespace}"
        return f"{prefix}/{self.plural}"

    def path(self, namespace: str, name: str, subresource: str = "") -> str:
        """Path of one object; the namespace is ignored where the resource has none."""
        if not name or (self.namespaced and not namespace):
            raise ValueError(f"{self.kind} {namespace}/{name}: name or namespace is empty")
        path = f"{self.collection(namespace)}/{name}"
        return f"{path}/{subresource}" if subresource else path

    def status(self, namespace: str, name: str) -> str:
        return self.path(namespace, name, "status")


def _own(model: type[Model]) -> Resource:
    return Resource(GROUP, VERSION, model.INFO.plural, model.INFO.kind)


CELLS = _own(Cell)
ROUTERS = _own(Router)
PLACEMENTS = _own(Placement)
RUNS = _own(RecoveryRun)
POLICIES = _own(RecoveryPolicy)
FREEZES = _own(RecoveryFreeze)
TEMPLATES = _own(CellTemplate)
OWN: dict[type[Model], Resource] = {
    Cell: CELLS,
    Router: ROUTERS,
    Placement: PLACEMENTS,
    RecoveryRun: RUNS,
    RecoveryPolicy: POLICIES,
    RecoveryFreeze: FREEZES,
    CellTemplate: TEMPLATES,
}

DEPLOYMENTS = Resource("apps", "v1", "deployments", "Deployment")
STATEFUL_SETS = Resource("apps", "v1", "statefulsets", "StatefulSet")
DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet")
CRON_JOBS = Resource("batch", "v1", "cronjobs", "CronJob")
JOBS = Resource("batch", "v1", "jobs", "Job")
WORKLOADS: dict[WorkloadKind, Resource] = {
    WorkloadKind.DEPLOYMENT: DEPLOYMENTS,
    WorkloadKind.STATEFUL_SET: STATEFUL_SETS,
    WorkloadKind.DAEMON_SET: DAEMON_SETS,
    WorkloadKind.CRON_JOB: CRON_JOBS,
}

CNPG_CLUSTERS = Resource("postgresql.cnpg.io", "v1", "clusters", "Cluster")
CNPG_BACKUPS = Resource("postgresql.cnpg.io", "v1", "backups", "Backup")
VELERO_BACKUPS = Resource("velero.io", "v1", "backups", "Backup")
VELERO_RESTORES = Resource("velero.io", "v1", "restores", "Restore")

NAMESPACES = Resource("", "v1", "namespaces", "Namespace", namespaced=False)
PODS = Resource("", "v1", "pods", "Pod")
SERVICES = Resource("", "v1", "services", "Service")
CLAIMS = Resource("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim")
CONFIG_MAPS = Resource("", "v1", "configmaps", "ConfigMap")
SECRETS = Resource("", "v1", "secrets", "Secret")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts", "ServiceAccount")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice")
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease")
EVENTS = Resource("events.k8s.io", "v1", "events", "Event")
NETWORK_POLICIES = Resource("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy")
DISRUPTION_BUDGETS = Resource("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget")
DNS_ENDPOINTS = Resource("externaldns.k8s.io", "v1alpha1", "dnsendpoints", "DNSEndpoint")
HTTP_ROUTES = Resource("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute")
GATEWAYS = Resource("gateway.networking.k8s.io", "v1", "gateways", "Gateway")
VOLUME_SNAPSHOTS = Resource("snapshot.storage.k8s.io", "v1", "volumesnapshots", "VolumeSnapshot")
ROLES = Resource("rbac.authorization.k8s.io", "v1", "roles", "Role")
ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding")


@dataclass(frozen=True)
class Place:
    """What a path points at, as RBAC sees it."""

    group: str
    resource: str
    """With the subresource, as RBAC rules name it: `cells/status`."""
    namespace: str
    name: str

    def __str__(self) -> str:
        plural, _, subresource = self.resource.partition("/")
        text = f"{plural}.{self.group}" if self.group else plural
        text += f" {self.namespace}/{self.name}" if self.namespace and self.name else f" {self.namespace}{self.name}"
        return f"{text.rstrip()} ({subresource})" if subresource else text.rstrip()


def parse(path: str) -> Place:
    """The inverse of `Resource.path` and `collection`, for messages."""
    parts = path.strip("/").split("/")
    group, rest = (parts[1], parts[3:]) if parts[0] == "apis" else ("", parts[2:])
    namespace = ""
    if len(rest) > 2 and rest[0] == "namespaces":
        namespace, rest = rest[1], rest[2:]
    resource = rest[0] if rest else ""
    if len(rest) > 2:
        resource = f"{resource}/{rest[2]}"
    return Place(group, resource, namespace, rest[1] if len(rest) > 1 else "")
