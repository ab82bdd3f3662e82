"""Kubeconfigs, as Secrets hold them."""

import base64
from typing import Any

import yaml

TOKEN = "tok-8f3a91d2"
PEM = "-----BEGIN CERTIFICATE-----\nc2VjcmV0\n-----END CERTIFICATE-----\n"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def document(*, cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    """A kubeconfig with more than one context; the given fields are those of the current one."""
    default_cluster = {"server": "https://k8s.example:6443", "certificate-authority-data": encoded(PEM)}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "there",
        "contexts": [
            {"name": "other", "context": {"cluster": "nowhere", "user": "nobody"}},
            {"name": "there", "context": {"cluster": "c1", "user": "u1"}},
        ],
        "clusters": [{"name": "c1", "cluster": default_cluster if cluster is None else cluster}],
        "users": [{"name": "u1", "user": {"token": TOKEN} if user is None else user}],
    }


def text(**fields: Any) -> bytes:
    return yaml.safe_dump(document(**fields)).encode()


def secret(name: str, content: bytes | None, *, key: str = "kubeconfig") -> dict[str, Any]:
    data = {} if content is None else {key: base64.b64encode(content).decode()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "fleet"}, "data": data}
