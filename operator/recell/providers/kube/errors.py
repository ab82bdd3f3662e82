"""The API server's refusals and failures, translated once into `recell.engine.errors`.

Promises: pure. A message names the object, what was asked, what the server said and, for a
missing permission, the rule to add.
"""

import json
from collections.abc import Mapping
from typing import Any

from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable
from recell.providers.kube.paths import Place, parse


class Expired(Retryable):
    """The resourceVersion (or continue token) is too old, or unknown to this server: list anew."""


def translate(verb: str, path: str, status: int, body: bytes, headers: Mapping[str, str]) -> RecellError:
    """The error for an answer of 400 and above. `verb` as RBAC names it: get, list, watch, patch..."""
    place = parse(path)
    details = _status(body)
    said = details.get("message") or body[:300].decode(errors="replace") or "no message"
    what = f"{verb} {place}: {said}"
    if status == 404:
        return NotFound(what)
    if status == 410 or _too_new(details):
        return Expired(what)
    if status == 409:
        return Conflict(what)
    if status == 401:
        return Forbidden(f"{what} (the credentials were refused: check the ServiceAccount's token or the kubeconfig)")
    if status == 403:
        return Forbidden(_missing_permission(verb, place, said) if _is_rbac(said) else what)
    if status in (400, 405, 406, 413, 415, 422):
        return BadInput(_causes(verb, place, details) or what)
    return Retryable(f"{what} (HTTP {status})", after=_retry_after(headers, details))


def _status(body: bytes) -> dict[str, Any]:
    try:
        parsed = json.loads(body)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) and parsed.get("kind") == "Status" else {}


def _too_new(details: Mapping[str, Any]) -> bool:
    causes = (details.get("details") or {}).get("causes") or ()
    return any(cause.get("reason") == "ResourceVersionTooLarge" for cause in causes)


def _is_rbac(said: str) -> bool:
    """Admission plugins (quota, PodSecurity, a namespace that is going away) refuse with 403 too."""
    return "cannot" in said and "resource" in said


def _missing_permission(verb: str, place: Place, said: str) -> str:
    where = f"in namespace {place.namespace}" if place.namespace else "cluster-wide"
    return (
        f'{verb} {place}: permission missing; grant verb "{verb}" on resource "{place.resource}"'
        f' of apiGroup "{place.group}" {where} ({said})'
    )


def _causes(verb: str, place: Place, details: Mapping[str, Any]) -> str:
    causes = (details.get("details") or {}).get("causes") or ()
    said = "; ".join(f"{c.get('field') or 'object'}: {c.get('message', '')}" for c in causes)
    return f"{verb} {place}: {said}" if said else ""


def _retry_after(headers: Mapping[str, str], details: Mapping[str, Any]) -> float | None:
    for value in (headers.get("Retry-After"), (details.get("details") or {}).get("retryAfterSeconds")):
        try:
            if value is not None:
                return max(0.0, float(value))
        except ValueError:
            continue
    return None
