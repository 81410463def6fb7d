"""Safe mode over HTTP: what holds, entry by hand, recovery, exit; shapes in the interface document."""

from typing import Any, Final

import msgspec
from litestar import Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import JSONBody

from app.domain.safe_mode import Checklist
from app.domain.states import ModeState
from app.errors import Forbidden, InvalidRequest
from app.store.episodes import open_scopes
from app.store.lanes import GLOBAL_SCOPE
from app.store.views import safe_mode as view
from app.web.api.common import AnyRequest, Document, TenantId, Texts, by, json_body, problems, require_json, services_of, tenant_of
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["safe mode"]}
OPERATE: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["safe mode"]}
ADMIN: Final[dict[str, Any]] = {"opt": {"access": "scope:admin"}, "tags": ["safe mode"]}


class EnterBody(msgspec.Struct):
    """Why safe mode is entered by hand."""

    reason: str
    tenant_id: str | None = None


class ChecklistBody(msgspec.Struct):
    """Ticks of gate (c); what is left out stays as it is."""

    ack_validated: bool | None = None
    recovery_action_logged: bool | None = None
    ops_notified: bool | None = None
    ticket_in_recovery: bool | None = None


class RecoveryBody(msgspec.Struct):
    """What was done, by which step of which runbook, and the ticks; what is left out stays as it is.

    `rev` is that of `recovery` as the caller saw it: with it a change by somebody else in between is a conflict.
    """

    action: str | None = None
    runbook_step: str | None = None
    checklist: ChecklistBody = msgspec.field(default_factory=ChecklistBody)
    tenant_id: str | None = None
    rev: int | None = None


@get("/api/v1/safe-mode", summary="What holds, why, and how far the exit has come", responses=problems(404), **READ)
async def get_safe_mode(request: AnyRequest, tenant_id: TenantId = None) -> Document:
    """Of the clinic, or of all of them where that is stricter; a global key without a clinic sees the strictest of all."""
    return await shown(request, await scope_of(request, tenant_id))


@post(
    "/api/v1/safe-mode/enter",
    before_request=require_json,
    status_code=200,
    summary="Enter safe mode by hand",
    responses=problems(404),
    **ADMIN,
)
async def enter(request: AnyRequest, data: JSONBody[EnterBody]) -> Document:
    """Of the key's clinic; with a global key of the clinic that is named, else of all of them."""
    only_superadmins(request)
    texts = Texts()
    reason = texts.need("/reason", data.reason, 500)
    texts.check()
    given = data.tenant_id
    everybody = given in (None, GLOBAL_SCOPE)
    scope = GLOBAL_SCOPE if everybody and actor_of(request).tenant_ids is None else await tenant_of(request, given)
    await services_of(request).safe_mode.enter_by_hand(scope, reason, by(request))
    return await shown(request, scope)


@post(
    "/api/v1/safe-mode/recovery",
    before_request=require_json,
    status_code=200,
    summary="Record the recovery action and the checklist",
    responses=problems(404, 409),
    **OPERATE,
)
async def recovery(request: AnyRequest, data: JSONBody[RecoveryBody]) -> Document:
    """Gates two and three of the exit."""
    only_superadmins(request)
    texts = Texts()
    action = texts.optional("/action", data.action, 1000)
    runbook_step = texts.optional("/runbook_step", data.runbook_step, 200)
    texts.check()
    ticks = {name: tick for name in Checklist.__slots__ if (tick := getattr(data.checklist, name)) is not None}
    scope = await own_scope(request, data.tenant_id)
    loop = services_of(request).safe_mode
    await loop.recover(scope, by(request), action=action, runbook_step=runbook_step, checklist=ticks, rev=data.rev)
    return await shown(request, scope)


@post(
    "/api/v1/safe-mode/exit",
    status_code=200,
    summary="Ask to leave safe mode",
    responses={
        202: ResponseSpec(Document, description="The window of green health still runs", generate_examples=False),
        **problems(404, 409),
    },
    **OPERATE,
)
async def leave(request: AnyRequest, tenant_id: TenantId = None) -> Response[Document]:
    """The terminal state; 202 while the window of green health still runs: the exit then completes by itself."""
    only_superadmins(request)
    body = await json_body(request) if await request.body() else None
    named = body.get("tenant_id") if isinstance(body, dict) else None
    scope = await own_scope(request, tenant_id if named is None else named)
    answer = await services_of(request).safe_mode.leave(scope, by(request))
    now = await shown(request, scope)
    document = {
        "result": answer.result,
        "missing": list(answer.missing),
        "reason": answer.reason,
        "state": now["state"],
        "health_window": now["health_window"],
    }
    return Response(document, status_code=202 if answer.result is None else 200)


def only_superadmins(request: AnyRequest) -> None:
    """Among people a superadmin owns safe mode; programs have their key's scopes. Raises Forbidden."""
    actor = actor_of(request)
    if actor.kind == "user" and actor.role != "superadmin":
        raise Forbidden("Safe mode is switched on and left by a superadmin.")


async def shown(request: AnyRequest, scope: str) -> Document:
    """The state of a scope."""
    services = services_of(request)
    return await services.db.read(view.overview, scope, services.safe_mode.policy.window, services.clock.now())


async def scope_of(request: AnyRequest, given: object) -> str:
    """The scope that decides for what the caller asks about; `global` names the one of all clinics."""
    if actor_of(request).tenant_ids is None and given == GLOBAL_SCOPE:
        return GLOBAL_SCOPE
    everybody = given is None and actor_of(request).tenant_ids is None
    tenant_id = None if everybody else await tenant_of(request, given)
    services = services_of(request)
    return await services.db.read(view.strictest, tenant_id, services.clock.now())


async def own_scope(request: AnyRequest, given: object) -> str:
    """The scope that the caller works on: where none is named the open one, `global` before a clinic's.

    Raises Forbidden for a clinic's key where safe mode holds everywhere, InvalidRequest where several clinics could be meant.
    """
    if actor_of(request).tenant_ids is None and given is None:
        scopes = await services_of(request).db.read(open_scopes)
        if GLOBAL_SCOPE in scopes:
            return GLOBAL_SCOPE
        if not scopes:
            return await scope_of(request, None)
        if len(scopes) > 1:
            detail = {"pointer": "/tenant_id", "detail": "is required"}
            raise InvalidRequest("Safe mode is on in several clinics: tenant_id says which one is meant.", errors=[detail])
        return scopes[0]
    scope = await scope_of(request, given)
    if scope == GLOBAL_SCOPE and actor_of(request).tenant_ids is not None:
        state = (await shown(request, scope))["state"]
        if state != ModeState.NORMAL:
            raise Forbidden("Safe mode holds for all clinics; a superadmin leaves it.")
        return await tenant_of(request, given)
    if scope == GLOBAL_SCOPE and given not in (None, GLOBAL_SCOPE):
        return await tenant_of(request, given)  # a clinic was named: its own safe mode, not everybody's
    return scope


safe_mode_routes: Final[list[Any]] = [get_safe_mode, enter, recovery, leave]
