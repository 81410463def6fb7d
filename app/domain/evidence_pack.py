"""An evidence pack as a document and as files: what it says, how it is redacted, and which flow and end it is about.

`assemble` turns gathered facts into the parts of the contract (section 9). Redacted packs keep every id, time, state and
hash; names, numbers, texts and secrets become `[redacted]` and the like, by field, by pattern and by the known names of the
people that the rows are about.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from app.domain.envelopes import canonical_json, sha256_hex
from app.domain.evidence import SCHEMA_VERSION
from app.domain.evidence_kinds import FLOW_OF_KIND, EvidenceKind, stamp
from app.domain.evidence_timeline import Facts, Row, timeline
from app.domain.redaction import NAME, REDACTED, is_private, names_pattern, redact

Document = dict[str, Any]

LISTS: Final = ("timeline", "logs", "metrics", "alerts", "ledger", "attempts", "chains")
"""Parts that are lists; each is one file of lines in the zip."""
FREE_TEXT: Final = frozenset(
    {"summary", "detail", "recovery_action", "runbook_step", "reason", "close_reason", "exit_reason", "reason_text", "pt_BR", "en"}
)
"""Fields in which somebody may have typed a name."""
LEDGER_FIELDS: Final = (
    "tenant_id contact_id commit_order command_id command_type result reason effect_key entity_id entity_version "
    "conversation_version guardian_version takeover_active mode_epoch late correlation_id committed_at"
).split()
"""Fields that an entry's hash covers."""


# --- which flow, and how it ended ---------------------------------------------------------------------------------------


def flows_of(kind: EvidenceKind, facts: Facts) -> tuple[str, ...]:
    """Every flow that the facts touch; the first is the one that the pack is about."""
    commands = facts.get("commands", ())
    touched = {
        "F-06": bool(facts.get("episodes") or facts.get("alerts")),
        "F-05": bool(facts.get("replays")) or any(r["was_parked"] or r["replayed"] for r in commands),
        "F-04": any(r["kind"] == "takeover" for r in facts.get("tickets", ())),
        "F-03": bool(facts.get("d1_steps")) or any(r["command_type"] == "d1_confirmation" for r in commands),
        "F-02": bool(commands),
        "F-01": bool(facts.get("messages") or facts.get("unusable")),
    }
    main = FLOW_OF_KIND[kind] if kind is not EvidenceKind.FLOW else _main_flow(facts)
    return (main, *sorted(name for name, does in touched.items() if does and name != main))


def _main_flow(facts: Facts) -> str:
    order = (("episodes", "F-06"), ("replays", "F-05"), ("tickets", "F-04"), ("d1_steps", "F-03"), ("commands", "F-02"))
    if not any(facts.get(name) for name, _ in order[:4]) and facts.get("commands"):
        kinds = {row["command_type"] for row in facts["commands"]}
        return "F-03" if kinds == {"d1_confirmation"} else "F-02"
    for name, flow_id in order:
        if facts.get(name):
            return flow_id
    return "F-01" if facts.get("messages") or facts.get("unusable") else "F-06"


def terminal_state(kind: EvidenceKind, facts: Facts, document: Mapping[str, Any] | None) -> str | None:
    """The exact state in which it ended; None while it has not."""
    if document is not None:
        said = next((document[name] for name in ("result", "verdict", "state", "status") if document.get(name)), None)
        return str(said) if said is not None else None
    own = [(name, end) for name, end in _ENDS if name == _OWN.get(kind)]
    for name, end in own or _ENDS:
        if facts.get(name):
            return end(facts)
    return "no_commands" if kind is EvidenceKind.CONTACT else None


def _episode_end(facts: Facts) -> str | None:
    last = facts["episodes"][-1]
    return (last["exit_result"] or "ended") if last["ended_at"] is not None else None


def _alert_end(facts: Facts) -> str | None:
    last = facts["alerts"][-1]
    return (last["result"] or last["status"]) if last["resolved_at"] is not None or last["result"] is not None else None


def _replay_end(facts: Facts) -> str | None:
    last = facts["replays"][-1]
    return str(last["status"]) if last["ended_at"] is not None else None


def _ticket_end(facts: Facts) -> str | None:
    return None if any(row["closed_at"] is None for row in facts["tickets"]) else str(facts["tickets"][-1]["state"])


def _command_end(facts: Facts) -> str | None:
    """The result of the command that came last in its lane, once every one has a result."""
    rows = facts["commands"]
    if any(row["done_at"] is None for row in rows):
        return None
    last = max(rows, key=lambda r: (r["done_at"], r["commit_order"] or 0))
    return str(last["result"] or last["status"])


def _day_before_end(facts: Facts) -> str | None:
    if facts.get("commands"):
        return _command_end(facts)
    asked = {row["action"] for row in facts["d1_steps"]}
    return "day_before_unconfirmed" if asked - {"ask_family"} else None


def _message_end(facts: Facts) -> str | None:
    rows = facts["messages"]
    return None if any(row["done_at"] is None for row in rows) else str(rows[-1]["status"])


_OWN: Final = {
    EvidenceKind.ALERT: "alerts",
    EvidenceKind.SAFE_MODE: "episodes",
    EvidenceKind.REPLAY: "replays",
    EvidenceKind.TAKEOVER: "tickets",
    EvidenceKind.CONTACT: "commands",
}
"""Whose end is a pack's, where its kind says so."""

_ENDS: Final = (
    ("episodes", _episode_end),
    ("replays", _replay_end),
    ("tickets", _ticket_end),
    ("d1_steps", _day_before_end),
    ("commands", _command_end),
    ("messages", _message_end),
    ("unusable", lambda facts: str(facts["unusable"][-1]["status"])),
    ("alerts", _alert_end),
)


# --- parts --------------------------------------------------------------------------------------------------------------


def assemble(
    *,
    kind: EvidenceKind,
    subject: str,
    tenant_id: str | None,
    correlation_id: str,
    facts: Facts,
    timezone: str,
    around: Sequence[Row],
    chains: Sequence[Row],
    surroundings: Sequence[Row] | None,
    lines: Sequence[Row] | None,
    document: Mapping[str, Any] | None,
    cut: Sequence[str] = (),
) -> Document:
    """The whole pack, nothing redacted yet.

    `surroundings` are metrics read beside the facts, `lines` kept log lines; None where they could not be read.
    """
    story = timeline(facts, timezone)
    if document is not None:
        story = _with_document(story, kind, subject, correlation_id, document)
    flows = flows_of(kind, facts)
    own = [_alert(row, facts, "own") for row in facts.get("alerts", ())]
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": str(kind),
        "subject": subject,
        "tenant_id": tenant_id,
        "timezone": timezone,
        "flow_id": flows[0],
        "flows": list(flows),
        "correlation_id": correlation_id,
        "terminal_state": terminal_state(kind, facts, document),
        "cut": list(cut),
        "document": dict(document) if document is not None else None,
        "timeline": story,
        "logs": None if lines is None else _logs(story, lines, tenant_id),
        "metrics": None if surroundings is None else [*_own_metrics(facts, document), *(_plain(row) for row in surroundings)],
        "alerts": own + [_alert(row, {}, "meanwhile") for row in around],
        "ledger": [_plain(row) for row in facts.get("ledger", ())],
        "attempts": list(_attempts(facts)),
        "chains": [_plain(row) for row in chains],
    }


def _with_document(
    story: Sequence[Row], kind: EvidenceKind, subject: str, correlation_id: str, document: Mapping[str, Any]
) -> list[Document]:
    """The story with a handed-over report at its own time, or after everything else, and with the phases that it tells."""
    at = next((document[name] for name in ("finished_at", "ended_at", "at", "started_at") if document.get(name)), None)
    at = stamp(at) if isinstance(at, datetime) else at or (story[-1]["at"] if story else None)
    about = {"pt_BR": f"Relatório anexado: {kind} {subject}.", "en": f"Report attached: {kind} {subject}."}
    said = {"flow_id": FLOW_OF_KIND[kind], "id": subject, "correlation_id": correlation_id}
    phases = [
        {"at": phase["at"], "event": "drill_phase", "status": phase["phase"], **said}
        | {
            "pt_BR": f"Fase {phase['phase']}: {phase['requests']} pedidos decididos, {phase['in_fallback']} com travas no banco.",
            "en": f"Phase {phase['phase']}: {phase['requests']} requests decided, {phase['in_fallback']} under database locks.",
        }
        for phase in document.get("phases") or ()
        if isinstance(phase, Mapping) and phase.get("at")
    ]
    told = [*map(dict, story), *phases, {"at": at, "event": "document", **said, **about}]
    told.sort(key=lambda row: str(row["at"]))  # stable: what happened at one moment keeps its order; no time comes last
    return [row | {"n": n} for n, row in enumerate(told, 1)]


def _plain(row: Row) -> Document:
    """A row as JSON holds it: times as text, nested lists too."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Mapping):
        return _plain(value)
    if isinstance(value, list | tuple):
        return [_value(v) for v in value]
    return value


def _logs(story: Sequence[Row], lines: Sequence[Row], tenant_id: str | None) -> list[Document]:
    """The kept lines of the flow, and for every step that left none a line made from its record (`source` says which)."""
    # what the builder says about building this very pack is no part of the story, and would make every pack a new one
    told = (line for line in lines if not str(line.get("event")).startswith("evidence_"))
    kept = [_plain(line) | {"source": "log"} for line in told]
    said = {(line.get("event"), line.get("commit_order"), None) for line in kept}
    said |= {(line.get("event"), None, line[name]) for line in kept for name in _IDS if line.get(name)}
    made = [_line(row, tenant_id) for row in story if _as_logged(row) not in said]
    return sorted([*kept, *made], key=lambda line: (str(line["ts"]), str(line["event"])))


_IDS: Final = ("ticket_id", "alert_id", "task_id")

_LOGGED_BY_ID: Final = {
    "ticket_opened": "ticket_opened",
    "ticket_started": "ticket_start",
    "ticket_answered": "takeover_reply",
    "ticket_closed": "ticket_close",
    "alert_raised": "alert_raised",
    "alert_resolved": "alert_resolved",
    "task_claimed": "manual_task_claim",
    "task_resolved": "manual_task_resolve",
}
"""The same for those whose line names what it is about."""


def _as_logged(row: Row) -> tuple[str | None, int | None, str | None]:
    """Name, place and subject of the log line that says what a step of the timeline says."""
    by_id = _LOGGED_BY_ID.get(row["event"])
    return (by_id, None, row["id"]) if by_id is not None else (_LOGGED_AS.get(row["event"]), row.get("commit_order"), None)


_LOGGED_AS: Final = {
    "message_received": "accepted",
    "command_accepted": "accepted",
    "message_processed": "messages_heard",
    "decided": "decided",
    "delivery_done": "delivery",
    "day_before": "d1_step",
}
"""Events of the timeline by the name of the log line that says the same."""


def _line(row: Row, tenant_id: str | None) -> Document:
    skip = ("n", "at", "pt_BR", "en", "text")
    rest = {name: value for name, value in row.items() if name not in skip}
    return {"ts": row["at"], "level": "info", "tenant_id": tenant_id, **rest, "source": "record"}


def _own_metrics(facts: Facts, document: Mapping[str, Any] | None) -> Iterable[Document]:
    """What the rows themselves measured; times in seconds unless the name says otherwise."""
    for row in facts.get("ledger", ()):
        who = {"of": row["command_id"], "at": stamp(row["committed_at"])}
        yield {"metric": "accept_to_commit_s", "value": _between(row["accepted_at"], row["committed_at"])} | who
        yield {"metric": "lock_ms", "value": row["lock_ms"]} | who
        if row["event_age_s"] is not None:
            yield {"metric": "event_age_s", "value": row["event_age_s"]} | who
    spans = (
        ("messages", "event_id", "received_at", "done_at", "received_to_processed_s"),
        ("outbox", "outbox_id", "created_at", "sent_at", "queued_to_sent_s"),
        ("tasks", "task_id", "created_at", "resolved_at", "task_open_s"),
        ("tickets", "ticket_id", "opened_at", "closed_at", "ticket_open_s"),
        ("alerts", "alert_id", "raised_at", "acked_at", "ack_delay_s"),
        ("alerts", "alert_id", "raised_at", "resolved_at", "alert_open_s"),
        ("episodes", "episode_id", "entered_at", "ended_at", "safe_mode_s"),
        ("replays", "replay_id", "started_at", "ended_at", "replay_s"),
    )
    for part, key, start, end, name in spans:
        for row in facts.get(part, ()):
            if row[start] is not None and row[end] is not None:
                yield {"metric": name, "value": _between(row[start], row[end]), "of": row[key], "at": stamp(row[end])}
    for name, value in (document or {}).items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            yield {"metric": name, "value": value, "of": "document"}


def _between(start: datetime, end: datetime) -> float:
    return round((end - start).total_seconds(), 6)


def _alert(row: Row, facts: Facts, relation: str) -> Document:
    names = (
        "alert_id trigger severity summary status level result owner correlation_id raised_at safe_mode_at acked_at acked_by "
        "ack_how ack_delay_s resolved_at resolved_by seen_count"
    ).split()
    mine = [_plain(ack) for ack in facts.get("acks", ()) if ack["alert_id"] == row["alert_id"]]
    acks = [{name: ack[name] for name in ("kind", "by", "how", "at", "delay_s", "effective")} for ack in mine]
    return _plain({name: row[name] for name in names}) | {"relation": relation, "acks": acks}


def _attempts(facts: Facts) -> Iterable[Document]:
    """Every try to do something: a command at its turn, a delivery, a rung of an alert's ladder, an item of a replay."""
    for row in facts.get("commands", ()):
        names: tuple[str, ...] = (
            "command_id",
            "commit_order",
            "attempts",
            "status",
            "result",
            "reason",
            "was_parked",
            "replayed",
            "done_at",
        )
        yield {"kind": "command"} | _plain({name: row[name] for name in names})
    for row in facts.get("outbox", ()):
        names = ("outbox_id", "cause_id", "step", "attempts", "status", "delivery", "created_at", "due_at", "sent_at", "last_error")
        yield {"kind": "delivery", "message": row["kind"]} | _plain({name: row[name] for name in names})
    for row in facts.get("alert_steps", ()):
        names = (
            "step_id",
            "alert_id",
            "action",
            "channel",
            "told",
            "n",
            "tries",
            "due_at",
            "done_at",
            "outcome",
            "late",
            "delivery",
        )
        yield {"kind": "alert_step"} | _plain({name: row[name] for name in names})
    for row in facts.get("replay_items", ()):
        names = ("replay_id", "run_command_id", "state", "predicted_result", "result", "reason", "drift", "done_at")
        yield {"kind": "replay_item", "item": row["n"]} | _plain({name: row[name] for name in names})


def facts_hash(document: Mapping[str, Any]) -> str:
    """Hex SHA-256 over what a pack says; the same facts give the same hash whenever it is built."""
    return sha256_hex(canonical_json(document))


# --- redaction ----------------------------------------------------------------------------------------------------------


def redacted(document: Mapping[str, Any], private: Sequence[str]) -> Document:
    """A copy without names, numbers, texts and secrets; row by row, so that nothing is cut."""
    names = names_pattern(private)
    done: Document = {}
    for name, value in document.items():
        if name in LISTS and isinstance(value, list):
            done[name] = [_clean(row, names) for row in value]
        elif name in ("flows", "cut"):
            done[name] = value
        else:
            done[name] = _clean({name: value}, names)[name]
    return done


def _clean(row: Row, names: re.Pattern[str] | None) -> Document:
    if isinstance(row.get("links"), list):  # hashes and numbers only, and longer than a log field may be
        rest: Document = redact({k: v for k, v in row.items() if k != "links"})
        return rest | {"links": row["links"]}
    clean: Document = redact(row)
    return clean if names is None else {k: _without(k, v, names) for k, v in clean.items()}


def _without(key: str, value: Any, names: re.Pattern[str]) -> Any:
    if isinstance(value, str) and (key in FREE_TEXT or key == "document"):
        return names.sub(NAME, value)
    if isinstance(value, Mapping):
        return {k: _without("document" if key == "document" else k, v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [_without(key, v, names) for v in value]
    return value


def is_hidden(value: Any) -> bool:
    """Whether redaction took something out of a value."""
    return isinstance(value, str) and ("[redacted]" in value or "[phone]" in value or value == REDACTED)


__all__ = [
    "FREE_TEXT",
    "LEDGER_FIELDS",
    "LISTS",
    "assemble",
    "facts_hash",
    "flows_of",
    "is_hidden",
    "is_private",
    "redacted",
    "terminal_state",
]
