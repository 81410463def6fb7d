"""Providers' webhooks (F-01): verified over the raw bytes, durable before the answer, the same answer when sent again.

A bad or missing signature is 401 and stores nothing; a body that is no JSON is 400; everything else that a verified
provider sends is kept and answered 200, because sending it again would not make it better. Only an unavailable database
is answered 503, so that the provider tries again.
"""

import ipaddress
from datetime import datetime
from typing import Annotated, Any, Final

import structlog
from litestar import MediaType, Request, get, post
from litestar.params import FromPath, QueryParameter
from sqlalchemy import Connection

from app.channels import evolution, uazapi, whatsapp
from app.channels.inbound import NotJson, Parsed, decode, secret_is_valid, signature_is_valid
from app.credentials import is_ack_token, sha256
from app.domain.envelopes import Malformed, Message
from app.domain.phones import e164
from app.domain.reasons import Reason
from app.engine.alerts import ACK_PREFIX
from app.errors import Forbidden, InvalidRequest, NotFound, Unauthenticated
from app.store import ack_tokens
from app.store.alert_steps import record_deliveries as record_alert_deliveries
from app.store.alert_voices import spec_of
from app.store.alerts import raise_alert
from app.store.lanes import GLOBAL_SCOPE
from app.store.outbox import record_deliveries
from app.store.webhooks import WebhookTenant, webhook_tenant
from app.web.api.common import failure
from app.web.api.shapes import OpenOperation

log = structlog.get_logger("web.webhooks")

BODY_MAX: Final = 3 * 1024 * 1024
"""Providers send up to 3 MB in one POST."""

_OPTIONS: Final[dict[str, Any]] = {
    "status_code": 200,
    "request_max_body_size": BODY_MAX,
    "opt": {"access": "public"},
    "tags": ["webhooks"],
    "operation_class": OpenOperation,
    "responses": {
        400: failure("The body is not JSON; nothing was stored"),
        401: failure("Signature or secret missing or wrong; nothing was stored"),
        404: failure("Unknown tenant"),
        413: failure("Body over 3 MiB"),
        429: failure("Too many requests"),
        503: failure("Storage unavailable; nothing was accepted"),
    },
}


@get(
    "/api/v1/webhooks/whatsapp/{tenant:str}",
    media_type=MediaType.TEXT,
    opt=_OPTIONS["opt"],
    tags=["webhooks"],
    summary="Cloud API verification handshake",
    operation_class=OpenOperation,
    responses={
        400: failure("Some values of this request cannot be used"),
        403: failure("The verify token is not the one in the clinic's settings"),
        404: failure("Unknown tenant"),
        429: failure("Too many requests"),
        503: failure("Storage unavailable"),
    },
)
async def verify_whatsapp(
    request: Request[Any, Any, Any],
    tenant: FromPath[str],
    mode: Annotated[str | None, QueryParameter(name="hub.mode")] = None,
    verify_token: Annotated[str | None, QueryParameter(name="hub.verify_token")] = None,
    challenge: Annotated[str | None, QueryParameter(name="hub.challenge")] = None,
) -> str:
    """The challenge as text when the verify token is the tenant's."""
    found = await _tenant(request, tenant)
    if mode != "subscribe" or not secret_is_valid(found.secret("whatsapp", "verify_token"), verify_token):
        raise Forbidden("The verify token is not the one in this clinic's settings.")
    return challenge or ""


@post("/api/v1/webhooks/whatsapp/{tenant:str}", summary="Messages and statuses of the WhatsApp Cloud API", **_OPTIONS)
async def receive_whatsapp(request: Request[Any, Any, Any], tenant: FromPath[str]) -> dict[str, int]:
    """Every entry, change, message and status of one POST, signed with `X-Hub-Signature-256`."""
    found = await _tenant(request, tenant)
    body = await request.body()
    if not signature_is_valid(found.secret("whatsapp", "app_secret"), body, request.headers.get("x-hub-signature-256")):
        raise _refused("whatsapp", found)
    number = found.secret("whatsapp", "phone_number_id")
    parsed = whatsapp.parse(
        _document(body), tenant_id=found.tenant_id, phone_number_id=number, received_at=request.app.state.services.clock.now()
    )
    return await _take(request, "whatsapp", found, parsed)


@post(
    ["/api/v1/webhooks/evolution/{tenant:str}", "/api/v1/webhooks/evolution/{tenant:str}/{event:path}"],
    summary="Messages and statuses of an Evolution API instance",
    **_OPTIONS,
)
async def receive_evolution(
    request: Request[Any, Any, Any], tenant: FromPath[str], event: FromPath[str | None] = None
) -> dict[str, int]:
    """One event; the secret comes in a header of the operator's choice, or as the Bearer JWT that Evolution signs with it."""
    found = await _tenant(request, tenant)
    secret = found.secret("evolution", "secret")
    services = request.app.state.services
    trusted = _header_holds(request, secret) or evolution.jwt_is_valid(
        secret, request.headers.get("authorization"), services.clock.now()
    )
    if not trusted:
        raise _refused("evolution", found)
    document = _document(await request.body())
    if isinstance(document, dict) and event and not document.get("event"):
        document = {**document, "event": event.strip("/")}
    parsed = evolution.parse(document, tenant_id=found.tenant_id, received_at=services.clock.now())
    return await _take(request, "evolution", found, parsed)


@post(
    ["/api/v1/webhooks/uazapi/{tenant:str}", "/api/v1/webhooks/uazapi/{tenant:str}/{rest:path}"],
    summary="Messages and statuses of a Uazapi instance",
    **_OPTIONS,
)
async def receive_uazapi(
    request: Request[Any, Any, Any], tenant: FromPath[str], rest: FromPath[str | None] = None
) -> dict[str, int]:
    """One event; Uazapi signs nothing, so the secret comes in a header or as a part of the path, from an allowed address."""
    found = await _tenant(request, tenant)
    secret = found.secret("uazapi", "secret")
    in_path = secret_is_valid(secret, *(rest or "").strip("/").split("/"))
    if not (in_path or _header_holds(request, secret)) or not _address_allowed(request, found):
        raise _refused("uazapi", found)
    document = _document(await request.body())
    parsed = uazapi.parse(document, tenant_id=found.tenant_id, received_at=request.app.state.services.clock.now())
    return await _take(request, "uazapi", found, parsed)


async def _tenant(request: Request[Any, Any, Any], name: str) -> WebhookTenant:
    found: WebhookTenant | None = await request.app.state.services.db.read(webhook_tenant, name)
    if found is None:
        raise NotFound("There is no clinic at this address.")
    return found


def _refused(channel: str, tenant: WebhookTenant) -> Unauthenticated:
    log.warning("webhook_refused", flow_id="F-01", tenant_id=tenant.tenant_id, channel=channel, status="unauthenticated")
    return Unauthenticated("The signature or secret is missing, wrong, or not configured for this clinic. Nothing was stored.")


def _header_holds(request: Request[Any, Any, Any], secret: str | None) -> bool:
    """Whether any header is the secret (operators choose the header's name), alone or as a Bearer token."""
    values = [value.decode("latin-1") for _, value in request.scope["headers"]]
    return secret_is_valid(secret, *values, *(v[7:].strip() for v in values if v[:7].lower() == "bearer "))


def _address_allowed(request: Request[Any, Any, Any], tenant: WebhookTenant) -> bool:
    """Whether the caller's address is in the tenant's list; without a list every address is."""
    section = tenant.settings.get("uazapi")
    listed = section.get("allowed_addresses") if isinstance(section, dict) else None
    if not listed:
        return True
    try:
        caller = ipaddress.ip_address(request.client.host if request.client else "")
        return any(caller in ipaddress.ip_network(str(entry), strict=False) for entry in listed)
    except (ValueError, TypeError):
        return False


def _document(body: bytes) -> Any:
    try:
        return decode(body)
    except NotJson as error:
        raise InvalidRequest("The body is not JSON.") from error


async def _take(request: Request[Any, Any, Any], channel: str, tenant: WebhookTenant, parsed: Parsed) -> dict[str, int]:
    """Keep statuses and messages, then answer."""
    services = request.app.state.services
    if parsed.deliveries:
        await services.db.write(record_deliveries, parsed.deliveries, services.clock.now())
        if await services.db.write(record_alert_deliveries, parsed.deliveries, services.clock.now()):
            services.alerts.wake.set()
        services.hub.wake()
    items = [item for item in parsed.items if not await _acknowledged(request, item)]
    receipts = await services.intake.messages(items, tenant.tenant_id)
    elsewhere = "phone_number_id_mismatch" in parsed.ignored
    if any(r.reason == Reason.OTHER_NUMBER for r in receipts):
        await services.db.write(_tell_of_other_number, tenant.tenant_id, services.clock.now())
        services.alerts.wake.set()
    level = log.warning if elsewhere else log.info
    level(
        "webhook_received",
        flow_id="F-01",
        tenant_id=tenant.tenant_id,
        channel=channel,
        status="accepted",
        messages=len(receipts),
        statuses=len(parsed.deliveries),
        ignored=sorted(set(parsed.ignored)),
    )
    return {"messages": len(receipts), "statuses": len(parsed.deliveries), "ignored": len(parsed.ignored)}


def _tell_of_other_number(conn: Connection, tenant_id: str, now: datetime) -> None:
    """One alert for a clinic, however many messages come to a number that is not the one in its settings."""
    raise_alert(
        conn,
        tenant_id=tenant_id,
        trigger="other_number",
        severity="high",
        summary="WhatsApp sends messages for a number that is not the one in the clinic's settings: they wait in manual review",
        dedup_key="other_number",
        correlation_id=None,
        now=now,
        raised_by="system:webhooks",
    )


async def _acknowledged(request: Request[Any, Any, Any], item: Message | Malformed) -> bool:
    """Whether a message is the ACK button of an alert, pressed on the phone that the alert went to; it is then no message."""
    pressed = item.payload.get("button_id") if isinstance(item, Message) else None
    if not isinstance(item, Message) or not isinstance(pressed, str) or not pressed.startswith(ACK_PREFIX):
        return False
    services = request.app.state.services
    token = pressed.removeprefix(ACK_PREFIX)
    if not is_ack_token(services.settings.secret_key, token):
        return False
    now = services.clock.now()
    opened = await services.db.read(ack_tokens.find, sha256(token), now)
    if opened is None or opened.expired:
        log.warning("ack_button_refused", flow_id="F-06", status="expired" if opened else "unknown", channel=item.channel)
        return True
    settings = await services.channels.settings(opened.alert.tenant_id or GLOBAL_SCOPE)
    step = await services.db.read(ack_tokens.message_of, opened)
    number = spec_of(settings["channels"], step.channel, step.recipient).partition(":")[2]
    if e164(number) != item.phone:
        log.warning("ack_button_refused", flow_id="F-06", status="other_phone", channel=item.channel)
        return False
    await services.db.write(lambda conn: ack_tokens.acknowledge(conn, opened, how="whatsapp_button", now=services.clock.now))
    services.alerts.wake.set()
    services.hub.wake()
    return True


webhook_routes: Final = [verify_whatsapp, receive_whatsapp, receive_evolution, receive_uazapi]
