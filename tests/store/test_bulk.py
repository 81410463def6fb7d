"""Many rows in one statement: the same rows, the same types and the same answers on both databases."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, event, select
from sqlalchemy.exc import IntegrityError

from app.store.bulk import Bundle, insert_rows, joined_rows, update_rows
from app.store.database import Database, run_in_thread
from app.store.tables import Contact, Guardian, Lane, LaneLock, Ledger, table

NOW = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)
LANE, CONTACT, LOCK, GUARDIAN, LEDGER = (table(t) for t in (Lane, Contact, LaneLock, Guardian, Ledger))


def lanes(count: int, **values: Any) -> list[dict[str, Any]]:
    return [{"tenant_id": "t", "contact_id": f"c-{n}", **values} for n in range(count)]


async def test_rows_are_stored_with_the_defaults_of_the_table(db: Database) -> None:
    await db.write(insert_rows, LANE, lanes(3, ready_since=NOW))
    rows = await db.read(lambda conn: conn.execute(select(LANE).order_by(LANE.c.contact_id)).all())
    assert [r.contact_id for r in rows] == ["c-0", "c-1", "c-2"]
    assert {(r.conversation_version, r.waiting, r.chain_hash, r.ready_since, r.not_before) for r in rows} == {(1, 0, "", NOW, None)}


async def test_what_is_null_is_left_out_and_what_all_have_in_common_travels_once(db: Database) -> None:
    rows: list[dict[str, Any]] = [
        {"tenant_id": "t", "contact_id": "c-0"},
        {"tenant_id": "t", "contact_id": "c-1", "blocked_by": "gap"},
    ]
    columns = ("tenant_id", "contact_id", "blocked_by")
    await db.write(insert_rows, LANE, rows, columns=columns, common={"ready_since": NOW, "waiting": 1, "wait_2": 1})
    found = await db.read(lambda conn: conn.execute(select(LANE).order_by(LANE.c.contact_id)).all())
    assert [(r.blocked_by, r.ready_since, r.waiting, r.conversation_version) for r in found] == [
        (None, NOW, 1, 1),
        ("gap", NOW, 1, 1),
    ]
    pairs = [{"tenant_id": "t", "contact_id": f"c-{n}"} for n in (0, 2)]
    later = NOW + timedelta(seconds=1)
    won = await db.write(update_rows, LANE, pairs, keys=("tenant_id", "contact_id"), common={"paused_at": later, "paused_by": None})
    assert won == {("t", "c-0")}
    paused = await db.read(lambda conn: conn.execute(select(LANE.c.paused_at).order_by(LANE.c.contact_id)).scalars().all())
    assert paused == [later, None]


async def test_no_rows_are_no_statement(db: Database) -> None:
    await db.write(insert_rows, LANE, [])
    assert await db.write(update_rows, LANE, [], keys=("tenant_id",)) == set()


async def test_a_doubled_row_is_refused_or_left_out(db: Database) -> None:
    await db.write(insert_rows, LANE, lanes(2))
    with pytest.raises(IntegrityError):
        await db.write(insert_rows, LANE, lanes(3))
    await db.write(insert_rows, LANE, lanes(3), ignore_conflicts=True)
    assert len(await db.read(lambda conn: conn.execute(select(LANE.c.contact_id)).all())) == 3


async def test_every_type_comes_back_as_it_went_in(db: Database) -> None:
    guardian = {
        "tenant_id": "t",
        "patient_id": "p",
        "contact_id": "c",
        "can_schedule": True,
        "can_cancel": False,
        "verified_by": None,
        "granted_by": 'quote " slash \\ emoji 🧩 direção \u202e',
        "updated_at": NOW,
    }
    await db.write(insert_rows, GUARDIAN, [guardian])
    row = await db.read(lambda conn: conn.execute(select(GUARDIAN)).one())
    assert {k: getattr(row, k) for k in guardian} == guardian
    assert isinstance(row.can_schedule, bool)


async def test_a_compare_and_set_says_who_won(db: Database) -> None:
    await db.write(insert_rows, LANE, [*lanes(3, last_assigned=5, last_committed=2)])
    rows = [
        {"tenant_id": "t", "contact_id": "c-0", "was_last_committed": 2, "last_committed": 3},
        {"tenant_id": "t", "contact_id": "c-1", "was_last_committed": 1, "last_committed": 2},
        {"tenant_id": "t", "contact_id": "c-9", "was_last_committed": 2, "last_committed": 3},
    ]
    won = await db.write(
        update_rows,
        LANE,
        rows,
        keys=("tenant_id", "contact_id"),
        assign=("last_committed",),
        expressions={"conversation_version": "t.conversation_version + 10", "blocked_by": "NULL"},
        guard="t.last_committed = r.was_last_committed",
    )
    assert won == {("t", "c-0")}
    stored = await db.read(
        lambda conn: conn.execute(select(LANE.c.last_committed, LANE.c.conversation_version).order_by(LANE.c.contact_id)).all()
    )
    assert [tuple(r) for r in stored] == [(3, 11), (2, 1), (2, 1)]


async def test_times_and_nulls_are_set_as_given(db: Database) -> None:
    await db.write(insert_rows, LANE, lanes(2, not_before=NOW))
    rows: list[dict[str, Any]] = [
        {"tenant_id": "t", "contact_id": "c-0", "not_before": NOW + timedelta(hours=1)},
        {"tenant_id": "t", "contact_id": "c-1", "not_before": None},
    ]
    await db.write(update_rows, LANE, rows, keys=("tenant_id", "contact_id"), assign=("not_before",))
    stored = await db.read(lambda conn: list(conn.scalars(select(LANE.c.not_before).order_by(LANE.c.contact_id))))
    assert stored == [NOW + timedelta(hours=1), None]


async def test_a_guard_compares_times_as_times(db: Database) -> None:
    for key, at in (("early", NOW), ("late", NOW + timedelta(microseconds=1))):
        await db.write(insert_rows, LOCK, [{"lock_key": key, "token": "old", "expires_at": at}])
    rows = [{"lock_key": k, "token": "new", "was_expires_at": NOW} for k in ("early", "late")]
    won = await db.write(update_rows, LOCK, rows, keys=("lock_key",), assign=("token",), guard="t.expires_at <= r.was_expires_at")
    assert won == {("early",)}


async def test_joined_rows_are_typed(db: Database) -> None:
    await db.write(insert_rows, LANE, lanes(5, ready_since=NOW, step_credit=1))

    def read(conn: Connection) -> list[Any]:
        wanted = [{"tenant_id": "t", "contact_id": c} for c in ("c-3", "c-1", "c-9")]
        return list(
            joined_rows(
                conn,
                LANE,
                wanted,
                keys=("tenant_id", "contact_id"),
                columns=("contact_id", "ready_since"),
                tail="ORDER BY t.contact_id",
            )
        )

    assert [tuple(r) for r in await db.read(read)] == [("c-1", NOW), ("c-3", NOW)]


async def test_rows_say_whether_a_condition_holds(db: Database) -> None:
    await db.write(insert_rows, LANE, [*lanes(2), {"tenant_id": "t2", "contact_id": "c-1"}])

    def read(conn: Connection) -> list[tuple[Any, ...]]:
        shared = "EXISTS (SELECT 1 FROM lane o WHERE o.contact_id = t.contact_id AND o.tenant_id <> t.tenant_id)"
        keys = ("tenant_id", "contact_id")
        found = joined_rows(
            conn, LANE, lanes(2), keys=keys, columns=keys[1:], flags={"shared": shared}, tail="ORDER BY t.contact_id"
        )
        return [(row.contact_id, row.shared) for row in found]

    assert await db.read(read) == [("c-0", False), ("c-1", True)]


async def test_a_bundle_does_all_of_it_and_tells_what_the_update_matched(db: Database) -> None:
    await db.write(insert_rows, LANE, lanes(2, last_assigned=5, last_committed=1))

    def bundled(conn: Connection) -> set[tuple[Any, ...]]:
        said: list[str] = []
        event.listen(conn, "before_cursor_execute", lambda c, cursor, statement, *rest: said.append(statement))
        bundle = Bundle(conn)
        bundle.insert(LOCK, [{"lock_key": "a", "token": "x"}], common={"expires_at": NOW})
        moved = [row | {"was_last_committed": 1, "last_committed": 2} for row in lanes(3)]
        bundle.update(
            LANE,
            moved,
            keys=("tenant_id", "contact_id"),
            assign=("last_committed",),
            common={"ready_since": NOW},
            guard="t.last_committed = r.was_last_committed",
        )
        bundle.insert(
            CONTACT, [{"tenant_id": "t", "contact_id": "c-1"}], common={"created_at": NOW}, expressions={"name": "'a' || 'b'"}
        )
        bundle.insert(LOCK, [])
        assert said == []
        matched = bundle.run()
        assert len(said) == (1 if conn.dialect.name == "postgresql" else 3)
        return matched

    assert await db.write(bundled) == {("t", "c-0"), ("t", "c-1")}
    assert await db.read(lambda conn: conn.execute(select(LOCK.c.token, LOCK.c.expires_at)).all()) == [("x", NOW)]
    assert await db.read(lambda conn: conn.execute(select(CONTACT.c.name, CONTACT.c.created_at)).all()) == [("ab", NOW)]
    advanced = await db.read(lambda conn: conn.execute(select(LANE.c.last_committed, LANE.c.ready_since)).all())
    assert advanced == [(2, NOW), (2, NOW)]


async def test_a_bundle_takes_any_other_change_with_parameters_of_its_own(db: Database) -> None:
    await db.write(insert_rows, LOCK, [{"lock_key": key, "token": "x", "expires_at": NOW} for key in "ab"])

    def bundled(conn: Connection) -> None:
        bundle = Bundle(conn)
        for key, token in (("a", "x"), ("b", "another's")):
            bundle.add("DELETE FROM lane_lock WHERE lock_key = {key} AND token = {token}", key=key, token=token)
        bundle.insert(LANE, lanes(1))
        bundle.run()

    await db.write(bundled)
    assert await db.read(lambda conn: conn.execute(select(LOCK.c.lock_key)).scalars().all()) == ["b"]
    assert len(await db.read(lambda conn: conn.execute(select(LANE)).all())) == 1


async def test_a_part_that_is_refused_takes_the_bundle_with_it(db: Database) -> None:
    await db.write(insert_rows, LOCK, [{"lock_key": "a", "token": "x", "expires_at": NOW}])

    def bundled(conn: Connection, *, ignore: bool) -> None:
        bundle = Bundle(conn)
        bundle.insert(LANE, lanes(1))
        bundle.insert(LOCK, [{"lock_key": "a", "token": "y", "expires_at": NOW}], ignore_conflicts=ignore)
        bundle.run()

    with pytest.raises(IntegrityError):
        await db.write(bundled, ignore=False)
    assert await db.read(lambda conn: conn.execute(select(LANE)).all()) == []
    await db.write(bundled, ignore=True)
    assert len(await db.read(lambda conn: conn.execute(select(LANE)).all())) == 1
    assert await db.read(lambda conn: conn.execute(select(LOCK.c.token)).scalars().all()) == ["x"]


async def test_a_bundle_of_two_updates_is_a_mistake_and_one_of_nothing_is_none(db: Database) -> None:
    def bundled(conn: Connection) -> set[tuple[Any, ...]]:
        assert Bundle(conn).run() == set()
        bundle = Bundle(conn)
        bundle.update(LANE, [], keys=("tenant_id",))
        bundle.update(LANE, lanes(1), keys=("tenant_id", "contact_id"), expressions={"waiting": "1"})
        with pytest.raises(ValueError, match="one update"):
            bundle.update(LANE, lanes(1), keys=("tenant_id", "contact_id"), expressions={"waiting": "1"})
        return bundle.run()

    assert await db.write(bundled) == set()


words = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.dictionaries(words.filter(bool), st.none() | words, min_size=1, max_size=8))
def test_any_text_survives_the_journey(database_url: str, names: dict[str, str | None]) -> None:
    def journey(conn: Connection) -> dict[str, str | None]:
        conn.execute(CONTACT.delete())
        rows = [{"tenant_id": "t", "contact_id": k, "name": v, "created_at": NOW} for k, v in names.items()]
        insert_rows(conn, CONTACT, rows)
        return {r.contact_id: r.name for r in conn.execute(select(CONTACT))}

    assert run_in_thread(database_url, journey) == names
