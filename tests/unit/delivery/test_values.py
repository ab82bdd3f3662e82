"""The values' schema refuses nonsense and says which value it is about."""

from typing import Any

import pytest
import yaml

from tests.unit.delivery.conftest import CHART, Helm


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replica": 3}, "replica"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": "two"}, "replicas"),
        ({"image": {"repo": "x"}}, "repo"),
        ({"image": {"digest": "latest"}}, "digest"),
        ({"image": {"pullPolicy": "Sometimes"}}, "pullPolicy"),
        ({"watch": {"namespaces": "shop"}}, "namespaces"),
        ({"watch": {"namespaces": ["Shop"]}}, "namespaces"),
        ({"watch": {"namespaces": ["shop", "shop"]}}, "namespaces"),
        ({"watch": {"workloadNamespaces": ["data"]}}, "namespaces"),
        ({"features": {"haproxy": True}}, "haproxy"),
        ({"features": {"remoteClusters": True}}, "secrets"),
        ({"logging": {"level": "chatty"}}, "level"),
        ({"resources": {"limits": {"memory": "much"}}}, "memory"),
        ({"serviceAccount": {"create": False}}, "name"),
        ({"metrics": {"serviceMonitor": {"interval": "often"}}}, "interval"),
        ({"port": 80}, "port"),
    ],
)
def test_nonsense_is_refused(template: Helm, values: dict[str, Any], named: str) -> None:
    made = template(values)
    assert made.returncode != 0
    assert "values don't meet the specifications of the schema" in made.stderr
    assert named in made.stderr


def test_every_object_of_the_schema_is_closed() -> None:
    """A misspelled value must not be ignored; free maps and Kubernetes' own objects excepted."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    free = {"global", "tolerations", "affinity", "metricsFrom"}

    def open_objects(node: dict[str, Any], path: str) -> list[str]:
        found = []
        if node.get("type") == "object" and "additionalProperties" not in node and path.split(".")[-1] not in free:
            found.append(path)
        for name, child in node.get("properties", {}).items():
            found += open_objects(child, f"{path}.{name}")
        return found

    assert open_objects(schema, "") == []


def test_the_schema_knows_every_default() -> None:
    """And has no value that values.yaml does not show."""
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(node: dict[str, Any], value: Any, path: str) -> None:
        if "properties" not in node or path.startswith(".resources."):
            return
        assert set(node["properties"]) - {"global"} == set(value), path
        for name, child in value.items():
            compare(node["properties"][name], child, f"{path}.{name}")

    compare(schema, values, "")
