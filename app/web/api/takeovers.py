"""Tickets and takeovers over HTTP: a person has the conversation, answers the family, gives it back."""

from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody

from app.domain.envelopes import Command, canonical_json, sha256_hex
from app.domain.states import CommandType, RequestedBy, Source
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.store import people, takeovers
from app.store.intake_facts import Submission
from app.web.api.common import (
    AnyRequest,
    Document,
    TenantId,
    Texts,
    by,
    check_ids,
    json_or_nothing,
    problems,
    require_json,
    services_of,
    tenant_of,
)

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["takeovers"]}
ACT: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["takeovers"], "responses": problems(404, 409)}
WAIT_S: Final = 10.0
TEXT_MAX: Final = 4_000


class OpenBody(msgspec.Struct):
    """Whose conversation a person takes, and why."""

    contact_id: str
    reason: str
    tenant_id: str | None = None


class SeenBody(msgspec.Struct):
    """`rev` is the revision that the caller saw; with it, a ticket that changed since is refused."""

    rev: int | None = None
    tenant_id: str | None = None


class StartBody(SeenBody):
    """With a `reason`, a conversation is also taken from whoever has it."""

    reason: str | None = None


class ReplyBody(msgspec.Struct):
    """What the family reads."""

    text: str
    rev: int | None = None
    tenant_id: str | None = None


class CloseBody(msgspec.Struct):
    """How it ended."""

    reason: str
    rev: int | None = None
    tenant_id: str | None = None


@get(
    ["/api/v1/tickets/{ticket_id:str}", "/api/v1/takeovers/{ticket_id:str}"],
    summary="One ticket",
    responses=problems(404),
    **READ,
)
async def get_ticket(request: AnyRequest, ticket_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """With its context; of a takeover also the family's last messages."""
    return await _shown(request, await tenant_of(request, tenant_id), ticket_id)


@post("/api/v1/takeovers", before_request=require_json, status_code=201, summary="Take a conversation over", **ACT)
async def open_takeover(request: AnyRequest, data: JSONBody[OpenBody]) -> Document:
    """A person's command through the gate; the AI is silent from then on. 409 when somebody has it already."""
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
    texts.check()
    check_ids(contact_id=data.contact_id)
    return await take_over(request, await tenant_of(request, data.tenant_id), data.contact_id, reason)


@post("/api/v1/takeovers/{ticket_id:str}/start", before_request=json_or_nothing, status_code=200, summary="Take the ticket", **ACT)
async def start(request: AnyRequest, ticket_id: FromPath[str], data: JSONBody[StartBody | None] = None) -> Document:
    """The clock goes on until the family has an answer. 409 when somebody else has it and no reason is given."""
    texts = Texts()
    reason = texts.optional("/reason", data.reason if data is not None else None, 500)
    texts.check()
    return await _do(request, ticket_id, data, takeovers.start, reason=reason)


@post("/api/v1/takeovers/{ticket_id:str}/reply", before_request=require_json, status_code=200, summary="Answer the family", **ACT)
async def reply(request: AnyRequest, ticket_id: FromPath[str], data: JSONBody[ReplyBody]) -> Document:
    """Goes out by the clinic's channel; it stops the clock until they write again."""
    texts = Texts()
    text = texts.need("/text", data.text, TEXT_MAX)
    texts.check()
    return await _do(request, ticket_id, data, takeovers.reply, text)


@post("/api/v1/takeovers/{ticket_id:str}/close", before_request=require_json, status_code=200, summary="Give it back", **ACT)
async def close(request: AnyRequest, ticket_id: FromPath[str], data: JSONBody[CloseBody]) -> Document:
    """The conversation goes back to the robot, and the family is told; also closes a critical ticket."""
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
    texts.check()
    return await _do(request, ticket_id, data, takeovers.close, reason)


# --- shared with the console --------------------------------------------------------------------------------------------


async def take_over(request: AnyRequest, tenant_id: str, contact_id: str, reason: str) -> Document:
    """Send a person's takeover through the intake; its ticket. Raises NotFound, Conflict (with the ticket that there is)."""
    services, who = services_of(request), by(request)
    if await services.db.read(people.contact, tenant_id, contact_id, services.clock.now()) is None:
        raise NotFound("There is no such contact.")
    command_id, payload = new_id(), {"reason": reason}
    command = Command(
        command_id=command_id,
        tenant_id=tenant_id,
        contact_id=contact_id,
        command_type=CommandType.TAKEOVER,
        idempotency_key=f"takeover:{command_id}",
        fingerprint=sha256_hex(canonical_json([contact_id, CommandType.TAKEOVER, None, payload])),
        requested_by=RequestedBy.HUMAN,
        requested_by_id=who.actor[:200],
        confirmed_by_contact=False,
        correlation_id=who.correlation_id or f"corr-{command_id}",
        payload=payload,
        as_of=who.now,
        occurred_at=who.now,
        source=Source.SYSTEM,
    )
    submission = Submission(tenant_id=tenant_id, item=command, spare_id=new_id(), priority=command.priority.rank)
    await services.intake.submit([submission])
    await services.intake.result(tenant_id, command_id, WAIT_S)
    services.takeovers.wake.set()
    services.hub.wake()
    ticket_id = await services.db.read(takeovers.takeover_of, tenant_id, contact_id)
    if ticket_id is None:
        raise Conflict("The takeover waits behind earlier requests of this contact; it takes effect at its turn.")
    found = await _shown(request, tenant_id, ticket_id)
    if found["cause_id"] != command_id:
        conflict = Conflict("Somebody has this conversation already.")
        conflict.extra = {"takeover": found}
        raise conflict
    return found


async def _do(request: AnyRequest, ticket_id: str, data: Any, act: Any, *args: Any, **more: Any) -> Document:
    check_ids(ticket_id=ticket_id)
    tenant_id = await tenant_of(request, data.tenant_id if data is not None else None)
    services = services_of(request)
    try:
        await services.db.write(act, tenant_id, ticket_id, by(request), *args, rev=data.rev if data is not None else None, **more)
    except Conflict as conflict:
        conflict.extra = {"ticket": await _shown(request, tenant_id, ticket_id)}
        raise
    tickets_changed(request)
    return await _shown(request, tenant_id, ticket_id)


def tickets_changed(request: AnyRequest) -> None:
    """Wake what looks at tickets, their lanes and their messages."""
    services = services_of(request)
    for wake in (services.takeovers.wake, services.dispatch.wake, services.outbox.wake):
        wake.set()
    services.hub.wake()


async def _shown(request: AnyRequest, tenant_id: str, ticket_id: str) -> Document:
    check_ids(ticket_id=ticket_id)
    found = await services_of(request).db.read(takeovers.ticket, (tenant_id,), ticket_id, texts=True)
    if found is None:
        raise NotFound("There is no such ticket.")
    return found


takeover_routes: Final[list[Any]] = [get_ticket, open_takeover, start, reply, close]
