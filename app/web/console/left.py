"""What became of rows that left a list while a person was looking at it, and who settled them."""

from collections.abc import Callable, Sequence
from typing import Any, Final

from sqlalchemy import Connection

from app.store.views import left
from app.web.console.owners import owner_names
from app.web.console.sentences import state_badge
from app.web.console.visit import Visit
from app.web.i18n import mark

ROWS_MAX: Final = 50
"""More rows than this are told nothing further: a list has fifty."""


def load_left(conn: Connection, visit: Visit) -> dict[str, str]:
    """Row id -> sentence, for the ids of `?row=` whose end is known and which the person may see."""
    wanted: dict[str, dict[str, str]] = {kind: {} for kind in _KINDS}
    for row in visit.query.get("row", ())[:ROWS_MAX]:
        kind = next((kind for kind in _KINDS if row.startswith(kind)), None)
        if kind is not None:
            wanted[kind][row[len(kind) :][:240]] = row
    said: dict[str, str] = {}
    for kind, rows in wanted.items():
        if rows:
            said |= {rows[item]: sentence for item, sentence in _KINDS[kind](conn, visit, list(rows)).items() if item in rows}
    return said


def _tasks(conn: Connection, visit: Visit, ids: Sequence[str]) -> dict[str, str]:
    return _by_people(conn, visit, left.closed_tasks(conn, visit.scope, ids), mark("closed by %(who)s at %(time)s"))


def _takeovers(conn: Connection, visit: Visit, ids: Sequence[str]) -> dict[str, str]:
    return _by_people(conn, visit, left.closed_tickets(conn, visit.scope, ids), mark("given back by %(who)s at %(time)s"))


def _by_people(conn: Connection, visit: Visit, found: Sequence[left.Ended], sentence: str) -> dict[str, str]:
    words = visit.words
    names = owner_names(conn, words, (ended.by for ended in found))
    unknown = words.text("a program")
    return {e.item_id: words.text(sentence, who=names.get(e.by or "", unknown), time=words.clock(e.at)) for e in found}


def _commands(conn: Connection, visit: Visit, ids: Sequence[str]) -> dict[str, str]:
    words = visit.words
    return {
        e.item_id: words.text("%(state)s at %(time)s", state=state_badge(words, e.result or "").word, time=words.clock(e.at))
        for e in left.done_commands(conn, visit.scope, ids)
    }


_KINDS: Final[dict[str, Callable[[Connection, Visit, Sequence[str]], Any]]] = {
    "task_": _tasks,
    "need_manual_": _tasks,
    "takeover_": _takeovers,
    "need_takeover_": _takeovers,
    "row_": _commands,
}
"""Beginnings of row ids in the lists' templates, and who knows their end."""
