"""The timeline of an evidence pack: stored rows turned into one story in the order of time.

Facts are lists of rows as dictionaries, by the names in `Facts`; times are aware. Each event of the timeline carries the
contract's log fields, so that the story can be read without any log. The same facts always give the same timeline.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.domain.evidence_kinds import stamp
from app.domain.evidence_words import LOCALES, sentence

Row = Mapping[str, Any]
Facts = Mapping[str, Sequence[Row]]

PARTS: Final = (
    "messages",
    "unusable",
    "commands",
    "ledger",
    "versions",
    "proposals",
    "outbox",
    "deliveries",
    "tasks",
    "tickets",
    "alerts",
    "alert_steps",
    "acks",
    "episodes",
    "causes",
    "safe_steps",
    "notices",
    "replays",
    "replay_items",
    "d1_steps",
)
"""Names of the facts; the order is that of events at one moment."""

_RANK: Final = (
    "message_received unusable_item message_processed command_accepted command_parked command_waits day_before replay_planned "
    "replay_started decided place_skipped agenda_changed confirmation_asked confirmation_closed task_opened ticket_opened "
    "delivery_queued delivery_done delivery_status alert_raised safe_mode_cause safe_mode family_told alert_step "
    "alert_acknowledged task_claimed ticket_started ticket_answered task_resolved ticket_closed replay_item replay_ended "
    "alert_resolved document"
).split()


def timeline(facts: Facts, timezone: str) -> list[dict[str, Any]]:
    """Every event of the facts in order of time, numbered from 1, each with its sentence in both languages."""
    found = [event for name in PARTS for row in facts.get(name, ()) for event in _EVENTS[name](row)]
    found = [event for event in found if event["at"] is not None]
    rank = {name: place for place, name in enumerate(_RANK)}
    found.sort(key=lambda e: (e["at"], rank[e["event"]], str(e["id"]), str(e.get("status"))))
    return [_shown(number, event, timezone) for number, event in enumerate(found, 1)]


def _shown(number: int, event: dict[str, Any], timezone: str) -> dict[str, Any]:
    words = {locale: sentence(event["event"], event, locale, timezone) for locale in LOCALES}
    plain = {name: stamp(value) if isinstance(value, datetime) else value for name, value in event.items() if value is not None}
    return {"n": number} | plain | words


def _event(flow_id: str, event: str, at: datetime | None, row: Row, id: Any, **fields: Any) -> dict[str, Any]:
    said = {
        "at": at,
        "flow_id": flow_id,
        "event": event,
        "id": id,
        "correlation_id": row.get("correlation_id"),
        "contact_id": row.get("contact_id"),
    }
    return said | fields


def _text(document: str) -> str | None:
    """The words inside a stored message; only full packs show them."""
    body = json.loads(document)
    found = body.get("text") if isinstance(body, dict) else None
    return found if isinstance(found, str) else None


def _message(row: Row) -> Iterator[dict[str, Any]]:
    common = {"sequence": row["sequence"], "intent": row["intent"], "source": row["source"]}
    common |= {"conversation_version": row["conversation_version"]}
    said = {"status": "queued_for_dispatch", "text": _text(row["payload_json"])}
    yield _event("F-01", "message_received", row["received_at"], row, row["event_id"], **said, **common)
    yield _event(
        "F-01",
        "message_processed",
        row["done_at"],
        row,
        row["event_id"],
        status=row["status"],
        made_command_id=row["made_command_id"],
        **common,
    )


def _unusable(row: Row) -> Iterator[dict[str, Any]]:
    yield _event("F-01", "unusable_item", row["received_at"], row, row["item_id"], status=row["status"], reason=row["reason"])


def _command(row: Row) -> Iterator[dict[str, Any]]:
    common = {"intent": row["command_type"], "commit_order": row["commit_order"]}
    yield _event(
        "F-02",
        "command_accepted",
        row["accepted_at"],
        row,
        row["command_id"],
        status="queued_for_dispatch",
        requested_by=row["requested_by"],
        confirmed_by_contact=bool(row["confirmed_by_contact"]),
        conversation_version=row["conversation_version"],
        guardian_version=row["guardian_version"],
        entity_version=row["entity_version"],
        as_of=row["as_of"],
        occurred_at=row["occurred_at"],
        idempotency_key=row["idempotency_key"],
        causation_id=row["causation_id"],
        appointment_id=row["appointment_id"],
        wanted_start=row["wanted_start"],
        wanted_end=row["wanted_end"],
        **common,
    )
    if row["was_parked"]:
        yield _event("F-05", "command_parked", row["waiting_since"], row, row["command_id"], status="parked", **common)
    if row["done_at"] is None:
        at = row["waiting_since"] or row["accepted_at"]
        yield _event("F-02", "command_waits", at, row, row["command_id"], status=row["status"], reason=row["reason"], **common)
    elif row["commit_order"] is None:  # it never got a place, so the ledger has nothing to say about it
        said = {"status": row["status"], "result": row["result"], "reason": row["reason"]}
        yield _event("F-02", "decided", row["done_at"], row, row["command_id"], **said, **common)


def _ledger(row: Row) -> Iterator[dict[str, Any]]:
    place = {"commit_order": row["commit_order"], "result": row["result"], "reason": row["reason"]}
    if row["command_id"] is None:
        name = f"{row['contact_id']}:{row['commit_order']}"
        yield _event("F-02", "place_skipped", row["committed_at"], row, name, status=row["result"], **place)
        return
    yield _event(
        "F-02",
        "decided",
        row["committed_at"],
        row,
        row["command_id"],
        status="committed_causal" if row["effect_key"] is not None else row["result"],
        intent=row["command_type"],
        late=bool(row["late"]),
        event_age=row["event_age_s"],
        ttl_limit=row["ttl_limit_s"],
        conversation_version=row["conversation_version"],
        guardian_version=row["guardian_version"],
        lock_backend=row["lock_backend"],
        lock_mode=row["lock_mode"],
        mode_epoch=row["mode_epoch"],
        node_id=row["node_id"],
        **place,
    )


def _version(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-02",
        "agenda_changed",
        row["at"],
        row,
        row["command_id"],
        status=row["status"],
        appointment_id=row["appointment_id"],
        version=row["version"],
        old_start=row["old_start"],
        new_start=row["start_at"],
        new_end=row["end_at"],
    )


def _proposal(row: Row) -> Iterator[dict[str, Any]]:
    yield _event("F-02", "confirmation_asked", row["opened_at"], row, row["command_id"], expires_at=row["expires_at"])
    yield _event("F-02", "confirmation_closed", row["closed_at"], row, row["command_id"], outcome=row["outcome"])


def _outbox(row: Row) -> Iterator[dict[str, Any]]:
    flow = "F-05" if row["kind"] == "contingency_message" else "F-02"
    common = {"kind": row["kind"], "step": row["step"]}
    said = {"status": "pending", "text": _text(row["body_json"])}
    yield _event(flow, "delivery_queued", row["created_at"], row, row["outbox_id"], **said, **common)
    if row["status"] not in ("pending", "sending"):
        at = row["sent_at"] or row["due_at"]
        yield _event(flow, "delivery_done", at, row, row["outbox_id"], status=row["status"], attempt=row["attempts"], **common)


def _delivery(row: Row) -> Iterator[dict[str, Any]]:
    yield _event("F-02", "delivery_status", row["at"], row, row["outbox_id"], status=row["status"])


def _task(row: Row) -> Iterator[dict[str, Any]]:
    common = {"cause": row["cause"], "reason": row["reason"]}
    yield _event("F-02", "task_opened", row["created_at"], row, row["task_id"], status="open", **common)
    yield _event("F-02", "task_claimed", row["claimed_at"], row, row["task_id"], status="claimed", by=row["owner"], **common)
    done = row["resolved_at"]
    yield _event("F-02", "task_resolved", done, row, row["task_id"], status="resolved", resolution=row["resolution"], **common)


def _ticket(row: Row) -> Iterator[dict[str, Any]]:
    flow = "F-04" if row["kind"] == "takeover" else "F-06"
    common = {"kind": row["kind"], "level": row["level"]}
    yield _event(flow, "ticket_opened", row["opened_at"], row, row["ticket_id"], status="open", due_at=row["due_at"], **common)
    yield _event(flow, "ticket_started", row["started_at"], row, row["ticket_id"], status="in_progress", by=row["owner"], **common)
    yield _event(flow, "ticket_answered", row["answered_at"], row, row["ticket_id"], status="in_progress", **common)
    yield _event(flow, "ticket_closed", row["closed_at"], row, row["ticket_id"], status=row["state"], **common)


def _alert(row: Row) -> Iterator[dict[str, Any]]:
    common = {"trigger": row["trigger"], "severity": row["severity"]}
    yield _event(
        "F-06",
        "alert_raised",
        row["raised_at"],
        row,
        row["alert_id"],
        status="open",
        owner=row["owner"],
        summary=row["summary"],
        safe_mode_at=row["safe_mode_at"],
        **common,
    )
    done = row["resolved_at"]
    said = {"status": "resolved", "by": row["resolved_by"], "result": row["result"]}
    yield _event("F-06", "alert_resolved", done, row, row["alert_id"], **said, **common)


def _alert_step(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-06",
        "alert_step",
        row["done_at"],
        row,
        row["step_id"],
        status=row["outcome"],
        action=row["action"],
        channel=row["channel"],
        attempt=row["n"],
        told=row["told"],
        due_at=row["due_at"],
        late=bool(row["late"]),
        trigger_id=row["alert_id"],
    )


def _ack(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-06",
        "alert_acknowledged",
        row["at"],
        row,
        row["record_id"],
        status="effective" if row["effective"] else "recorded",
        kind=row["kind"],
        by=row["by"],
        how=row["how"],
        delay_s=row["delay_s"],
        trigger_id=row["alert_id"],
    )


def _episode(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-06",
        "safe_mode",
        row["entered_at"],
        row,
        row["episode_id"],
        status="safe_mode_active",
        step="safe_mode_active",
        by=row["entered_by"],
        recovery_action=row["recovery_action"],
    )
    said = {"status": row["exit_result"], "step": row["exit_result"], "by": row["exit_asked_by"], "detail": row["exit_reason"]}
    yield _event("F-06", "safe_mode", row["ended_at"], row, row["episode_id"], **said)


def _cause(row: Row) -> Iterator[dict[str, Any]]:
    said = {"kind": row["kind"], "summary": row["summary"], "by": row["by"]}
    yield _event("F-06", "safe_mode_cause", row["at"], row, row["cause_id"], **said)


def _safe_step(row: Row) -> Iterator[dict[str, Any]]:
    said = {"step": row["kind"], "by": row["actor"], "detail": row["detail"]}
    yield _event("F-06", "safe_mode", row["at"], row, row["position"], **said)


def _notice(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-06",
        "family_told",
        row["done_at"] or row["at"],
        row,
        row["outbox_id"],
        status=row["result"] or "pending",
        intent=row["intent"],
        template=row["template"],
        ticket_id=row["ticket_id"],
    )


def _replay(row: Row) -> Iterator[dict[str, Any]]:
    common = {"total": row["total"], "rate_per_s": row["rate_per_s"]}
    yield _event("F-05", "replay_planned", row["planned_at"], row, row["replay_id"], by=row["planned_by"], **common)
    yield _event("F-05", "replay_started", row["started_at"], row, row["replay_id"], by=row["started_by"], **common)
    said = {"status": row["status"], "done": row["done"], "drifted": row["drifted"]}
    yield _event("F-05", "replay_ended", row["ended_at"], row, row["replay_id"], **said, **common)


def _replay_item(row: Row) -> Iterator[dict[str, Any]]:
    yield _event(
        "F-05",
        "replay_item",
        row["done_at"],
        row,
        row["run_command_id"],
        item=row["n"],
        status=row["state"],
        intent=row["command_type"],
        predicted=row["predicted_result"],
        result=row["result"],
        reason=row["reason"],
        event_age=row["event_age_s"],
        ttl_limit=row["ttl_limit_s"],
        expected_version=row["expected_version"],
        event_version=row["event_version"],
        drift=bool(row["drift"]),
    )


def _d1_step(row: Row) -> Iterator[dict[str, Any]]:
    said = {"action": row["action"], "outcome": row["outcome"], "status": row["outcome"], "late": bool(row["late"])}
    name = f"{row['appointment_id']}:{row['action']}"
    yield _event("F-03", "day_before", row["done_at"], row, name, appointment_id=row["appointment_id"], **said)


_EVENTS: Final = {
    "messages": _message,
    "unusable": _unusable,
    "commands": _command,
    "ledger": _ledger,
    "versions": _version,
    "proposals": _proposal,
    "outbox": _outbox,
    "deliveries": _delivery,
    "tasks": _task,
    "tickets": _ticket,
    "alerts": _alert,
    "alert_steps": _alert_step,
    "acks": _ack,
    "episodes": _episode,
    "causes": _cause,
    "safe_steps": _safe_step,
    "notices": _notice,
    "replays": _replay,
    "replay_items": _replay_item,
    "d1_steps": _d1_step,
}
