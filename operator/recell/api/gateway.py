"""The block of a Router of type Gateway: an HTTPRoute of the Gateway API, whose backends the operator adds.

Promises: every bound of the Gateway API (v1) that would make the API server refuse the HTTPRoute is refused here
already, where the user looks.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from recell.api.meta import ATOMIC, Duration, LabelValue, Model, ObjectName, cel, rules

MOST_BACKENDS = 16
"""backendRefs of one rule of an HTTPRoute, by the Gateway API."""
MOST_BACKENDS_SHEDDING = MOST_BACKENDS - 2
"""Cells among them where two more turn requests away: what is shed, and what an open circuit keeps from a cell."""

HOSTNAME_PATTERN = r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"
HEADER_PATTERN = r"^[A-Za-z0-9!#$%&'*+.^_|~\x60-]+$"

HeaderName = Annotated[str, Field(min_length=1, max_length=256, pattern=HEADER_PATTERN)]


class ParentRef(Model):
    """A Gateway that customers come through."""

    name: ObjectName = Field(description="Name of the Gateway.")
    namespace: ObjectName | None = Field(
        default=None, max_length=63, description="Namespace of the Gateway; the Router's if unset."
    )
    section_name: ObjectName | None = Field(default=None, description="One listener of the Gateway; all if unset.")
    port: int | None = Field(default=None, ge=1, le=65535, description="Listeners on this port only.")


class PathType(StrEnum):
    EXACT = "Exact"
    """The whole path."""
    PATH_PREFIX = "PathPrefix"
    """By segments."""
    REGULAR_EXPRESSION = "RegularExpression"
    """In the words of the Gateway's implementation, if it knows any."""


class PathMatch(Model):
    """A request's path."""

    type: PathType = Field(description="Exact, PathPrefix or RegularExpression.")
    value: str = Field(min_length=1, max_length=1024, description="Path, or expression.")


class MatchType(StrEnum):
    EXACT = "Exact"
    """The whole value."""
    REGULAR_EXPRESSION = "RegularExpression"
    """In the words of the Gateway's implementation, if it knows any."""


class ValueMatch(Model):
    """A header or query parameter of a request."""

    type: MatchType = Field(description="Exact or RegularExpression.")
    name: HeaderName = Field(description="Name.")
    value: str = Field(min_length=1, max_length=1024, description="Value, or expression.")


class Method(StrEnum):
    GET = "GET"
    """Reads."""
    HEAD = "HEAD"
    """Reads the headers."""
    POST = "POST"
    """Writes."""
    PUT = "PUT"
    """Writes."""
    DELETE = "DELETE"
    """Deletes."""
    CONNECT = "CONNECT"
    """Opens a tunnel."""
    OPTIONS = "OPTIONS"
    """Asks what is possible."""
    TRACE = "TRACE"
    """Echoes."""
    PATCH = "PATCH"
    """Writes a part."""


class Match(Model):
    """Everything that is set has to hold."""

    path: PathMatch | None = Field(default=None, description="The request's path.")
    headers: list[ValueMatch] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Headers; all of them."
    )
    query_params: list[ValueMatch] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Query parameters; all of them."
    )
    method: Method | None = Field(default=None, description="The request's method.")


class HeaderValue(Model):
    """A header that is written."""

    name: HeaderName = Field(description="Name of the header.")
    value: str = Field(min_length=1, max_length=4096, description="Its value.")


class HeaderChanges(Model):
    """Headers that are changed."""

    set: list[HeaderValue] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Written, whatever was there."
    )
    add: list[HeaderValue] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Written beside what is there."
    )
    remove: list[HeaderName] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="Taken away."
    )


class PathRewriteType(StrEnum):
    REPLACE_FULL_PATH = "ReplaceFullPath"
    """The whole path."""
    REPLACE_PREFIX_MATCH = "ReplacePrefixMatch"
    """The prefix by which the rule's one match took the request."""


class PathRewrite(Model):
    """What becomes of the path."""

    model_config = rules(
        cel(
            "(self.type == 'ReplaceFullPath') == has(self.replaceFullPath)"
            " && (self.type == 'ReplacePrefixMatch') == has(self.replacePrefixMatch)",
            "set exactly the field that type names: replaceFullPath or replacePrefixMatch",
        )
    )

    type: PathRewriteType = Field(description="ReplaceFullPath or ReplacePrefixMatch.")
    replace_full_path: str | None = Field(default=None, max_length=1024, description="The new path.")
    replace_prefix_match: str | None = Field(default=None, max_length=1024, description="The new prefix.")


class URLRewrite(Model):
    """What the cells see instead of what was asked for."""

    hostname: str | None = Field(
        default=None, min_length=1, max_length=253, pattern=HOSTNAME_PATTERN, description="The new Host header."
    )
    path: PathRewrite | None = Field(default=None, description="The new path.")


class ExtensionRef(Model):
    """An object of the implementation's own, in the Router's namespace."""

    group: ObjectName = Field(description="Its API group, for example traefik.io.")
    kind: str = Field(
        min_length=1, max_length=63, pattern="^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$", description="Its kind."
    )
    name: ObjectName = Field(description="Its name.")


class FilterType(StrEnum):
    REQUEST_HEADER_MODIFIER = "RequestHeaderModifier"
    """Changes headers of requests."""
    RESPONSE_HEADER_MODIFIER = "ResponseHeaderModifier"
    """Changes headers of answers."""
    URL_REWRITE = "URLRewrite"
    """Changes host or path before a cell is asked."""
    EXTENSION_REF = "ExtensionRef"
    """Whatever the implementation offers, for example a Middleware of Traefik."""


_BLOCK_OF = {
    FilterType.REQUEST_HEADER_MODIFIER: "requestHeaderModifier",
    FilterType.RESPONSE_HEADER_MODIFIER: "responseHeaderModifier",
    FilterType.URL_REWRITE: "urlRewrite",
    FilterType.EXTENSION_REF: "extensionRef",
}


class Filter(Model):
    """Something that is done to each request or answer."""

    model_config = rules(
        cel(
            " && ".join(f"(self.type == '{type_}') == has(self.{block})" for type_, block in _BLOCK_OF.items()),
            "set exactly the block that type names: requestHeaderModifier, responseHeaderModifier, urlRewrite or"
            " extensionRef",
        )
    )

    type: FilterType = Field(description="RequestHeaderModifier, ResponseHeaderModifier, URLRewrite or ExtensionRef.")
    request_header_modifier: HeaderChanges | None = Field(default=None, description="Headers of requests.")
    response_header_modifier: HeaderChanges | None = Field(default=None, description="Headers of answers.")
    url_rewrite: URLRewrite | None = Field(default=None, description="Host and path.")
    extension_ref: ExtensionRef | None = Field(default=None, description="An object of the implementation's own.")


class Timeouts(Model):
    """How long a request may take."""

    model_config = rules(
        cel(
            "!has(self.request) || !has(self.backendRequest) || duration(self.request) == duration('0s')"
            " || duration(self.backendRequest) <= duration(self.request)",
            "backendRequest must not be longer than request",
            fieldPath=".backendRequest",
        )
    )

    request: Duration | None = Field(default=None, description="The whole request; 0s is without end.")
    backend_request: Duration | None = Field(default=None, description="One try at a cell; 0s is without end.")


class RouteRule(Model):
    """Which requests, and what is done to them. Where they go, the operator says."""

    matches: list[Match] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=ATOMIC,
        description="Any of them; every request if there is none.",
    )
    filters: list[Filter] = Field(
        default_factory=list, max_length=16, json_schema_extra=ATOMIC, description="What is done to each request."
    )
    timeouts: Timeouts | None = Field(default=None, description="How long a request may take.")


class GatewayMetricsType(StrEnum):
    TRAEFIK = "Traefik"
    """Traefik's own Prometheus metrics of its services."""
    ENVOY_GATEWAY = "EnvoyGateway"
    """Envoy's own Prometheus metrics of its clusters, as Envoy Gateway names them."""


class GatewayMetrics(Model):
    """Where the implementation's own pods tell what they counted. The operator reads them, once a second."""

    model_config = rules(
        cel(
            "size(self.podSelector) > 0",
            "podSelector must name at least one label: the pods of the Gateway's implementation and no others",
            fieldPath=".podSelector",
        )
    )

    type: GatewayMetricsType = Field(description="Whose metrics they are: Traefik or EnvoyGateway.")
    namespace: ObjectName | None = Field(
        default=None, max_length=63, description="Namespace of the pods; the Router's if unset."
    )
    pod_selector: dict[str, LabelValue] = Field(
        max_length=8, description="Labels that all of those pods have, and no other ones."
    )
    port: int = Field(ge=1, le=65535, description="Port of the metrics at the pods: 19001 for Envoy Gateway.")


class Gateway(Model):
    """An HTTPRoute of the Gateway API, named like the Router; the operator adds its backendRefs."""

    parent_refs: list[ParentRef] = Field(
        min_length=1, max_length=8, json_schema_extra=ATOMIC, description="Gateways that customers come through."
    )
    hostnames: list[Annotated[str, Field(min_length=1, max_length=253, pattern=HOSTNAME_PATTERN)]] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="Hosts that customers ask for; whatever the Gateway listens to if empty.",
    )
    rules: list[RouteRule] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra=ATOMIC,
        description="Which requests are for the cells; every one if empty.",
    )
    metrics: GatewayMetrics | None = Field(
        default=None,
        description="How traffic is counted. Without it a change of traffic is published, but not measured.",
    )
