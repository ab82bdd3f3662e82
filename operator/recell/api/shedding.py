"""What a router turns away when the cells cannot bear everything: classes of requests, and circuit breakers.

Both are configuration of the router. How much of a class is shed, and which circuits are open, is decided by runs
and stands in Placement.
"""

from typing import Annotated

from pydantic import Field

from recell.api.gateway import Method
from recell.api.meta import Duration, Model, Percent, cel, list_map, rules

DEFAULT_CLASS = "default"
"""Class of the requests that match no other."""

ClassName = Annotated[str, Field(min_length=1, max_length=32, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]


class HeaderMatch(Model):
    """A header with this very value."""

    name: str = Field(min_length=1, max_length=64, pattern="^[A-Za-z0-9_-]+$", description="Name of the header.")
    value: str = Field(
        min_length=1,
        max_length=128,
        pattern="^[A-Za-z0-9._~:/@=+-]+$",
        description="Its whole value; upper and lower case are different.",
    )


class RequestMatch(Model):
    """Everything that is named here has to be so."""

    model_config = rules(
        cel(
            "has(self.header) || has(self.pathPrefix) || (has(self.methods) && size(self.methods) > 0)",
            "a match needs header, pathPrefix or methods, or it would match every request",
        ),
    )

    header: HeaderMatch | None = Field(default=None, description="A header and its value.")
    path_prefix: str | None = Field(
        default=None,
        max_length=256,
        pattern="^/[A-Za-z0-9._~/-]*$",
        description="The path begins with these segments: /search matches /search and /search/a, not /searching.",
    )
    methods: list[Method] = Field(
        default_factory=list,
        max_length=9,
        json_schema_extra={"x-kubernetes-list-type": "set"},
        description="One of these methods.",
    )


class RequestClass(Model):
    """Requests that are of the same worth."""

    name: ClassName = Field(description="Name of the class, for example bulk.")
    priority: int = Field(default=100, ge=0, le=1000, description="The lowest is shed first.")
    sheddable: bool = Field(default=True, description="False: requests of this class are never shed.")
    matches: list[RequestMatch] = Field(
        min_length=1,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
        description="A request is of this class if one of these matches.",
    )


class Shedding(Model):
    """Classes of requests, by which overload is shed."""

    model_config = rules(
        cel(
            f"!has(self.classes) || self.classes.all(c, c.name != '{DEFAULT_CLASS}')",
            "the class default is what no other class matches: give it defaultPriority and defaultSheddable instead",
            fieldPath=".classes",
        ),
    )

    classes: list[RequestClass] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra=list_map("name"),
        description="The first class that matches counts. A change of the classes rolls the built-in router's pods.",
    )
    default_priority: int = Field(
        default=100, ge=0, le=1000, description="Priority of the class default: requests that no class matches."
    )
    default_sheddable: bool = Field(default=False, description="May requests that no class matches be shed?")


class CircuitBreakers(Model):
    """When each pod of the built-in router turns requests for a cell away by itself, without the operator."""

    # `has` although there are defaults, see recovery_policy.Detection.
    model_config = rules(
        cel(
            "!has(self.window)"
            " || (duration(self.window) >= duration('1s') && duration(self.window) <= duration('60s'))",
            "window must be from 1s to 60s",
            fieldPath=".window",
        ),
        cel(
            "!has(self.errorRate) || double(self.errorRate.replace('%', '')) > 0.0",
            "errorRate must be more than 0%: a circuit breaker that trips at 0% lets nothing through",
            fieldPath=".errorRate",
        ),
    )

    error_rate: Percent = Field(
        default="50%",
        description="From this part of failed requests on nine in ten are turned away, until it is lower again.",
    )
    window: Duration = Field(default="3s", description="Window of the error rate, from 1s to 60s.")
    minimum_requests: int = Field(
        default=20, ge=1, le=100000, description="Fewer requests in the window, per router pod, trip nothing."
    )
    max_requests_in_flight: int = Field(
        default=1000, ge=1, le=100000, description="Requests that may wait for a cell at a time, per router pod."
    )
