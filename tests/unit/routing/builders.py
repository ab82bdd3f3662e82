"""Routers, Placements and reports of pods, as the tests of routing need them."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from recell.api import Placement, Router
from tests.router.rig.placements import placement

START = datetime(2026, 1, 1, tzinfo=UTC)
BOUNDS = [0.1, 1.0]


def router(name: str = "shop", **haproxy: Any) -> Router:
    block = {"customerKey": {"type": "Header", "name": "x-customer-id"}} | haproxy
    return Router.model_validate(
        {
            "metadata": {"name": name, "namespace": "fleet", "uid": "router-uid"},
            "spec": {"type": "HAProxy", "customerData": "Shared", "haproxy": block},
        }
    )


def placed(*names: str, generation: int = 1, epoch: int = 1) -> Placement:
    cells = {name: (index, f"10.0.0.{index + 1}", 80) for index, name in enumerate(names)}
    table = [slot % len(names) for slot in range(1024)]
    return Placement.model_validate(placement(cells, table, generation=generation, epoch=epoch))


def cell(requests: int = 0, failures: int = 0, in_flight: int = 0, check: str = "up", slow: int = 0) -> dict[str, Any]:
    """`slow` of the answers took longer than the first bound, but not than the second."""
    latency = [requests - slow, requests, requests]
    return {"requests": requests, "failures": failures, "inFlight": in_flight, "latency": latency, "check": check}


def line(
    cells: Mapping[int, Mapping[str, Any]],
    *,
    applied: tuple[int, int] | None = (1, 1),
    uid: str = "placement-1",
    instance: str = "p1",
    age: float = 600.0,
    rejected: int | None = 0,
    **more: Any,
) -> bytes:
    """A line of `/watch`."""
    at = 1_800_000_000.0
    told = {
        "at": at,
        "placement": {"uid": uid, "epoch": applied[0], "generation": applied[1], "appliedAt": at} if applied else None,
        "refused": None,
        "source": {"state": "Synced", "message": ""},
        "error": "",
        "haproxy": {"instance": instance, "pid": 1, "startedAt": at - age} if instance else None,
        "rejected": rejected,
        "bounds": BOUNDS,
        "cells": {str(index): cell for index, cell in cells.items()},
    }
    return orjson.dumps(told | more)


class ManualClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds
