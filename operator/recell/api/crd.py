"""CustomResourceDefinitions from the models.

    python -m recell.api.crd crds/                      writes one YAML file for each kind
    python -m recell.api.crd crds/ --docs docs/api.md   and the reference

Promises: the same models give the same bytes; the files carry no templating. Whether the committed files are
current is shown by tests/unit/api.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from recell.api import KINDS
from recell.api.meta import GROUP, VERSION, Column, Resource
from recell.api.reference import reference
from recell.api.schema import Schema, rule_of, structural

CATEGORY = "recell"
HEADER = "# Made by `python -m recell.api.crd crds/` from the models in operator/recell/api; do not edit.\n"


def root_schema(kind: type[Resource]) -> Schema:
    """The schema of the whole object; of metadata the API server knows all that there is to know."""
    info = kind.INFO
    whole = structural(kind)
    made: Schema = {"description": whole["description"], "type": "object"}
    if info.spec_rules:
        made["x-kubernetes-validations"] = [rule_of(rule) for rule in info.spec_rules]
    if required := [name for name in whole.get("required", ()) if name != "metadata"]:
        made["required"] = required
    made["properties"] = {
        "apiVersion": {"description": f"{GROUP}/{VERSION}", "type": "string"},
        "kind": {"description": info.kind, "type": "string"},
        "metadata": {"type": "object"},
        **{name: whole["properties"][name] for name in ("spec", "status") if name in whole["properties"]},
    }
    return made


def crd(kind: type[Resource]) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind."""
    info = kind.INFO
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": [_column(column) for column in info.columns],
    }
    if info.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in info.selectable]
    if info.has_status:
        version["subresources"] = {"status": {}}
    version["schema"] = {"openAPIV3Schema": root_schema(kind)}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{info.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": info.kind,
                "listKind": f"{info.kind}List",
                "plural": info.plural,
                "singular": info.kind.lower(),
                "shortNames": list(info.short_names),
                "categories": [CATEGORY],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }


def _column(column: Column) -> dict[str, Any]:
    made: dict[str, Any] = {"name": column.name, "type": column.type, "jsonPath": column.json_path}
    if column.description:
        made["description"] = column.description
    if column.priority:
        made["priority"] = column.priority
    return made


class _Dumper(yaml.SafeDumper):
    """YAML that every parser reads alike."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    """YAML 1.1 takes a bare y or n for a boolean, which this library does not know of: quote them."""
    style = "'" if value.lower() in ("y", "n") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


def files() -> dict[str, str]:
    """File name -> content, for each kind."""
    return {f"{kind.INFO.plural}.yaml": HEADER + to_yaml(crd(kind)) for kind in KINDS}


def docs() -> str:
    """The reference of all kinds, in Markdown."""
    return reference([(kind, root_schema(kind)) for kind in KINDS])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m recell.api.crd", description="Write the CRDs of Recell.")
    parser.add_argument("folder", type=Path, help="folder of the CRDs, one file for each kind")
    parser.add_argument("--docs", type=Path, metavar="FILE", help="file of the reference, in Markdown")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    for name, content in files().items():
        (options.folder / name).write_text(content, encoding="utf-8")
    if options.docs:
        options.docs.parent.mkdir(parents=True, exist_ok=True)
        options.docs.write_text(docs(), encoding="utf-8")


if __name__ == "__main__":
    main()
