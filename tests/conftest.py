"""What tests of every kind share."""

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parents[1]
CLUSTER = "recell-test"
UP_SECONDS = 20 * 60
"""A first start compiles Kubernetes."""

# No property test depends on how fast the machine is.
settings.register_profile("recell", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("recell")

LONG = ("tests/unit/shop/", "tests/unit/procedures/", "tests/router/", "tests/contract/", "tests/cluster/")
"""Where a file takes long: such files begin first, or the last of them would keep one process busy and no other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not item.nodeid.startswith(LONG))


@pytest.fixture(scope="session")
def kubeconfig() -> Path:
    """Kubeconfig of a running cluster: the one that RECELL_TEST_KUBECONFIG names, else the tests' own.

    The tests' own cluster is started if it does not run, and goes on running, so that the next tests find it
    (`hack/cluster down --name recell-test` ends it).
    """
    if named := os.environ.get("RECELL_TEST_KUBECONFIG"):
        path = Path(named)
        if not path.is_file():
            pytest.fail(f"RECELL_TEST_KUBECONFIG names {path}, which is no file: unset it to start a cluster")
        return path
    program = str(ROOT / "hack" / "cluster")
    up = subprocess.run([program, "up", "--name", CLUSTER], timeout=UP_SECONDS, check=False)
    if up.returncode != 0:
        pytest.fail(f"`hack/cluster up --name {CLUSTER}` ended with {up.returncode}: its last lines above say why")
    shown = subprocess.run(
        [program, "kubeconfig", "--name", CLUSTER], timeout=60, check=True, stdout=subprocess.PIPE, text=True
    )
    return Path(shown.stdout.strip())
