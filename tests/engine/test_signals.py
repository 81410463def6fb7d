"""Every signal of section 9, driven over its limits and back: fires once, to its owner, climbs without ACK, ends quietly."""

from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import ManualClock
from app.domain.signals import SIGNALS
from app.engine.signals import SignalWatch
from app.metrics import Metrics
from app.store.alerts import climb_due
from app.store.database import Database
from app.store.tables import Alert, EvidencePack, SignalFiring, SignalStateRow, table
from tests.builders import tenant
from tests.engine.signal_world import DRIVES, Drive

pytestmark = pytest.mark.story("S-PC-04-002")

ALERT, FIRING, STATE, PACK = table(Alert), table(SignalFiring), table(SignalStateRow), table(EvidencePack)
BY_NAME = {drive.signal: drive for drive in DRIVES}


def test_every_signal_of_the_contract_is_driven() -> None:
    assert BY_NAME.keys() == SIGNALS.keys()
    assert len(DRIVES) == len(BY_NAME)


def clinic_of(drive: Drive) -> str:
    """Each signal has a clinic of its own."""
    return f"ten-{drive.signal}"[:40]


def scope_of(drive: Drive) -> str:
    return drive.scope or clinic_of(drive)


def stands(conn: Connection, drive: Drive) -> str:
    own = (STATE.c.scope == scope_of(drive), STATE.c.signal == drive.signal)
    return conn.execute(select(STATE.c.level).where(*own)).scalar() or "normal"


def alerts_of(conn: Connection, drive: Drive) -> list[Any]:
    own = (ALERT.c.scope == scope_of(drive), ALERT.c.trigger == drive.signal)
    return list(conn.execute(select(ALERT).where(*own).order_by(ALERT.c.raised_at)))


def firings_of(conn: Connection, drive: Drive) -> list[Any]:
    own = (FIRING.c.scope == scope_of(drive), FIRING.c.signal == drive.signal)
    return list(conn.execute(select(FIRING).where(*own).order_by(FIRING.c.at)))


async def test_every_signal_fires_once_to_its_owner_climbs_without_ack_and_ends_quietly(
    db: Database, manual_clock: ManualClock
) -> None:
    watch, other_node = SignalWatch(db, manual_clock, Metrics()), SignalWatch(db, manual_clock, Metrics())

    async def look(**later: float) -> None:
        manual_clock.advance(**(later or {"seconds": 15}))
        await watch.tick()
        await other_node.tick()

    def all_of(conn: Connection, read: Any) -> dict[str, Any]:
        return {drive.signal: read(conn, drive) for drive in DRIVES}

    async def everything(read: Any) -> dict[str, Any]:
        return await db.read(all_of, read)

    def furnish(conn: Connection) -> None:
        for drive in DRIVES:
            tenant(conn, tenant_id=clinic_of(drive), slug=drive.signal.replace("_", "-")[:60])

    await db.write(furnish)
    await look()
    assert set((await everything(stands)).values()) == {"normal"}

    def act(conn: Connection, which: str) -> None:
        for drive in DRIVES:
            step = getattr(drive, which)
            if step is not None:
                step(conn, clinic_of(drive), manual_clock.now())

    await db.write(act, "warn")
    await look()
    assert await everything(stands) == dict.fromkeys(BY_NAME, "warning")
    await look()
    raised = await everything(alerts_of)
    for name, drive in BY_NAME.items():
        fired = (await everything(firings_of))[name]
        assert [(f.level, f.owner) for f in fired] == [("warning", drive.owner)], name
        if SIGNALS[name].raises:
            assert [(a.severity, a.owner, a.status, a.seen_count) for a in raised[name]] == [("warning", drive.owner, "open", 1)], (
                name
            )
            assert fired[0].alert_id == raised[name][0].alert_id
    manual_clock.advance(minutes=6)
    await db.write(act, "worse")
    await look()
    assert await everything(stands) == dict.fromkeys(BY_NAME, "critical")
    await look()
    raised = await everything(alerts_of)
    for name, drive in BY_NAME.items():
        assert [f.level for f in (await everything(firings_of))[name]] == ["warning", "critical"], name
        if SIGNALS[name].raises:
            # what got worse is told anew: an alert of its own, with its own ladder
            told = [(a.severity, a.status) for a in raised[name]]
            assert told == [("warning", "resolved"), (drive.severity, "open")], name
    manual_clock.advance(minutes=16)
    await db.write(climb_due, manual_clock.now())
    for name, drive in BY_NAME.items():
        if SIGNALS[name].raises:
            expected = "ack_timeout_escalated" if drive.severity == "critical" else "alert_fired_no_ack_escalated"
            assert [a.result for a in (await everything(alerts_of))[name]][1:] == [expected], name

    def built(conn: Connection) -> None:
        """The packs of the alerts that ended so far; no builder runs here."""
        done = {"due_at": None, "result": "evidence_pack_generated", "finished_at": manual_clock.now()}
        conn.execute(PACK.update().where(PACK.c.kind == "alert", PACK.c.result.is_(None)).values(**done))

    await db.write(built)
    await db.write(act, "ease")
    await look()
    await look(minutes=20)
    assert set((await everything(stands)).values()) == {"critical"}, "below warning, and not for half an hour yet"
    for _ in range(3):
        await look(minutes=20)
    await look(minutes=31)
    assert await everything(stands) == dict.fromkeys(BY_NAME, "normal")
    for name in BY_NAME:
        assert all(f.ended_at is not None for f in (await everything(firings_of))[name]), name
        if SIGNALS[name].raises:
            assert [a.status for a in (await everything(alerts_of))[name]] == ["resolved", "resolved"], name
