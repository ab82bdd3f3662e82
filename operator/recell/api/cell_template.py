"""CellTemplate: how a further cell is made, for a replacement, a recovery environment or emergency capacity."""

from enum import StrEnum
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from recell.api.meta import (
    AGE,
    ATOMIC,
    GROUP,
    Column,
    Condition,
    Generation,
    KindInfo,
    Model,
    ObjectName,
    Resource,
    cel,
    list_map,
    rules,
)

ParameterName = Annotated[str, Field(min_length=1, max_length=63, pattern="^[A-Z][A-Z0-9_]*$")]
RESERVED = ("CELL", "SOURCE", "NAMESPACE")
"""Parameters that every template has: the new Cell's name, the Cell it is made for, the namespace."""

NOT_MADE = (GROUP, "rbac.authorization.k8s.io")
"""Groups of which no template makes objects: whoever may write one would get what only the operator may do."""


class TemplateParameter(Model):
    """A text that differs from cell to cell."""

    model_config = rules(
        cel(
            f"!(self.name in {[*RESERVED]})",
            "CELL, SOURCE and NAMESPACE are always there: give the parameter another name",
            fieldPath=".name",
        )
    )

    name: ParameterName = Field(description="Written $(NAME) in the template.")
    value: str | None = Field(
        default=None, max_length=1024, description="Used where a Cell sets none; without it a Cell has to."
    )


class ParameterValue(Model):
    """A cell's value of a parameter of its template."""

    name: ParameterName = Field(description="Name of the parameter.")
    value: str = Field(max_length=1024, description="Put in place of $(NAME).")


class TargetCluster(StrEnum):
    CELL = "Cell"
    """The cluster of the new cell's workloads."""
    MANAGEMENT = "Management"
    """The cluster of the Cells."""


class TemplateObject(Model):
    """An object of any kind, as it is applied, with $(CELL), $(SOURCE), $(NAMESPACE) and parameters in its texts."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "x-kubernetes-preserve-unknown-fields": True,
            "x-kubernetes-validations": [
                cel(
                    " && ".join(f"!self.apiVersion.startsWith('{group}/')" for group in NOT_MADE),
                    "a template makes neither permissions nor objects of Recell's own; the Cell is made from spec.cell",
                    fieldPath=".apiVersion",
                )
            ],
        },
    )

    api_version: str = Field(
        max_length=317,
        pattern=r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        description="apiVersion of the object.",
    )
    kind: str = Field(max_length=63, pattern="^[A-Z][A-Za-z0-9]*$", description="Kind of the object.")
    cluster: TargetCluster | None = Field(
        default=None,
        description="Where it is applied, for cells in clusters of their own: Cell (if unset) is where their workloads"
        " are, Management where the Cells are, for example an Argo CD Application. Not a part of the object.",
    )
    metadata: dict[str, Any] = Field(
        max_length=16, description="At least a name; a namespace only if not the cells' own."
    )


class CellTemplateSpec(Model):
    """A Cell, and the objects that make it up."""

    cell: dict[str, Any] = Field(
        max_length=32,
        description="The new Cell's spec, with $(CELL), $(SOURCE), $(NAMESPACE) and parameters in its texts."
        " routerRef, namespace and weight are the operator's: it joins the failed cell's Router and serves nobody until"
        " it is routed.",
    )
    parameters: list[TemplateParameter] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra=list_map("name"),
        description="Values that differ from cell to cell.",
    )
    objects: list[TemplateObject] = Field(
        default_factory=list,
        max_length=64,
        json_schema_extra=ATOMIC,
        description="Applied in this order; the cell is ready when every one of them is Current (kstatus).",
    )


class CellTemplateStatus(Model):
    """What the operator found; for reading only."""

    observed_generation: Generation | None = Field(
        default=None, description="The generation of spec that this is about."
    )
    conditions: list[Condition] = Field(
        default_factory=list, max_length=16, json_schema_extra=list_map("type"), description="Accepted, Stalled."
    )


class CellTemplate(Resource):
    """How a further cell is made."""

    INFO: ClassVar[KindInfo] = KindInfo(
        kind="CellTemplate",
        plural="celltemplates",
        short_names=("rtemplate",),
        columns=(
            Column("Accepted", '.status.conditions[?(@.type=="Accepted")].status'),
            Column("Reason", '.status.conditions[?(@.type=="Accepted")].reason', priority=1),
            AGE,
        ),
    )

    spec: CellTemplateSpec = Field(description="A Cell, and the objects that make it up.")
    status: CellTemplateStatus = Field(default_factory=CellTemplateStatus, description="What the operator found.")


class TemplateRef(Model):
    """The template from which a cell like this one is made."""

    name: ObjectName = Field(description="Name of the CellTemplate, in the same namespace.")
    parameters: list[ParameterValue] = Field(
        default_factory=list,
        max_length=32,
        json_schema_extra=list_map("name"),
        description="This cell's values of the template's parameters.",
    )
