"""What makes safe mode hold under concurrency: rows that are there to be locked, and entries that wait for effects."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, select, text

from app.errors import StorageUnavailable
from app.store.accounts import create_tenant
from app.store.database import Database, run_in_thread
from app.store.ledger import _lock_modes
from app.store.people import By
from app.store.safe_mode import enter_by_hand
from app.store.tables import ModeRow, SafeEpisode, table
from tests.builders import NOON

HAND = By(actor="user:ana", now=NOON)
MODE, EPISODE = table(ModeRow), table(SafeEpisode)


async def test_a_clinic_has_its_mode_from_the_first_moment(db: Database) -> None:
    await db.write(create_tenant, tenant_id="t-1", slug="sol", name="Sol", timezone="America/Sao_Paulo", now=NOON)
    scopes = await db.read(lambda conn: sorted(conn.execute(select(MODE.c.scope)).scalars()))
    assert scopes == ["global", "t-1"]


@pytest.mark.story("S-PC-03-002")
def test_an_entry_waits_for_effects_on_their_way_and_effects_for_an_entry(postgres_url: str) -> None:
    run_in_thread(postgres_url, lambda conn: conn.execute(MODE.insert().values(scope="global", state="normal", epoch=0)))
    reading, go_on = threading.Event(), threading.Event()

    def effect(conn: Connection) -> None:
        _lock_modes(conn, [])
        reading.set()
        assert go_on.wait(20)

    def entry(conn: Connection) -> None:
        conn.execute(text("SET LOCAL lock_timeout = '200ms'"))
        enter_by_hand(conn, "global", "teste", HAND)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_in_thread, postgres_url, effect)
        try:
            assert reading.wait(20)
            with pytest.raises(StorageUnavailable):
                run_in_thread(postgres_url, entry)
        finally:
            go_on.set()  # whatever became of the entry: an effect that nobody lets go on is ended and repeated for minutes
        running.result(20)
    run_in_thread(postgres_url, entry)
    assert run_in_thread(postgres_url, lambda conn: conn.execute(select(MODE.c.state)).scalar_one()) == "safe_mode_active"


def test_two_entries_by_hand_at_once_make_one_episode(postgres_url: str) -> None:
    def entry(conn: Connection) -> None:
        enter_by_hand(conn, "global", "teste", HAND)

    with ThreadPoolExecutor(2) as pool:
        ended = [pool.submit(run_in_thread, postgres_url, entry) for _ in range(2)]
        errors = [future.exception(20) for future in ended]
    assert errors == [None, None]
    assert len(run_in_thread(postgres_url, lambda conn: list(conn.execute(select(EPISODE))))) == 1
