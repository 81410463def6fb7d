"""Signals of section 9 driven by what really comes in; each row says what brings one over its limits, and what ends it."""

import httpx
import pytest

from app.bootstrap import Services
from app.clock import ManualClock
from tests.web.api_client import open_api
from tests.web.conftest import add_key
from tests.web.signal_traffic import (
    Act,
    World,
    acknowledged,
    alarmed,
    asked,
    behind,
    behind_a_gap,
    both,
    dispatched,
    drained,
    drive,
    ended_and_not_packed,
    exit_without_checklist,
    heard_late,
    held,
    late,
    left,
    nothing,
    packed,
    parked,
    passes,
    reentered,
    settled,
    taken_over_late,
    takeovers,
    told,
    unaware,
    unaware_and_late,
    unnamed,
    unpacked,
    well_packed,
)

pytestmark = pytest.mark.story("S-PC-04-002")

DRIVEN: dict[str, tuple[Act, Act, Act]] = {
    "blocked_commit_order_violation": (asked(3, 1, behind), asked(7, 0, behind), nothing),
    "waiting_previous_commit_age": (
        both(behind_a_gap(1), passes(seconds=150)),
        behind_a_gap(41),
        both(passes(minutes=6), dispatched),
    ),
    "version_conflict_blocked": (asked(2, 42, unaware), asked(5, 0, unaware), nothing),
    "expired_manual": (asked(2, 28, late(72)), asked(3, 0, late(72)), nothing),
    "conflict_blocked": (asked(2, 42, unaware_and_late), asked(5, 0, unaware_and_late), nothing),
    "replay_manual_backlog": (asked(31, 0, late(72)), passes(minutes=31), settled),
    "replay_backlog": (parked, passes(minutes=31), drained),
    "no_ack_critical_alert": (alarmed, passes(minutes=5), acknowledged),
    "safe_mode_duration": (held, passes(minutes=25), left),
    "ticket_open_latency": (taken_over_late(5), taken_over_late(15), nothing),
    "correlation_id_coverage": (asked(2, 103, unnamed), asked(5, 0, unnamed), nothing),
    "ack_to_enqueue_gap": (heard_late(1, 2), heard_late(3, 5), nothing),
    "takeover_sla_breach_rate": (takeovers(15, 2), takeovers(0, 3), nothing),
    "safe_mode_reentry": (reentered, exit_without_checklist, left),
    "contingency_message_failure": (told(60, 2), told(3, 3), nothing),
    "evidence_pack_completeness": (both(well_packed, unpacked(2)), unpacked(2), nothing),
    "evidence_pack_generation": (both(ended_and_not_packed, passes(minutes=16)), passes(minutes=16), packed),
}
"""Signal -> what brings it over its warning, over its critical limit, and what ends it."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """How the facts are counted on each database is shown elsewhere (tests/engine/test_signals.py)."""
    return sqlite_url


@pytest.mark.parametrize("name", DRIVEN)
async def test_traffic_drives_a_signal_over_its_limits_and_back(
    services: Services, client: httpx.AsyncClient, manual_clock: ManualClock, name: str
) -> None:
    world = World(await open_api(services, client), manual_clock, await add_key(services, None))
    await drive(world, name, *DRIVEN[name])
