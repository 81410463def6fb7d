"""The plan's stories: each with owner, dependencies, exact states, signal and alert; its tests are those that carry the marker."""

import ast
import importlib
import pkgutil
import re
import tomllib
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import app.domain
from app.domain.alerts import ROUTING, family_of
from app.domain.signals import SIGNALS
from app.logsink import LogState
from app.store import deferred

ROOT = Path(__file__).resolve().parents[2]
STORIES: list[dict[str, Any]] = tomllib.loads((ROOT / "docs/stories.toml").read_text(encoding="utf-8"))["story"]
BY_ID = {story["id"]: story for story in STORIES}
FIELDS = set("id title source adr owner wave dependencies dor dor_status terminal_states signal alert tests".split())


def proven(source: str) -> set[str]:
    """Stories of which a file has a test that carries the marker and is not skipped."""
    tree = ast.parse(source)
    marks = [ast.unparse(n.value) for n in tree.body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "pytestmark"]
    found: set[str] = set()
    for test in (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)):
        said = " ".join([*marks, *map(ast.unparse, test.decorator_list)])
        if test.name.startswith("test_") and "mark.skip" not in said:
            found |= set(re.findall(r"""mark\.story\(["']([^"']+)["']\)""", said))
    return found


def states_of(package: ModuleType) -> set[str]:
    """The values of every enumeration of a package."""
    modules = [importlib.import_module(f"{package.__name__}.{m.name}") for m in pkgutil.iter_modules(package.__path__)]
    enums = {v for m in modules for v in vars(m).values() if isinstance(v, type) and issubclass(v, StrEnum)}
    return {str(member) for enum in enums for member in enum}


@cache
def marked() -> dict[str, set[str]]:
    """Files that have such tests, with their stories; worked out by the first test that asks, not by each process that collects."""
    return {
        str(file.relative_to(ROOT)): stories
        for folder in ("tests", "e2e")
        for file in (ROOT / folder).rglob("*.py")
        if file.name.startswith("test_") and (stories := proven(file.read_text(encoding="utf-8")))
    }


STATES = states_of(app.domain) | set(LogState)


def test_the_plan_has_sixteen_items() -> None:
    assert len(STORIES) == len(BY_ID) == 16
    waves = [s["wave"] for s in STORIES]
    assert {w: waves.count(w) for w in waves} == {"O1": 8, "O2": 5, "O3": 2, "deferred": 1}


@pytest.mark.parametrize("story", STORIES, ids=list(BY_ID))
def test_a_story_is_complete(story: dict[str, Any]) -> None:
    assert set(story) == FIELDS
    for field in FIELDS - {"dependencies", "tests"}:
        assert story[field], f"{story['id']} has no {field}"
    assert set(story["dependencies"]) <= set(BY_ID) - {story["id"]}


@pytest.mark.parametrize("story", STORIES, ids=list(BY_ID))
def test_a_story_ends_in_states_of_the_product(story: dict[str, Any]) -> None:
    assert set(story["terminal_states"]) <= STATES


@pytest.mark.parametrize("story", STORIES, ids=list(BY_ID))
def test_a_storys_signal_is_measured_and_its_alert_has_that_name(story: dict[str, Any]) -> None:
    """The deferred item is no signal of section 9: its trigger is evaluated by itself, and has a row in the routing matrix."""
    if story["wave"] == "deferred":
        assert story["signal"] == deferred.TRIGGER
        assert story["alert"] in ROUTING
    else:
        assert story["signal"] in SIGNALS
        assert SIGNALS[story["signal"]].owners
    assert story["alert"] == story["signal"]
    assert family_of(story["alert"]) in ROUTING


@pytest.mark.parametrize("story", STORIES, ids=list(BY_ID))
def test_a_story_names_exactly_the_files_whose_tests_carry_its_marker(story: dict[str, Any]) -> None:
    assert story["tests"], "a story without a test is not done"
    assert set(story["tests"]) == {name for name, stories in marked().items() if story["id"] in stories}


def test_every_marker_names_a_story() -> None:
    assert {story for stories in marked().values() for story in stories} <= set(BY_ID)


def test_a_skipped_test_proves_nothing() -> None:
    assert proven('@pytest.mark.story("S-1")\ndef test_a(): ...') == {"S-1"}
    assert proven('@pytest.mark.story("S-1")\n@pytest.mark.skip\ndef test_a(): ...') == set()
    assert proven('pytestmark = [pytest.mark.story("S-1")]\nasync def test_a(): ...') == {"S-1"}
    assert proven('pytestmark = [pytest.mark.story("S-1"), pytest.mark.skipif(True)]\ndef test_a(): ...') == set()
    assert proven('pytestmark = pytest.mark.story("S-1")\ndef helper(): ...') == set()


def test_dependencies_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(STORIES):
        ready = {s["id"] for s in STORIES if set(s["dependencies"]) <= done} - done
        assert ready, "the remaining stories wait for each other"
        done |= ready
