"""Evidence packs built from real history: complete, redacted, signed, checked again from their bytes alone."""

import json
from typing import Any

import pytest

from app.clock import ManualClock
from app.domain.evidence_check import Checked, check
from app.domain.evidence_zip import read_zip
from app.engine.evidence import Evidence
from app.metrics import Metrics
from app.signing import is_signed, key_id_of
from app.store import evidence
from app.store.database import Database
from tests.history import History

pytestmark = pytest.mark.story("S-PC-04-003")

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
