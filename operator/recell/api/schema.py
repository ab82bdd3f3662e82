"""Structural schemas (apiextensions.k8s.io/v1) from pydantic models.

Promises: the schema of a model says exactly what the model says, in the subset that an API server accepts:
no references, no alternatives, no titles, no floats. A construct that has no counterpart there raises
`SchemaError` with its path; nothing is dropped silently. Pure: no I/O, no clock.

An absent optional field is absent, never null. A default stands in the schema where the API server may fill
it in: not in the items of atomic lists and not in list-map keys, where tools that compare an object with its
source would see a difference for ever.
"""

from collections.abc import Mapping
from typing import Any

from recell.api.meta import Model

Schema = dict[str, Any]

INT32_MAX = 2**31 - 1

_KEPT = (
    "description",
    "type",
    "format",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
)
"""Keys that mean the same in both, in the order in which a CRD has them."""
_DROPPED = frozenset({"title"})
_RULES = "x-kubernetes-validations"
_EXTENSIONS = (
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    _RULES,
)


class SchemaError(ValueError):
    """A model says something that a CRD cannot say; the message names the path."""


def structural(model: type[Model]) -> Schema:
    """The structural schema of a model. Raises SchemaError."""
    source = model.model_json_schema(by_alias=True, mode="validation")
    return _Converter(source.pop("$defs", {})).convert(source, model.__name__, defaults=True)


class _Converter:
    def __init__(self, definitions: dict[str, Schema]) -> None:
        self._definitions = definitions

    def convert(self, node: Schema, path: str, *, defaults: bool) -> Schema:
        source = self._flat(node, path)
        made: Schema = {
            key: _text(source.pop(key)) if key == "description" else source.pop(key) for key in _KEPT if key in source
        }
        extensions = {key: source.pop(key) for key in _EXTENSIONS if key in source}
        default = source.pop("default", None)
        properties: dict[str, Schema] = source.pop("properties", {})
        required: list[str] = source.pop("required", [])
        items: Schema | None = source.pop("items", None)
        additional = source.pop("additionalProperties", None)
        for key in _DROPPED:
            source.pop(key, None)
        if source:
            raise SchemaError(f"{path}: no counterpart in a CRD for {', '.join(sorted(source))}")

        kind = made.get("type")
        if kind not in ("string", "integer", "boolean", "object", "array"):
            raise SchemaError(f"{path}: type {kind!r} is not for a CRD")
        if kind == "integer":
            made.setdefault("format", "int32" if made.get("maximum", INT32_MAX + 1) <= INT32_MAX else "int64")
        if _RULES in extensions:
            extensions[_RULES] = [rule_of(rule) for rule in extensions[_RULES]]
        made |= extensions
        if required:
            made["required"] = required
        if properties:
            made["properties"] = {
                name: self.convert(child, f"{path}.{name}", defaults=defaults) for name, child in properties.items()
            }
        if additional is True:
            made["x-kubernetes-preserve-unknown-fields"] = True
        elif additional:
            made["additionalProperties"] = self.convert(additional, f"{path}.*", defaults=defaults)
        if items is not None:
            made["items"] = self._items(items, f"{path}[]", extensions, defaults=defaults)
        if defaults and default is not None:
            made["default"] = _given(default, made)
        return _ordered(made)

    def _items(self, items: Schema, path: str, extensions: Schema, *, defaults: bool) -> Schema:
        how = extensions.get("x-kubernetes-list-type", "atomic")
        made = self.convert(items, path, defaults=defaults and how != "atomic")
        for key in extensions.get("x-kubernetes-list-map-keys", ()):
            if key not in made.get("required", ()):
                raise SchemaError(f"{path}.{key}: the key of a list-map has to be required")
            made["properties"][key].pop("default", None)
        return made

    def _flat(self, node: Schema, path: str) -> Schema:
        """The node with references and alternatives to null resolved; what stands beside them wins."""
        flat = dict(node)
        if options := flat.pop("anyOf", None):
            real = [option for option in options if option.get("type") != "null"]
            if len(real) != 1:
                raise SchemaError(f"{path}: a union of {len(real)} types")
            flat = {**self._flat(real[0], path), **flat}
        if reference := flat.pop("$ref", None):
            definition = self._flat(self._definitions[reference.removeprefix("#/$defs/")], path)
            rules = [*definition.get(_RULES, ()), *flat.get(_RULES, ())]
            flat = {**definition, **flat, **({_RULES: rules} if rules else {})}
        if "const" in flat:
            flat["enum"] = [flat.pop("const")]
        return flat


def rule_of(rule: Mapping[str, Any]) -> Schema:
    """A CEL validation with its keys in the order in which people read them."""
    return {key: rule[key] for key in ("rule", "message", *sorted(rule)) if key in rule}


def _given(default: Any, schema: Schema) -> Any:
    """A default without what is absent, and without what the API server fills in from the fields' own defaults."""
    if not isinstance(default, dict):
        return default
    properties: dict[str, Schema] = schema.get("properties", {})
    given: Schema = {}
    for name, value in default.items():
        child = properties.get(name, {})
        if value is None or (value in ([], {}) and "default" not in child):
            continue
        value = _given(value, child)
        if value != child.get("default"):
            given[name] = value
    return given


def _text(description: str) -> str:
    return " ".join(description.split())


def _ordered(made: Schema) -> Schema:
    """The same with the long parts last, as people read it."""
    last = ("default", *_EXTENSIONS, "required", "additionalProperties", "items", "properties")
    return {key: made[key] for key in (*(k for k in made if k not in last), *last) if key in made}
