"""Commands and facts that pass every check, for tests to break one thing at a time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from msgspec.structs import replace as changed

from app.domain.envelopes import Command
from app.domain.facts import Appointment, GatePolicy, GuardianLink, Mode, Snapshot
from app.domain.states import ENTITY_BOUND, AppointmentStatus, CommandType, RequestedBy

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SLOT = {"start": "2026-12-01T13:00:00Z", "end": "2026-12-01T13:50:00Z"}
SLOT_AT = (datetime(2026, 12, 1, 13, 0, tzinfo=UTC), datetime(2026, 12, 1, 13, 50, tzinfo=UTC))
POLICY = GatePolicy()

PAYLOADS: dict[CommandType, dict[str, Any]] = {
    CommandType.SCHEDULE: {"appointment_id": "a-1", "therapist_id": "t-ana", **SLOT},
    CommandType.RESCHEDULE: {"appointment_id": "a-1", **SLOT},
    CommandType.CANCEL: {"appointment_id": "a-1", "reason": "viagem"},
    CommandType.D1_CONFIRMATION: {"appointment_id": "a-1", "answer": "yes"},
    CommandType.FOLLOW_UP: {"text": "Olá! Tudo certo para amanhã?"},
    CommandType.TAKEOVER: {"reason": "pediu uma pessoa"},
}


def command(kind: CommandType = CommandType.RESCHEDULE, **changes: Any) -> Command:
    """A fresh command that the gate lets through with `snapshot(kind)` at NOON."""
    base = Command(
        command_id="cmd-1",
        tenant_id="ten-sol",
        contact_id="c-maria",
        command_type=kind,
        idempotency_key="k-1",
        fingerprint="f-1",
        requested_by=RequestedBy.AI,
        confirmed_by_contact=True,
        correlation_id="corr-1",
        payload=PAYLOADS[kind],
        patient_id="p-pedro",
        guardian_version=3,
        conversation_version=7,
        entity_version=2 if kind in ENTITY_BOUND else None,
        as_of=NOON,
        occurred_at=NOON,
        commit_order=5,
    )
    return changed(base, **changes)


def appointment(**changes: Any) -> Appointment:
    """Pedro's appointment with Ana, at version 2, two days ahead."""
    base = Appointment(
        appointment_id="a-1",
        patient_id="p-pedro",
        therapist_id="t-ana",
        start_at=NOON + timedelta(days=2),
        end_at=NOON + timedelta(days=2, minutes=50),
        status=AppointmentStatus.SCHEDULED,
        version=2,
        as_of=NOON - timedelta(hours=1),
    )
    return replace(base, **changes)


def snapshot(kind: CommandType = CommandType.RESCHEDULE, **changes: Any) -> Snapshot:
    """A world in which `command(kind)` applies."""
    base = Snapshot(
        last_committed=4,
        conversation_version=7,
        guardian_version=3,
        mode=Mode(),
        appointment=appointment() if kind in ENTITY_BOUND else None,
        guardian=GuardianLink(can_schedule=True, can_cancel=True, verified=True),
    )
    return changed(base, **changes)
