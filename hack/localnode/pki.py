"""One certificate authority for each cluster, and the certificates and kubeconfigs it vouches for.

Keys never leave the cluster's own folder, which only its owner can read. An existing file is kept, so a second
`up` hands out nothing new.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from . import folders
from .command import run

DAYS = "3650"


class Authority:
    """The cluster's certificate authority, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.certificate = folder / "ca.crt"
        self._key = folder / "ca.key"

    def ensure(self) -> None:
        """Make the authority and the key pair of the ServiceAccount tokens unless they are there."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.certificate.exists():
            _new_key(self._key)
            partial = self.certificate.with_suffix(".partial")
            usage = "keyUsage=critical,keyCertSign,cRLSign,digitalSignature"
            made: list[str | Path] = [
                "-key",
                self._key,
                "-subj",
                "/CN=recell-local-ca",
                "-days",
                DAYS,
                "-addext",
                usage,
                "-out",
                partial,
            ]
            run(["openssl", "req", "-x509", "-new", *made])
            partial.replace(self.certificate)
        if not self.service_account_public.exists():
            _new_key(self.service_account_key)
            public = run(["openssl", "pkey", "-in", self.service_account_key, "-pubout"])
            folders.write(self.service_account_public, public)

    @property
    def key(self) -> Path:
        """The authority's key, for the controller manager, which signs CertificateSigningRequests with it."""
        return self._key

    @property
    def service_account_key(self) -> Path:
        """Signs ServiceAccount tokens."""
        return self.folder / "service-account.key"

    @property
    def service_account_public(self) -> Path:
        """Verifies ServiceAccount tokens."""
        return self.folder / "service-account.pub"

    def issue(
        self, name: str, *, user: str, groups: Sequence[str] = (), hosts: Sequence[str] = ()
    ) -> tuple[Path, Path]:
        """The certificate and key `name` for `user` in `groups`; with `hosts` it also serves under those names."""
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        if certificate.exists():
            return certificate, key
        _new_key(key)
        subject = "".join(f"/O={group}" for group in groups) + f"/CN={user}"
        extensions = "basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        extensions += "extendedKeyUsage=clientAuth" + (",serverAuth" if hosts else "") + "\n"
        if hosts:
            kinds = ("IP" if host.replace(".", "").isdigit() else "DNS" for host in hosts)
            extensions += "subjectAltName=" + ",".join(f"{k}:{h}" for k, h in zip(kinds, hosts, strict=True)) + "\n"
        folders.write(self.folder / f"{name}.ext", extensions)
        request = run(["openssl", "req", "-new", "-key", key, "-subj", subject])
        partial = certificate.with_suffix(".partial")
        signer: list[str | Path] = ["-CA", self.certificate, "-CAkey", self._key, "-CAcreateserial", "-days", DAYS]
        signer += ["-extfile", self.folder / f"{name}.ext"]
        run(["openssl", "x509", "-req", *signer, "-out", partial], stdin=request)
        partial.replace(certificate)
        return certificate, key

    def kubeconfig(self, path: Path, *, cluster: str, server: str, user: str, groups: Sequence[str] = ()) -> Path:
        """A kubeconfig that carries its certificates in itself, so it can be copied anywhere."""
        if path.exists():
            return path
        certificate, key = self.issue(path.stem.replace(":", "-"), user=user, groups=groups)
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": cluster,
                    "cluster": {"server": server, "certificate-authority-data": _inline(self.certificate)},
                }
            ],
            "users": [
                {
                    "name": cluster,
                    "user": {"client-certificate-data": _inline(certificate), "client-key-data": _inline(key)},
                }
            ],
            "contexts": [{"name": cluster, "context": {"cluster": cluster, "user": cluster}}],
            "current-context": cluster,
        }
        folders.write(path, json.dumps(content, indent=1) + "\n", mode=0o600)
        return path


def _new_key(path: Path) -> None:
    run(["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", path])
    path.chmod(0o600)


def _inline(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
