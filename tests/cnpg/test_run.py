"""A whole run with CloudNativePG: an UPDATE without WHERE is undone, seen from the customers' side.

The example shop on two cells, whose databases are Clusters; the operator as the chart installs it.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from copy import deepcopy
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml

from hack.stage import IMAGES, ROOT, SHOP, SYSTEM, Stage
from tests.cnpg.stage import PostgresStage, cluster
from tests.e2e.test_cell_restart import ended
from tests.e2e.test_replacement import ORDERS, QUICK, moment, rfc3339, run_of

pytestmark = pytest.mark.timeout(1500)

CELLS = ("cell-a", "cell-b")
BACKUP = "nightly"
Object = dict[str, Any]


def template() -> Object:
    """The shop's own, with a Cluster in place of the StatefulSet and its Service."""
    found: Object = yaml.safe_load((ROOT / "examples/shop/recell/incell/template.yaml").read_text())
    spec = found["spec"]
    spec["cell"]["data"] = {
        "integrity": {"path": "/integrity"},
        "type": "CloudNativePG",
        "cloudNativePG": {"cluster": "$(CELL)-db"},
    }
    kept = [
        each for each in spec["objects"] if each["kind"] != "StatefulSet" and each["metadata"]["name"] != "$(CELL)-db"
    ]
    for each in kept:
        if each["kind"] == "Deployment":
            each["spec"]["replicas"] = 1
            (web,) = each["spec"]["template"]["spec"]["containers"]
            for variable in web["env"]:
                if variable["name"] == "PGHOST":
                    variable["value"] = "$(SHOP_CELL)-db-rw"
    spec["objects"] = [cluster(), *kept]
    return found


def cells(made: Object) -> Iterator[Object]:
    """Those that are there from the beginning, as people would have made them."""
    for name in CELLS:
        text = yaml.safe_dump_all(made["spec"]["objects"]).replace("$(CELL)", name)
        for body in yaml.safe_load_all(text):
            body["metadata"]["namespace"] = SHOP
            yield body
        spec = json.loads(json.dumps(deepcopy(made["spec"]["cell"])).replace("$(CELL)", name))
        spec |= {"routerRef": {"name": "shop"}, "templateRef": {"name": made["metadata"]["name"]}}
        metadata = {"name": name, "namespace": SHOP}
        yield {"apiVersion": "recell.dev/v1alpha1", "kind": "Cell", "metadata": metadata, "spec": spec}


@pytest.fixture
def shop(stage: PostgresStage) -> Iterator[Stage]:
    on = stage.stage
    for tag, (file, context) in IMAGES.items():
        if "postgres" not in tag and "archive" not in tag:
            where = ("--file", str(ROOT / file), "--context", str(ROOT / context))
            on.hack_cluster("build-image", "--tag", tag, *where)
    switch = ("--set", "features.cloudNativePG=true,uninstallCheck.enabled=false,crds.install=false")
    command = [str(stage.program("helm")), "template", "recell", str(ROOT / "helm" / "recell"), "-n", SYSTEM, *switch]
    chart = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout
    on.apply(yaml.safe_dump({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}))
    on.kubectl("-n", SYSTEM, "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=chart)
    on.kubectl("-n", SYSTEM, "rollout", "status", "deployment", "--timeout=180s", within=200)
    stage.open_namespace(SHOP)
    made = template()
    password = {"metadata": {"name": "shop-db-password", "namespace": SHOP}, "stringData": {"password": "test-only"}}
    router = yaml.safe_load((ROOT / "examples/shop/recell/incell/router.yaml").read_text())
    router["spec"]["haproxy"]["initialCells"] = [*CELLS]
    on.apply(
        yaml.safe_dump_all([{"apiVersion": "v1", "kind": "Secret", **password}, made, QUICK, router, *cells(made)])
    )
    on.kubectl("apply", "-k", str(ROOT / "examples/shop/manifests/load"))
    on.eventually("every cell is Healthy", lambda: all(on.phase(cell) == "Healthy" for cell in CELLS), within=400)
    on.eventually("the Router is Ready", lambda: on.condition("router", "shop", "Ready") == "True", within=120)
    yield on
    on.kubectl("-n", SHOP, "delete", "recoveryruns", "--all", "--ignore-not-found", "--timeout=120s", within=150)
    for cell in on.all("cells"):
        on.kubectl("-n", SHOP, "annotate", "cell", cell["metadata"]["name"], "recell.dev/force=true", "--overwrite")
    stage.close_namespace(SHOP)
    on.kubectl("-n", SYSTEM, "delete", "-f", "-", "--ignore-not-found", "--timeout=120s", stdin=chart, within=200)


def test_an_update_without_where_is_undone_by_a_run(stage: PostgresStage, shop: Stage) -> None:
    backup = {
        "apiVersion": "postgresql.cnpg.io/v1",
        "kind": "Backup",
        "metadata": {"name": BACKUP, "namespace": SHOP},
        "spec": {"cluster": {"name": "cell-b-db"}, "method": "barmanObjectStore"},
    }
    shop.apply(json.dumps(backup))
    shop.kubectl(
        *("-n", SHOP, "wait", "--for=jsonpath={.status.phase}=completed", f"backup.postgresql.cnpg.io/{BACKUP}"),
        *("--timeout=300s",),
        within=320,
    )
    with shop.load(rate=30, customers=60, orders=ORDERS):
        time.sleep(15)
    before = stage.sql(SHOP, "cell-b-db", "SELECT count(*), sum(cents) FROM shop.orders")
    assert not before.startswith("0|")
    time.sleep(1)
    good = datetime.now(UTC).replace(microsecond=0)
    time.sleep(2)
    stage.sql(SHOP, "cell-b-db", "UPDATE shop.orders SET cents = cents + 1")
    newest = stage.sql(SHOP, "cell-b-db", "SELECT pg_walfile_name(pg_switch_wal())")
    archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver"
    shop.eventually("it is archived", lambda: stage.sql(SHOP, "cell-b-db", archived) >= newest, within=60)
    run = {"recoveryTarget": {"time": rfc3339(good)}, "startWhen": "Always"}
    run["startBefore"] = rfc3339(datetime.now(UTC) + timedelta(minutes=10))
    shop.apply(run_of("undo", "PointInTimeRecovery", **run))

    told: list[str] = []

    def done() -> bool:
        status = shop.get("recoveryrun", "undo").get("status") or {}
        told.extend({str(status.get("summary"))}.difference(told))
        if awaiting := status.get("awaiting"):
            # The web app of the new cell starts again when its database is back, so nobody may know yet how that looks.
            assert awaiting["gate"] in ("unverified-integrity", "promote"), awaiting["message"]
            shop.recell("approve", "undo", "-n", SHOP, "--gate", awaiting["gate"], "--yes", check=False)
        return ended(shop, "undo")

    shop.eventually("the run ends", done, within=600, every=1.0)
    status = shop.get("recoveryrun", "undo")["status"]
    print(*told, sep="\n")
    assert status["phase"] == "Succeeded", status
    made = status["result"]["replacement"]
    assert stage.sql(SHOP, f"{made}-db", "SELECT count(*), sum(cents) FROM shop.orders") == before
    assert moment(status["result"]["recoveryPoint"]["time"]) == good
    found = shop.verify(ORDERS)
    assert (found["missing"], found["altered"], found["unreadable"]) == ({}, [], {})
    assert stage.sql(SHOP, "cell-b-db", "SELECT count(*) FROM shop.orders"), "the corrupted one is kept"
