"""The gateway against a real API server: what its answers become, and what the fence keeps back."""

import asyncio
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.engine.errors import BadInput, Conflict, Fenced, Forbidden, NotFound, Retryable
from recell.providers.kube import api as gateway
from recell.providers.kube.api import Api
from recell.providers.kube.connection import Connection
from recell.providers.kube.errors import Expired
from recell.providers.kube.paths import CELLS, CONFIG_MAPS, DEPLOYMENTS
from tests.fakes.api_proxy import ApiProxy

pytestmark = pytest.mark.usefixtures("crds")


@pytest.fixture
async def proxy(kubeconfig: Path, tmp_path: Path) -> AsyncIterator[ApiProxy]:
    async with ApiProxy.to(kubeconfig, tmp_path) as made:
        yield made


@pytest.fixture
async def kube(proxy: ApiProxy) -> AsyncIterator[Api]:
    made = await Api.connect(str(proxy.kubeconfig))
    yield made
    await made.close()


def settings_of(kubeconfig: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    return config


def config_map(namespace: str, name: str, **data: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": data,
    }


def cell(namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    backend = {"type": "Service", "service": {"name": name, "port": 80}}
    return {
        "apiVersion": CELLS.api_version,
        "kind": "Cell",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"routerRef": {"name": "shop"}, "backend": backend, **spec},
    }


async def test_every_verb_on_a_real_object(kube: Api, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "verbs")
    made = await kube.create(CONFIG_MAPS.collection(namespace), config_map(namespace, "verbs", a="1"))
    assert (await kube.get(path))["data"] == {"a": "1"}
    assert (await kube.merge_patch(path, {"data": {"b": "2"}}))["data"] == {"a": "1", "b": "2"}
    tested = [
        {"op": "test", "path": "/data/a", "value": "1"},
        {"op": "replace", "path": "/data/a", "value": "3"},
    ]
    changed = await kube.json_patch(path, tested)
    assert changed["data"] == {"a": "3", "b": "2"}
    replaced = await kube.replace(path, changed | {"data": {"only": "this"}})
    assert replaced["data"] == {"only": "this"}
    applied = await kube.apply(path, config_map(namespace, "verbs", c="4"), field_manager="somebody")
    assert applied["data"] == {"only": "this", "c": "4"}
    listing = await kube.list(CONFIG_MAPS.collection(namespace), fields="metadata.name=verbs")
    assert [item["metadata"]["uid"] for item in listing.items] == [made["metadata"]["uid"]]
    assert listing.items[0]["kind"] == "ConfigMap"
    await kube.delete(path, uid=made["metadata"]["uid"])
    with pytest.raises(NotFound, match=f"configmaps {namespace}/verbs"):
        await kube.get(path)


async def test_a_list_of_many_pages_is_whole(
    kube: Api, proxy: ApiProxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gateway, "PAGE", 2)
    for number in range(5):
        await kube.create(CONFIG_MAPS.collection(namespace), config_map(namespace, f"page-{number}"))
    listing = await kube.list(CONFIG_MAPS.collection(namespace))
    assert {f"page-{n}" for n in range(5)} <= {item["metadata"]["name"] for item in listing.items}
    assert sum("continue=" in seen.query for seen in proxy.seen) >= 2


async def test_what_somebody_else_changed_is_a_conflict(kube: Api, namespace: str) -> None:
    path = CONFIG_MAPS.path(namespace, "contended")
    first = await kube.create(CONFIG_MAPS.collection(namespace), config_map(namespace, "contended"))
    with pytest.raises(Conflict):
        await kube.create(CONFIG_MAPS.collection(namespace), config_map(namespace, "contended"))
    await kube.merge_patch(path, {"data": {"by": "another"}})
    stale = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {"by": "me"}}
    with pytest.raises(Conflict):
        await kube.merge_patch(path, stale)
    with pytest.raises(Conflict):
        await kube.delete(path, uid="00000000-0000-0000-0000-000000000000")
    assert (await kube.get(path))["data"] == {"by": "another"}


async def test_bad_input_names_the_field(kube: Api, namespace: str) -> None:
    with pytest.raises(BadInput, match=r"spec\.weight: .*1000"):
        await kube.create(CELLS.collection(namespace), cell(namespace, "heavy", weight=2000))


async def test_a_missing_permission_says_what_to_grant(
    kube: Api, kubeconfig: Path, namespace: str, tmp_path: Path
) -> None:
    def kubectl(*arguments: str) -> str:
        return subprocess.run(
            ["kubectl", "--kubeconfig", str(kubeconfig), "-n", namespace, *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    kubectl("create", "serviceaccount", "powerless")
    config = settings_of(kubeconfig)
    config["users"][0]["user"] = {"token": kubectl("create", "token", "powerless").strip()}
    (tmp_path / "powerless.yaml").write_text(yaml.safe_dump(config))
    powerless = await Api.connect(str(tmp_path / "powerless.yaml"))
    try:
        with pytest.raises(Forbidden) as refused:
            await powerless.merge_patch(DEPLOYMENTS.path(namespace, "web"), {"metadata": {"labels": {"a": "b"}}})
    finally:
        await powerless.close()
    said = str(refused.value)
    assert f'grant verb "patch" on resource "deployments" of apiGroup "apps" in namespace {namespace}' in said
    assert f"deployments.apps {namespace}/web" in said


async def test_a_refusal_by_admission_is_no_missing_permission(kube: Api, kubeconfig: Path) -> None:
    with pytest.raises((Forbidden, NotFound)) as refused:
        await kube.create(CONFIG_MAPS.collection("no-such-namespace"), config_map("no-such-namespace", "x"))
    assert "grant" not in str(refused.value)


async def test_overload_tells_how_long_to_wait(kube: Api, proxy: ApiProxy, namespace: str) -> None:
    proxy.fail("configmaps", 429, reason="TooManyRequests", headers={"Retry-After": "7"})
    with pytest.raises(Retryable) as overloaded:
        await kube.get(CONFIG_MAPS.path(namespace, "any"))
    assert overloaded.value.after == 7
    proxy.fail("configmaps", 503)
    with pytest.raises(Retryable, match="HTTP 503"):
        await kube.get(CONFIG_MAPS.path(namespace, "any"))
    proxy.fail("configmaps", 410, reason="Expired")
    with pytest.raises(Expired):
        await kube.get(CONFIG_MAPS.path(namespace, "any"))


async def test_silence_and_broken_connections_may_be_tried_again(kube: Api, proxy: ApiProxy, namespace: str) -> None:
    proxy.hanging = True
    with pytest.raises(Retryable, match=r"no answer within 0\.5 s"):
        await kube.get(CONFIG_MAPS.path(namespace, "any"), timeout=0.5)
    proxy.hanging = False
    proxy.refusing = True
    with pytest.raises(Retryable):
        await kube.get(CONFIG_MAPS.path(namespace, "any"))
    proxy.refusing = False
    with pytest.raises(NotFound):
        await kube.get(CONFIG_MAPS.path(namespace, "any"))


async def test_the_fence_keeps_writes_back_and_lets_reads_through(kube: Api, proxy: ApiProxy, namespace: str) -> None:
    leading = True

    def fence() -> None:
        if not leading:
            raise Fenced("not the leader")

    fenced = kube.fenced(fence)
    path = CONFIG_MAPS.path(namespace, "fenced")
    await fenced.create(CONFIG_MAPS.collection(namespace), config_map(namespace, "fenced"))
    leading = False
    proxy.seen.clear()
    for write in (
        fenced.create(CONFIG_MAPS.collection(namespace), config_map(namespace, "other")),
        fenced.replace(path, config_map(namespace, "fenced")),
        fenced.merge_patch(path, {"data": {"x": "1"}}),
        fenced.json_patch(path, [{"op": "add", "path": "/data", "value": {}}]),
        fenced.apply(path, config_map(namespace, "fenced")),
        fenced.delete(path),
    ):
        with pytest.raises(Fenced):
            await write
    assert proxy.writes() == []
    assert (await fenced.get(path))["metadata"]["name"] == "fenced"


async def test_the_clocks_are_compared(kubeconfig: Path) -> None:
    def fast() -> float:
        return time.time() + 100.0

    for wall, low, high in ((time.time, -1.0, 1.0), (fast, 70.0, 105.0)):
        connection = await Connection.open(str(kubeconfig), wall=wall)
        try:
            assert connection.skew is None
            await connection.request("GET", "/version", timeout=10)
            assert connection.skew is not None
            assert low <= connection.skew <= high
        finally:
            await connection.close()


async def test_credentials_that_cannot_be_used_are_refused_with_their_place(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere.yaml"
    with pytest.raises(BadInput, match=r"nowhere\.yaml"):
        await Api.connect(str(missing))
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [
            {"name": "x", "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": "bm8gY2VydA=="}}
        ],
        "users": [{"name": "x", "user": {}}],
    }
    bad = tmp_path / "bad.yaml"
    bad.write_text(yaml.safe_dump(config))
    with pytest.raises(BadInput, match=r"bad\.yaml"):
        await Api.connect(str(bad))


async def test_rotated_credentials_are_read_again(
    kubeconfig: Path, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recell.providers.kube.connection.RELOAD_INTERVAL", 0.0)
    config = settings_of(kubeconfig)
    good = config["users"][0]["user"]
    config["users"][0]["user"] = {"token": "of yesterday"}
    rotating = tmp_path / "rotating.yaml"
    rotating.write_text(yaml.safe_dump(config))
    kube = await Api.connect(str(rotating))
    try:
        with pytest.raises(Forbidden, match="credentials were refused"):
            await kube.get(CONFIG_MAPS.path(namespace, "any"))
        config["users"][0]["user"] = good
        rotating.write_text(yaml.safe_dump(config))
        with pytest.raises(Forbidden):
            await kube.get(CONFIG_MAPS.path(namespace, "any"))
        with pytest.raises(NotFound):
            await kube.get(CONFIG_MAPS.path(namespace, "any"))
    finally:
        await kube.close()
        await asyncio.sleep(0)
