"""What families read: day and time in their clinic's timezone, no name, and what stays the same."""

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace as changed

from app.domain.confirmation import confirming_id
from app.domain.facts import BookAppointment, ChangeAppointment, Decision, OpenTakeover, SendMessage
from app.domain.family_texts import answer, asked_again, confirmation_kept, opens_proposal, proposal, when
from app.domain.reasons import Reason
from app.domain.states import AppointmentStatus, CommandType, State
from tests.domain.cases import command

START = datetime(2026, 12, 1, 13, 0, tzinfo=UTC)
END = datetime(2026, 12, 1, 13, 50, tzinfo=UTC)
SAO_PAULO = "America/Sao_Paulo"


def change(status: AppointmentStatus) -> ChangeAppointment:
    return ChangeAppointment(appointment_id="a", expected_version=1, start_at=START, end_at=END, status=status)


def test_a_moment_is_said_in_the_clinics_timezone() -> None:
    assert when(START, SAO_PAULO) == "terça-feira, 01/12 às 10:00"
    assert when(START, "America/Manaus") == "terça-feira, 01/12 às 09:00"


def test_each_effect_has_its_sentence() -> None:
    book = BookAppointment(appointment_id="a", patient_id="p", therapist_id="t", start_at=START, end_at=END)
    moment = "terça-feira, 01/12 às 10:00"
    assert answer(CommandType.SCHEDULE, book, SAO_PAULO) == f"Consulta marcada para {moment}."
    assert answer(CommandType.CANCEL, change(AppointmentStatus.CANCELLED), SAO_PAULO) == f"A consulta de {moment} foi cancelada."
    confirmed = answer(CommandType.D1_CONFIRMATION, change(AppointmentStatus.CONFIRMED), SAO_PAULO)
    assert confirmed == f"Presença confirmada para {moment}. Até lá!"
    moved = answer(CommandType.RESCHEDULE, change(AppointmentStatus.SCHEDULED), SAO_PAULO)
    assert moved == f"Pronto: o novo horário é {moment}."
    assert answer(CommandType.FOLLOW_UP, SendMessage(text="x"), SAO_PAULO) is None
    assert answer(CommandType.TAKEOVER, OpenTakeover(reason="x"), SAO_PAULO) is None


@pytest.mark.parametrize("kind", [CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL])
@pytest.mark.parametrize("start_at", [START, None])
def test_a_proposal_asks_for_confirmar_and_says_what_holds_until_then(kind: CommandType, start_at: datetime | None) -> None:
    text = proposal(kind, start_at, SAO_PAULO)
    assert "CONFIRMAR" in text
    assert ("10:00" in text) == (start_at is not None and kind is not CommandType.CANCEL)
    kept = {"schedule": "Nada foi marcado", "reschedule": "vale o horário já marcado", "cancel": "continua marcada"}
    assert kept[kind] in text


def test_only_an_unconfirmed_command_opens_a_proposal() -> None:
    opening = [s for s in State if opens_proposal(command(), Decision(state=s, reason="x", terminal=True))]
    assert opening == [State.BLOCKED_UNCONFIRMED]


def test_a_confirmar_that_another_message_overtook_is_asked_for_again() -> None:
    stale = Decision(state=State.VERSION_CONFLICT_BLOCKED, reason=Reason.CONVERSATION_VERSION_STALE, terminal=True)
    confirmed = changed(command(), causation_id="cmd-0", command_id=confirming_id(command().tenant_id, "cmd-0"))
    assert opens_proposal(confirmed, stale)
    assert not opens_proposal(changed(confirmed, command_id="cmd-1"), stale)
    assert not opens_proposal(confirmed, changed(stale, reason=Reason.ENTITY_VERSION_STALE))
    assert asked_again("Responda CONFIRMAR.").endswith("ainda não mudamos nada. Responda CONFIRMAR.")
    assert "CONFIRMAR" in confirmation_kept()
