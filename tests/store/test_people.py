"""Contacts and permissions in the store: one transaction per change, and versions that never miss one."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError

from app.errors import Conflict, NotFound
from app.store import people
from app.store.agenda_reads import appointment, appointments
from app.store.database import Database
from app.store.tables import AuditEntry, Lane, table
from tests import builders
from tests.builders import NOON

TENANT = "ten-sol"
BY = people.By(actor="user:ines", now=NOON, origin="test")
FULL = {
    "is_primary": False,
    "can_schedule": True,
    "can_cancel": True,
    "verified_by": "recepcao",
    "verification_method": "in_person",
    "reason": "cadastro",
}


@pytest.fixture(autouse=True)
async def _clinic(db: Database) -> None:
    await db.write(builders.clinic)


def _version(conn: Connection, contact_id: str) -> int:
    lane = table(Lane)
    return int(conn.execute(select(lane.c.guardian_version).where(lane.c.contact_id == contact_id)).scalar_one())


def _audited(conn: Connection) -> int:
    return len(conn.execute(select(table(AuditEntry))).all())


async def grant(db: Database, patient_id: str, contact_id: str, **changes: Any) -> dict[str, Any]:
    return await db.write(people.put_guardian, TENANT, patient_id, contact_id, FULL | changes, by=BY)


async def test_changes_of_many_patients_at_once_are_all_counted(db: Database) -> None:
    for i in range(6):
        await db.write(builders.patient, patient_id=f"p-{i}")
    versions = await asyncio.gather(*(grant(db, f"p-{i}", "c-maria") for i in range(6)))
    assert sorted(v["guardian_version"] for v in versions) == [2, 3, 4, 5, 6, 7]
    assert await db.read(_version, "c-maria") == 7
    assert await db.read(_audited) == 6


async def test_the_same_new_permission_from_many_callers_counts_once(db: Database) -> None:
    versions = await asyncio.gather(*(grant(db, "p-pedro", "c-new") for _ in range(6)))
    assert {v["guardian_version"] for v in versions} == {1}
    assert await db.read(_audited) == 1


async def test_a_refused_change_leaves_nothing_behind(db: Database) -> None:
    with pytest.raises(NotFound):
        await grant(db, "p-nobody", "c-new")
    with pytest.raises(NotFound):
        await db.write(people.revoke_guardian, TENANT, "p-pedro", "c-new", reason=None, by=BY)
    with pytest.raises(Conflict):
        await db.write(people.put_contact, TENANT, "c-new", phone="+5511987654321", name=None, by=BY)
    assert await db.read(people.contact, TENANT, "c-new", NOON) is None
    assert await db.read(_audited) == 0


async def test_one_number_given_to_two_contacts_at_once_stays_with_one(db: Database) -> None:
    outcomes = await asyncio.gather(
        *(db.write(people.put_contact, TENANT, f"c-{i}", phone="+5511900000000", name=None, by=BY) for i in range(4)),
        return_exceptions=True,
    )
    assert sum(isinstance(o, dict) for o in outcomes) == 1
    assert sum(isinstance(o, Conflict | IntegrityError) for o in outcomes) == 3


async def test_a_revoked_permission_stays_on_record_and_can_be_given_again(db: Database) -> None:
    later = people.By(actor="user:ines", now=NOON + timedelta(hours=1))
    gone = await db.write(people.revoke_guardian, TENANT, "p-pedro", "c-maria", reason="fim", by=later)
    assert (gone["revoked_at"], gone["verified"], gone["guardian_version"]) == (later.now, True, 2)
    back = await grant(db, "p-pedro", "c-maria")
    assert (back["revoked_at"], back["granted_by"], back["guardian_version"]) == (None, "user:ines", 3)


async def test_a_permission_of_another_clinic_is_not_found(db: Database) -> None:
    await db.write(builders.tenant, tenant_id="ten-lua")
    assert await db.read(people.guardian, "ten-lua", "p-pedro", "c-maria") is None
    assert await db.read(people.contact, "ten-lua", "c-maria", NOON) is None
    assert await db.read(people.patients, "ten-lua", after=None, limit=10) == []


async def test_the_agenda_reads_what_overlaps(db: Database) -> None:
    def book(conn: Connection) -> None:
        builders.appointment(conn, start_at=NOON, end_at=NOON + timedelta(minutes=50))

    await db.write(book)
    found = await db.read(appointment, TENANT, "a-1")
    assert found is not None
    assert (found["start"], found["status"], found["version"]) == (NOON, "scheduled", 1)
    half = NOON + timedelta(minutes=30)
    assert await db.read(appointments, TENANT, limit=5, from_at=half) == [found]
    assert await db.read(appointments, TENANT, limit=5, to_at=NOON) == []
    assert await db.read(appointments, TENANT, limit=5, after=(NOON, "a-1")) == []
