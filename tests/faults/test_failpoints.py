"""kill -9 at named points of intake, commit, deliveries, alerts, their ladder, and safe mode's entry and exit.

One life after the other on one database: whatever a life left half done, the next ones find.
"""

import asyncio
import json
import os
import random
import sys
from collections import Counter
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, select

from app.clock import SystemClock
from app.domain.envelopes import canonical_json
from app.domain.states import State
from app.store.database import Database, run_in_thread
from app.store.tables import (
    Alert,
    AlertStep,
    AppointmentVersion,
    InboxCommand,
    InboxMessage,
    Ledger,
    ManualTask,
    Outbox,
    SafeEpisode,
    SettingsDoc,
    table,
)
from tests import builders
from tests.faults.lives import ALL_POINTS, EXIT_POINTS, FAILPOINTS, FAMILIES, LADDER_POINTS, TENANT, tenant_of
from tests.provider import Provider, Request, accepts, answer, provider
from tests.server import ROOT, environment, kora

ROUNDS, ROUNDS_OF_LADDERS, ROUNDS_OF_EXITS = 4, 2, 1
"""Lives per failpoint and database: 138 kills in all."""
KILLS = int(os.environ.get("SOAK_KILLS", "0"))
"""That many lives instead, of all failpoints in turn (`python -m bench.soak lives`)."""
_COMMAND, _MESSAGE, _LEDGER, _OUTBOX = table(InboxCommand), table(InboxMessage), table(Ledger), table(Outbox)
_VERSION, _TASK, _EPISODE = table(AppointmentVersion), table(ManualTask), table(SafeEpisode)
_ALERT, _STEP = table(Alert), table(AlertStep)


def furnish(conn: Connection, lives: list[tuple[str | None, int]], url: str) -> None:
    """The clinics and families of all lives, with children and permissions; channels that lead to the provider."""
    now = SystemClock().now()
    document = {
        "whatsapp": {"phone_number_id": "1055", "access_token": "t", "base_url": f"{url}/family"},
        "channels": dict.fromkeys(("superadmin_whatsapp", "superadmin_sms", "ops"), f"webhook:{url}/alert"),
    }
    for tenant_id in {TENANT} | {tenant_of(life, name) for life, (name, _) in enumerate(lives)}:
        builders.tenant(conn, tenant_id=tenant_id, now=now)
        row = {"scope": tenant_id, "version": 1, "data_json": canonical_json(document), "updated_at": now, "updated_by": "system:t"}
        conn.execute(table(SettingsDoc).insert().values(row))
    for life, (name, _) in enumerate(lives):
        there: dict[str, Any] = {"tenant_id": tenant_of(life, name), "now": now}
        builders.therapist(conn, therapist_id=f"t-{life}", **there)
        # who only says something is answered as well, in a safe mode that lasts
        builders.contact(conn, contact_id=f"c-{life}-says", phone=f"+55119{life * 10 + FAMILIES:08d}", **there)
        for family in range(FAMILIES):
            contact = f"c-{life}-{family}"
            builders.contact(conn, contact_id=contact, phone=f"+55119{life * 10 + family:08d}", **there)
            builders.patient(conn, patient_id=f"p-{contact}", **there)
            builders.guardian(conn, contact_id=contact, patient_id=f"p-{contact}", **there)


def in_any_order(rng: random.Random) -> list[tuple[str | None, int]]:
    """Each failpoint as often as it has rounds, shuffled; before and after them a life without one."""
    lives: list[tuple[str | None, int]] = [(name, 1) for _ in range(ROUNDS) for name in FAILPOINTS]
    lives += [(name, 1) for name in LADDER_POINTS for _ in range(ROUNDS_OF_LADDERS)]
    lives += [(name, 1) for name in EXIT_POINTS for _ in range(ROUNDS_OF_EXITS)]
    if KILLS:
        lives = [(name, 1) for name in islice(cycle(ALL_POINTS), KILLS)]
    rng.shuffle(lives)
    return [(None, 0), *lives, (None, 0)]


@pytest.mark.paced
@pytest.mark.story("S-PC-01-003")
async def test_whoever_dies_where_nothing_is_lost_and_nothing_happens_twice(
    db: Database, database_url: str, tmp_path: Path
) -> None:
    lives = in_any_order(random.Random(7))
    async with provider() as there:
        # each message gets an id of its own from the provider
        async def taken(request: Request, writer: asyncio.StreamWriter) -> None:
            await (accepts(f"wamid.{len(there.requests)}") if "/family" in request.path else answer(200))(request, writer)

        there.default = taken
        await db.write(furnish, lives, there.url)
        plan, journal = tmp_path / "plan.json", tmp_path / "journal"
        plan.write_text(json.dumps({"url": database_url, "journal": str(journal), "lives": lives}))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.faults.lives", str(plan), cwd=ROOT, env=environment(database_url),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-3000:]
    # one JSON list per life; what the product itself says at its start goes to the same place
    ended = [tuple(json.loads(line)) for line in out.decode().splitlines() if line.startswith("[")]
    assert ended == [(name, "killed" if name else 0) for name, _ in lives], err.decode()[-3000:]
    assert "0 violations" in await asyncio.to_thread(kora, database_url, "verify")
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    await asyncio.to_thread(run_in_thread, database_url, lambda conn: compare(conn, lines, there))


def compare(conn: Connection, lines: list[dict[str, Any]], there: Provider) -> None:
    """The journal and the provider's notes against the database."""
    sent = {line["sent"].get("idempotency_key") or line["sent"]["external_id"] for line in lines if "sent" in line}
    answers: dict[str, set[tuple[str, int]]] = {}
    for line in lines:
        if "answered" in line:
            answers.setdefault(line["answered"], set()).add((line["id"], line["number"]))
    assert set(answers) == sent, "what was sent was answered, at the latest when it was sent again"
    assert all(len(found) == 1 for found in answers.values()), "the same key had different answers"

    commands = list(conn.execute(select(_COMMAND)))
    assert {(c.idempotency_key, c.command_id, c.commit_order) for c in commands} == {
        (key, *next(iter(found))) for key, found in answers.items() if key.startswith("k-")
    }
    # what safe mode parked, or what lay behind a dead life's lock for more than a minute, came through the fences
    assert {c.result for c in commands} == {State.APPLIED_ONCE, State.REPLAYED}
    assert all(episode.ended_at for episode in conn.execute(select(_EPISODE)))
    messages = list(conn.execute(select(_MESSAGE)))
    assert {(m.external_id, m.event_id, m.sequence) for m in messages} == {
        (key, *next(iter(found))) for key, found in answers.items() if key.startswith("wamid.")
    }
    assert Counter(row.command_id for row in conn.execute(select(_LEDGER))) == Counter(c.command_id for c in commands)
    booked = Counter(row.command_id for row in conn.execute(select(_VERSION)))
    assert booked == Counter(c.command_id for c in commands if c.command_type == "schedule")

    # a family reads nothing twice; what may have been sent by somebody who died is a person's task
    said = Counter(r.json["biz_opaque_callback_data"] for r in there.requests if "/family" in r.path)
    outbox = {row.outbox_id: row for row in conn.execute(select(_OUTBOX))}
    other = [row for row in outbox.values() if row.status not in ("sent", "unknown")]
    assert not other, [(row.status, row.kind, row.contact_id, row.last_error) for row in other]
    assert set(said) <= set(outbox)
    assert set(said.values()) == {1}
    assert {row.outbox_id for row in outbox.values() if row.status == "sent"} <= set(said)
    unknown = sum(row.status == "unknown" and row.tenant_id == TENANT for row in outbox.values())
    tasks = list(conn.execute(select(_TASK.c.cause).where(_TASK.c.tenant_id == TENANT)))
    assert [task.cause for task in tasks] == ["delivery_unknown"] * unknown
    assert unknown > 0
    effects = Counter(row.cause_id for row in outbox.values())
    assert {c.command_id for c in commands} <= set(effects)
    assert {row.cause_id for row in outbox.values() if row.tenant_id == TENANT} <= {c.command_id for c in commands}

    # an alert that was stored is sent at least once, each step of its ladder no more often than somebody claimed it
    raised = {line["raised"] for line in lines if "raised" in line}
    assert raised <= {alert.alert_id for alert in conn.execute(select(_ALERT.c.alert_id))}
    assert raised <= {r.json["alert_id"] for r in there.requests if r.path.startswith("/alert")}
    assert raised
    tries: Counter[tuple[str, int]] = Counter()
    for step in conn.execute(select(_STEP).where(_STEP.c.action == "send")):
        tries[step.alert_id, step.n] += step.tries
    arrived = Counter((r.json["alert_id"], r.json["attempt"]) for r in there.requests if r.path.startswith("/alert"))
    assert not arrived - tries
    late = list(conn.execute(select(_ALERT).where(_ALERT.c.alert_id.in_(raised), _ALERT.c.tenant_id != TENANT)))
    assert {alert.level for alert in late} == {"warning"}
