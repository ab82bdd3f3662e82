"""Router: sends each customer to a cell."""

from datetime import datetime
from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from recell.api.cell import Blocked, Failure
from recell.api.dns import DNS
from recell.api.fallback import Fallback
from recell.api.gateway import Gateway
from recell.api.meta import (
    AGE,
    ATOMIC,
    INT32_MAX,
    CellName,
    Column,
    Condition,
    Duration,
    Generation,
    KindInfo,
    Model,
    NameRef,
    Resource,
    cel,
    list_map,
    rules,
)
from recell.api.shedding import CircuitBreakers, Shedding


class RouterType(StrEnum):
    HAPROXY = "HAProxy"
    """The built-in router: HAProxy pods that the operator runs."""
    GATEWAY = "Gateway"
    """An HTTPRoute of the Gateway API, carried out by whatever implements its Gateways."""
    DNS = "DNS"
    """Records of a zone that ExternalDNS manages."""


class CustomerData(StrEnum):
    SHARED = "Shared"
    """Any cell can serve any customer."""
    IN_CELL = "InCell"
    """A customer's data is in the customer's cell; no other cell has it."""


class OffHome(StrEnum):
    REJECT = "Reject"
    """They get 503 until their cell is back."""
    READ_ONLY = "ReadOnly"
    """Another cell serves them, reading requests only."""


class OnUnhealthy(StrEnum):
    IGNORE = "Ignore"
    """Only runs and people move traffic."""
    SHIFT = "Shift"
    """Traffic leaves failed cells by itself, unless they likely have a cause that all share."""


class KeySource(StrEnum):
    HEADER = "Header"
    """A request header."""
    COOKIE = "Cookie"
    """A cookie."""
    HOST = "Host"
    """The whole host name of the request."""
    PATH_SEGMENT = "PathSegment"
    """A segment of the request's path."""


class WhenAbsent(StrEnum):
    REJECT = "Reject"
    """The request gets 400."""
    CLIENT_ADDRESS = "ClientAddress"
    """The client's address is the key."""


class CustomerKey(Model):
    """Where a request says which customer it is from."""

    model_config = rules(
        cel(
            "(self.type in ['Header', 'Cookie']) == has(self.name)",
            "name is the header's or cookie's name: set it for type Header and Cookie, and for these only",
            fieldPath=".name",
        ),
        cel(
            "(self.type == 'PathSegment') == has(self.segment)",
            "segment is the number of the path segment: set it for type PathSegment, and for this only",
            fieldPath=".segment",
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
    """Reachable inside the cluster."""
    NODE_PORT = "NodePort"
    """Reachable on a port of each node."""
    LOAD_BALANCER = "LoadBalancer"
    """Reachable through the cloud's load balancer."""


class RouterService(Model):
    """The Service that customers connect to."""

    type: ServiceType = Field(default=ServiceType.CLUSTER_IP, description="Type of the Service.")
    port: int = Field(default=80, ge=1, le=65535, description="Port that customers connect to.")
    node_port: int | None = Field(default=None, ge=1, le=65535, description="Fixed node port.")


class HAProxy(Model):
    """The built-in router, run by the operator."""

    model_config = rules(
        cel(
            "self.slots in [1024, 2048, 4096, 8192, 16384]",
            "slots must be a power of two from 1024 to 16384",
            fieldPath=".slots",
        ),
        cel(
            "self.slots == oldSelf.slots || self.slots == oldSelf.slots * 2",
            "slots may only double, one doubling at a time",
            fieldPath=".slots",
        ),
        cel(
            "!has(self.drainTimeout)"
            " || duration(self.drainTimeout) >= duration('1s') && duration(self.drainTimeout) <= duration('1h')",
            "drainTimeout must be from 1s to 1h",
            fieldPath=".drainTimeout",
        ),
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
    drain_timeout: Duration = Field(
        default="60s",
        description="Requests, streams and WebSockets that are open when their cell is drained wholly may last so much"
        " longer, from 1s to 1h, then they are closed. At a cell that is isolated or retired they are closed at once.",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Image of the router; the operator's default if unset.",
    )
    replicas: int = Field(default=2, ge=1, le=50, description="Router pods.")
    service: RouterService = Field(default=RouterService(), description="The Service that customers use.")


class Verification(StrEnum):
    OBSERVED = "Observed"
    """Traffic is counted: a change is proven by figures."""
    RESOLVED = "Resolved"
    """The change is seen to be published; traffic is not counted."""
    ELAPSED = "Elapsed"
    """Nothing is seen; the time that a change takes has passed."""


class Capability(StrEnum):
    STICKY_CUSTOMERS = "StickyCustomers"
    """All requests of a customer go to the same cell."""
    PINS = "Pins"
    """A customer's cell can be fixed by name."""
    REJECT = "Reject"
    """A part of the customers can be turned away, when no cell may serve them."""
    READ_ONLY = "ReadOnly"
    """Customers whose cell is out can be served elsewhere, for reading only."""
    SHEDDING = "Shedding"
    """Requests can be turned away by class when there are too many."""
    CIRCUIT_BREAKERS = "CircuitBreakers"
    """Requests for a cell that fails can be turned away at the router."""


class RouterSpec(Model):
    """How customers reach the cells."""

    model_config = rules(
        cel("self.type == oldSelf.type", "type is immutable: make a new Router instead", fieldPath=".type"),
        cel(
            "self.customerData == oldSelf.customerData",
            "customerData is immutable: make a new Router instead",
            fieldPath=".customerData",
        ),
        cel(
            "self.type != 'HAProxy' || has(self.haproxy)", "type HAProxy needs the block haproxy", fieldPath=".haproxy"
        ),
        cel(
            "self.type == 'HAProxy' || !has(self.haproxy)",
            "the block haproxy is for type HAProxy only: no other router has slots, pins or customer keys of its own",
            fieldPath=".haproxy",
        ),
        cel(
            "(self.type == 'Gateway') == has(self.gateway)",
            "type Gateway needs the block gateway, and no other type has it",
            fieldPath=".gateway",
        ),
        cel(
            "self.type == 'HAProxy' || self.customerData == 'Shared'",
            "customerData InCell needs type HAProxy: no other router knows which customer a request is from",
            fieldPath=".customerData",
        ),
        cel(
            "(self.type == 'DNS') == has(self.dns)",
            "type DNS needs the block dns, and no other type has it",
            fieldPath=".dns",
        ),
        cel(
            "self.type == 'HAProxy' || !has(self.fallback)",
            "fallback is for type HAProxy only: what serves with any other type is not run by the operator",
            fieldPath=".fallback",
        ),
        cel(
            "!has(self.fallback) || !has(self.haproxy) || self.haproxy.customerKey.type != 'Host'"
            " || !has(self.fallback.switches) || self.fallback.switches.all(s,"
            " !has(s.gateway) || !has(s.gateway.hostnames) || size(s.gateway.hostnames) == 0)",
            "with customerKey Host the hosts are the customers: leave hostnames of the switch Gateway empty",
            fieldPath=".fallback.switches",
        ),
        cel(
            "!has(self.fallback) || !has(self.haproxy) || !has(self.fallback.switches)"
            " || self.fallback.switches.all(s, !has(s.dns) || has(s.dns.routerTargets)"
            " || has(self.haproxy.service) && has(self.haproxy.service.type)"
            " && self.haproxy.service.type == 'LoadBalancer')",
            "a switch DNS needs addresses: set haproxy.service.type LoadBalancer, or dns.routerTargets and"
            " dns.fallbackTargets",
            fieldPath=".fallback.switches",
        ),
        cel(
            "self.customerData == 'InCell' || !has(self.offHome)",
            "offHome says what customers get whose cell is out: it is for customerData InCell only",
            fieldPath=".offHome",
        ),
        cel(
            "self.customerData != 'InCell' || !has(self.haproxy)"
            " || (has(self.haproxy.initialCells) && size(self.haproxy.initialCells) > 0)",
            "customerData InCell needs haproxy.initialCells: say which cells the customers' data is in",
            fieldPath=".haproxy.initialCells",
        ),
        cel(
            "self.customerData != 'InCell' || self.onUnhealthy == 'Ignore'",
            "onUnhealthy Shift needs customerData Shared: other cells do not have the customers' data",
            fieldPath=".onUnhealthy",
        ),
    )

    type: RouterType = Field(description="How traffic is routed: HAProxy, Gateway or DNS.")
    customer_data: CustomerData = Field(
        description="Shared: any cell can serve any customer. InCell: a customer's data is in the customer's cell."
    )
    off_home: OffHome | None = Field(
        default=None,
        description="With InCell: what a customer gets whose cell is out: Reject (default) or ReadOnly elsewhere.",
    )
    on_unhealthy: OnUnhealthy = Field(
        default=OnUnhealthy.IGNORE,
        description="May health alone, without a run, move traffic? Ignore: no. Shift: away from failed cells, but"
        " everybody is served at home while more than half of two or more have failed, or one has while a dependency"
        " of the policy does not answer.",
    )
    policy_ref: NameRef | None = Field(
        default=None, description="RecoveryPolicy; else the one named default, else built in (mode Observe)."
    )
    haproxy: HAProxy | None = Field(default=None, description="The built-in router.")
    shedding: Shedding | None = Field(
        default=None,
        description="Classes of requests, by which runs may shed overload; unset: nothing is shed. Types HAProxy and"
        " Gateway.",
    )
    circuit_breakers: CircuitBreakers | None = Field(
        default=None,
        description="When the router itself spares a failing cell; unset: only by requests in flight. Type HAProxy.",
    )
    gateway: Gateway | None = Field(default=None, description="An HTTPRoute of the Gateway API.")
    dns: DNS | None = Field(default=None, description="Records that ExternalDNS publishes.")
    fallback: Fallback | None = Field(
        default=None, description="What serves when the router itself does not; unset: nothing does."
    )

    @property
    def has_fallback(self) -> bool:
        return self.fallback is not None and self.fallback.enabled

    @property
    def reject_off_home(self) -> bool:
        return self.off_home in (None, OffHome.REJECT)

    @property
    def verification(self) -> Verification:
        """What can be proven about a change of traffic."""
        if self.type is RouterType.GATEWAY and (self.gateway is None or self.gateway.metrics is None):
            return Verification.RESOLVED
        if self.dns is not None:  # which addresses are answered is seen; how often one of them is, is not
            return Verification.ELAPSED if self.dns.weighted else Verification.RESOLVED
        return Verification.OBSERVED


class CellCounts(Model):
    """Cells of the router by state."""

    total: int = Field(ge=0, le=INT32_MAX, description="All cells that name this router.")
    healthy: int = Field(ge=0, le=INT32_MAX, description="Cells in phase Healthy.")
    failed: int = Field(ge=0, le=INT32_MAX, description="Cells in phase Failed.")
    recovering: int = Field(ge=0, le=INT32_MAX, description="Cells in phase Recovering.")


class RouterRecovery(Model):
    """The router's recoveries."""

    active_run: str | None = Field(default=None, max_length=253, description="RecoveryRun that works on it.")
    last_run: str | None = Field(default=None, max_length=253, description="RecoveryRun that ended last.")
    attempts: int = Field(default=0, ge=0, le=INT32_MAX, description="Runs counted in the policy's window.")
    next_allowed_at: datetime | None = Field(default=None, description="End of the cooldown.")
    blocked: Blocked | None = Field(default=None, description="Why no automatic run is started.")


class RouterStatus(Model):
    """What the operator found; for reading only."""

    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )
    mode: str | None = Field(default=None, max_length=16, description="Primary or Fallback.")
    verification: Verification | None = Field(
        default=None, description="What this router can prove about a change of traffic."
    )
    capabilities: list[Capability] | None = Field(
        default=None,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="What this router can do beside dividing requests among cells; what is not listed it cannot.",
    )
    cells: CellCounts | None = Field(default=None, description="Cells by state.")
    failure: Failure | None = Field(
        default=None, description="Set while the router itself, not a cell of it, is Degraded or Failed."
    )
    recovery: RouterRecovery | None = Field(default=None, description="The router's own recoveries.")
    conditions: list[Condition] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra=list_map("type"),
        description="Accepted, Ready, Programmed, PlacementStale, OrphanedHold, FallbackReady, FallbackActive,"
        " DualRouting, SheddingReady, Shedding, CircuitsOpen.",
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

    spec: RouterSpec = Field(description="How customers reach the cells.")
    status: RouterStatus = Field(default_factory=RouterStatus, description="What the operator found.")


__all__ = ["ATOMIC", "Router", "RouterSpec", "RouterStatus"]
