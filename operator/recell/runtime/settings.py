"""What the operator is told at its start, by flags or the environment.

Promises: a value that cannot work is refused with the name of the flag. A flag wins over its
variable.
"""

import socket
from pathlib import Path
from typing import Any, Self

import click
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from recell.providers.kube.leadership import Terms

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def own_namespace() -> str:
    """The pod's, else `default`."""
    try:
        return SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"


class Settings(BaseModel):
    """Seconds where a number is a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kubeconfig: str | None = Field(None, description="Kubeconfig file; in a pod its ServiceAccount if unset.")
    context: str | None = Field(None, description="Context of the kubeconfig; its current one if unset.")
    namespaces: tuple[str, ...] = Field((), description="Fleet namespaces, by commas; all if empty.")
    workload_namespaces: tuple[str, ...] = Field(
        (), description="More namespaces in which workloads of those fleets may be, by commas."
    )
    identity: str = Field(
        default_factory=socket.gethostname, min_length=1, description="Name of this process; the pod's name."
    )
    lease_namespace: str = Field(
        default_factory=own_namespace, min_length=1, description="Namespace of the Lease; the pod's own if unset."
    )
    lease_name: str = Field("recell", min_length=1, description="Name of the Lease.")
    lease_duration: float = Field(15.0, gt=0, description="A Lease not renewed for so long may be taken.")
    renew_deadline: float = Field(10.0, gt=0, description="A leader that could not renew for so long ends.")
    retry_period: float = Field(2.0, gt=0, description="Between two tries to take or renew the Lease.")
    workers: int = Field(16, ge=1, le=256, description="Reconciles at once, of each kind.")
    host: str = Field("", description="Address of the port for health and metrics; all if empty.")
    port: int = Field(8080, ge=0, le=65535, description="Port for /healthz, /readyz and /metrics.")
    grace: float = Field(20.0, gt=0, description="At the end, wait so long for reconciles to finish.")
    router_image: str = Field("recell/router", min_length=1, description="Image of router pods.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning, error.")
    log_format: str = Field("json", pattern="^(json|text)$", description="json, or text for a terminal.")

    @model_validator(mode="after")
    def _election_terms(self) -> Self:
        self.terms  # noqa: B018 - it refuses terms that contradict each other
        return self

    @property
    def terms(self) -> Terms:
        return Terms(self.lease_duration, self.renew_deadline, self.retry_period)

    @property
    def fleet_namespaces(self) -> tuple[str, ...]:
        """("",) is all of them."""
        return self.namespaces or ("",)

    @property
    def all_namespaces(self) -> tuple[str, ...]:
        """Where workloads may be; ("",) is everywhere."""
        return (*self.namespaces, *self.workload_namespaces) if self.namespaces else ("",)


def options(command: Any) -> Any:
    """A click option and an environment variable (RECELL_...) for each setting."""
    for name, field in reversed(Settings.model_fields.items()):
        variables = [f"RECELL_{name.upper()}"] + (["POD_NAME"] if name == "identity" else [])
        option = click.option(f"--{name.replace('_', '-')}", name, envvar=variables, help=field.description)
        command = option(command)
    return command


def parse(given: dict[str, str | None]) -> Settings:
    """Raises click.UsageError with the flag that is wrong. What is None or empty is left at its default."""
    values: dict[str, Any] = {name: value for name, value in given.items() if value not in (None, "")}
    for name in ("namespaces", "workload_namespaces"):
        if name in values:
            values[name] = tuple(part.strip() for part in str(values[name]).split(",") if part.strip())
    try:
        return Settings(**values)
    except ValidationError as error:
        problem = error.errors()[0]
        flag = "--" + str(problem["loc"][0]).replace("_", "-") + ": " if problem["loc"] else ""
        raise click.UsageError(f"{flag}{problem['msg']}") from error
