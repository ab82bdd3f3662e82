"""The operator's rights on a stage, by the features that are switched on."""

import json
import subprocess

import yaml

from tests.conftest import ROOT
from tests.unit.delivery.programs import program


def role(*values: str) -> str:
    """The operator's rights as the chart grants them."""
    command = [program("helm"), "template", "recell", str(ROOT / "helm" / "recell"), "--kube-version", "1.36.0"]
    rendered = subprocess.run([*command, *values], check=True, capture_output=True, text=True, timeout=60).stdout
    found = next(
        each
        for each in yaml.safe_load_all(rendered)
        if each and each["kind"] == "ClusterRole" and each["metadata"]["name"] == "recell"
    )
    return json.dumps(found)
