"""The commands around the shop: its start with wrong settings, and shop-chaos."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.fakes.ports import free_port
from tests.unit.shop.processes import SHOP, Web


def chaos(web: Web, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(SHOP / "bin" / "shop-chaos"), "--admin", f"http://127.0.0.1:{web.admin_port}", *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"PGHOST": "db"}, "SHOP_CELL is not set"),
        ({"SHOP_CELL": "cell-a"}, "PGHOST is not set"),
        ({"SHOP_CELL": "cell-a", "PGHOST": "db", "SHOP_PORT": "http"}, "SHOP_PORT is 'http'"),
        ({"SHOP_CELL": "cell-a", "PGHOST": "db", "SHOP_PORT": "80.5"}, "SHOP_PORT is '80.5'"),
        ({"SHOP_CELL": "cell-a", "PGHOST": "db", "SHOP_ADMIN_PORT": "70000"}, "SHOP_ADMIN_PORT is '70000'"),
        ({"SHOP_CELL": "cell-a", "PGHOST": "db", "SHOP_DATA": "mine"}, "SHOP_DATA is 'mine'"),
        ({"SHOP_CELL": "cell-a", "PGHOST": "db", "SHOP_DRAIN_SECONDS": "nan"}, "SHOP_DRAIN_SECONDS is 'nan'"),
    ],
)
def test_wrong_settings_end_the_start_and_name_the_variable(environment: dict[str, str], message: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "shop"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SHOP / "web"), **environment},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip

    assert ended.returncode == 2
    assert message in ended.stderr


def test_a_fault_is_ordered_listed_and_taken_back(web: Web) -> None:
    ordered = chaos(web, "err", "--percent", "100", "--status", "503", "--paths", "/orders,/probe", "--until", "reset")
    assert ordered.returncode == 0, ordered.stderr
    fault = json.loads(ordered.stdout)
    assert (web.order("alice").status, web.ask("GET", "/probe").status) == (503, 503)
    assert [one["id"] for one in json.loads(chaos(web, "list").stdout)["faults"]] == [fault["id"]]

    assert chaos(web, "clear", fault["id"]).returncode == 0
    assert web.order("alice").status == 201
    assert chaos(web, "slow", "--ms", "1", "--scope", "pod").returncode == 0
    assert chaos(web, "hang", "--seconds", "60", "--paths", "/readyz").returncode == 0
    assert json.loads(chaos(web, "clear").stdout) == {"removed": 2}


def test_corruption_and_a_crash_are_ordered(web: Web) -> None:
    web.order("alice")
    assert chaos(web, "corrupt", "--what", "rows", "--percent", "50").returncode == 0
    assert web.ask("GET", "/integrity").status == 503
    assert chaos(web, "crash").returncode == 0
    assert web.wait_ended() == 70


def test_refusals_are_told(web: Web) -> None:
    refused = chaos(web, "err", "--percent", "500")
    assert (refused.returncode, "percent" in refused.stderr) == (1, True)
    assert chaos(web, "explode").returncode == 2
    unreachable = chaos(web, "--admin", f"http://127.0.0.1:{free_port()}", "list")
    assert (unreachable.returncode, "cannot be asked" in unreachable.stderr) == (1, True)
