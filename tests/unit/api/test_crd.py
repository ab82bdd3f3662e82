"""The CRDs: current, structural, bounded, and covered by the examples."""

import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import Field

from recell.api import KINDS, Resource
from recell.api.crd import crd, docs, files, main, root_schema, to_yaml
from recell.api.meta import ATOMIC, Model, cel, list_map, rules
from recell.api.reference import enumerations, meanings
from recell.api.schema import Schema, SchemaError, structural
from tests.unit.api.bounds import bounds_of, violations
from tests.unit.api.examples import Object, examples

ROOT = Path(__file__).parents[3]
COMMAND = "run `python -m recell.api.crd crds/ --docs docs/api.md` and commit"

by_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.INFO.kind)


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from nodes(schema["additionalProperties"], f"{path}.*")


def own_nodes(kind: type[Resource]) -> list[tuple[str, Schema]]:
    """The nodes that Recell says something about."""
    return [(p, n) for p, n in nodes(root_schema(kind)) if not re.match(r"\.(apiVersion|kind|metadata)\b", p)]


class TestCommitted:
    def test_the_crds_are_current(self) -> None:
        committed = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "crds").iterdir()}
        assert committed == files(), COMMAND

    def test_the_reference_is_current(self) -> None:
        assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == docs(), COMMAND

    def test_the_command_writes_the_same(self, tmp_path: Path) -> None:
        main([str(tmp_path / "crds"), "--docs", str(tmp_path / "docs" / "api.md")])
        assert {path.name: path.read_text() for path in (tmp_path / "crds").iterdir()} == files()
        assert (tmp_path / "docs" / "api.md").read_text() == docs()


class TestStructure:
    ALLOWED = frozenset(
        {
            *("description", "type", "format", "enum", "default", "required"),
            *("pattern", "minLength", "maxLength", "minimum", "maximum", "minItems", "maxItems", "maxProperties"),
            *("properties", "items", "additionalProperties"),
            *("x-kubernetes-list-type", "x-kubernetes-list-map-keys"),
            *("x-kubernetes-preserve-unknown-fields", "x-kubernetes-validations"),
        }
    )

    @by_kind
    def test_only_known_keys(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            assert not set(node) - self.ALLOWED, path
            assert node["type"] in {"string", "integer", "boolean", "array", "object"}, f"{path}: no floats, no unions"

    @by_kind
    def test_everything_is_bounded(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            match node["type"]:
                case "string":
                    assert {"maxLength", "enum"} & set(node) or node.get("format") == "date-time", path
                case "integer":
                    assert node["format"] in ("int32", "int64"), path
                    assert "minimum" in node, path
                    assert ("maximum" in node) == (node["format"] == "int32"), path
                case "array":
                    assert "maxItems" in node, path
                    assert "x-kubernetes-list-type" in node, path
                case "object" if "properties" not in node:
                    assert "maxProperties" in node, path

    @by_kind
    def test_every_property_is_described(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            for name, child in node.get("properties", {}).items():
                if f"{path}.{name}" != ".metadata":
                    assert child.get("description"), f"{path}.{name}"
                    assert "\n" not in child["description"], f"{path}.{name}"

    @by_kind
    def test_no_default_where_tools_would_see_a_difference_for_ever(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            if node["type"] != "array":
                continue
            if node["x-kubernetes-list-type"] == "atomic":
                for below, item in nodes(node["items"]):
                    assert "default" not in item, f"{path}[]{below}"
            for key in node.get("x-kubernetes-list-map-keys", ()):
                assert key in node["items"]["required"], f"{path}[].{key}"
                assert "default" not in node["items"]["properties"][key], f"{path}[].{key}"

    @by_kind
    def test_defaults_are_what_the_models_say(self, kind: type[Resource]) -> None:
        """An object without what may be absent means the same to the API server as to the operator."""
        for example in (e for e in examples() if e["kind"] == kind.INFO.kind):
            seen = kind.model_validate(filled(root_schema(kind), example))
            assert seen == kind.model_validate(example)

    @by_kind
    def test_required_and_default_exclude_each_other(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            for name in node.get("required", ()):
                assert "default" not in node["properties"][name], f"{path}.{name}"

    @pytest.mark.parametrize("words", enumerations(), ids=lambda words: words.__name__)
    def test_enumerations_are_explained(self, words: type[StrEnum]) -> None:
        assert all(meanings(words).values()), meanings(words)

    @by_kind
    def test_rules_say_where_and_what(self, kind: type[Resource]) -> None:
        for path, node in own_nodes(kind):
            for rule in node.get("x-kubernetes-validations", ()):
                assert set(rule) <= {"rule", "message", "fieldPath"}, path
                assert rule["message"], path
                if field := rule.get("fieldPath"):
                    below = node
                    for name in field.removeprefix(".").split("."):
                        below = below["properties"][name]

    @by_kind
    def test_columns_and_selectors_point_at_fields(self, kind: type[Resource]) -> None:
        version = crd(kind)["spec"]["versions"][0]
        paths = [c["jsonPath"] for c in version["additionalPrinterColumns"]]
        paths += [f["jsonPath"] for f in version.get("selectableFields", ())]
        known = dict(nodes(version["schema"]["openAPIV3Schema"]))
        for path in paths:
            plain = re.sub(r"\[\?.*?\]", "[]", path)
            assert plain in known or plain.startswith(".metadata."), path

    @by_kind
    def test_names(self, kind: type[Resource]) -> None:
        made = crd(kind)
        names = made["spec"]["names"]
        assert made["metadata"]["name"] == f"{names['plural']}.recell.dev"
        assert names["categories"] == ["recell"]
        assert ("status" in made["spec"]["versions"][0].get("subresources", {})) == ("status" in kind.model_fields)


class TestExamples:
    @by_kind
    def test_they_set_every_field(self, kind: type[Resource]) -> None:
        present = {path for e in examples() if e["kind"] == kind.INFO.kind for path in paths_of(root_schema(kind), e)}
        assert {path for path, _ in nodes(root_schema(kind))} <= present

    @pytest.mark.parametrize("example", examples(), ids=lambda e: f"{e['kind']}-{e['metadata']['name']}")
    def test_they_fit_schema_and_model(self, example: Object) -> None:
        kind = next(k for k in KINDS if k.INFO.kind == example["kind"])
        Draft202012Validator(root_schema(kind)).validate(example)
        read = kind.model_validate(example)
        again = kind.model_validate(read.to_dict())
        assert again == read

    @by_kind
    def test_each_bound_is_broken_by_one(self, kind: type[Resource]) -> None:
        broken = {violation.where for violation in violations() if violation.kind == kind.INFO.kind}
        assert set(bounds_of(root_schema(kind))) == broken

    @by_kind
    def test_what_breaks_a_bound_breaks_the_schema(self, kind: type[Resource]) -> None:
        """Those of JSON Schema; the others are for the API server (tests/cluster/test_crds.py)."""
        validator = Draft202012Validator(root_schema(kind))
        for violation in violations():
            if violation.kind == kind.INFO.kind and not violation.where.endswith(("list-type", "format")):
                assert not validator.is_valid(violation.obj), violation.where


class TestConverter:
    def test_references_options_and_constants(self) -> None:
        class Inner(Model):
            """An inner
            block."""

            word: Literal["one"] = Field(description="One.")

        class Outer(Model):
            inner: Inner | None = None
            other: Inner = Field(description="Said here.")

        inner = {
            "type": "object",
            "required": ["word"],
            "properties": {"word": {"description": "One.", "type": "string", "enum": ["one"]}},
        }
        assert structural(Outer) == {
            "type": "object",
            "required": ["other"],
            "properties": {
                "inner": {"description": "An inner block.", **inner},
                "other": {"description": "Said here.", **inner},
            },
        }

    def test_integers_have_a_size(self) -> None:
        class Sizes(Model):
            small: int = Field(le=2**31 - 1)
            large: int = Field(le=2**31)
            open: int

        made = structural(Sizes)["properties"]
        assert [made[name]["format"] for name in ("small", "large", "open")] == ["int32", "int64", "int64"]

    def test_a_default_of_an_object_leaves_the_rest_to_its_fields(self) -> None:
        class Inner(Model):
            number: int = 3
            text: str = "a"
            absent: int | None = None
            several: list[str] = Field(default=[])

        class Outer(Model):
            same: Inner = Inner()
            other: Inner = Inner(number=4)

        made = structural(Outer)["properties"]
        assert made["same"]["default"] == {}
        assert made["other"]["default"] == {"number": 4}
        assert made["same"]["properties"]["number"]["default"] == 3
        assert "default" not in made["same"]["properties"]["absent"]

    def test_no_defaults_in_atomic_items_but_in_those_of_maps(self) -> None:
        class Deep(Model):
            number: int = 3

        class Item(Model):
            key: str
            number: int = 3
            deep: Deep = Deep()

        class Outer(Model):
            plain: list[Item] = Field(default_factory=list)
            atomic: list[Item] = Field(default_factory=list, json_schema_extra=ATOMIC)
            keyed: list[Item] = Field(default_factory=list, json_schema_extra=list_map("key"))

        made = structural(Outer)["properties"]
        for name in ("plain", "atomic"):
            assert not [path for path, node in nodes(made[name]) if "default" in node]
        assert made["keyed"]["items"]["properties"]["number"]["default"] == 3
        assert made["keyed"]["items"]["properties"]["deep"]["default"] == {}

    def test_fields_of_any_kind_are_preserved(self) -> None:
        class Free(Model):
            data: dict[str, Any] = Field(default_factory=dict, max_length=3)
            texts: dict[str, str] = Field(default_factory=dict)

        made = structural(Free)["properties"]
        assert made["data"] == {"type": "object", "maxProperties": 3, "x-kubernetes-preserve-unknown-fields": True}
        assert made["texts"] == {"type": "object", "additionalProperties": {"type": "string"}}

    def test_rules_of_a_field_join_those_of_its_model(self) -> None:
        class Inner(Model):
            model_config = rules(cel("self.a > 1", "of the model"))
            a: int = 1

        class Outer(Model):
            inner: Inner = Field(
                json_schema_extra={"x-kubernetes-validations": [cel("self.a > 2", "of the field", fieldPath=".a")]}
            )

        made = structural(Outer)["properties"]["inner"]["x-kubernetes-validations"]
        assert [list(rule.items()) for rule in made] == [
            [("rule", "self.a > 1"), ("message", "of the model")],
            [("rule", "self.a > 2"), ("message", "of the field"), ("fieldPath", ".a")],
        ]

    def test_what_a_crd_cannot_say_is_refused_with_its_path(self) -> None:
        class Union(Model):
            either: int | str

        class Number(Model):
            ratio: float

        class Exclusive(Model):
            count: Annotated[int, Field(gt=0)]

        class Key(Model):
            items: list["Item"] = Field(default_factory=list, json_schema_extra=list_map("name"))

        class Item(Model):
            name: str = "unnamed"

        Key.model_rebuild(_types_namespace={"Item": Item})
        for model, message in (
            (Union, "Union.either: a union of 2 types"),
            (Number, "Number.ratio: type 'number' is not for a CRD"),
            (Exclusive, "Exclusive.count: no counterpart in a CRD for exclusiveMinimum"),
            (Key, "Key.items[].name: the key of a list-map has to be required"),
        ):
            with pytest.raises(SchemaError, match=f"^{re.escape(message)}"):
                structural(model)


class TestYAML:
    @by_kind
    def test_it_reads_back(self, kind: type[Resource]) -> None:
        assert yaml.safe_load(to_yaml(crd(kind))) == crd(kind)

    def test_names_that_other_parsers_take_for_booleans_are_quoted(self) -> None:
        text = to_yaml({"n": 1, "Y": "y", "on": "off", "yes": "no", "true": "null", "name": "~"})
        assert text == "'n': 1\n'Y': 'y'\n'on': 'off'\n'yes': 'no'\n'true': 'null'\nname: '~'\n"

    @by_kind
    def test_no_templating(self, kind: type[Resource]) -> None:
        assert "{{" not in to_yaml(crd(kind))


def filled(schema: Schema, value: Any) -> Any:
    """The value with the schema's defaults, as the API server fills them in."""
    if isinstance(value, dict) and "properties" in schema:
        made = dict(value)
        for name, child in schema["properties"].items():
            if name not in made and "default" in child:
                made[name] = child["default"]
            if name in made:
                made[name] = filled(child, made[name])
        return made
    if isinstance(value, list) and "items" in schema:
        return [filled(schema["items"], item) for item in value]
    return value


def paths_of(schema: Schema, value: Any, path: str = "") -> Iterator[str]:
    """The schema's paths that a value sets."""
    yield path
    if "properties" in schema:
        for name, child in schema["properties"].items():
            if name in value:
                yield from paths_of(child, value[name], f"{path}.{name}")
    for item in value if "items" in schema else ():
        yield from paths_of(schema["items"], item, f"{path}[]")
    if "additionalProperties" in schema and value:
        yield f"{path}.*"
