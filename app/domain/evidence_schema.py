"""The JSON Schema (draft 2020-12) of an evidence pack as one document, which is also how its API answers."""

from typing import Any, Final

from app.domain.evidence import SCHEMA_VERSION
from app.domain.evidence_kinds import EvidenceKind

_TIME: Final = {"type": "string", "format": "date-time"}
_MAYBE_TIME: Final = {"type": ["string", "null"], "format": "date-time"}
_TEXT: Final = {"type": "string"}
_MAYBE: Final = {"type": ["string", "null"]}
_FLOW: Final = {"type": "string", "pattern": "^F-0[1-6]$"}
_HASH: Final = {"type": "string", "pattern": "^([0-9a-f]{64})?$"}


def _rows(required: list[str], properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": {"type": "object", "required": required, "properties": properties}}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


PACK_SCHEMA: Final[dict[str, Any]] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "$id": f"urn:koraos:evidence-pack:{SCHEMA_VERSION}",
    "title": "KoraOS evidence pack",
    "description": "One pack as a document; in the zip each list is a file of JSON lines and pack.json holds the rest.",
    "type": "object",
    "required": [
        "schema_version",
        "kind",
        "subject",
        "flow_id",
        "flows",
        "correlation_id",
        "terminal_state",
        "timeline",
        "logs",
        "metrics",
        "alerts",
        "ledger",
        "attempts",
        "chains",
    ],
    "properties": {
        "schema_version": {"const": SCHEMA_VERSION},
        "kind": {"enum": [str(kind) for kind in EvidenceKind]},
        "subject": _TEXT,
        "tenant_id": _MAYBE,
        "timezone": _TEXT,
        "flow_id": _FLOW,
        "flows": {"type": "array", "items": _FLOW, "minItems": 1},
        "correlation_id": _TEXT,
        "terminal_state": _MAYBE,
        "cut": {"type": "array", "items": _TEXT},
        "document": {"type": ["object", "null"]},
        "pack": {"type": "object"},
        "timeline": _rows(
            ["n", "at", "flow_id", "event", "id", "pt_BR", "en"],
            {
                "n": {"type": "integer", "minimum": 1},
                "at": _MAYBE_TIME,
                "flow_id": _FLOW,
                "event": _TEXT,
                "pt_BR": _TEXT,
                "en": _TEXT,
            },
        ),
        "logs": _or_null(
            _rows(
                ["ts", "level", "event", "flow_id", "source"],
                {"ts": _MAYBE_TIME, "level": _TEXT, "event": _TEXT, "flow_id": _FLOW, "source": {"enum": ["log", "record"]}},
            )
        ),
        "metrics": _or_null(_rows(["metric", "value"], {"metric": _TEXT})),
        "alerts": _rows(
            ["alert_id", "trigger", "severity", "status", "raised_at", "relation", "acks"],
            {"relation": {"enum": ["own", "meanwhile"]}, "raised_at": _TIME, "acks": {"type": "array"}},
        ),
        "ledger": _rows(
            ["contact_id", "commit_order", "result", "reason", "correlation_id", "committed_at", "prev_hash", "hash"],
            {"commit_order": {"type": "integer", "minimum": 1}, "committed_at": _TIME, "prev_hash": _HASH, "hash": _HASH},
        ),
        "attempts": _rows(["kind"], {"kind": {"enum": ["command", "delivery", "alert_step", "replay_item"]}}),
        "chains": _rows(
            ["contact_id", "first", "head", "links"],
            {"first": {"type": "integer"}, "head": {"type": "object"}, "links": {"type": "array"}},
        ),
    },
}
