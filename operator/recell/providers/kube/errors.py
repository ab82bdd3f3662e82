"""The API server's refusals and failures, translated once into `recell.engine.errors`.

Promises: pure. A message names the object, what was asked, what the server said and, for a
missing permission, the rule to add.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, RecellError, Retryable
from recell.providers.kube.paths import Place, parse


class Expired(Retryable):
    """The resourceVersion (or continue token) is too old, or unknown to this server: list anew."""


class MissingPermission(Forbidden):
    """RBAC refuses it; the message names the rule to add."""


_REFUSED = re.compile(r'cannot (\S+) resource "([^"]+)" in API group "([^"]*)"')
_QUOTA = re.compile(r"exceeded quota: ([^,]+), requested: (.+), used: (.+), limited: (.+)$")
_UNREADABLE = "failed to create typed patch object"
"""How a server-side apply refuses a field that the kind does not have; answered with 500."""


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
        if _is_rbac(said):
            return MissingPermission(_missing_permission(verb, place, said))
        return Forbidden(_exceeded_quota(verb, place, said) or what)
    if status in (400, 405, 406, 413, 415, 422) or _UNREADABLE in said:
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
    """What is refused is not always what was asked: an apply needs `create` as well where the object is missing."""
    found = _REFUSED.search(said)
    refused, resource, group = found.groups() if found else (verb, place.resource, place.group)
    where = f"in namespace {place.namespace}" if place.namespace else "cluster-wide"
    return (
        f'{verb} {place}: permission missing; grant verb "{refused}" on resource "{resource}"'
        f' of apiGroup "{group}" {where} ({said})'
    )


def _exceeded_quota(verb: str, place: Place, said: str) -> str:
    found = _QUOTA.search(said)
    if found is None:
        return ""
    name, requested, used, limited = found.groups()
    return (
        f"{verb} {place}: ResourceQuota {name} of namespace {place.namespace} is exceeded: requested {requested},"
        f" used {used}, limited to {limited}; raise it or free what is not needed"
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
