"""Clinics, people, sessions and keys, on both databases."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from app.errors import InvalidRequest
from app.store import accounts
from app.store.database import Database
from tests.conftest import NOON

MINUTE = timedelta(minutes=1)


async def add_tenant(db: Database, tenant_id: str = "t1", slug: str = "aurora") -> None:
    await db.write(
        lambda conn: accounts.create_tenant(
            conn, tenant_id=tenant_id, slug=slug, name=slug.title(), timezone="America/Sao_Paulo", now=NOON
        )
    )


async def add_user(db: Database, user_id: str = "u1", email: str = "ana@clinica.example", tenants: tuple[str, ...] = ()) -> None:
    await db.write(
        lambda conn: accounts.create_user(
            conn, user_id=user_id, email=email, name="Ana", role="secretary", password_hash="x", tenant_ids=tenants, now=NOON
        )
    )


async def add_key(db: Database, key_id: str = "k1", tenant_id: str | None = None) -> None:
    await db.write(
        lambda conn: accounts.create_key(
            conn, key_id=key_id, secret_hash=f"hash-{key_id}", name="n8n", tenant_id=tenant_id, scopes="intake read", now=NOON
        )
    )


async def open_session(db: Database, key_hash: str = "s1", user_id: str = "u1", now: datetime = NOON) -> None:
    await db.write(lambda conn: accounts.create_session(conn, key_hash=key_hash, user_id=user_id, now=now, address="192.0.2.1"))


async def test_a_clinic_is_found_by_id_and_by_slug(db: Database) -> None:
    await add_tenant(db)
    for name in ("t1", "aurora"):
        row = await db.read(accounts.find_tenant, name)
        assert row is not None
        assert (row.tenant_id, row.slug, row.timezone) == ("t1", "aurora", "America/Sao_Paulo")
    assert await db.read(accounts.find_tenant, "nowhere") is None


@pytest.mark.parametrize("slug", ["", "global", "Bad Slug/é", "Sol", "a_b", "a/b", "a b", "sol\n", "x" * 61])
async def test_a_slug_that_no_address_can_hold_is_refused(sqlite_db: Database, slug: str) -> None:
    with pytest.raises(InvalidRequest, match="slug"):
        await add_tenant(sqlite_db, slug=slug)
    assert await sqlite_db.read(accounts.list_tenants) == []


async def test_an_unknown_timezone_is_refused(sqlite_db: Database) -> None:
    for zone in ("Mars/Olympus", "", "../etc"):
        with pytest.raises(InvalidRequest, match="timezone"):
            await sqlite_db.write(accounts.create_tenant, tenant_id="t1", slug="sol", name="Sol", timezone=zone, now=NOON)


async def test_an_id_wins_over_another_clinics_slug(db: Database) -> None:
    await add_tenant(db, "t1", "t2")
    await add_tenant(db, "t2", "other")
    row = await db.read(accounts.find_tenant, "t2")
    assert row is not None
    assert row.slug == "other"


async def test_a_disabled_clinic_is_found_only_when_asked_for(db: Database) -> None:
    await add_tenant(db)
    assert await db.write(accounts.disable_tenant, "t1", NOON)
    assert not await db.write(accounts.disable_tenant, "t1", NOON + MINUTE)
    assert await db.read(accounts.find_tenant, "aurora") is None
    row = await db.read(lambda conn: accounts.find_tenant(conn, "aurora", include_disabled=True))
    assert row is not None
    assert row.disabled_at == NOON
    assert [r.slug for r in await db.read(accounts.list_tenants)] == ["aurora"]


async def test_two_clinics_cannot_share_a_slug(db: Database) -> None:
    await add_tenant(db, "t1")
    with pytest.raises(IntegrityError):
        await add_tenant(db, "t2")


async def test_a_person_is_found_by_address_whatever_its_case(db: Database) -> None:
    await add_user(db, email=" Ana@Clinica.Example ")
    row = await db.read(accounts.find_user_by_email, "ANA@clinica.example")
    assert row is not None
    assert (row.user_id, row.email, row.language, row.theme, row.failed_logins) == ("u1", "ana@clinica.example", "pt_BR", "auto", 0)


async def test_a_person_works_for_the_open_clinics_that_were_named(db: Database) -> None:
    await add_tenant(db, "t1", "zeta")
    await add_tenant(db, "t2", "alfa")
    await add_tenant(db, "t3", "closed")
    await add_user(db, tenants=("t1", "t2", "t3"))
    await db.write(accounts.disable_tenant, "t3", NOON)
    assert await db.read(accounts.tenants_of_user, "u1") == ["t2", "t1"]


async def test_failures_close_the_door_for_longer_and_longer_and_a_success_opens_it(db: Database) -> None:
    await add_user(db)
    locks = [await db.write(accounts.record_login_failure, "u1", NOON) for _ in range(12)]
    assert locks[:4] == [None] * 4
    pauses = [(until - NOON).total_seconds() for until in locks[4:] if until is not None]
    assert pauses == [30, 60, 120, 240, 480, 900, 900, 900]
    await db.write(accounts.record_login_success, "u1", NOON)
    row = await db.read(accounts.find_user, "u1")
    assert row is not None
    assert (row.failed_logins, row.locked_until) == (0, None)


async def test_a_session_ends_when_idle_and_after_twelve_hours_in_any_case(db: Database) -> None:
    await add_user(db)
    await open_session(db)
    idle = accounts.SESSION_IDLE
    row = await db.read(accounts.session_by_hash, "s1", NOON + idle - timedelta(seconds=1))
    assert row is not None
    assert (row.user_id, row.role, row.created_at) == ("u1", "secretary", NOON)
    assert not hasattr(row, "password_hash")
    assert await db.read(accounts.session_by_hash, "s1", NOON + idle) is None
    moment = NOON
    while moment < NOON + accounts.SESSION_LIFETIME - timedelta(minutes=20):
        moment += timedelta(minutes=20)
        assert await db.write(accounts.touch_session, "s1", moment)
        assert await db.read(accounts.session_by_hash, "s1", moment) is not None
    assert await db.read(accounts.session_by_hash, "s1", NOON + accounts.SESSION_LIFETIME) is None


async def test_the_use_of_a_session_is_written_once_a_minute(db: Database) -> None:
    await add_user(db)
    await open_session(db)
    assert not await db.write(accounts.touch_session, "s1", NOON + timedelta(seconds=59))
    assert await db.write(accounts.touch_session, "s1", NOON + MINUTE)
    assert not await db.write(accounts.touch_session, "s1", NOON + MINUTE)


async def test_a_disabled_person_has_no_session(db: Database) -> None:
    await add_user(db)
    await open_session(db)
    await db.write(accounts.set_disabled, "u1", NOON)
    assert await db.read(accounts.session_by_hash, "s1", NOON) is None
    await db.write(accounts.set_disabled, "u1", None)
    assert await db.read(accounts.session_by_hash, "s1", NOON) is None
    await open_session(db, "s2")
    assert await db.read(accounts.session_by_hash, "s2", NOON) is not None


async def test_a_change_of_role_or_password_ends_every_session(db: Database) -> None:
    def role(conn: Connection) -> None:
        accounts.set_role(conn, "u1", "manager")

    def password(conn: Connection) -> None:
        accounts.set_password(conn, "u1", "y")

    await add_user(db)
    for number, change in enumerate((role, password)):
        await open_session(db, f"s{number}")
        await db.write(change)
        assert await db.read(accounts.sessions_of_user, "u1", NOON) == []
    row = await db.read(accounts.find_user, "u1")
    assert row is not None
    assert (row.role, row.password_hash) == ("manager", "y")


async def test_a_person_sees_their_own_sessions_and_ends_the_others(db: Database) -> None:
    await add_user(db)
    await add_user(db, "u2", "bia@clinica.example")
    await open_session(db, "s1")
    await open_session(db, "s2", now=NOON + MINUTE)
    await open_session(db, "foreign", "u2")
    listed = await db.read(accounts.sessions_of_user, "u1", NOON + MINUTE)
    assert [(r.key_hash, r.address) for r in listed] == [("s2", "192.0.2.1"), ("s1", "192.0.2.1")]
    assert await db.write(lambda conn: accounts.end_sessions_of_user(conn, "u1", but="s2")) == 1
    assert await db.read(accounts.session_by_hash, "s1", NOON) is None
    assert await db.read(accounts.session_by_hash, "s2", NOON) is not None
    assert await db.read(accounts.session_by_hash, "foreign", NOON) is not None
    assert await db.write(accounts.end_session, "s2")
    assert not await db.write(accounts.end_session, "s2")


async def test_signing_in_sweeps_sessions_that_are_over(db: Database) -> None:
    await add_user(db)
    await open_session(db, "old")
    await open_session(db, "new", now=NOON + accounts.SESSION_IDLE)
    assert not await db.write(accounts.end_session, "old")


async def test_a_key_is_found_until_it_is_revoked_and_says_so_afterwards(db: Database) -> None:
    await add_tenant(db)
    await add_key(db, "k1", "t1")
    await add_key(db, "k2")
    row = await db.read(accounts.find_key, "k1")
    assert row is not None
    assert (row.tenant_id, row.scopes, row.revoked_at, row.tenant_disabled_at) == ("t1", "intake read", None, None)
    assert await db.write(accounts.revoke_key, "k1", NOON)
    assert not await db.write(accounts.revoke_key, "k1", NOON + MINUTE)
    await db.write(accounts.disable_tenant, "t1", NOON)
    row = await db.read(accounts.find_key, "k1")
    assert row is not None
    assert (row.revoked_at, row.tenant_disabled_at) == (NOON, NOON)
    assert [r.key_id for r in await db.read(accounts.list_keys)] == ["k1", "k2"]
    assert [r.key_id for r in await db.read(accounts.list_keys, "t1")] == ["k1"]
    assert await db.read(accounts.find_key, "k3") is None


async def test_the_last_use_of_a_key_never_goes_back(db: Database) -> None:
    await add_key(db)
    await db.write(accounts.touch_keys, ["k1", "unknown"], NOON + MINUTE)
    await db.write(accounts.touch_keys, ["k1"], NOON)
    row = await db.read(accounts.find_key, "k1")
    assert row is not None
    assert row.last_used_at == NOON + MINUTE
