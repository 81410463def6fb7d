"""Guardians: who may act for which child, with proof and history, and the policy's own answer to "may X do this?"."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from app.domain.guardians import may, policy_text
from app.domain.reasons import explain
from app.domain.states import CommandType, State
from app.errors import InvalidRequest, NotFound
from app.store.views import guardians as views
from app.store.views.guardians import ChangeRow, PatientCursor, PatientPage, PatientRow, PermissionRow
from app.web.console.contacts import phone_text
from app.web.console.pages import MANAGER, SUPERADMIN
from app.web.console.sentences import COMMAND_NAMES
from app.web.console.visit import Urls, Visit
from app.web.i18n import mark
from app.web.words import Words

GRANTERS: Final = (MANAGER, SUPERADMIN)
"""Roles that grant and revoke; a secretary reads."""

ASKABLE: Final = (CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL)

METHODS: Final = {
    "in_person": mark("in person"),
    "document": mark("with a document"),
    "phone_call": mark("by a phone call to the number on file"),
    "video_call": mark("by a video call"),
}
"""How a permission was proven, as the form offers it; the API takes any text."""

PERMISSION_NAMES: Final = {
    "can_schedule": mark("schedule"),
    "can_cancel": mark("cancel"),
    "is_primary": mark("primary guardian"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PatientLine:
    """One row of the list."""

    row: PatientRow
    url: str
    chosen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianPatients:
    """Context of the fragment `guardian_patients`."""

    page: PatientPage
    lines: tuple[PatientLine, ...]
    query: str
    several: bool
    first_page: bool
    next_url: str | None
    first_url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionLine:
    """One permission in words; `state` and `tone` say whether it holds."""

    row: PermissionRow
    phone: str
    state: str
    tone: str
    method: str
    granted_by: str
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianLinks:
    """Context of the fragment `guardian_links`; `patient_id` None while nobody is chosen."""

    patient_id: str | None
    name: str
    clinic: str
    may_grant: bool
    csrf: str
    lines: tuple[PermissionLine, ...]
    methods: tuple[tuple[str, str], ...]
    me: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianAnswerBox:
    """Context of the fragment `guardian_answer`: the question as asked, and the policy's answer to it."""

    patient_id: str | None
    name: str
    clinic: str | None
    who: str
    asked: str
    acts: tuple[tuple[str, str], ...]
    contacts: tuple[tuple[str, str], ...]
    """Ids and names of contacts that ever had a permission."""
    answered: bool
    known: bool
    allowed: bool
    headline: str
    why: str
    next_action: str
    policy_ids: tuple[str, ...]
    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeLine:
    """One change: when, who, to whom, what, why."""

    at: datetime
    actor: str
    contact: str
    what: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardianHistory:
    """Context of the fragment `guardian_history`."""

    patient_id: str | None
    lines: tuple[ChangeLine, ...]


def load_guardian_patients(conn: Connection, visit: Visit) -> GuardianPatients:
    """Patients by name; `q` is a part of a name or id."""
    query, after = visit.one("q"), _cursor_from(visit.one("cursor", 2_000))
    page = views.patient_page(conn, visit.scope, query, after=after)
    cursor = page.next_cursor
    return GuardianPatients(
        page=page,
        lines=tuple(
            PatientLine(row=row, url=_patient_url(visit, row), chosen=row.patient_id == visit.one("patient")) for row in page.rows
        ),
        query=query,
        several=visit.several,
        first_page=after is None,
        next_url=visit.urls.to("/guardians", q=query, cursor=_cursor_text(cursor)) if cursor else None,
        first_url=visit.urls.to("/guardians", q=query),
    )


def load_guardian_links(conn: Connection, visit: Visit) -> GuardianLinks:
    """Permissions for the chosen patient. Raises NotFound for one that the clinic does not have."""
    chosen = _chosen(conn, visit)
    rows = views.permissions(conn, chosen[0], chosen[1]) if chosen else []
    names = views.actor_names(conn, [row.granted_by for row in rows])
    return GuardianLinks(
        patient_id=chosen[1] if chosen else None,
        name=chosen[2] if chosen else "",
        clinic=visit.chosen.slug if visit.chosen else "",
        may_grant=visit.role in GRANTERS,
        csrf=visit.csrf_token,
        lines=tuple(_line(visit, row, names) for row in rows),
        methods=tuple((value, visit.words.text(label)) for value, label in METHODS.items()),
        me=visit.person.name,
    )


def _line(visit: Visit, row: PermissionRow, names: dict[str, str]) -> PermissionLine:
    words = visit.words
    if row.link.revoked:
        tone, state = "plain", words.text("Revoked: may do nothing.")
    elif not row.link.verified:
        tone, state = "warn", words.text("Not verified: may do nothing yet.")
    else:
        allowed = [words.text(COMMAND_NAMES[t]) for t in ASKABLE if may(t, row.link).allowed]
        tone = "plain"
        state = words.text("May: %(acts)s.", acts=", ".join(allowed)) if allowed else words.text("May do nothing.")
    assert visit.chosen is not None
    return PermissionLine(
        row=row,
        phone=phone_text(row.phone),
        state=state,
        tone=tone,
        method=words.text(METHODS[row.verification_method])
        if row.verification_method in METHODS
        else row.verification_method or "",
        granted_by=names.get(row.granted_by, row.granted_by),
        url=visit.urls.lane(visit.chosen, row.contact_id),
    )


def load_guardian_answer(conn: Connection, visit: Visit) -> GuardianAnswerBox:
    """The policy's answer for the contact `who` and the act `act` of the address, from the permission as it is now."""
    words, chosen = visit.words, _chosen(conn, visit)
    who, asked = visit.one("who"), visit.one("act")
    act = next((t for t in ASKABLE if t.value == asked), None)
    contact = views.asked_contact(conn, chosen[0], chosen[1], who) if chosen and who and act else None
    headline = why = next_action = ""
    allowed, policy_ids = False, tuple[str, ...]()
    if contact is not None and act is not None and chosen is not None:
        answer = may(act, contact.link)
        allowed, policy_ids = answer.allowed, answer.policy_ids
        values = {"who": contact.name or contact.contact_id, "child": chosen[2], "act": words.text(COMMAND_NAMES[act])}
        if allowed:
            headline = words.text("Yes: %(who)s may do this for %(child)s (%(act)s).", **values)
        else:
            headline = words.text("No: %(who)s may not do this for %(child)s (%(act)s).", **values)
        text = explain(State.APPLIED_ONCE if allowed else State.BLOCKED_GUARDIAN_DENIED, answer.reason, words.locale)
        why, next_action = text.why, "" if allowed else text.next_action
    rows = views.permissions(conn, chosen[0], chosen[1]) if chosen else []
    return GuardianAnswerBox(
        patient_id=chosen[1] if chosen else None,
        name=chosen[2] if chosen else "",
        clinic=visit.urls.clinic,
        who=who,
        asked=asked,
        acts=tuple((t.value, words.text(COMMAND_NAMES[t])) for t in ASKABLE),
        contacts=tuple((row.contact_id, row.contact_name or row.contact_id) for row in rows),
        answered=bool(chosen and who and act),
        known=contact is not None,
        allowed=allowed,
        headline=headline,
        why=why,
        next_action=next_action,
        policy_ids=policy_ids,
        policy=policy_text(),
    )


def load_guardian_history(conn: Connection, visit: Visit) -> GuardianHistory:
    """Changes of the chosen patient's permissions, newest first, out of the audit trail."""
    chosen = _chosen(conn, visit)
    if chosen is None:
        return GuardianHistory(patient_id=None, lines=())
    tenant_id, patient_id, _name = chosen
    links = {row.contact_id: row.contact_name or row.contact_id for row in views.permissions(conn, tenant_id, patient_id)}
    rows = views.changes(conn, tenant_id, patient_id, list(links))
    actors = views.actor_names(conn, [row.actor for row in rows])
    return GuardianHistory(
        patient_id=patient_id,
        lines=tuple(
            ChangeLine(
                at=row.at,
                actor=actors.get(row.actor, row.actor),
                contact=links[row.contact_id],
                what=_what(visit.words, row),
                version=str((row.after or {}).get("guardian_version", "")),
                reason=row.reason or "",
            )
            for row in rows
        ),
    )


def _what(words: Words, row: ChangeRow) -> str:
    """`now: schedule, cancel · before: nothing`."""
    if (row.after or {}).get("revoked"):
        return words.text("revoked; before: %(before)s", before=_granted(words, row.before))
    return words.text("now: %(after)s; before: %(before)s", after=_granted(words, row.after), before=_granted(words, row.before))


def _granted(words: Words, permission: dict[str, Any] | None) -> str:
    if permission is None or permission.get("revoked"):
        return words.text("nothing")
    held = [words.text(label) for name, label in PERMISSION_NAMES.items() if permission.get(name)]
    return ", ".join(held) or words.text("nothing")


def _chosen(conn: Connection, visit: Visit) -> tuple[str, str, str] | None:
    """Clinic, id and name of the patient in the address; None without one. Raises NotFound."""
    patient_id = visit.one("patient")
    if not patient_id or visit.chosen is None:
        return None
    name = views.patient_name(conn, visit.chosen.tenant_id, patient_id)
    if name is None:
        raise NotFound("There is no such patient.")
    return visit.chosen.tenant_id, patient_id, name


def _patient_url(visit: Visit, row: PatientRow) -> str:
    urls = Urls(row.clinic.slug) if visit.several else visit.urls
    return urls.to("/guardians", q=visit.one("q"), patient=row.patient_id)


def _cursor_text(cursor: PatientCursor) -> str:
    raw = msgspec.json.encode([cursor.name, cursor.tenant_id, cursor.patient_id])
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _cursor_from(text: str) -> PatientCursor | None:
    if not text:
        return None
    try:
        parts = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=tuple[str, str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise InvalidRequest("The cursor of this address cannot be read; start again from the first page.") from error
    return PatientCursor(*parts)
