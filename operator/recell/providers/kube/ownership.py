"""Who else writes an object: Git tools and Helm by their marks (rule 31).

Promises: pure functions over JSON.
"""

from recell.providers.kube.api import Object

ARGO_TRACKING = "argocd.argoproj.io/tracking-id"
ARGO_INSTANCE = "argocd.argoproj.io/instance"
FLUX = {
    "Flux Kustomization": "kustomize.toolkit.fluxcd.io",
    "Flux HelmRelease": "helm.toolkit.fluxcd.io",
}
HELM_RELEASE = "meta.helm.sh/release-name"
HELM_NAMESPACE = "meta.helm.sh/release-namespace"


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
