"""What the pages name is there: the tests that show a rule, and the pages and files that they lead to."""

import ast
import re
from functools import lru_cache
from pathlib import Path

import pytest

from tests.conftest import ROOT

PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
SAFETY = (ROOT / "docs" / "safety.md").read_text()
RULES = {int(rule.partition(".")[0]): rule for rule in re.split(r"^\*\*(?=\d+\. )", SAFETY, flags=re.M)[1:]}
SHOWN_BY = re.findall(r"^- `([^`]+)`$", SAFETY, re.M)


@lru_cache
def _names(file: Path) -> frozenset[str]:
    """Tests of a file: `test_x`, `TestX::test_x`, and what it calls a TestCase."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}::{each.name}" for each in node.body if hasattr(each, "name")}
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found.add(node.targets[0].id)
    return frozenset(name for name in found if name.lower().startswith("test"))


@pytest.mark.parametrize("named", SHOWN_BY)
def test_a_test_that_shows_a_rule_is_there(named: str) -> None:
    path, _, name = named.partition("::")
    assert name in _names(ROOT / "tests" / path)


def test_every_rule_has_its_number_and_a_test() -> None:
    assert list(RULES) == list(range(1, len(RULES) + 1))
    assert [number for number, rule in RULES.items() if not re.search(r"^- `", rule, re.M)] == []


def test_every_rule_that_is_named_anywhere_is_told() -> None:
    places = [*PAGES, *(ROOT / "operator").rglob("*.py"), *(ROOT / "router").rglob("*.py")]
    named = {int(number) for page in places for number in re.findall(r"\b[Rr]ule (\d+)\b", page.read_text())}
    assert named
    assert named <= RULES.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_leads_to_is_there(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target
