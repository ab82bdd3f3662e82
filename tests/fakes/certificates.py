"""Certificates that vouch for themselves."""

import subprocess
from pathlib import Path


def self_signed(folder: Path, name: str) -> tuple[Path, Path]:
    """For 127.0.0.1 and a name: the certificate and its key, by openssl."""
    made, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", key, "-out", made, "-days", "1", "-subj", f"/CN={name}"),
            *("-addext", f"subjectAltName=IP:127.0.0.1,DNS:{name}"),
        ],
        check=True,
        capture_output=True,
    )
    return made, key
