"""The command `shop-data`: one operation on order of the environment, or `shop-data keep-backups` beside a database.

Exit codes: 0 the result is in the termination message; 1 the operation failed, and the message there says why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shop_data import backups, operations, report
from shop_data.archive import Archive
from shop_data.failure import OperationFailed
from shop_data.request import read_request
from shop_data.server import Server


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    if arguments == ["keep-backups"]:
        cell, url = os.environ["SHOP_CELL"], os.environ["SHOP_ARCHIVE_URL"]
        backups.keep(Server(f"the database of {cell}", os.environ["PGHOST"]), Archive(url), cell)
    if arguments:
        print("usage: shop-data (variables: see shop_data/request.py), or shop-data keep-backups", file=sys.stderr)
        return 2
    result_file = Path(os.environ.get("SHOP_RESULT_FILE", "/dev/termination-log"))
    try:
        report.write_result(result_file, operations.run(read_request(os.environ)))
    except OperationFailed as why:
        report.say(f"failed: {why}")
        report.write_result(result_file, {"message": str(why)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
