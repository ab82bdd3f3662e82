"""Every bound of the CRDs with an object that breaks it and the message that the user then sees.

Made from the schemas, so a new bound is tried without anybody having to think of it.
"""

import json
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

from recell.api import KINDS
from recell.api.crd import root_schema
from recell.api.schema import Schema
from tests.unit.api.examples import Object, examples

Path = tuple[str | int, ...]

BOUNDS = (
    "required",
    "enum",
    "pattern",
    "format",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "x-kubernetes-list-type",
)
"""What a schema can refuse; formats other than date-time say the size of integers, where `maximum` comes first."""
_NO_PATTERN = "~ ~"
"""Matches none of the patterns of the API."""


@dataclass(frozen=True)
class Violation:
    kind: str
    where: str
    """The bound: path in the schema and keyword."""
    obj: Object
    message: str
    """Part of what the API server says."""

    @property
    def of_status(self) -> bool:
        return self.where.startswith("status")


def bounds_of(schema: Schema, path: str = "") -> Iterator[str]:
    """The name of every bound below a schema: path and keyword."""
    for keyword in BOUNDS:
        if keyword not in schema or (keyword == "format" and schema["format"] != "date-time"):
            continue
        if keyword == "required":
            yield from (f"{path}.{name}: required".removeprefix(".") for name in schema["required"])
        elif keyword != "x-kubernetes-list-type" or schema[keyword] != "atomic":
            yield f"{path}: {keyword}"
    for name, child in schema.get("properties", {}).items():
        if path or name not in ("apiVersion", "kind", "metadata"):
            yield from bounds_of(child, f"{path}.{name}".removeprefix("."))
    if "items" in schema:
        yield from bounds_of(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from bounds_of(schema["additionalProperties"], f"{path}.*")


@cache
def violations() -> tuple[Violation, ...]:
    """One for each bound that an example reaches."""
    found: dict[tuple[str, str], Violation] = {}
    for kind in KINDS:
        for example in (e for e in examples() if e["kind"] == kind.INFO.kind):
            for violation in _below(example, root_schema(kind), (), ""):
                found.setdefault((violation.kind, violation.where), violation)
    return tuple(found.values())


def _below(example: Object, schema: Schema, at: Path, where: str) -> Iterator[Violation]:
    value = _get(example, at)
    for name in schema.get("required", ()):
        if name in value:
            yield Violation(
                example["kind"],
                f"{where}.{name}: required".removeprefix("."),
                _without(example, (*at, name)),
                f"{_shown((*at, name))}: Required value",
            )
    for keyword, wrong, message in _wrong(schema, value, _shown(at)):
        yield Violation(example["kind"], f"{where}: {keyword}", _with(example, at, wrong), message)
    for name, child in schema.get("properties", {}).items():
        if name in value and (at or name not in ("apiVersion", "kind", "metadata")):
            yield from _below(example, child, (*at, name), f"{where}.{name}".removeprefix("."))
    if "items" in schema:
        for place in range(len(value)):
            yield from _below(example, schema["items"], (*at, place), f"{where}[]")
    if "additionalProperties" in schema and value:
        yield from _below(example, schema["additionalProperties"], (*at, next(iter(value))), f"{where}.*")


def _wrong(schema: Schema, value: Any, shown: str) -> Iterator[tuple[str, Any, str]]:
    """Keyword, a value that breaks it, and the message."""
    body = f"{shown.removeprefix('status.')} in body"

    def invalid(wrong: Any, message: str) -> str:
        return f"{shown}: Invalid value: {json.dumps(wrong)}: {body} {message}"

    if "enum" in schema:
        supported = ", ".join(json.dumps(word) for word in schema["enum"])
        yield "enum", "Nonsense", f'{shown}: Unsupported value: "Nonsense": supported values: {supported}'
    if "pattern" in schema:
        yield "pattern", _NO_PATTERN, invalid(_NO_PATTERN, f"should match '{schema['pattern']}'")
    if schema.get("format") == "date-time":
        yield "format", "yesterday", invalid("yesterday", 'must be of type date-time: "yesterday"')
    if "minLength" in schema:
        yield "minLength", "", invalid("", f"should be at least {schema['minLength']} chars long")
    if "maxLength" in schema:
        most = schema["maxLength"]
        yield "maxLength", "a" * (most + 1), f"{shown}: Too long: may not be more than {most} bytes"
    if "minimum" in schema:
        least = schema["minimum"]
        yield "minimum", least - 1, invalid(least - 1, f"should be greater than or equal to {least}")
    if "maximum" in schema:
        most = schema["maximum"]
        yield "maximum", most + 1, invalid(most + 1, f"should be less than or equal to {most}")
    if "minItems" in schema:
        yield "minItems", [], f"{body} should have at least {schema['minItems']} items"
    if "maxItems" in schema:
        most = schema["maxItems"]
        many = [_numbered(value[0], number) for number in range(most + 1)]
        yield "maxItems", many, f"{shown}: Too many: {most + 1}: must have at most {most} items"
    if "maxProperties" in schema:
        most = schema["maxProperties"]
        many_fields = {f"k{number}": next(iter(value.values())) for number in range(most + 1)}
        yield "maxProperties", many_fields, f"{shown}: Too many: {most + 1}: must have at most {most} items"
    match schema.get("x-kubernetes-list-type"):
        case "set":
            yield (
                "x-kubernetes-list-type",
                [*value, value[0]],
                f"{shown}[{len(value)}]: Duplicate value: {json.dumps(value[0])}",
            )
        case "map":
            keys = {key: value[0][key] for key in sorted(schema["x-kubernetes-list-map-keys"])}
            duplicate = json.dumps(keys, separators=(",", ":"))
            yield (
                "x-kubernetes-list-type",
                [*value, value[0]],
                f"{shown}[{len(value)}]: Duplicate value: {duplicate}",
            )
        case _:
            pass


def _numbered(item: Any, number: int) -> Any:
    """Another item of a list, told apart by its texts without breaking their bounds."""
    if isinstance(item, str):
        return f"item-{number}"
    return {
        key: f"item-{number}" if key in ("name", "customer", "type", "gate") and isinstance(value, str) else value
        for key, value in item.items()
    }


def _get(obj: Any, at: Path) -> Any:
    for part in at:
        obj = obj[part]
    return obj


def _with(example: Object, at: Path, value: Any) -> Object:
    made = deepcopy(example)
    _get(made, at[:-1])[at[-1]] = value
    return made


def _without(example: Object, at: Path) -> Object:
    made = deepcopy(example)
    del _get(made, at[:-1])[at[-1]]
    return made


def _shown(at: Path) -> str:
    """A path as the API server writes it."""
    text = ""
    for part in at:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")
