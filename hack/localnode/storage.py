"""Volumes with snapshots on a node: a CSI driver of our own, with the very programs that stand beside any driver.

Must not: start anything; `node` does that in the order given here. All of it ends with the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from .components import Component

DRIVER = "hostpath.recell.dev"
CLASS = "hostpath"
"""Name of the StorageClass and of the VolumeSnapshotClass."""
LATE_CLASS = "hostpath-late"
"""A StorageClass whose volumes are made once a pod needs them."""
CRDS = Path("config") / "crd"
"""In the module of external-snapshotter's client; those of groups too, for which its controller waits half a minute."""
ESTABLISHED = tuple(
    f"{plural}.snapshot.storage.k8s.io"
    for plural in ("volumesnapshotclasses", "volumesnapshotcontents", "volumesnapshots")
)
SOCKET = Path("/var/lib/kubelet/plugins") / DRIVER / "csi.sock"


def components(name: str, folder: Path, kubeconfig: Path, binaries: Mapping[str, Path]) -> list[Component]:
    """The driver first: the others ask it what it can do."""
    driver = (str(binaries["csi-hostpath"]), f"--socket={SOCKET}", f"--data={folder / 'storage'}", f"--node={name}")
    found = [Component("csi-hostpath", driver, ready="")]
    for port, (program, more) in enumerate(
        {
            "csi-provisioner": (f"--csi-address={SOCKET}",),
            "csi-snapshotter": (f"--csi-address={SOCKET}",),
            "snapshot-controller": (),
        }.items(),
        start=20260,
    ):
        argv = (str(binaries[program]), f"--kubeconfig={kubeconfig}", f"--http-endpoint=127.0.0.1:{port}", *more)
        found.append(Component(program, argv, ready=f"http://127.0.0.1:{port}/metrics"))
    return found


def manifests() -> dict[str, object]:
    """The driver and its classes, as one v1 List."""
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "CSIDriver",
                "metadata": {"name": DRIVER},
                "spec": {"attachRequired": False, "podInfoOnMount": False, "fsGroupPolicy": "None"},
            },
            _storage_class(CLASS, "Immediate"),
            _storage_class(LATE_CLASS, "WaitForFirstConsumer"),
            {
                "apiVersion": "snapshot.storage.k8s.io/v1",
                "kind": "VolumeSnapshotClass",
                "metadata": {"name": CLASS, "annotations": {"snapshot.storage.kubernetes.io/is-default-class": "true"}},
                "driver": DRIVER,
                "deletionPolicy": "Delete",
            },
        ],
    }


def _storage_class(name: str, binding: str) -> dict[str, object]:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": name},
        "provisioner": DRIVER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": binding,
    }
