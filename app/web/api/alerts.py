"""Alerts over HTTP: raise, look, acknowledge, resolve; and Prometheus Alertmanager's webhook."""

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
import structlog
from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from sqlalchemy import Connection

from app.channels.alertmanager import AlertSignal
from app.channels.alertmanager import parse as parse_alertmanager
from app.errors import Forbidden, InvalidRequest, NotFound
from app.store import alerts
from app.store.lanes import GLOBAL_SCOPE
from app.store.people import By
from app.store.views import alerts as views
from app.store.views.scope import Scope
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
    json_body,
    json_or_nothing,
    page,
    problems,
    read_cursor,
    require_json,
    services_of,
    storable,
    tenant_of,
)
from app.web.auth import actor_of, authenticator

log = structlog.get_logger("web.alerts")

READ: Final[dict[str, Any]] = {"opt": {"access": "scope:read"}, "tags": ["alerts"]}
WRITE: Final[dict[str, Any]] = {"opt": {"access": "scope:operate"}, "tags": ["alerts"], "before_request": require_json}


ACT: Final[dict[str, Any]] = {**WRITE, "status_code": 200, "before_request": json_or_nothing}
_STATUSES: Final = ("open", "acknowledged", "resolved")


class AlertBody(msgspec.Struct):
    """An alert; without `tenant_id` a global key raises it for the whole installation."""

    trigger: str
    severity: str
    summary: str
    dedup_key: str
    tenant_id: str | None = None
    correlation_id: str | None = None


class ActBody(msgspec.Struct):
    """An act on an alert; with `rev`, only if it is still the one that was seen."""

    rev: int | None = None
    reason: str | None = None


@post("/api/v1/alerts", status_code=201, summary="Raise an alert", responses=problems(404, 413), **WRITE)
async def post_alert(request: AnyRequest, data: JSONBody[AlertBody]) -> Document:
    """One that is not resolved with the same `dedup_key` counts up; a critical one starts the 15 minutes to safe mode."""
    texts = Texts()
    fields = {
        "trigger": texts.need("/trigger", data.trigger, 60),
        "summary": texts.need("/summary", data.summary, 500),
        "dedup_key": texts.need("/dedup_key", data.dedup_key),
    }
    correlation_id = texts.optional("/correlation_id", data.correlation_id)
    if data.severity not in alerts.SEVERITIES:
        texts.fail("/severity", f"must be one of {', '.join(reversed(alerts.SEVERITIES))}")
    texts.check()
    services, who = services_of(request), by(request)
    tenant_id = await _tenant(request, data.tenant_id)
    raised = await services.db.write(
        lambda conn: alerts.raise_alert(
            conn,
            tenant_id=tenant_id,
            severity=data.severity,
            correlation_id=correlation_id or who.correlation_id,
            now=who.now,
            raised_by=who.actor,
            origin=who.origin,
            **fields,
        )
    )
    _wake(request)
    return await _shown(request, raised.alert_id)


@get("/api/v1/alerts", summary="Alerts, latest first", responses=problems(404), **READ)
async def list_alerts(
    request: AnyRequest,
    limit: Limit = 50,
    cursor: Cursor = None,
    status: Annotated[str | None, QueryParameter(max_length=20, description="open | acknowledged | resolved")] = None,
    tenant_id: TenantId = None,
) -> Document:
    """Those of the caller's clinics; a global key also sees those of the whole installation."""
    if status is not None and status not in _STATUSES:
        raise InvalidRequest(
            "There is no such status.", errors=[{"pointer": "/status", "detail": f"must be one of {', '.join(_STATUSES)}"}]
        )
    given = read_cursor(cursor, str, str)
    before: tuple[datetime, str] | None = (cursor_time(given[0]), given[1]) if given else None
    scope = (await tenant_of(request, tenant_id),) if tenant_id else _scope(request)
    found = await services_of(request).db.read(views.listed, scope, status=status, before=before, limit=limit + 1)
    return page(found, limit, "raised_at", "alert_id")


@get("/api/v1/alerts/{alert_id:str}", summary="An alert with its attempts", responses=problems(404), **READ)
async def get_alert(request: AnyRequest, alert_id: FromPath[str]) -> Document:
    """Each attempt with channel, target, when it was due and done, and what the provider said."""
    check_ids(alert_id=alert_id)
    return await _shown(request, alert_id)


@post("/api/v1/alerts/{alert_id:str}/ack", summary="Acknowledge", responses=problems(404, 409), **ACT)
async def ack_alert(request: AnyRequest, alert_id: FromPath[str], data: JSONBody[ActBody | None] = None) -> Document:
    """Stops all later messages; before `safe_mode_at` it also keeps safe mode away. A second one changes nothing."""
    who = await _may_act(request, alert_id)
    how = "console" if actor_of(request).kind == "user" else "api"
    services = services_of(request)
    await services.db.write(
        lambda conn: alerts.acknowledge(
            conn, alert_id, by=who.actor, how=how, now=services.clock.now, rev=data.rev if data else None, origin=who.origin
        )
    )
    _wake(request)
    return await _shown(request, alert_id)


@post("/api/v1/alerts/{alert_id:str}/resolve", summary="Resolve", responses=problems(404, 409), **ACT)
async def resolve_alert(request: AnyRequest, alert_id: FromPath[str], data: JSONBody[ActBody | None] = None) -> Document:
    """The cause is gone: nothing more is sent. It is no ACK, and it does not lift safe mode."""
    texts = Texts()
    reason = texts.optional("/reason", data.reason if data else None, 500)
    texts.check()
    who = await _may_act(request, alert_id)
    services = services_of(request)
    await services.db.write(
        lambda conn: alerts.resolve(
            conn, alert_id, by=who.actor, now=services.clock.now, rev=data.rev if data else None, reason=reason, origin=who.origin
        )
    )
    _wake(request)
    return await _shown(request, alert_id)


# --- alertmanager -------------------------------------------------------------------------------------------------------


@post(
    "/api/v1/webhooks/alertmanager",
    status_code=200,
    opt={"access": "scope:intake"},
    tags=["webhooks"],
    summary="Prometheus Alertmanager webhook v4",
    responses=problems(404, 413),
)
async def receive_alertmanager(request: AnyRequest) -> Document:
    """`severity=critical` raises a critical alert, `resolved` resolves it; `info` is counted as ignored."""
    document = await json_body(request)
    signals = parse_alertmanager(document)
    if signals is None or not storable(document):
        raise InvalidRequest("This is no Alertmanager webhook, version 4.")
    wanted = [s for s in signals if s.severity != "info"]
    tenants = [await _tenant_of_label(request, signal.tenant_id) for signal in wanted]
    services, who = services_of(request), by(request)
    counts = await services.db.write(_take_signals, list(zip(wanted, tenants, strict=True)), who)
    _wake(request)
    log.info("webhook_received", flow_id="F-06", channel="alertmanager", status="accepted", **counts)
    return {**counts, "ignored": len(signals) - len(wanted)}


def _take_signals(conn: Connection, signals: list[tuple[AlertSignal, str | None]], who: By) -> dict[str, int]:
    raised = resolved = 0
    signals = sorted(signals, key=lambda s: s[1] or GLOBAL_SCOPE)  # clinic by clinic, in one order for everybody
    alerts.lock_kinds(conn, [alerts.Kind(t or GLOBAL_SCOPE, s.trigger, s.severity) for s, t in signals if not s.resolved])
    for signal, tenant_id in signals:
        if signal.resolved:
            ended = alerts.resolve_by_key(
                conn, tenant_id=tenant_id, dedup_key=signal.dedup_key, by=who.actor, now=who.now, origin=who.origin
            )
            resolved += ended is not None
            continue
        alerts.raise_alert(
            conn,
            tenant_id=tenant_id,
            trigger=signal.trigger,
            severity=signal.severity,
            summary=signal.summary,
            dedup_key=signal.dedup_key,
            correlation_id=signal.correlation_id,
            now=who.now,
            raised_by=who.actor,
            origin=who.origin,
        )
        raised += 1
    return {"raised": raised, "resolved": resolved}


# --- shared -------------------------------------------------------------------------------------------------------------


def _scope(request: AnyRequest) -> Scope:
    tenant_ids = actor_of(request).tenant_ids
    return None if tenant_ids is None else tuple(sorted(tenant_ids))


async def _tenant(request: AnyRequest, given: str | None) -> str | None:
    """The clinic of an alert; None (the whole installation) for a caller of every clinic who names none."""
    if not given and actor_of(request).tenant_ids is None:
        return None
    if given and actor_of(request).tenant_ids is None and await authenticator(request).tenant(given) is None:
        raise NotFound(f"There is no tenant {given[:60]!r}.")
    return await tenant_of(request, given)


async def _tenant_of_label(request: AnyRequest, label: str | None) -> str | None:
    """The clinic that a label names, if the caller sees it; else the caller's own scope.

    Labels mean many things, and a signal must not be lost over one.
    """
    row = await authenticator(request).tenant(label) if label and storable(label) and len(label) <= 60 else None
    if row is not None and actor_of(request).sees(row.tenant_id):
        return str(row.tenant_id)
    return await _tenant(request, None)


async def _may_act(request: AnyRequest, alert_id: str) -> By:
    """Who acts on an alert that they see. Raises NotFound or Forbidden."""
    check_ids(alert_id=alert_id)
    if actor_of(request).role == "secretary":
        raise Forbidden("Alerts are acknowledged by managers and superadmins.")
    if await services_of(request).db.read(views.one, alert_id, _scope(request)) is None:
        raise NotFound("There is no such alert.")
    return by(request)


async def _shown(request: AnyRequest, alert_id: str) -> Document:
    found = await services_of(request).db.read(views.one, alert_id, _scope(request))
    if found is None:
        raise NotFound("There is no such alert.")
    return found


def _wake(request: AnyRequest) -> None:
    services = services_of(request)
    services.alerts.wake.set()
    services.hub.wake()


alert_routes: Final = [post_alert, list_alerts, get_alert, ack_alert, resolve_alert, receive_alertmanager]
