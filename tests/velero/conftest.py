"""A cluster of its own with the real Velero on it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from hack.stage import ROOT
from tests.cluster.conftest import Kubectl, image_of, kubeconfig_with
from tests.velero.stage import SHELL_IMAGE, VELERO, VeleroStage

NAMESPACE = "recell-velero-test"


@pytest.fixture(scope="session")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VeleroStage]:
    """It goes on running, so that the next tests find it (`hack/cluster down --name recell-velero` ends it)."""
    name = os.environ.get("RECELL_VELERO_CLUSTER", "recell-velero")
    made = VeleroStage(name, say=lambda what: print(f"stage: {what}", file=sys.__stderr__, flush=True))
    made.up()
    made.forget_all()
    with made.server(tmp_path_factory.mktemp("velero")):
        yield made


@pytest.fixture(scope="session")
def kubeconfig(stage: VeleroStage) -> Path:
    return stage.kubeconfig


@pytest.fixture(scope="session")
def kubectl(stage: VeleroStage) -> Kubectl:
    return stage.kubectl


@pytest.fixture(scope="session")
def namespace(stage: VeleroStage) -> Iterator[str]:
    stage.kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=100s")
    stage.kubectl("create", "namespace", NAMESPACE)
    yield NAMESPACE
    stage.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


@pytest.fixture(scope="session")
def image(stage: VeleroStage) -> str:
    return image_of(stage.kubectl, SHELL_IMAGE.partition(":")[0])


@pytest.fixture(scope="session")
def operator(stage: VeleroStage, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights that the chart gives the operator with features.velero."""
    switch = ("--set", "features.velero=true,uninstallCheck.enabled=false,crds.install=false")
    command = [str(stage.program("helm")), "template", "recell", str(ROOT / "helm" / "recell"), *switch]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    installed = [each for each in yaml.safe_load_all(rendered) if each]
    (role,) = (each for each in installed if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "recell")
    made = kubeconfig_with(
        stage.kubeconfig, stage.kubectl, namespace, role["rules"], tmp_path_factory.mktemp("operator")
    )
    for each in installed:
        if each["metadata"]["name"] == "recell-velero":
            if each["kind"] == "RoleBinding":
                each["subjects"] = [{"kind": "ServiceAccount", "name": "operator", "namespace": namespace}]
            stage.kubectl("apply", "-n", VELERO, "-f", "-", stdin=yaml.safe_dump(each))
    return made
