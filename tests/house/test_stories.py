"""The plan's stories: each with owner, dependencies, exact states, signal and alert; named tests exist and carry the marker."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from app.domain.signals import SIGNALS
from app.domain.states import State

ROOT = Path(__file__).resolve().parents[2]
STORIES: list[dict[str, Any]] = tomllib.loads((ROOT / "docs/stories.toml").read_text(encoding="utf-8"))["story"]
BY_ID = {story["id"]: story for story in STORIES}
FIELDS = set("id title source adr owner wave dependencies dor dor_status terminal_states signal alert tests".split())


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


@pytest.mark.parametrize("story", [s for s in STORIES if s["id"].startswith(("S-PC-01", "S-PC-02"))], ids=lambda s: s["id"])
def test_a_story_of_order_or_replay_ends_in_states_of_the_product(story: dict[str, Any]) -> None:
    assert set(story["terminal_states"]) <= set(State)


@pytest.mark.parametrize("story", [s for s in STORIES if s["wave"] != "deferred"], ids=lambda s: s["id"])
def test_a_storys_signal_is_measured_and_its_alert_has_that_name(story: dict[str, Any]) -> None:
    assert story["signal"] in SIGNALS
    assert story["alert"] == story["signal"]


@pytest.mark.parametrize("story", STORIES, ids=list(BY_ID))
def test_named_tests_carry_the_marker(story: dict[str, Any]) -> None:
    for name in story["tests"]:
        assert f'story("{story["id"]}")' in (ROOT / name).read_text(encoding="utf-8")


def test_every_marker_names_a_story() -> None:
    named = {
        story
        for folder in ("tests", "e2e")
        for file in (ROOT / folder).rglob("*.py")
        for story in re.findall(r'mark\.story\("([^"]+)"\)', file.read_text(encoding="utf-8"))
    }
    assert named <= set(BY_ID)


def test_dependencies_have_no_circle() -> None:
    done: set[str] = set()
    while len(done) < len(STORIES):
        ready = {s["id"] for s in STORIES if set(s["dependencies"]) <= done} - done
        assert ready, "the remaining stories wait for each other"
        done |= ready
