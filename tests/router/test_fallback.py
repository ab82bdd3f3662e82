"""The fallback with a real HAProxy: customers land where MD5 says, a cell that is lost moves its own bucket alone."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from recell.api.placement import REJECT, encode_table
from recell.domain.fallback import Entry, Table
from tests.fakes.eventually import eventually
from tests.router.rig import Cells, PlacementApi, RouterPod, ask, placement, spread
from tests.router.rig.fallback import FallbackPod
from tests.router.rig.load import Load
from tests.router.rig.pod import ROUTER
from tests.router.test_routing import odd_keys

Pins = tuple[tuple[str, int], ...]
NAMES = ("a", "b", "c", "d")


def table(
    cells: Cells, *names: str, out: str = "", homes: str | None = None, pins: Pins = (), checked: str = ""
) -> Table:
    """A cell that is `checked` by a path is down where this process does not answer within a second; for the others
    the kernel takes the connection."""
    entries = tuple(
        Entry(
            name,
            cells[name].address,
            cells[name].port,
            check="/healthz" if name in checked.split() else "",
            out=name in out.split(),
        )
        for name in names
    )
    return Table(entries, homes, pins)


def bucket(key: bytes, count: int) -> int:
    return int.from_bytes(hashlib.md5(key, usedforsecurity=False).digest()[:4], "big") % count


def many_keys() -> list[bytes]:
    """Those that are odd, and so many plain ones that there are more than a thousand."""
    return [*odd_keys(), *(f"customer-{number}".encode() for number in range(900))]


async def land(port: int, key: bytes, **headers: bytes) -> tuple[int, str | None, str | None]:
    """Status, the cell that answered by its own word, and by the fallback's."""
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    answer = await ask(port, ("x-customer-id", key), ("X-Recell-Show", b"cell"), *more)
    return answer.status, answer.cell, answer.headers.get("x-recell-cell")


async def test_a_thousand_odd_keys_land_where_python_says() -> None:
    async with Cells(*NAMES) as cells, FallbackPod(table(cells, *NAMES)) as pod:
        keys = many_keys()
        assert len(keys) > 1000
        wrong = []
        for key in keys:
            expected = NAMES[bucket(key, len(NAMES))]
            if (found := await land(pod.port, key)) != (200, expected, expected):
                wrong.append((key, expected, found))
        assert not wrong


async def test_where_a_request_lands_is_shown_to_who_asks_and_to_nobody_else() -> None:
    async with Cells("a") as cells, FallbackPod(table(cells, "a")) as pod:
        plain = await ask(pod.port, ("x-customer-id", b"alice"))
        assert (plain.status, plain.headers["x-router"]) == (200, "fallback-0")
        assert "x-recell-cell" not in plain.headers


@pytest.mark.parametrize(
    "headers", [[], [("x-customer-id", b"  ")], [("x-customer-id", b"a"), ("x-customer-id", b"b")]]
)
async def test_a_key_that_cannot_be_told_is_refused_as_by_the_router_itself(headers: list[tuple[str, bytes]]) -> None:
    async with Cells("a") as cells, FallbackPod(table(cells, "a")) as pod:
        answer = await ask(pod.port, *headers)
        assert answer.status == 400
        assert answer.reason in ("no-customer-key", "ambiguous-customer-key")
        assert cells["a"].requests.total() - cells["a"].requests[""] == 0


async def test_a_cell_that_dies_or_hangs_moves_its_own_bucket_alone() -> None:
    async with Cells(*NAMES) as cells, FallbackPod(table(cells, *NAMES, checked="a b c d")) as pod:
        keys = [f"customer-{number}".encode() for number in range(60)]

        async def land_at(expected: Mapping[bytes, str | None]) -> None:
            """A cell that was slow to say that it is well may be away for a moment; none is for good."""

            async def so() -> bool:
                landed = {key: (await land(pod.port, key))[1] for key in keys}
                assert landed == expected
                return True

            await eventually(so, "everybody lands where expected", deadline=120)

        before: Mapping[bytes, str | None] = {key: NAMES[bucket(key, len(NAMES))] for key in keys}
        await land_at(before)
        for lost, ring in (("b", "c"), ("d", "a")):
            cell = cells[lost]
            if lost == "b":
                await cell.stop()
            else:
                cell.hung = True
            expected = {key: ring if name == lost else name for key, name in before.items()}
            await land_at(expected)
            if lost == "b":
                await cell.start()
            else:
                cell.hung = False
            await land_at(before)


async def test_a_cell_that_is_out_gets_nothing_and_the_others_keep_theirs() -> None:
    async with Cells(*NAMES) as cells, FallbackPod(table(cells, *NAMES, out="b c", checked="b c")) as pod:
        for number in range(80):
            key = f"customer-{number}".encode()
            own = NAMES[bucket(key, 4)]
            assert (await land(pod.port, key))[1] == {"b": "d", "c": "d"}.get(own, own)
        # Not even their health is asked for.
        assert cells["b"].total == cells["c"].total == 0


async def test_with_data_in_the_cells_everybody_is_served_at_home_or_not_at_all() -> None:
    homes = [0, 1, 2, REJECT] * 256
    pins = (("vip", 1), ("lost", 2), ("a;b", 0))
    async with (
        Cells("a", "b", "c") as cells,
        FallbackPod(table(cells, "a", "b", "c", out="c", homes=encode_table(homes), pins=pins)) as pod,
    ):
        for key in many_keys()[:200]:
            home = homes[bucket(key, 1024)]
            expected = {0: (200, "a"), 1: (200, "b")}.get(home, (503, None))
            assert (await land(pod.port, key))[:2] == expected, key
        assert (await land(pod.port, b"vip"))[1] == "b"
        assert (await land(pod.port, b"a;b"))[1] == "a"
        gone = await ask(pod.port, ("x-customer-id", b"lost"))
        assert (gone.status, gone.reason) == (503, "no-cell")
        assert 5 <= int(gone.headers["retry-after"]) <= 14
        # Its cell being down is no reason to send a customer to another one.
        await cells["b"].stop()
        assert (await land(pod.port, b"vip"))[:2] == (503, None)


async def test_clients_leave_by_themselves_and_the_primary_lets_them_go_when_told() -> None:
    """Both ways of a switch: the router closes with every answer, the fallback now and then, and nobody notices."""
    async with Cells("a", "b") as cells, PlacementApi() as api, RouterPod(api) as pod:
        primary = placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=1)
        api.put(primary)
        await pod.applied(1)
        stays = await ask_keeping(pod.port)
        assert "close" not in stays
        leaving = placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=2)
        leaving["spec"] |= {
            "mode": "Fallback",
            "fallback": {"order": ["a"], "holder": {"kind": "Person", "name": "ann"}, "since": "2026-11-26T03:00:00Z"},
        }
        api.put(leaving)
        await pod.applied(2)
        assert "close" in await ask_keeping(pod.port)
        api.put(placement(cells.placed(a=0, b=1), spread(1024, 0, 1), generation=3))
        await pod.applied(3)
        assert "close" not in await ask_keeping(pod.port)
        async with FallbackPod(table(cells, "a", "b")) as fallback, Load((fallback.port,), pause=0.0) as load:
            await eventually(lambda: len(load.answers) > 500, "500 answers")
        assert set(load.statuses) == {200}
        assert load.errors == []


async def ask_keeping(port: int) -> str:
    """The header Connection of an answer to a request that would stay."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/", headers={"x-customer-id": "alice"}) as answer,
    ):
        assert answer.status == 200
        return answer.headers.get("Connection", "")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, "cells: missing"),
        ({"cells": []}, "cells: 0"),
        ({"cells": [{"name": "a", "address": "10.0.0.1", "port": 80, "out": True}]}, "all of them are out"),
        ({"cells": [{"name": "a b", "address": "10.0.0.1", "port": 80}]}, "is not a name"),
        ({"cells": [{"name": "a", "address": "shop", "port": 80}]}, "cells[0]"),
        ({"cells": [{"name": "a", "address": "10.0.0.1", "port": 0}]}, "is not a port"),
        ({"cells": [{"name": "a", "address": "10.0.0.1", "port": 80, "check": "/a b"}]}, "is not a path"),
        ({"id": "x y", "cells": [{"name": "a", "address": "10.0.0.1", "port": 80}]}, "is not a word"),
    ],
)
def test_a_table_that_cannot_be_served_is_refused_with_the_field(document: Any, words: str, tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text(json.dumps(document))
    environment = {
        "PYTHONPATH": str(ROUTER), "NAMESPACE": "fleet", "ROUTER": "shop", "RUN_DIR": str(tmp_path),
        "TEMPLATE": str(ROUTER / "fallback.cfg"), "TABLE": str(tmp_path / "table.json"), "CUSTOMER_KEY_TYPE": "Host",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-S", "-m", "agent.fallback"], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert words in done.stderr


async def test_the_largest_table_is_served() -> None:
    async with Cells("cell-000") as cells:
        keys = many_keys()[:50]
        asked = {bucket(key, 819) for key in keys}
        # The others are down at once: one process could not answer the checks of so many cells in time.
        ports = [cells["cell-000"].port if number in asked else 1 for number in range(819)]
        entries = tuple(
            Entry(f"cell-{number:03}", "127.0.0.1", port, check="/healthz" if port == 1 else "")
            for number, port in enumerate(ports)
        )
        async with FallbackPod(Table(entries)) as pod:
            for key in keys:
                status, _, shown = await land(pod.port, key)
                assert (status, shown) == (200, f"cell-{bucket(key, 819):03}")
