"""The two commands: what a developer types works on a machine that has only Python 3 and make."""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from app.cli import cli, serving_environment
from app.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts/dev.py"


@pytest.fixture
def dev() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dev", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_uses_only_the_standard_library_and_old_syntax() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 8))
    imported = {name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {(node.module or "").split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported <= sys.stdlib_module_names


def test_every_target_of_the_makefile_is_explained_and_known_to_the_script(dev: ModuleType) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    explained = dict(re.findall(r"^([a-z0-9]+): +## (.+)$", makefile, flags=re.MULTILINE))
    phony = re.search(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)
    assert phony is not None
    assert set(explained) == set(phony[1].split())
    assert dev.__doc__ is not None
    known = re.search(r"dev\.py (\S+) ", dev.__doc__)
    assert known is not None
    assert set(known[1].split("|")) == set(explained) - {"help"}


def test_every_step_runs_whatever_the_others_say(dev: ModuleType, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    touched = tmp_path / "ran"
    fails = [sys.executable, "-c", "raise SystemExit(3)"]
    passes = [sys.executable, "-c", f"open({str(touched)!r}, 'w').close()"]
    assert dev.all_of([("first", fails), ("second", passes)]) == 1
    assert touched.exists()
    said = capfd.readouterr().out
    assert re.search(r"FAILED \(3\) +first", said)
    assert re.search(r"passed +second", said)
    assert dev.all_of([("second", passes)]) == 0


def test_a_step_without_tests_is_a_failure_unless_tests_were_named(dev: ModuleType) -> None:
    none = ("none", [sys.executable, "-c", "raise SystemExit(5)"])
    some = ("some", [sys.executable, "-c", ""])
    assert dev.all_of([none, none, some]) == 1
    assert dev.all_of([none, none, some], some=True) == 0
    assert dev.all_of([none] * dev.TEST_STEPS, some=True) == 1


def test_nothing_waits_for_a_keyboard(dev: ModuleType) -> None:
    assert dev.run(sys.executable, "-c", "import sys; raise SystemExit(len(sys.stdin.read()))") == 0


def test_a_server_that_cannot_be_had_ends_with_one_sentence(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDIS_SERVER", raising=False)
    monkeypatch.setattr(dev, "SERVERS", (("REDIS_SERVER", lambda: None),))
    with pytest.raises(SystemExit, match="REDIS_SERVER: not found and it could not be installed"):
        dev.servers()


def test_a_server_that_is_named_is_used(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_SERVER", sys.executable)
    monkeypatch.setattr(dev, "SERVERS", (("REDIS_SERVER", lambda: "/nowhere"),))
    assert dev.servers() == {"REDIS_SERVER": sys.executable}


def test_without_a_command_it_explains_itself() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 2
    assert "setup|run|test" in done.stdout


def test_continuous_integration_runs_what_a_developer_runs() -> None:
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text(encoding="utf-8")


def test_the_procfile_names_what_exists() -> None:
    lines = dict(line.split(": ") for line in (ROOT / "Procfile").read_text(encoding="utf-8").splitlines())
    assert lines == {"release": "kora migrate", "web": "python -m app"}


def test_the_example_of_make_run_is_one_that_the_demo_takes() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    example = re.search(r'^run: +##.*\(ARGS="([^"]+)"\)', makefile, flags=re.MULTILINE)
    assert example is not None
    context = cli.commands["demo"].make_context("demo", example[1].split())
    assert context.params["port"] == 8080


def test_a_port_given_stands_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KORA_PORT", "9001")
    assert Settings.from_env(serving_environment(None, None)).port == 9001
    assert Settings.from_env(serving_environment("0.0.0.0", 9002)).port == 9002
