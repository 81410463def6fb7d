"""The simulator as a witness: what it was told is accepted is there afterwards, whatever happened to the server."""

import asyncio
import json
import re
from collections import Counter
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import pytest
from sqlalchemy import Connection, select

from app.simulate import Report, Webhooks, run
from app.store.database import Database
from app.store.tables import Contact, InboxCommand, InboxMessage, MalformedItem, Outbox, Patient, table
from tests.server import ROOT, Server, init, kora
from tests.services import free_port

OURS = "\n".join(module.read_text() for module in sorted((ROOT / "app" / "domain").glob("*.py")))
"""The product's own words: "... não pode ser usado" is no family's."""
COMMAND, MESSAGE, MALFORMED = (table(t) for t in (InboxCommand, InboxMessage, MalformedItem))


def journal_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def missing(conn: Connection, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Entries of the journal that are not in the database."""
    commands = {r[0] for r in conn.execute(select(COMMAND.c.command_id))}
    keys = {r[0] for r in conn.execute(select(COMMAND.c.idempotency_key))}
    events = {r[0] for r in conn.execute(select(MESSAGE.c.event_id))}
    external = {r[0] for r in conn.execute(select(MESSAGE.c.external_id))}
    malformed = {r[0] for r in conn.execute(select(MALFORMED.c.item_id))} | {
        r[0] for r in conn.execute(select(MALFORMED.c.given_id))
    }
    reasons = Counter(r[0] for r in conn.execute(select(MALFORMED.c.reason)))
    lost = []
    for entry in entries:
        if entry["kind"] == "webhook":
            kept = entry["external_id"] in external
        elif entry.get("status") == "invalid_payload_manual":
            kept = entry["id"] in malformed or sum(reasons.values()) > 0
        elif entry["kind"] == "command":
            kept = entry["id"] in commands and entry["idempotency_key"] in keys
        else:
            kept = entry["id"] in events and entry["external_id"] in external
        if not kept:
            lost.append(entry)
    return lost


@pytest.mark.paced
async def test_a_day_of_a_clinic_leaves_a_history_without_violations(sqlite_url: str, tmp_path: Path) -> None:
    database_url = sqlite_url  # the other test runs the same on both
    made = init(database_url)
    settings = {"whatsapp": {"app_secret": "s3cret", "verify_token": "v", "phone_number_id": "42"}}
    hooks = Webhooks(tenant="sol", app_secret="s3cret", phone_number_id="42", share=0.5)
    journal = tmp_path / "journal.jsonl"
    with Server(database_url) as server:
        await _configure(server, made["keys"]["tenant"], settings)
        report = await run(
            server.url, made["keys"]["tenant"], rate=40, contacts=20, seconds=4, journal=journal, seed=7, hooks=hooks
        )
        packs = await _packs(server.url, made["keys"]["tenant"], journal_of(journal))
        assert server.stop() == 0
        log = server.log.read_text()
    entries = journal_of(journal)
    assert len(entries) == report.accepted == report.sent > 80
    assert not report.errors
    assert {"queued_for_dispatch", "invalid_payload_manual", "webhook_accepted"} <= set(report.statuses)
    assert "blocked_unconfirmed" in report.results
    assert 0 < report.percentile(0.5) <= report.percentile(0.95) <= max(report.ack_s)
    assert "p95" in report.text()
    assert await _missing(database_url, entries) == []
    assert "0 violations" in kora(database_url, "verify")
    lines = [json.loads(line) for line in log.splitlines()]
    assert await _personal(database_url, log) == []
    assert await _personal(database_url, packs) == []
    flow = [line for line in lines if "flow_id" in line]
    assert {line["flow_id"] for line in flow} >= {"F-01", "F-02"}
    unjoined = {line["event"] for line in flow if not line.get("correlation_id")}
    assert unjoined <= {"race_lost", "plan_refused"}  # about many lanes at once
    for line in flow:
        if line["event"] in ("accepted", "decided", "messages_heard", "delivery"):
            assert {"ts", "level", "tenant_id", "status"} <= line.keys(), line


async def _packs(url: str, key: str, entries: list[dict[str, Any]]) -> str:
    """Every word of the redacted evidence packs of some of the day's flows."""
    ids = [entry["correlation_id"] for entry in entries if entry.get("correlation_id")][::15][:10]
    assert ids
    said = []
    async with httpx.AsyncClient(base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=20) as client:
        for correlation_id in ids:
            pack = await client.get(f"/api/v1/evidence/{correlation_id}.zip")
            assert pack.status_code == 200, pack.text
            with ZipFile(BytesIO(pack.content)) as opened:
                said += [opened.read(name).decode() for name in opened.namelist() if not name.endswith(".sig")]
    return "\n".join(said)


async def _personal(database_url: str, log: str) -> list[str]:
    """Names, numbers and words of families that stand in the log.

    Ids, single common words and words with which the product itself explains something are not looked for.
    """

    def known(conn: Connection) -> set[str]:
        found = set()
        for row in conn.execute(select(table(Contact).c.name, table(Contact).c.phone)):
            found |= {value for value in (row.name, row.phone, (row.phone or "").removeprefix("+")) if value}
        found |= {name for name in conn.execute(select(table(Patient).c.name)).scalars() if name}
        for of, column in ((MESSAGE, "payload_json"), (COMMAND, "payload_json"), (table(Outbox), "body_json")):
            for text in conn.execute(select(of.c[column])).scalars():
                said = json.loads(text).get("text")
                found |= {said} if isinstance(said, str) and " " in said else set()  # CONFIRMAR is our own word too
        return {value for value in found if len(value) >= 8 or " " in value}

    database = Database(database_url, pool_size=1)
    try:
        words = await database.read(known)
    finally:
        await database.close()
    words = {word for word in words if word not in OURS}
    assert len(words) > 20
    return sorted(word for word in words if word in log or json.dumps(word, ensure_ascii=False)[1:-1] in log)


@pytest.mark.paced
async def test_a_log_on_a_full_disk_stops_no_commit_and_is_alerted(sqlite_url: str) -> None:
    """The device that is always full: every line fails, as on a full disk or a broken pipe."""
    key = init(sqlite_url)["keys"]["global"]
    server = Server(sqlite_url)
    server.log.unlink()
    server.log = Path("/dev/full")
    headers = {"authorization": f"Bearer {key}"}
    with server:
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=20) as client:
            body = {"contact_id": "c-1", "command_type": "follow_up", "requested_by": "human", "payload": {"text": "oi"}}
            now = datetime.now(UTC).isoformat()  # noqa: TID251  # the test is outside the product
            command = body | {
                "idempotency_key": "k-1",
                "occurred_at": now,
                "as_of": now,
                "conversation_version": 1,
                "tenant_id": "sol",
            }
            sent = await client.post("/api/v1/commands?wait=10", json=command)
            assert sent.json()["result"] == "applied_once", sent.text
            async with asyncio.timeout(30):
                while "log_emit_failed" not in (await client.get("/api/v1/alerts")).text:
                    await asyncio.sleep(0.1)
            metrics = (await client.get("/metrics")).text
        assert float(re.findall(r"^kora_log_emit_failed_total (\S+)", metrics, flags=re.MULTILINE)[0]) > 0
        assert float(re.findall(r"^kora_log_dropped_total (\S+)", metrics, flags=re.MULTILINE)[0]) == 0  # all of it still waits


@pytest.mark.paced
async def test_nothing_accepted_is_lost_when_the_server_is_killed_in_the_middle(database_url: str, tmp_path: Path) -> None:
    key = init(database_url)["keys"]["tenant"]
    journal = tmp_path / "journal.jsonl"
    with Server(database_url) as server:
        enough = asyncio.Event()
        offer = run(server.url, key, rate=40, contacts=20, seconds=180, journal=journal, seed=11, enough=enough)
        running = asyncio.create_task(offer)
        for _ in range(2):
            await _grown(journal, by=50)
            server.kill()
            await asyncio.to_thread(server.start)
        await _grown(journal, by=50)
        enough.set()
        report: Report = await running
        assert server.stop() == 0
    entries = journal_of(journal)
    assert report.errors
    assert report.retried
    assert len(entries) == report.accepted
    assert await _missing(database_url, entries) == []
    assert "0 violations" in kora(database_url, "verify")


async def test_a_server_that_never_answers_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.simulate.runner.START_S", 0.3)
    async with asyncio.timeout(10):
        report = await run(f"http://127.0.0.1:{free_port()}", "kora_x_y", rate=10, contacts=5, seconds=1)
    assert (report.accepted, report.sent) == (0, 0)
    assert report.errors["ConnectError"] > 0


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_percentiles_of_known_latencies(share: float) -> None:
    report = Report(ack_s=[n / 1000 for n in range(1, 101)])
    assert report.percentile(share) == {0.0: 0.001, 0.5: 0.05, 1.0: 0.1}[share]
    assert Report().percentile(share) == 0.0


async def _configure(server: Server, key: str, settings: dict[str, Any]) -> None:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.put(f"{server.url}/api/v1/settings/sol", json=settings, headers={"authorization": f"Bearer {key}"})
        assert answer.is_success, answer.text


async def _grown(journal: Path, by: int) -> None:
    """Until the journal has that many lines more than now."""
    began = _lines(journal)
    async with asyncio.timeout(60):
        while _lines(journal) < began + by:
            await asyncio.to_thread(lambda: None)
            await asyncio.sleep(0.02)


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


async def _missing(database_url: str, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    database = Database(database_url, pool_size=1)
    try:
        return await database.read(missing, entries)
    finally:
        await database.close()
