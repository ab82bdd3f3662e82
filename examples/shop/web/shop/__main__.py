"""Starts one cell's web app: `python -m shop`. Settings come from the environment (see `settings`)."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from shop.server import serve
from shop.settings import BadSettings, read_settings


def main() -> int:
    """Serve until told to end; 2 if the settings are wrong."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stdout)
    try:
        settings = read_settings(os.environ)
    except BadSettings as wrong:
        print(f"shop: {wrong}", file=sys.stderr)
        return 2
    asyncio.run(serve(settings))
    return 0


if __name__ == "__main__":
    sys.exit(main())
