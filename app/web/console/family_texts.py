"""What families read in safe mode: each text as it would go out now, and where it is worded anew."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy import Connection

from app.domain.contingency_texts import GENERAL, HOURS_NAMES, INTENTS, TEXTS, Notice, notice
from app.store.lanes import GLOBAL_SCOPE
from app.store.notices import hours_of
from app.store.settings import load
from app.web.console.pages import SUPERADMIN
from app.web.console.visit import Visit
from app.web.i18n import mark

INTENT_NAMES: Final = {
    "schedule": mark("A request to schedule"),
    "reschedule": mark("A request to reschedule"),
    "cancel": mark("A request to cancel"),
    GENERAL: mark("Any other message"),
}
HOURS_WORDS: Final = {"open": mark("in opening hours"), "closed": mark("outside opening hours")}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLine:
    """One text: its field, its wording, and how it reads now."""

    field: str
    label: str
    wording: str
    preview: str
    template: str
    edited: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SafeTexts:
    """Context of `safe_texts`."""

    lines: tuple[TextLine, ...]
    may_edit: bool
    scope: str
    scope_name: str
    csrf: str
    clinic: str | None


def field_of(intent: str, kind: str) -> str:
    """Name of the form's field for one text."""
    return f"{intent}_{kind}"


def load_safe_texts(conn: Connection, visit: Visit) -> SafeTexts:
    """The texts of the chosen clinic, or those that hold where a clinic has none of its own."""
    words = visit.words
    scope = visit.chosen.tenant_id if visit.chosen is not None else GLOBAL_SCOPE
    document = load(conn, scope)
    edited, hours = document.get("family_texts") or {}, hours_of(document)
    open_now = hours.is_open(words.now)
    # a moment of the other kind, so that both texts read as they would
    next_open = hours.next_opening(words.now) or words.now
    closing = next((end for _, end in hours.shifts_from(words.now)), words.now)
    moments = {"open": words.now if open_now else next_open, "closed": closing if open_now else words.now}

    def said(intent: str, kind: str) -> Notice:
        now = moments[kind]
        received = now - timedelta(minutes=2)
        return notice(intent, hours=hours, now=now, received_at=received, phone=document.get("phone"), edited=edited)

    lines = []
    for intent in INTENTS:
        for kind in HOURS_NAMES:
            own = (edited.get(intent) or {}).get(kind)
            made = said(intent, kind)
            lines.append(
                TextLine(
                    field=field_of(intent, kind),
                    label=f"{words.text(INTENT_NAMES[intent])}, {words.text(HOURS_WORDS[kind])}",
                    wording=own or TEXTS[intent][kind],
                    preview=made.text,
                    template=made.template.rpartition(" ")[2],
                    edited=bool(own),
                )
            )
    return SafeTexts(
        lines=tuple(lines),
        may_edit=visit.role == SUPERADMIN,
        scope=scope,
        scope_name=visit.chosen.name if visit.chosen is not None else words.text("all clinics"),
        csrf=visit.csrf_token,
        clinic=visit.urls.clinic,
    )


def patch_of(form: dict[str, str]) -> dict[str, dict[str, str | None]]:
    """The change of settings that a form asks for; a built-in wording, or none, takes the own one back."""
    patch: dict[str, dict[str, str | None]] = {}
    for intent in INTENTS:
        for kind in HOURS_NAMES:
            if field_of(intent, kind) in form:
                text = " ".join(form[field_of(intent, kind)].split())
                patch.setdefault(intent, {})[kind] = None if text in ("", TEXTS[intent][kind]) else text
    return patch
