"""Channels over HTTP: whether words of the settings are one, and one test message to one target with what came of it."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec
from litestar import post
from litestar.params import JSONBody

from app.engine.alerts import Tried
from app.errors import Forbidden, InvalidRequest
from app.store import audit
from app.store.alert_ladder import recipients_of
from app.store.lanes import GLOBAL_SCOPE
from app.store.settings import load
from app.store.views.channels import TESTED
from app.web.api.common import AnyRequest, Document, Texts, by, problems, require_json, services_of, tenant_of
from app.web.auth import actor_of


class TestBody(msgspec.Struct):
    """Which channel; `tenant_id` "global" = the channels of all clinics. Without a number, its first target."""

    channel: str
    number: int = 1
    tenant_id: str | None = None


@post(
    "/api/v1/channels/test",
    status_code=200,
    before_request=require_json,
    opt={"access": "scope:admin"},
    tags=["settings"],
    summary="Send a test message to a channel",
    responses=problems(404, 413),
)
async def test_channel(request: AnyRequest, data: JSONBody[TestBody]) -> Document:
    """Waits for the provider's answer: `sent`, `failed`, `rejected`, or `unknown` when none came in time."""
    texts = Texts()
    channel = texts.need("/channel", data.channel, 40)
    texts.check()
    if data.tenant_id == GLOBAL_SCOPE:
        if actor_of(request).tenant_ids is not None:
            raise Forbidden("Only a global key tests the channels of all clinics.")
        scope = GLOBAL_SCOPE
    else:
        scope = await tenant_of(request, data.tenant_id)
    names = recipients_of(await services_of(request).db.read(load, scope), channel)
    if not 1 <= data.number <= len(names):
        texts.fail("/number", f"must be between 1 and {len(names)}")
        texts.check()
    tried = await test_recipient(request, scope, names[data.number - 1])
    return {"channel": channel, "target": tried.target, "outcome": str(tried.result.outcome), "answer": tried.result.detail}


async def test_recipient(request: AnyRequest, scope: str, recipient: str) -> Tried:
    """Send the test and write it into the audit trail."""
    services, who = services_of(request), by(request)
    tried = await services.alerts.try_channel(scope, recipient.partition(":")[0], recipient)
    await services.db.write(
        lambda conn: audit.append(
            conn,
            chain=scope,
            actor=who.actor,
            action=TESTED,
            object=f"channel/{recipient}",
            after={"outcome": str(tried.result.outcome), "detail": tried.result.detail, "target": tried.target},
            origin=who.origin,
            now=services.clock.now(),
        )
    )
    return tried


async def refuse_unusable(request: AnyRequest, patch: Mapping[str, Any]) -> None:
    """Before settings are saved: a channel that could never be built is said now, with its pointer. Raises InvalidRequest."""
    faults = await services_of(request).channels.faults(patch)
    if faults:
        raise InvalidRequest(
            "The settings were not saved: some channels cannot be used.",
            errors=[{"pointer": fault.pointer, "detail": fault.detail} for fault in faults],
        )


channel_routes: Final[list[Any]] = [test_channel]
