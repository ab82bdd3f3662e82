"""A cluster on this machine without a container engine of its own: the local node.

`up` brings whatever state it finds to a running cluster; `down` removes whatever it finds. Both hold the cluster's
lock, so two callers at once are as harmless as two in a row.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import ssl
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from . import addons, archives, cgroups, components, folders, gotools, images, network, packages, storage, versions
from .addresses import SLOTS, Addresses
from .command import Failure, run, succeeds, wait_until
from .components import CONTAINERD_SOCKET, Component, Components
from .namespaces import Namespaces, release_mount_points
from .pki import Authority
from .progress import Progress


class LocalNode:
    """The local cluster `name`."""

    def __init__(self, name: str, progress: Progress) -> None:
        self.name = name
        self.folder = folders.clusters() / name
        self.kubeconfig = self.folder / "kubeconfig"
        self._progress = progress
        self._namespaces = Namespaces(self.folder)
        self._settings = self.folder / "cluster.json"
        self._removed = folders.removed() / name
        self._lock = folders.clusters() / f".{name}.lock"

    # -- commands ------------------------------------------------------------------------------------------------

    def up(self, kubernetes: str | None) -> None:
        """Bring the cluster up, or repair it; return when Pods, Services and DNS work."""
        _require_root()
        packages.ensure(packages.NODE, self._progress)
        with self._locked():
            shutil.rmtree(self._removed, ignore_errors=True)
            binaries = self._binaries(self._version(kubernetes))
            addresses = self._claim(kubernetes)
            parts = self._components(addresses, binaries["kube-router"])
            self._link(binaries["kubernetes"])
            with folders.locked(folders.clusters() / ".lock"):
                network.KernelSettings().apply()
            fresh = self._namespaces.init_pid() is None
            if fresh:  # groups of containers that died with their node keep a new kubelet busy for half a minute
                cgroups.remove(self.name)
            cgroups.ensure(self.name)
            network.ensure(addresses, self._namespaces, self._namespaces.ensure(binaries["pause"]))
            containerd = parts.containerd()
            self._ensure(containerd)
            self._revive_api_server()
            for component in parts.control_plane():
                self._ensure(component)
            parts.admin_kubeconfig()
            # Patient: the API server makes its own namespaces only a moment after it is ready for the first time.
            manifests = addons.manifests(addresses)
            self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests, patient=True)
            self._wait_ready(containerd)
            self._own_images(binaries)
            if fresh:  # an earlier node's "Ready" is no news of this one
                self._kubectl("delete", "node", self.name, "--ignore-not-found")
            for component in parts.node():
                self._ensure(component)
            self._kubectl("wait", "--for=condition=Ready", f"node/{self.name}", "--timeout=60s", patient=True)
            asked = f"an answer from cluster DNS at {addresses.dns_service}"
            wait_until(asked, lambda: _resolves(addresses), within=180)
        self._progress.say(f"cluster {self.name} is up: Kubernetes {self._version(kubernetes)} at {addresses.server}")

    def down(self) -> None:
        """Remove the cluster with everything it made, whatever is left of it."""
        _require_root()
        shutil.rmtree(self._removed, ignore_errors=True)  # what one that was killed had not deleted yet
        if not self.folder.exists() and self._namespaces.init_pid() is None:
            self._progress.say(f"cluster {self.name} is not there")
            return
        with self._locked():
            self._namespaces.end()
            cgroups.remove(self.name)
            with folders.locked(folders.clusters() / ".lock"):
                others = [path for path in _settings_files() if path.parent.name != self.name]
                if self._settings.exists():
                    network.remove(self.addresses(), last=not others)
                if not others:
                    network.KernelSettings().restore()
                    release_mount_points()
                if self.folder.exists():
                    self._removed.parent.mkdir(parents=True, exist_ok=True)
                    self.folder.rename(self._removed)
            shutil.rmtree(self._removed, ignore_errors=True)
            self._lock.unlink()
        self._progress.say(f"cluster {self.name} is down")

    def status(self) -> dict[str, object]:
        """What runs and what does not; `ready` sums it up."""
        if not self._settings.exists():
            return {"name": self.name, "kind": "local node", "ready": False, "components": {}}
        addresses = self.addresses()
        names = ("containerd", "kubelet", "kube-proxy", "kube-router", "etcd", *_CONTROL_PLANE)
        state = {name: bool(self._namespaces.processes(name)) for name in names}
        serving = state["kube-apiserver"] and _answers("https", f"{addresses.server}/readyz")
        return {
            "name": self.name,
            "kind": "local node",
            "kubernetes": self._version(None),
            "server": addresses.server,
            "pods": str(addresses.pods),
            "services": str(addresses.services),
            "kubeconfig": str(self.kubeconfig),
            "ready": serving and all(state.values()),
            "components": state,
        }

    def stop_api_server(self, *, hang: bool) -> None:
        """End the API server so that connections are refused, or with `hang` freeze it so that they time out."""
        self._must_run("kube-apiserver")
        if hang:
            self._namespaces.signal("kube-apiserver", signal.SIGSTOP)
        else:
            self._namespaces.kill("kube-apiserver")

    def start_api_server(self) -> None:
        """Start or thaw the API server; return when it is ready, and with it all that follows it to place pods and to
        send packets to them."""
        with self._locked():
            parts = self._components(self.addresses(), gotools.ensure(gotools.KUBE_ROUTER, self._progress))
            self._revive_api_server()
            for component in (*parts.control_plane(), *parts.node()):
                self._ensure(component)

    def storage(self) -> None:
        """Volumes that snapshots can be made of: StorageClass, VolumeSnapshotClass, and what serves them."""
        self._must_run("kubelet")
        binaries = {name: gotools.ensure(program, self._progress) for name, program in gotools.STORAGE.items()}
        crds = gotools.source(gotools.CSI_SNAPSHOTS, versions.CSI_SNAPSHOTTER, self._progress) / storage.CRDS
        with self._locked():
            for crd in sorted(crds.glob("*.k8s.io_*.yaml")):
                self._kubectl("apply", "--server-side", "-f", str(crd))
            for crd in storage.ESTABLISHED:
                self._kubectl("wait", "--for=condition=Established", f"crd/{crd}", "--timeout=60s", patient=True)
            for component in storage.components(self.name, self.folder, self.kubeconfig, binaries):
                self._ensure(component)
            self._kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=storage.manifests())
        self._progress.say(f"cluster {self.name}: StorageClass and VolumeSnapshotClass {storage.CLASS} are there")

    def audit_log(self) -> Path:
        """Where the API server writes its audit log."""
        return self._components(self.addresses(), Path("kube-router")).audit_log

    def provide(self, tag: str, dockerfile: Path, context: Path, arguments: Sequence[str]) -> None:
        """Build the image unless the cache has it, and load it unless the cluster has it."""
        archive = images.build(tag, dockerfile, context, arguments, self._progress)
        self.load(archive, images.full_name(tag))

    def load(self, archive: Path, image: str) -> None:
        """Import `image` from a docker-archive, unless the cluster holds it from that very archive."""
        self._must_run("containerd")
        mark = self.folder / "images" / image.replace("/", "+").replace(":", "@")
        if mark.exists() and mark.read_text() == archive.name and self._has_image(image):
            return
        self._ctr("images", "import", str(archive), within=300)
        folders.write(mark, archive.name)
        self._progress.say(f"{image}: loaded into cluster {self.name}")

    def exists(self) -> bool:
        """Whether the cluster, or a part of it, is there."""
        return self.folder.joinpath("pki").exists() or self._settings.exists()

    def require(self) -> None:
        """Raise Failure unless the cluster was made."""
        self.addresses()

    def inside(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside the node."""
        return self._namespaces.inside(argv)

    def addresses(self) -> Addresses:
        """The addresses that the cluster was given."""
        if not self._settings.exists():
            raise Failure(f"there is no cluster {self.name}; `hack/cluster up --name {self.name}` makes it")
        return Addresses(int(json.loads(self._settings.read_text())["slot"]))

    # -- steps ---------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with folders.locked(self._lock):
            yield

    def _version(self, asked: str | None) -> str:
        known = json.loads(self._settings.read_text())["kubernetes"] if self._settings.exists() else None
        return str(asked or known or versions.KUBERNETES)

    def _binaries(self, version: str) -> dict[str, Path]:
        return {
            "pause": gotools.ensure(gotools.PAUSE, self._progress),
            "kubernetes": gotools.ensure(gotools.kubernetes(version), self._progress),
            "coredns": gotools.ensure(gotools.COREDNS, self._progress),
            "kube-router": gotools.ensure(gotools.KUBE_ROUTER, self._progress),
        }

    def _claim(self, kubernetes: str | None) -> Addresses:
        """The cluster's slot: the one it has, or the first that nobody uses."""
        with folders.locked(folders.clusters() / ".lock"):
            if self._settings.exists():
                slot = int(json.loads(self._settings.read_text())["slot"])
            else:
                taken = {int(json.loads(path.read_text())["slot"]) for path in _settings_files()}
                free = (s for s in SLOTS if s not in taken and not _link_exists(Addresses(s)))
                slot = next(free, -1)
                if slot < 0:
                    raise Failure(f"all {len(SLOTS)} slots for clusters are in use; `hack/cluster down` one of them")
            network.ensure_free(Addresses(slot))
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            settings = {"name": self.name, "slot": slot, "kubernetes": self._version(kubernetes)}
            folders.write(self._settings, json.dumps(settings) + "\n")
        return Addresses(slot)

    def _components(self, addresses: Addresses, kube_router: Path) -> Components:
        authority = Authority(self.folder / "pki")
        authority.ensure()
        return Components(self.name, self.folder, addresses, authority, kube_router)

    def _link(self, binary: Path) -> None:
        for name in components.KUBERNETES:
            folders.link(self.folder / "bin" / name, binary)
        folders.link(folders.programs() / "kubectl", binary)

    def _revive_api_server(self) -> None:
        """Thaw it; where it has to be started, what follows it is ended, to be started after it."""
        self._namespaces.signal("kube-apiserver", signal.SIGCONT)
        if not self._namespaces.processes("kube-apiserver"):
            # They would look for it again only after up to a minute, by a backoff of their own. Meanwhile no pod is
            # placed, and packets go to pods that are no more.
            for name in _FOLLOWERS:
                self._stop(name)

    def _ensure(self, component: Component) -> None:
        """Start the program unless it runs as it should; wait for its sign of readiness."""
        mark = self.folder / "run" / f"{component.name}.started-as"
        wanted = hashlib.sha256(
            repr((component.argv, sorted((str(p), c) for p, c in component.files.items()))).encode()
            + os.fsencode(Path(shutil.which(component.argv[0]) or component.argv[0]).resolve())
        ).hexdigest()
        running = self._namespaces.processes(component.name)
        if running and not (mark.exists() and mark.read_text() == wanted):
            self._progress.say(f"{component.name}: restarting with its new configuration")
            self._stop(component.name)
            running = []
        if not running:
            components.write_files(component)
            folders.write(mark, wanted)
            self._namespaces.start(component.argv, self._log(component.name))
        if component.ready:
            self._wait_ready(component)
            if not running:
                self._progress.say(f"{component.name}: ready")

    def _wait_ready(self, component: Component) -> None:
        def ready() -> bool:
            if not component.ready:
                return succeeds(self._namespaces.inside(_ctr_argv("version")), within=15)
            return self._inside_answers(component.ready)

        try:
            wait_until(f"{component.name} to be ready", ready, within=component.within)
        except Failure as late:
            log = self._log(component.name)
            end = log.read_text(errors="replace")[-2000:] if log.exists() else ""
            raise Failure(f"{late}; the end of {log}:\n{end}") from late

    def _inside_answers(self, url: str) -> bool:
        """Whether `url` answers 200 inside the node's network."""
        probe = (
            "import ssl,sys,urllib.request as u;"
            "sys.exit(u.urlopen(sys.argv[1],timeout=10,context=ssl._create_unverified_context()"
            " if sys.argv[1][:5]=='https' else None).status!=200)"
        )
        return succeeds(self._namespaces.inside(["/usr/bin/python3", "-SIc", probe, url]), within=30)

    def _stop(self, name: str) -> None:
        self._namespaces.signal(name, signal.SIGTERM)
        try:
            wait_until(f"the end of {name}", lambda: not self._namespaces.processes(name), within=30)
        except Failure:
            self._namespaces.signal(name, signal.SIGKILL)
            wait_until(f"the end of {name}", lambda: not self._namespaces.processes(name), within=60)

    def _own_images(self, binaries: dict[str, Path]) -> None:
        for image, binary in ((versions.PAUSE_IMAGE, "pause"), (versions.COREDNS_IMAGE, "coredns")):
            path = binaries[binary]
            target = path.with_name(f"{path.parent.name}.tar")
            self.load(archives.of_binary(path, image=image, target=target), image)

    def _has_image(self, image: str) -> bool:
        return image in self._ctr("images", "list", "-q", f"name=={image}").split()

    def _ctr(self, *argv: str, within: float = 120) -> str:
        return self._namespaces.run(_ctr_argv(*argv), within=within)

    def _kubectl(self, *argv: str, stdin: object = None, patient: bool = False) -> None:
        command: list[str | Path] = [self.folder / "bin" / "kubectl", f"--kubeconfig={self.kubeconfig}", *argv]
        given = json.dumps(stdin) if stdin is not None else ""
        if patient:  # `kubectl wait` fails at once on an object that is about to appear
            with contextlib.suppress(Failure):  # the last attempt below tells why
                tried = " ".join(argv)
                wait_until(tried, lambda: succeeds(command, within=90, stdin=given), within=240, every=0.2)
                return
        run(command, within=90, stdin=given)

    def _must_run(self, program: str) -> None:
        if not self._namespaces.processes(program):
            raise Failure(f"{program} of cluster {self.name} is not running; `hack/cluster up --name {self.name}`")

    def _log(self, name: str) -> Path:
        return self.folder / "log" / f"{name}.log"


_CONTROL_PLANE = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
_FOLLOWERS = ("kube-controller-manager", "kube-scheduler", "kube-proxy", "kube-router")


def _ctr_argv(*argv: str) -> list[str]:
    return ["ctr", "-a", CONTAINERD_SOCKET, "-n", "k8s.io", *argv]


def _answers(scheme: str, url: str) -> bool:
    context = ssl._create_unverified_context() if scheme == "https" else None
    try:
        with urllib.request.urlopen(url, timeout=3, context=context) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _resolves(addresses: Addresses) -> bool:
    """Whether cluster DNS, asked through its Service, knows the API server's Service."""
    name = b"".join(bytes([len(label)]) + label for label in (b"kubernetes", b"default", b"svc", b"cluster", b"local"))
    question = b"\x2a\x2a\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + name + b"\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        try:
            client.sendto(question, (str(addresses.dns_service), 53))
            return addresses.kubernetes_service.packed in client.recv(4096)
        except OSError:
            return False


def _settings_files() -> list[Path]:
    return sorted(folders.clusters().glob("*/cluster.json"))


def _link_exists(addresses: Addresses) -> bool:
    return Path(f"/sys/class/net/{addresses.link}").exists()


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Failure("the local node needs root (namespaces, containerd); run it as root, or start a Docker engine")
