"""The reference of the API in Markdown, made from the same schemas as the CRDs.

Promises: everything that the API server checks is said: types, bounds, defaults, rules. Pure but for reading
the models' own source, where the words of the enumerations are explained.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Sequence
from enum import StrEnum

from recell.api import (
    cell,
    cell_template,
    dns,
    failure,
    fallback,
    gateway,
    meta,
    placement,
    recovery_freeze,
    recovery_policy,
    recovery_run,
    router,
    shedding,
)
from recell.api.meta import API_VERSION, Resource
from recell.api.schema import Schema

_MODULES = (
    cell,
    cell_template,
    dns,
    failure,
    fallback,
    gateway,
    meta,
    placement,
    recovery_freeze,
    recovery_policy,
    recovery_run,
    router,
    shedding,
)
_PATTERNS = {
    meta.DURATION_PATTERN: "duration",
    meta.PERCENT_PATTERN: "percentage",
    meta.NAME_PATTERN: "name",
    meta.LABEL_NAME_PATTERN: "name without dots",
}
_INTRODUCTION = f"""# API reference

Made by `python -m recell.api.crd crds/ --docs docs/api.md` from the models; do not edit.

Group and version: `{API_VERSION}`. Every kind is namespaced and in the category `recell`
(`kubectl get recell`). `kubectl explain cell.spec` shows the same descriptions.

A *duration* is written as `30s`, `15m` or `1h30m` (units h, m, s, ms), a *percentage* as `50%` or `99.5%`,
a *time* as `2026-01-31T12:00:00Z`. A field marked **required** has to be set wherever the block around it is.
"""


def reference(kinds: Sequence[tuple[type[Resource], Schema]]) -> str:
    """The whole document, from each kind and the schema of its root."""
    words = _Words()
    parts = [_INTRODUCTION, *(_kind(kind, schema, words) for kind, schema in kinds), words.section()]
    return "\n".join(parts)


def _kind(kind: type[Resource], schema: Schema, words: "_Words") -> str:
    info = kind.INFO
    lines = [
        f"## {info.kind}",
        "",
        schema["description"],
        "",
        f"`kubectl get {info.plural}`, short `{'`, `'.join(info.short_names)}`."
        f" Columns: {', '.join(column.name for column in info.columns)}.",
    ]
    if info.selectable:
        fields = ", ".join(f"`{path.removeprefix('.')}`" for path in info.selectable)
        lines.append(f"Field selectors: {fields}.")
    for part in ("spec", "status"):
        if part in schema["properties"]:
            lines += ["", f"### {info.kind} {part}", "", schema["properties"][part]["description"], ""]
            lines += ["| Field | Type | Default | Meaning |", "|-|-|-|-|"]
            lines += _rows(schema["properties"][part], part, words)
    if checked := list(_rules(schema, "")):
        lines += ["", f"### {info.kind} rules", "", "| On | Message when it is broken |", "|-|-|"]
        lines += [f"| `{path or info.kind}` | {_cell(message)} |" for path, message in checked]
    return "\n".join([*lines, ""])


def _rows(schema: Schema, path: str, words: "_Words") -> Iterator[str]:
    for name, child in schema.get("properties", {}).items():
        where = f"{path}.{name}"
        if name in schema.get("required", ()):
            default = "**required**"
        elif "default" in child and child["type"] != "object":
            default = f"`{json.dumps(child['default'])}`"
        else:
            default = ""
        yield f"| `{where}` | {_type(child, words)} | {default} | {_cell(child.get('description', ''))} |"
        below, mark = child, ""
        while "items" in below:
            below, mark = below["items"], mark + "[]"
        yield from _rows(below, where + mark, words)


def _type(schema: Schema, words: "_Words") -> str:
    kind = schema["type"]
    if "enum" in schema:
        return words.link(schema["enum"])
    if kind == "array":
        return f"list of {_type(schema['items'], words)}, at most {schema['maxItems']}"
    if "additionalProperties" in schema:
        return f"map of {_type(schema['additionalProperties'], words)}, at most {schema['maxProperties']}"
    if kind == "integer":
        return "integer" + _bounds(schema)
    if kind == "string":
        if schema.get("format") == "date-time":
            return "time"
        if named := _PATTERNS.get(schema.get("pattern", "")):
            return named
        return f"string, at most {schema['maxLength']}"
    return kind if kind != "object" or "properties" in schema else "object of any fields"


def _bounds(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if high is None or high == meta.INT32_MAX:
        return "" if low is None else f", from {low}"
    return f", {low} to {high}"


def _rules(schema: Schema, path: str) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield path + rule.get("fieldPath", ""), rule["message"]
    for name, child in schema.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}" if path else name)
    if "items" in schema:
        yield from _rules(schema["items"], f"{path}[]")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


class _Words:
    """The enumerations that the tables name, in the order in which they are named."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], type[StrEnum]] = {}
        for found in enumerations():
            same = self._known.setdefault(tuple(member.value for member in found), found)
            if same is not found:
                raise ValueError(f"{found.__name__} and {same.__name__} have the same values")
        self._named: dict[str, type[StrEnum]] = {}

    def link(self, values: Sequence[str]) -> str:
        found = self._known[tuple(values)]
        self._named[found.__name__] = found
        return f"[{found.__name__}](#{found.__name__.lower()})"

    def section(self) -> str:
        lines = ["## Words", ""]
        for name in sorted(self._named):
            lines += [f"### {name}", ""]
            if said := inspect.getdoc(self._named[name]):
                lines += [" ".join(said.split()), ""]
            lines += ["| Value | Meaning |", "|-|-|"]
            lines += [f"| `{value}` | {_cell(text)} |" for value, text in meanings(self._named[name]).items()]
            lines.append("")
        return "\n".join(lines)


def enumerations() -> list[type[StrEnum]]:
    """All enumerations of the API, by name."""
    found = {
        name: member
        for module in _MODULES
        for name, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, StrEnum) and member is not StrEnum
    }
    return [found[name] for name in sorted(found)]


def meanings(words: type[StrEnum]) -> dict[str, str]:
    """Value -> the docstring below the member in the source; empty where there is none."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(words))).body
    if not isinstance(definition, ast.ClassDef):
        raise TypeError(f"{words.__name__} is not a class")
    found = {member.value: "" for member in words}
    for statement, below in zip(definition.body, definition.body[1:], strict=False):
        match statement, below:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                found[words[name].value] = " ".join(text.split())
            case _:
                pass
    return found
