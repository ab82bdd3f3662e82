"""The stage for tests with the real CloudNativePG: a cluster, its operator, an object store, volumes.

Promises: every function may be repeated. The operator, compiled at a pinned version, runs by its authors' own manifest;
PostgreSQL is the distribution's.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from hack.localnode import versions
from hack.stage import ROOT, Stage

SYSTEM = "cnpg-system"
STORAGE_CLASS = "recell-cnpg"
VOLUMES = 12
VOLUME_FOLDER = "/var/lib/recell-cnpg"
IMAGES = Path(__file__).parent / "images"
OPERATOR, POSTGRES, STORE = "recell/cnpg-operator:1.28.0", "recell/cnpg-postgres:15", "recell/cnpg-s3:dev"
CREDENTIALS = {"accessKeyId": {"name": "s3", "key": "id"}, "secretAccessKey": {"name": "s3", "key": "secret"}}
BUCKET = "backups"

Object = dict[str, Any]


class PostgresStage:
    def __init__(self, cluster: str, say: Callable[[str], None]) -> None:
        self.stage = Stage(cluster, say)
        self._say = say

    @property
    def kubeconfig(self) -> str:
        return self.stage.kubeconfig

    def kubectl(self, *arguments: str, stdin: str | None = None, within: float = 120) -> str:
        return self.stage.kubectl(*arguments, stdin=stdin, within=within)

    def up(self) -> None:
        self.stage.up()
        operator, store = self.program("cloudnative-pg"), self.program("gofakes3")
        for tag, file, folder in (
            (OPERATOR, "operator", operator.parent),
            (POSTGRES, "postgres", IMAGES),
            (STORE, "s3", store.parent),
        ):
            self._say(f"image {tag}")
            where = ("--file", str(IMAGES / f"{file}.Dockerfile"), "--context", str(folder))
            self.stage.hack_cluster("build-image", "--tag", tag, *where)
        self._say("CRDs")
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
        self._volumes()
        self._operator()

    def program(self, name: str) -> Path:
        """Path of one that hack/tools compiles, unless it is there."""
        self._say(f"program {name}")
        made = subprocess.run(
            [sys.executable, str(ROOT / "hack" / "tools"), name], check=True, stdout=subprocess.PIPE, text=True
        )
        return Path(made.stdout.strip().splitlines()[-1])

    def _volumes(self) -> None:
        """Folders of the node: CloudNativePG asks for volumes, and nothing here makes them."""
        folders = [f"{VOLUME_FOLDER}/{number}" for number in range(VOLUMES)]
        self.stage.hack_cluster("enter", "--", "mkdir", "-p", *folders)
        self.stage.hack_cluster("enter", "--", "chmod", "0777", *folders)
        documents: list[Object] = [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": STORAGE_CLASS},
                "provisioner": "kubernetes.io/no-provisioner",
            }
        ]
        known = {item["metadata"]["name"] for item in json.loads(self.kubectl("get", "pv", "-o", "json"))["items"]}
        documents += [
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": f"{STORAGE_CLASS}-{number}"},
                "spec": {
                    "storageClassName": STORAGE_CLASS,
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "hostPath": {"path": folder},
                },
            }
            for number, folder in enumerate(folders)
            if f"{STORAGE_CLASS}-{number}" not in known
        ]
        self.stage.apply(yaml.safe_dump_all(documents))

    def free_volumes(self) -> None:
        """Those that nobody uses any more are empty and can be had again."""
        released = [
            item
            for item in json.loads(self.kubectl("get", "pv", "-o", "json"))["items"]
            if item["spec"]["storageClassName"] == STORAGE_CLASS and item["status"]["phase"] == "Released"
        ]
        for item in released:
            folder = item["spec"]["hostPath"]["path"]
            # Who had it may still be at its end.
            self.stage.hack_cluster("enter", "--", "find", folder, "-mindepth", "1", "-ignore_readdir_race", "-delete")
            self.kubectl("patch", "pv", item["metadata"]["name"], "--type=merge", "-p", '{"spec":{"claimRef":null}}')

    def _operator(self) -> None:
        self._say("CloudNativePG's operator")
        documents = list(yaml.safe_load_all(self._manifest()))
        for document in documents:
            if document["kind"] == "Deployment":
                pod = document["spec"]["template"]["spec"]
                (manager,) = pod["containers"]
                manager |= {"image": OPERATOR, "imagePullPolicy": "Never"}
                del manager["resources"]["limits"]["cpu"]  # a small machine starts it in seconds, not minutes
                for variable in manager["env"]:
                    if variable["name"] == "OPERATOR_IMAGE_NAME":
                        variable["value"] = OPERATOR
        self.stage.apply(yaml.safe_dump_all(documents))
        self.kubectl(
            "-n", SYSTEM, "rollout", "status", "deployment/cnpg-controller-manager", "--timeout=300s", within=320
        )

    @staticmethod
    def _manifest() -> str:
        """Its authors' own, out of the module that it is compiled from."""
        module = f"github.com/cloudnative-pg/cloudnative-pg@v{versions.CLOUD_NATIVE_PG}"
        told = subprocess.run(
            ["go", "mod", "download", "-json", module], check=True, stdout=subprocess.PIPE, text=True, cwd="/"
        )
        folder = Path(json.loads(told.stdout)["Dir"])
        return (folder / "releases" / f"cnpg-{versions.CLOUD_NATIVE_PG}.yaml").read_text()

    def open_namespace(self, name: str) -> None:
        """A namespace with an object store of its own."""
        labels = {"app": "s3"}
        container = {
            "name": "s3",
            "image": STORE,
            "imagePullPolicy": "Never",
            "args": ["-backend", "memory", "-initialbucket", BUCKET],
            "ports": [{"containerPort": 9000}],
        }
        documents: list[Object] = [
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}},
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "s3", "namespace": name},
                "stringData": {"id": "test", "secret": "test-only"},
            },
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "type": "kubernetes.io/basic-auth",
                "metadata": {"name": "shop-app", "namespace": name},
                "stringData": {"username": "shop", "password": "test-only"},
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": "s3", "namespace": name},
                "spec": {"selector": labels, "ports": [{"port": 9000}]},
            },
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "s3", "namespace": name},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
                },
            },
        ]
        self.stage.apply(yaml.safe_dump_all(documents))
        self.kubectl("-n", name, "rollout", "status", "deployment/s3", "--timeout=120s", within=150)

    def close_namespace(self, name: str) -> None:
        self.kubectl("delete", "namespace", name, "--ignore-not-found", "--wait=false")
        # Nothing in it is worth an orderly end, for which a database would take minutes.
        clusters = ("delete", "clusters.postgresql.cnpg.io", "--all", "--wait=false")
        self.kubectl("-n", name, *clusters)
        self.kubectl("-n", name, "delete", "pods", "--all", "--grace-period=0", "--force", "--wait=false")
        self.kubectl("wait", "--for=delete", f"namespace/{name}", "--timeout=240s", within=260)
        self.free_volumes()

    def sql(self, namespace: str, cluster: str, statement: str) -> str:
        """Run by the Cluster's first instance."""
        where = ("exec", f"{cluster}-1", "-c", "postgres", "--", "psql", "-d", "shop", "-tAc", statement)
        return self.kubectl("-n", namespace, *where).strip()


def cluster(name: str = "$(CELL)-db") -> Object:
    """A database as a CellTemplate makes it."""
    store = {
        "destinationPath": f"s3://{BUCKET}/shop",
        "endpointURL": "http://s3:9000",
        "s3Credentials": CREDENTIALS,
    }
    return {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {
            "instances": 1,
            "imageName": POSTGRES,
            "storage": {"size": "1Gi", "storageClass": STORAGE_CLASS},
            "bootstrap": {"initdb": {"database": "shop", "owner": "shop", "secret": {"name": "shop-app"}}},
            "backup": {"barmanObjectStore": store},
            "postgresql": {"parameters": {"shared_buffers": "32MB"}},
            "resources": {"requests": {"cpu": "50m", "memory": "128Mi"}},
            "smartShutdownTimeout": 1,
            "stopDelay": 60,
        },
    }
