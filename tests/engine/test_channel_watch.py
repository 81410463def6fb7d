"""Contingency switched by the health of the channel that carries messages to families (F-05)."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, insert, update

from app.clock import ManualClock
from app.engine.channel_watch import ChannelWatch
from app.store import contingency
from app.store.database import Database
from app.store.people import By
from app.store.tables import Outbox, SettingsDoc, table
from tests import builders

TENANT = "ten-sol"
OUTBOX = table(Outbox)


@pytest.fixture
async def clinic(db: Database, manual_clock: ManualClock) -> Database:
    """A clinic whose messages go through the Cloud API; one of them failed just now."""

    def rows(conn: Connection) -> None:
        builders.clinic(conn, now=manual_clock.now())
        document = '{"whatsapp": {"phone_number_id": "1", "access_token": "t"}}'
        conn.execute(
            insert(table(SettingsDoc)).values(scope=TENANT, data_json=document, updated_at=manual_clock.now(), updated_by="x")
        )
        late_message(conn, manual_clock.now())

    await db.write(rows)
    return db


def late_message(conn: Connection, at: datetime) -> None:
    row = {"outbox_id": "o-1", "tenant_id": TENANT, "cause_id": "c-1", "step": "answer", "kind": "family_message", "attempts": 1}
    conn.execute(insert(OUTBOX).values(**row, created_at=at, due_at=at, correlation_id="corr-1", body_json="{}"))


async def look(db: Database, clock: ManualClock, **later: float) -> tuple[bool, list[tuple[str, bool, str]]]:
    """What holds after the loop looked, so much later."""
    clock.advance(**later)
    await ChannelWatch(db, clock).tick()
    now: dict[str, Any] = await db.read(contingency.status, TENANT)
    return now["active"], [(c["channel"], c["active"], c["origin"]) for c in now["channels"]]


async def test_messages_that_do_not_leave_for_ten_minutes_switch_it_on_and_off_again(
    clinic: Database, manual_clock: ManualClock
) -> None:
    assert await look(clinic, manual_clock, seconds=599) == (False, [])
    assert await look(clinic, manual_clock, seconds=1) == (True, [("whatsapp", True, "health")])
    assert await look(clinic, manual_clock, minutes=5) == (True, [("whatsapp", True, "health")])
    await clinic.write(lambda c: c.execute(update(OUTBOX).values(status="sent", sent_at=manual_clock.now())))
    assert await look(clinic, manual_clock) == (False, [("whatsapp", False, "health")])


async def test_what_a_person_switched_is_left_to_people(clinic: Database, manual_clock: ManualClock) -> None:
    by = By(actor="user:ines", now=manual_clock.now())
    await clinic.write(lambda c: contingency.switch(c, TENANT, "whatsapp", active=True, reason="aviso do provedor", by=by))
    assert await look(clinic, manual_clock, minutes=20) == (True, [("whatsapp", True, "person")])
    await clinic.write(lambda c: c.execute(update(OUTBOX).values(status="sent")))
    assert await look(clinic, manual_clock, minutes=20) == (True, [("whatsapp", True, "person")])


async def test_a_clinic_can_ask_for_another_patience_or_none(clinic: Database, manual_clock: ManualClock) -> None:
    def ask(seconds: int) -> Any:
        document = f'{{"whatsapp": {{"phone_number_id": "1", "access_token": "t"}}, "contingency_after_s": {seconds}}}'
        return lambda c: c.execute(update(table(SettingsDoc)).values(data_json=document))

    await clinic.write(ask(0))
    assert (await look(clinic, manual_clock, minutes=60))[0] is False
    await clinic.write(ask(120))
    assert (await look(clinic, manual_clock, seconds=1))[0] is True


async def test_a_message_that_was_never_tried_says_nothing_about_the_channel(clinic: Database, manual_clock: ManualClock) -> None:
    await clinic.write(lambda c: c.execute(update(OUTBOX).values(attempts=0)))
    assert await look(clinic, manual_clock, minutes=60) == (False, [])


async def test_old_messages_on_the_way_do_not_switch_it_off_and_on(clinic: Database, manual_clock: ManualClock) -> None:
    await look(clinic, manual_clock, minutes=10)
    fresh = manual_clock.now() - timedelta(seconds=59)
    await clinic.write(lambda c: c.execute(update(OUTBOX).values(created_at=fresh)))
    assert (await look(clinic, manual_clock))[0] is False
    assert (await look(clinic, manual_clock, minutes=5))[0] is False
