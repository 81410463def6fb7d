"""Evidence packs through the API (S-PC-04-003): a complete one for each flow, redacted, checked offline, nobody else's."""

import re
from datetime import timedelta
from typing import Any

import httpx
import jsonschema_rs
import pytest

from app.bootstrap import Services
from app.clock import ManualClock
from app.domain.evidence_check import Checked, check, document_of
from app.domain.evidence_schema import PACK_SCHEMA
from app.engine.d1 import D1
from app.signing import is_signed, key_id_of
from app.store import alerts
from tests.web.api_client import CONTACT, PATIENT, Api, open_api
from tests.web.conftest import add_key
from tests.web.safe_mode_driver import DONE, acknowledge, deliver, hear, look, post, raise_alert, send, serve, tell

pytestmark = pytest.mark.story("S-PC-04-003")

SHAPE = jsonschema_rs.validator_for(PACK_SCHEMA)
WORDS = "o Pedro está com febre, ligue 11 98765-4321"
SECRET_WORDS = ("Maria da Silva", "Silva", "Pedro Antunes", "Antunes", "5511987654321", "98765-4321", "febre", "mãe nervosa")
"""What was seeded and must not be in any redacted pack."""


BOTH = pytest.mark.parametrize("database_url", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> str:
    """SQLite; where new statements are read (`BOTH`) PostgreSQL as well."""
    url: str = request.getfixturevalue("postgres_url" if getattr(request, "param", "sqlite") == "postgresql" else "sqlite_url")
    return url


@pytest.fixture
async def api(services: Services, client: httpx.AsyncClient) -> Api:
    made = await open_api(services, client, "clinica-da-prova")
    await made.put(f"/contacts/{CONTACT}", {"phone": "+5511987654321", "name": "Maria da Silva"})
    await made.put(f"/patients/{PATIENT}", {"name": "Pedro Antunes"})
    return made


async def zip_of(api: Api, path: str) -> bytes:
    answer = await api.call("GET", path)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/zip"
    return answer.content


async def proven(api: Api, data: bytes) -> Checked:
    """The pack, checked with the public key alone; nothing private is in it."""
    (key,) = (await api.get("/evidence-key"))["items"]
    found = check(data, is_signed, public_keys=[key["public_key"]], key_id_of=key_id_of)
    assert found.faults == ()
    text = data.decode(errors="replace")
    assert [word for word in SECRET_WORDS if word in text] == []
    return found


async def flow(api: Api, correlation_id: str) -> Any:
    """The complete pack of a flow as a document."""
    data = await zip_of(api, f"/evidence/{correlation_id}.zip")
    found = await proven(api, data)
    assert (found.about["result"], found.about["missing"]) == ("evidence_pack_generated", [])
    document = document_of(data)
    SHAPE.validate(document)
    return document


async def asked(api: Api, kind: str, subject: str) -> Any:
    """The complete pack about something else."""
    answer = await api.call("POST", "/evidence", json={"kind": kind, "subject": subject})
    assert answer.status_code == 201, answer.text
    made = answer.json()
    assert (made["result"], made["missing"]) == ("evidence_pack_generated", [])
    data = await zip_of(api, f"/evidence-packs/{made['pack_id']}.zip")
    await proven(api, data)
    document = document_of(data)
    SHAPE.validate(document)
    return document


async def book(api: Api, name: str = "a-1", hours: float = 1) -> None:
    await send(api, api.command(payload=api.slot(hours, name), correlation_id=f"corr-{name}"))
    await serve(api)


@BOTH
async def test_one_reschedule_can_be_told_from_its_timeline_alone(api: Api, manual_clock: ManualClock) -> None:
    old, new = api.slot(1)["start"], api.now + timedelta(days=3)
    await book(api)
    manual_clock.advance(seconds=5)
    wish = {"appointment_id": "a-1", "start": new.isoformat(), "end": (new + timedelta(minutes=50)).isoformat()}
    (command_id,) = await send(api, api.command("reschedule", wish, entity_version=1, correlation_id="corr-move"))
    manual_clock.advance(seconds=1)
    await serve(api)
    await deliver(api)
    pack = await flow(api, "corr-move")
    assert (pack["flow_id"], pack["terminal_state"], pack["correlation_id"]) == ("F-02", "applied_once", "corr-move")
    story = {row["event"]: row for row in pack["timeline"]}
    assert [row["event"] for row in pack["timeline"]] == [
        "command_accepted",
        "decided",
        "agenda_changed",
        "delivery_queued",
        "delivery_done",
    ]
    accepted, changed = story["command_accepted"], story["agenda_changed"]
    assert (accepted["requested_by"], accepted["confirmed_by_contact"], accepted["entity_version"]) == ("ai", True, 1)
    assert (changed["old_start"][:19], changed["new_start"][:19]) == (old[:19], new.isoformat()[:19])
    assert (changed["version"], story["decided"]["commit_order"], story["decided"]["id"]) == (2, 2, command_id)
    for language, words in (("pt_BR", "Agenda: consulta a-1 na versão 2"), ("en", "Agenda: appointment a-1 at version 2")):
        assert words in changed[language]
    # the same correlation id is in each of its parts
    assert {row["correlation_id"] for row in pack["logs"]} == {"corr-move"}
    assert [row["correlation_id"] for row in pack["ledger"]] == ["corr-move"]
    assert {row["kind"] for row in pack["attempts"]} == {"command", "delivery"}
    assert {row["metric"] for row in pack["metrics"]} >= {"accept_to_commit_s", "lock_ms", "queued_to_sent_s"}
    page = (await zip_of(api, "/evidence/corr-move.zip")).decode(errors="replace")
    assert "<script" not in page
    assert re.search(r"http[s]?://(?!json-schema)", page) is None


async def test_a_message_alone_is_a_flow(api: Api) -> None:
    await hear(api, WORDS, correlation_id="corr-oi")
    await api.services.conversations.tick()
    pack = await flow(api, "corr-oi")
    assert (pack["flow_id"], pack["terminal_state"]) == ("F-01", "processed")
    assert [row["event"] for row in pack["timeline"]] == ["message_received", "message_processed"]


async def test_what_cannot_be_read_is_a_flow_too(api: Api) -> None:
    await send(api, {"correlation_id": "corr-bad"})
    pack = await flow(api, "corr-bad")
    assert (pack["flow_id"], pack["terminal_state"]) == ("F-01", "invalid_payload_manual")


@BOTH
async def test_the_day_before_has_its_pack(api: Api, manual_clock: ManualClock) -> None:
    await book(api, hours=30)  # the day after tomorrow
    loop = D1(api.services.db, manual_clock)
    manual_clock.advance(hours=25)
    await loop.tick()
    await deliver(api)
    manual_clock.advance(hours=7)
    await loop.tick()
    pack = await flow(api, "d1-a-1")
    assert (pack["flow_id"], pack["terminal_state"]) == ("F-03", "day_before_unconfirmed")
    assert {"day_before", "delivery_queued", "task_opened"} <= {row["event"] for row in pack["timeline"]}


@BOTH
async def test_a_takeover_has_its_pack_and_none_of_its_words(api: Api, manual_clock: ManualClock) -> None:
    await hear(api, "quero falar com uma pessoa")
    await api.services.conversations.tick()
    await serve(api)
    (ticket_id,) = [t["ticket_id"] for t in (await api.get("/tickets"))["items"]]
    assert (await api.call("POST", f"/takeovers/{ticket_id}/start")).status_code == 200
    await hear(api, WORDS)
    await api.services.conversations.tick()
    manual_clock.advance(minutes=2)
    await api.call("POST", f"/takeovers/{ticket_id}/reply", json={"text": "Oi Maria da Silva"})
    assert (await api.call("POST", f"/takeovers/{ticket_id}/close", json={"reason": "mãe nervosa"})).status_code == 200
    await deliver(api)
    pack = await asked(api, "takeover", ticket_id)
    assert (pack["flow_id"], pack["terminal_state"]) == ("F-04", "resolved")
    assert {"ticket_opened", "ticket_started", "message_received", "delivery_done", "ticket_closed"} <= {
        row["event"] for row in pack["timeline"]
    }


@BOTH
async def test_a_replay_has_its_pack(api: Api, manual_clock: ManualClock) -> None:
    await api.put("/contingency", {"channel": "whatsapp", "active": True, "reason": "o provedor caiu"})
    ids = await send(api, api.command(payload=api.slot(1, "a-1")))
    await serve(api)
    made = await api.call("POST", "/replays", json={"filter": {"state": ["pending_contingency"]}, "dry_run": True, "rate": 100})
    replay_id = made.json()["replay_id"]
    await api.put("/contingency", {"channel": "whatsapp", "active": False, "reason": "voltou"})
    assert (await api.call("POST", f"/replays/{replay_id}/run")).status_code == 200
    for _ in range(4):
        manual_clock.advance(seconds=1)
        await api.services.replay.tick()
        await serve(api)
    await deliver(api)
    pack = await asked(api, "replay", replay_id)
    assert (pack["flow_id"], pack["terminal_state"], pack["correlation_id"]) == ("F-05", "finished", f"replay-{replay_id}")
    done = [row for row in pack["timeline"] if row["event"] == "replay_item"]
    assert [(row["id"], row["result"]) for row in done] == [(ids[0], "replayed")]


@BOTH
async def test_a_stay_in_safe_mode_and_its_alert_have_their_packs(api: Api, manual_clock: ManualClock) -> None:
    alert_id = await raise_alert(api)
    manual_clock.advance(minutes=15)
    await look(api, manual_clock)
    episode_id = (await api.get("/safe-mode"))["episode_id"]
    await acknowledge(api, alert_id)
    await post(api, "recovery", DONE)
    await post(api, "exit", status=202)
    state = await look(api, manual_clock, times=24)
    assert (state["state"], state["last_exit_result"]) == ("normal", "safe_mode_exit_completed")
    waiting = (await api.get("/evidence"))["items"]  # nobody had to ask: its end did
    assert ("safe_mode", episode_id) in {(p["kind"], p["subject"]) for p in waiting if p["automatic"]}
    pack = await asked(api, "safe_mode", episode_id)
    assert (pack["flow_id"], pack["terminal_state"]) == ("F-06", "safe_mode_exit_completed")
    assert [row["alert_id"] for row in pack["alerts"]] == [alert_id]
    assert {"safe_mode_cause", "safe_mode", "alert_raised", "alert_acknowledged"} <= {row["event"] for row in pack["timeline"]}
    about = await asked(api, "alert", alert_id)
    assert (about["flow_id"], about["terminal_state"]) == ("F-06", "ack_timeout_escalated")


@BOTH
async def test_everybodys_safe_mode_has_the_families_of_every_clinic_and_each_clinic_its_slice(
    api: Api, services: Services, client: httpx.AsyncClient, manual_clock: ManualClock
) -> None:
    other = await open_api(services, client, "clinica-vizinha")  # its contact has the same id
    everybody = Api(client, services, api.clinic, await add_key(services, None))
    cause: dict[str, Any] = {"tenant_id": None, "severity": "critical", "correlation_id": "corr-redis", "now": manual_clock.now()}
    alert_id = (
        await services.db.write(alerts.raise_alert, trigger="redis_down", summary="Redis caiu", dedup_key="redis", **cause)
    ).alert_id
    quiet_id = (
        await services.db.write(alerts.raise_alert, trigger="certificate", summary="Vence logo", dedup_key="tls", **cause)
    ).alert_id
    await acknowledge(everybody, quiet_id)
    manual_clock.advance(minutes=15)
    await look(api, manual_clock)
    episode_id = (await api.get("/safe-mode"))["episode_id"]
    for clinic in (api, other):
        await send(clinic, clinic.command("takeover", {"reason": "family_request"}), clinic.command(payload=clinic.slot(1, "a-1")))
        await serve(clinic)
        await hear(clinic, "quero remarcar, Maria da Silva")
    await api.services.conversations.tick()
    await tell(api)
    await deliver(api)
    await acknowledge(everybody, alert_id)
    theirs = {api.clinic.tenant_id, other.clinic.tenant_id}
    for kind, subject in (("safe_mode", episode_id), ("alert", alert_id)):
        made = (await everybody.call("POST", "/evidence", json={"kind": kind, "subject": subject})).json()
        assert made["tenant_id"] is None, made
        whole = await pack_of(everybody, made["pack_id"])
        told = [row for row in whole["timeline"] if row["event"] == "family_told"]
        assert {row["event"] for row in whole["timeline"]} >= {"alert_raised", "safe_mode", "ticket_opened", "family_told"}
        assert {row["kind"] for row in whole["attempts"]} >= {"delivery", "alert_step"}
        if kind == "safe_mode":
            assert {row["tenant_id"] for row in whole["ledger"]} == {row["tenant_id"] for row in whole["chains"]} == theirs
        for clinic in (api, other):
            made = (await clinic.call("POST", "/evidence", json={"kind": kind, "subject": subject})).json()
            assert made["tenant_id"] == clinic.clinic.tenant_id, made
            slice_ = await pack_of(clinic, made["pack_id"])
            own = [row for row in slice_["timeline"] if row["event"] == "family_told"]
            assert 0 < len(own) < len(told)
            assert {row["tenant_id"] for row in slice_["ledger"]} <= {clinic.clinic.tenant_id}
            assert [row["alert_id"] for row in slice_["alerts"] if row["relation"] == "own"] == [alert_id]
    refused = await api.call("POST", "/evidence", json={"kind": "alert", "subject": quiet_id})
    assert refused.status_code == 404  # it stopped nobody


@BOTH
async def test_a_contact_and_time_have_their_pack(api: Api, manual_clock: ManualClock) -> None:
    await book(api, "a-1")
    manual_clock.advance(minutes=10)
    middle = api.now.isoformat()
    await book(api, "a-2", hours=2)
    await hear(api, WORDS)
    await api.services.conversations.tick()
    pack = await asked(api, "contact", CONTACT)
    assert [row["commit_order"] for row in pack["ledger"]] == [1, 2]
    (chain,) = pack["chains"]
    assert chain["head"]["chain_hash"] == pack["ledger"][-1]["hash"]
    body = {"kind": "contact", "subject": CONTACT, "from": middle}
    later = (await api.call("POST", "/evidence", json=body)).json()
    assert (later["from"][:19], later["status"]) == (middle[:19], "evidence_pack_generated")
    document = (await api.call("GET", f"/evidence-packs/{later['pack_id']}.json")).json()
    assert [row["commit_order"] for row in document["ledger"]] == [2]


async def pack_of(api: Api, pack_id: str) -> Any:
    """A stored pack, checked."""
    data = await zip_of(api, f"/evidence-packs/{pack_id}.zip")
    await proven(api, data)
    document = document_of(data)
    SHAPE.validate(document)
    return document


# --- the life of a pack -------------------------------------------------------------------------------------------------


async def test_what_has_not_changed_is_not_built_again_and_what_has_is(api: Api) -> None:
    await book(api)
    first = (await api.get("/evidence/corr-a-1"))["pack"]
    assert (await api.get("/evidence/corr-a-1.json"))["pack"] == first
    await deliver(api)
    later = (await api.get("/evidence/corr-a-1"))["pack"]
    assert later["pack_id"] != first["pack_id"]
    assert later["facts_hash"] != first["facts_hash"]


async def test_a_flow_that_goes_on_is_partial_without_an_alarm_and_complete_once_it_ended(
    api: Api, manual_clock: ManualClock
) -> None:
    await send(api, api.command(correlation_id="corr-slow", payload=api.slot(1, "a-1")))
    answer = await api.get("/evidence/corr-slow")
    assert (answer["pack"]["result"], answer["pack"]["missing"]) == ("evidence_pack_partial", ["terminal_state"])
    (row,) = (await api.get("/evidence"))["items"]
    assert row["next_attempt_at"] is not None
    assert (await api.get("/alerts"))["items"] == []
    await serve(api)
    manual_clock.advance(seconds=61)
    await api.services.evidence.tick()
    (row,) = (await api.get("/evidence"))["items"]
    assert (row["result"], row["next_attempt_at"], row["attempts"]) == ("evidence_pack_generated", None, 2)


async def test_nobody_sees_the_neighbours_packs(api: Api, services: Services, client: httpx.AsyncClient) -> None:
    other = await open_api(services, client, "clinica-vizinha")
    await book(other, "a-theirs")
    pack = (await other.get("/evidence/corr-a-theirs"))["pack"]
    alert_id = await raise_alert(other)
    for path in ("/evidence/corr-a-theirs", "/evidence/corr-a-theirs.zip", f"/evidence-packs/{pack['pack_id']}.zip"):
        assert (await api.call("GET", path)).status_code == 404, path
    assert (await api.call("GET", "/evidence/corr-a-theirs", params={"tenant_id": other.clinic.slug})).status_code == 403
    assert (await api.call("POST", "/evidence", json={"kind": "alert", "subject": alert_id})).status_code == 404
    assert (await api.get("/evidence"))["items"] == []


async def test_a_full_pack_is_for_a_superadmin_with_a_reason_and_written_down(api: Api, admin_session: Any) -> None:
    await hear(api, WORDS, correlation_id="corr-oi")
    await api.services.conversations.tick()
    path, asked_for = "/api/v1/evidence/corr-oi.zip", {"full": "true", "tenant_id": api.clinic.slug}
    assert (await api.call("GET", "/evidence/corr-oi.zip", params={"full": "true", "reason": "x"})).status_code == 403
    assert (await admin_session.client.get(path, params=asked_for)).status_code == 400
    answer = await admin_session.client.get(path, params={**asked_for, "reason": "pedido da família"})
    assert answer.status_code == 200
    found = check(answer.content, is_signed, key_id_of=key_id_of)
    assert (found.faults, found.about["redacted"]) == ((), False)
    assert "febre" in answer.content.decode(errors="replace")
    trail = (await admin_session.client.get("/audit", params={"what": "evidence.full"})).text
    assert "pedido da família" in trail
    assert (await api.get("/evidence"))["items"] == []  # it is kept nowhere
