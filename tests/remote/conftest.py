"""The two clusters, which are there for these tests only (RECELL_KEEP_CLUSTERS=1 leaves them for a look)."""

import os
import sys
from collections.abc import Iterator

import pytest

from tests.remote.stage import Clusters


@pytest.fixture(scope="session")
def clusters() -> Iterator[Clusters]:
    made = Clusters(say=lambda what: print(f"stage: {what}", file=sys.__stderr__))
    try:
        made.up()
        made.open()
        yield made
    finally:
        if not os.environ.get("RECELL_KEEP_CLUSTERS"):
            made.down()
