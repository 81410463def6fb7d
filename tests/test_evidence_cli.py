"""`kora evidence`: a pack built, checked offline with the public key alone, and refused after one changed byte."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import cli
from app.clock import ManualClock
from app.store.database import Database
from tests.conftest import NOON
from tests.history import History

pytestmark = pytest.mark.story("S-PC-04-003")


@pytest.fixture(scope="module")
def database_url(tmp_path_factory: pytest.TempPathFactory, sqlite_template: Path) -> str:
    """A clinic with one command and its flow."""
    file = tmp_path_factory.mktemp("evidence") / "kora.db"
    file.write_bytes(sqlite_template.read_bytes())
    url = f"sqlite:///{file}"

    async def fill() -> None:
        database = Database(url)
        history = History(database, ManualClock(NOON))
        await history.begin()
        await history.asks("c-1", "follow_up", {"text": "oi"}, correlation_id="corr-1")
        await history.settle()
        await database.close()

    asyncio.run(fill())
    return url


@pytest.fixture
def kora(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CliRunner:
    """The command line of this installation, in a folder of its own."""
    monkeypatch.setenv("KORA_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    return CliRunner()


def run(kora: CliRunner, *args: str) -> Result:
    return kora.invoke(cli, ["evidence", *args])


def test_a_pack_is_built_and_checked_by_somebody_without_the_database(
    kora: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = run(kora, "build", "--tenant", "ten-sol", "--correlation", "corr-1", "--out", "pack.zip")
    assert built.exit_code == 0, built.output
    assert "evidence_pack_generated\tapplied_once" in built.output
    key = run(kora, "key").output.strip()
    assert len(bytes.fromhex(key)) == 32
    assert "signs now" in run(kora, "key", "--all").output
    monkeypatch.setenv("KORA_DATABASE_URL", "sqlite:////nowhere/at/all.db")
    Path("kora.pub").write_text(key + "\n", encoding="utf-8")
    for given in (key, "kora.pub"):
        good = run(kora, "verify", "pack.zip", "--key", given)
        assert (good.exit_code, "whole, signed" in good.output, "note:" in good.output) == (0, True, False)
    assert f"compare {key}" in run(kora, "verify", "pack.zip").output
    data = Path("pack.zip").read_bytes()
    Path("pack.zip").write_bytes(data.replace(b'"result":"applied_once"', b'"result":"applied_0nce"', 1))
    bad = run(kora, "verify", "pack.zip", "--key", key)
    assert bad.exit_code == 1
    assert "timeline.jsonl row 2\tchanged" in bad.output
    Path("pack.zip").write_bytes(data)
    stranger = run(kora, "verify", "pack.zip", "--key", "00" * 32)
    assert (stranger.exit_code, "signature.json\tother_key" in stranger.output) == (1, True)


def test_what_cannot_be_done_is_one_clear_line(kora: CliRunner) -> None:
    Path("x.zip").write_bytes(b"nothing")
    for args, line in (
        (("build", "--tenant", "ten-sol"), "name exactly one of"),
        (("build", "--correlation", "corr-1"), "--tenant is needed"),
        (("build", "--tenant", "nobody", "--correlation", "corr-1"), "no tenant 'nobody'"),
        (("build", "--tenant", "ten-sol", "--correlation", "corr-9"), "nothing to prove"),
        (("build", "--alert", "a-9"), "no alert 'a-9'"),
        (("build", "--tenant", "ten-sol", "--contact", "c-maria", "--from", "yesterday"), "yesterday"),
        (("verify", "x.zip"), "(zip)\tnot_a_pack"),
        (("verify", "x.zip", "--key", "zz"), "64 hex digits"),
    ):
        said = run(kora, *args)
        assert said.exit_code == 1, args
        assert line in said.output, said.output
