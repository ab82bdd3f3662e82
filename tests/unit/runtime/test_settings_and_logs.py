"""Flags and variables; log lines for machines and for people."""

import json
import logging
import re
from collections.abc import Callable, Iterator

import click
import pytest
from click.testing import CliRunner

from recell.runtime import logging as logs
from recell.runtime.settings import Settings, options, parse


@click.command()
@options
def shown(**given: str | None) -> None:
    click.echo(parse(given).model_dump_json())


def run(*flags: str, **env: str) -> dict[str, object]:
    result = CliRunner().invoke(shown, flags, env=env)
    assert result.exit_code == 0, result.output
    parsed: dict[str, object] = json.loads(result.output)
    return parsed


def test_defaults_are_the_documented_ones() -> None:
    found = run("--identity=me", "--lease-namespace=system")
    assert found["lease_duration"] == 15.0
    assert found["renew_deadline"] == 10.0
    assert found["retry_period"] == 2.0
    assert found["namespaces"] == []
    assert found["port"] == 8080
    settings = Settings()
    assert settings.fleet_namespaces == settings.all_namespaces == ("",)


def test_a_flag_wins_over_its_variable() -> None:
    assert run(RECELL_PORT="9000")["port"] == 9000
    assert run("--port=9001", RECELL_PORT="9000")["port"] == 9001
    assert run(POD_NAME="pod-7")["identity"] == "pod-7"


def test_what_the_chart_sets_is_understood() -> None:
    found = run(
        POD_NAME="recell-0",
        RECELL_LEASE_NAMESPACE="recell-system",
        RECELL_LEASE_NAME="recell",
        RECELL_NAMESPACES="",
        RECELL_ROUTER_IMAGE="example/router:1",
        RECELL_LOG_FORMAT="json",
        RECELL_LOG_LEVEL="info",
    )
    assert found["namespaces"] == []
    assert found["router_image"] == "example/router:1"


def test_namespaces_by_commas() -> None:
    settings = parse({"namespaces": "shop, bank,", "workload_namespaces": "apps"})
    assert settings.fleet_namespaces == ("shop", "bank")
    assert settings.all_namespaces == ("shop", "bank", "apps")


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--port=high", "--port"),
        ("--port=70000", "--port"),
        ("--log-format=xml", "--log-format"),
        ("--workers=0", "--workers"),
        ("--lease-duration=9", "lease duration > renew deadline"),
    ],
)
def test_a_value_that_cannot_work_is_refused_by_name(flag: str, told: str) -> None:
    result = CliRunner().invoke(shown, [flag])
    assert result.exit_code == 2
    assert told in result.output


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was written since the last look."""
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines(log: Callable[[], str]) -> None:
    logs.configure("info", "json")
    logging.getLogger("recell.x").info("took %d", 7, extra={"cell": "a"})
    logging.getLogger("recell.x").debug("not shown")
    try:
        raise ValueError("a bug")
    except ValueError:
        logging.getLogger("recell.x").exception("failed")
    first, second = [json.loads(line) for line in log().splitlines()]
    assert (first["message"], first["level"], first["logger"], first["cell"]) == ("took 7", "INFO", "recell.x", "a")
    assert "time" in first
    assert "ValueError: a bug" in second["exc_info"]


def test_lines_for_people(log: Callable[[], str]) -> None:
    logs.configure("warning", "text")
    logging.getLogger("recell.x").info("not shown")
    logging.getLogger("recell.x").warning("slow", extra={"cell": "a"})
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z WARNING recell\.x: slow cell=a\n", log())
