"""Claims that are made anew from snapshots: how they are to be, and the record of that.

Promises: pure. A claim is as it was but for its source, and large enough for the snapshot. The record holds everything
that is needed to make the claims, so that nothing is lost with a claim that is deleted; it stands on the Cell that is
restored to, which stays.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from recell.api.meta import ANNOTATION_REQUEST, ANNOTATION_RESTORE
from recell.providers.data.job_status import alive
from recell.providers.data.snapshots import Snapshot
from recell.providers.kube.api import Object
from recell.providers.kube.paths import CLAIMS, VOLUME_SNAPSHOTS

KEPT = ("accessModes", "resources", "storageClassName", "volumeMode", "volumeAttributesClassName")
"""Of a claim's spec; the others say which volume it was bound to or made from."""
_BINDING = ("pv.kubernetes.io/", "volume.kubernetes.io/", "volume.beta.kubernetes.io/")
"""Annotations about the volume that it had."""
_QUANTITY = re.compile(r"([0-9.]+)(?:([eE][+-]?\d+)|(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE])?)")
_POWERS = {name: Decimal(1024) ** n for n, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)} | {
    name: Decimal(1000) ** n for n, name in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), start=-3)
}


@dataclass(frozen=True)
class Record:
    """A restore that has begun."""

    key: str
    request: str
    """Digest of the request."""
    point: datetime
    """What it brings back to."""
    claims: tuple[Object, ...]
    """Each as it is to be made."""

    def text(self) -> str:
        point = self.point.isoformat()
        return json.dumps({"key": self.key, "request": self.request, "point": point, "claims": self.claims})


def record_of(cell: Object) -> Record | None:
    text = (cell["metadata"].get("annotations") or {}).get(ANNOTATION_RESTORE)
    if text is None:
        return None
    told = json.loads(text)
    point = datetime.fromisoformat(told["point"]).astimezone(UTC)
    return Record(told["key"], told["request"], point, tuple(told["claims"]))


def anew(claim: Object, snapshot: Snapshot, request: str) -> Object:
    """The claim made from the snapshot. `request`: digest, by which it is known to be the one that was asked for."""
    metadata = claim["metadata"]
    spec = {name: claim["spec"][name] for name in KEPT if name in claim["spec"]}
    resources = spec.get("resources") or {}
    requests = resources.get("requests") or {}
    requests = requests | {"storage": larger(requests.get("storage") or "0", snapshot.size or "0")}
    source = {"apiGroup": VOLUME_SNAPSHOTS.group, "kind": VOLUME_SNAPSHOTS.kind, "name": snapshot.name}
    return {
        "apiVersion": CLAIMS.api_version,
        "kind": CLAIMS.kind,
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": dict(metadata.get("labels") or {}),
            "annotations": _kept(metadata) | {ANNOTATION_REQUEST: request},
        },
        "spec": spec | {"resources": resources | {"requests": requests}, "dataSource": source},
    }


def _kept(metadata: Object) -> dict[str, str]:
    known = metadata.get("annotations") or {}
    return {name: text for name, text in known.items() if not name.startswith(_BINDING)}


def restored_by(claim: Object) -> str | None:
    """Digest of the request that it was made anew for."""
    found: str | None = (claim["metadata"].get("annotations") or {}).get(ANNOTATION_REQUEST)
    return found


def users(pods: Sequence[Object], claims: Sequence[str]) -> Mapping[str, str]:
    """Claim -> a pod that may still write to it."""
    found: dict[str, str] = {}
    for pod in pods:
        if not alive(pod):
            continue
        for volume in pod["spec"].get("volumes") or ():
            claim = str((volume.get("persistentVolumeClaim") or {}).get("claimName") or "")
            if claim in claims:
                found.setdefault(claim, pod["metadata"]["name"])
    return found


def larger(one: str, other: str) -> str:
    """The larger of two quantities, as it was written."""
    return other if _amount(other) > _amount(one) else one


def _amount(quantity: str) -> Decimal:
    match = _QUANTITY.fullmatch(quantity)
    if match is None:
        raise ValueError(f"{quantity!r} is not a quantity such as 10Gi")
    number, exponent, suffix = match.groups()
    return Decimal(number + exponent) if exponent else Decimal(number) * _POWERS[suffix or ""]
