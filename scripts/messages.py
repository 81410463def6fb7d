#!/usr/bin/env python3
"""The message catalogs: what the code says, in every language.

    python scripts/messages.py           take new messages from code and templates into the catalogs, drop old ones
    python scripts/messages.py --check   say what is missing or left over (exit 1)

Message ids are plain English, so the English catalog is filled by itself; the others are translated by hand in
`locale/<language>/LC_MESSAGES/messages.po`. The catalogs are compiled in memory when the server starts.
"""

from __future__ import annotations

import sys
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parent.parent
LOCALES = ("pt_BR", "en")

HEADER = """# What the console says; message ids by scripts/messages.py, translations by hand.
msgid ""
msgstr ""
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"
"Language: {locale}\\n"
"Plural-Forms: {plural}\\n"

"""
PYTHON = {"mark": None, "text": None, "count": (1, 2)}
NOT_MESSAGES = frozenset({"SELECT 1"})
"""First arguments of SQLAlchemy's `text`, which has the name of our function."""
TEMPLATE = {"_": None, "gettext": None, "ngettext": (1, 2), "count": (1, 2)}


def catalog_file(locale: str) -> Path:
    """The `.po` file of a language."""
    return ROOT / "locale" / locale / "LC_MESSAGES" / "messages.po"


def wanted() -> Catalog:
    """Every message of the code and the templates."""
    catalog = Catalog(project="KoraOS Console", charset="utf-8")
    sources = (
        (ROOT / "app" / "web", [("**.py", "python")], PYTHON),
        (ROOT / "templates", [("**.html", "scripts.messages:templates")], TEMPLATE),
    )
    for folder, methods, keywords in sources:
        found = extract_from_dir(folder, methods, keywords=keywords, directory_filter=_every_folder)
        for name, line, message, _comments, _context in found:
            if message in NOT_MESSAGES:
                continue
            catalog.add(message, locations=[(str((folder / name).relative_to(ROOT)), line)])
    return catalog


def _every_folder(_path: str) -> bool:
    """Babel would leave out folders whose name begins with an underscore."""
    return True


def templates(fileobj, keywords, comment_tags, options):  # type: ignore[no-untyped-def]  # babel's own protocol
    """Messages of a template: gettext calls, trans blocks, and `w.count(one, many, n)`."""
    import re

    from jinja2.ext import babel_extract

    source = fileobj.read()
    fileobj.seek(0)
    yield from babel_extract(fileobj, [k for k in keywords if k != "count"], comment_tags, options)
    for match in re.finditer(r'\.count\(\s*"([^"]+)",\s*"([^"]+)"', source.decode()):
        line = source.decode()[: match.start()].count("\n") + 1
        yield line, "count", (match[1], match[2]), []


def read(locale: str) -> Catalog:
    """The catalog of a language as it stands."""
    with catalog_file(locale).open("rb") as file:
        return read_po(file, locale=locale)


def gaps(locale: str) -> list[str]:
    """Messages without a translation, and translations of messages that nobody says."""
    have = {m.id: m for m in read(locale) if m.id}
    need = {m.id for m in wanted() if m.id}
    missing = [f"missing: {key}" for key in need if key not in have or not _translated(have[key].string) or have[key].fuzzy]
    return sorted([*missing, *(f"left over: {key}" for key in have.keys() - need)], key=str)


def _translated(text: object) -> bool:
    return all(text) if isinstance(text, (list, tuple)) else bool(text)


def update(locale: str) -> None:
    """Write the catalog of a language: every message once, in order, with what was translated before."""
    path = catalog_file(locale)
    known = {m.id: m.string for m in read(locale)} if path.exists() else {}
    fresh = Catalog(locale=locale, charset="utf-8", fuzzy=False)
    for message in sorted((m for m in wanted() if m.id), key=lambda m: str(m.id)):
        text = known.get(message.id) or (message.id if locale == "en" else None)
        fresh.add(
            message.id,
            text or ("" if isinstance(message.id, str) else ("", "")),
            locations=[(f, 0) for f in sorted({f for f, _ in message.locations})],
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(HEADER.format(locale=locale, plural=fresh.plural_forms).encode())
        write_po(file, fresh, width=0, omit_header=True, include_lineno=False)


def main(words: list[str]) -> int:
    """Update, or with `--check` compare; the exit code."""
    if words == ["--check"]:
        found = {locale: gaps(locale) for locale in LOCALES}
        for locale, lines in found.items():
            for line in lines:
                print(f"{locale}: {line}")
        return 1 if any(found.values()) else 0
    for locale in LOCALES:
        update(locale)
        print(f"{locale}: {len(gaps(locale))} to translate")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
