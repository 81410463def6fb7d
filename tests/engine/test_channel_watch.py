"""Contingency switched by the health of the channel that carries messages to families (F-05), as its deliveries tell it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import Connection, insert, select, update

from app.channels.addresses import AllowList
from app.channels.factory import World
from app.channels.http import new_client
from app.clock import ManualClock
from app.domain.delivery import DeliveryUpdate, OutboxStatus
from app.engine.channel_book import ChannelBook
from app.engine.channel_watch import ChannelWatch
from app.engine.outbox import OutboxLoop
from app.engine.phone_writer import PhoneWriter
from app.store import contingency
from app.store.database import Database
from app.store.outbox import Settlement, claim, enqueue, expire_leases, outbox_row, record_deliveries, settle
from app.store.people import By
from app.store.tables import ManualTask, Outbox, SettingsDoc, table
from app.telemetry import Metrics
from tests import builders
from tests.provider import answer, provider

TENANT = "ten-sol"
OUTBOX, SETTINGS = table(Outbox), table(SettingsDoc)
AGAIN, UNKNOWN, DEAD, SENT, REFUSED = (
    OutboxStatus.PENDING,
    OutboxStatus.UNKNOWN,
    OutboxStatus.DEAD,
    OutboxStatus.SENT,
    OutboxStatus.FAILED,
)


@pytest.fixture
async def clinic(db: Database, manual_clock: ManualClock) -> Database:
    """A clinic whose messages go through the Cloud API."""

    def rows(conn: Connection) -> None:
        builders.clinic(conn, now=manual_clock.now())
        document = '{"whatsapp": {"phone_number_id": "1", "access_token": "t"}}'
        conn.execute(insert(SETTINGS).values(scope=TENANT, data_json=document, updated_at=manual_clock.now(), updated_by="x"))

    await db.write(rows)
    return db


def attempts(conn: Connection, clock: ManualClock, cause: str, outcomes: Sequence[OutboxStatus], contact: str = "c-maria") -> str:
    """A message to a family, with attempts that end so."""
    row = outbox_row(
        tenant_id=TENANT, cause_id=cause, step="answer", kind="family_message", contact_id=contact, body={"text": "oi"},
        correlation_id="corr-1", now=clock.now(),
    )  # fmt: skip
    enqueue(conn, [row])
    for had, outcome in enumerate(outcomes):
        assert claim(conn, {row["outbox_id"]: had}, "token", clock.now(), clock.now())
        assert settle(conn, [Settlement(outbox_id=row["outbox_id"], token="token", status=outcome)], clock.now())
    return str(row["outbox_id"])


async def tried(db: Database, clock: ManualClock, *outcomes: OutboxStatus, cause: str = "c-1", contact: str = "c-maria") -> str:
    return await db.write(attempts, clock, cause, outcomes, contact)


async def look(db: Database, clock: ManualClock, **later: float) -> tuple[bool, list[tuple[str, bool, str]]]:
    """What holds after the loop looked, so much later."""
    clock.advance(**later)
    await ChannelWatch(db, clock).tick()
    now: dict[str, Any] = await db.read(contingency.status, TENANT)
    return now["active"], [(c["channel"], c["active"], c["origin"]) for c in now["channels"]]


async def statuses(db: Database) -> list[tuple[str, int]]:
    def read(conn: Connection) -> list[tuple[str, int]]:
        return [(r.status, r.attempts) for r in conn.execute(select(OUTBOX).order_by(OUTBOX.c.created_at))]

    return await db.read(read)


async def test_messages_that_do_not_leave_for_ten_minutes_switch_it_on_and_the_first_that_leaves_off(
    clinic: Database, manual_clock: ManualClock
) -> None:
    await tried(clinic, manual_clock, AGAIN, AGAIN)
    assert await look(clinic, manual_clock, seconds=599) == (False, [])
    assert await look(clinic, manual_clock, seconds=1) == (True, [("whatsapp", True, "health")])
    assert await look(clinic, manual_clock, minutes=5) == (True, [("whatsapp", True, "health")])
    await tried(clinic, manual_clock, SENT, cause="c-2")
    assert await look(clinic, manual_clock) == (False, [("whatsapp", False, "health")])


async def test_a_channel_that_never_answers_switches_it_on(clinic: Database, manual_clock: ManualClock) -> None:
    await tried(clinic, manual_clock, UNKNOWN)
    assert (await look(clinic, manual_clock, minutes=30))[0] is False  # one silence may be anything
    await tried(clinic, manual_clock, UNKNOWN, cause="c-2", contact="c-joao")
    assert (await look(clinic, manual_clock))[0] is True
    assert (await look(clinic, manual_clock, hours=2))[0] is True


async def test_given_up_messages_are_no_recovery_and_a_lone_one_is_enough(clinic: Database, manual_clock: ManualClock) -> None:
    await tried(clinic, manual_clock, AGAIN, AGAIN, DEAD)
    assert (await look(clinic, manual_clock, minutes=10))[0] is True
    assert (await look(clinic, manual_clock, hours=3))[0] is True


async def test_a_message_that_turns_out_to_have_been_sent_is_a_recovery(clinic: Database, manual_clock: ManualClock) -> None:
    first = await tried(clinic, manual_clock, UNKNOWN)
    await tried(clinic, manual_clock, UNKNOWN, cause="c-2")
    assert (await look(clinic, manual_clock, minutes=10))[0] is True
    known = DeliveryUpdate(
        tenant_id=TENANT, channel="whatsapp", provider_message_id="w-1", status="read", at=manual_clock.now(), reference=first
    )
    await clinic.write(record_deliveries, [known], manual_clock.now())
    assert (await look(clinic, manual_clock))[0] is False


async def test_a_refusal_for_good_or_a_sender_that_died_says_nothing_about_the_channel(
    clinic: Database, manual_clock: ManualClock
) -> None:
    await tried(clinic, manual_clock, REFUSED)
    await tried(clinic, manual_clock, REFUSED, cause="c-2")
    for cause in ("c-3", "c-4"):
        outbox_id = await tried(clinic, manual_clock, cause=cause)
        await clinic.write(claim, {outbox_id: 0}, "gone", manual_clock.now(), manual_clock.now())
    assert len(await clinic.write(expire_leases, manual_clock.now(), 8)) == 2
    assert await look(clinic, manual_clock, minutes=60) == (False, [])


async def test_in_a_quiet_clinic_a_given_up_message_asks_whether_the_channel_is_back(
    clinic: Database, manual_clock: ManualClock
) -> None:
    outbox_id = await tried(clinic, manual_clock, AGAIN, DEAD)
    assert (await look(clinic, manual_clock, minutes=10))[0] is True
    assert await statuses(clinic) == [("dead", 2)]
    assert (await look(clinic, manual_clock))[0] is True
    assert await statuses(clinic) == [("pending", 1)]
    assert (await look(clinic, manual_clock, minutes=6))[0] is True  # it is on its way: no second one, no second time
    assert await statuses(clinic) == [("pending", 1)]

    def arrives(conn: Connection) -> None:
        assert claim(conn, {outbox_id: 1}, "token", manual_clock.now(), manual_clock.now())
        settle(conn, [Settlement(outbox_id=outbox_id, token="token", status=SENT)], manual_clock.now())

    await clinic.write(arrives)
    assert (await look(clinic, manual_clock))[0] is False


@pytest.mark.parametrize("why", ["taken up", "too old", "told since"])
async def test_a_given_up_message_is_left_to_people_when_it_would_confuse(
    clinic: Database, manual_clock: ManualClock, why: str
) -> None:
    await tried(clinic, manual_clock, AGAIN, DEAD)
    manual_clock.advance(seconds=1)
    if why == "taken up":
        await clinic.write(lambda c: c.execute(update(table(ManualTask)).values(status="claimed", owner="user:ines")))
    if why == "told since":
        await tried(clinic, manual_clock, UNKNOWN, cause="c-2")
    assert (await look(clinic, manual_clock, minutes=10))[0] is True
    assert (await look(clinic, manual_clock, hours=2 if why == "too old" else 1))[0] is True
    assert (await statuses(clinic))[0] == ("dead", 2)


async def test_what_a_person_switched_is_left_to_people(clinic: Database, manual_clock: ManualClock) -> None:
    by = By(actor="user:ines", now=manual_clock.now())
    await clinic.write(lambda c: contingency.switch(c, TENANT, "whatsapp", active=True, reason="aviso do provedor", by=by))
    await tried(clinic, manual_clock, AGAIN, DEAD)
    assert await look(clinic, manual_clock, minutes=20) == (True, [("whatsapp", True, "person")])
    await tried(clinic, manual_clock, SENT, cause="c-2")
    assert await look(clinic, manual_clock, minutes=20) == (True, [("whatsapp", True, "person")])


async def test_after_a_person_switched_it_off_the_failing_counts_from_there(clinic: Database, manual_clock: ManualClock) -> None:
    await tried(clinic, manual_clock, AGAIN, DEAD)
    assert (await look(clinic, manual_clock, minutes=10))[0] is True
    by = By(actor="user:ines", now=manual_clock.now())
    await clinic.write(lambda c: contingency.switch(c, TENANT, "whatsapp", active=False, reason="já voltou", by=by))
    assert (await look(clinic, manual_clock, hours=1))[0] is False
    await tried(clinic, manual_clock, UNKNOWN, cause="c-2")
    assert (await look(clinic, manual_clock))[0] is True


async def test_a_clinic_can_ask_for_another_patience_or_none(clinic: Database, manual_clock: ManualClock) -> None:
    def ask(seconds: int) -> Any:
        document = f'{{"whatsapp": {{"phone_number_id": "1", "access_token": "t"}}, "contingency_after_s": {seconds}}}'
        return lambda c: c.execute(update(SETTINGS).values(data_json=document))

    await tried(clinic, manual_clock, AGAIN, AGAIN)
    await clinic.write(ask(0))
    assert (await look(clinic, manual_clock, minutes=2))[0] is False
    await clinic.write(ask(120))
    assert (await look(clinic, manual_clock, seconds=1))[0] is True


async def test_a_message_that_was_never_tried_says_nothing_about_the_channel(clinic: Database, manual_clock: ManualClock) -> None:
    await tried(clinic, manual_clock)
    assert await look(clinic, manual_clock, minutes=60) == (False, [])


async def test_a_real_provider_that_breaks_down_and_comes_back(clinic: Database, manual_clock: ManualClock) -> None:
    async with provider(answer(500)) as there, new_client() as client:
        document = f'{{"whatsapp": {{"phone_number_id": "1", "access_token": "t", "base_url": "{there.url}"}}}}'
        await clinic.write(lambda c: c.execute(update(SETTINGS).values(data_json=document)))
        world = World(client=client, phone=PhoneWriter(clinic, manual_clock), allowed=AllowList.of(("127.0.0.0/8",)))
        loop = OutboxLoop(clinic, manual_clock, ChannelBook(clinic, world), Metrics())

        async def deliver(cause: str, status: OutboxStatus) -> None:
            await tried(clinic, manual_clock, cause=cause)
            async with asyncio.timeout(20):
                while (await statuses(clinic))[-1][0] in ("pending", "sending"):
                    loop.wake.clear()
                    await asyncio.sleep(min(await loop.tick(), 0.02))
            assert (await statuses(clinic))[-1][0] == status

        await deliver("c-1", UNKNOWN)
        manual_clock.advance(minutes=1)
        await deliver("c-2", UNKNOWN)
        assert (await look(clinic, manual_clock, minutes=9))[0] is True
        there.default = answer(200, {"messages": [{"id": "wamid.1"}]})
        await deliver("c-3", SENT)
        assert (await look(clinic, manual_clock))[0] is False
        await loop.close()
