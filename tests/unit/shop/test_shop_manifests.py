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


def test_pods_meet_the_restricted_profile_with_a_read_only_root(objects: Objects) -> None:
    assert objects["Namespace", "shop"]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for (kind, name), one in objects.items():
        if kind not in ("Deployment", "StatefulSet"):
            continue
        pod = one["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert re.fullmatch(r"recell/shop-(web|postgres|load):dev", container["image"])
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
