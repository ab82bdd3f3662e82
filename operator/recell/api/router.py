"""Router: sends each customer to a cell."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from recell.api.meta import (
    AGE,
    ATOMIC,
    CellName,
    Column,
    Condition,
    KindInfo,
    Model,
    NameRef,
    Resource,
    cel,
    list_map,
    rules,
)


class RouterType(StrEnum):
    HAPROXY = "HAProxy"


class CustomerData(StrEnum):
    SHARED = "Shared"
    IN_CELL = "InCell"


class OffHome(StrEnum):
    REJECT = "Reject"
    READ_ONLY = "ReadOnly"


class OnUnhealthy(StrEnum):
    IGNORE = "Ignore"
    SHIFT = "Shift"


class KeySource(StrEnum):
    HEADER = "Header"
    COOKIE = "Cookie"
    HOST = "Host"
    PATH_SEGMENT = "PathSegment"


class WhenAbsent(StrEnum):
    REJECT = "Reject"
    CLIENT_ADDRESS = "ClientAddress"


class CustomerKey(Model):
    """Where a request says which customer it is from."""

    model_config = rules(
        cel(
            "self.type in ['Header', 'Cookie'] == has(self.name)",
            "name is the header's or cookie's name: set it for type Header and Cookie only",
        ),
        cel(
            "(self.type == 'PathSegment') == has(self.segment)",
            "segment is the number of the path segment: set it for type PathSegment only",
        ),
    )

    type: KeySource = Field(description="Header, Cookie, Host or PathSegment.")
    name: str | None = Field(
        default=None, max_length=64, pattern="^[A-Za-z0-9_-]+$", description="Name of the header or cookie."
    )
    segment: int | None = Field(
        default=None, ge=1, le=16, description="Path segment, counted from 1: /tenants/acme has acme as 2."
    )
    when_absent: WhenAbsent = Field(
        default=WhenAbsent.REJECT,
        description="A request without key: Reject (400), or ClientAddress (the client's address is the key).",
    )


class Pin(Model):
    """A customer whose cell is fixed by name instead of by hash."""

    customer: str = Field(
        min_length=1,
        max_length=256,
        pattern=r"^[!-~]+$",
        description="The customer key: printable ASCII, no spaces.",
    )
    cell: CellName = Field(description="Name of the Cell.")


class ServiceType(StrEnum):
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class RouterService(Model):
    type: ServiceType = Field(default=ServiceType.CLUSTER_IP, description="Type of the Service.")
    port: int = Field(default=80, ge=1, le=65535, description="Port that customers connect to.")
    node_port: int | None = Field(default=None, ge=1, le=65535, description="Fixed node port.")


class HAProxy(Model):
    """The built-in router, run by the operator."""

    model_config = rules(
        cel("self.slots in [1024, 2048, 4096, 8192, 16384]", "slots must be a power of two from 1024 to 16384"),
        cel("self.slots == oldSelf.slots || self.slots == oldSelf.slots * 2", "slots may only double"),
    )

    customer_key: CustomerKey = Field(description="Where a request says which customer it is from.")
    slots: int = Field(
        default=1024,
        ge=1024,
        le=16384,
        description="Customers are hashed into this many slots; a power of two; may only double.",
    )
    pins: list[Pin] = Field(
        default_factory=list,
        max_length=256,
        json_schema_extra=list_map("customer"),
        description="Customers with a cell of their own choice.",
    )
    initial_cells: list[CellName] = Field(
        default_factory=list,
        max_length=819,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Cells among which all customers are divided at the very start. Required with"
        " customerData InCell, where a cell that joins later gets no customers by itself.",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Image of the router; the operator's default if unset.",
    )
    replicas: int = Field(default=2, ge=1, le=50, description="Router pods.")
    service: RouterService = Field(default=RouterService(), description="The Service that customers use.")


class RouterSpec(Model):
    model_config = rules(
        cel("self.type == oldSelf.type", "type is immutable: make a new Router instead"),
        cel(
            "self.customerData == oldSelf.customerData",
            "customerData is immutable: make a new Router instead",
        ),
        cel("self.type != 'HAProxy' || has(self.haproxy)", "type HAProxy needs the block haproxy"),
        cel(
            "self.customerData == 'InCell' || !has(self.offHome)",
            "offHome says what customers get whose cell is out: it is for customerData InCell only",
        ),
        cel(
            "self.customerData != 'InCell' || !has(self.haproxy) || size(self.haproxy.initialCells) > 0",
            "customerData InCell needs haproxy.initialCells: say which cells the customers' data is in",
        ),
        cel(
            "self.customerData != 'InCell' || self.onUnhealthy == 'Ignore'",
            "onUnhealthy Shift needs customerData Shared: other cells do not have the customers' data",
        ),
    )

    type: RouterType = Field(description="How traffic is routed: HAProxy.")
    customer_data: CustomerData = Field(
        description="Shared: any cell can serve any customer. InCell: a customer's data is in the customer's cell."
    )
    off_home: OffHome | None = Field(
        default=None,
        description="With InCell: what a customer gets whose cell is out: Reject (default) or ReadOnly elsewhere.",
    )
    on_unhealthy: OnUnhealthy = Field(
        default=OnUnhealthy.IGNORE,
        description="May health alone, without a run, move traffic? Ignore: no. Shift: away from failed cells.",
    )
    policy_ref: NameRef | None = Field(
        default=None, description="RecoveryPolicy; else the one named default, else built in (mode Observe)."
    )
    haproxy: HAProxy | None = Field(default=None, description="The built-in router.")

    @property
    def reject_off_home(self) -> bool:
        return self.off_home in (None, OffHome.REJECT)


class Verification(StrEnum):
    OBSERVED = "Observed"
    RESOLVED = "Resolved"
    ELAPSED = "Elapsed"


class CellCounts(Model):
    total: int = Field(ge=0)
    healthy: int = Field(ge=0)
    failed: int = Field(ge=0)
    recovering: int = Field(ge=0)


class RouterStatus(Model):
    observed_generation: int | None = Field(default=None, ge=0, json_schema_extra={"format": "int64"})
    mode: str | None = Field(default=None, max_length=16, description="Primary or Fallback.")
    verification: Verification | None = Field(
        default=None, description="What this router can prove about a change of traffic."
    )
    cells: CellCounts | None = Field(default=None, description="Cells by state.")
    conditions: list[Condition] = Field(
        default_factory=list, max_length=32, json_schema_extra=list_map("type"), description="Conditions."
    )


class Router(Resource):
    """Sends each customer to a cell."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="Router",
        plural="routers",
        short_names=("rrouter",),
        columns=(
            Column("Type", ".spec.type"),
            Column("Cells", ".status.cells.total", "integer"),
            Column("Healthy", ".status.cells.healthy", "integer"),
            Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1),
            AGE,
        ),
        spec_rules=(
            cel(
                "self.metadata.name.size() <= 50 && !self.metadata.name.contains('.')",
                "a Router's name is part of its Services' names: at most 50 characters, no dots",
            ),
        ),
    )

    spec: RouterSpec
    status: RouterStatus = Field(default_factory=RouterStatus)


__all__ = ["ATOMIC", "Router", "RouterSpec", "RouterStatus"]
