"""A kubeconfig from a Secret: what is needed of it, or why it is refused.

Promises: pure; nothing is run and no file is read because a kubeconfig says so. A refusal names the field and the
next step, and quotes nothing: whatever stands in a Secret stays there, the words of a parser included.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from recell.engine.errors import BadInput

_INLINE = "kubectl config view --raw --flatten --minify writes one with everything in it"
_REFUSED_CLUSTER = {
    "certificate-authority": f"names a file, and files are of another machine: {_INLINE}",
    "insecure-skip-tls-verify": "would give the credentials to anybody who answers: set certificate-authority-data",
    "proxy-url": "is not supported: the operator has to reach the API server directly",
}
_REFUSED_USER = {
    "exec": "would run a program in the operator: use a token or a client certificate, for example of a ServiceAccount",
    "auth-provider": "would run code of a vendor in the operator: use a token or a client certificate",
    "client-certificate": f"names a file, and files are of another machine: {_INLINE}",
    "client-key": f"names a file, and files are of another machine: {_INLINE}",
    "tokenFile": f"names a file, and files are of another machine: {_INLINE}",
    "username": "is not a way into Kubernetes any more: use a token or a client certificate",
    "password": "is not a way into Kubernetes any more: use a token or a client certificate",
    "as": "is not supported: give the user itself the rights that it needs",
    "as-uid": "is not supported: give the user itself the rights that it needs",
    "as-groups": "is not supported: give the user itself the rights that it needs",
    "as-user-extra": "is not supported: give the user itself the rights that it needs",
}


@dataclass(frozen=True)
class Kubeconfig:
    """The current context of a kubeconfig. Its text says nothing."""

    server: str = field(repr=False)
    """https, without credentials in it."""
    authorities: str | None = field(default=None, repr=False)
    """Certificates in PEM; None: those that the machine trusts."""
    server_name: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = field(default=None, repr=False)
    key: bytes | None = field(default=None, repr=False)
    """PEM, both or none of them."""


def parse(text: bytes) -> Kubeconfig:
    """Raises BadInput with the field that cannot work, from "the kubeconfig" on."""
    try:
        document = yaml.safe_load(text.decode())
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadInput("the kubeconfig is not YAML") from None
    if not isinstance(document, Mapping):
        raise BadInput("the kubeconfig has no fields: it is to be what kubectl config view --raw --flatten prints")
    context = _entry(document, "contexts", "context", _text(document, "current-context", "current-context"))
    cluster = _entry(document, "clusters", "cluster", _text(context, "cluster", "contexts[].context.cluster"))
    user = _entry(document, "users", "user", _text(context, "user", "contexts[].context.user"))
    _refuse(cluster, _REFUSED_CLUSTER, "clusters[].cluster")
    _refuse(user, _REFUSED_USER, "users[].user")
    authorities = _pem(cluster, "certificate-authority-data", "clusters[].cluster")
    certificate = _pem(user, "client-certificate-data", "users[].user")
    key = _pem(user, "client-key-data", "users[].user")
    token = _token(user)
    if (certificate is None) != (key is None):
        raise _bad("users[].user", "needs client-certificate-data and client-key-data together")
    if certificate is None and token is None:
        raise _bad("users[].user", "has neither a token nor a client certificate, so nobody would be let in")
    name = cluster.get("tls-server-name")
    return Kubeconfig(
        server=_server(_text(cluster, "server", "clusters[].cluster.server")),
        authorities=authorities.decode() if authorities is not None else None,
        server_name=name if isinstance(name, str) and name else None,
        token=token,
        certificate=certificate,
        key=key,
    )


def _bad(field: str, why: str) -> BadInput:
    return BadInput(f"the kubeconfig's {field} {why}")


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given.get(name)
    if not isinstance(value, str) or not value:
        raise _bad(where, "is missing")
    return value


def _entry(document: Mapping[str, Any], plural: str, singular: str, name: str) -> Mapping[str, Any]:
    """What is listed under this name."""
    entries = document.get(plural)
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, Mapping) and entry.get("name") == name:
            found = entry.get(singular)
            if isinstance(found, Mapping):
                return found
    raise _bad(plural, "has no entry of the name that is referred to, or an empty one")


def _refuse(given: Mapping[str, Any], refused: Mapping[str, str], where: str) -> None:
    for name, why in refused.items():
        if given.get(name):
            raise _bad(f"{where}.{name}", why)


def _pem(given: Mapping[str, Any], name: str, where: str) -> bytes | None:
    value = given.get(name)
    if not value:
        return None
    try:
        decoded = base64.b64decode(value, validate=True) if isinstance(value, str) else b""
        decoded.decode("ascii")
    except (binascii.Error, ValueError):
        decoded = b""
    if b"-----BEGIN " not in decoded:
        raise _bad(f"{where}.{name}", "is not PEM in base64")
    return decoded


def _token(user: Mapping[str, Any]) -> str | None:
    token = user.get("token")
    if not token:
        return None
    # What else could not stand in a header; the client's complaint would quote it.
    if not isinstance(token, str) or not token.isascii() or not token.isprintable() or " " in token:
        raise _bad("users[].user.token", "is not a token")
    return token


def _server(server: str) -> str:
    try:
        parts = urlsplit(server)
        usable = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise _bad("clusters[].cluster.server", "is not an https URL")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise _bad("clusters[].cluster.server", "may have a host, a port and a path, and nothing else")
    return server.rstrip("/")
