"""Imports point downwards only, and the domain is pure."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(folder)}
    )


def test_the_layers_hold() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("domain/upwards.py", "import app.store.tables"),
        ("domain/impure.py", "import asyncio"),
        ("store/sideways.py", "import app.channels"),
        ("unplaced.py", ""),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, forbidden: str) -> None:
    for file in (ROOT / "app").rglob("*.py"):
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (tmp_path / "app" / module).write_text(f"{forbidden}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1
    assert Path(module).stem in done.stdout
