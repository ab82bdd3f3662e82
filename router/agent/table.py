"""A Placement as HAProxy has it: entries of its map, servers of its backends, and back. Pure.

A cell's index is never used twice, a backend has to be declared before HAProxy starts: so cells
borrow backends from a pool. The map names both (`17 b4:212`: slot 17 goes to backend b4, which is
the cell with index 212), and carries everything needed to write the configuration again, and to close
at its time what is open at a cell that serves nobody (`cell:212 4/blue/10.0.0.9/80/1795624241`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from .placement import MAX_CELLS, READ_ONLY, REJECT, Identity, Limit, Placement, Version

BACKENDS = 2 * MAX_CELLS
"""Twice the cells that a Placement may have: the old ones and the new ones fit in at the same time,
so no change whatever needs a reload. A backend that nobody uses has no server: 16 KiB and no time, where
a disabled server's check would wake HAProxy all the same (1,638 of them took a third of a core)."""
CHECK = "check inter 2s fastinter 500ms fall 3 rise 1"
"""Of every cell: a connection check, because what a cell calls healthy is for the operator to ask."""

_LIMIT = re.compile(r"^(\d{1,3})@(\d{1,12})$")
_CELL = re.compile(r"^(\d+)/([^/]+)/([^/]+)/(\d+)(?:/(\d+))?$")


@dataclass(frozen=True)
class Server:
    """A cell in the backend that it borrows."""

    backend: int
    name: str
    address: str
    port: int

    @property
    def where(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Held:
    """What a map says that it holds."""

    identity: Identity | None = None
    servers: Mapping[int, Server] = field(default_factory=dict)
    """By index of the cell."""
    limits: tuple[Limit, ...] = ()
    closing: Mapping[int, int] = field(default_factory=dict)
    """By index of the cell, the second since 1970 from which its connections are closed."""


def assign(placement: Placement, held: Held, last: int) -> dict[int, Server]:
    """A backend for each cell: the one it has, else the next free one after `last`.

    A cell at another address gets another backend: customers' connections may still hold on to the old
    one. For the same reason the backend that was given back last is the last to be given away.
    """
    used = {server.backend for server in held.servers.values()}
    free = (b for b in (*range(last + 1, BACKENDS), *range(last + 1)) if b not in used)
    servers = {}
    for cell in placement.cells:
        old = held.servers.get(cell.index)
        stays = old is not None and (old.address, old.port) == (cell.address, cell.port)
        backend = old.backend if old is not None and stays else next(free)
        servers[cell.index] = Server(backend, cell.name, cell.address, cell.port)
    return servers


def entries(placement: Placement, servers: Mapping[int, Server], closing: Mapping[int, int]) -> list[tuple[str, str]]:
    """Key and value of every entry of the map."""

    def to(target: int) -> str:
        if target == REJECT:
            return "reject"
        index = target & ~READ_ONLY
        return f"b{servers[index].backend}:{index}" + (":ro" if target & READ_ONLY else "")

    def borrows(index: int, server: Server) -> str:
        told = f"{server.backend}/{server.name}/{server.address}/{server.port}"
        return f"{told}/{closing[index]}" if index in closing else told

    who = placement.identity
    result = [(str(slot), to(target)) for slot, target in enumerate(placement.serving)]
    result += [(f"pin:{customer}", to(target)) for customer, target in placement.pins]
    result += [(f"cell:{index}", borrows(index, server)) for index, server in servers.items()]
    result += [(limit.key, f"{limit.percent}@{limit.until}") for limit in placement.limits]
    result += [("mode", "fallback" if placement.leaving else "primary")]
    result += [("slots", str(placement.slots)), ("uid", who.uid)]
    result += [("epoch", str(who.version.epoch)), ("generation", str(who.version.generation))]
    return result


FEW = 32
"""Entries that are changed in place. HAProxy 2.6 looks for each from the start of the map: 0.25 ms with 16,384
slots, where a transaction takes 45 ms however little changes."""


def few_changes(known: Mapping[str, str], wanted: Mapping[str, str]) -> list[tuple[str, str]] | None:
    """What differs, in the order of `wanted`, which has the identity last; None: too much, or not by values alone.

    Never a pin: customers' keys may hold what is a separator to HAProxy's command line.
    """
    if known.keys() != wanted.keys():
        return None
    changes = [(key, value) for key, value in wanted.items() if known[key] != value]
    return None if len(changes) > FEW or any(key.startswith("pin:") for key, _ in changes) else changes


def held(lines: Iterable[tuple[str, str]]) -> Held:
    """What a map holds; an entry that this agent would not write is passed over."""
    values: dict[str, str] = {}
    servers: dict[int, Server] = {}
    closing: dict[int, int] = {}
    limits: list[Limit] = []
    for key, value in lines:
        if key in ("uid", "epoch", "generation"):
            values[key] = value
        elif key.startswith("cell:") and (match := _CELL.match(value)) and key[5:].isdecimal():
            backend, name, address, port, second = match.groups()
            if int(backend) < BACKENDS:
                servers[int(key[5:])] = Server(int(backend), name, address, int(port))
                closing |= {int(key[5:]): int(second)} if second else {}
        elif key.startswith(("shed:", "circuit:")) and (match := _LIMIT.match(value)):
            limits.append(Limit(key, int(match.group(1)), int(match.group(2))))
    if not values.get("uid") or not all(values.get(name, "").isdecimal() for name in ("epoch", "generation")):
        return Held(None, servers, tuple(limits), closing)
    who = Identity(values["uid"], Version(int(values["epoch"]), int(values["generation"])))
    return Held(who, servers, tuple(limits), closing)


def in_force(limits: Iterable[Limit], prefix: str, now: float) -> dict[str, int]:
    """What is limited now, without the prefix of its key, and by how many percent."""
    return {
        item.key.removeprefix(prefix): item.percent
        for item in limits
        if item.key.startswith(prefix) and item.until > now
    }


def map_text(lines: Iterable[tuple[str, str]]) -> str:
    return "".join(f"{key} {value}\n" for key, value in lines)


def parse_map(text: str) -> list[tuple[str, str]]:
    """Entries of a map file; of `show map` after its first word."""
    pairs = (line.split(" ", 1) for line in text.splitlines() if " " in line)
    return [(key, value) for key, value in pairs]


def backends(servers: Mapping[int, Server]) -> str:
    """The pool as it stands in the configuration, so that a restarted HAProxy has the cells at once."""
    taken = {server.backend: server for server in servers.values()}
    lines = []
    for number in range(BACKENDS):
        server = taken.get(number)
        lines.append(f"backend b{number} from cell\n" + (f"  server s {server.where} {CHECK}\n" if server else ""))
    return "".join(lines)
