#!/usr/bin/env python3
"""Third-party browser files, fetched from the npm registry into the tree and pinned by hash.

    python scripts/vendor_assets.py           fetch what WANTED names, write the lock
    python scripts/vendor_assets.py --check   only compare the files with the lock (no network; exit 1 on a difference)

Nothing is loaded from another host at run time: what the browser gets is what `static/vendor.lock.json` names, with the
registry's integrity value of the package and the SHA-256 of every file. References to source maps are cut out (the maps
are not shipped), as are `@charset` rules, which mean nothing inside a cascade layer.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "static" / "vendor.lock.json"

RUNTIME = Path("static/vendor")
TESTS_ONLY = Path("e2e/vendor")

WANTED: dict[str, tuple[Path, dict[str, str]]] = {
    "htmx.org@2.0.11": (RUNTIME, {"dist/htmx.min.js": "htmx.min.js", "LICENSE": "htmx.LICENSE"}),
    "idiomorph@0.8.0": (RUNTIME, {"dist/idiomorph-ext.min.js": "idiomorph-ext.min.js", "LICENSE": "idiomorph.LICENSE"}),
    "@tabler/core@1.6.1": (RUNTIME, {"dist/css/tabler.min.css": "tabler.min.css"}),
    "@fontsource-variable/inter@5.3.0": (
        RUNTIME,
        {
            "files/inter-latin-wght-normal.woff2": "inter-latin.woff2",
            "files/inter-latin-ext-wght-normal.woff2": "inter-latin-ext.woff2",
            "LICENSE": "inter.LICENSE",
        },
    ),
    "axe-core@4.14.1": (TESTS_ONLY, {"axe.min.js": "axe.min.js", "LICENSE": "axe.LICENSE"}),
}
"""Package -> folder, and which of its files are kept under which name."""

_SOURCE_MAP = re.compile(rb"(//[#@] sourceMappingURL=[^\n]*\n?|/\*[#@] sourceMappingURL=.*?\*/\n?)")
_CHARSET = re.compile(rb'@charset "[^"]*";')


def sha256(content: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(content).hexdigest()


def differences() -> list[str]:
    """Files that are missing, changed, or not named by the lock."""
    lock: dict[str, Any] = json.loads(LOCK.read_text(encoding="utf-8"))
    expected = {name: digest for package in lock.values() for name, digest in package["files"].items()}
    found = {
        str(file.relative_to(ROOT)): sha256(file.read_bytes())
        for folder in (RUNTIME, TESTS_ONLY)
        for file in sorted((ROOT / folder).glob("*"))
    }
    return sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))


def fetch(spec: str, folder: Path, files: dict[str, str]) -> dict[str, Any]:
    """Download one package, check its integrity, keep the wanted files; returns its entry of the lock."""
    with tempfile.TemporaryDirectory() as temporary:
        packed = subprocess.run(
            ["npm", "pack", "--json", "--silent", spec], cwd=temporary, check=True, capture_output=True, text=True
        ).stdout
        answer = json.loads(packed)
        meta = answer[0] if isinstance(answer, list) else next(iter(answer.values()))
        tarball = Path(temporary, meta["filename"])
        digest = "sha512-" + base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
        if digest != meta["integrity"]:
            sys.exit(f"{spec}: the download does not have the registry's integrity value")
        kept = {}
        with tarfile.open(tarball) as archive:
            for inside, name in files.items():
                member = archive.extractfile(f"package/{inside}")
                if member is None:
                    sys.exit(f"{spec}: no file {inside}")
                content = member.read()
                if name.endswith((".js", ".css")):
                    content = _CHARSET.sub(b"", _SOURCE_MAP.sub(b"", content))
                target = ROOT / folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
                kept[str(folder / name)] = sha256(content)
    return {"integrity": meta["integrity"], "files": kept}


def main(words: list[str]) -> int:
    """Fetch, or with `--check` compare; the exit code."""
    if words == ["--check"]:
        wrong = differences()
        print("\n".join(wrong) if wrong else "vendored files are as locked")
        return 1 if wrong else 0
    lock = {spec: fetch(spec, folder, files) for spec, (folder, files) in WANTED.items()}
    LOCK.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")
    print("\n".join(differences()) or f"{sum(len(p['files']) for p in lock.values())} files")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
