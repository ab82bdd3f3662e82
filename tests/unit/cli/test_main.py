"""The group of all commands: what it knows before one is called, and what it leaves alone until then."""

import subprocess
import sys
from importlib.metadata import version

import pytest
from click.testing import CliRunner

from recell.cli.later import Later
from recell.cli.main import COMMANDS, cli

HEAVY = {"aiohttp", "asyncio", "kubernetes", "orjson", "prometheus_client", "pydantic", "rich", "yaml"}


PROGRAM = """
import atexit, sys
from recell.cli.main import main
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
main()
"""


def imported(*arguments: str) -> set[str]:
    """Modules that the program has imported at its end."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_what_needs_no_cluster_imports_nothing_for_one(option: str) -> None:
    found = imported(option)
    assert "click" in found
    assert not {name.partition(".")[0] for name in found} & HEAVY
    assert not {name for name in found if name.startswith("recell.cli.commands")}


def test_a_command_imports_its_own_module_alone() -> None:
    found = imported("status", "--help")
    assert {name for name in found if name.startswith("recell.cli.commands.")} == {"recell.cli.commands.status"}


@pytest.mark.parametrize("later", COMMANDS, ids=lambda later: later.name)
def test_the_help_knows_each_command_by_its_own_words(later: Later) -> None:
    assert later.command.name == later.name
    assert later.command.get_short_help_str(100) == later.get_short_help_str(100)


def test_the_version_is_the_installed_one() -> None:
    done = CliRunner().invoke(cli, ["--version"])
    assert (done.exit_code, done.output) == (0, f"recell {version('recell')}\n")
