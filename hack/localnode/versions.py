"""The pins: every version this package builds or runs is named here and nowhere else."""

from __future__ import annotations

KUBERNETES = "1.36.3"
COREDNS = "1.15.0"
KUBE_ROUTER = "2.1.0"
HELM = "4.3.1"
KUBECONFORM = "0.8.0"
KWOK = "0.8.0"
KIND = "0.33.0"
CSI = "1.13.0"
CSI_PROVISIONER = "6.4.0"
CSI_SNAPSHOTTER = "8.7.0"
CLOUD_NATIVE_PG = "1.28.0"
GOFAKES3 = "1.2.0"
VELERO = "1.18.3"
VELERO_AWS = "1.14.3"
KUBERNETES_OF_VELERO = "0.33.13"
"""0.33.12, which both lock, cannot be had whole from the Go module proxy."""
EXTERNAL_DNS = "0.21.0"
"""The newest of which every module is on the proxy."""
GATEWAY_API = "1.6.1"
"""The one that Envoy Gateway of the version below is made for."""
ENVOY_GATEWAY = "1.9.1"
ENVOY = "1.40.0"
TRAEFIK = "3.7.15"
GO = "1.26.8"
"""Fetched as a Go toolchain module where the machine's own Go is older than `GO_MINIMUM`."""
GO_MINIMUM = (1, 26)

PAUSE_IMAGE = "localhost/recell/pause:1"
COREDNS_IMAGE = f"localhost/recell/coredns:{COREDNS}"

DEBIAN_SUITE = "bookworm"
BASE_IMAGE = f"docker.io/library/debian:{DEBIAN_SUITE}-slim"
"""The name under which the base made with mmdebstrap answers a Dockerfile's FROM."""
BASE_PACKAGES = ("ca-certificates", "haproxy", "python3", "python3-venv")
