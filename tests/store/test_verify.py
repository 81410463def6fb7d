"""`kora verify` says nothing about a clean history, and finds every single thing that somebody changed in it."""

from collections.abc import AsyncIterator, Iterator, Sequence

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from app.clock import ManualClock
from app.errors import StorageUnavailable
from app.store.database import Database
from app.store.migrate import upgrade
from app.store.verify import CHECKS, Violation, findings, verify
from tests.conftest import NOON, prepare
from tests.history import small_history
from tests.services import PostgresServer


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def history_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A database with the small history in it, told once; tests undo what they change."""

    async def tell(db: Database) -> None:
        await upgrade(db)
        await small_history(db, ManualClock(NOON))

    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('history') / 'kora.db'}"
        prepare(url, tell)
        yield url
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    name = server.new_name()
    server.create_database(name, template="template_kora")
    prepare(server.url(name), tell)
    yield server.url(name)
    server.drop_database(name)


@pytest.fixture
async def told(history_url: str) -> AsyncIterator[Database]:
    database = Database(history_url, pool_size=1)
    yield database
    await database.close()


class Undo(Exception):
    """Carries the findings out of a transaction that is rolled back."""

    def __init__(self, found: list[Violation]) -> None:
        super().__init__("undone")
        self.found = found


async def found_after(db: Database, statements: Sequence[str], limit_per_check: int = 1000) -> list[Violation]:
    """What is found once the statements have been executed, each on at least one row; nothing of it stays."""

    def tamper(conn: Connection) -> None:
        for statement in statements:
            assert conn.execute(text(statement)).rowcount != 0, f"the tampering hit no row: {statement}"
        raise Undo(findings(conn, limit_per_check))

    with pytest.raises(Undo) as undone:
        await db.write(tamper)
    return undone.value.found


LATER = "'2027-01-01 00:00:00.000000+00:00'"


async def test_an_empty_database_has_no_violation(db: Database) -> None:
    assert await db.read(verify) == []


async def test_a_clean_history_has_no_violation(told: Database) -> None:
    assert await told.read(verify) == []


async def test_the_clean_history_really_has_one_of_everything(told: Database) -> None:
    def results(conn: Connection) -> dict[str, str]:
        return {r[0]: r[1] for r in conn.execute(text("SELECT command_id, coalesce(result, status) FROM command"))}

    found = await told.read(results)
    confirmed = [result for command_id, result in found.items() if not command_id.startswith("c-")]
    assert confirmed == ["applied_once"]
    assert {k: v for k, v in found.items() if k.startswith("c-")} == {
        "c-1": "blocked_unconfirmed",
        "c-2": "applied_once",
        "c-3": "applied_once",
        "c-4": "applied_once",
        "c-5": "applied_once",
        "c-6": "blocked_conflict",
        "c-7": "invalid_payload_manual",
        "c-8": "blocked_commit_order_violation",
        "c-9": "applied_once",
        "c-10": "waiting_previous_commit",
    }


TAMPERINGS = {
    # accepted items
    "a result changed in the inbox": ("command_result", ["UPDATE command SET result = 'replayed' WHERE command_id = 'c-2'"]),
    "a terminal command made pending again": ("command_result", [
        "UPDATE command SET done_at = NULL, result = NULL, status = 'queued_for_dispatch' WHERE command_id = 'c-2'"]),
    "a pending command closed without an entry": ("command_result", [
        f"UPDATE command SET done_at = {LATER}, result = 'expired_manual', status = 'expired_manual' WHERE command_id = 'c-10'"]),
    "a status that is not the result": ("command_state", ["UPDATE command SET status = 'expired_manual' WHERE command_id = 'c-2'"]),
    "a pending command with a result": ("command_state", ["UPDATE command SET result = 'applied_once' WHERE command_id = 'c-10'"]),
    "a pending command whose place the lane has passed": ("command_place", [
        "UPDATE command SET commit_order = -1 WHERE command_id = 'c-10'"]),
    "a pending command without a place": ("command_place", ["UPDATE command SET commit_order = NULL WHERE command_id = 'c-10'"]),
    "an applied command that never had a place": ("command_place", [
        "UPDATE command SET commit_order = NULL WHERE command_id = 'c-2'"]),
    "a command deleted": ("entry_without_command", ["DELETE FROM command WHERE command_id = 'c-5'"]),
    "a command moved to another contact": ("entry_without_command", [
        "UPDATE command SET contact_id = 'c-eve' WHERE command_id = 'c-5'"]),
    "an effect that no command asked for": ("entry_without_command", [
        "UPDATE ledger SET command_id = NULL WHERE command_id = 'c-5'"]),
    "a manual task deleted": ("task_missing", ["DELETE FROM manual_task WHERE command_id = 'c-7'"]),
    "the task of a place that nobody filled deleted": ("task_missing", [
        "UPDATE ledger SET result = 'manual_review_required', command_id = NULL WHERE command_id = 'c-6'"]),
    "an unusable item that nobody was told of": ("task_missing", [f"""
        INSERT INTO malformed_item (tenant_id, item_id, kind, status, correlation_id, reason, errors_json, raw_hash,
        raw_json, received_at, times) VALUES ('ten-sol', 'i-1', 'command', 'dead_letter', 'x', 'queue_overflow', '[]', 'ff', '',
        {LATER}, 1)"""]),
    "a message processed out of order": ("message_order", [
        "UPDATE message SET done_at = '2020-01-01 00:00:00.000000+00:00' WHERE sequence = 4"]),
    "a message skipped": ("message_order", [
        "UPDATE message SET done_at = NULL, status = 'queued_for_dispatch' WHERE sequence = 1",
        "UPDATE lane SET unheard = unheard + 1"]),
    "a message processed without saying when": ("message_state", ["UPDATE message SET status = 'processed' WHERE done_at IS NULL"]),
    # lanes
    "a waiting counter": ("lane_counter", ["UPDATE lane SET wait_3 = wait_3 + 1, waiting = waiting + 1"]),
    "waiting commands counted in another class": ("lane_counter", ["UPDATE lane SET wait_3 = wait_3 - 1, wait_0 = wait_0 + 1"]),
    "the unheard counter": ("lane_counter", ["UPDATE lane SET unheard = unheard + 1"]),
    "the end of the lane": ("lane_counter", ["UPDATE lane SET last_assigned = last_assigned + 1"]),
    "the last processed message": ("lane_counter", ["UPDATE lane SET last_processed = last_processed + 1"]),
    "a lane with work that nobody would see": ("lane_counter", ["UPDATE lane SET ready_since = NULL"]),
    "a conversation set back": ("lane_counter", ["UPDATE lane SET conversation_version = 1"]),
    # ledger chain
    "an entry deleted in the middle": ("ledger_not_dense", ["DELETE FROM ledger WHERE commit_order = 3"]),
    "the last entry deleted": ("ledger_end", ["DELETE FROM ledger WHERE command_id = 'c-9'"]),
    "all entries deleted": ("ledger_end", ["DELETE FROM ledger"]),
    "an entry's reason rewritten": ("ledger_content_changed", ["UPDATE ledger SET reason = 'nicer' WHERE commit_order = 1"]),
    "an entry's time rewritten": ("ledger_content_changed", [f"UPDATE ledger SET committed_at = {LATER} WHERE commit_order = 2"]),
    "a hash rewritten": ("ledger_content_changed", ["UPDATE ledger SET hash = 'ff' WHERE commit_order = 2"]),
    "a link rewritten": ("ledger_not_chained", ["UPDATE ledger SET prev_hash = 'ff' WHERE commit_order = 2"]),
    "a lane's head rewritten": ("ledger_end", ["UPDATE lane SET chain_hash = 'ff'"]),
    "an entry committed before the one before it": ("ledger_time", [
        "UPDATE ledger SET committed_at = '2020-01-01 00:00:00.000000+00:00' WHERE commit_order = 2"]),
    "an entry of an epoch before that of the place before it": ("ledger_epoch", [
        "UPDATE ledger SET mode_epoch = -1 WHERE commit_order = 2"]),
    "an entry of an epoch that never came": ("ledger_epoch", ["UPDATE ledger SET mode_epoch = 9 WHERE command_id = 'c-9'"]),
    # effects
    "one key with two effects": ("effect_twice", ["UPDATE command SET idempotency_key = 'k-c-2' WHERE command_id = 'c-3'"]),
    "an effect key taken away": ("effect_key", ["UPDATE ledger SET effect_key = NULL WHERE command_id = 'c-2'"]),
    "an effect key on a blocked command": ("effect_key", ["UPDATE ledger SET effect_key = 'x' WHERE command_id = 'c-6'"]),
    "an agenda version deleted": ("effect_missing", ["DELETE FROM appointment_version WHERE command_id = 'c-3'"]),
    "a message to the family deleted": ("effect_missing", ["DELETE FROM outbox WHERE cause_id = 'c-5' AND step = 'effect'"]),
    "a takeover deleted": ("effect_missing", ["DELETE FROM ticket WHERE cause_id = 'c-9'"]),
    "an entry that names another appointment": ("effect_missing", ["UPDATE ledger SET entity_id = 'a-9' WHERE command_id = 'c-2'"]),
    "an agenda version by a blocked command": ("effect_without_entry", [
        "UPDATE appointment_version SET command_id = 'c-6' WHERE command_id = 'c-3'"]),
    "an agenda version by nobody": ("effect_without_entry", [
        "UPDATE appointment_version SET command_id = 'ghost' WHERE command_id = 'c-3'"]),
    "a second message of a blocked command": ("effect_without_entry", [
        "UPDATE outbox SET cause_id = 'c-6' WHERE cause_id = 'c-5' AND step = 'effect'"]),
    "a message about a command that is still pending": ("effect_without_entry", [
        "UPDATE outbox SET cause_id = 'c-10' WHERE step = 'proposal'"]),
    "a takeover by a blocked command": ("effect_without_entry", ["UPDATE ticket SET cause_id = 'c-6' WHERE cause_id = 'c-9'"]),
    "a version number skipped": ("version_gap", ["UPDATE appointment_version SET version = 9 WHERE command_id = 'c-4'"]),
    "two effects swapped": ("effect_order", [
        "UPDATE appointment_version SET command_id = 'swap' WHERE command_id = 'c-3'",
        "UPDATE appointment_version SET command_id = 'c-3' WHERE command_id = 'c-4'",
        "UPDATE appointment_version SET command_id = 'c-4' WHERE command_id = 'swap'"]),
    "an appointment moved by hand": ("agenda_differs", [
        "UPDATE appointment SET therapist_id = 't-bia' WHERE appointment_id = 'a-1'"]),
    "an appointment cancelled by hand": ("agenda_differs", [
        "UPDATE appointment SET status = 'cancelled' WHERE appointment_id = 'a-1'"]),
    "an appointment put in by hand": ("agenda_differs", [
        "UPDATE appointment SET appointment_id = 'a-7' WHERE appointment_id = 'a-1'"]),
    "an appointment deleted": ("agenda_differs", ["DELETE FROM appointment WHERE appointment_id = 'a-1'"]),
    # fences
    "an effect after the safe deadline": ("after_safe_deadline", [
        "UPDATE ledger SET safe_deadline = committed_at WHERE command_id = 'c-2'"]),
    "an effect after its time to live": ("ttl_passed", [
        "UPDATE ledger SET late = true, event_age_s = 7200.5, ttl_limit_s = -1 WHERE command_id = 'c-2'"]),
    "an effect after its time to live that its figures deny": ("ttl_passed", [
        "UPDATE command SET occurred_at = '2026-11-23 09:00:00.000000+00:00' WHERE command_id = 'c-2'",
        "UPDATE ledger SET late = true, event_age_s = 1, ttl_limit_s = 7200 WHERE command_id = 'c-2'"]),
    "an age that is not the effect's": ("ttl_figures", [
        "UPDATE ledger SET late = true, event_age_s = 7000, ttl_limit_s = 7200 WHERE command_id = 'c-2'"]),
    "a late effect that says it was not late": ("late_unasked", [
        "UPDATE command SET occurred_at = '2026-11-23 11:50:00.000000+00:00' WHERE command_id = 'c-2'"]),
    "an effect of an unknown moment": ("ttl_passed", ["UPDATE command SET occurred_at = NULL WHERE command_id = 'c-2'"]),
    "an effect on an old appointment": ("stale_entity", ["UPDATE command SET entity_version = 2 WHERE command_id = 'c-3'"]),
    "an effect on an appointment that nobody named": ("stale_entity", [
        "UPDATE command SET entity_version = NULL WHERE command_id = 'c-4'"]),
    "an effect during contingency": ("effect_in_contingency", ["""
        UPDATE audit_entry SET action = 'contingency.on', object = 'contingency/whatsapp', at = '2026-11-23 11:59:00.000000+00:00'
        WHERE number = 1"""]),
    "a late effect that no fence looked at": ("ttl_passed", ["UPDATE ledger SET late = true WHERE command_id = 'c-2'"]),
    "an effect of the AI during a takeover": ("ai_during_takeover", [
        "UPDATE ledger SET takeover_active = true WHERE command_id = 'c-2'"]),
    "an effect on an old conversation": ("stale_conversation", [
        "UPDATE command SET conversation_version = 2 WHERE command_id = 'c-2'"]),
    "an effect on old permissions": ("stale_guardian", ["UPDATE command SET guardian_version = 0 WHERE command_id = 'c-2'"]),
    "an effect without confirmation": ("unconfirmed_effect", [
        "UPDATE command SET confirmed_by_contact = false WHERE command_id = 'c-2'"]),
    # audit trail
    "an audit entry deleted": ("audit_gap", ["DELETE FROM audit_entry WHERE number = 2"]),
    "the last audit entry deleted": ("audit_end", ["DELETE FROM audit_entry WHERE number = 3"]),
    "the audit trail deleted": ("audit_end", ["DELETE FROM audit_entry"]),
    "an audit entry rewritten": ("audit_changed", ["UPDATE audit_entry SET actor = 'user:other' WHERE number = 2"]),
    "an audit link rewritten": ("audit_not_chained", ["UPDATE audit_entry SET prev_hash = 'ff' WHERE number = 2"]),
    "the audit head rewritten": ("audit_end", ["UPDATE audit_head SET hash = 'ff'"]),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERINGS)
async def test_one_changed_row_is_found(told: Database, what: str) -> None:
    code, statements = TAMPERINGS[what]
    found = await found_after(told, statements)
    assert code in {v.code for v in found}
    assert all(v.sentence and v.subject for v in found)


async def test_overlapping_appointments_are_found(told: Database) -> None:
    statements = [
        f"UPDATE {name} SET {column} = (SELECT {column} FROM appointment WHERE appointment_id = 'a-1') WHERE appointment_id = 'a-2'"
        for name in ("appointment", "appointment_version")
        for column in ("end_at", "start_at")
    ]
    if not told.is_sqlite:  # PostgreSQL would not even let the tampering happen
        statements.insert(0, "ALTER TABLE appointment DROP CONSTRAINT ex_appointment_therapist_slot")
    assert [(v.code, v.subject) for v in await found_after(told, statements)] == [("agenda_overlap", "appointment a-2")]


async def test_a_finding_names_its_tenant(told: Database) -> None:
    found = await found_after(told, ["UPDATE ledger SET reason = 'nicer' WHERE commit_order = 1"])
    assert [(v.code, v.tenant_id, v.subject) for v in found] == [("ledger_content_changed", "ten-sol", "entry c-maria/1")]


async def test_findings_are_limited_per_check(told: Database) -> None:
    found = await found_after(told, ["DELETE FROM command"], limit_per_check=2)
    assert sum(1 for v in found if v.code == "entry_without_command") == 2
    assert len(found) <= 2 * len(CHECKS)


async def test_nothing_of_the_tampering_stays(told: Database) -> None:
    assert await told.read(verify) == []


async def test_verify_writes_nothing(told: Database) -> None:
    def try_to_write(conn: Connection) -> None:
        verify(conn)
        conn.execute(text("DELETE FROM ledger"))

    # PostgreSQL's refusal is that of a server that takes no writes now
    with pytest.raises((DBAPIError, StorageUnavailable), match=r"read-only|readonly"):
        await told.read(try_to_write)
