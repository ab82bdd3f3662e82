"""The command `shop-load`: send customers' requests, or verify that acknowledged orders are there.

Exit codes: 0 all is well; 1 customers saw trouble, or acknowledged orders are missing; 2 wrong usage; 3 the shop
could not be asked. Ctrl-C and SIGTERM end a run early, with its summary.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from shop_load.acknowledged import Acknowledged, BadOrdersFile, open_memory, read_orders
from shop_load.customers import DEFAULT_SLOTS, UNKNOWN_HOME, Customer, Seen, make_customers, seen_by_home
from shop_load.display import HEADER, Letters, second_line, summary_lines
from shop_load.tally import Tally
from shop_load.traffic import Plan, Traffic
from shop_load.verify import Findings, verify

_HEADER_EVERY = 20
_NAMED_AT_MOST = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["verify"]:
        return _verify_command(_verify_parser().parse_args(words[1:]))
    return _run_command(_run_parser().parse_args(words))


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What trouble is expected: any for customers of `cells`, else `percent` of the requests."""

    cells: frozenset[str]
    percent: float


def find_problems(
    tally: Tally, homes: dict[str, Seen], cells_expected: frozenset[str], tolerance: Tolerance
) -> list[str]:
    """What customers saw that they should not have seen."""
    if not tally.cells:
        return ["no cell answered anything"]
    problems = []
    for home, seen in homes.items():
        if home in tolerance.cells:
            continue
        whose = "customers whom no cell ever answered" if home == UNKNOWN_HOME else f"customers of {home}"
        if seen.errors * 100 > seen.requests * tolerance.percent:
            problems.append(f"{whose} saw {seen.errors} errors in {seen.requests} requests")
        if seen.wrong * 100 > seen.requests * tolerance.percent:
            problems.append(f"{whose} were answered by a wrong cell {seen.wrong} times")
    problems += [f"{cell} answered nothing" for cell in sorted(cells_expected - tally.cells.keys() - tolerance.cells)]
    return problems


class Output:
    """Where results go: text or JSON lines on standard output, and JSON lines in a file if one is given."""

    def __init__(self, json_lines: bool, file: IO[str] | None = None) -> None:
        self._json_lines = json_lines
        self._file = file

    def record(self, record: dict[str, object]) -> None:
        """A result for programs."""
        line = json.dumps(record)
        if self._json_lines:
            print(line, flush=True)
        if self._file is not None:
            print(line, file=self._file, flush=True)

    def show(self, *lines: str) -> None:
        """Lines for people."""
        if not self._json_lines:
            for line in lines:
                print(line, flush=True)


def _run_command(options: argparse.Namespace) -> int:
    customers = make_customers(options.customers, options.prefix, options.slots)
    plan = Plan(
        target=options.target,
        rate=options.rate,
        duration=options.duration,
        timeout=options.timeout,
        write_share=options.write_share,
        in_flight=options.in_flight,
        keepalive=options.keepalive,
        cells_expected=options.cells_expected,
        seed=options.seed,
    )
    with ExitStack() as files:
        try:
            memory = files.enter_context(open_memory(options.verify, options.orders_file))
            json_file = options.json_file and files.enter_context(options.json_file.open("w", encoding="utf-8"))
        except OSError as wrong:
            print(f"shop-load: {wrong.filename}: {wrong.strerror}", file=sys.stderr)
            return 2
        output = Output(options.json, json_file)
        traffic = Traffic(plan, customers, memory, _second_reporter(output))
        asyncio.run(_until_over_or_told(traffic))
        tolerance = Tolerance(options.tolerate, options.tolerate_percent)
        problems = _summarise(traffic.total, customers, memory.count, options.slots, plan, tolerance, output)
        if options.customers_file:
            _write_customers(options.customers_file, customers)
        verified = _verify_and_report(plan.target, plan.timeout, memory.orders, output) if options.verify else 0
    if not traffic.total.cells:
        return 3
    return max(1 if problems else 0, verified)


def _summarise(
    total: Tally,
    customers: Sequence[Customer],
    acknowledged: int,
    slots: int,
    plan: Plan,
    tolerance: Tolerance,
    output: Output,
) -> list[str]:
    homes = seen_by_home(customer for customer in customers if customer.seen.requests)
    problems = find_problems(total, homes, plan.cells_expected, tolerance)
    slots_covered = len({customer.slot for customer in customers})
    output.record(
        {
            "type": "summary",
            "time": _time(datetime.now(UTC)),
            **total.described(),
            "homes": {home: seen.described() for home, seen in homes.items()},
            "acknowledged": acknowledged,
            "slotsCovered": slots_covered,
            "problems": problems,
        }
    )
    output.show(*summary_lines(total, homes, acknowledged, slots_covered, slots, problems))
    return problems


async def _until_over_or_told(traffic: Traffic) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, traffic.stop)
    await traffic.run()


def _second_reporter(output: Output) -> Callable[[int, Tally], None]:
    letters = Letters()

    def report(number: int, tally: Tally) -> None:
        now = datetime.now(UTC)
        output.record({"type": "second", "time": _time(now), "second": number, **tally.described()})
        if not letters.known(tally.cells):
            for cell in sorted(tally.cells):
                letters.of(cell)
            output.show(letters.legend())
        if number % _HEADER_EVERY == 1:
            output.show(HEADER)
        output.show(second_line(now.strftime("%H:%M:%S"), tally, letters))

    return report


def _verify_command(options: argparse.Namespace) -> int:
    try:
        orders = read_orders(options.orders_file)
    except OSError as wrong:
        print(f"shop-load: {options.orders_file}: {wrong.strerror}", file=sys.stderr)
        return 2
    except BadOrdersFile as wrong:
        print(f"shop-load: {wrong}", file=sys.stderr)
        return 2
    return _verify_and_report(options.target, options.timeout, orders, Output(options.json))


def _verify_and_report(target: str, timeout: float, orders: list[Acknowledged], output: Output) -> int:
    findings = asyncio.run(verify(target, orders, timeout))
    output.record({"type": "verification", "time": _time(datetime.now(UTC)), **findings.described()})
    output.show(*_finding_lines(findings))
    if findings.missing or findings.altered:
        return 1
    return 3 if findings.unreadable else 0


def _finding_lines(findings: Findings) -> list[str]:
    lines = [
        f"verified {findings.checked} acknowledged orders of {findings.customers} customers: "
        f"{len(findings.missing)} missing, {len(findings.altered)} altered"
    ]
    between = findings.missing_between()
    if between is not None:
        lines.append(f"missing: {len(findings.missing)} orders, acknowledged from {between[0]} to {between[1]}")
    for what, orders in (("missing", findings.missing), ("altered", findings.altered)):
        lines += [
            f"{what}: {order.order} of {order.customer}, acknowledged by {order.cell} at {order.at}"
            for order in orders[:_NAMED_AT_MOST]
        ]
        if len(orders) > _NAMED_AT_MOST:
            lines.append(f"{what}: and {len(orders) - _NAMED_AT_MOST} more")
    if findings.unreadable:
        customer, why = next(iter(findings.unreadable.items()))
        lines.append(f"not verified: {len(findings.unreadable)} customers, for example {customer} ({why})")
    return lines


def _write_customers(path: Path, customers: Sequence[Customer]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for customer in customers:
            record = {
                "customer": customer.key,
                "slot": customer.slot,
                "home": customer.home,
                "cell": customer.cell,
                "acknowledged": customer.acknowledged,
                **customer.seen.described(),
            }
            file.write(json.dumps(record) + "\n")


def _run_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shop-load",
        description="Send the requests of many customers and report each second what they saw. "
        "`shop-load verify --help` tells how to check acknowledged orders afterwards.",
    )
    _add_common(parser)
    add = parser.add_argument
    add("--customers", type=_whole(1, 1_000_000), default=1000, metavar="N", help="how many there are (default 1000)")
    add("--rate", type=_real(0.1, 5000), default=100.0, metavar="R", help="requests a second (default 100)")
    add("--duration", type=_real(0.1, 86_400), required=True, metavar="S", help="seconds")
    add("--prefix", default="customer-", help="what customers' keys begin with (default customer-)")
    add("--slots", type=_whole(1, 65_536), default=DEFAULT_SLOTS, help="slots of the router (default 1024)")
    add(
        "--write-share",
        type=_real(0, 100),
        default=30.0,
        metavar="PERCENT",
        help="how many of the requests place orders",
    )
    add(
        "--in-flight",
        type=_whole(1, 10_000),
        default=1000,
        metavar="N",
        help="requests under way at most (default 1000)",
    )
    add("--keepalive", action=argparse.BooleanOptionalAction, default=True, help="use connections again (default yes)")
    add("--seed", type=int, default=1, help="of the order in which customers come (default 1)")
    add(
        "--cells-expected",
        type=_names,
        default=frozenset(),
        metavar="CELL,...",
        help="cells that may and should answer",
    )
    add(
        "--tolerate", type=_names, default=frozenset(), metavar="CELL,...", help="cells whose customers may see trouble"
    )
    add(
        "--tolerate-percent",
        type=_real(0, 100),
        default=0.0,
        metavar="P",
        help="trouble that others may see (default 0)",
    )
    add("--json-file", type=Path, metavar="FILE", help="write the JSON lines to a file as well")
    add("--orders-file", type=Path, metavar="FILE", help="append each acknowledged order to this file")
    add("--customers-file", type=Path, metavar="FILE", help="write in the end what each customer saw, as JSON lines")
    add("--verify", action="store_true", help="in the end, look for every order that was acknowledged in this run")
    return parser


def _verify_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="shop-load verify", description="Check that each acknowledged order is there and unaltered."
    )
    _add_common(parser)
    parser.add_argument("--orders-file", type=Path, required=True, metavar="FILE", help="written by a run")
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", type=_url, required=True, metavar="URL", help="where customers go, for example http://shop-router")
    add("--timeout", type=_real(0.05, 300), default=5.0, metavar="S", help="for one request (default 5)")
    add("--json", action="store_true", help="print JSON lines instead of text")


def _url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL: it must begin with http:// or https://")
    return text.rstrip("/")


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def _real(least: float, most: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number from {least:g} to {most:g}")
        return value

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)

    return parse


def _time(now: datetime) -> str:
    return now.isoformat(timespec="milliseconds")
