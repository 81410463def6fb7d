"""Addresses of the agenda: look, and ask for a change. A change goes through the intake and the gate like every command."""

from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import quote
from zoneinfo import ZoneInfo

from litestar import Response, Router, get, post
from litestar.response import Redirect

from app.domain.states import CommandType
from app.errors import Conflict, Forbidden, InvalidRequest
from app.ids import new_id
from app.store import agenda_acts
from app.store.intake_facts import Submission
from app.store.views.agenda import safe_mode_since
from app.web.api.common import Texts, by, storable
from app.web.auth import actor_of, authenticator
from app.web.console.agenda import blocked_text
from app.web.console.render import show, view
from app.web.console.visit import AnyRequest, services_of
from app.web.i18n import negotiate
from app.web.words import Words

AGENDA: Final = view("agenda", "agenda.html", "agenda_rows", "agenda_act")
WAIT_S: Final = 5.0
"""How long the page waits for the gate's answer; later the result shows up by itself."""

_TYPES: Final = {t.value: t for t in (CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL)}


@get("/agenda")
async def page(request: AnyRequest) -> Response[str]:
    """A day (`day`) or week (`span=week`), of one therapist or all; `pick` an appointment, `done` a request."""
    return await show(request, AGENDA)


@post("/agenda/ask", status_code=303)
async def ask(request: AnyRequest) -> Redirect:
    """Schedule, reschedule or cancel as a person. Raises Conflict in safe mode and when the appointment changed meanwhile."""
    raw = await request.form()
    form = {name: value.strip() for name, value in raw.items() if isinstance(value, str) and storable(value)}
    tenant = await authenticator(request).tenant(form.get("clinic", ""))
    if tenant is None or not actor_of(request).sees(tenant.tenant_id):
        raise Forbidden("This clinic is not yours.")
    command_type = _TYPES.get(form.get("command_type", ""))
    if command_type is None:
        raise InvalidRequest("Say what is to be done.", errors=[{"pointer": "/command_type", "detail": "is not one of the acts"}])
    services, zone = services_of(request), ZoneInfo(tenant.timezone)
    since = await services.db.read(safe_mode_since, tenant.tenant_id, services.clock.now())
    if since is not None:
        refused = Conflict(blocked_text(Words(negotiate(request), zone, services.clock.now()), command_type, since))
        refused.extra = {"said": refused.detail}
        raise refused
    texts = Texts()
    payload, patient_id = _payload(form, command_type, zone, texts)
    contact, reason = texts.need("/contact", form.get("contact", "")), texts.need("/reason", form.get("reason", ""), 500)
    key, version = texts.need("/key", form.get("key", ""), 60), form.get("seen", "")
    seen = int(version) if version.isascii() and version.isdigit() and len(version) < 10 else None
    if command_type is not CommandType.SCHEDULE and seen is None:
        texts.fail("/seen", "must be the version that you saw")
    texts.check()
    command = await services.db.write(
        agenda_acts.human_command,
        tenant.tenant_id,
        command_type,
        by(request),
        new_id=new_id(),
        key=key,
        contact=contact,
        patient_id=patient_id,
        payload=payload,
        confirmed=form.get("confirmed") == "on",
        seen_version=seen,
        reason=reason,
    )
    submission = Submission(tenant_id=tenant.tenant_id, item=command, spare_id=new_id(), priority=command.priority.rank)
    (receipt,) = await services.intake.submit([submission])
    await services.intake.result(tenant.tenant_id, receipt.item_id, WAIT_S)
    services.hub.wake()
    if form.get("back") == "lane":
        lane = f"/contacts/{quote(tenant.slug, safe='')}/{quote(command.contact_id, safe='')}"
        return Redirect(lane, status_code=303, query_params={"done": receipt.item_id})
    day = str(payload.get("start", ""))[:10] or form.get("day", "")
    return Redirect("/agenda", status_code=303, query_params={"clinic": tenant.slug, "day": day, "done": receipt.item_id})


def _payload(form: dict[str, str], command_type: CommandType, zone: ZoneInfo, texts: Texts) -> tuple[dict[str, Any], str]:
    """The command's payload in the clinic's timezone, and the patient (of a new appointment)."""
    payload: dict[str, Any] = {}
    patient_id = ""
    if command_type is CommandType.SCHEDULE:
        patient_id = texts.need("/patient_id", form.get("patient_id", ""))
        payload["therapist_id"] = texts.need("/therapist_id", form.get("therapist_id", ""))
    else:
        payload["appointment_id"] = texts.need("/appointment_id", form.get("appointment_id", ""), 300)
    if command_type is CommandType.CANCEL:
        return payload, patient_id
    minutes = form.get("minutes", "")
    if not (minutes.isascii() and minutes.isdigit() and 0 < int(minutes[:5]) <= 720):
        texts.fail("/minutes", "must be 1 to 720 minutes")
        return payload, patient_id
    try:
        start = datetime.fromisoformat(f"{form.get('date', '')}T{form.get('time', '')}")
    except ValueError:
        texts.fail("/date", "must be a day and a time")
        return payload, patient_id
    start = start.replace(tzinfo=zone)
    # adding in UTC, so that a clock change inside the appointment does not stretch it
    end = (start.astimezone(UTC) + timedelta(minutes=int(minutes))).astimezone(zone)
    return payload | {"start": start.isoformat(), "end": end.isoformat()}, patient_id


agenda_pages: Final[list[Any]] = [Router("/", route_handlers=[page, ask], opt={"access": "page"}, include_in_schema=False)]
