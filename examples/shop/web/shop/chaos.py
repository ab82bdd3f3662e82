"""The command `shop-chaos`: orders faults at a cell's admin port, lists them, takes them back.

Exit codes: 0 done; 1 the shop refused, or could not be asked; 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence

_SECONDS = 70.0
_SPEC_FIELDS = ("until", "scope", "seconds", "percent", "ms", "status", "paths", "what")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    if options.action == "list":
        return _ask(options.admin, "GET")
    if options.action == "clear":
        return _ask(options.admin, "DELETE", path=f"/chaos/{options.id}" if options.id else "/chaos")
    spec = {name: getattr(options, name) for name in _SPEC_FIELDS if getattr(options, name, None) is not None}
    return _ask(options.admin, "POST", {"kind": options.action, **spec})


def _ask(admin: str, method: str, body: object = None, path: str = "/chaos") -> int:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(admin.rstrip("/") + path, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as response:
            print(response.read().decode())
            return 0
    except urllib.error.HTTPError as refused:
        with refused:
            print(f"shop-chaos: refused: {refused.read().decode()}", file=sys.stderr)
    except OSError as fault:
        print(f"shop-chaos: {admin} cannot be asked: {fault}", file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="shop-chaos", description="Make a cell of the shop fail, or stop it failing.")
    parser.add_argument(
        "--admin",
        default="http://127.0.0.1:8081",
        metavar="URL",
        help="a cell's admin port, e.g. http://cell-b-admin:8081",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="show the active faults")
    clear = actions.add_parser("clear", help="take back one fault, or all of them")
    clear.add_argument("id", nargs="?", help="the fault (default: all)")
    corrupt = actions.add_parser("corrupt", help="spoil orders, at once and for good")
    corrupt.add_argument("--what", choices=("amounts", "rows"), help="change amounts, or delete rows (default amounts)")
    corrupt.add_argument("--percent", type=float, help="how many of the orders (default 100)")
    for kind, text in (
        ("crash", "end the processes with an error"),
        ("hang", "take requests and do not answer them"),
        ("err", "answer requests with an error"),
        ("slow", "answer requests later"),
    ):
        _add_fault(actions.add_parser(kind, help=text), kind)
    return parser


def _add_fault(parser: argparse.ArgumentParser, kind: str) -> None:
    add = parser.add_argument
    add("--until", choices=("restart", "reset"), help="what ends it: a restart, or only `clear` (default restart)")
    add("--scope", choices=("cell", "pod"), help="all pods of the cell, or the one that is asked (default cell)")
    add("--seconds", type=float, help="ends it by itself after this time")
    if kind == "crash":
        return
    add("--paths", type=lambda text: text.split(","), metavar="PATH,...", help="default /orders,/customer,/probe")
    if kind != "hang":
        add("--percent", type=float, help="how many of the requests (default 100)")
    if kind == "err":
        add("--status", type=int, help="default 500")
    if kind == "slow":
        add("--ms", type=int, help="milliseconds (default 1000)")


if __name__ == "__main__":
    sys.exit(main())
