"""What the agent tells: `/watch` to the operator, `/metrics` to Prometheus, `/healthz` to the kubelet.

`/watch` is a chunked answer of JSON lines: one at once, one after every change of what is applied,
refused or running, and one per second with the counters. HAProxy is asked once per second for all
who listen, and not at all when nobody does.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import asdict, dataclass

from .applier import Applier, State
from .figures import BOUNDS, TABLES, Figures, read
from .runtime_socket import SocketError
from .settings import Settings
from .table import in_force

INTERVAL = 1.0
READ_WITHIN = 5.0
WRITE_WITHIN = 10.0


@dataclass(frozen=True)
class Source:
    """What is known of the object itself."""

    state: str = "Away"
    """Synced, Missing or Away (the API server cannot be read)."""
    message: str = "not read yet"


class Server:
    def __init__(self, settings: Settings, now: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._now = now
        self._applier: Applier | None = None
        self._changed = asyncio.Condition()
        self._revision = 0
        self._sample: tuple[int, float, Figures] | None = None
        """Revision, time and figures."""
        self._sampling = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.source = Source()

    def show(self, applier: Applier) -> None:
        """From here on this is what is told."""
        self._applier = applier

    def set_source(self, source: Source) -> None:
        if source != self.source:
            self.source = source
            self.changed()

    def changed(self) -> None:
        """Something that listeners want to know at once."""
        self._begin(self._tell())

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._begin(self._serve(reader, writer))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def listen(self, bind: str) -> asyncio.Server:
        """`[address]:port`; without an address on all. Raises OSError."""
        host, _, port = bind.rpartition(":")
        return await asyncio.start_server(self._accept, host.strip("[]") or None, int(port))

    async def _tell(self) -> None:
        async with self._changed:
            self._revision += 1
            self._changed.notify_all()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(READ_WITHIN):
                words = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
            path = words[1].decode() if len(words) > 1 else ""
            if path == "/watch":
                await self._watch(writer)
            elif path == "/metrics":
                await _answer(writer, "200 OK", "text/plain; version=0.0.4", await self._metrics())
            elif path == "/healthz":
                await _answer(writer, "200 OK", "text/plain", "alive\n")
            else:
                await _answer(writer, "404 Not Found", "text/plain", "/watch, /metrics, /healthz\n")
        except (OSError, TimeoutError, ValueError):
            pass  # The other side went away, or spoke something else.
        finally:
            writer.close()

    async def _watch(self, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nTransfer-Encoding: chunked\r\n"
            b"Connection: close\r\n\r\n"
        )
        while True:
            told = self._revision
            line = json.dumps(await self._report(), separators=(",", ":")).encode() + b"\n"
            writer.write(b"%x\r\n%s\r\n" % (len(line), line))
            async with asyncio.timeout(WRITE_WITHIN):
                await writer.drain()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._revised(told)

    async def _revised(self, told: int) -> None:
        async with self._changed:
            while self._revision == told:
                await self._changed.wait()

    async def _figures(self, state: State) -> Figures | None:
        """At most one interval old and not from before the last change, the same for all who ask.

        None while HAProxy does not answer.
        """
        if self._applier is None or state.process is None:
            return None
        async with self._sampling:
            if self._sample and self._sample[0] == self._revision and self._now() - self._sample[1] < 0.9 * INTERVAL:
                return self._sample[2]
            revision, at = self._revision, self._now()
            try:
                tables = await self._applier.socket.ask(*TABLES)
                running = await self._applier.socket.servers()
            except SocketError:
                return None
            figures = read(tables, running, state.servers or {}, self._settings.breaker)
            self._sample = (revision, at, figures)
            return figures

    async def _report(self) -> dict[str, object]:
        state = self._applier.state if self._applier else State()
        figures = await self._figures(state)
        process, applied = state.process, state.applied
        return {
            "at": round(self._now(), 3),
            "placement": {
                "uid": applied.uid,
                "epoch": applied.version.epoch,
                "generation": applied.version.generation,
                "appliedAt": state.applied_at,
            }
            if applied
            else None,
            "refused": asdict(state.refusal) if state.refusal else None,
            "source": asdict(self.source),
            "error": state.error,
            "haproxy": {"instance": process.instance, "pid": process.pid, "startedAt": process.started_at}
            if process
            else None,
            "rejected": figures.rejected if figures else None,
            "turnedAway": figures.reasons if figures else {},
            "classes": {name: asdict(c) for name, c in (figures.classes.items() if figures else ())},
            "shedding": in_force(state.limits, "shed:", self._now()),
            "openCircuits": in_force(state.limits, "circuit:", self._now()),
            "bounds": BOUNDS,
            "cells": {
                str(index): {
                    "requests": cell.requests,
                    "failures": cell.failures,
                    "inFlight": cell.in_flight,
                    "latency": cell.latency,
                    "check": cell.check,
                    "breaker": "Tripped" if cell.tripped else "Closed",
                }
                for index, cell in (figures.cells.items() if figures else ())
            },
        }

    async def _metrics(self) -> str:
        state = self._applier.state if self._applier else State()
        figures = await self._figures(state) or Figures()
        applied = state.applied.version if state.applied else None
        out: list[str] = []

        def metric(name: str, kind: str, text: str, *values: tuple[str, float]) -> None:
            out.extend((f"# HELP recell_router_{name} {text}", f"# TYPE recell_router_{name} {kind}"))
            out.extend(f"recell_router_{name}{labels} {_number(value)}" for labels, value in values)

        names = {index: server.name for index, server in (state.servers or {}).items()}
        cells = [(f'cell="{names[index]}"', cell) for index, cell in figures.cells.items() if index in names]
        metric("haproxy_up", "gauge", "1 while HAProxy runs.", ("", float(state.process is not None)))
        metric("placement_generation", "gauge", "Generation applied.", ("", applied.generation if applied else 0))
        metric("placement_epoch", "gauge", "Epoch applied.", ("", applied.epoch if applied else 0))
        metric("placement_refused", "gauge", "1 while the newest is refused.", ("", float(state.refusal is not None)))
        metric("placement_synced", "gauge", "1 while it can be read.", ("", float(self.source.state == "Synced")))
        metric("placement_applies_total", "counter", "Placements applied.", ("", state.applies))
        metric("placement_apply_seconds", "gauge", "Duration of the last apply.", ("", round(state.took, 6)))
        metric("rejected_total", "counter", "Requests turned away with 503.", ("", figures.rejected))
        metric(
            "turned_away_total",
            "counter",
            "Requests turned away with 503, by reason.",
            *((f'{{reason="{reason}"}}', count) for reason, count in figures.reasons.items()),
        )
        classes = [(f'class="{name}"', told) for name, told in figures.classes.items()]
        metric("class_requests_total", "counter", "Requests.", *((f"{{{k}}}", c.requests) for k, c in classes))
        metric("class_shed_total", "counter", "Requests that were shed.", *((f"{{{k}}}", c.shed) for k, c in classes))
        metric(
            "class_failures_total",
            "counter",
            "Requests that ended with 500 and above and were not shed.",
            *((f"{{{k}}}", c.failures) for k, c in classes),
        )
        shed = in_force(state.limits, "shed:", self._now())
        metric("class_shed_percent", "gauge", "Shed now.", *((f'{{class="{k}"}}', p) for k, p in shed.items()))
        metric("cell_requests_total", "counter", "Requests that ended.", *((f"{{{k}}}", c.requests) for k, c in cells))
        metric(
            "cell_failures_total",
            "counter",
            "Requests that ended with 500 and above or without an answer.",
            *((f"{{{k}}}", c.failures) for k, c in cells),
        )
        metric("cell_in_flight", "gauge", "Requests that wait.", *((f"{{{k}}}", c.in_flight) for k, c in cells))
        metric(
            "cell_up", "gauge", "0 while its check fails.", *((f"{{{k}}}", float(c.check != "down")) for k, c in cells)
        )
        metric(
            "cell_breaker_tripped",
            "gauge",
            "1 while the router turns requests away because too many fail.",
            *((f"{{{k}}}", float(c.tripped)) for k, c in cells),
        )
        opened = in_force(state.limits, "circuit:", self._now())
        metric(
            "cell_circuit_open_percent",
            "gauge",
            "Requests turned away because a run opened the circuit.",
            *((f'{{cell="{names[index]}"}}', opened.get(str(index), 0)) for index in figures.cells if index in names),
        )
        bounds = [f"{bound:g}" for bound in BOUNDS] + ["+Inf"]
        metric("cell_answer_seconds", "histogram", "Time until the cell's answer.")
        for labels, cell in cells:
            out.extend(
                f'recell_router_cell_answer_seconds_bucket{{{labels},le="{bound}"}} {count}'
                for bound, count in zip(bounds, cell.latency, strict=True)
            )
            out.append(f"recell_router_cell_answer_seconds_count{{{labels}}} {cell.latency[-1]}")
        return "\n".join(out) + "\n"


async def _answer(writer: asyncio.StreamWriter, status: str, kind: str, text: str) -> None:
    body = text.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write(head.encode() + body)
    async with asyncio.timeout(WRITE_WITHIN):
        await writer.drain()


def _number(value: float) -> str:
    """Counters whole, however large; other figures to the microsecond."""
    return str(int(value)) if value == int(value) else f"{value:.6f}"
