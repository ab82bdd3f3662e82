"""What was made here, and who else writes an object: Git tools and Helm by marks, anybody by managedFields (rule 31).

Promises: pure functions over JSON.
"""

from collections.abc import Mapping

from recell.api import Router
from recell.api.meta import API_VERSION, LABEL_CELL, LABEL_MADE_BY, LABEL_ROUTER
from recell.providers.kube.api import FIELD_MANAGER, HOLD_MANAGER, Object
from recell.providers.kube.paths import Resource

ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_INSTANCE = "argocd.argoproj.io/instance"
FLUX = {
    "Flux Kustomization": "kustomize.toolkit.fluxcd.io",
    "Flux HelmRelease": "helm.toolkit.fluxcd.io",
}
HELM_RELEASE = "meta.helm.sh/release-name"
HELM_NAMESPACE = "meta.helm.sh/release-namespace"
ANNOTATIONS = (ARGO_TRACKING, HELM_RELEASE, HELM_NAMESPACE)
"""Those that `owner_of` reads."""

_OURS = frozenset({FIELD_MANAGER, HOLD_MANAGER})


def controlled_by(router: Router) -> Object:
    """The owner reference of an object that goes when the Router goes."""
    return {
        "apiVersion": API_VERSION,
        "kind": "Router",
        "name": router.metadata.name,
        "uid": router.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }


def of_router(router: Router, resource: Resource, spec: Object, annotations: Mapping[str, str] | None = None) -> Object:
    """An object of this kind that is named like the Router, is found by it, and goes when it goes."""
    name = router.metadata.name
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": name,
            "namespace": router.metadata.namespace,
            "labels": {"app.kubernetes.io/managed-by": "recell", LABEL_ROUTER: name},
            **({"annotations": dict(annotations)} if annotations else {}),
            "ownerReferences": [controlled_by(router)],
        },
        "spec": spec,
    }


def owned_by(obj: Object, uid: str) -> bool:
    return any(owner["uid"] == uid for owner in obj["metadata"].get("ownerReferences") or ())


def is_of_router(obj: Object, router: Router) -> bool:
    """Made for it: what has lost its label still has its owner."""
    label = (obj["metadata"].get("labels") or {}).get(LABEL_ROUTER)
    return owned_by(obj, router.metadata.uid) or label == router.metadata.name


def made_for(obj: Object, cell: str) -> bool:
    """Made here for exactly this cell. Both labels: one of them is also put on workloads that a person's Cell names."""
    labels = obj["metadata"].get("labels") or {}
    return labels.get(LABEL_MADE_BY) == "recell" and labels.get(LABEL_CELL) == cell


def owner_of(obj: Object) -> str | None:
    """Tool and instance that write the object from elsewhere: `Argo CD Application shop`; None: no mark of any.

    Argo CD's label `app.kubernetes.io/instance` is no mark, since charts set it too. Flux' HelmReleases are also
    Helm releases, so they are looked for first.
    """
    metadata = obj["metadata"]
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    application, _, rest = (annotations.get(ARGO_TRACKING) or "").partition(":")
    # A copy keeps the mark of what it was copied from: Argo CD knows those that are another object's.
    if application and rest.endswith(f":{metadata.get('namespace', '')}/{metadata['name']}"):
        return f"Argo CD Application {application}"
    if labels.get(ARGO_INSTANCE):
        return f"Argo CD Application {labels[ARGO_INSTANCE]}"
    for tool, prefix in FLUX.items():
        if labels.get(f"{prefix}/name"):
            return f"{tool} {labels.get(f'{prefix}/namespace', '')}/{labels[f'{prefix}/name']}"
    if annotations.get(HELM_RELEASE):
        return f"Helm release {annotations.get(HELM_NAMESPACE, '')}/{annotations[HELM_RELEASE]}"
    return None


def last_manager(obj: Object, field: str = "") -> str:
    """Who wrote the object last, or this field of its spec; not this operator, not a status."""
    entries = [entry for entry in obj["metadata"].get("managedFields") or () if entry.get("manager") not in _OURS]
    if field:
        found = [e for e in entries if f"f:{field}" in ((e.get("fieldsV1") or {}).get("f:spec") or {})]
    else:
        found = [e for e in entries if not e.get("subresource")]
    newest = max(found, key=lambda entry: str(entry.get("time") or ""), default=None)
    if newest is None:
        return "an unknown manager"
    return f"{newest['manager']} through /scale" if newest.get("subresource") == "scale" else str(newest["manager"])
