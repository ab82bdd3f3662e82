"""Starts the load generator: `python -m shop_load`."""

from __future__ import annotations

import sys

from shop_load.cli import main

if __name__ == "__main__":
    sys.exit(main())
