"""Write the tables of `app/store/tables/` into the initial migration (until the first release; see CONTRIBUTING).

    make migration

Everything outside the marks of the file stays as it is.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from app.store.database import run_in_thread
from app.store.migrate import rendered_from_empty, rendered_walls

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "app/store/migrations/versions/0001_initial.py"


def between(source: str, mark: str, code: str) -> str:
    """`source` with the lines between `# <mark>` and `# </mark>` replaced by `code`, indented by four."""
    code = re.sub(r"^ *# ### .*\n?", "", code, flags=re.MULTILINE)
    lines = ("    " + line if line.strip() and not line.startswith("    ") else line for line in code.splitlines())
    body = "\n".join(line.rstrip() for line in lines if line.strip())
    pattern = re.compile(rf"(    # <{mark}>\n).*?(    # </{mark}>)", flags=re.DOTALL)
    result, count = pattern.subn(lambda m: f"{m[1]}{body}\n{m[2]}", source)
    if count != 1:
        raise SystemExit(f"{TARGET}: the marks <{mark}> are missing")
    return result


def main() -> None:
    """Render, write, format."""
    with tempfile.TemporaryDirectory() as folder:
        up, down = run_in_thread(f"sqlite:///{folder}/empty.db", rendered_from_empty)
    source = between(between(TARGET.read_text(encoding="utf-8"), "tables", up), "drop tables", down)
    source = between(source, "walls", rendered_walls())
    TARGET.write_text(source, encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", str(TARGET)], check=True)
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
