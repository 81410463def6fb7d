"""Evidence packs built from real history: complete, redacted, signed, checked again from their bytes alone."""

import json
import zlib
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from app.clock import ManualClock
from app.domain.evidence_check import Checked, check, document_of
from app.domain.evidence_zip import read_zip
from app.engine import evidence as engine
from app.engine.evidence import Evidence, SigningKeys
from app.engine.log_keeper import LineBuffer, LogKeeper
from app.errors import StorageUnavailable
from app.metrics import Metrics
from app.signing import is_signed, key_id_of
from app.store import evidence, evidence_facts, log_lines, signing_keys
from app.store.database import Database
from app.store.people import By
from app.store.tables import Alert, EvidenceFile, EvidencePack, table
from app.store.verify import verify
from app.store.views.audit import AuditFilter, audit_rows, chain_states
from tests.history import History

pytestmark = pytest.mark.story("S-PC-04-003")

ALERT, FILE, PACK = table(Alert), table(EvidenceFile), table(EvidencePack)
SECRET = "a-secret-key-for-tests-of-enough-length"


def checked(data: bytes, **keys: Any) -> Checked:
    return check(data, is_signed, key_id_of=key_id_of, **keys)


@pytest.fixture
async def history(db: Database, manual_clock: ManualClock) -> History:
    made = History(db, manual_clock)
    await made.begin()
    start, end = made.at(30), made.at(31)
    await made.asks(
        "c-1", "schedule", {"appointment_id": "a-1", "therapist_id": "t-ana", "start": start, "end": end}, correlation_id="corr-1"
    )
    await made.settle()
    return made


async def test_a_flow_that_was_asked_for_becomes_a_complete_signed_pack(history: History) -> None:
    db, now = history.db, history.clock.now()
    loop = Evidence(db, history.clock, Metrics(), secret_key=SECRET)
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-1", "reason": "test", "now": now}
    pack_id = await db.write(evidence.request, **asked)
    assert await db.write(evidence.request, **asked) == pack_id  # one that is pending is not asked for twice
    await loop.tick()
    row = await db.read(evidence.pack, pack_id)
    assert row is not None
    assert (row.result, row.share, row.flow_id, row.terminal_state) == ("evidence_pack_generated", 1.0, "F-02", "applied_once")
    data = await db.read(evidence.content, pack_id)
    assert data is not None
    found = checked(data, public_keys=[(await loop.keys.signer()).public_key])
    assert found.faults == ()
    assert found.entries == 1
    assert found.root == row.root
    head = json.loads(read_zip(data).files["pack.json"])
    assert head["correlation_id"] == "corr-1"
    assert await db.write(evidence.request, **asked) != pack_id  # settled: the next request is a new pack


async def test_what_has_just_ended_is_asked_for_by_itself_and_holds_its_own_log_lines(history: History) -> None:
    db, clock = history.db, history.clock
    loop, lines = Evidence(db, clock, Metrics(), secret_key=SECRET), LineBuffer()
    keeper = LogKeeper(db, clock, lines)
    await loop.tick()  # from here on it looks
    await history.asks("c-2", "follow_up", {"text": "oi"}, correlation_id="corr-2")
    await history.settle()
    said = {"ts": "2026-11-23T12:00:00.000Z", "level": "info", "event": "decided", "flow_id": "F-02", "correlation_id": "corr-2"}
    lines.add([said | {"tenant_id": history.made.tenant_id, "commit_order": 2, "status": "committed_causal"}])
    lines.add([said | {"tenant_id": "another-clinic", "commit_order": 2}])
    await keeper.tick()
    await loop.tick()
    (row,) = await db.read(evidence.packs, (history.made.tenant_id,))
    assert (row.kind, row.subject, row.automatic, row.result) == ("flow", "corr-2", True, None)
    await loop.tick()
    (row,) = await db.read(evidence.packs, (history.made.tenant_id,))
    assert row.result is None  # its answers are still on their way
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-2", "reason": "ended"}
    assert await db.write(evidence.request, **asked, now=clock.now()) == row.pack_id  # asked for twice is one pack
    clock.advance(seconds=11)
    await loop.tick()
    data = await db.read(evidence.content, row.pack_id)
    assert data is not None
    logs = document_of(data)["logs"]
    assert {(line["event"], line["source"]) for line in logs} == {
        ("decided", "log"),
        ("command_accepted", "record"),
        ("delivery_queued", "record"),
    }
    assert "another-clinic" not in data.decode(errors="replace")
    about = document_of(data)["manifest"]["about"]
    assert about["audit"]["chain"] == f"ev:{history.made.tenant_id}"  # not among what people did
    (shown,) = await db.read(chain_states, (history.made.tenant_id,))
    assert (shown.fault, shown.chain) == (None, history.made.tenant_id)
    rows, _ = await db.read(audit_rows, None, AuditFilter())
    assert "evidence.build" not in {r.action for r in rows}
    assert await db.read(verify) == []
    await loop.tick()
    assert len(await db.read(evidence.packs, (history.made.tenant_id,))) == 1  # once


async def test_a_part_that_cannot_be_read_makes_a_partial_pack_an_alert_and_another_try(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, clock = history.db, history.clock
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)

    def unreadable(*_: Any) -> Any:
        raise StorageUnavailable("the disk does not answer")

    monkeypatch.setattr(engine, "surroundings", unreadable)
    monkeypatch.setattr(log_lines, "of", unreadable)
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-1", "reason": "test"}
    pack_id = await db.write(evidence.request, **asked, now=clock.now())
    waits = []
    for _ in range(4):
        await loop.tick()
        row = await db.read(evidence.pack, pack_id)
        assert row is not None
        assert (row.result, evidence.missing_of(row)) == ("evidence_pack_partial", ["logs", "metrics"])
        waits.append((row.due_at - clock.now()).total_seconds() if row.due_at is not None else None)
        clock.advance(seconds=waits[-1] or 0)
    assert waits == [60, 300, 900, None]
    raised = await db.read(lambda conn: conn.execute(select(ALERT.c.trigger, ALERT.c.seen_count)).all())
    assert [tuple(row) for row in raised] == [("evidence_pack_partial", 4)]

    monkeypatch.setattr(engine, "gather", unreadable)
    pack_id = await db.write(evidence.request, **asked, now=clock.now())
    await loop.tick()
    row = await db.read(evidence.pack, pack_id)
    assert row is not None
    assert (row.result, row.root) == ("evidence_pack_failed_alerted", None)
    monkeypatch.undo()
    clock.advance(seconds=60)
    await loop.tick()
    row = await db.read(evidence.pack, pack_id)
    assert row is not None
    assert (row.result, row.due_at) == ("evidence_pack_generated", None)


async def test_a_pack_that_holds_only_some_of_the_rows_is_partial_and_a_shorter_span_is_whole(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    db, clock = history.db, history.clock
    middle = clock.now()
    clock.advance(seconds=10)
    await history.asks("c-2", "follow_up", {"text": "Oi"}, conversation_version=1)
    await history.settle()
    monkeypatch.setattr(evidence_facts, "ROWS_MAX", 1)
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "contact", "subject": history.made.contact_id}
    spans: list[tuple[dict[str, Any], str, list[str]]] = [
        ({}, "evidence_pack_partial", ["attempts"]),
        ({"from_at": middle}, "evidence_pack_generated", []),
    ]
    for span, result, missing in spans:
        pack_id = await db.write(evidence.request, **asked, **span, reason="test", now=clock.now())
        await loop.tick()
        row = await db.read(evidence.pack, pack_id)
        assert row is not None
        assert (row.result, evidence.missing_of(row), row.root is not None) == (result, missing, True)
        assert (row.due_at is not None) is bool(missing)
    raised = await db.read(lambda conn: conn.execute(select(ALERT.c.trigger, ALERT.c.seen_count)).all())
    assert [tuple(row) for row in raised] == [("evidence_pack_partial", 1)]


async def test_flows_without_a_pack_are_counted(history: History) -> None:
    db, clock = history.db, history.clock
    await history.says("obrigada", correlation_id="corr-2")
    await history.settle()
    clock.advance(seconds=20)

    async def counted() -> tuple[float, float]:
        metrics = Metrics()
        await Evidence(db, clock, metrics, secret_key=SECRET).tick()
        values = {s.labels["pack"]: s.value for s in next(iter(metrics.evidence_flows.collect())).samples}
        return values["made"], values["none"]

    assert await counted() == (0, 2)
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-1", "reason": "test"}
    await db.write(evidence.request, **asked, now=clock.now())
    assert await counted() == (1, 1)
    clock.advance(hours=1)
    assert await counted() == (0, 0)


async def test_a_handed_over_report_becomes_part_of_the_pack(history: History) -> None:
    db, clock = history.db, history.clock
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    report = {"verdict": "drill_passed_controlled_continuity", "detection_s": 0.4, "phases": ["cut", "recover"]}
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "deferred", "subject": "n8n", "reason": "deferred"}
    pack_id = await db.write(evidence.request, **asked, now=clock.now(), document={"verdict": "running"})
    assert await db.write(evidence.request, **asked, now=clock.now(), document=report) == pack_id
    await loop.tick()
    row = await db.read(evidence.pack, pack_id)
    assert row is not None
    assert (row.result, row.terminal_state) == ("evidence_pack_generated", "drill_passed_controlled_continuity")
    data = await db.read(evidence.content, pack_id)
    assert data is not None
    document = document_of(data)
    assert document["document"] == report
    assert {"metric": "detection_s", "value": 0.4, "of": "document"} in document["metrics"]


async def test_another_secret_is_another_key_and_the_old_one_still_proves(history: History) -> None:
    db, clock = history.db, history.clock
    first = await SigningKeys(db, clock, SECRET).signer()
    assert (await SigningKeys(db, clock, SECRET).signer()).key_id == first.key_id  # another process of this installation
    second = await SigningKeys(db, clock, "rotated " + SECRET).signer()
    rows = await db.read(signing_keys.every)
    assert {row.public_key: row.retired_at is None for row in rows} == {first.public_key: False, second.public_key: True}


def test_of_too_many_lines_the_warnings_and_the_newest_stay() -> None:
    lines = LineBuffer(capacity=10)
    for n in range(30):
        lines.add([{"ts": f"{n:02}", "level": "warning" if n == 3 else "info"}])
    assert [line["ts"] for line in lines.take(4)] == ["03", "27", "28", "29"]
    assert lines.take(4) == []
    lines.add([{"ts": "12", "level": "info", "event": event} for event in ("accepted", "decided", "delivery")])
    assert [line["event"] for line in lines.take(2)] == ["decided", "delivery"]  # of one moment, in the order in which they came


async def test_kept_lines_and_packs_nobody_asked_for_go_after_their_time(history: History) -> None:
    db, clock = history.db, history.clock
    line = {"ts": "2026-11-23T12:00:00.000Z", "level": "info", "event": "x", "flow_id": "F-01", "correlation_id": "corr-old"}
    await db.write(log_lines.keep, [line], clock.now())
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    mine: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-1", "now": clock.now()}
    old = await db.write(evidence.request, **mine, reason="ended")
    await loop.tick()
    waiting = await db.write(evidence.request, **mine, reason="ended")
    asked = await db.write(evidence.request, **mine, reason="asked for", requested_by="user:1")
    assert asked == waiting  # it was on its way by itself; now it is somebody's
    await loop.tick()
    clock.advance(hours=24 * 8)
    await db.write(log_lines.keep, [line | {"ts": clock.now().isoformat(), "correlation_id": "corr-new"}], clock.now())
    assert await db.write(evidence.prune, clock.now()) == 1
    assert await db.read(log_lines.of, None, ["corr-old"]) == []
    assert len(await db.read(log_lines.of, None, ["corr-new"])) == 1
    assert await db.read(evidence.content, old) is None
    assert await db.read(evidence.content, asked) is not None


async def test_a_tampered_store_is_found_by_the_checker(history: History) -> None:
    db, clock = history.db, history.clock
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    asked: dict[str, Any] = {"tenant_id": history.made.tenant_id, "kind": "flow", "subject": "corr-1", "reason": "test"}
    pack_id = await db.write(evidence.request, **asked, now=clock.now())
    await loop.tick()
    assert await db.read(verify) == []
    data = await db.read(evidence.content, pack_id)
    assert data is not None
    for stored in (zlib.compress(data.replace(b"applied_once", b"applied_0nce", 1)), b"no zlib at all"):
        await db.write(lambda conn, c=stored: conn.execute(update(FILE).values(content=c)))  # type: ignore[misc]
        assert [found.code for found in await db.read(verify)] == ["evidence_changed"]
    await db.write(lambda conn: conn.execute(delete(FILE)))
    await db.write(lambda conn: conn.execute(update(PACK).values(audit_number=99)))
    assert sorted(found.code for found in await db.read(verify)) == ["evidence_changed", "evidence_without_entry"]


async def test_a_pack_looked_at_too_early_is_built_again_when_the_flow_ends(history: History) -> None:
    db, clock = history.db, history.clock
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    await loop.tick()
    await history.asks("c-slow", "follow_up", {"text": "oi"}, correlation_id="corr-slow")
    scope = history.made.tenant_id
    wanted = evidence.Wanted(tenant_id=scope, kind="flow", subject="corr-slow", reason="test", requested_at=clock.now())
    assert await loop.on_demand(wanted, By(actor="user:1", now=clock.now())) is not None
    for wait_s in (60, 300, 900):
        clock.advance(seconds=wait_s)
        await loop.tick()
    (row,) = await db.read(evidence.packs, (scope,))
    assert (row.running, row.due_at) == (True, None)  # given up: it still runs
    await history.settle()
    await loop.tick()
    clock.advance(seconds=11)
    await loop.tick()
    newest = (await db.read(evidence.packs, (scope,)))[0]
    assert (newest.subject, newest.result, newest.running) == ("corr-slow", "evidence_pack_generated", False)


async def test_messages_are_asked_for_and_what_a_person_has_in_hand_is_not(history: History) -> None:
    db, clock = history.db, history.clock
    loop = Evidence(db, clock, Metrics(), secret_key=SECRET)
    await loop.tick()
    await history.says("bom dia", correlation_id="corr-oi")
    await history.settle()
    await loop.tick()
    assert [row.subject for row in await db.read(evidence.packs, (history.made.tenant_id,))] == ["corr-oi"]
    clock.advance(seconds=1)
    await history.asks("c-help", "takeover", {"reason": "family_request"}, conversation_version=2, correlation_id="corr-help")
    await history.settle()
    await loop.tick()
    assert [row.subject for row in await db.read(evidence.packs, (history.made.tenant_id,))] == ["corr-oi"]
    wanted = evidence.Wanted(
        tenant_id=history.made.tenant_id, kind="flow", subject="corr-help", reason="test", requested_at=clock.now()
    )
    row = await loop.on_demand(wanted, By(actor="user:1", now=clock.now()))
    assert row is not None
    assert (row.flow_id, row.result, row.running) == ("F-04", "evidence_pack_partial", True)
