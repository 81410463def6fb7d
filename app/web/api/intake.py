"""Events and commands in (F-01): durable before the answer, one answer per item, in request order."""

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Final

from litestar import get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, QueryParameter
from msgspec.structs import replace as changed

from app.domain.envelopes import Command, Message, parse_event
from app.domain.reasons import Reason, explain
from app.domain.states import PENDING, State
from app.engine.intake import command_submission, message_submission
from app.errors import InvalidRequest, NotFound
from app.ids import new_id
from app.store import items
from app.store.inbox import Receipt
from app.store.intake_facts import Submission
from app.store.views.agenda import free_instead
from app.web.api.common import (
    AnyRequest,
    Document,
    TenantId,
    check_ids,
    explained,
    json_of,
    locale_of,
    problems,
    services_of,
    tenant_of,
)
from app.web.api.direct import direct
from app.web.api.shapes import (
    BATCH_MAX,
    CommandAnswer,
    CommandAnswers,
    CommandsOperation,
    EventAnswer,
    EventAnswers,
    EventsOperation,
)
from app.web.problems import given_correlation

WAIT_MAX_S: Final = 30.0

Wait = Annotated[
    float, QueryParameter(ge=0, le=WAIT_MAX_S, description="Seconds to hold the answer until the terminal result of every command")
]


def durable(shape: Any) -> ResponseSpec:
    """The description of an accepted request's answer."""
    return ResponseSpec(shape, description="Stored durably; one answer per item", generate_examples=False)


async def _events(request: AnyRequest, body: bytes) -> Any:
    raw_items, tenants, single = await _read(request, body, "events")
    submissions = [_event_submission(tenant_id, raw) for tenant_id, raw in zip(tenants, raw_items, strict=True)]
    submissions = _under(request, submissions)
    receipts = await services_of(request).intake.submit(submissions)
    locale = locale_of(request)
    answers = [_answer(receipt, "event_id", "sequence", locale) for receipt in receipts]
    return answers[0] if single else {"items": answers}


async def _commands(request: AnyRequest, body: bytes, wait: float = 0.0) -> Any:
    raw_items, tenants, single = await _read(request, body, "commands")
    submissions = [command_submission(tenant_id, raw) for tenant_id, raw in zip(tenants, raw_items, strict=True)]
    submissions = _under(request, submissions)
    receipts = await services_of(request).intake.submit(submissions)
    locale = locale_of(request)
    answers = [_answer(receipt, "command_id", "commit_order", locale) for receipt in receipts]
    if wait > 0:
        await _add_results(request, tenants, receipts, answers, wait, locale)
    return answers[0] if single else {"items": answers}


@post(
    "/api/v1/events",
    status_code=202,
    opt={"access": "scope:intake"},
    tags=["intake"],
    summary="Hand over one event, or a batch",
    operation_class=EventsOperation,
    middleware=[direct(_events, 202)],
    responses={202: durable(EventAnswer | EventAnswers), **problems(404, 413)},
)
async def post_events(request: AnyRequest) -> Any:
    """Every item is stored, usable or not, before the answer leaves; an unusable one becomes a manual task."""
    return await _events(request, await request.body())


@post(
    "/api/v1/commands",
    status_code=202,
    opt={"access": "scope:intake"},
    tags=["intake"],
    summary="Hand over one command, or a batch",
    operation_class=CommandsOperation,
    middleware=[direct(_commands, 202)],
    responses={202: durable(CommandAnswer | CommandAnswers), **problems(404, 413)},
)
async def post_commands(request: AnyRequest, wait: Wait = 0.0) -> Any:
    """Every item is stored before the answer leaves; with `wait` the answer is held until the results are there."""
    return await _commands(request, await request.body(), wait)


@get(
    "/api/v1/commands/{command_id:str}",
    opt={"access": "scope:read"},
    tags=["intake"],
    summary="A command with everything that happened to it",
    responses=problems(404),
)
async def get_command(request: AnyRequest, command_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Status, result, reason, next action and timeline; also of a command that could not be used.

    `alternatives`: free starts near a slot that was taken, as the agenda is at the moment of asking.
    """
    check_ids(command_id=command_id)
    services, tenant = services_of(request), await tenant_of(request, tenant_id)
    found = await services.db.read(items.command, tenant, command_id)
    if found is None:
        raise NotFound("There is no such command.")
    if found["reason"] == Reason.SLOT_TAKEN:
        free = await services.db.read(free_instead, tenant, found["payload"], services.clock.now())
        found = found | {"alternatives": list(free)}
    return explained(found, locale_of(request))


@get(
    "/api/v1/events/{event_id:str}",
    opt={"access": "scope:read"},
    tags=["intake"],
    summary="An event with everything that happened to it",
    responses=problems(404),
)
async def get_event(request: AnyRequest, event_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """Status, result, reason, next action and timeline; also of an event that could not be used."""
    check_ids(event_id=event_id)
    found = await services_of(request).db.read(items.event, await tenant_of(request, tenant_id), event_id)
    if found is None:
        raise NotFound("There is no such event.")
    return explained(found, locale_of(request))


# --- bodies -------------------------------------------------------------------------------------------------------------


async def _read(request: AnyRequest, sent: bytes, name: str) -> tuple[list[object], list[str], bool]:
    """The raw items, the clinic of each, and whether the body was a single item."""
    body = json_of(sent)
    if not isinstance(body, dict):
        raise InvalidRequest("The body must be a JSON object.", errors=[{"pointer": "", "detail": "must be an object"}])
    single = name not in body
    raw_items = [body] if single else body[name]
    if not isinstance(raw_items, list):
        raise InvalidRequest(f"{name} must be a list.", errors=[{"pointer": f"/{name}", "detail": "must be a list"}])
    if len(raw_items) > BATCH_MAX:
        raise InvalidRequest(
            f"At most {BATCH_MAX} items in one request; nothing was accepted.",
            errors=[{"pointer": f"/{name}", "detail": f"has {len(raw_items)} items, at most {BATCH_MAX} are taken"}],
        )
    return raw_items, await _tenants(request, raw_items, body.get("tenant_id")), single


async def _tenants(request: AnyRequest, raw_items: Sequence[object], everywhere: object) -> list[str]:
    """The clinic of each item: the one it names, else the one the body names, else the key's. All, or none is accepted."""
    known: dict[object, str] = {}
    tenants = []
    for raw in raw_items:
        given = (raw.get("tenant_id") if isinstance(raw, dict) else None) or everywhere or None
        key = given if isinstance(given, str | None) else repr(given)
        if key not in known:
            known[key] = await tenant_of(request, given)
        tenants.append(known[key])
    return tenants


def _under(request: AnyRequest, submissions: list[Submission]) -> list[Submission]:
    """Items that name no correlation id get the request's own, if the caller gave one."""
    given = given_correlation(request.scope)
    if given is None:
        return submissions
    return [
        changed(s, item=changed(s.item, correlation_id=given, correlation_generated=False))
        if isinstance(s.item, Command | Message) and s.item.correlation_generated
        else s
        for s in submissions
    ]


def _event_submission(tenant_id: str, raw: object) -> Submission:
    spare = new_id()
    return message_submission(tenant_id, parse_event(raw, tenant_id=tenant_id, new_id=spare), spare)


# --- answers ------------------------------------------------------------------------------------------------------------


def _answer(receipt: Receipt, id_name: str, number_name: str, locale: str) -> Document:
    answer: Document = {
        id_name: receipt.item_id,
        "status": receipt.status,
        number_name: receipt.number,
        "dispatch_priority": receipt.dispatch_priority,
        "correlation_id": receipt.correlation_id,
    }
    if receipt.reason is not None:
        answer |= {"reason": receipt.reason, "next_action": explain(receipt.status, receipt.reason, locale).next_action}
    if receipt.errors:
        answer["errors"] = [{"pointer": e.pointer, "detail": e.detail} for e in receipt.errors]
    return answer


async def _add_results(
    request: AnyRequest,
    tenants: Sequence[str],
    receipts: Sequence[Receipt],
    answers: Sequence[Document],
    wait_s: float,
    locale: str,
) -> None:
    """Hold until every command is decided or the time is over, then put its state into its answer."""
    services = services_of(request)
    waiting = [
        (tenant_id, receipt.item_id)
        for tenant_id, receipt in zip(tenants, receipts, strict=True)
        if receipt.status in PENDING or receipt.status is State.DUPLICATE_IGNORED
    ]
    await asyncio.gather(*(services.intake.result(tenant_id, command_id, wait_s) for tenant_id, command_id in set(waiting)))
    rows: dict[tuple[str, str], Any] = {}
    for tenant_id in set(tenants):
        ids = [command_id for t, command_id in waiting if t == tenant_id]
        found = await services.db.read(items.outcomes, tenant_id, ids) if ids else {}
        rows |= {(tenant_id, command_id): row for command_id, row in found.items()}
    for tenant_id, receipt, answer in zip(tenants, receipts, answers, strict=True):
        row = rows.get((tenant_id, receipt.item_id))
        if row is None:  # terminal from the start: unusable, or without a place in the lane
            answer |= {"result": receipt.status, "reason": receipt.reason}
        elif receipt.status is State.DUPLICATE_IGNORED:
            answer |= {"result": receipt.status, "reason": receipt.reason, "original_result": row.result}
        else:
            answer |= {"status": row.status, "result": row.result, "reason": row.reason}
        answer["next_action"] = explain(answer["status"], answer["reason"], locale).next_action


intake_routes: Final = [post_events, post_commands, get_command, get_event]
