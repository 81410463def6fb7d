"""What families read, in pt-BR: plain words, no child's name, and what stays the same is said."""

from datetime import datetime
from zoneinfo import ZoneInfo

from app.domain.confirmation import confirms
from app.domain.envelopes import Command
from app.domain.facts import BookAppointment, ChangeAppointment, Decision, Effect
from app.domain.reasons import Reason
from app.domain.states import AppointmentStatus, CommandType, State

_WEEKDAYS = ("segunda-feira", "terça-feira", "quarta-feira", "quinta-feira", "sexta-feira", "sábado", "domingo")


def when(moment: datetime, timezone: str) -> str:
    """Weekday, date and time as a family says them, in the clinic's timezone."""
    local = moment.astimezone(ZoneInfo(timezone))
    return f"{_WEEKDAYS[local.weekday()]}, {local:%d/%m} às {local:%H:%M}"


def answer(command_type: CommandType, effect: Effect, timezone: str) -> str | None:
    """The message after an effect on the agenda; None where the effect speaks for itself."""
    if isinstance(effect, BookAppointment):
        return f"Consulta marcada para {when(effect.start_at, timezone)}."
    if isinstance(effect, ChangeAppointment):
        moment = when(effect.start_at, timezone)
        if effect.status is AppointmentStatus.CANCELLED:
            return f"A consulta de {moment} foi cancelada."
        if command_type is CommandType.D1_CONFIRMATION:
            return f"Presença confirmada para {moment}. Até lá!"
        return f"Pronto: o novo horário é {moment}."
    return None


def proposal(command_type: CommandType, start_at: datetime | None, timezone: str) -> str:
    """The question that only CONFIRMAR answers."""
    if command_type is CommandType.CANCEL:
        return "Recebemos seu pedido de cancelamento. Para cancelar, responda CONFIRMAR. Por enquanto, a consulta continua marcada."
    wish = f" para {when(start_at, timezone)}" if start_at else ""
    if command_type is CommandType.RESCHEDULE:
        return f"Podemos mudar a consulta{wish}. Para aceitar, responda CONFIRMAR. Por enquanto, vale o horário já marcado."
    return f"Podemos marcar a consulta{wish}. Para aceitar, responda CONFIRMAR. Nada foi marcado ainda."


def asked_again(question: str) -> str:
    """The same question, after a CONFIRMAR that another message of the family overtook."""
    return f"Chegou outra mensagem sua logo depois do CONFIRMAR, por isso ainda não mudamos nada. {question}"


def confirmation_kept() -> str:
    """The answer to a CONFIRMAR that could not be done: it was heard, and a person goes on with it."""
    return "Recebemos seu CONFIRMAR, mas ainda não foi possível concluir. Nossa equipe vai conferir e falar com você."


def opens_proposal(command: Command, decision: Decision) -> bool:
    """Whether the family's CONFIRMAR can still make this happen."""
    return decision.state is State.BLOCKED_UNCONFIRMED or overtaken(command, decision)


def overtaken(command: Command, decision: Decision) -> bool:
    """Whether a CONFIRMAR had no effect only because the family wrote again before it was done."""
    stale = (State.VERSION_CONFLICT_BLOCKED, Reason.CONVERSATION_VERSION_STALE)
    return confirms(command) and (decision.state, decision.reason) == stale
