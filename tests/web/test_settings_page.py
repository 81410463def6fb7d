"""Settings: what a change would change, a version with a reason, a stale form refused with the fresh one."""

import html
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from app.bootstrap import Services
from app.store import settings
from app.store.tables import AuditEntry, table
from tests.web.conftest import Browser, Clinic

PAGE = {"accept": "text/html"}


async def form_of(browser: Browser, query: str = "") -> dict[str, str]:
    """Every field of the form as the page shows it."""
    page = await browser.client.get(f"/settings{query}", headers=PAGE)
    assert page.status_code == 200, page.text[:300]
    form = page.text.split('action="/settings', 1)[1].split("</form>")[0]
    inputs = [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<input[^>]*>", form)]
    return {i["name"]: html.unescape(i.get("value", "")) for i in inputs}


async def post(browser: Browser, query: str, form: dict[str, str], act: str, **changes: str) -> httpx.Response:
    data = form | {"act": act, "reason": "horário novo"} | {k.replace("__", "/"): v for k, v in changes.items()}
    return await browser.client.post(f"/settings{query}", data=data, headers=PAGE)


def plain(answered: httpx.Response) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", answered.text).split())


async def audited(services: Services) -> list[Any]:
    audit = table(AuditEntry)
    query = select(audit).where(audit.c.action == "settings.save").order_by(audit.c.number)
    return await services.db.read(lambda conn: list(conn.execute(query)))


async def test_a_change_is_shown_before_it_is_saved_and_kept_as_a_version(
    services: Services, admin_session: Browser, tenant: Clinic
) -> None:
    where = f"?clinic={tenant.slug}"
    form = await form_of(admin_session, where)
    assert (form["version"], form["replay_ttl_min/schedule"]) == ("0", "")
    wanted = {"replay_ttl_min__schedule": "90", "hours__sat": "08:00-12:00", "hours__mon": "-", "queue_alert_share": "75"}
    shown = await post(admin_session, where, form, "preview", **wanted)
    assert shown.status_code == 200
    text = plain(shown)
    for part in ("4 mudanças", "120 min 90 min", "- 08:00-12:00", "08:00-18:00 -", "80 % 75 %"):
        assert part in text, part
    assert await audited(services) == []
    saved = await post(admin_session, where, form, "save", **wanted, holidays="2026-12-24, 2026-12-31")
    assert (saved.status_code, saved.headers["location"]) == (303, f"/settings?clinic={tenant.slug}&saved=yes")
    held = await services.db.read(settings.load, tenant.tenant_id)
    assert held["replay_ttl_min"] == {"schedule": 90, "reschedule": 120, "cancel": 120, "follow_up": 1440, "takeover": 1440}
    assert (held["hours"], held["queue_alert_share"]) == ({"sat": [["08:00", "12:00"]], "mon": []}, 0.75)
    assert held["holidays"] == ["2026-12-24", "2026-12-31"]
    (entry,) = await audited(services)
    assert (entry.chain, entry.reason, entry.actor) == (tenant.tenant_id, "horário novo", f"user:{admin_session.person.user_id}")
    again = await form_of(admin_session, where)
    assert (again["version"], again["replay_ttl_min/schedule"], again["hours/mon"]) == ("1", "90", "-")
    back = await post(admin_session, where, again, "save", replay_ttl_min__schedule="", hours__mon="", hours__sat="", holidays="")
    assert back.status_code == 303
    held = await services.db.read(settings.load, tenant.tenant_id)
    assert (held["replay_ttl_min"]["schedule"], held["hours"], held["holidays"]) == (120, {}, [])
    history = plain(await admin_session.client.get(f"/settings{where}", headers=PAGE))
    assert "versão 2" in history
    assert history.index("versão 2 Superadmin") < history.index("versão 1 Superadmin")


async def test_a_stale_form_is_refused_with_the_fresh_version_and_keeps_what_was_typed(
    services: Services, admin_session: Browser
) -> None:
    form = await form_of(admin_session)
    assert (await post(admin_session, "", form, "save", wait_limit_s="200")).status_code == 303
    refused = await post(admin_session, "", form, "save", drain_per_s="5", wait_limit_s="100")
    assert refused.status_code == 409
    assert "Nada foi salvo" in plain(refused)
    assert "200 s 100 s" in plain(refused), "against what holds now"
    assert 'name="version" value="1"' in refused.text
    held = await services.db.read(settings.load, "global")
    assert (held["wait_limit_s"], held["drain_per_s"]) == (200, 2)
    assert len(await audited(services)) == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("wait_limit_s", "viele"),
        ("wait_limit_s", "-1"),
        ("wait_limit_s", "nan"),
        ("max_queue_size", "1.5"),
        ("hours/mon", "18:00-08:00"),
        ("hours/mon", "abc"),
        ("holidays", "24/12/2026"),
        ("timezone", "Marte/Olimpo"),
        ("retention/minimise_h", "0"),
        ("national_holidays", "XX"),
    ],
)
async def test_a_value_that_cannot_be_used_is_named_at_its_field(
    services: Services, admin_session: Browser, field: str, value: str
) -> None:
    form = await form_of(admin_session)
    refused = await admin_session.client.post("/settings", data=form | {field: value, "act": "save", "reason": "x"}, headers=PAGE)
    assert refused.status_code == 400
    faulty = re.findall(r'<input[^>]*name="([^"]+)"[^>]*aria-invalid', refused.text)
    assert faulty == [field]
    assert f'value="{value}"' in refused.text
    assert await audited(services) == []


async def test_a_version_wants_a_reason_a_difference_and_a_superadmin(
    services: Services, admin_session: Browser, secretary_session: Browser
) -> None:
    form = await form_of(admin_session)
    assert (await post(admin_session, "", form, "save", wait_limit_s="200", reason=" ")).status_code == 400
    assert (await post(admin_session, "", form, "save")).status_code == 400
    assert (await post(admin_session, "", form, "save", scope="nowhere", wait_limit_s="200")).status_code == 404
    assert (await secretary_session.client.get("/settings", headers=PAGE)).status_code == 403
    sent = {"_csrf": secretary_session.csrf_token, "scope": "global", "act": "save", "wait_limit_s": "1", "reason": "x"}
    assert (await secretary_session.client.post("/settings", data=sent, headers=PAGE)).status_code == 403
    assert (
        await admin_session.client.post("/settings", data=form | {"_csrf": "x", "act": "save"}, headers=PAGE)
    ).status_code == 403
    assert await audited(services) == []


async def test_the_secret_of_the_webhook_goes_in_and_never_comes_out(
    services: Services, admin_session: Browser, tenant: Clinic
) -> None:
    where, secret = f"?clinic={tenant.slug}", "a-secret-of-the-clinic"
    form = await form_of(admin_session, where)
    wanted = {"webhook_url": "https://192.0.2.7/results", "webhook_secret": secret}
    assert secret not in plain(await post(admin_session, where, form, "preview", **wanted))
    assert (await post(admin_session, where, form, "save", **wanted)).status_code == 303
    page = await admin_session.client.get(f"/settings{where}", headers=PAGE)
    assert secret not in page.text
    again = await form_of(admin_session, where)
    assert (again["webhook_url"], again["webhook_secret"]) == ("https://192.0.2.7/results", "***")
    assert (await post(admin_session, where, again, "save", wait_limit_s="200")).status_code == 303
    assert (await services.db.read(settings.load, tenant.tenant_id))["webhook_secret"] == secret
    assert all(secret not in f"{entry.before_json} {entry.after_json}" for entry in await audited(services))
    alone = await post(admin_session, where, await form_of(admin_session, where), "save", webhook_secret="")
    assert alone.status_code == 400  # an address without a secret
