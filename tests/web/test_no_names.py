"""A family that names itself everywhere, and is named by everybody: in no log line and in no redacted pack of any kind."""

import io
import json
import logging
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.drill import DrillMeasures, verdict
from app.domain.evidence_kinds import EvidenceKind
from app.engine.deferred import DeferredWatch
from app.engine.log_keeper import LineBuffer, LogKeeper
from app.logsink import LogSink
from app.store import alerts, drills, evidence
from app.store.people import By
from app.telemetry import configure
from tests.web.one_family import ASIDE, NAME, SEEDED, WORDS, Family, live

pytestmark = [pytest.mark.story("S-PC-04-001"), pytest.mark.story("S-PC-04-003")]


@dataclass
class Lines:
    """The log of this process, and the copy of its flow lines that packs hold."""

    path: Path
    sink: LogSink
    kept: LineBuffer

    def text(self) -> str:
        assert self.sink.flush(5)
        return self.path.read_text(encoding="utf-8")


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """What is redacted does not depend on the database."""
    return sqlite_url


@pytest.fixture
def lines(services: Services, tmp_path: Path) -> Iterator[Lines]:
    path, kept = tmp_path / "log", LineBuffer()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sink = configure(log_format="json", now=services.clock.now, node_id="n1", fd=fd, keep=kept.add)
    yield Lines(path, sink, kept)
    structlog.reset_defaults()
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__module__ == "app.telemetry"]:
        root.removeHandler(handler)
    sink.close(1)
    os.close(fd)


async def test_no_name_number_or_word_of_a_family_is_in_any_line_or_redacted_pack(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, lines: Lines
) -> None:
    family = await live(services, client, manual_clock)
    seeded = {*SEEDED, *WORDS, *family.told}
    await LogKeeper(services.db, manual_clock, lines.kept).tick()
    ids = await _ask_for_everything(family, services)
    packs = {pack_id: await services.db.read(evidence.content, pack_id) for pack_id in ids}
    rows = [await services.db.read(evidence.pack, pack_id) for pack_id in ids]
    assert {row.kind for row in rows if row is not None} == set(EvidenceKind)
    said = lines.text()
    assert {json.loads(line).get("flow_id") for line in said.splitlines()} >= {"F-01", "F-02", "F-03", "F-04", "F-05", "F-06"}
    assert [word for word in sorted(seeded) if word.casefold() in said.casefold()] == []
    for pack_id, content in packs.items():
        assert content is not None, pack_id
        with zipfile.ZipFile(io.BytesIO(content)) as opened:
            for name in opened.namelist():
                text = opened.read(name).decode(errors="replace").casefold()
                assert [word for word in sorted(seeded) if word.casefold() in text] == [], (pack_id, name)


async def _ask_for_everything(family: Family, services: Services) -> list[str]:
    """Packs of every kind: what people may ask for, and what a drill and the deferred item leave behind."""
    ids = []
    for kind, subject in family.about.items():
        answer = await family.api.call("POST", "/evidence", json={"kind": kind, "subject": subject, "reason": ASIDE})
        assert answer.status_code == 201, answer.text
        assert answer.json()["result"] == "evidence_pack_generated", answer.text
        ids.append(answer.json()["pack_id"])
    by = By(actor="user:u-1", now=services.clock.now())
    drill_id = await services.db.write(drills.ask, by, ASIDE)
    measures = DrillMeasures()
    await services.db.write(drills.end, drill_id, verdict(measures), measures, {"reason": ASIDE, "phases": []}, by.now)
    again: dict[str, Any] = {"severity": "critical", "dedup_key": "n8n-2", "correlation_id": "corr-n8n-2", "now": by.now}
    summary = f"n8n parou outra vez em {NAME}"
    await services.db.write(alerts.raise_alert, tenant_id=family.api.clinic.tenant_id, trigger="n8n_down", summary=summary, **again)
    await DeferredWatch(services.db, services.clock).tick()
    for _ in range(20):
        await services.evidence.tick()
    for row in await services.db.read(evidence.packs, None, limit=200):
        if row.root is not None and row.pack_id not in ids:
            ids.append(row.pack_id)
    return ids
