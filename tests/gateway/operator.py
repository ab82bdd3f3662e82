"""The whole operator as a process, with the very rights that the chart grants in one namespace."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from tests.cluster.conftest import Kubectl, kubeconfig_with
from tests.conftest import ROOT
from tests.gateway.process import LoggedProcess

FEATURES = "features.gatewayApi=true,features.haproxyRouter=false"


def rights(helm: Path, namespace: str, features: str) -> list[Any]:
    """The rules of the chart's Roles for a fleet namespace that holds the Lease too."""
    chart = [str(helm), "template", "recell", str(ROOT / "helm" / "recell"), "--kube-version", "1.36.0"]
    values = ("--namespace", namespace, "--set", features, "--set", f"watch.namespaces={{{namespace}}}")
    rendered = subprocess.run([*chart, *values], check=True, capture_output=True, text=True, timeout=60).stdout
    roles = [each for each in yaml.safe_load_all(rendered) if each and each["kind"] in ("Role", "ClusterRole")]
    mine = ("recell", "recell-leadership", "recell-namespaces", "recell-templates")
    return [rule for role in roles if role["metadata"]["name"] in mine for rule in role.get("rules") or ()]


class OperatorProcess:
    def __init__(self, kubeconfig: Path, namespace: str, router_image: str) -> None:
        self._arguments = (
            *("--kubeconfig", str(kubeconfig), "--namespaces", namespace, "--lease-namespace", namespace),
            *("--host", "127.0.0.1", "--port", "0", "--log-format", "text", "--router-image", router_image),
        )
        self._process: LoggedProcess | None = None

    @classmethod
    def of(
        cls,
        kubeconfig: Path,
        kubectl: Kubectl,
        namespace: str,
        helm: Path,
        folder: Path,
        *,
        features: str,
        router_image: str,
    ) -> "OperatorProcess":
        granted = rights(helm, namespace, features)
        return cls(kubeconfig_with(kubeconfig, kubectl, namespace, granted, folder), namespace, router_image)

    @property
    def words(self) -> str:
        return self._process.words if self._process is not None else ""

    async def __aenter__(self) -> "OperatorProcess":
        program = "from recell.runtime.main import main; main()"
        self._process = await LoggedProcess.start(sys.executable, "-c", program, *self._arguments)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        await self._process.stop(20)
        await self._process.end()
