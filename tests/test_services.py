"""The fixtures themselves: what the other tests stand on."""

import subprocess
import sys

import asyncpg
import pytest
from sqlalchemy import text

from app.clock import ManualClock
from app.store.database import Database
from tests import services
from tests.builders import clinic
from tests.conftest import NOON
from tests.server import ROOT
from tests.services import PostgresServer, RedisServer, answers


@pytest.mark.parametrize("turn", [1, 2])
async def test_every_test_gets_a_database_of_its_own(db: Database, turn: int) -> None:
    assert await db.read(lambda conn: conn.scalar(text("SELECT count(*) FROM contact"))) == 0
    await db.write(clinic)


def test_redis_can_be_killed_paused_flushed_and_restarted(redis_server: RedisServer) -> None:
    def ping() -> bool:
        return answers(redis_server.port, b"PING\r\n", b"+PONG")

    redis_server.pause()
    assert not answers(redis_server.port, b"PING\r\n", b"+PONG", limit_s=1)
    redis_server.resume()
    assert ping()
    assert answers(redis_server.port, b"SET k v\r\n", b"+OK")
    redis_server.flush()
    assert answers(redis_server.port, b"EXISTS k\r\n", b":0")
    redis_server.kill()
    assert not ping()
    redis_server.restart()
    assert ping()


def test_redis_is_empty_and_running_again_after_a_test_that_killed_it(redis_server: RedisServer) -> None:
    answers(redis_server.port, b"SET k v\r\n", b"+OK")
    redis_server.kill()
    redis_server.heal()
    assert answers(redis_server.port, b"DBSIZE\r\n", b":0")


async def test_postgresql_keeps_its_data_over_a_crash(postgres_server: PostgresServer, postgres_url: str) -> None:
    conn = await asyncpg.connect(postgres_url)
    await conn.execute("CREATE TABLE kept (x int); INSERT INTO kept VALUES (7)")
    postgres_server.execute("CHECKPOINT")
    postgres_server.restart()
    await conn.close(timeout=1)
    conn = await asyncpg.connect(postgres_url)
    assert await conn.fetchval("SELECT x FROM kept") == 7
    await conn.close()


@pytest.mark.parametrize(("variable", "start"), [("REDIS_SERVER", services.RedisServer), ("PG_BIN", services.PostgresServer)])
def test_a_missing_server_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch, variable: str, start: type) -> None:
    monkeypatch.setenv(variable, "/nowhere")
    with pytest.raises(services.MissingBinary, match=rf"missing: run `make test`.*{variable}"):
        start()


def test_a_port_is_given_once_however_many_processes_ask() -> None:
    code = "import sys; from tests.services import free_port as p; print(*(p() for _ in range(300)), flush=True); sys.stdin.read()"
    asked = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    given: list[str] = []
    for one in asked:  # each still has what it was given while the other is asked
        assert one.stdout is not None
        given += one.stdout.readline().split()
    for one in asked:
        one.communicate()
    assert len(given) == len(set(given)) == 600


def test_the_manual_clock_stands_still(manual_clock: ManualClock) -> None:
    assert manual_clock.now() == NOON == manual_clock.now()
