"""Documents that cannot drift: they name what the code has, and only that."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
from sqlmodel import SQLModel

from app.domain.states import State
from app.metrics import Metrics
from app.settings import Settings
from app.store import tables
from app.store.verify import CHECKS

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
GUIDE = (ROOT / "docs/guide.md").read_text(encoding="utf-8")

FOLDERS = ("app", "bench", "docs", "e2e", "locale", "scripts", "templates", "tests")
SUFFIXES = {".py", ".md", ".toml", ".html", ".js", ".css", ".cedar", ".mako", ".po", ".yml", ".json"}
TEXT_FILES = [
    *(
        ROOT / name
        for name in ("Makefile", "Procfile", ".ci/run", "pyproject.toml", "README.md", "CONTRIBUTING.md", "CHANGELOG.md")
    ),
    *sorted(f for folder in FOLDERS for f in (ROOT / folder).rglob("*") if f.is_file() and f.suffix in SUFFIXES),
]


def variables(text: str) -> set[str]:
    return set(re.findall(r"\bKORA_[A-Z0-9_]*[A-Z0-9]\b", text))


def test_every_variable_of_the_environment_is_documented_and_exists() -> None:
    read = {f"KORA_{field.name.upper()}" for field in fields(Settings)}
    assert read == variables(OPERATIONS)
    product = [f for f in TEXT_FILES if not {"tests", "e2e"} & set(f.parts)]
    named = {name for file in product for name in variables(file.read_text(encoding="utf-8"))}
    assert named <= read, "a variable is named that nothing reads"


def test_every_stored_state_is_explained_in_the_guide() -> None:
    transient = {State.TTL_VALID_READY_FOR_REPLAY, State.VERSION_MATCH_READY_FOR_REPLAY}  # pass within one decision
    elsewhere = {State.DEAD_LETTER, State.PROCESSED}  # not states of a command
    missing = [s for s in State if s not in transient | elsewhere and f"`{s}`" not in GUIDE]
    assert missing == []


def test_every_violation_is_explained() -> None:
    checks = "\n".join(f.read_text(encoding="utf-8") for f in (ROOT / "app/store/verify").glob("*.py"))
    codes = set(
        re.findall(r'(?:Violation\(\s*|(?:yield|return) \(?\s*)"([a-z]+_[a-z_]+)",\s*(?:f?"|row\.|tenant_id|chain)', checks)
    )
    codes -= {"last_assigned", "last_sequence", "last_processed", "unheard_since"}  # counters of a lane, not codes
    codes |= {"ledger_not_dense", "ledger_not_chained", "ledger_content_changed"}
    assert len(CHECKS) >= 14
    assert {c for c in codes if f"`{c}`" not in OPERATIONS} == set()


@pytest.mark.parametrize("model", [m for m in vars(tables).values() if isinstance(m, type) and m in SQLModel.__subclasses__()])
def test_every_table_says_what_a_row_is(model: type) -> None:
    assert model.__doc__ is not None
    assert model.__doc__.strip().endswith(".")


def test_every_metric_begins_with_our_name() -> None:
    own = {f.name for f in Metrics().registry.collect() if not f.name.startswith(("process_", "python_"))}
    assert all(name.startswith("kora_") for name in own)


@pytest.mark.parametrize("file", sorted((ROOT / "docs/decisions").glob("*.md")), ids=lambda f: f.stem)
def test_every_decision_has_its_parts(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.startswith(f"# {file.stem[:4]} ")
    for part in ("Status: ", "## Context", "## Decision", "## Consequences"):
        assert part in text


def test_decisions_are_numbered_without_gaps() -> None:
    numbers = sorted(int(f.stem[:4]) for f in (ROOT / "docs/decisions").glob("*.md"))
    assert numbers == list(range(1, len(numbers) + 1))


def test_every_decision_that_the_code_names_exists() -> None:
    decisions = {f.stem[:4] for f in (ROOT / "docs/decisions").glob("*.md")}
    named = {number for file in TEXT_FILES for number in re.findall(r"docs/decisions/(\d{4})", file.read_text(encoding="utf-8"))}
    assert named <= decisions


@pytest.mark.parametrize("file", [f for f in TEXT_FILES if f.suffix == ".md"], ids=lambda f: f.name)
def test_links_between_documents_lead_somewhere(file: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", file.read_text(encoding="utf-8")):
        assert (file.parent / target).exists(), f"{file.name} links to {target}"


@pytest.mark.parametrize(("page", "at_least"), [("security.md", 40), ("operations.md", 8)])
def test_every_test_that_a_page_names_exists(page: str, at_least: int) -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(named) >= at_least
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not (ROOT / file).exists() or (f"def {name}(" not in (ROOT / file).read_text(encoding="utf-8") and name)
    ]
    assert missing == []


def test_nothing_names_a_folder_of_one_machine() -> None:
    # put together, so that this file does not contain what it looks for
    banned = ["/" + part for part in ("work" + "/", "home" + "/", "root" + "/", "Users" + "/")]
    found = [
        f"{file.relative_to(ROOT)}: {name}"
        for file in TEXT_FILES
        for name in banned
        if re.search(rf"(?<![\w.:/-]){re.escape(name)}", file.read_text(encoding="utf-8"))
    ]
    assert found == []


def test_nothing_is_left_for_later() -> None:
    words = re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")
    found = [str(f.relative_to(ROOT)) for f in TEXT_FILES if f.suffix == ".py" and words.search(f.read_text(encoding="utf-8"))]
    assert found == []


def test_every_lint_exception_is_explained() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    ignored = config.split("[tool.ruff.lint]")[1].split("ignore = [")[1].split("\n]")[0]
    unexplained = [line.strip() for line in ignored.splitlines() if line.strip() and "#" not in line]
    assert unexplained == []
    rules = set(re.findall(r'"([A-Z]+\d+)"', ignored))
    assert len(rules) == len(re.findall(r'"([A-Z]+\d+)"', ignored)), "a rule is listed twice"


def test_the_lock_file_fits_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    own = next(p for p in lock["package"] if p["name"] == project["project"]["name"])
    wanted = {_name(d) for d in project["project"]["dependencies"]}
    assert {d["name"] for d in own["metadata"]["requires-dist"]} == wanted
    dev = {_name(d) for d in project["dependency-groups"]["dev"]}
    assert {d["name"] for d in own["metadata"]["requires-dev"]["dev"]} == dev
    specified = {d["name"]: d.get("specifier", "") for d in own["metadata"]["requires-dist"]}
    for requirement in project["project"]["dependencies"]:
        specifier = re.sub(r"^[\w.-]+(\[[^\]]*\])?", "", requirement.split(";")[0]).strip()
        assert set(specified[_name(requirement)].split(",")) == set(specifier.split(","))


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found is not None
    return found[0].lower().replace("_", "-").replace(".", "-")
