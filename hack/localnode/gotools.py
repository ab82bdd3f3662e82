"""Go programs, compiled from the Go module proxy at pinned versions and kept in the cache.

Every module builds with its own go.mod and go.sum, so what is compiled is what its authors locked. A finished
binary appears in the cache whole or not at all; its folder is named after version and recipe.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import folders, packages, versions
from .command import Failure, run
from .progress import Progress

COMPILE_WITHIN = 1800.0


@dataclass(frozen=True, kw_only=True)
class Program:
    """How one binary is made: the package `package` of `module` at `version`, or our own `source` on top of it."""

    name: str
    module: str
    version: str
    package: str = "."
    ldflags: str = ""
    source: str = ""
    """A folder beside this package holding main.go; compiled in the module's dependency graph."""
    overlay: str = field(default="", repr=False)
    """A folder beside this package with files that stand in for the module's own, at the same paths below it."""

    @property
    def replaced(self) -> Sequence[Path]:
        return sorted((folders.sources() / self.overlay).rglob("*.go")) if self.overlay else ()

    @property
    def binary(self) -> Path:
        """Where the cache holds it, built or not."""
        recipe = repr(self).encode()
        if self.source:
            recipe += (folders.sources() / self.source / "main.go").read_bytes()
        for path in self.replaced:
            recipe += path.read_bytes()
        digest = hashlib.sha256(recipe).hexdigest()[:8]
        return folders.cache() / "bin" / f"{self.name}-{self.version or 'own'}-{digest}" / self.name


@dataclass(frozen=True, kw_only=True)
class WithKubernetes(Program):
    """Our own `source` on top of `module`, or a `package` of it by its full path, compiled against Kubernetes'
    libraries, which are compiled anyway."""

    kubernetes: str = versions.KUBERNETES


@dataclass(frozen=True, kw_only=True)
class Raised(Program):
    """With `modules` at `to` where its go.mod locks them lower: a version that cannot be had any more."""

    modules: tuple[str, ...]
    to: str


def kubernetes(version: str) -> Program:
    """Every Kubernetes component, etcd and kubectl in one binary."""
    major, minor, _ = version.split(".", 2)
    stamp = "k8s.io/component-base/version"
    return Program(
        name="recell-kubernetes",
        module="k8s.io/kubernetes",
        version=version,
        source="kubernetes",
        ldflags=f"-X {stamp}.gitVersion=v{version} -X {stamp}.gitMajor={major} -X {stamp}.gitMinor={minor}"
        f" -X {stamp}.gitTreeState=clean",
    )


PAUSE = Program(name="pause", module="", version="", source="pause")
COREDNS = WithKubernetes(
    name="coredns", module="github.com/coredns/coredns", version=versions.COREDNS, source="coredns"
)
KUBE_ROUTER = WithKubernetes(
    name="kube-router",
    module="github.com/cloudnativelabs/kube-router/v2",
    version=versions.KUBE_ROUTER,
    source="networkpolicy",
)
CSI_SNAPSHOTS = "github.com/kubernetes-csi/external-snapshotter/client/v8"
"""The module with the CRDs of VolumeSnapshots."""
GATEWAY_API = "sigs.k8s.io/gateway-api"
"""The module with the CRDs of the Gateway API, in config/crd."""
ENVOY_GATEWAY = "github.com/envoyproxy/gateway"
"""With its own CRDs in charts/gateway-helm/charts/crds/crds/generated."""
STORAGE: Mapping[str, Program] = {
    "csi-hostpath": WithKubernetes(
        name="csi-hostpath",
        module="github.com/container-storage-interface/spec",
        version=versions.CSI,
        source="hostpath",
    ),
    "csi-provisioner": WithKubernetes(
        name="csi-provisioner",
        module="github.com/kubernetes-csi/external-provisioner/v6",
        version=versions.CSI_PROVISIONER,
        package="github.com/kubernetes-csi/external-provisioner/v6/cmd/csi-provisioner",
    ),
    **{
        name: WithKubernetes(
            name=name,
            module="github.com/kubernetes-csi/external-snapshotter/v8",
            version=versions.CSI_SNAPSHOTTER,
            package=f"github.com/kubernetes-csi/external-snapshotter/v8/cmd/{name}",
        )
        for name in ("csi-snapshotter", "snapshot-controller")
    },
}
"""A CSI driver of our own, and what Kubernetes needs beside a driver."""
_KUBERNETES_OF_VELERO = tuple(
    f"k8s.io/{name}"
    for name in (
        "api",
        "apiextensions-apiserver",
        "apimachinery",
        "cli-runtime",
        "client-go",
        "kube-aggregator",
        "metrics",
    )
)
TOOLS: Mapping[str, Program] = {
    "helm": Program(
        name="helm",
        module="helm.sh/helm/v4",
        version=versions.HELM,
        package="./cmd/helm",
        ldflags=f"-X helm.sh/helm/v4/internal/version.version=v{versions.HELM}",
    ),
    "kubeconform": Program(
        name="kubeconform",
        module="github.com/yannh/kubeconform",
        version=versions.KUBECONFORM,
        package="./cmd/kubeconform",
        ldflags=f"-X main.version=v{versions.KUBECONFORM}",
    ),
    "kwok": Program(
        name="kwok",
        module="sigs.k8s.io/kwok",
        version=versions.KWOK,
        package="./cmd/kwok",
        ldflags=f"-X sigs.k8s.io/kwok/pkg/consts.Version=v{versions.KWOK}",
    ),
    "cloudnative-pg": Program(
        name="cloudnative-pg",
        module="github.com/cloudnative-pg/cloudnative-pg",
        version=versions.CLOUD_NATIVE_PG,
        package="./cmd/manager",
        ldflags=f"-X github.com/cloudnative-pg/cloudnative-pg/pkg/versions.buildVersion={versions.CLOUD_NATIVE_PG}",
    ),
    "gofakes3": Program(
        name="gofakes3",
        module="github.com/johannesboyne/gofakes3",
        version=versions.GOFAKES3,
        package="./cmd/gofakes3",
    ),
    "velero": Raised(
        name="velero",
        module="github.com/vmware-tanzu/velero",
        version=versions.VELERO,
        package="./cmd/velero",
        ldflags=f"-X github.com/vmware-tanzu/velero/pkg/buildinfo.Version=v{versions.VELERO}",
        modules=_KUBERNETES_OF_VELERO,
        to=versions.KUBERNETES_OF_VELERO,
    ),
    "velero-plugin-for-aws": Raised(
        name="velero-plugin-for-aws",
        module="github.com/vmware-tanzu/velero-plugin-for-aws",
        version=versions.VELERO_AWS,
        package="./velero-plugin-for-aws",
        modules=_KUBERNETES_OF_VELERO,
        to=versions.KUBERNETES_OF_VELERO,
    ),
    "external-dns": Program(
        name="external-dns",
        module="sigs.k8s.io/external-dns",
        version=versions.EXTERNAL_DNS,
        overlay="external-dns",
        ldflags=f"-X sigs.k8s.io/external-dns/pkg/apis/externaldns.Version=v{versions.EXTERNAL_DNS}",
    ),
    "envoy-gateway": Program(
        name="envoy-gateway",
        module=ENVOY_GATEWAY,
        version=versions.ENVOY_GATEWAY,
        package="./cmd/envoy-gateway",
    ),
    "kind": Program(name="kind", module="sigs.k8s.io/kind", version=versions.KIND),
    **STORAGE,
}


def ensure(program: Program, progress: Progress) -> Path:
    """The path of the program's binary, compiled now unless the cache has it."""
    binary = program.binary
    return folders.made_once(binary, f"go-{program.name}", lambda: _compile(program, binary, progress))


def source(module: str, version: str, progress: Progress) -> Path:
    """The folder with a module's files, fetched now unless Go's cache has it; it is read-only."""
    return _module(_go(progress), module, version, Path("/"), {**os.environ, "GOWORK": "off"})


def _compile(program: Program, binary: Path, progress: Progress) -> None:
    label = f"{program.name} {program.version}".strip()
    go = _go(progress)
    work = binary.parent.with_name(binary.parent.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # A static binary runs in an image of its own; GOWORK and GOFLAGS of the caller must not change the result.
    env = {**os.environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-buildvcs=false"}
    progress.say(f"{label}: fetching the source")
    build = [str(go), "build", "-v", "-trimpath", "-ldflags", f"-s -w {program.ldflags}".strip(), "-o", binary.name]
    if program.source or isinstance(program, WithKubernetes):
        if program.source:
            shutil.copy(folders.sources() / program.source / "main.go", work)
        if program.module:
            sums = [_module(go, program.module, program.version, work, env)]
            version = program.version
            if isinstance(program, WithKubernetes):
                version = program.kubernetes
                sums.insert(0, _module(go, "k8s.io/kubernetes", version, work, env))
            _own_module(program, version, sums, work)
        else:
            (work / "go.mod").write_text(f"module recell.dev/localnode/{program.source}\n")
        folder, build = work, [*build, "-mod=mod", program.package]
    else:
        folder = _module(go, program.module, program.version, work, env)
        # The module cache is read-only, and stays so: go.mod and go.sum are worked on as copies.
        for name in ("go.mod", "go.sum"):
            shutil.copyfile(folder / name, work / name)
        if isinstance(program, Raised):
            _raise(go, program, work, env)
            build.append("-mod=mod")
        build[build.index(binary.name)] = str(work / binary.name)
        if program.overlay:
            folder = _overlaid(program, folder, work / "source")
        build = [*build, f"-modfile={work / 'go.mod'}", program.package]
    _watched(build, folder, env, lambda done: progress.say(f"{label}: compiling, {done} packages so far"))
    shutil.rmtree(binary.parent, ignore_errors=True)
    shutil.rmtree(work / "source", ignore_errors=True)
    work.rename(binary.parent)
    progress.say(f"{label}: ready")


def _overlaid(program: Program, folder: Path, copy: Path) -> Path:
    """A copy of the module with the program's own files in it: Go does not overlay what is in its module cache."""
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    for place in (copy, *copy.rglob("*")):
        if place.is_dir():
            place.chmod(0o755)  # as everything in the module cache, they came read-only
    for path in program.replaced:
        shutil.copyfile(path, copy / path.relative_to(folders.sources() / program.overlay))
    return copy


def _raise(go: Path, program: Raised, work: Path, env: Mapping[str, str]) -> None:
    locked = json.loads(run([go, "mod", "edit", "-json", work / "go.mod"], cwd=work, env=env))["Require"]
    known = {each["Path"] for each in locked}
    raised = [f"-require={module}@v{program.to}" for module in program.modules if module in known]
    run([go, "mod", "edit", *raised, work / "go.mod"], cwd=work, env=env)


def _module(go: Path, module: str, version: str, work: Path, env: Mapping[str, str]) -> Path:
    told = run([go, "mod", "download", "-json", f"{module}@v{version}"], within=600, cwd=work, env=env)
    return Path(json.loads(told)["Dir"])


def _own_module(program: Program, kubernetes: str, upstreams: list[Path], work: Path) -> None:
    """Kubernetes' own requirements, with its staging folders replaced by the modules published from them.

    The sums are those that the authors of `upstreams` (Kubernetes first) recorded.
    """
    text = (upstreams[0] / "go.mod").read_text()
    text = re.sub(r"(?m)^module .*$", f"module recell.dev/localnode/{program.source or program.name}", text)
    staging = "v0." + kubernetes.split(".", 1)[1]
    text = re.sub(r"=> \./staging/src/(\S+)", rf"=> \1 {staging}", text)
    (work / "go.mod").write_text(f"{text}\nrequire {program.module} v{program.version}\n")
    sums = {line for upstream in upstreams for line in (upstream / "go.sum").read_text().splitlines()}
    (work / "go.sum").write_text("\n".join(sorted(sums)) + "\n")


def _watched(argv: list[str], folder: Path, env: Mapping[str, str], say: Callable[[int], None]) -> None:
    """Compile, and report every 15 s how many packages are done (go build -v names each on its stderr)."""
    process = subprocess.Popen(
        argv, cwd=folder, env=dict(env), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    lines: list[str] = []

    def collect() -> None:
        assert process.stderr is not None
        lines.extend(iter(process.stderr.readline, ""))

    reader = threading.Thread(target=collect, daemon=True)
    reader.start()
    deadline = time.monotonic() + COMPILE_WITHIN
    while True:
        try:
            process.wait(timeout=15)
            break
        except subprocess.TimeoutExpired:
            if time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise Failure(f"`go build` in {folder} did not end within {COMPILE_WITHIN:.0f} s") from None
            say(sum(1 for line in list(lines) if " " not in line.strip()))
        except BaseException:
            process.kill()
            raise
    reader.join()
    if process.returncode != 0:
        raise Failure(f"`go build` in {folder} failed:\n" + "".join(lines)[-4000:])


def _go(progress: Progress) -> Path:
    """A Go that is new enough: the machine's, or the pinned toolchain fetched as the Go module it is."""
    known = [Path(found) for found in (shutil.which("go"), "/usr/local/go/bin/go") if found and Path(found).exists()]
    for go in known:
        if _version(go) >= versions.GO_MINIMUM:
            return go
    if not known:
        packages.ensure(packages.GO, progress)
        known = [Path("/usr/bin/go")]
    toolchain = folders.cache() / "go" / versions.GO
    with folders.locked(folders.cache() / "locks" / "go-toolchain"):
        if not (toolchain / "bin" / "go").exists():
            progress.say(f"fetching Go {versions.GO} (the installed one is too old)")
            _fetch_toolchain(known[0], toolchain)
    return toolchain / "bin" / "go"


def _fetch_toolchain(go: Path, target: Path) -> None:
    machine = "arm64" if os.uname().machine == "aarch64" else "amd64"
    target.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "GO111MODULE": "on", "GOTOOLCHAIN": "local"}
    fetched = _module(go, "golang.org/toolchain", f"0.0.1-go{versions.GO}.linux-{machine}", target.parent, env)
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(fetched, partial, copy_function=shutil.copyfile)
    for folder in ("bin", "pkg/tool"):  # modules carry no execute bits
        for path in (partial / folder).rglob("*"):
            path.chmod(0o755)
    partial.rename(target)


def _version(go: Path) -> tuple[int, int]:
    """What this `go` is, whatever toolchain the caller's folder would make it switch to."""
    told = run([go, "version"], cwd=Path("/"), env={**os.environ, "GOTOOLCHAIN": "local"})
    found = re.search(r"go(\d+)\.(\d+)", told)
    return (int(found[1]), int(found[2])) if found else (0, 0)
