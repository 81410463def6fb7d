"""A family that left something in every part of the product is erased: no column of any table holds it any more (LGPD)."""

import io
import zipfile
import zlib
from collections.abc import Iterator

import httpx
import pytest
from sqlalchemy import Connection, select

from app.bootstrap import Services
from app.clock import ManualClock
from app.engine.retention import Retention
from app.store.tables import EvidencePack, ManualTask, ReplayItem, Ticket, metadata, table
from app.store.verify import verify
from tests.web.api_client import CONTACT
from tests.web.conftest import add_key
from tests.web.one_family import NAME, PHONE, SEEDED, WORDS, asks, begin, comes_to_rest, is_replayed, live, speaks_with_a_person

TASK, TICKET, ITEM, PACK = table(ManualTask), table(Ticket), table(ReplayItem), table(EvidencePack)

TRAIL = "audit_entry"
"""Append-only and hash-chained: what staff typed stays in it, without the family's names and numbers."""


def held(conn: Connection, words: set[str]) -> Iterator[tuple[str, str, str]]:
    """(table, column, word) wherever a column of any table holds one of the words; packs are opened."""
    for name, of in metadata.tables.items():
        for row in conn.execute(select(of)):
            for column, value in row._mapping.items():
                text = _opened(value) if isinstance(value, bytes) else str(value)
                for word in words - (set(WORDS) if name == TRAIL else set()):
                    if word.casefold() in text.casefold():
                        yield name, str(column), word


def _opened(content: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(zlib.decompress(content))) as pack:
        return "\n".join(pack.read(name).decode(errors="replace") for name in pack.namelist())


async def test_after_its_erasure_no_column_of_any_table_holds_a_family(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock
) -> None:
    family = await live(services, client, manual_clock)
    for kind, subject in family.about.items():
        body = {"kind": kind, "subject": subject, "reason": f"pedido de {NAME}"}
        asked = await family.api.call("POST", "/evidence", json=body)
        assert asked.status_code == 201, (kind, asked.text)
    seeded = {*SEEDED, *WORDS, *family.told}
    where = {(name, column) for name, column, _ in await services.db.read(lambda conn: list(held(conn, seeded)))}
    assert where >= {  # the walk sees what is there
        ("contact", "name"), ("contact", "phone"), ("patient", "name"), ("guardian", "reason"), ("message", "payload_json"),
        ("message", "external_id"), ("message", "conversation_id"), ("command", "payload_json"), ("outbox", "body_json"),
        ("outbox", "last_error"), ("outbox", "provider_message_id"), ("delivery_status", "provider_message_id"),
        ("malformed_item", "raw_json"), ("manual_task", "note"), ("ticket", "reason"), ("ticket", "close_reason"),
        ("replay_item", "message"), ("lane", "paused_reason"), ("alert", "summary"), ("safe_episode", "recovery_action"),
        ("contingency_channel", "reason"), ("evidence_pack", "reason"),
    }  # fmt: skip
    family.api.key = await add_key(services, None)
    body = {"tenant_id": family.api.clinic.tenant_id, "reason": f"pedido de {NAME}, {PHONE}", "confirm": CONTACT}
    answer = await family.api.call("POST", f"/contacts/{CONTACT}/erase", json=body)
    assert answer.status_code == 200, answer.text
    assert {kind for kind, n in answer.json()["erased"].items() if n == 0} <= {"simulated_phone"}
    left = await services.db.read(lambda conn: sorted(held(conn, seeded)))
    assert left == []
    assert await services.db.read(lambda conn: list(verify(conn))) == []


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # the statements are the same
async def test_what_was_typed_predicted_and_packed_goes_with_its_time(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock
) -> None:
    family = await begin(services, client)
    await asks(family, manual_clock)
    await speaks_with_a_person(family, manual_clock)
    await is_replayed(family, manual_clock)
    await comes_to_rest(family, manual_clock, pause=False, days=0)
    asked = await family.api.call("POST", "/evidence", json={"kind": "contact", "subject": CONTACT})
    assert asked.json()["result"] == "evidence_pack_generated", asked.text

    async def kept() -> dict[str, int]:
        await Retention(services.db, manual_clock, node_id="n1").tick()
        return await services.db.read(_kept)

    early = await kept()
    assert all(early.values()), early
    manual_clock.advance(days=2)
    day = await kept()
    assert 0 < day["predicted"] < early["predicted"]  # a dry run may still be run
    manual_clock.advance(days=6)
    week = await kept()
    assert week == early | {"predicted": 0}
    manual_clock.advance(days=83)
    assert await kept() == week | {"notes": 0, "reasons": 0, "endings": 0}
    manual_clock.advance(days=320)
    assert await kept() == dict.fromkeys(early, 0)
    assert await services.db.read(lambda conn: list(verify(conn))) == []


def _kept(conn: Connection) -> dict[str, int]:
    """How many texts of each kind are left."""
    counted = {
        "predicted": (ITEM, ITEM.c.message.is_not(None)),
        "notes": (TASK, TASK.c.note.is_not(None)),
        "reasons": (TICKET, TICKET.c.reason.contains("ornitorrinco")),
        "endings": (TICKET, TICKET.c.close_reason.is_not(None)),
        "packs": (PACK, PACK.c.root.is_not(None)),
    }
    return {name: len(conn.execute(select(of).where(condition)).all()) for name, (of, condition) in counted.items()}
