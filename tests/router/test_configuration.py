"""HAProxy accepts the configuration that the agent writes, for every kind of customer key."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from router.agent import config, table
from router.agent.placement import decode
from router.agent.settings import CustomerKey, Settings
from tests.router.rig import placement, spread

TEMPLATE = Path(__file__).parents[2] / "router" / "haproxy.cfg"
CELLS = {"a": (0, "10.0.0.1", 80), "b": (1, "fd00::2", 8080)}


@pytest.mark.parametrize(
    "key",
    [
        CustomerKey("Header", "x-customer-id"),
        CustomerKey("Cookie", "tenant", when_absent="ClientAddress"),
        CustomerKey("Host"),
        CustomerKey("PathSegment", segment=3),
    ],
)
def test_haproxy_accepts_the_configuration(key: CustomerKey, tmp_path: Path) -> None:
    made = Settings("fleet", "shop", key, run=tmp_path, template=TEMPLATE)
    decoded = decode(placement(CELLS, spread(1024, 0, 1), generation=1, pins={"alice": 1}))
    servers = table.assign(decoded, table.Held(), -1)
    made.map.write_text(table.map_text(table.entries(decoded, servers, {})))
    made.config.write_text(config.render(TEMPLATE.read_text(), made, servers))
    done = subprocess.run(
        ["haproxy", "-c", "-f", str(made.config)],
        env={"POD_NAME": "router-0", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert "option redispatch" not in re.sub(r"#.*", "", made.config.read_text())
