"""Prometheus Alertmanager's webhook, version 4: each alert of the group becomes one signal."""

from dataclasses import dataclass
from typing import Any, Final

from app.channels.inbound import mapping, objects, words
from app.domain.envelopes import ID_MAX, sha256_hex

SEVERITIES: Final = frozenset({"critical", "warning", "info"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSignal:
    """An alert that began or ended elsewhere. `dedup_key` names it for as long as it lasts."""

    trigger: str
    severity: str
    summary: str
    dedup_key: str
    resolved: bool
    tenant_id: str | None = None
    """Tenant id or slug, where a label says so; None = the whole installation."""
    correlation_id: str | None = None


def parse(document: Any) -> list[AlertSignal] | None:
    """The signals of one POST in order; None when the document is no Alertmanager webhook."""
    body = mapping(document)
    if body.get("status") not in ("firing", "resolved") or not isinstance(body.get("alerts"), list):
        return None
    shared_labels, shared_notes = mapping(body.get("commonLabels")), mapping(body.get("commonAnnotations"))
    signals = []
    for alert in objects(body.get("alerts")):
        labels = {**shared_labels, **mapping(mapping(alert).get("labels"))}
        notes = {**shared_notes, **mapping(mapping(alert).get("annotations"))}
        name = words(labels.get("alertname")) or "alertmanager"
        severity = (words(labels.get("severity")) or "warning").lower()
        text = words(notes.get("summary")) or words(notes.get("description")) or name
        fingerprint = words(mapping(alert).get("fingerprint")) or sha256_hex(repr(sorted(labels.items())))[:16]
        signals.append(
            AlertSignal(
                trigger=name[:60],
                severity=severity if severity in SEVERITIES else "warning",
                summary=text[:500],
                dedup_key=f"alertmanager:{fingerprint}"[:ID_MAX],
                resolved=(words(mapping(alert).get("status")) or body["status"]) == "resolved",
                tenant_id=words(labels.get("tenant_id")) or words(labels.get("tenant")),
                correlation_id=words(labels.get("correlation_id")),
            )
        )
    return signals
