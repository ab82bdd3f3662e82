"""A Router's fallback, and the means by which its customers are sent there.

Promises: every bound of the Gateway API and of DNS that would make another server refuse what the operator writes is
refused here already, where the user looks.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from recell.api.dns import HOST, NameServers, ProviderSpecific, RecordType
from recell.api.gateway import HOSTNAME_PATTERN, ParentRef
from recell.api.meta import ATOMIC, Duration, Model, cel, list_map, rules


class SwitchType(StrEnum):
    SERVICE = "Service"
    """The selector of the Service that customers connect to."""
    GATEWAY = "Gateway"
    """An HTTPRoute, by which a Gateway sends customers to one Service or the other."""
    DNS = "DNS"
    """The addresses of the name that customers resolve, published by ExternalDNS."""


class GatewaySwitch(Model):
    """An HTTPRoute named like the Router, which the operator writes: every request goes to the router's Service, or to
    the fallback's."""

    parent_refs: list[ParentRef] = Field(
        min_length=1, max_length=8, json_schema_extra=ATOMIC, description="Gateways that customers come through."
    )
    hostnames: list[Annotated[str, Field(min_length=1, max_length=253, pattern=HOSTNAME_PATTERN)]] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Hosts that customers ask for; whatever the Gateway listens to if empty.",
    )


_Target = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[0-9A-Za-z._:-]+$")]


class DNSSwitch(Model):
    """A DNSEndpoint named like the Router, which the operator writes: one record, with the addresses of the router's
    load balancer, or of the fallback's."""

    # `has` although there are defaults, see recovery_policy.Detection.
    model_config = rules(
        cel(
            "!has(self.ttl) || !self.ttl.contains('ms')"
            " && duration(self.ttl) >= duration('1s') && duration(self.ttl) <= duration('1h')",
            "ttl must be whole seconds, from 1s to 1h: for so long customers go where they went before",
            fieldPath=".ttl",
        ),
        cel(
            "!has(self.publishTimeout)"
            " || duration(self.publishTimeout) >= duration('10s') && duration(self.publishTimeout) <= duration('10m')",
            "publishTimeout must be from 10s to 10m",
            fieldPath=".publishTimeout",
        ),
        cel(
            "has(self.routerTargets) == has(self.fallbackTargets)",
            "name routerTargets and fallbackTargets both, or neither: then they are those of the two load balancers",
        ),
        cel(
            "!has(self.routerTargets) || !has(self.fallbackTargets) || self.routerTargets != self.fallbackTargets",
            "routerTargets and fallbackTargets must differ: they say where customers are",
            fieldPath=".fallbackTargets",
        ),
        cel(
            "!has(self.recordType) || self.recordType != 'CNAME' || !has(self.routerTargets)"
            " || size(self.routerTargets) == 1 && size(self.fallbackTargets) == 1",
            "a name has one CNAME record at most: name one target for each side",
        ),
    )

    hostname: str = Field(
        min_length=1,
        max_length=253,
        pattern=HOST,
        description="The name that customers resolve, in lower case, in a zone that ExternalDNS manages.",
    )
    ttl: Duration = Field(default="30s", description="How long resolvers may keep an answer, and customers go there.")
    record_type: RecordType = Field(
        default=RecordType.A, description="What the targets are: A (IPv4), AAAA (IPv6) or CNAME (host names)."
    )
    router_targets: list[_Target] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        json_schema_extra=ATOMIC,
        description="Addresses at which customers reach the router; those of its Service's load balancer if unset.",
    )
    fallback_targets: list[_Target] | None = Field(
        default=None,
        min_length=1,
        max_length=16,
        json_schema_extra=ATOMIC,
        description="Addresses at which they reach the fallback; if unset its Service gets a load balancer, and"
        " they are that one's.",
    )
    provider_specific: list[ProviderSpecific] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="Settings for ExternalDNS' provider, put on the record.",
    )
    nameservers: NameServers = Field(default_factory=list)
    publish_timeout: Duration = Field(
        default="3m", description="Every name server has to answer a change by then, else another switch is tried."
    )


class Switch(Model):
    """One means of sending the customers to the fallback, and back."""

    model_config = rules(
        cel(
            "(self.type == 'Gateway') == has(self.gateway)",
            "type Gateway needs the block gateway, and no other type has it",
            fieldPath=".gateway",
        ),
        cel(
            "(self.type == 'DNS') == has(self.dns)",
            "type DNS needs the block dns, and no other type has it",
            fieldPath=".dns",
        ),
    )

    type: SwitchType = Field(description="Service, Gateway or DNS.")
    gateway: GatewaySwitch | None = Field(default=None, description="The HTTPRoute.")
    dns: DNSSwitch | None = Field(default=None, description="The record.")


class Fallback(Model):
    """A second, tiny router that stands by and serves when the router itself does not.

    It knows nothing but a table of the cells, so it needs neither the operator nor the API server.
    """

    enabled: bool = Field(default=True, description="False: no fallback runs, and a router that fails has none.")
    replicas: int = Field(default=2, ge=1, le=50, description="Pods of the fallback; they always run.")
    switches: list[Switch] = Field(
        default_factory=list,
        max_length=3,
        json_schema_extra=list_map("type"),
        description="What sends customers to the fallback; the next one is tried when customers do not get there."
        " The Service's selector if empty.",
    )

    @property
    def ways(self) -> tuple[SwitchType, ...]:
        """In the order in which they are tried."""
        return tuple(switch.type for switch in self.switches) or (SwitchType.SERVICE,)

    @property
    def gateway(self) -> GatewaySwitch | None:
        return next((switch.gateway for switch in self.switches if switch.gateway is not None), None)

    @property
    def dns(self) -> DNSSwitch | None:
        return next((switch.dns for switch in self.switches if switch.dns is not None), None)
