"""An outage from beginning to end, on a real process that is killed in the middle of letting the parked ones go (F-05)."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.store.database import Database
from app.store.tables import InboxCommand, Ledger, table
from tests import builders
from tests.conftest import prepare
from tests.server import Server, init, kora

FAMILIES, COMMANDS, THERAPISTS = 300, 2_000, 100


@dataclass
class Outage:
    """A clinic of many families behind a server."""

    server: Server
    database_url: str
    client: httpx.Client

    def get(self, path: str, **params: Any) -> Any:
        answer = self.client.get(f"/api/v1{path}", params=params or None)
        assert answer.is_success, answer.text
        return answer.json()

    def send(self, method: str, path: str, body: Any) -> Any:
        answer = self.client.request(method, f"/api/v1{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def until(self, path: str, holds: Callable[[Any], bool], limit_s: float = 60) -> Any:
        deadline = time.monotonic() + limit_s
        while True:
            found = self.get(path)
            if holds(found):
                return found
            assert time.monotonic() < deadline, f"{path}: {found}"
            time.sleep(0.05)

    def contingency(self, active: bool) -> None:
        self.send("PUT", "/contingency", {"channel": "whatsapp", "active": active, "reason": "ensaio"})

    def read(self, work: Callable[[Connection], Any]) -> Any:
        found: list[Any] = []

        async def go(database: Database) -> None:
            found.append(await database.read(work))

        prepare(self.database_url, go)
        return found[0]


@pytest.fixture
def outage(tmp_path: Path) -> Iterator[Outage]:
    """300 families with permissions, 100 therapists; what parks leaves as fast as it can."""
    url = f"sqlite:///{tmp_path / 'kora.db'}"
    made = init(url, "sol")
    tenant_id = made["tenant"]["id"]

    async def furnish(database: Database) -> None:
        def rows(conn: Connection) -> None:
            builders.patient(conn, tenant_id=tenant_id)
            for n in range(THERAPISTS):
                builders.therapist(conn, tenant_id=tenant_id, therapist_id=f"t-{n}")
            for n in range(FAMILIES):
                builders.contact(conn, tenant_id=tenant_id, contact_id=f"c-{n}")
                builders.guardian(conn, tenant_id=tenant_id, contact_id=f"c-{n}")

        await database.write(rows)

    prepare(url, furnish)
    server = Server(url).start()
    headers = {"Authorization": f"Bearer {made['keys']['tenant']}"}
    with httpx.Client(base_url=server.url, headers=headers, timeout=30, trust_env=False) as client:
        yield Outage(server, url, client)
    server.kill()
    server.log.unlink(missing_ok=True)


def commands() -> list[dict[str, Any]]:
    """What families ask for during the outage: mostly fine, some late, stale, not allowed, or for a slot that is taken."""
    now = datetime.now(UTC)  # noqa: TID251  # the test is outside the product
    made, told = [], Counter[int]()
    for n in range(COMMANDS):
        family = n % FAMILIES
        nth = told[family]
        told[family] += 1
        start = (now + timedelta(days=2)).replace(minute=0, second=0, microsecond=0) + timedelta(hours=8 * (family // THERAPISTS))
        slot = {"start": start.isoformat(), "end": (start + timedelta(minutes=50)).isoformat()}
        later = {k: (datetime.fromisoformat(v) + timedelta(hours=2)).isoformat() for k, v in slot.items()}
        visit = f"a-{family}"
        asked: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
            ("schedule", {"appointment_id": visit, "therapist_id": f"t-{family % THERAPISTS}", **slot}, {}),
            ("reschedule", {"appointment_id": visit, **later}, {"entity_version": 1}),
            ("follow_up", {"text": "obrigada"}, {}),
            ("cancel", {"appointment_id": visit}, {"entity_version": 1}),  # of the version before the change
            ("schedule", {"therapist_id": f"t-{family % THERAPISTS}", **later}, {}),  # her own slot, taken by then
            ("schedule", {"therapist_id": "t-0", **slot}, {"occurred_at": (now - timedelta(hours=3)).isoformat()}),
            ("cancel", {"appointment_id": visit}, {"entity_version": 2, "guardian_version": 9}),  # old permissions
        ]
        kind, payload, extra = asked[nth % 7]
        made.append(
            {
                "contact_id": f"c-{family}",
                "command_type": kind,
                "patient_id": "p-pedro",
                "requested_by": "ai",
                "confirmed_by_contact": True,
                "guardian_version": 1,
                "conversation_version": 1,
                "as_of": (now + timedelta(hours=1)).isoformat(),
                "occurred_at": now.isoformat(),
                "idempotency_key": f"k-{n}",
                "payload": payload,
                **extra,
            }
        )
    return made


def results(outage: Outage) -> tuple[dict[str, tuple[str, str]], bool]:
    """Result and reason per command, and whether every lane's ledger is in commit order without holes."""

    def read(conn: Connection) -> tuple[dict[str, tuple[str, str]], bool]:
        command, ledger = table(InboxCommand), table(Ledger)
        rows = conn.execute(select(command.c.command_id, command.c.result, command.c.reason))
        found = {r.command_id: (r.result, r.reason) for r in rows}
        orders: dict[str, list[int]] = defaultdict(list)
        for row in conn.execute(
            select(ledger.c.contact_id, ledger.c.commit_order).order_by(ledger.c.committed_at, ledger.c.commit_order)
        ):
            orders[row.contact_id].append(row.commit_order)
        return found, all(places == list(range(1, len(places) + 1)) for places in orders.values())

    answer: tuple[dict[str, tuple[str, str]], bool] = outage.read(read)
    return answer


def predictions(outage: Outage, replay_id: str) -> dict[str, tuple[str, str]]:
    """What the dry run says of each command: state and reason."""
    found: dict[str, tuple[str, str]] = {}
    cursor: dict[str, str] = {}
    while True:
        page = outage.get(f"/replays/{replay_id}", limit=1_000, **cursor)
        found |= {i["command_id"]: (i["predicted"]["status"], i["predicted"]["reason"]) for i in page["items"]}
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


@pytest.mark.story("S-PC-02-003")
def test_two_thousand_parked_requests_end_as_the_dry_run_said_although_the_process_is_killed(outage: Outage) -> None:
    outage.send("PUT", "/settings/sol", {"drain_per_s": 1_000})
    outage.contingency(True)
    wanted = commands()
    for n in range(0, COMMANDS, 500):
        outage.send("POST", "/commands", {"commands": wanted[n : n + 500]})
    outage.until("/contingency", lambda c: c["parked"] == COMMANDS)
    plan = outage.send("POST", "/replays", {"filter": {"state": "pending_contingency"}, "dry_run": True, "rate": 1_000})
    assert plan["total"] == COMMANDS
    foreseen = predictions(outage, plan["replay_id"])
    outage.send("POST", f"/replays/{plan['replay_id']}/run", {})
    outage.contingency(False)
    outage.until(f"/replays/{plan['replay_id']}?limit=1", lambda b: b["done"] > COMMANDS // 4)
    outage.server.kill()
    assert any(result is None for result, _ in results(outage)[0].values())  # it was in the middle
    outage.server.start()
    done = outage.until(f"/replays/{plan['replay_id']}?limit=1", lambda b: b["status"] == "finished")
    assert (done["done"], done["drift"]) == (COMMANDS, 0)
    assert done["counts"] == done["predicted"]
    assert done["counts"]["replayed"] == plan["would_replay"]
    found, in_order = results(outage)
    assert found == foreseen
    assert in_order
    reasons = Counter(reason for _, reason in found.values())
    assert set(reasons) >= {"replayed_within_fences", "ttl_expired", "entity_version_stale", "slot_taken", "guardian_version_stale"}
    assert kora(outage.database_url, "verify").strip() == "0 violations"
    assert "\tfinished\t" in kora(outage.database_url, "replay", "show", plan["replay_id"]).splitlines()[0]


@pytest.mark.story("S-PC-02-003")
def test_the_drain_ends_the_same_when_the_process_is_killed(outage: Outage) -> None:
    outage.send("PUT", "/settings/sol", {"drain_per_s": 100})
    outage.contingency(True)
    outage.send("POST", "/commands", {"commands": commands()[:500]})
    outage.until("/contingency", lambda c: c["parked"] == 500)
    plan = outage.send("POST", "/replays", {"filter": {"state": "pending_contingency"}, "dry_run": True, "rate": 1_000})
    foreseen = predictions(outage, plan["replay_id"])
    outage.contingency(False)
    outage.until("/contingency", lambda c: 0 < c["parked"] < 400)
    outage.server.kill()
    outage.server.start()
    outage.until("/contingency", lambda c: c["drain"]["state"] == "completed" and c["parked"] == 0)
    outage.until("/queue", lambda q: q["total"] == 0)
    found, in_order = results(outage)
    assert found == foreseen
    assert in_order
    assert kora(outage.database_url, "verify").strip() == "0 violations"
