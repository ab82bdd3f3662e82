"""A cluster of its own with CloudNativePG on it, and a database that something bad has happened to."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from hack.stage import ROOT
from tests.cnpg.stage import PostgresStage, cluster

NAMESPACE = "recell-cnpg-test"


@pytest.fixture(scope="session")
def stage() -> Iterator[PostgresStage]:
    """It goes on running, so that the next tests find it (`hack/cluster down --name recell-cnpg` ends it)."""
    name = os.environ.get("RECELL_CNPG_CLUSTER", "recell-cnpg")
    made = PostgresStage(name, say=lambda what: print(f"stage: {what}", file=sys.__stderr__, flush=True))
    made.up()
    made.close_namespace(NAMESPACE)
    made.open_namespace(NAMESPACE)
    yield made
    made.close_namespace(NAMESPACE)


@pytest.fixture(scope="session")
def operator(stage: PostgresStage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kubeconfig with the rights that the chart gives the operator with features.cloudNativePG."""
    switch = ("--set", "features.cloudNativePG=true,uninstallCheck.enabled=false,crds.install=false")
    command = [str(stage.program("helm")), "template", "recell", str(ROOT / "helm" / "recell"), *switch]
    rendered = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    role = next(
        each
        for each in yaml.safe_load_all(rendered)
        if each and each["kind"] == "ClusterRole" and each["metadata"]["name"] == "recell"
    )
    group = "rbac.authorization.k8s.io"
    documents = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "operator"}},
        {"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "operator"}, "rules": role["rules"]},
        {
            "apiVersion": f"{group}/v1",
            "kind": "RoleBinding",
            "metadata": {"name": "operator"},
            "roleRef": {"apiGroup": group, "kind": "Role", "name": "operator"},
            "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": NAMESPACE}],
        },
    ]
    stage.kubectl("apply", "-n", NAMESPACE, "-f", "-", stdin=yaml.safe_dump_all(documents))
    token = stage.kubectl("create", "token", "operator", "-n", NAMESPACE, "--duration=2h").strip()
    config = yaml.safe_load(Path(stage.kubeconfig).read_text())
    context = next(each for each in config["contexts"] if each["name"] == config["current-context"])["context"]
    config["users"] = [{"name": context["user"], "user": {"token": token}}]
    made: Path = tmp_path_factory.mktemp("operator") / "kubeconfig"
    made.write_text(yaml.safe_dump(config))
    return made


@dataclass
class Source:
    """The database of cell-a."""

    stage: PostgresStage

    def sql(self, statement: str, cluster: str = "cell-a-db") -> str:
        return self.stage.sql(NAMESPACE, cluster, statement)

    def now(self) -> datetime:
        """By the database's own clock."""
        return datetime.fromisoformat(
            self.sql("select to_char(clock_timestamp(), 'YYYY-MM-DD\"T\"HH24:MI:SS.USOF:00')")
        )

    def archive(self) -> None:
        """All that was committed so far is in the archive."""
        newest = self.sql("select pg_walfile_name(pg_switch_wal())")
        self.stage.stage.eventually(
            f"{newest} is archived",
            lambda: self.sql("select coalesce(last_archived_wal, '') from pg_stat_archiver") >= newest,
            within=60,
        )


@pytest.fixture(scope="session")
def source(stage: PostgresStage) -> Source:
    body = cluster("cell-a-db")
    stage.kubectl("apply", "-n", NAMESPACE, "--server-side", "-f", "-", stdin=yaml.safe_dump(body))
    ready = ("--for=condition=Ready", "cluster.postgresql.cnpg.io/cell-a-db", "--timeout=300s")
    stage.kubectl("-n", NAMESPACE, "wait", *ready, within=320)
    return Source(stage)
