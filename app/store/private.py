"""Whose words must not stay where nothing can be taken away again: the names and numbers of a contact and of its children."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, func, literal, select

from app.domain.redaction import names_pattern, without_names
from app.store.tables import Contact, Guardian, Patient, table

_CONTACT, _GUARDIAN, _PATIENT = table(Contact), table(Guardian), table(Patient)


def private_of(conn: Connection, tenant_id: str, contact_id: str) -> tuple[str, ...]:
    """Name and number of a contact, and the names of its children."""
    mine = (_CONTACT.c.tenant_id == tenant_id, _CONTACT.c.contact_id == contact_id)
    row = conn.execute(select(_CONTACT.c.name, _CONTACT.c.phone).where(*mine)).first()
    children = (
        select(_PATIENT.c.name)
        .join(_GUARDIAN, (_GUARDIAN.c.tenant_id == _PATIENT.c.tenant_id) & (_GUARDIAN.c.patient_id == _PATIENT.c.patient_id))
        .where(_GUARDIAN.c.tenant_id == tenant_id, _GUARDIAN.c.contact_id == contact_id)
    )
    found = [*(row or ()), *conn.execute(children).scalars()]
    return tuple(sorted({word for word in found if word}))


def names_in(conn: Connection, tenant_id: str, contact_id: str | None, texts: Iterable[str]) -> re.Pattern[str] | None:
    """Which names stand in texts that people of a clinic typed; None without any.

    Of the contact that they are about every word of a name is one; of the clinic's other families full names are, because a
    first name alone may be anybody's. Costs a look at each contact and patient of the clinic: for acts of people only.
    """
    said = "\n".join(texts)
    if not said:
        return None
    found = set() if contact_id is None else {w for name in private_of(conn, tenant_id, contact_id) for w in (name, *name.split())}
    return names_pattern(sorted(found | full_names_in(conn, tenant_id, said)), whole=True)


def full_names_in(conn: Connection, tenant_id: str | None, said: str) -> set[str]:
    """Full names of a clinic's families, or of every clinic's, that stand in a text."""
    # a plain search costs under a microsecond a name, LIKE four times as much
    place = func.strpos if conn.dialect.name == "postgresql" else func.instr
    found: set[str] = set()
    for of in (_CONTACT, _PATIENT):
        held = (place(func.lower(literal(said)), func.lower(of.c.name)) > 0, place(of.c.name, " ") > 1)
        query = select(of.c.name).distinct().where(*held)
        found |= set(conn.execute(query if tenant_id is None else query.where(of.c.tenant_id == tenant_id)).scalars())
    return found


def told_without(names: re.Pattern[str] | None, said: Mapping[str, Any] | None, *fields: str) -> dict[str, Any] | None:
    """A document for the trail, its free-text `fields` without names and numbers."""
    if said is None:
        return None
    return {name: without_names(value, names) if name in fields else value for name, value in said.items()}
