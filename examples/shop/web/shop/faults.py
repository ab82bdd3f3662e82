"""Faults that the shop can be told to have: what they are, which are active, what they do to a request.

Promises: a fault is described completely by its `Fault` value; a wrong description is refused with a message that
names the field. A fault touches only the paths that it names. Nothing here reads or writes the database:
`faults_store` keeps the durable ones and hands them over.

How long a fault lasts:
- `until: restart`: a process that started after the fault was ordered does not have it, so a restart heals it;
- `until: reset`: it lasts until it is taken back or its time is over, whatever is restarted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, cast, get_args

Kind = Literal["crash", "hang", "err", "slow"]
Until = Literal["restart", "reset"]
Scope = Literal["cell", "pod"]

CUSTOMER_PATHS = ("/orders", "/customer", "/probe")
ALL_PATHS = (*CUSTOMER_PATHS, "/readyz", "/healthz", "/integrity")
MAX_MILLISECONDS = 60_000
MAX_SECONDS = 86_400

# The fields that each kind understands, beside those that all of them have.
_COMMON_FIELDS = ("kind", "until", "scope", "seconds")
_KIND_FIELDS: dict[str, tuple[str, ...]] = {
    "crash": (),
    "hang": ("paths",),
    "err": ("paths", "percent", "status"),
    "slow": ("paths", "percent", "ms"),
}


class BadFault(Exception):
    """A fault was described wrongly; the message names the field and what is expected there."""


@dataclass(frozen=True, slots=True)
class FaultSpec:
    """What was ordered. `percent` is the share of requests hit, `ms` a delay, `seconds` the life (None: no limit)."""

    kind: Kind
    until: Until = "restart"
    scope: Scope = "cell"
    seconds: float | None = None
    percent: float = 100.0
    ms: int = 1000
    status: int = 500
    paths: tuple[str, ...] = CUSTOMER_PATHS


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that is active in this process. `ends_at` is on the event loop's clock (None: no limit)."""

    id: str
    spec: FaultSpec
    ends_at: float | None = None


def parse_spec(data: object) -> FaultSpec:
    """Check the JSON object that describes a fault; raises BadFault."""
    if not isinstance(data, dict):
        raise BadFault('expected a JSON object, for example {"kind": "err", "percent": 50}')
    kind = cast(Kind, _choice(data, "kind", get_args(Kind), None))
    allowed = (*_COMMON_FIELDS, *_KIND_FIELDS[kind])
    for name in data:
        if name not in allowed:
            raise BadFault(f"{name}: not a field of a fault of kind {kind}; it has {', '.join(allowed)}")
    until = cast(Until, _choice(data, "until", get_args(Until), "restart"))
    scope = cast(Scope, _choice(data, "scope", get_args(Scope), "cell"))
    if scope == "pod" and until == "reset":
        raise BadFault("until: a fault of one pod ends with that pod; one that outlives restarts has scope cell")
    return FaultSpec(
        kind=kind,
        until=until,
        scope=scope,
        seconds=None if data.get("seconds") is None else _number(data, "seconds", 0.1, MAX_SECONDS, 0),
        percent=_number(data, "percent", 0.01, 100, 100),
        ms=int(_number(data, "ms", 0, MAX_MILLISECONDS, 1000)),
        status=int(_number(data, "status", 400, 599, 500)),
        paths=_paths(data),
    )


def describe_spec(spec: FaultSpec) -> dict[str, object]:
    """The JSON object that `parse_spec` reads back as the same value."""
    described: dict[str, object] = {"kind": spec.kind, "until": spec.until, "scope": spec.scope}
    if spec.seconds is not None:
        described["seconds"] = spec.seconds
    for name in _KIND_FIELDS[spec.kind]:
        value = getattr(spec, name)
        described[name] = list(value) if isinstance(value, tuple) else value
    return described


@dataclass(frozen=True, slots=True)
class Refusal:
    """The request is to be answered with this status instead of being served."""

    fault: str
    status: int


class Faults:
    """The faults of this process: those of the pod, ordered here, and those of the cell, as last read."""

    def __init__(self, chance: random.Random, exit_process: Callable[[str], None]) -> None:
        self._chance = chance
        self._exit_process = exit_process
        self._of_pod: dict[str, Fault] = {}
        self._of_cell: dict[str, Fault] = {}
        self._changed = asyncio.Event()

    def add_to_pod(self, fault: Fault) -> None:
        """Take a fault that lives in this process's memory alone."""
        self._of_pod[fault.id] = fault
        self._wake()

    def set_of_cell(self, faults: Iterable[Fault]) -> None:
        """Replace what is known of the cell's faults by what was just read."""
        now_known = {fault.id: fault for fault in faults}
        if now_known.keys() != self._of_cell.keys():
            self._wake()
        self._of_cell = now_known

    def remove(self, fault_id: str | None) -> int:
        """Forget one fault, or all of them (None); returns how many were known here."""
        removed = 0
        for known in (self._of_pod, self._of_cell):
            for one in [fault_id] if fault_id is not None else list(known):
                removed += known.pop(one, None) is not None
        self._wake()
        return removed

    def active(self) -> list[Fault]:
        """The faults whose time is not over."""
        now = asyncio.get_running_loop().time()
        known = [*self._of_pod.values(), *self._of_cell.values()]
        return [fault for fault in known if fault.ends_at is None or fault.ends_at > now]

    def crash_if_ordered(self) -> None:
        """End the process if an active fault says so. Called regularly, never while an answer is being written."""
        for fault in self.active():
            if fault.spec.kind == "crash":
                self._exit_process(fault.id)

    async def strike(self, path: str) -> Refusal | None:
        """Do to a request for `path` what the active faults say: delay it, hold it, refuse it (returned)."""
        for fault in self.active():
            spec = fault.spec
            if path not in spec.paths or not self._hits(spec.percent):
                continue
            if spec.kind == "slow":
                await asyncio.sleep(spec.ms / 1000)
            elif spec.kind == "hang":
                await self._until_gone(fault.id)
            elif spec.kind == "err":
                return Refusal(fault.id, spec.status)
        return None

    def _hits(self, percent: float) -> bool:
        return percent >= 100 or self._chance.random() * 100 < percent

    async def _until_gone(self, fault_id: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            found = next((fault for fault in self.active() if fault.id == fault_id), None)
            if found is None:
                return
            changed = self._changed
            try:
                async with asyncio.timeout(None if found.ends_at is None else found.ends_at - loop.time()):
                    await changed.wait()
            except TimeoutError:
                return

    def _wake(self) -> None:
        # Each waiter holds the event that it started with; a new one serves those who come later.
        self._changed.set()
        self._changed = asyncio.Event()


def _choice(data: dict[str, object], name: str, choices: tuple[str, ...], default: str | None) -> str:
    value = data.get(name, default)
    if not isinstance(value, str) or value not in choices:
        raise BadFault(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return value


def _number(data: dict[str, object], name: str, least: float, most: float, default: float) -> float:
    value = data.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise BadFault(f"{name}: expected a number from {least:g} to {most:g}, got {value!r}")
    return value


def _paths(data: dict[str, object]) -> tuple[str, ...]:
    value = data.get("paths", list(CUSTOMER_PATHS))
    if not isinstance(value, list) or not value:
        raise BadFault(f"paths: expected a list of some of {', '.join(ALL_PATHS)}")
    for path in value:
        if path not in ALL_PATHS:
            raise BadFault(f"paths: {path!r} is none of {', '.join(ALL_PATHS)}")
    return tuple(value)
