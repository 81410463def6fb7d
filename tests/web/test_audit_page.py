"""The audit page over HTTP: search, before and after, export without formulas, chains; and the stories beside it."""

import csv
import io
import json
from collections.abc import AsyncIterator
from datetime import timedelta

import httpx
import pytest
from litestar import Litestar
from sqlalchemy import Connection, select, update

from app.bootstrap import Services
from app.store.audit import append
from app.store.tables import AuditEntry, table
from app.store.views.audit import changes_of
from app.web.console.audit import csv_cell
from tests.builders import NOON
from tests.web.conftest import Browser, Clinic, add_person, browser_client, sign_in

PAGE = {"accept": "text/html"}
ENTRY = table(AuditEntry)


@pytest.fixture
async def trail(services: Services, tenant: Clinic, other_tenant: Clinic) -> None:
    """Two acts in the clinic, a day apart, one next door and one of no clinic."""

    def fill(conn: Connection) -> None:
        append(
            conn,
            chain=tenant.tenant_id,
            actor="system:test",
            action="settings.change",
            object="settings/one",
            now=NOON,
            before={"limit": 5, "same": 1},
            after={"limit": 7, "same": 1},
            reason="=HYPERLINK(1)",
        )
        append(
            conn, chain=tenant.tenant_id, actor="key:k-9", action="contact.put", object="contacts/c-1", now=NOON + timedelta(days=1)
        )
        append(conn, chain=other_tenant.tenant_id, actor="key:k-8", action="contact.put", object="contacts/theirs", now=NOON)
        append(conn, chain="global", actor="system:test", action="user.create", object="users/u-1", now=NOON)

    await services.db.write(fill)


@pytest.fixture
async def manager(app: Litestar, services: Services, tenant: Clinic, trail: None) -> AsyncIterator[Browser]:
    """Runs the clinic."""
    person = await add_person(services, "manager", [tenant.tenant_id])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


async def shown(viewer: Browser, **params: str) -> str:
    answer = await viewer.client.get("/audit", params=params, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


async def test_a_manager_sees_her_clinic_and_a_superadmin_everything(manager: Browser, admin_session: Browser) -> None:
    own = await shown(manager)
    assert "settings/one" in own
    assert "contacts/theirs" not in own
    assert "users/u-1" not in own
    everything = await shown(admin_session, clinic="all")
    assert "contacts/theirs" in everything
    assert "users/u-1" in everything


async def test_entries_are_found_by_who_what_object_and_day(manager: Browser) -> None:
    for params, found in (
        ({"who": "k-9"}, "contacts/c-1"),
        ({"what": "settings"}, "settings/one"),
        ({"object": "c-1"}, "contacts/c-1"),
        ({"to": "2026-11-23"}, "settings/one"),
        ({"from": "2026-11-24"}, "contacts/c-1"),
    ):
        text = await shown(manager, **params)
        assert found in text, params
        assert ({"settings/one", "contacts/c-1"} - {found}).pop() not in text, params
    assert "Nenhum registro" in await shown(manager, who="ninguem")
    assert (await manager.client.get("/audit", params={"cursor": "nonsense"}, headers=PAGE)).status_code == 400


async def test_only_what_changed_is_shown(manager: Browser) -> None:
    text = await shown(manager, what="settings")
    assert "<del>5</del> <ins>7</ins>" in text
    assert ">same<" not in text
    assert [(c.field, c.before, c.after) for c in changes_of(None, {"a": None})] == [("a", None, "null")]
    assert changes_of({"a": 1}, {"a": 1}) == ()


async def test_an_export_holds_no_formula_and_stands_in_the_trail(services: Services, manager: Browser, tenant: Clinic) -> None:
    answer = await manager.client.get("/audit/export.csv")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["object"] for row in rows] == ["contacts/c-1", "settings/one"]
    assert rows[1]["reason"] == "'=HYPERLINK(1)"
    query = select(ENTRY.c.action, ENTRY.c.after_json).where(ENTRY.c.chain == tenant.tenant_id).order_by(ENTRY.c.number.desc())
    last = await services.db.read(lambda conn: conn.execute(query).first())
    assert last is not None
    assert (last.action, json.loads(last.after_json)["rows"]) == ("audit.export", 2)


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "\r=1"])
def test_a_cell_never_begins_like_a_formula(text: str) -> None:
    assert csv_cell(text) == f'"\'{text}"'


def test_quotes_and_plain_words_are_kept() -> None:
    assert csv_cell('diz "oi"') == '"diz ""oi"""'
    assert csv_cell(None) == '""'


async def test_a_changed_entry_is_named(services: Services, manager: Browser, tenant: Clinic) -> None:
    assert "íntegra, 2 registros" in await shown(manager, check="yes")
    forged = update(ENTRY).where(ENTRY.c.chain == tenant.tenant_id, ENTRY.c.number == 1).values(reason="nada")
    await services.db.write(lambda conn: conn.execute(forged))
    assert f"audit {tenant.tenant_id}/1" in await shown(manager, check="yes")


async def test_many_entries_are_paged_without_gap_or_repetition(services: Services, manager: Browser, tenant: Clinic) -> None:
    def fill(conn: Connection) -> None:
        for n in range(60):
            append(conn, chain=tenant.tenant_id, actor="system:test", action="many", object=f"thing/{n:02}", now=NOON)

    await services.db.write(fill)
    first = await shown(manager, what="many")
    assert first.count('id="audit_more_') == 0
    assert first.count("thing/") == 50
    rest = await shown(manager, what="many", cursor=first.split("cursor=")[1].split('"')[0])
    assert rest.count("thing/") == 10
    assert "thing/09" in rest


async def test_a_secretary_sees_neither_the_trail_nor_its_export(secretary_session: Browser) -> None:
    for path in ("/audit", "/audit/export.csv", "/stories"):
        assert (await secretary_session.client.get(path, headers=PAGE)).status_code == 403


async def test_the_sixteen_stories_are_listed(client: httpx.AsyncClient, key: dict[str, str], manager: Browser) -> None:
    items = (await client.get("/api/v1/stories", headers=key)).json()["items"]
    assert len(items) == 16
    assert all(item["owner"] and item["signal"] and item["alert"] for item in items)
    text = (await manager.client.get("/stories", headers=PAGE)).text
    assert all(item["id"] in text for item in items)
