"""A further cell from a template: its name, its objects and its Cell, rendered.

Promises: pure; the same order gives the same names and texts in every process, so that doing it twice is
doing it once. Every made object says where it came from; labels by which Git tools and Helm own objects are
left out, so that nobody prunes what was made here.

Must not: replace anything but `$(NAME)` of what the template declares; own what is made (rule 7).
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from recell.api.cell import Cell, CellSpec
from recell.api.cell_template import CellTemplate
from recell.api.meta import API_VERSION, LABEL_CELL, LABEL_INCIDENT, LABEL_MADE_BY, LABEL_ORIGIN, NameRef

NAME_LIMIT = 45
"""Of a made cell's name: room for what templates put behind it, in 63."""
_PARAMETER = re.compile(r"\$\(([A-Z][A-Z0-9_]*)\)")
_TRACKING = re.compile(
    r"^(argocd\.argoproj\.io|kustomize\.toolkit\.fluxcd\.io|helm\.toolkit\.fluxcd\.io|meta\.helm\.sh)/"
    r"|^app\.kubernetes\.io/(managed-by|instance)$"
)


class UnfitTemplate(ValueError):
    """The template cannot be rendered; the message names the field."""


class Purpose(StrEnum):
    REPLACEMENT = "replacement"
    RECOVERY = "recovery"
    """A recovery environment, routed only after it was approved."""
    EMERGENCY = "emergency"


@dataclass(frozen=True)
class Order:
    """One cell to be made."""

    name: str
    """Of the new Cell; see `name_of`."""
    source: Cell
    """The cell that it is made for: router, weight and parameters come from there."""
    template: CellTemplate
    incident: str
    """Name of the run, or of the first one of its line."""
    weight: int = 0
    """Of the new Cell; with 0 nobody is sent to it by itself (rule 2)."""


class Progress(StrEnum):
    IN_PROGRESS = "InProgress"
    READY = "Ready"
    """Every object is Current (kstatus) and the Cell exists."""
    FAILED = "Failed"
    """An object says that it cannot become Current."""


@dataclass(frozen=True)
class Provisioned:
    progress: Progress
    message: str
    """Which objects are waited for or failed, with what they say."""
    cell: Cell | None = None


def name_of(source: Cell, run_uid: str, purpose: Purpose, number: int = 1) -> str:
    """`cell-b-3fa92b`: named after the cell's line and the run; another iteration has another name (rule 24)."""
    line = origin(source)
    digest = hashlib.sha256(f"{run_uid}/{purpose}/{number}".encode()).hexdigest()[:6]
    return f"{line[: NAME_LIMIT - 7].rstrip('-')}-{digest}"


def origin(cell: Cell) -> str:
    """The first cell of the line: attempts follow it, not the name (rule 26)."""
    return cell.metadata.labels.get(LABEL_ORIGIN, cell.metadata.name)


def values(order: Order) -> dict[str, str]:
    """Every parameter's value. Raises UnfitTemplate for one that has none, or that the template does not have."""
    template, ref = order.template, order.source.spec.template_ref
    given = {p.name: p.value for p in ref.parameters} if ref else {}
    known = {p.name for p in template.spec.parameters}
    if unknown := sorted(set(given) - known):
        raise UnfitTemplate(
            f"Cell {order.source.metadata.name}: spec.templateRef.parameters names {', '.join(unknown)}, which"
            f" CellTemplate {template.metadata.name} does not have"
        )
    found = {
        "CELL": order.name,
        "SOURCE": order.source.metadata.name,
        "NAMESPACE": order.source.workload_namespace,
    }
    for parameter in template.spec.parameters:
        value = given.get(parameter.name)
        value = parameter.value if value is None else value
        if value is None:
            raise UnfitTemplate(
                f"CellTemplate {template.metadata.name}: parameter {parameter.name} has no value: set it in"
                f" spec.templateRef.parameters of Cell {order.source.metadata.name}"
            )
        found[parameter.name] = value
    return found


def objects(order: Order) -> list[dict[str, Any]]:
    """The template's objects as they are applied, in its order. Raises UnfitTemplate."""
    found = []
    names = values(order)
    for number, item in enumerate(order.template.spec.objects):
        where = f"CellTemplate {order.template.metadata.name}: spec.objects[{number}]"
        rendered = _rendered(item.to_dict(), names, where)
        metadata = rendered.setdefault("metadata", {})
        if not isinstance(metadata.get("name"), str) or not metadata["name"]:
            raise UnfitTemplate(f"{where}.metadata.name is missing")
        found.append({**rendered, "metadata": _owned(metadata, order)})
    return found


def cell(order: Order) -> dict[str, Any]:
    """The Cell as it is applied, in the source's Router. Raises UnfitTemplate."""
    where = f"CellTemplate {order.template.metadata.name}: spec.cell"
    spec = _rendered(dict(order.template.spec.cell), values(order), where)
    for field in ("routerRef", "weight", "namespace"):
        spec.pop(field, None)
    source = order.source.spec
    spec |= {"routerRef": {"name": source.router_ref.name}, "weight": order.weight}
    if source.namespace:
        spec["namespace"] = source.namespace
    if source.template_ref is not None:
        spec.setdefault("templateRef", source.template_ref.to_dict())
    if source.policy_ref is not None:
        spec.setdefault("policyRef", source.policy_ref.to_dict())
    try:
        CellSpec.model_validate(spec)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(str(part) for part in first["loc"])
        raise UnfitTemplate(f"{where}.{path}: {first['msg']}") from error
    metadata = {"name": order.name, "namespace": order.source.metadata.namespace}
    return {"apiVersion": API_VERSION, "kind": "Cell", "metadata": _owned(metadata, order), "spec": spec}


def problem(template: CellTemplate) -> str | None:
    """Why the template can never be rendered, or None. Parameters without a value are the cells' to set."""
    filled = template.spec.model_copy(
        update={
            "parameters": [
                p if p.value is not None else p.model_copy(update={"value": p.name.lower()})
                for p in template.spec.parameters
            ]
        }
    )
    sample = Cell.model_validate(
        {
            "metadata": {"name": "sample", "namespace": template.metadata.namespace},
            "spec": CellSpec(
                router_ref=NameRef(name="sample"),
                backend={"type": "Service", "service": {"name": "sample", "port": 80}},
            ).to_dict(),
        }
    )
    order = Order("sample-000000", sample, template.model_copy(update={"spec": filled}), "sample")
    try:
        objects(order)
        cell(order)
    except UnfitTemplate as error:
        return str(error)
    return None


def untracked(names: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations without those by which Git tools and Helm own an object."""
    return {name: text for name, text in (names or {}).items() if not _TRACKING.match(name)}


def _rendered(value: Any, names: Mapping[str, str], where: str) -> Any:
    if isinstance(value, str):

        def known(match: re.Match[str]) -> str:
            # Anything else in $(...) is the container's own: Kubernetes replaces environment variables so.
            return names.get(match[1], match[0])

        return _PARAMETER.sub(known, value)
    if isinstance(value, Mapping):
        return {key: _rendered(item, names, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, names, f"{where}[{number}]") for number, item in enumerate(value)]
    return value


def _owned(metadata: Mapping[str, Any], order: Order) -> dict[str, Any]:
    kept = {field: untracked(metadata.get(field)) for field in ("labels", "annotations")}
    labels = {
        **kept["labels"],
        LABEL_CELL: order.name,
        LABEL_MADE_BY: "recell",
        LABEL_ORIGIN: origin(order.source),
        LABEL_INCIDENT: order.incident[:63],
    }
    made = {**metadata, "labels": labels}
    made.pop("annotations", None)
    if kept["annotations"]:
        made["annotations"] = kept["annotations"]
    return made
