"""The block `dns` of a Router: records that ExternalDNS publishes for it, weighted by the cells' shares."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from recell.api.meta import ATOMIC, Duration, Model, cel, rules

MAX_RECORDS = 100
"""Cells of one Router of type DNS: Route 53 takes no more weighted records of one name."""
HOST = r"^([a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([-a-z0-9_]{0,61}[a-z0-9_])?$"


class RecordType(StrEnum):
    A = "A"
    """Cells have IPv4 addresses."""
    AAAA = "AAAA"
    """Cells have IPv6 addresses."""
    CNAME = "CNAME"
    """Cells have host names."""


class RoutingPolicy(StrEnum):
    WEIGHTED = "Weighted"
    """One record for each cell, with a weight: an answer names one of them, as often as its weight says."""
    SIMPLE = "Simple"
    """One record with the addresses of all cells that serve: a cell is in it or not."""


class Drained(StrEnum):
    REMOVED = "Removed"
    """Its record is taken away."""
    ZERO_WEIGHT = "ZeroWeight"
    """Its record stays, with weight 0, as long as another cell has one above 0."""


class Weights(Model):
    """How the zone's provider is told a weight."""

    property: str = Field(
        default="aws/weight",
        min_length=1,
        max_length=128,
        pattern="^[!-~]+$",
        description="Name of the providerSpecific property that holds it, as ExternalDNS' provider calls it.",
    )
    max: int = Field(
        default=255, ge=1, le=65535, description="The greatest weight that the provider takes (Route 53: 255)."
    )
    drained: Drained = Field(
        default=Drained.REMOVED,
        description="What becomes of the record of a cell that gets nobody: Removed, or ZeroWeight where ExternalDNS"
        " may not delete records (--policy=upsert-only). An isolated cell's is removed in any case.",
    )


class ProviderSpecific(Model):
    """A setting of ExternalDNS' provider."""

    name: str = Field(min_length=1, max_length=128, pattern="^[!-~]+$", description="Name of the property.")
    value: str = Field(max_length=256, description="Its value.")


class NameServer(Model):
    """A name server that is asked."""

    host: str = Field(
        min_length=1, max_length=253, pattern=r"^[0-9A-Za-z._:-]+$", description="IP address or host name."
    )
    port: int | None = Field(default=None, ge=1, le=65535, description="Port for UDP and TCP; 53 if unset.")


NameServers = Annotated[
    list[NameServer],
    Field(
        max_length=8,
        json_schema_extra=ATOMIC,
        description="Who is asked whether a change is published: every one of them has to answer it. If empty, the"
        " name servers of the zone, found by its NS records.",
    ),
]


class DNS(Model):
    """Records in a zone that ExternalDNS manages."""

    model_config = rules(
        cel("self.hostname == oldSelf.hostname", "hostname is immutable: make a new Router", fieldPath=".hostname"),
        cel(
            "self.recordType == oldSelf.recordType",
            "recordType is immutable: make a new Router",
            fieldPath=".recordType",
        ),
        cel(
            "self.routingPolicy == oldSelf.routingPolicy",
            "routingPolicy is immutable: make a new Router",
            fieldPath=".routingPolicy",
        ),
        cel(
            "self.recordType != 'CNAME' || self.routingPolicy == 'Weighted'",
            "a name has one CNAME record at most: recordType CNAME needs routingPolicy Weighted",
            fieldPath=".routingPolicy",
        ),
        cel(
            "self.routingPolicy == 'Weighted' || !has(self.weights)",
            "weights are for routingPolicy Weighted only",
            fieldPath=".weights",
        ),
        cel(
            "!self.ttl.contains('ms') && duration(self.ttl) >= duration('1s') && duration(self.ttl) <= duration('1h')",
            "ttl must be whole seconds, from 1s to 1h: no drain is faster than it",
            fieldPath=".ttl",
        ),
        cel(
            "duration(self.publishTimeout) >= duration('10s') && duration(self.publishTimeout) <= duration('1h')",
            "publishTimeout must be from 10s to 1h",
            fieldPath=".publishTimeout",
        ),
        cel(
            "duration(self.propagation) < duration(self.publishTimeout)",
            "propagation must be shorter than publishTimeout, within which everything has to be published",
            fieldPath=".propagation",
        ),
    )

    hostname: str = Field(
        min_length=1,
        max_length=253,
        pattern=HOST,
        description="The name that customers resolve, in lower case, in a zone that ExternalDNS manages.",
    )
    ttl: Duration = Field(
        default="60s",
        description="How long resolvers may keep an answer. No change of traffic is in force before it has passed,"
        " so no increment of a drain is shorter.",
    )
    record_type: RecordType = Field(
        default=RecordType.A, description="What the cells have: A (IPv4), AAAA (IPv6) or CNAME (host names)."
    )
    routing_policy: RoutingPolicy = Field(
        default=RoutingPolicy.WEIGHTED,
        description="Weighted: one record for each cell, with a weight; of ExternalDNS' own providers Route 53 knows"
        " it. Simple: one record with the addresses of all cells that serve, for every provider; a cell is in it"
        " with its whole share or not at all.",
    )
    weights: Weights | None = Field(default=None, description="How a weight is told; as for Route 53 if unset.")
    provider_specific: list[ProviderSpecific] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="Settings for ExternalDNS' provider, put on every record.",
    )
    nameservers: NameServers = Field(default_factory=list)
    propagation: Duration = Field(
        default="60s",
        description="How long the name servers may take for a new weight, which no answer shows (Route 53: 60s)."
        " Waited out with routingPolicy Weighted, after ExternalDNS has taken up the change.",
    )
    publish_timeout: Duration = Field(
        default="5m", description="Every name server has to answer a change by then, or the Router says who does not."
    )

    @property
    def weighted(self) -> bool:
        """An answer names one cell of several."""
        return self.routing_policy is RoutingPolicy.WEIGHTED
