"""`kora demo`: what a newcomer sees within the first minute, on SQLite and without anything else."""

import signal
import time
from pathlib import Path

import pytest

from app.demo import CLINICS, LOGINS, PASSWORD, families_of
from tests.server import ASK, Server, kora
from tests.services import busy

SOON_S = 60.0


@pytest.mark.paced
def test_within_a_minute_the_demo_has_clinics_an_agenda_and_moving_traffic(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    began = time.monotonic()
    with Server(url, "demo") as server:
        while PASSWORD not in server.tail(200_000):
            assert time.monotonic() - began < SOON_S, server.tail()
            time.sleep(0.1)
        before = _accepted(server)
        while _accepted(server) <= before + 5:
            assert time.monotonic() - began < SOON_S, server.tail()
            time.sleep(0.1)
        shown = server.tail(200_000)
        assert server.url in shown
        assert all(email in shown for email, *_ in LOGINS)
        asked_at = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - asked_at < 5 * busy()
    assert "0 violations" in kora(url, "verify")


@pytest.mark.paced
def test_starting_the_demo_again_adds_nothing_twice(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'demo.db'}"
    for _ in range(2):
        with Server(url, "demo") as server:
            deadline = time.monotonic() + SOON_S
            while PASSWORD not in server.tail(200_000):
                assert time.monotonic() < deadline, server.tail()
                time.sleep(0.1)
            assert server.stop(signal.SIGINT) == 0
    listed = kora(url, "tenant", "list").splitlines()
    assert sorted(line.split("\t")[0] for line in listed) == sorted(c.slug for c in CLINICS)
    assert "0 violations" in kora(url, "verify")


def test_the_demo_families_are_always_the_same_and_some_have_no_permission() -> None:
    for clinic in CLINICS:
        families = families_of(clinic)
        assert [f.contact_id for f in families] == [f.contact_id for f in families_of(clinic)]
        assert len({f.phone for f in families}) == len({f.contact_id for f in families}) == len(families)
        assert {f.permitted for f in families} == {True, False}


def _accepted(server: Server) -> float:
    """Items accepted so far, by the server's own count."""
    text = ASK.get(f"{server.url}/metrics", timeout=SOON_S).text
    names = ("kora_events_accepted_total{", "kora_commands_accepted_total{")
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(names))
