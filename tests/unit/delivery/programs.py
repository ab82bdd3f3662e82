"""Programs that the checks of the delivery run: named by the environment, else built by hack/tools."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
BUILD_SECONDS = 1800


def program(name: str) -> str:
    """Path of `helm` or `kubeconform`; $HELM or $KUBECONFORM wins."""
    given = os.environ.get(name.upper())
    if given:
        return given
    made = subprocess.run(
        [ROOT / "hack" / "tools", name], check=True, stdout=subprocess.PIPE, text=True, timeout=BUILD_SECONDS
    )
    return made.stdout.strip().splitlines()[-1]
