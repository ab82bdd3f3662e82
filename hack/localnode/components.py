"""The programs of a node: their configuration files, command lines and signs of health.

Must not: start anything; `node` does that in the order given here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from . import audit, cgroups, folders, versions
from .addresses import Addresses
from .network import BRIDGE
from .pki import Authority

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
KUBERNETES = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")
"""The names under which the Kubernetes binary is linked."""


@dataclass(frozen=True)
class Component:
    """One program: how it is started and how it says that it is ready."""

    name: str
    argv: tuple[str, ...]
    ready: str
    """A URL inside the node that answers 200 when the program serves; empty where there is none."""
    files: Mapping[Path, str] = field(default_factory=dict)
    """Configuration read at the start; a change restarts the program."""
    within: float = 180


class Components:
    """The components of one cluster. Nothing is written before a component's `files` are."""

    def __init__(self, name: str, folder: Path, addresses: Addresses, authority: Authority, kube_router: Path) -> None:
        self._name = name
        self._folder = folder
        self._config = folder / "config"
        self._bin = folder / "bin"
        self._addresses = addresses
        self._authority = authority
        self._kube_router = kube_router

    @property
    def audit_log(self) -> Path:
        """The API server's audit log; older parts lie beside it as audit-<time>.log."""
        return self._folder / "audit" / "audit.log"

    def control_plane(self) -> list[Component]:
        """What makes an API server with controllers, in starting order."""
        return [self._etcd(), self.api_server(), self._controller_manager(), self._scheduler()]

    def node(self) -> list[Component]:
        """What makes a node of it, in starting order."""
        return [self.containerd(), self._kubelet(), self._kube_proxy(), self._network_policy()]

    def containerd(self) -> Component:
        """The container engine, with the CNI network of the pods."""
        cri = '[plugins."io.containerd.grpc.v1.cri"'
        toml = f"""version = 2
root = "{self._folder}/containerd"
state = "/run/containerd"
[grpc]
  address = "{CONTAINERD_SOCKET}"
{cri}]
  sandbox_image = "{versions.PAUSE_IMAGE}"
  # A machine that is itself confined may neither lower OOM scores nor load AppArmor profiles.
  restrict_oom_score_adj = true
  disable_apparmor = true
  enable_unprivileged_ports = true
  enable_unprivileged_icmp = true
  {cri}.cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{self._folder}/cni"
  {cri}.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    {cri}.containerd.runtimes.runc.options]
      SystemdCgroup = false
"""
        cni = {
            "cniVersion": "0.4.0",
            "name": "recell",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": BRIDGE,
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": str(self._addresses.pods)}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": True}},
            ],
        }
        config = self._config / "containerd.toml"
        return Component(
            name="containerd",
            argv=("containerd", "--config", str(config)),
            ready="",
            files={config: toml, self._folder / "cni" / "10-recell.conflist": json.dumps(cni, indent=1)},
        )

    def _etcd(self) -> Component:
        argv = (
            str(self._bin / "etcd"),
            f"--data-dir={self._folder / 'etcd'}",
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--unsafe-no-fsync",
            "--snapshot-count=10000",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=30m",
            "--quota-backend-bytes=4294967296",
            "--log-level=warn",
        )
        return Component("etcd", argv, ready="http://127.0.0.1:2379/health")

    def api_server(self) -> Component:
        """The API server: NodeRestriction, RBAC, PodSecurity and ValidatingAdmissionPolicy are all on."""
        pki, address = self._authority, self._addresses
        names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
        hosts = [str(address.node), str(address.kubernetes_service), "127.0.0.1", "localhost", *names]
        serving = pki.issue("kube-apiserver", user="kube-apiserver", hosts=hosts)
        to_kubelet = pki.issue("apiserver-kubelet-client", user="kube-apiserver", groups=["system:masters"])
        front_proxy = pki.issue("front-proxy-client", user="front-proxy-client")
        policy = self._config / "audit-policy.json"
        self.audit_log.parent.mkdir(parents=True, exist_ok=True)
        argv = (
            str(self._bin / "kube-apiserver"),
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={address.node}",
            "--secure-port=6443",
            f"--tls-cert-file={serving[0]}",
            f"--tls-private-key-file={serving[1]}",
            f"--client-ca-file={pki.certificate}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki.service_account_public}",
            f"--service-account-signing-key-file={pki.service_account_key}",
            f"--service-cluster-ip-range={address.services}",
            f"--kubelet-certificate-authority={pki.certificate}",
            f"--kubelet-client-certificate={to_kubelet[0]}",
            f"--kubelet-client-key={to_kubelet[1]}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki.certificate}",
            "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={front_proxy[0]}",
            f"--proxy-client-key-file={front_proxy[1]}",
            f"--audit-policy-file={policy}",
            f"--audit-log-path={self.audit_log}",
            f"--audit-log-maxsize={audit.MEGABYTES}",
            f"--audit-log-maxbackup={audit.OLDER_PARTS}",
            "--shutdown-delay-duration=0s",
        )
        return Component(
            "kube-apiserver",
            argv,
            ready="https://127.0.0.1:6443/readyz",
            files={policy: json.dumps(audit.POLICY, indent=1)},
        )

    def _controller_manager(self) -> Component:
        pki = self._authority
        config = self._kubeconfig("kube-controller-manager", user="system:kube-controller-manager")
        argv = (
            str(self._bin / "kube-controller-manager"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            f"--cluster-name={self._name}",
            "--allocate-node-cidrs=true",
            f"--cluster-cidr={self._addresses.pods}",
            f"--node-cidr-mask-size={self._addresses.pods.prefixlen}",
            f"--service-cluster-ip-range={self._addresses.services}",
            f"--root-ca-file={pki.certificate}",
            f"--cluster-signing-cert-file={pki.certificate}",
            f"--cluster-signing-key-file={pki.key}",
            f"--service-account-private-key-file={pki.service_account_key}",
            "--use-service-account-credentials=true",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        return Component("kube-controller-manager", argv, ready="https://127.0.0.1:10257/healthz")

    def _scheduler(self) -> Component:
        config = self._kubeconfig("kube-scheduler", user="system:kube-scheduler")
        argv = (
            str(self._bin / "kube-scheduler"),
            f"--kubeconfig={config}",
            f"--authentication-kubeconfig={config}",
            f"--authorization-kubeconfig={config}",
            "--bind-address=127.0.0.1",
            "--leader-elect=false",
            "--kube-api-qps=200",
            "--kube-api-burst=400",
        )
        return Component("kube-scheduler", argv, ready="https://127.0.0.1:10259/healthz")

    def _kubelet(self) -> Component:
        pki, address = self._authority, self._addresses
        kubeconfig = self._kubeconfig("kubelet", user=f"system:node:{self._name}", groups=["system:nodes"])
        serving = pki.issue("kubelet-serving", user=f"system:node:{self._name}", hosts=[str(address.node), self._name])
        # The node has no way to other name servers, so neither have its pods: cluster DNS alone answers.
        resolver = self._config / "resolv.conf"
        config = self._config / "kubelet.json"
        settings: dict[str, object] = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "0.0.0.0",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(pki.certificate)},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": str(serving[0]),
            "tlsPrivateKeyFile": str(serving[1]),
            "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": cgroups.parent(self._name),
            "failCgroupV1": False,
            "failSwapOn": False,
            "clusterDNS": [str(address.dns_service)],
            "clusterDomain": "cluster.local",
            "resolvConf": str(resolver),
            "maxPods": 250,
            "serializeImagePulls": False,
            # There is no registry to pull an image from again: never collect images for space.
            "imageGCHighThresholdPercent": 100,
            # By default a node tells of its fifty largest only, and those of a cluster that lasts become many.
            "nodeStatusMaxImages": -1,
            "imageGCLowThresholdPercent": 99,
            "evictionHard": {"memory.available": "100Mi"},
            "kubeAPIQPS": 100,
            "kubeAPIBurst": 200,
        }
        argv = (
            str(self._bin / "kubelet"),
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self._name}",
            f"--node-ip={address.node}",
            "--root-dir=/var/lib/kubelet",
        )
        files = {config: json.dumps(settings, indent=1), resolver: ""}
        return Component("kubelet", argv, ready="http://127.0.0.1:10248/healthz", files=files)

    def _kube_proxy(self) -> Component:
        kubeconfig = self._kubeconfig("kube-proxy", user="system:kube-proxy")
        config = self._config / "kube-proxy.json"
        settings: dict[str, object] = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clientConnection": {"kubeconfig": str(kubeconfig)},
            "hostnameOverride": self._name,
            "clusterCIDR": str(self._addresses.pods),
            # Connection tracking's limits belong to the machine, not to a namespace.
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        argv = (str(self._bin / "kube-proxy"), f"--config={config}")
        files = {config: json.dumps(settings, indent=1)}
        return Component("kube-proxy", argv, ready="http://127.0.0.1:10256/healthz", files=files)

    def _network_policy(self) -> Component:
        kubeconfig = self._kubeconfig("kube-router", user="recell:kube-router")
        argv = (
            str(self._kube_router),
            f"--kubeconfig={kubeconfig}",
            f"--hostname-override={self._name}",
            "--run-firewall=true",
            "--run-router=false",
            "--run-service-proxy=false",
            "--enable-cni=false",
            f"--service-cluster-ip-range={self._addresses.services}",
            "--health-port=20244",
        )
        return Component("kube-router", argv, ready="http://127.0.0.1:20244/healthz")

    def admin_kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""
        return self._authority.kubeconfig(
            self._folder / "kubeconfig",
            cluster=f"recell-{self._name}" if self._name != "recell" else "recell",
            server=self._addresses.server,
            user="recell-admin",
            groups=["system:masters"],
        )

    def _kubeconfig(self, name: str, *, user: str, groups: list[str] | None = None) -> Path:
        path = self._config / f"{name}.kubeconfig"
        return self._authority.kubeconfig(
            path, cluster=self._name, server=self._addresses.server, user=user, groups=groups or []
        )


def write_files(component: Component) -> None:
    """Write the configuration that `component` reads."""
    for path, content in component.files.items():
        folders.write(path, content)
