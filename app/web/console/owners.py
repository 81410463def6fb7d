"""Names of the people behind `user:<id>`, as rows of the console show them."""

from collections.abc import Iterable

from sqlalchemy import Connection

from app.store import accounts
from app.web.words import Words


def owner_names(conn: Connection, words: Words, owners: Iterable[str | None]) -> dict[str, str]:
    """Actor of the audit trail -> the person's name; who is no person is "a program"."""
    given = {owner for owner in owners if owner}
    ids = {owner: owner.partition(":")[2] for owner in given if owner.startswith("user:")}
    names = accounts.names_of_users(conn, ids.values())
    return {owner: names.get(ids.get(owner, ""), words.text("a program")) for owner in given}
