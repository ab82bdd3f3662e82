"""What of a kubeconfig is taken, what is refused, and that no refusal quotes it."""

from typing import Any

import pytest
import yaml

from recell.engine.errors import BadInput
from recell.providers.kube.kubeconfig import parse
from tests.unit.kube.kubeconfigs import PEM, TOKEN, document, encoded, text

SERVER = "https://k8s.example:6443"
PASSPHRASE = "hunter2-of-the-user"


def test_the_current_context_is_taken() -> None:
    found = parse(text(user={"token": TOKEN}))
    assert (found.server, found.token, found.authorities) == (SERVER, TOKEN, PEM)
    assert (found.certificate, found.key) == (None, None)


def test_a_client_certificate_is_taken() -> None:
    user = {"client-certificate-data": encoded(PEM), "client-key-data": encoded(PEM)}
    found = parse(text(user=user, cluster={"server": f"{SERVER}/k8s/clusters/c-1/", "tls-server-name": "kubernetes"}))
    assert found.certificate == found.key == PEM.encode()
    assert (found.server, found.server_name) == (f"{SERVER}/k8s/clusters/c-1", "kubernetes")
    assert found.authorities is None, "those that the machine trusts"


def test_its_text_says_nothing() -> None:
    assert str(parse(text())) == repr(parse(text())) == "Kubeconfig()"


CLUSTER = {"server": SERVER}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"user": {"exec": {"command": PASSPHRASE}}}, "users[].user.exec would run a program in the operator"),
        ({"user": {"auth-provider": {"name": PASSPHRASE}}}, "users[].user.auth-provider would run code of a vendor"),
        ({"user": {"client-certificate": f"/home/{PASSPHRASE}"}}, "users[].user.client-certificate names a file"),
        ({"user": {"client-key": f"/home/{PASSPHRASE}"}}, "users[].user.client-key names a file"),
        ({"user": {"tokenFile": f"/home/{PASSPHRASE}"}}, "users[].user.tokenFile names a file"),
        ({"user": {"token": TOKEN, "tokenFile": PASSPHRASE}}, "users[].user.tokenFile names a file"),
        ({"user": {"username": "admin", "password": PASSPHRASE}}, "users[].user.username is not a way into"),
        ({"user": {"token": TOKEN, "as": PASSPHRASE}}, "users[].user.as is not supported"),
        ({"user": {"token": TOKEN, "as-groups": [PASSPHRASE]}}, "users[].user.as-groups is not supported"),
        ({"user": {}}, "has neither a token nor a client certificate"),
        ({"user": {"token": f"{PASSPHRASE}\nX-Header: 1"}}, "users[].user.token is not a token"),
        ({"user": {"token": [PASSPHRASE]}}, "users[].user.token is not a token"),
        ({"user": {"client-certificate-data": encoded(PEM)}}, "needs client-certificate-data and client-key-data"),
        ({"user": {"client-key-data": PASSPHRASE}}, "users[].user.client-key-data is not PEM in base64"),
        ({"user": {"client-key-data": encoded(PASSPHRASE)}}, "users[].user.client-key-data is not PEM in base64"),
        ({"cluster": CLUSTER | {"certificate-authority": f"/{PASSPHRASE}"}}, "certificate-authority names a file"),
        ({"cluster": CLUSTER | {"certificate-authority-data": PASSPHRASE}}, "certificate-authority-data is not PEM"),
        ({"cluster": CLUSTER | {"insecure-skip-tls-verify": True}}, "would give the credentials to anybody"),
        ({"cluster": CLUSTER | {"proxy-url": f"http://{PASSPHRASE}"}}, "clusters[].cluster.proxy-url is not supported"),
        ({"cluster": {}}, "clusters[].cluster.server is missing"),
        ({"cluster": {"server": f"http://{PASSPHRASE}"}}, "clusters[].cluster.server is not an https URL"),
        ({"cluster": {"server": f"https://{PASSPHRASE}:99999999"}}, "clusters[].cluster.server is not an https URL"),
        ({"cluster": {"server": f"https://u:{PASSPHRASE}@host"}}, "a host, a port and a path, and nothing else"),
        ({"cluster": {"server": f"https://host/?token={PASSPHRASE}"}}, "a host, a port and a path, and nothing else"),
    ],
)
def test_refused_with_the_field_and_without_the_content(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(text(**fields))
    said = str(refused.value)
    assert message in said
    assert PASSPHRASE not in said
    assert TOKEN not in said


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"token: {PASSPHRASE}: [", "is not YAML"),
        (f"!!python/object:{PASSPHRASE} {{}}", "is not YAML"),
        ("[" * 5000, "is not YAML"),
        (PASSPHRASE, "has no fields"),
        (f"- {PASSPHRASE}", "has no fields"),
        ("{}", "current-context is missing"),
        (f"current-context: {PASSPHRASE}", "contexts has no entry of the name"),
        (yaml.safe_dump(document() | {"users": None}), "users has no entry"),
        (
            yaml.safe_dump(document() | {"contexts": [{"name": "there", "context": {"user": "u"}}]}),
            "cluster is missing",
        ),
    ],
)
def test_what_is_no_kubeconfig_is_not_quoted(content: str, message: str) -> None:
    with pytest.raises(BadInput) as refused:
        parse(content.encode())
    assert message in str(refused.value)
    assert PASSPHRASE not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None, "a traceback would quote it"


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadInput, match="is not YAML"):
        parse(b"\xff\xfe\x00")
