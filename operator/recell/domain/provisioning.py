"""A further cell from a template: its name, its objects and its Cell, rendered.

Promises: pure; the same order gives the same names and texts in every process, so that doing it twice is
doing it once. Every made object says where it came from; what a live object carries beside that (owners, the
server's own fields, labels by which Git tools and Helm own it) is left out, so that a template may be pasted
from one, and nobody prunes what was made here.

Must not: replace anything but `$(NAME)` of what the template declares; own what is made (rule 7).
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from recell.api.cell import Cell, CellSpec
from recell.api.cell_template import NOT_MADE, CellTemplate, TargetCluster
from recell.api.meta import API_VERSION, LABEL_CELL, LABEL_INCIDENT, LABEL_MADE_BY, LABEL_ORIGIN

NAME_LIMIT = 45
"""Of a made cell's name: room for what templates put behind it, in 63."""
_PARAMETER = re.compile(r"\$\(([A-Z][A-Z0-9_]*)\)")
_TRACKING = re.compile(
    r"^(argocd\.argoproj\.io|kustomize\.toolkit\.fluxcd\.io|helm\.toolkit\.fluxcd\.io|meta\.helm\.sh)/"
    r"|^app\.kubernetes\.io/(managed-by|instance)$"
)
_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.:]{0,251}[A-Za-z0-9])?")
"""Whatever an API server takes as a name, of any kind; it becomes a part of a path."""
_Path = tuple[str | int, ...]


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


def lineage(cell: Cell, siblings: Iterable[Cell]) -> set[str]:
    """Names of the cell and of those of its Router that it descends from: a replacement does not begin anew.

    The first of a line begins with itself: what became of those that were made for it is not counted against it.
    """
    names = {cell.metadata.name}
    if (first := cell.metadata.labels.get(LABEL_ORIGIN)) is not None:
        names |= {first, *(other.metadata.name for other in siblings if origin(other) == first)}
    return names


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
        value = given.get(parameter.name, parameter.value)
        if value is None:
            raise UnfitTemplate(
                f"CellTemplate {template.metadata.name}: parameter {parameter.name} has no value: set it in"
                f" spec.templateRef.parameters of Cell {order.source.metadata.name}"
            )
        found[parameter.name] = value
    return found


def objects(order: Order) -> list[dict[str, Any]]:
    """The template's objects as they are applied, in its order, each with its namespace. Raises UnfitTemplate."""
    names, made = values(order), _labels(order)
    found: list[dict[str, Any]] = []
    numbers: dict[tuple[bool, str, str, str, str], int] = {}
    for number, item in enumerate(order.template.spec.objects):
        where = f"{_name(order.template)}: spec.objects[{number}]"
        rendered = _rendered(item.to_dict(), names)
        rendered.pop("status", None)
        rendered.pop("cluster", None)
        here = item.cluster is TargetCluster.MANAGEMENT
        apart = here and "cluster" in order.template.spec.cell
        namespace = order.source.metadata.namespace if here else order.source.workload_namespace
        metadata = _metadata(rendered["metadata"], made, namespace, where)
        rendered["metadata"] = metadata
        group, kind = rendered["apiVersion"].rpartition("/")[0], rendered["kind"]
        if group in NOT_MADE:
            raise UnfitTemplate(f"{where}: a template makes no {kind}: make {metadata['name']} beforehand")
        identity = (apart, group, kind, metadata["namespace"], metadata["name"])
        if identity in numbers:
            raise UnfitTemplate(f"{where}: {kind} {metadata['name']} is spec.objects[{numbers[identity]}] already")
        numbers[identity] = number
        if (group, kind) == ("apps", "StatefulSet"):
            _label_claims(rendered, made, where)
        if (group, kind) == ("batch", "Job") and _spec(rendered).get("ttlSecondsAfterFinished") is not None:
            raise UnfitTemplate(f"{where}.spec.ttlSecondsAfterFinished: leave it out, a Job that is gone is made again")
        found.append(rendered)
    return found


def cell(order: Order) -> dict[str, Any]:
    """The Cell as it is applied, in the source's Router. Raises UnfitTemplate."""
    spec = _cell_spec(order)
    for path, why in _faults(spec):
        raise UnfitTemplate(f"{_name(order.template)}: spec.cell{_shown(path)}: {why}")
    metadata = {"name": order.name, "namespace": order.source.metadata.namespace, "labels": _labels(order)}
    spec = _read(CellSpec.model_validate(spec))  # a port that a parameter gave is a number again
    return {"apiVersion": API_VERSION, "kind": "Cell", "metadata": metadata, "spec": spec}


def unfit(source: Cell, template: CellTemplate) -> str | None:
    """Why no cell like this one can be made from the template, or None."""
    order = Order(f"{source.metadata.name[: NAME_LIMIT - 7]}-000000", source, template, source.metadata.name)
    try:
        objects(order)
        cell(order)
    except UnfitTemplate as error:
        return str(error)
    return None


def problem(template: CellTemplate) -> str | None:
    """Why no cell at all can be made from the template, or None; what depends on a parameter that each cell has to
    set is left to `unfit`."""
    open_to_cells = {p.name for p in template.spec.parameters if p.value is None}
    filled = [p if p.value is not None else p.model_copy(update={"value": "x"}) for p in template.spec.parameters]
    spec = template.spec.model_copy(update={"parameters": filled})
    order = Order("sample-000000", _sample(template), template.model_copy(update={"spec": spec}), "sample")
    try:
        objects(order)
    except UnfitTemplate as error:
        return str(error)
    for path, why in _faults(_cell_spec(order)):
        if not set(_PARAMETER.findall(str(_at(template.spec.cell, path)))) & open_to_cells:
            return f"{_name(template)}: spec.cell{_shown(path)}: {why}"
    return None


def _sample(template: CellTemplate) -> Cell:
    spec = {"routerRef": {"name": "sample"}, "backend": {"type": "Service", "service": {"name": "sample", "port": 80}}}
    return Cell.model_validate({"metadata": {"name": "sample", "namespace": template.metadata.namespace}, "spec": spec})


def _name(template: CellTemplate) -> str:
    return f"CellTemplate {template.metadata.name}"


def _rendered(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        # Anything else in $(...) is the container's own: Kubernetes replaces environment variables so.
        return _PARAMETER.sub(lambda match: names.get(match[1], match[0]), value)
    if isinstance(value, Mapping):
        return {key: _rendered(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_rendered(item, names) for item in value]
    return value


def _labels(order: Order) -> dict[str, str]:
    """By which what was made is found again."""
    return {
        LABEL_CELL: order.name,
        LABEL_MADE_BY: "recell",
        LABEL_ORIGIN: origin(order.source),
        LABEL_INCIDENT: order.incident[:63].rstrip("-._"),
    }


def _metadata(given: Mapping[str, Any], made: Mapping[str, str], namespace: str, where: str) -> dict[str, Any]:
    if "name" not in given:
        raise UnfitTemplate(f"{where}.metadata.name is missing")
    metadata: dict[str, Any] = {"name": given["name"], "namespace": given.get("namespace") or namespace}
    for field, value in metadata.items():
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise UnfitTemplate(f"{where}.metadata.{field}: {value!r} is not a name")
    kept = {field: _texts(given.get(field), f"{where}.metadata.{field}") for field in ("labels", "annotations")}
    metadata["labels"] = {**kept["labels"], **made}
    if kept["annotations"]:
        metadata["annotations"] = kept["annotations"]
    if given.get("finalizers"):
        metadata["finalizers"] = given["finalizers"]
    return metadata


def _spec(rendered: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = rendered.get("spec")
    return spec if isinstance(spec, Mapping) else {}


def _texts(given: Any, where: str) -> dict[str, str]:
    if not isinstance(given or {}, Mapping) or not all(isinstance(text, str) for text in (given or {}).values()):
        raise UnfitTemplate(f"{where} has to be names and texts")
    return untracked(given)


def _label_claims(stateful_set: dict[str, Any], made: Mapping[str, str], where: str) -> None:
    """A StatefulSet's claims outlive it: with the labels they are found when a half-made cell is taken away."""
    where = f"{where}.spec.volumeClaimTemplates"
    claims = _spec(stateful_set).get("volumeClaimTemplates")
    for number, claim in enumerate(claims if isinstance(claims, list) else ()):
        metadata = claim.get("metadata") if isinstance(claim, Mapping) else None
        if not isinstance(metadata, dict):
            raise UnfitTemplate(f"{where}[{number}].metadata is missing")
        metadata["labels"] = {**_texts(metadata.get("labels"), f"{where}[{number}].metadata.labels"), **made}


def _cell_spec(order: Order) -> dict[str, Any]:
    spec: dict[str, Any] = _rendered(dict(order.template.spec.cell), values(order))
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
    return spec


def _faults(spec: Mapping[str, Any]) -> Iterator[tuple[_Path, str]]:
    """What a Cell's spec cannot be: path and reason."""
    try:
        read = CellSpec.model_validate(spec)
    except ValidationError as error:
        yield from ((found["loc"], found["msg"]) for found in error.errors())
    else:
        yield from ((path, "there is no such field") for path in _unknown(spec, _read(read)))


def _read(spec: CellSpec) -> dict[str, Any]:
    return spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)


def untracked(names: Mapping[str, str] | None) -> dict[str, str]:
    """Labels or annotations without those by which Git tools and Helm own an object."""
    return {name: text for name, text in (names or {}).items() if not _TRACKING.match(name)}


def _unknown(given: Any, read: Any, path: _Path = ()) -> Iterator[_Path]:
    if isinstance(given, Mapping):
        for name, value in given.items():
            if name in read:
                yield from _unknown(value, read[name], (*path, name))
            elif value is not None:
                yield (*path, name)
    elif isinstance(given, list):
        for number, item in enumerate(given):
            yield from _unknown(item, read[number], (*path, number))


def _at(value: Any, path: _Path) -> Any:
    """What stands there, or the nearest thing above it."""
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            return value
    return value


def _shown(path: _Path) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
