"""The alert loop: what is sent when, what downtime merges, what failing targets cost, on both databases with real HTTP."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Row, delete, select, update

from app.channels.addresses import AllowList
from app.channels.factory import World
from app.channels.http import Limits, new_client
from app.clock import ManualClock
from app.credentials import sha256
from app.domain.delivery import DeliveryUpdate
from app.domain.envelopes import canonical_json
from app.engine.alerts import AlertLoop, AlertPolicy
from app.engine.channel_book import ChannelBook
from app.engine.phone_writer import PhoneWriter
from app.engine.watch import audit
from app.store import ack_tokens, alerts
from app.store.alert_claims import claim_due
from app.store.alert_steps import record_deliveries
from app.store.alert_voices import spoken_for
from app.store.alerts import raise_alert
from app.store.bulk import insert_rows
from app.store.database import Database
from app.store.tables import Alert, AlertStep, ModeRow, PhoneMessage, SettingsDoc, table
from app.store.verify import verify
from app.telemetry import Metrics
from tests import builders
from tests.builders import NOON
from tests.provider import Behaviour, Request, accepts, answer, hang, provider

ALERT, STEP, PHONE, MODE = table(Alert), table(AlertStep), table(PhoneMessage), table(ModeRow)
TENANT = "ten-sol"
POLICY = AlertPolicy(send_limit_s=20.0)  # a machine that pauses for a second is not a provider that fails
IMPATIENT = AlertPolicy(send_limit_s=1.5)  # for what never answers
CROWDED = AlertPolicy(send_limit_s=60.0, in_flight=8, per_target=2)
Rows = list[Row[Any]]


def minutes(count: float) -> datetime:
    return NOON + timedelta(minutes=count)


@asynccontextmanager
async def node(db: Database, clock: ManualClock, policy: AlertPolicy = POLICY) -> AsyncIterator[AlertLoop]:
    """One process's loop."""
    async with new_client() as client:
        world = World(client=client, phone=PhoneWriter(db, clock), allowed=AllowList.of(["127.0.0.0/8"]), limits=Limits(10, 20, 20))
        loop = AlertLoop(
            db, clock, ChannelBook(db, world), Metrics(), public_url="https://kora.example", secret_key="s" * 32, policy=policy
        )
        try:
            yield loop
        finally:
            await loop.close()


async def settled(*loops: AlertLoop) -> None:
    """Run rounds until nothing is due and nothing is on its way."""
    async with asyncio.timeout(30):
        while True:
            for loop in loops:
                loop.wake.clear()
            delays = [await loop.tick() for loop in loops]
            if not any(loop.in_flight for loop in loops) and min(delays) > 0.02:
                return
            if min(delays) > 0:
                waiting = [asyncio.ensure_future(loop.wake.wait()) for loop in loops]
                await asyncio.wait(waiting, timeout=0.05, return_when=asyncio.FIRST_COMPLETED)
                for task in waiting:
                    task.cancel()


def open_one(conn: Connection, /, now: datetime = NOON, **fields: Any) -> str:
    given: dict[str, Any] = {
        "tenant_id": TENANT,
        "trigger": "n8n_down",
        "severity": "critical",
        "summary": "n8n does not answer",
        "dedup_key": "n8n-1",
        "correlation_id": "corr-1",
    }
    return raise_alert(conn, now=now, **{**given, **fields}).alert_id


def configure(conn: Connection, /, **document: Any) -> None:
    row = {"scope": TENANT, "version": 1, "data_json": canonical_json(document), "updated_at": NOON, "updated_by": "system:test"}
    insert_rows(conn, table(SettingsDoc), [row])


def hooks(**urls: str) -> dict[str, str]:
    return {name: f"webhook:{url}" for name, url in urls.items()}


async def phone(db: Database, target: str = "superadmin_whatsapp") -> Rows:
    query = select(PHONE).where(PHONE.c.target == target).order_by(PHONE.c.position)
    return await db.read(lambda conn: list(conn.execute(query)))


async def sends(db: Database, alert_id: str, **where: Any) -> Rows:
    query = select(STEP).where(STEP.c.alert_id == alert_id, STEP.c.action == "send").order_by(STEP.c.due_at, STEP.c.step_id)
    for name, value in where.items():
        query = query.where(STEP.c[name] == value)
    return await db.read(lambda conn: list(conn.execute(query)))


async def alert_row(db: Database, alert_id: str) -> Row[Any]:
    return await db.read(lambda conn: conn.execute(select(ALERT).where(ALERT.c.alert_id == alert_id)).one())


@pytest.fixture(autouse=True)
async def clinic(db: Database) -> None:
    await db.write(lambda conn: builders.tenant(conn, tenant_id=TENANT))


# --- the ladder ---------------------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_nobody_acknowledges_and_the_whole_ladder_is_climbed_on_time(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)
    levels = []
    async with node(db, manual_clock) as loop:
        for minute in range(0, 31, 5):
            manual_clock.set(minutes(minute) - timedelta(seconds=1))
            await settled(loop)
            manual_clock.set(minutes(minute))
            await settled(loop)
            row = await alert_row(db, alert_id)
            levels.append((row.level, row.result))
    whatsapp = await sends(db, alert_id, channel="superadmin_whatsapp")
    assert [(s.n, s.due_at, s.done_at, s.outcome, s.late) for s in whatsapp] == [
        (n, minutes(5 * (n - 1)), minutes(5 * (n - 1)), "sent", False) for n in range(1, 8)
    ]
    assert [(s.n, s.outcome) for s in await sends(db, alert_id, channel="ops")] == [(1, "sent")]
    assert [level for level, _ in levels[:4]] == ["raised", "warning", "high", "safe_mode"]
    assert [result for _, result in levels[2:4]] == [None, "ack_timeout_escalated"]
    texts = [m.body for m in await phone(db)]
    assert len(texts) == 7
    assert "Ainda aberto, tentativa 3" in texts[2]
    assert "modo seguro liga às 09:15" in texts[2]
    assert "modo seguro está valendo desde 09:15" in texts[4]
    assert all("https://kora.example/ack/" in t for t in texts)
    assert len({t.rsplit("/ack/", 1)[1] for t in texts}) == 7


@pytest.mark.story("S-PC-03-001")
async def test_an_ack_stops_resends_that_are_due_and_claimed_already(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        await settled(loop)
        manual_clock.set(minutes(5))

        def take(conn: Connection) -> list[Any]:
            return claim_due(
                conn,
                now=minutes(5),
                lease_until=minutes(6),
                lease_token="node-b",
                room=9,
                busy={},
                per_target=2,
                mint=lambda: ("t", "h"),
            )

        (claimed,) = await db.write(take)
        await db.write(lambda conn: alerts.acknowledge(conn, alert_id, by="user:ana", how="console", now=minutes(5)))
        assert await db.write(take) == []
        for minute in (5, 7, 10, 30):
            manual_clock.set(minutes(minute))
            await settled(loop)
    assert len(await phone(db)) == 1
    outcomes = Counter(s.outcome for s in await sends(db, alert_id))
    assert outcomes == {"sent": 2, "stopped": 6}
    assert claimed.step.step_id in {s.step_id for s in await sends(db, alert_id, outcome="stopped")}


async def test_a_message_claimed_before_the_ack_does_not_leave_after_it(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        # claimed in this round; the calls run only when the test lets the event loop go on
        assert await loop.tick() == 0.0
        await db.write(lambda conn: alerts.acknowledge(conn, alert_id, by="user:ana", how="console", now=NOON))
        await settled(loop)
    sent = {s.step_id for s in await sends(db, alert_id, outcome="sent")}
    shown = {m.idempotency_key for m in [*await phone(db), *await phone(db, "ops")]}
    assert shown == sent, "what left is recorded as sent, and what is recorded as stopped did not leave"


@pytest.mark.story("S-PC-03-001")
async def test_downtime_merges_missed_resends_marks_late_and_skips_no_level(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        await settled(loop)
    manual_clock.set(minutes(17))
    async with node(db, manual_clock) as loop:
        await settled(loop)
    done = [s for s in await sends(db, alert_id, channel="superadmin_whatsapp") if s.done_at is not None]
    assert [(s.n, s.outcome, s.late) for s in done] == [
        (1, "sent", False),
        (2, "merged", True),
        (3, "merged", True),
        (4, "sent", True),
    ]
    last = (await phone(db))[-1].body
    assert "Ainda aberto, tentativa 4" in last
    assert "atrasada: devia ter saído às 09:15" in last
    assert (await alert_row(db, alert_id)).level == "safe_mode"


async def test_two_nodes_send_each_step_once(db: Database, manual_clock: ManualClock) -> None:
    for i in range(6):
        await db.write(open_one, dedup_key=f"k-{i}", trigger=f"kind-{i}")
    async with node(db, manual_clock) as one, node(db, manual_clock) as two:
        for minute in (0, 5, 10):
            manual_clock.set(minutes(minute))
            await asyncio.gather(one.tick(), two.tick())
            await settled(one, two)
    tries = await db.read(lambda conn: [r.tries for r in conn.execute(select(STEP).where(STEP.c.outcome == "sent"))])
    assert tries == [1] * 24
    assert len(await phone(db)) == 18


async def test_a_sender_that_vanished_is_replaced_when_its_lease_ends(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)

    def vanish(conn: Connection) -> None:
        conn.execute(update(STEP).where(STEP.c.due_at == NOON).values(lease_token="dead", lease_until=NOON + timedelta(seconds=15)))

    await db.write(vanish)
    async with node(db, manual_clock) as loop:
        await settled(loop)
        assert await phone(db) == []
        manual_clock.advance(seconds=15)
        await settled(loop)
    assert [(s.outcome, s.tries) for s in await sends(db, alert_id, outcome="sent")] == [("sent", 1)] * 2


async def test_a_resend_whose_sender_vanished_and_that_a_later_one_covers_is_marked_late(
    db: Database, manual_clock: ManualClock
) -> None:
    alert_id = await db.write(open_one)

    def vanish(conn: Connection) -> None:
        second = (STEP.c.due_at == minutes(5)) & (STEP.c.action == "send")
        conn.execute(update(STEP).where(second).values(lease_token="dead", lease_until=minutes(10) + timedelta(seconds=1)))

    async with node(db, manual_clock) as loop:
        await settled(loop)
        await db.write(vanish)
        for at in (minutes(10), minutes(10) + timedelta(seconds=1)):
            manual_clock.set(at)
            await settled(loop)
    _, second, third, *_ = await sends(db, alert_id, channel="superadmin_whatsapp")
    assert (third.outcome, third.late) == ("sent", False)
    assert (second.outcome, second.merged_into, second.late) == ("merged", third.step_id, True)


async def test_a_clock_that_jumps_loses_no_step_and_sends_none_twice(db: Database, manual_clock: ManualClock) -> None:
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        for minute in (0, 60, 0, 5, 65, -60, 30):
            manual_clock.set(minutes(minute))
            await settled(loop)
    outcomes = Counter((s.channel, s.outcome) for s in await sends(db, alert_id))
    assert outcomes == {("ops", "sent"): 1, ("superadmin_whatsapp", "sent"): 2, ("superadmin_whatsapp", "merged"): 5}
    assert (await alert_row(db, alert_id)).level == "safe_mode"
    assert [m.body.count("atrasada") for m in await phone(db)] == [0, 1]


async def test_whoever_passes_it_on_hands_it_to_the_next_target_and_the_resends_follow(
    db: Database, manual_clock: ManualClock
) -> None:
    await db.write(lambda conn: configure(conn, channels={"superadmin_whatsapp": ["simulator:ana", "simulator:bia"]}))
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        await settled(loop)
        manual_clock.set(minutes(1))
        me = "superadmin_whatsapp"
        passed = await db.write(
            lambda conn: alerts.pass_on(conn, alert_id, by=f"recipient:{me}", how="link", now=minutes(1), recipient=me)
        )
        assert passed.recipient == "superadmin_whatsapp:2"
        await settled(loop)
        manual_clock.set(minutes(5))
        await settled(loop)
    assert [m.body.splitlines()[0] for m in await phone(db, "ana")] == ["KoraOS CRÍTICO"]
    told = [m.body for m in await phone(db, "bia")]
    assert "passou este aviso para você" in told[0]
    assert "tentativa 2" in told[1]
    assert len(told) == 2


# --- failing targets ----------------------------------------------------------------------------------------------------


def after(moment: asyncio.Event, behaviour: Behaviour) -> Behaviour:
    """Keep the caller waiting until the moment has come."""

    async def behave(request: Request, writer: asyncio.StreamWriter) -> None:
        await moment.wait()
        await behaviour(request, writer)

    return behave


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        (answer(500), "failed", "http_500"),
        (answer(429, retry_after="30"), "failed", "http_429"),
        (answer(302, location="http://127.0.0.1:1/"), "failed", "http_302"),
        (hang, "unknown", "timeout"),
        (None, "failed", "ConnectError"),
    ],
    ids=["500", "429", "redirect", "hang", "refused"],
)
async def test_a_target_that_fails_gets_its_fallback_at_once_and_delays_nobody(
    db: Database, manual_clock: ManualClock, behaviour: Behaviour | None, outcome: str, detail: str
) -> None:
    policy = IMPATIENT if behaviour is hang else POLICY
    async with provider() as bad, provider(answer(200)) as good, node(db, manual_clock, policy) as loop:
        # the bad target answers only when the good one has been told: whoever waits for it first comes to another outcome
        bad.default = after(good.arrived, behaviour or accepts())
        url = bad.url if behaviour else "http://127.0.0.1:1"
        await db.write(lambda conn: configure(conn, channels=hooks(superadmin_whatsapp=url, ops=good.url)))
        alert_id = await db.write(open_one)
        assert await loop.tick() == 0.0
        async with asyncio.timeout(15):
            await good.arrived.wait()
        await settled(loop)
        assert [r.json["severity"] for r in good.requests] == ["critical"]
    first = {s.channel: s for s in await sends(db, alert_id) if s.due_at == NOON}
    assert (first["ops"].outcome, first["ops"].target) == ("sent", "webhook:127.0.0.1")
    assert (first["superadmin_whatsapp"].outcome, first["superadmin_whatsapp"].answer) == (outcome, detail)
    fallback = first["superadmin_sms"]
    assert (fallback.outcome, fallback.fallback_of, fallback.n) == ("sent", first["superadmin_whatsapp"].step_id, 1)
    (shown,) = await phone(db, "superadmin_sms")
    assert "caminho alternativo" in shown.body


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize(
    ("behaviour", "outcome", "detail"),
    [
        (answer(500), "unknown", "http_500"),
        (answer(429, retry_after="600"), "failed", "http_429"),
        (hang, "unknown", "timeout"),
        (None, "failed", "ConnectError"),
    ],
    ids=["500", "429", "hang", "refused"],
)
async def test_a_whatsapp_provider_that_fails_all_the_way_up_has_a_fallback_in_each_attempt(
    db: Database, manual_clock: ManualClock, behaviour: Behaviour | None, outcome: str, detail: str
) -> None:
    rungs = range(0, 11, 5) if behaviour is hang else range(0, 31, 5)
    policy = IMPATIENT if behaviour is hang else POLICY
    async with provider(behaviour) as bad, node(db, manual_clock, policy) as loop:
        url = bad.url if behaviour else "http://127.0.0.1:1"
        evolution = {"base_url": url, "instance": "sol", "api_key": "k"}
        channels = {"superadmin_whatsapp": "evolution:+5511900000001"}
        await db.write(lambda conn: configure(conn, evolution=evolution, channels=channels))
        alert_id = await db.write(open_one)
        for minute in rungs:
            manual_clock.set(minutes(minute))
            await settled(loop)
        assert len(bad.requests) == (len(rungs) if behaviour else 0), "a provider is asked once in each attempt, whatever it says"
    tried = [s for s in await sends(db, alert_id, channel="superadmin_whatsapp") if s.done_at is not None]
    assert [(s.n, s.begun_at, s.outcome, s.answer, s.late) for s in tried] == [
        (n, minutes(minute), outcome, detail, False) for n, minute in enumerate(rungs, 1)
    ]
    assert {s.target for s in tried} == {"evolution:+55...0001"}
    fallbacks = await sends(db, alert_id, channel="superadmin_sms")
    assert [(s.n, s.done_at, s.outcome, s.fallback_of) for s in fallbacks] == [(s.n, s.begun_at, "sent", s.step_id) for s in tried]
    assert [(s.n, s.outcome, s.done_at) for s in await sends(db, alert_id, channel="ops")] == [(1, "sent", NOON)]
    assert [m.body.count("caminho alternativo") for m in await phone(db, "superadmin_sms")] == [1] * len(rungs)


async def test_a_service_of_apprise_carries_alerts_too(db: Database, manual_clock: ManualClock) -> None:
    async with provider(answer(200)) as there, node(db, manual_clock) as loop:
        channels = {"ops": f"json://user:secret@127.0.0.1:{there.port}/", "superadmin_whatsapp": "nonsense"}
        await db.write(lambda conn: configure(conn, channels=channels))
        alert_id = await db.write(open_one)
        await settled(loop)
        assert "KoraOS CRÍTICO" in there.requests[0].json["title"]
        assert "n8n does not answer" in there.requests[0].json["message"]
    done = {s.channel: (s.outcome, s.target, s.answer) for s in await sends(db, alert_id) if s.due_at == NOON}
    assert done["ops"] == ("sent", "json:127.0.0.1", None)
    assert done["superadmin_whatsapp"][0] == "failed"
    assert done["superadmin_whatsapp"][2] == "bad_channel_url"
    assert done["superadmin_sms"][0] == "sent"


async def test_a_message_that_the_provider_gives_up_later_gets_its_fallback_then(db: Database, manual_clock: ManualClock) -> None:
    async with provider(accepts("wamid.9")) as there, node(db, manual_clock) as loop:
        cloud = {"phone_number_id": "1055", "access_token": "t", "base_url": there.url}
        channels = {"superadmin_whatsapp": "whatsapp:+5511900000001"}
        await db.write(lambda conn: configure(conn, whatsapp=cloud, channels=channels))
        alert_id = await db.write(open_one)
        await settled(loop)

        async def status(word: str, detail: str | None = None) -> int:
            one = DeliveryUpdate(
                tenant_id=TENANT, channel="whatsapp", provider_message_id="wamid.9", status=word, at=NOON, detail=detail
            )
            return await db.write(record_deliveries, [one], NOON)

        assert await status("sent") == 1
        for _ in range(2):
            assert await status("failed", "131047 Re-engagement message") == 1
        await settled(loop)
        first = {s.channel: s for s in await sends(db, alert_id) if s.due_at == NOON}
        assert (first["superadmin_whatsapp"].outcome, first["superadmin_whatsapp"].answer) == (
            "failed",
            "131047 Re-engagement message",
        )
        assert (first["superadmin_sms"].outcome, len(await phone(db, "superadmin_sms"))) == ("sent", 1)
        await status("read")
    delivered = {s.channel: s.delivery for s in await sends(db, alert_id) if s.due_at == NOON}
    assert delivered["superadmin_whatsapp"] == "read"


async def test_two_failures_of_one_minute_share_one_fallback_and_a_failing_fallback_ends_there(
    db: Database, manual_clock: ManualClock
) -> None:
    async with provider(answer(500)) as bad, node(db, manual_clock) as loop:
        await db.write(
            lambda conn: configure(conn, channels=hooks(superadmin_whatsapp=bad.url, ops=bad.url, superadmin_sms=bad.url))
        )
        alert_id = await db.write(open_one)
        await settled(loop)
        done = [s.channel for s in await sends(db, alert_id, outcome="failed")]
        assert sorted(done) == ["ops", "superadmin_sms", "superadmin_whatsapp"]
        manual_clock.set(minutes(5))
        await settled(loop)
    assert sorted(s.channel for s in await sends(db, alert_id, outcome="failed")) == sorted(
        [*done, "superadmin_sms", "superadmin_whatsapp"]
    )


async def test_hanging_calls_leave_room_for_other_alerts(db: Database, manual_clock: ManualClock) -> None:
    async with provider(hang) as bad, node(db, manual_clock, CROWDED) as loop:
        await db.write(lambda conn: configure(conn, channels=hooks(superadmin_whatsapp=bad.url)))
        for i in range(10):
            await db.write(open_one, dedup_key=f"k-{i}", trigger=f"kind-{i}")
        async with asyncio.timeout(CROWDED.send_limit_s / 2):
            while len(await phone(db, "ops")) < 10:
                loop.wake.clear()
                if await loop.tick() > 0:
                    await asyncio.wait([asyncio.ensure_future(loop.wake.wait())], timeout=0.02)
        async with asyncio.timeout(CROWDED.send_limit_s / 2):
            while loop.in_flight > 2:  # the last good ones are being settled; those that hang are never more than two
                await asyncio.sleep(0.01)
        assert loop.in_flight == 2


# --- storms -------------------------------------------------------------------------------------------------------------


async def two_clinics(db: Database) -> None:
    await db.write(lambda conn: builders.tenant(conn, tenant_id="ten-lua"))


@pytest.mark.story("S-PC-03-001")
@pytest.mark.parametrize("severity", ["critical", "high"])
async def test_a_storm_of_several_minutes_over_clinics_that_share_a_phone_has_one_voice(
    db: Database, manual_clock: ManualClock, severity: str
) -> None:
    await two_clinics(db)
    primary = "ops" if severity == "critical" else "ops_chat"
    async with node(db, manual_clock) as loop:
        for i in range(12):  # 8 minutes, an alert every 40 seconds, clinic by clinic
            manual_clock.set(minutes(i * 2 / 3))
            tenant_id = (TENANT, "ten-lua", None)[i % 3]
            await db.write(open_one, manual_clock.now(), tenant_id=tenant_id, dedup_key=f"k-{i}", severity=severity)
            await settled(loop)
        firsts = [m.at for m in await phone(db, primary)]
        assert firsts == [NOON, minutes(16 / 3)], "a voice is at most five minutes old"
        manual_clock.set(minutes(10))
        await settled(loop)
    whatsapp = [(m.at, "tentativa" in m.body) for m in await phone(db)]
    if severity == "critical":
        # the resend of minute 5 speaks for those that came until then, that of minute 10 for all
        assert whatsapp == [(NOON, False), (minutes(16 / 3), True), (minutes(10), True)]
    else:
        assert whatsapp == []
    assert await db.read(verify) == []


async def test_clinics_with_phones_of_their_own_have_voices_of_their_own(db: Database, manual_clock: ManualClock) -> None:
    await two_clinics(db)
    await db.write(lambda conn: configure(conn, channels={"superadmin_whatsapp": "simulator:sol"}))
    async with node(db, manual_clock) as loop:
        first = await db.write(open_one)
        other = await db.write(open_one, tenant_id="ten-lua")
        await settled(loop)
        assert [len(await phone(db, target)) for target in ("sol", "superadmin_whatsapp", "ops")] == [1, 1, 1]
        (message,) = await phone(db, "sol")
        assert "do mesmo tipo" not in message.body
        # the link of the shared target answers for both clinics, that of the own phone for one
        assert await press(db, "superadmin_whatsapp", first) == {first}
        assert await press(db, "ops", first) == {first, other}


async def press(db: Database, recipient: str, alert_id: str) -> set[str]:
    """Whom the link of a recipient's message speaks for."""

    def look(conn: Connection) -> set[str]:
        step = conn.execute(
            select(STEP).where(STEP.c.recipient == recipient, STEP.c.alert_id == alert_id, STEP.c.outcome == "sent")
        ).one()
        alert = conn.execute(select(ALERT).where(ALERT.c.alert_id == alert_id)).one()
        return {alert_id, *(r.alert_id for r in conn.execute(spoken_for(step, alert, step.begun_at)))}

    return await db.read(look)


async def test_alerts_of_one_kind_that_are_no_storm_have_ladders_of_their_own(db: Database, manual_clock: ManualClock) -> None:
    first = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        await settled(loop)
        manual_clock.set(minutes(1.5))
        second = await db.write(open_one, minutes(1.5), dedup_key="n8n-2")
        await settled(loop)
        for minute in (5, 6.5, 10, 11.5):
            manual_clock.set(minutes(minute))
            await settled(loop)
    sent = [[s.done_at for s in await sends(db, a, channel="superadmin_whatsapp", outcome="sent")] for a in (first, second)]
    assert sent == [[NOON, minutes(5), minutes(10)], [minutes(1.5), minutes(6.5), minutes(11.5)]]


@pytest.mark.story("S-PC-03-001")
async def test_who_answers_a_message_answers_for_what_it_said_and_the_rest_is_told(db: Database, manual_clock: ManualClock) -> None:
    async with node(db, manual_clock) as loop:
        first = await db.write(open_one)
        with_it = await db.write(open_one, dedup_key="k-2")
        await settled(loop)
        manual_clock.advance(seconds=20)
        later = [await db.write(open_one, manual_clock.now(), dedup_key=f"k-{n}", trigger="n8n_down") for n in (3, 4)]
        await settled(loop)
        assert len(await phone(db)) == 1
        token = (await phone(db))[0].body.rsplit("/ack/", 1)[1]

        def press_link(conn: Connection) -> int:
            opened = ack_tokens.find(conn, sha256(token), manual_clock.now())
            assert opened is not None
            assert opened.others == 1
            return ack_tokens.acknowledge(conn, opened, how="link", now=manual_clock.now()).others

        assert await db.write(press_link) == 1
        states = [(await alert_row(db, a)).status for a in (first, with_it, *later)]
        assert states == ["acknowledged", "acknowledged", "open", "open"]
        await settled(loop)
        assert len(await phone(db)) == 2, "those that nobody had been told of have a message at once"
        assert "Mais 1 avisos" in (await phone(db))[1].body
    assert await db.read(verify) == []


async def test_a_failed_message_of_a_shared_voice_has_a_fallback_for_every_clinic(db: Database, manual_clock: ManualClock) -> None:
    await two_clinics(db)

    def channels(conn: Connection, url: str) -> None:
        document = canonical_json({"channels": {"superadmin_whatsapp": f"webhook:{url}"}})
        row = {"scope": "global", "version": 1, "data_json": document, "updated_at": NOON, "updated_by": "system:test"}
        insert_rows(conn, table(SettingsDoc), [row])

    async with provider(answer(500)) as bad, node(db, manual_clock) as loop:
        await db.write(channels, bad.url)
        first = await db.write(open_one)
        other = await db.write(open_one, tenant_id="ten-lua")
        await settled(loop)
        assert len(bad.requests) == 1
    (told,) = await phone(db, "superadmin_sms")
    assert "Mais 1 avisos do mesmo tipo em 2 clínicas" in told.body
    outcomes = [[s.outcome for s in await sends(db, a, channel="superadmin_sms")] for a in (first, other)]
    assert sorted(outcomes) == [["merged"], ["sent"]]


@pytest.mark.story("S-PC-03-001")
async def test_from_level_high_on_everybody_is_told(db: Database, manual_clock: ManualClock) -> None:
    channels = {"superadmin_whatsapp": ["simulator:ana", "simulator:bia"], "ops": ["simulator:sala", "simulator:casa"]}
    await db.write(lambda conn: configure(conn, channels=channels))
    alert_id = await db.write(open_one)
    async with node(db, manual_clock) as loop:
        await settled(loop)
        manual_clock.set(minutes(1))
        me = "superadmin_whatsapp"
        await db.write(lambda conn: alerts.pass_on(conn, alert_id, by=f"recipient:{me}", how="link", now=minutes(1), recipient=me))
        counts = []
        for minute in (1, 5, 9, 10, 15, 30):
            manual_clock.set(minutes(minute))
            await settled(loop)
            counts.append([len(await phone(db, name)) for name in ("ana", "bia", "sala", "casa")])
    # Ana passed it on at 1: Bia has the resend of minute 5, and from 10 on both have them; so does the second of operations, once
    assert counts == [[1, 1, 1, 0], [1, 2, 1, 0], [1, 2, 1, 0], [2, 3, 1, 1], [3, 4, 1, 1], [4, 5, 1, 1]]
    assert await db.read(verify) == []
    assert (await db.write(audit, minutes(30))).rungs_written == 0


async def test_clinics_that_share_a_phone_that_hangs_share_its_room(db: Database, manual_clock: ManualClock) -> None:
    def everywhere(conn: Connection, url: str) -> None:
        document = canonical_json({"channels": {"superadmin_whatsapp": f"webhook:{url}"}})
        row = {"scope": "global", "version": 1, "data_json": document, "updated_at": NOON, "updated_by": "system:test"}
        insert_rows(conn, table(SettingsDoc), [row])
        for i in range(6):
            builders.tenant(conn, tenant_id=f"ten-{i}")
            open_one(conn, tenant_id=f"ten-{i}", trigger=f"kind-{i}")

    async with provider(hang) as bad, node(db, manual_clock, CROWDED) as loop:
        await db.write(everywhere, bad.url)
        async with asyncio.timeout(CROWDED.send_limit_s / 2):
            while len(await phone(db, "ops")) < 6 or loop.in_flight > 2:
                loop.wake.clear()
                if await loop.tick() > 0:
                    await asyncio.wait([asyncio.ensure_future(loop.wake.wait())], timeout=0.02)
        assert (loop.in_flight, len(bad.requests)) == (2, 2)


# --- the independent look -----------------------------------------------------------------------------------------------


@pytest.mark.story("S-PC-03-001")
async def test_the_audit_finds_what_should_have_been_sent_and_repairs_what_is_missing(
    db: Database, manual_clock: ManualClock
) -> None:
    alert_id = await db.write(open_one)
    assert (await db.write(audit, NOON)).overdue == 0
    # nobody runs the loop; and somebody lost rungs and the deadline
    await db.write(lambda conn: conn.execute(delete(STEP).where(STEP.c.alert_id == alert_id, STEP.c.n > 3)))
    await db.write(lambda conn: conn.execute(update(MODE).values(safe_deadline=None)))
    found = await db.write(audit, minutes(3))
    assert (found.overdue, found.rungs_written, found.deadlines_set) == (2, 4, 1)
    assert [s.n for s in await sends(db, alert_id, channel="superadmin_whatsapp")] == list(range(1, 8))
    deadline = await db.read(lambda conn: conn.execute(select(MODE.c.safe_deadline).where(MODE.c.scope == TENANT)).scalar())
    assert deadline == minutes(15)
    raised = await db.read(
        lambda conn: {r.trigger: r.severity for r in conn.execute(select(ALERT).where(ALERT.c.scope == "global"))}
    )
    assert raised == {"alert_step_overdue": "high", "alert_ladder_repaired": "high"}
    again = await db.write(audit, minutes(3))
    assert (again.rungs_written, again.deadlines_set) == (0, 0)
