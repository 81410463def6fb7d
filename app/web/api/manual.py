"""The manual queue over HTTP: what a machine must not do, claimed, settled and closed by people."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from app.domain.manual import TaskStatus, is_outcome
from app.domain.reasons import explain
from app.errors import Conflict, NotFound
from app.ids import new_id
from app.store import items, manual
from app.web.api.common import (
    AnyRequest,
    Cursor,
    Document,
    Limit,
    TenantId,
    Texts,
    by,
    check_ids,
    cursor_time,
    json_or_nothing,
    locale_of,
    page,
    problems,
    read_cursor,
    services_of,
    tenant_of,
)
from app.web.auth import actor_of

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["manual queue"]}
ACT: Final[dict[str, Any]] = {
    "before_request": json_or_nothing,
    "status_code": 200,
    "responses": problems(404, 409),
    "opt": {"access": "scope:operate"},
    "tags": ["manual queue"],
}
REASON: Final = "carried out over the API"
"""What the audit trail says of a request that was carried out without a reason."""
WAIT_S: Final = 10.0
"""How long an answer is held for the result of a person's command."""
BULK_MAX: Final = 200
Wanted = Annotated[str | None, QueryParameter(max_length=60)]


class SeenBody(msgspec.Struct):
    """`rev` is the revision that the caller saw; with it, a task that changed since is refused."""

    rev: int | None = None
    tenant_id: str | None = None


class ResolveBody(msgspec.Struct):
    """How it ended: an outcome code, and a note for whoever reads it later."""

    resolution: str
    note: str | None = None
    rev: int | None = None
    tenant_id: str | None = None


class ApplyBody(msgspec.Struct):
    """Why it is carried out after all; `confirmed_by_contact` = the family said CONFIRMAR to the person who acts."""

    reason: str | None = None
    confirmed_by_contact: bool = False
    rev: int | None = None
    tenant_id: str | None = None


class BulkBody(msgspec.Struct):
    """Several tasks with one outcome; each is judged alone."""

    task_ids: list[str]
    resolution: str
    note: str | None = None
    tenant_id: str | None = None


class UndoBody(msgspec.Struct):
    """Several closed tasks; each is judged alone."""

    task_ids: list[str]
    tenant_id: str | None = None


@get("/api/v1/manual-tasks", summary="Tasks by deadline, the oldest first", responses=problems(404), **READ)
async def list_tasks(
    request: AnyRequest,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Wanted = None,
    cause: Wanted = None,
    owner: Annotated[str | None, QueryParameter(max_length=200)] = None,
    tenant_id: TenantId = None,
) -> Document:
    """Those that are not closed, or those of one `status`; `cause` and `owner` narrow it down."""
    texts = Texts()
    if status is not None and status not in set(TaskStatus):
        texts.fail("/status", "must be one of " + ", ".join(TaskStatus))
    texts.check()
    given = read_cursor(cursor, str, str)
    after: tuple[datetime, str] | None = (cursor_time(given[0]), given[1]) if given else None
    statuses = (status,) if status is not None else (TaskStatus.OPEN, TaskStatus.CLAIMED)
    scope = (await tenant_of(request, tenant_id),)
    found = await services_of(request).db.read(
        manual.tasks, scope, statuses=statuses, cause=cause, owner=owner, after=after, limit=limit + 1
    )
    locale = locale_of(request)
    return page([told(item, locale) for item in found], limit, "due_at", "task_id")


@get("/api/v1/manual-tasks/{task_id:str}", summary="One task with what is behind it", responses=problems(404), **READ)
async def get_task(request: AnyRequest, task_id: FromPath[str], tenant_id: TenantId = None) -> Document:
    """The request or the raw item, and the appointment at stake."""
    return await _shown(request, await tenant_of(request, tenant_id), task_id)


@post("/api/v1/manual-tasks/{task_id:str}/claim", summary="Take a task", **ACT)
async def claim(request: AnyRequest, task_id: FromPath[str], data: JSONBody[SeenBody | None] = None) -> Document:
    """Two callers cannot have one task: the second is answered 409 with the task as it is."""
    return await _do(request, task_id, data, manual.claim)


@post("/api/v1/manual-tasks/{task_id:str}/release", summary="Give a task back", **ACT)
async def release(request: AnyRequest, task_id: FromPath[str], data: JSONBody[SeenBody | None] = None) -> Document:
    """One's own; a manager gives back anybody's."""
    return await _do(request, task_id, data, manual.release, anyones=_leads(request))


@post("/api/v1/manual-tasks/{task_id:str}/resolve", summary="Close a task with its outcome", **ACT)
async def resolve(request: AnyRequest, task_id: FromPath[str], data: JSONBody[ResolveBody]) -> Document:
    """No task is closed without an outcome, and nobody closes what somebody else holds."""
    note = _outcome(data.resolution, data.note)
    return await _do(request, task_id, data, manual.resolve, resolution=data.resolution, note=note)


@post("/api/v1/manual-tasks/{task_id:str}/reopen", summary="Undo a closing", **ACT)
async def reopen(request: AnyRequest, task_id: FromPath[str], data: JSONBody[SeenBody | None] = None) -> Document:
    """For ten minutes, and never for what a command did."""
    return await _do(request, task_id, data, manual.reopen)


@post("/api/v1/manual-tasks/{task_id:str}/replay", summary="Carry the request out after all, through the gate", **ACT)
async def apply(request: AnyRequest, task_id: FromPath[str], data: JSONBody[ApplyBody | None] = None) -> Document:
    """As a new command of a person on the versions of now; the task is closed when it had its effect, else it stays.

    Without a reason the audit trail says that it was carried out over the API.
    """
    wanted, texts = data or ApplyBody(), Texts()
    reason = REASON if wanted.reason is None else texts.need("/reason", wanted.reason, 1_000)
    texts.check()
    check_ids(task_id=task_id)
    tenant_id = await tenant_of(request, wanted.tenant_id)
    command = await carry_out(request, tenant_id, task_id, reason, confirmed=wanted.confirmed_by_contact, rev=wanted.rev)
    return await _shown(request, tenant_id, task_id) | {"command": command}


@post("/api/v1/manual-tasks/reopen", summary="Undo several closings", **ACT)
async def reopen_many(request: AnyRequest, data: JSONBody[UndoBody]) -> Document:
    """Each is judged alone: `items` says of each whether it is open again, and if not, why."""
    _few(data.task_ids)
    tenant_id = await tenant_of(request, data.tenant_id)
    return {"items": await reopen_all(request, dict.fromkeys(data.task_ids, tenant_id))}


@post("/api/v1/manual-tasks/resolve", summary="Close several tasks with one outcome", **ACT)
async def resolve_many(request: AnyRequest, data: JSONBody[BulkBody]) -> Document:
    """Each is judged alone: `items` says of each whether it was closed, and if not, why."""
    note = _outcome(data.resolution, data.note)
    _few(data.task_ids)
    tenant_id = await tenant_of(request, data.tenant_id)
    return {"items": await close_all(request, dict.fromkeys(data.task_ids, tenant_id), data.resolution, note)}


# --- shared with the console --------------------------------------------------------------------------------------------


async def carry_out(
    request: AnyRequest, tenant_id: str, task_id: str, reason: str, *, confirmed: bool, rev: int | None
) -> Document:
    """Put a person's command for the task into its lane and wait a while for its result.

    The command as it is then: when it has to wait longer (contingency), its effect closes the task whenever it happens.
    """
    services = services_of(request)
    command_id = await services.db.write(
        manual.human_command, tenant_id, task_id, by(request), new_id=new_id(), reason=reason, confirmed=confirmed, rev=rev
    )
    services.dispatch.wake.set()
    await services.intake.result(tenant_id, command_id, WAIT_S)
    tasks_changed(request)
    found = await services.db.read(items.command, tenant_id, command_id)
    return found if found is not None else {}


async def close_all(request: AnyRequest, tenants: dict[str, str], resolution: str, note: str | None) -> list[Document]:
    """Close each task (id -> clinic) in a transaction of its own; what could not be closed says why."""
    return await _each(request, tenants, "closed", manual.resolve, resolution=resolution, note=note)


async def reopen_all(request: AnyRequest, tenants: dict[str, str]) -> list[Document]:
    """Undo each closing in a transaction of its own; what stays closed says why."""
    return await _each(request, tenants, "reopened", manual.reopen)


async def _each(request: AnyRequest, tenants: dict[str, str], name: str, act: Any, **details: Any) -> list[Document]:
    done = []
    for task_id, tenant_id in tenants.items():
        entry: Document = {"task_id": task_id, name: True, "detail": None}
        try:
            await services_of(request).db.write(act, tenant_id, task_id, by(request), **details)
        except (Conflict, NotFound) as error:
            entry |= {name: False, "detail": error.detail}
        done.append(entry)
    tasks_changed(request)
    return done


def tasks_changed(request: AnyRequest) -> None:
    """Wake what shows tasks."""
    services_of(request).hub.wake()


def told(item: Document, locale: str) -> Document:
    """A task with `why` and `next_action` for people."""
    words = explain(item["cause"], item["reason"], locale)
    return item | {"why": words.why, "next_action": words.next_action}


# --- inside -------------------------------------------------------------------------------------------------------------


async def _do(request: AnyRequest, task_id: str, data: Any, act: Any, **details: Any) -> Document:
    check_ids(task_id=task_id)
    tenant_id = await tenant_of(request, data.tenant_id if data is not None else None)
    rev = data.rev if data is not None else None
    try:
        await services_of(request).db.write(act, tenant_id, task_id, by(request), rev=rev, **details)
    except Conflict as conflict:
        conflict.extra = {"task": await _shown(request, tenant_id, task_id)}
        raise
    tasks_changed(request)
    return await _shown(request, tenant_id, task_id)


async def _shown(request: AnyRequest, tenant_id: str, task_id: str) -> Document:
    check_ids(task_id=task_id)
    found = await services_of(request).db.read(manual.task, (tenant_id,), task_id)
    if found is None:
        raise NotFound("There is no such task.")
    return told(found, locale_of(request))


def _few(task_ids: list[str]) -> None:
    if not 0 < len(task_ids) <= BULK_MAX:
        texts = Texts()
        texts.fail("/task_ids", f"must have 1 to {BULK_MAX} entries")
        texts.check()


def _outcome(resolution: str, note: str | None) -> str | None:
    texts = Texts()
    if not is_outcome(resolution):
        texts.fail("/resolution", "must be an outcome: lower-case letters, digits and underscores, such as done_with_family")
    checked = texts.optional("/note", note, 1_000)
    texts.check()
    return checked


def _leads(request: AnyRequest) -> bool:
    """Whether the caller may give back what others hold: programs with the scope, managers, superadmins."""
    actor = actor_of(request)
    return actor.kind == "key" or actor.role in ("manager", "superadmin")


manual_routes: Final[list[Any]] = [list_tasks, get_task, claim, release, resolve, reopen, apply, resolve_many, reopen_many]
