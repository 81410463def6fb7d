"""The story of a pack: every kind of row is told in both languages, in one order, whatever order the rows come in."""

from datetime import timedelta
from typing import Any

import pytest

from app.domain.evidence_kinds import EvidenceKind, span_of, stamp
from app.domain.evidence_pack import flows_of, terminal_state
from app.domain.evidence_timeline import timeline
from app.domain.evidence_words import sentence
from tests.conftest import NOON

pytestmark = pytest.mark.story("S-PC-04-003")


class Loose(dict[str, Any]):
    """A row that has every column: None where the test names none."""

    def __missing__(self, _key: str) -> None:
        return None


def command(**fields: Any) -> dict[str, Any]:
    given = {"command_id": "cmd-1", "contact_id": "c-1", "command_type": "reschedule", "accepted_at": NOON, "commit_order": 1}
    return Loose(given | {"requested_by": "ai", "was_parked": False, "replayed": False} | fields)


def told(event: dict[str, Any]) -> tuple[str, str]:
    return event["event"], event["en"]


def test_what_waits_was_parked_or_never_got_a_place_is_told() -> None:
    rows = [
        command(was_parked=True, waiting_since=NOON + timedelta(seconds=1), status="pending_safe_mode", reason="safe_mode_active"),
        command(command_id="cmd-2", commit_order=None, done_at=NOON, status="blocked_conflict", result="blocked_conflict"),
    ]
    story = [told(e) for e in timeline({"commands": rows}, "America/Sao_Paulo")]
    assert [name for name, _ in story] == ["command_accepted", "command_accepted", "decided", "command_parked", "command_waits"]
    assert "Request no. 1 still waits: pending_safe_mode (safe_mode_active)." in dict(story).values()


def test_a_place_that_nobody_took_a_question_and_a_receipt_are_told() -> None:
    facts = {
        "ledger": [
            Loose(contact_id="c-1", commit_order=2, committed_at=NOON, result="manual_review_required", reason="gap_timeout")
        ],
        "proposals": [Loose(command_id="cmd-1", opened_at=NOON, expires_at=NOON, closed_at=NOON, outcome="confirmed")],
        "deliveries": [Loose(outbox_id="o-1", at=NOON, status="delivered")],
        "notices": [Loose(outbox_id="o-1", at=NOON, intent="general", template="general/open v1")],
        "outbox": [
            Loose(outbox_id="o-1", kind="contingency_message", step="notice", created_at=NOON, status="pending", body_json="[]")
        ],
    }
    story = dict(told(e) for e in timeline(facts, "America/Sao_Paulo"))
    assert set(story) == {
        "place_skipped",
        "confirmation_asked",
        "confirmation_closed",
        "delivery_status",
        "family_told",
        "delivery_queued",
    }
    assert story["confirmation_asked"] == "The family must answer CONFIRMAR by 23/11/2026 09:00."
    assert story["place_skipped"] == "Place no. 2 stayed empty: manual_review_required (gap_timeout)."


def test_the_order_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = [command(command_id=f"cmd-{n}", accepted_at=NOON, status="queued_for_dispatch") for n in range(5)]
    assert timeline({"commands": rows}, "UTC") == timeline({"commands": rows[::-1]}, "UTC")


def test_a_field_that_is_not_there_is_a_dash() -> None:
    assert sentence("ticket_closed", {}, "pt_BR", "UTC") == "Chamado encerrado: -."


def test_times_and_ranges_are_written_in_one_way() -> None:
    assert stamp(NOON) == "2026-11-23T12:00:00.000000Z"
    assert span_of(None, None) == ""
    assert span_of(NOON, None) == "2026-11-23T12:00:00.000000Z/.."


@pytest.mark.parametrize(
    ("facts", "flow", "state"),
    [
        (
            {"commands": [command(done_at=NOON, result="applied_once")], "d1_steps": [{"action": "ask_family"}]},
            "F-03",
            "applied_once",
        ),
        ({"d1_steps": [{"action": "ask_family"}]}, "F-03", None),
        ({"commands": [command(done_at=NOON, result="x")]}, "F-02", "x"),
        ({"commands": [command(command_type="d1_confirmation", done_at=NOON, result="x")]}, "F-03", "x"),
        ({"messages": [Loose(done_at=None)]}, "F-01", None),
        ({"unusable": [Loose(status="dead_letter")]}, "F-01", "dead_letter"),
        ({"alerts": [Loose(result=None, resolved_at=NOON, status="resolved")]}, "F-06", "resolved"),
        ({"alerts": [Loose(result=None, resolved_at=None, status="open")]}, "F-06", None),
        ({"episodes": [Loose(ended_at=NOON, exit_result=None)]}, "F-06", "ended"),
        ({"replays": [Loose(ended_at=None, status="running")]}, "F-05", None),
        ({"tickets": [Loose(kind="takeover", closed_at=None, state="open")]}, "F-04", None),
        ({}, "F-06", None),
    ],
)
def test_every_flow_says_which_one_it_is_and_how_it_ended(facts: Any, flow: str, state: str | None) -> None:
    assert flows_of(EvidenceKind.FLOW, facts)[0] == flow
    assert terminal_state(EvidenceKind.FLOW, facts, None) == state


def test_a_contact_without_requests_and_a_report_without_a_verdict() -> None:
    assert terminal_state(EvidenceKind.CONTACT, {}, None) == "no_commands"
    assert terminal_state(EvidenceKind.DRILL, {}, {"at": "x"}) is None
