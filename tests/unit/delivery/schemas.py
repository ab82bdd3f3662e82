"""JSON Schemas for kubeconform: Recell's from its CRDs, Kubernetes' own from its published OpenAPI document.

Promises: strict, as `kubectl apply --validate=strict` is: a field that the API server does not know is an error.
"""

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Schema = dict[str, Any]

KUBERNETES = "1.36.3"
PREFIX = "#/definitions/"
LOCATION = "{{ .ResourceKind }}-{{ .Group }}-{{ .ResourceAPIVersion }}.json"
"""How kubeconform finds the file of a kind; `file_name` says the same."""


def file_name(kind: str, group: str, version: str) -> str:
    return f"{kind.lower()}-{group or version}-{version}.json"


def openapi_document() -> Path | None:
    """Kubernetes' OpenAPI document, from its Go module; None where there is no Go."""
    go = shutil.which("go") or "/usr/local/go/bin/go"
    if not Path(go).exists():
        return None
    told = subprocess.run(
        [go, "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}"],
        check=True,
        stdout=subprocess.PIPE,
        cwd="/",
        timeout=600,
    )
    return Path(json.loads(told.stdout)["Dir"]) / "api" / "openapi-spec" / "swagger.json"


def write_kubernetes(document: Path, folder: Path) -> None:
    """One self-contained schema for each kind of the document."""
    definitions = {
        name: strict(_mended(name, definition))
        for name, definition in json.loads(document.read_text())["definitions"].items()
    }
    for name, definition in definitions.items():
        for kind in definition.get("x-kubernetes-group-version-kind", ()):
            used = {each: definitions[each] for each in _reachable(name, definitions)}
            schema = {"$ref": PREFIX + name, "definitions": used}
            (folder / file_name(kind["kind"], kind["group"], kind["version"])).write_text(json.dumps(schema))


def write_crds(crds: Path, folder: Path) -> None:
    """The schema of each version of each CRD in a folder."""
    for path in sorted(crds.glob("*.yaml")):
        spec = yaml.safe_load(path.read_text())["spec"]
        for version in spec["versions"]:
            schema = strict(version["schema"]["openAPIV3Schema"])
            schema["properties"]["metadata"] = {"type": "object"}
            (folder / file_name(spec["names"]["kind"], spec["group"], version["name"])).write_text(json.dumps(schema))


def strict(schema: Any) -> Any:
    """The same schema, refusing unknown fields wherever fields are named."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(value) for name, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made and _is_object(schema):
        made["additionalProperties"] = False
    return made


def _is_object(schema: Schema) -> bool:
    """Whether these are the properties of a schema, and not a field that is called properties."""
    return schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields")


def _mended(name: str, definition: Schema) -> Schema:
    """What the document cannot say: two types that are a text or a number."""
    if name.endswith((".IntOrString", ".Quantity")):
        return {"type": ["string", "number"]}
    return definition


def _reachable(name: str, definitions: dict[str, Schema]) -> set[str]:
    found: set[str] = set()
    open_names = [name]
    while open_names:
        each = open_names.pop()
        if each not in found:
            found.add(each)
            open_names.extend(_references(definitions[each]))
    return found


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        reference = node.get("$ref")
        if isinstance(reference, str):
            yield reference.removeprefix(PREFIX)
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
