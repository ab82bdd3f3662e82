"""The shop's manifests, as kustomize builds them: what others rely on, and what the restricted profile asks for."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.shop.processes import SHOP

MANIFESTS = SHOP / "manifests"
CELLS = ("cell-a", "cell-b", "cell-c")


def build(folder: Path) -> list[dict[str, Any]]:
    built = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=False, timeout=60)
    assert built.returncode == 0, built.stderr
    return [manifest for manifest in yaml.safe_load_all(built.stdout) if manifest]


@pytest.fixture(scope="module")
def objects() -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in build(MANIFESTS)}


Objects = dict[tuple[str, str], dict[str, Any]]


def test_each_cell_has_its_objects_under_its_name(objects: Objects) -> None:
    expected = {("Namespace", "shop"), ("Deployment", "load")}
    for cell in CELLS:
        expected |= {
            ("Deployment", f"{cell}-web"),
            ("StatefulSet", f"{cell}-db"),
            ("Service", cell),
            ("Service", f"{cell}-admin"),
            ("Service", f"{cell}-db"),
            ("Secret", f"{cell}-db-password"),
        }
    assert objects.keys() == expected
    assert {one["metadata"].get("namespace", "shop") for one in objects.values()} == {"shop"}


@pytest.mark.parametrize("cell", CELLS)
def test_services_lead_to_their_own_cell_alone(objects: Objects, cell: str) -> None:
    public, admin, database = (objects["Service", cell + suffix] for suffix in ("", "-admin", "-db"))
    web = objects["Deployment", f"{cell}-web"]["spec"]["template"]
    db = objects["StatefulSet", f"{cell}-db"]["spec"]["template"]

    for service, pods in ((public, web), (admin, web), (database, db)):
        selected = service["spec"]["selector"].items()
        assert selected <= pods["metadata"]["labels"].items()
        others = [one for name, one in objects.items() if name[0] in ("Deployment", "StatefulSet")]
        matching = [one for one in others if selected <= one["spec"]["template"]["metadata"]["labels"].items()]
        assert len(matching) == 1
    assert [(port["port"], port["targetPort"]) for port in public["spec"]["ports"]] == [(80, "http")]
    assert web["metadata"]["labels"]["app.kubernetes.io/instance"] == cell  # SHOP_CELL comes from it
    secrets = [
        env["valueFrom"]["secretKeyRef"]["name"]
        for pods in (web, db)
        for env in pods["spec"]["containers"][0]["env"]
        if "secretKeyRef" in env.get("valueFrom", {})
    ]
    assert secrets == [f"{cell}-db-password"] * 2


@pytest.mark.parametrize("folder", [".", "incell"])
def test_pods_meet_the_restricted_profile_with_a_read_only_root(folder: str) -> None:
    objects = {(one["kind"], one["metadata"]["name"]): one for one in build(MANIFESTS / folder)}
    assert objects["Namespace", "shop"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for (kind, name), one in objects.items():
        if kind not in ("Deployment", "StatefulSet", "CronJob"):
            continue
        pod = (one["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else one["spec"])["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.fullmatch(r"recell/shop-(web|postgres|load|archive):dev", container["image"])
            assert container["imagePullPolicy"] == "IfNotPresent"
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}


def test_the_grace_period_covers_the_orderly_end(objects: Objects) -> None:
    pod = objects["Deployment", "cell-a-web"]["spec"]["template"]["spec"]
    settings = {env["name"]: env.get("value") for env in pod["containers"][0]["env"]}
    needed = float(settings["SHOP_DRAIN_SECONDS"]) + float(settings["SHOP_STOP_SECONDS"])
    assert pod["terminationGracePeriodSeconds"] > needed


def test_the_persistent_variant_keeps_the_claim(tmp_path: Path) -> None:
    # kustomize follows only relative paths, so a copy of the manifests gets the overlay.
    copy = tmp_path / "manifests"
    subprocess.run(["cp", "-r", MANIFESTS, copy], check=True, timeout=30)
    overlay = copy / "overlays" / "cell-a" / "kustomization.yaml"
    overlay.write_text(overlay.read_text() + "components: [../../components/persistent]\n")

    (db,) = [one for one in build(overlay.parent) if one["kind"] == "StatefulSet"]
    assert [claim["metadata"]["name"] for claim in db["spec"]["volumeClaimTemplates"]] == ["data"]
    assert db["spec"]["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert "data" not in {volume["name"] for volume in db["spec"]["template"]["spec"]["volumes"]}
    assert "data" in {mount["name"] for mount in db["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}


JOBS = ("inventory", "accessible", "migrate", "restore", "check", "backup", "abandon")


@pytest.fixture(scope="module")
def incell() -> Objects:
    return {(one["kind"], one["metadata"]["name"]): one for one in build(MANIFESTS / "incell")}


def test_the_shop_with_data_in_cells_has_an_archive_and_jobs(incell: Objects) -> None:
    expected = {
        ("Namespace", "shop"), ("Deployment", "load"), ("Secret", "shop-db-password"),
        ("StatefulSet", "shop-archive"), ("Service", "shop-archive"),
        *(("CronJob", f"shop-data-{job}") for job in JOBS),
    }  # fmt: skip
    for cell in CELLS:
        expected |= {("Deployment", f"{cell}-web"), ("StatefulSet", f"{cell}-db")}
        expected |= {("Service", name) for name in (cell, f"{cell}-admin", f"{cell}-db")}
    assert incell.keys() == expected


def test_the_jobs_never_start_by_themselves(incell: Objects) -> None:
    for job in JOBS:
        spec = incell["CronJob", f"shop-data-{job}"]["spec"]
        assert spec["suspend"] is True
        limits = spec["jobTemplate"]["spec"]
        assert limits["activeDeadlineSeconds"] > 0
        assert limits["backoffLimit"] >= 1
        assert limits["template"]["spec"]["restartPolicy"] == "Never"
        assert limits["template"]["spec"]["containers"][0]["command"] == ["shop-data"]


def test_a_cell_with_its_own_data_is_made_by_naming_it(incell: Objects) -> None:
    # What a template lists for a cell: the same objects under another name, and nothing that only one cell has.
    def named(cell: str) -> str:
        mine = [one for one in incell.values() if one["metadata"]["name"].startswith(cell)]
        return yaml.safe_dump(mine, sort_keys=True).replace(cell, "$(CELL)")

    assert named("cell-a") == named("cell-b") == named("cell-c")


def test_the_databases_archive_and_the_shops_secret_is_the_jobs(incell: Objects) -> None:
    db = incell["StatefulSet", "cell-a-db"]["spec"]["template"]["spec"]
    web = incell["Deployment", "cell-a-web"]["spec"]["template"]["spec"]
    job = incell["CronJob", "shop-data-migrate"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    containers = [db["containers"][0], web["containers"][0], job["containers"][0]]
    secrets = [
        env["valueFrom"]["secretKeyRef"]["name"]
        for container in containers
        for env in container["env"]
        if "secretKeyRef" in env.get("valueFrom", {})
    ]
    assert secrets == ["shop-db-password"] * 3
    service = incell["Service", "shop-archive"]
    url = f"http://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    for container in (*db["containers"], job["containers"][0]):
        assert {"name": "SHOP_ARCHIVE_URL", "value": url} in container["env"]
    assert [container["name"] for container in db["containers"]] == ["postgres", "backup"]


def test_the_variant_with_claims_has_one_for_each_database_and_the_archive() -> None:
    sets = [one for one in build(MANIFESTS / "incell-persistent") if one["kind"] == "StatefulSet"]
    assert sorted(one["metadata"]["name"] for one in sets) == [*(f"{cell}-db" for cell in CELLS), "shop-archive"]
    for one in sets:
        assert [claim["metadata"]["name"] for claim in one["spec"]["volumeClaimTemplates"]] == ["data"]
        assert "data" not in {volume["name"] for volume in one["spec"]["template"]["spec"].get("volumes", ())}
