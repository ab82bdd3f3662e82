"""The namespace that a command means when none is given, as kubectl finds it.

Promises: reads files, changes none. Of several files in $KUBECONFIG the first that names a thing
counts. A file that is not there or is no kubeconfig says nothing; connecting will say so.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

FALLBACK = "default"
IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def files(kubeconfig: str | None, environ: Mapping[str, str]) -> str | None:
    """What to connect with: the option, else $KUBECONFIG; None leaves it to the gateway."""
    return kubeconfig or environ.get("KUBECONFIG") or None


def absent(kubeconfig: str | None, environ: Mapping[str, str]) -> str | None:
    """The files that were meant, if none of them is there."""
    found = files(kubeconfig, environ)
    if found is None and "KUBERNETES_SERVICE_HOST" in environ:
        return None
    paths = _paths(found, environ)
    return None if any(Path(path).exists() for path in paths) else ", ".join(paths)


def namespace(kubeconfig: str | None, context: str | None, environ: Mapping[str, str]) -> str:
    found = files(kubeconfig, environ)
    if found is None and "KUBERNETES_SERVICE_HOST" in environ:
        return IN_CLUSTER.read_text().strip() if IN_CLUSTER.exists() else FALLBACK
    documents = [document for path in _paths(found, environ) for document in _read(path)]
    wanted = context or next((d["current-context"] for d in documents if d.get("current-context")), None)
    for document in documents:
        for entry in document.get("contexts") or ():
            if isinstance(entry, dict) and entry.get("name") == wanted:
                return str((entry.get("context") or {}).get("namespace") or FALLBACK)
    return FALLBACK


def _paths(found: str | None, environ: Mapping[str, str]) -> list[str]:
    if found:
        return [path for path in found.split(os.pathsep) if path]
    return [str(Path(environ.get("HOME", "~")).expanduser() / ".kube" / "config")]


def _read(path: str) -> Iterator[dict[str, Any]]:
    try:
        document = yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return
    if isinstance(document, dict):
        yield document
