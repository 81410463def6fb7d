"""Replay batches over HTTP (S-PC-02-003, F-05): dry run, run, pause, resume, cancel, and the report as JSON or CSV."""

import csv
import io
from typing import Annotated, Any, Final, Literal

import msgspec
from litestar import Response, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy import Connection

from app.domain.reasons import explain
from app.domain.replay_batch import BatchAct, BatchStatus
from app.domain.replay_filter import read_filter
from app.errors import Conflict, InvalidRequest, NotFound
from app.store.views import replays
from app.web.api.common import (
    AnyRequest,
    Cursor,
    Document,
    Limit,
    TenantId,
    by,
    check_ids,
    cursor_time,
    locale_of,
    next_cursor,
    problems,
    read_cursor,
    require_json,
    services_of,
    storable,
    tenant_of,
)
from app.web.api.shapes import also_as

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["replay"]}
OPERATE: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["replay"]}
RATE_MIN, RATE_MAX = 1 / 3_600, 1_000.0


class ReplayBody(msgspec.Struct):
    """What to replay. With `dry_run` false and `replay_id`, exactly that dry run is run; without it, one is made first."""

    filter: dict[str, Any] = {}
    dry_run: bool = True
    rate: float | None = None
    """Items a second; ten a minute when left out."""
    replay_id: str | None = None
    tenant_id: str | None = None


@post(
    "/api/v1/replays",
    before_request=require_json,
    status_code=201,
    summary="Make a dry run, or run a batch",
    responses=problems(404, 409, 413),
    **OPERATE,
)
async def create_replay(request: AnyRequest, data: JSONBody[ReplayBody], tenant_id: TenantId = None) -> Document:
    """A dry run says per item what would happen and why, and changes nothing; a run executes exactly that plan."""
    if not storable(data.filter):
        raise InvalidRequest("The filter cannot be used.", errors=[{"pointer": "/filter", "detail": "cannot be stored"}])
    services = services_of(request)
    named = tenant_id or data.tenant_id or data.filter.get("tenant_id")
    tenant, who = await tenant_of(request, named), by(request)
    replay_id = data.replay_id
    if replay_id is None or data.dry_run:
        wanted, errors = read_filter(data.filter, who.now)
        faults = [{"pointer": e.pointer, "detail": e.detail} for e in errors]
        if data.rate is not None and not RATE_MIN <= data.rate <= RATE_MAX:
            faults.append({"pointer": "/rate", "detail": "must be items a second, between one an hour and 1000"})
        if wanted is None or faults:
            raise InvalidRequest("This replay cannot be made.", errors=faults)
        replay_id = await services.replay.plan(tenant, wanted, rate_per_s=data.rate, by=who)
    else:
        check_ids(replay_id=replay_id)
    if not data.dry_run:
        await services.replay.act(tenant, replay_id, BatchAct.RUN, who)
    services.hub.wake()
    return await _shown(request, tenant, replay_id)


@get("/api/v1/replays", summary="The clinic's replay batches", responses=problems(404), **READ)
async def list_replays(request: AnyRequest, limit: Limit = 50, cursor: Cursor = None, tenant_id: TenantId = None) -> Document:
    """The newest first."""
    given = read_cursor(cursor, str, str)
    after = (cursor_time(given[0]), given[1]) if given else None
    tenant = await tenant_of(request, tenant_id)
    found = await services_of(request).db.read(replays.batches, tenant, after=after, limit=limit + 1)
    shown = found[:limit]
    more = len(found) > limit
    return {
        "items": shown,
        "next_cursor": next_cursor(shown[-1]["planned_at"].isoformat(), shown[-1]["replay_id"]) if more else None,
    }


@get("/api/v1/replays/{replay_id:str}", summary="A replay batch with its items", responses=problems(404), **READ)
async def get_replay(
    request: AnyRequest,
    replay_id: FromPath[str],
    limit: Annotated[int, QueryParameter(ge=1, le=1_000)] = 500,
    cursor: Cursor = None,
    tenant_id: TenantId = None,
) -> Document:
    """Status, counts per terminal result, groups, and the items in the order of the plan."""
    check_ids(replay_id=replay_id)
    return await _shown(request, await tenant_of(request, tenant_id), replay_id, limit=limit, cursor=cursor)


@post(
    "/api/v1/replays/{replay_id:str}/{act:str}",
    status_code=200,
    summary="Run, pause, resume or cancel",
    responses=problems(404, 409),
    **OPERATE,
)
async def act_on_replay(request: AnyRequest, replay_id: FromPath[str], act: FromPath[str], tenant_id: TenantId = None) -> Document:
    """`run` needs a dry run of the last ten minutes; `cancel` leaves what was parked where it is."""
    check_ids(replay_id=replay_id)
    acts = {"run": BatchAct.RUN, "pause": BatchAct.PAUSE, "resume": BatchAct.RESUME, "cancel": BatchAct.CANCEL}
    if act not in acts:
        raise NotFound("A replay can be run, paused, resumed or cancelled.")
    tenant = await tenant_of(request, tenant_id)
    await services_of(request).replay.act(tenant, replay_id, acts[act], by(request))
    services_of(request).hub.wake()
    return await _shown(request, tenant, replay_id)


@get(
    "/api/v1/replays/{replay_id:str}/report",
    summary="The report of a batch",
    operation_class=also_as("text/csv"),
    responses=problems(404, 409),
    **READ,
)
async def get_report(
    request: AnyRequest,
    replay_id: FromPath[str],
    format: Annotated[Literal["json", "csv"], QueryParameter(description="json or csv")] = "json",
    tenant_id: TenantId = None,
) -> Response[Any]:
    """Every item by place in the plan, with its correlation id and result; cells of the CSV never begin a formula."""
    check_ids(replay_id=replay_id)
    tenant = await tenant_of(request, tenant_id)
    head, found = await services_of(request).db.read(_report, tenant, replay_id, services_of(request).clock.now())
    name = f"replay-{head['replay_id']}.{format}"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    if format == "json":
        by_status: dict[str, list[str]] = {}
        for item in found:
            by_status.setdefault(str(item["result"] or item["state"]), []).append(item["correlation_id"])
        return Response({**head, "correlation_ids": by_status, "items": found}, headers=headers)
    return Response(as_csv(found), media_type="text/csv; charset=utf-8", headers=headers)


def _report(conn: Connection, tenant_id: str, replay_id: str, now: Any) -> tuple[Document, list[Document]]:
    head = replays.batch(conn, tenant_id, replay_id, now)
    if head is None:
        raise NotFound("There is no such replay.")
    if head["status"] == BatchStatus.PLANNED:
        raise Conflict("This is a dry run; a report exists once it was run.")
    return head, list(replays.all_items(conn, replay_id))


COLUMNS: Final = (
    "n",
    "correlation_id",
    "command_id",
    "run_command_id",
    "contact_id",
    "command_type",
    "commit_order",
    "state",
    "result",
    "status",
    "reason",
    "predicted_result",
    "predicted_reason",
    "drift",
    "occurred_at",
    "done_at",
)


def as_csv(found: list[Document]) -> str:
    """The items as CSV (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for item in found:
        flat = item | {"predicted_result": item["predicted"]["result"], "predicted_reason": item["predicted"]["reason"]}
        writer.writerow([safe_cell(flat[name]) for name in COLUMNS])
    return out.getvalue()


def safe_cell(value: Any) -> str:
    """A cell that a spreadsheet shows as it is: text that would begin a formula gets an apostrophe before it."""
    if value is None:
        return ""
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    text = str(value)
    formula = isinstance(value, str) and text.lstrip(" ")[:1] in ("=", "+", "-", "@", "\t", "\r", "\n")
    return f"'{text}" if formula else text


async def _shown(request: AnyRequest, tenant_id: str, replay_id: str, *, limit: int = 500, cursor: str | None = None) -> Document:
    given = read_cursor(cursor, int)
    services, locale = services_of(request), locale_of(request)

    def read(conn: Connection) -> tuple[Document | None, list[Document]]:
        found = replays.batch(conn, tenant_id, replay_id, services.clock.now())
        rows = replays.items(conn, replay_id, after=given[0] if given else 0, limit=limit + 1) if found else []
        return found, rows

    head, rows = await services.db.read(read)
    if head is None:
        raise NotFound("There is no such replay.")
    shown = [_explained(item, locale) for item in rows[:limit]]
    return {**head, "items": shown, "next_cursor": next_cursor(shown[-1]["n"]) if len(rows) > limit else None}


def _explained(item: Document, locale: str) -> Document:
    state, reason = item["status"] or item["predicted"]["status"], item["reason"] or item["predicted"]["reason"]
    words = explain(state, reason, locale)
    return item | {"why": words.why, "next_action": words.next_action}


replay_routes: Final = [create_replay, list_replays, get_replay, act_on_replay, get_report]
