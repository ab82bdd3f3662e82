"""Fixtures of the shop's tests: one PostgreSQL and one web process for all of them, others for those that need more."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.unit.shop.cells import Cells
from tests.unit.shop.processes import SHOP, Postgres, Web

# The example is no part of the product's package; its tests import it from where it lies.
sys.path[:0] = [str(SHOP / "web"), str(SHOP / "load"), str(SHOP / "postgres")]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.close()


@pytest.fixture
def database(postgres: Postgres) -> Iterator[dict[str, str]]:
    """A new, empty database, as the environment that leads there."""
    environment = postgres.create_database()
    yield environment
    postgres.sql("postgres", f"DROP DATABASE {environment['PGDATABASE']} WITH (FORCE)")


StartWeb = Callable[..., Web]


@pytest.fixture
def start_web(database: dict[str, str], tmp_path: Path) -> Iterator[StartWeb]:
    """Starts web processes on the test's database: start_web(cell, **settings)."""
    started: list[Web] = []

    def start(cell: str = "cell-a", **settings: str) -> Web:
        web = Web(cell, {**database, **settings}, tmp_path)
        started.append(web)
        return web

    yield start
    for web in started:
        if web.process.poll() is None:
            web.process.kill()
        web.process.wait(60)


@pytest.fixture(scope="session")
def lasting_web(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Web]:
    web = Web("cell-a", postgres.create_database(), tmp_path_factory.mktemp("lasting-web"))
    yield web
    web.end()


@pytest.fixture
def web(lasting_web: Web, postgres: Postgres) -> Web:
    """One web process of cell-a that is ready, with no data and no faults. The process is the tests' in turn."""
    postgres.sql(lasting_web.database, "DROP SCHEMA IF EXISTS shop CASCADE")
    if lasting_web.process.poll() is None:
        lasting_web.chaos("DELETE")
    else:
        lasting_web.start()
    return lasting_web.wait_ready()


@pytest.fixture(scope="module")
def lasting_cells(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cells, Web, Web]]:
    cells = Cells("cell-a", "cell-b")
    folder = tmp_path_factory.mktemp("lasting-cells")
    webs = [Web(name, cells.web_environment(name), folder) for name in ("cell-a", "cell-b")]
    yield cells, webs[0], webs[1]
    for web in webs:
        web.end()
    cells.close()


@pytest.fixture
def cells(lasting_cells: tuple[Cells, Web, Web]) -> Cells:
    """cell-a and cell-b with a database and a web process each, without data and without backups in the archive."""
    cells, *webs = lasting_cells
    for web in webs:
        cells.reset(web)
    return cells


@pytest.fixture
def web_a(cells: Cells, lasting_cells: tuple[Cells, Web, Web]) -> Web:
    return lasting_cells[1]


@pytest.fixture
def web_b(cells: Cells, lasting_cells: tuple[Cells, Web, Web]) -> Web:
    return lasting_cells[2]
