"""The alerts fire when they should and are silent when all is well, as Prometheus itself evaluates them."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from recell.runtime.metrics import Metrics
from tests.unit.delivery.conftest import Render, named
from tests.unit.delivery.programs import ROOT

PROMTOOL = shutil.which("promtool")
LEADER, STANDBY = (f'{{namespace="recell-system",service="recell-metrics",pod="{pod}"}}' for pod in ("a", "b"))
WELL = {
    f"recell_leader{LEADER}": "1x60",
    f"recell_leader{STANDBY}": "0x60",
    f"recell_clock_skew_seconds{LEADER}": "0x60",
    f"recell_routers_in_fallback{LEADER}": "0x60",
}


def on_leader(metric: str, labels: str) -> str:
    return f"{metric}{LEADER[:-1]},{labels}}}"


def on_router(figure: str, *pods: int) -> dict[str, str]:
    name = f"recell_router_placement_{figure}"
    labels = 'namespace="shop",recell_dev_router="shop"'
    return {f'{name}{{{labels},pod="{pod}"}}': f"{value}x60" for pod, value in enumerate(pods)}


CASES: dict[str, tuple[dict[str, str], set[str]]] = {
    "all is well": (
        {
            on_leader("recell_watch_blind_seconds", 'resource="cells"'): "0x60",
            on_leader("recell_queue_depth", 'controller="Cell"'): "3x60",
            on_leader("recell_runs_total", 'strategy="CellRestart",result="Succeeded"'): "0+1x60",
        },
        set(),
    ),
    "nobody is scraped": ({f"recell_leader{LEADER}": "_x60", f"recell_leader{STANDBY}": "_x60"}, {"RecellNobodyLeads"}),
    "two standbys": ({f"recell_leader{LEADER}": "0x60"}, {"RecellNobodyLeads"}),
    "the leader is blind": (
        {on_leader("recell_watch_blind_seconds", 'resource="cells"'): "0+60x60"},
        {"RecellWatchDead"},
    ),
    "another cluster is away": (
        {f"recell_clusters_unreachable{LEADER}": "1x60", f"recell_clusters_unreachable{STANDBY}": "1x60"},
        {"RecellClusterUnreachable"},
    ),
    "only a standby does not reach another cluster": (
        {f"recell_clusters_unreachable{LEADER}": "0x60", f"recell_clusters_unreachable{STANDBY}": "1x60"},
        set(),
    ),
    "a router's pods agree": (
        on_router("generation", 7, 7) | on_router("refused", 0, 0) | on_router("synced", 1, 1),
        set(),
    ),
    "a router's pods disagree": (on_router("generation", 7, 6), {"RecellPlacementStale"}),
    "a router refuses its placement": (on_router("refused", 0, 1), {"RecellPlacementStale"}),
    "a router cannot read its placement": (on_router("synced", 1, 0), {"RecellPlacementStale"}),
    "work piles up": ({on_leader("recell_queue_depth", 'controller="Cell"'): "90x60"}, {"RecellQueueStuck"}),
    "reconciles fail": (
        {on_leader("recell_reconcile_total", 'controller="Cell",result="error"'): "0+60x60"},
        {"RecellReconcilesFail"},
    ),
    "the first run that needs a person": (
        {on_leader("recell_runs_total", 'strategy="CellRestart",result="ManualInterventionRequired"'): "_x25 1x35"},
        {"RecellManualInterventionRequired"},
    ),
    "such a run, long ago": (
        {on_leader("recell_runs_total", 'strategy="CellRestart",result="ManualInterventionRequired"'): "1x60"},
        set(),
    ),
    "a run asks": ({f"recell_runs_awaiting_approval{LEADER}": "1x60"}, {"RecellApprovalAwaited"}),
    "only a standby, behind, still counts one that asks": (
        {f"recell_runs_awaiting_approval{LEADER}": "0x60", f"recell_runs_awaiting_approval{STANDBY}": "1x60"},
        set(),
    ),
    "requests are shed": (
        {
            f'recell_router_class_shed_percent{{namespace="shop",recell_dev_router="shop",class="{name}"}}': "40x60"
            for name in ("bulk",)
        },
        {"RecellLoadShed"},
    ),
    "a router is relieved": ({f"recell_routers_in_fallback{LEADER}": "1x60"}, {"RecellFallbackActive"}),
    "the clock is ahead": ({f"recell_clock_skew_seconds{LEADER}": "9x60"}, {"RecellClockAhead"}),
}
MINUTE = 30


@pytest.fixture(scope="module")
def groups(render: Render) -> dict[str, Any]:
    rule = named(render({"metrics": {"prometheusRule": {"enabled": True}}}), "PrometheusRule", "recell")
    spec: dict[str, Any] = rule["spec"]
    return spec


@pytest.mark.skipif(PROMTOOL is None, reason="needs promtool (Debian: prometheus)")
@pytest.mark.parametrize("case", CASES)
def test_alerts(groups: dict[str, Any], tmp_path: Path, case: str) -> None:
    assert PROMTOOL is not None
    series, expected = CASES[case]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(groups))
    alerts = [rule["alert"] for rule in groups["groups"][0]["rules"]]
    query = "count by (alertname) (ALERTS{alertstate='firing'}) > 0"
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in (WELL | series).items()],
                "promql_expr_test": [
                    {
                        "expr": query,
                        "eval_time": f"{MINUTE}m",
                        "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(expected)],
                    }
                ],
            }
        ],
    }
    assert expected <= set(alerts)
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    made = subprocess.run(
        [PROMTOOL, "test", "rules", "test.yaml"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 0, made.stdout + made.stderr


def test_every_alert_says_what_it_means(groups: dict[str, Any]) -> None:
    for rule in groups["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_every_metric_of_an_alert_exists(groups: dict[str, Any]) -> None:
    """An alert on a metric that nobody writes never fires."""
    made = Metrics()
    made.watch_reflectors(dict)
    known = {
        name
        for family in made.registry.collect()
        for name in (family.name, f"{family.name}_total", f"{family.name}_seconds")
    }
    agent = (ROOT / "router" / "agent" / "server.py").read_text()
    known |= {f"recell_router_{name}" for name in re.findall(r'metric\(\s*"([a-z_]+)"', agent)}
    for rule in groups["groups"][0]["rules"]:
        for metric in re.findall(r"\b(recell_(?!dev_)[a-z_]+)", rule["expr"]):
            assert metric in known, f"{rule['alert']}: {metric}"
