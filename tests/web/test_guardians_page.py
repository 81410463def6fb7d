"""The guardians page over HTTP: who may look, ask, grant and revoke, and what each act leaves behind."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.store.tables import AuditEntry, Contact, Guardian, Lane, table
from app.store.verify import verify
from tests.builders import clinic, contact, patient, tenant
from tests.web.conftest import Browser, add_person, browser_client, sign_in, unmasked

PAGE = {"accept": "text/html"}
AUDIT, GUARDIAN, LANE, CONTACT = table(AuditEntry), table(Guardian), table(Lane), table(Contact)


@pytest.fixture
async def sol(services: Services) -> None:
    """A clinic where Maria may do everything for Pedro and Rui nothing."""

    def fill(conn: Connection) -> None:
        clinic(conn)
        contact(conn, contact_id="c-rui", phone="+5511912345678", name="Rui")
        tenant(conn, tenant_id="ten-mar")
        patient(conn, tenant_id="ten-mar", patient_id="p-lia", name="Lia")

    await services.db.write(fill)


async def browser(app: Litestar, services: Services, role: str) -> AsyncIterator[Browser]:
    person = await add_person(services, role, ["ten-sol"])
    async with browser_client(app) as opened:
        yield await sign_in(services, opened, person)


@pytest.fixture
async def manager(app: Litestar, services: Services, sol: None) -> AsyncIterator[Browser]:
    """Runs the clinic."""
    async for opened in browser(app, services, "manager"):
        yield opened


@pytest.fixture
async def secretary(app: Litestar, services: Services, sol: None) -> AsyncIterator[Browser]:
    """Reads."""
    async for opened in browser(app, services, "secretary"):
        yield opened


def form(who: Browser, **fields: str) -> dict[str, str]:
    """What the page's form for a new permission sends."""
    proof = {"verification_method": "document", "verified_by": "Recepção", "reason": "certidão apresentada"}
    return {"_csrf": who.csrf_token, "clinic": "sol", "patient_id": "p-pedro", "contact": "c-rui", **proof, **fields}


async def shown(viewer: Browser, **params: str) -> str:
    answer = await viewer.client.get("/guardians", params=params, headers=PAGE)
    assert answer.status_code == 200, answer.text
    return answer.text


async def held(services: Services, contact_id: str = "c-rui") -> Any:
    """The permission's row, the contact's guardian_version and the acts of the audit trail."""

    def read(conn: Connection) -> Any:
        row = conn.execute(select(GUARDIAN).where(GUARDIAN.c.contact_id == contact_id)).first()
        version = conn.execute(select(LANE.c.guardian_version).where(LANE.c.contact_id == contact_id)).scalar()
        name = f"patients/p-pedro/guardians/{contact_id}"
        acts = conn.execute(select(AUDIT).where(AUDIT.c.object == name).order_by(AUDIT.c.number)).all()
        return row, version, acts

    return await services.db.read(read)


async def test_a_contact_is_denied_then_granted_then_allowed_then_revoked_and_denied(services: Services, manager: Browser) -> None:
    ask = {"patient": "p-pedro", "who": "c-rui", "act": "reschedule"}
    before = await shown(manager, **ask)
    assert "Não: Rui não pode" in before
    assert "<code>link-required</code>" in before
    done = await manager.client.post("/guardians/grant", data=form(manager, can_schedule="on", can_cancel="on"))
    assert (done.status_code, done.headers["location"]) == (303, "/guardians?clinic=sol&patient=p-pedro")
    after = await shown(manager, **ask)
    assert "Sim: Rui pode" in after
    assert "<code>may-reschedule</code>" in after
    row, version, acts = await held(services)
    assert (row.can_schedule, row.can_cancel, row.is_primary, row.verified_by) == (True, True, False, "Recepção")
    assert version == 1
    assert [(a.action, a.actor, a.reason) for a in acts] == [
        ("guardian.put", f"user:{manager.person.user_id}", "certidão apresentada")
    ]
    revoked = await manager.client.post("/guardians/revoke", data=form(manager, seen="1", reason="guarda mudou"))
    assert revoked.status_code == 303
    gone = await shown(manager, **ask)
    assert "<code>link-revoked</code>" in gone
    assert "guarda mudou" in gone
    row, version, acts = await held(services)
    assert row.revoked_at is not None
    assert version == 2
    assert [a.action for a in acts] == ["guardian.put", "guardian.revoke"]
    assert await services.db.read(lambda conn: list(verify(conn))) == []


async def test_part_of_a_permission_allows_that_part_only(manager: Browser) -> None:
    assert (await manager.client.post("/guardians/grant", data=form(manager, can_schedule="on"))).status_code == 303
    ask = {"patient": "p-pedro", "who": "(11) 91234-5678"}
    assert "<code>may-schedule</code>" in await shown(manager, **ask, act="schedule")
    for act in ("cancel", "reschedule"):
        denied = await shown(manager, **ask, act=act)
        assert "Não: Rui não pode" in denied
        assert "Nenhuma política permite" in denied


async def test_a_stranger_may_do_nothing(manager: Browser) -> None:
    text = await shown(manager, patient="p-pedro", who="c-nobody", act="cancel")
    assert "Nenhum contato desta clínica tem este id ou número" in text
    unknown = await manager.client.post("/guardians/grant", data=form(manager, contact="c-nobody", can_cancel="on"))
    assert unknown.status_code == 404


@pytest.mark.parametrize(
    "missing",
    [
        {"can_schedule": ""},
        {"can_schedule": "on", "reason": " "},
        {"can_schedule": "on", "verified_by": ""},
        {"can_schedule": "on", "verification_method": ""},
        {"can_schedule": "on", "verification_method": "rumour"},
        {"can_schedule": "on", "seen": "-1"},
    ],
)
async def test_a_permission_needs_a_reason_a_proof_and_something_permitted(
    services: Services, manager: Browser, missing: dict[str, str]
) -> None:
    answer = await manager.client.post("/guardians/grant", data=form(manager, **missing))
    assert answer.status_code == 400
    assert await held(services) == (None, 0, [])


async def test_a_change_seen_too_late_does_nothing(services: Services, manager: Browser) -> None:
    change = form(manager, contact="c-maria", can_schedule="on")
    assert (await manager.client.post("/guardians/grant", data=change)).status_code == 409  # there is one already
    for path in ("grant", "revoke"):
        assert (await manager.client.post(f"/guardians/{path}", data={**change, "seen": "0"})).status_code == 409
    row, version, acts = await held(services, "c-maria")
    assert (row.can_cancel, row.revoked_at, version, acts) == (True, None, 1, [])
    assert (await manager.client.post("/guardians/grant", data={**change, "seen": "1"})).status_code == 303
    row, version, _ = await held(services, "c-maria")
    assert (row.can_cancel, version) == (False, 2)


async def test_a_revocation_needs_a_reason_and_the_version_that_was_seen(services: Services, manager: Browser) -> None:
    own = form(manager, contact="c-maria")
    assert (await manager.client.post("/guardians/revoke", data={**own, "seen": "1", "reason": ""})).status_code == 400
    assert (await manager.client.post("/guardians/revoke", data=own)).status_code == 400
    assert (await held(services, "c-maria"))[0].revoked_at is None


async def test_a_secretary_reads_and_does_not_change(services: Services, secretary: Browser) -> None:
    text = await shown(secretary, patient="p-pedro")
    assert "Maria" in text
    assert "/guardians/grant" not in text
    assert "/guardians/revoke" not in text
    for path in ("grant", "revoke"):
        refused = await secretary.client.post(f"/guardians/{path}", data=form(secretary, can_schedule="on", seen="0"))
        assert refused.status_code == 403
    assert (await held(services))[0] is None


async def test_another_clinics_patients_do_not_exist(services: Services, manager: Browser) -> None:
    assert "Lia" not in await shown(manager)
    assert (await manager.client.get("/guardians", params={"patient": "p-lia"}, headers=PAGE)).status_code == 404
    other = form(manager, clinic="mar", patient_id="p-lia", can_schedule="on")
    assert (await manager.client.post("/guardians/grant", data=other)).status_code == 403
    own = form(manager, patient_id="p-lia", can_schedule="on")
    assert (await manager.client.post("/guardians/grant", data=own)).status_code == 404
    # a refused grant leaves no trace
    assert (await held(services))[1] == 0


async def test_patients_are_found_by_name_and_paged(services: Services, manager: Browser) -> None:
    def fill(conn: Connection) -> None:
        for n in range(60):
            patient(conn, patient_id=f"p-{n}", name=f"Bento {n:02}")

    await services.db.write(fill)
    first = await shown(manager, q="bento")
    assert first.count('id="patient_') == 50
    cursor = first.split("cursor=")[1].split('"')[0]
    rest = await shown(manager, q="bento", cursor=cursor)
    assert rest.count('id="patient_') == 10
    assert "Nenhum paciente tem isto" in await shown(manager, q="zzz")
    assert (await manager.client.get("/guardians", params={"cursor": "nonsense"}, headers=PAGE)).status_code == 400


async def test_the_parts_of_a_chosen_patients_page_are_the_same_alone(manager: Browser) -> None:
    whole = unmasked(await shown(manager, patient="p-pedro"))
    for name in ("guardian_links", "guardian_answer", "guardian_history"):
        alone = await manager.client.get(
            "/guardians", params={"patient": "p-pedro"}, headers={**PAGE, "HX-Request": "true", "HX-Target": name}
        )
        assert alone.status_code == 200
        assert unmasked(alone.text).strip() in whole
