"""The sentences of an evidence pack's timeline, in pt-BR and English; `{...}` are fields of the row."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from app.domain.reasons import explain

LOCALES: Final = ("pt_BR", "en")

_SENTENCES: Final[Mapping[str, tuple[str, str]]] = {
    "message_received": (
        "Mensagem nº {sequence} da família recebida ({source}); a conversa passa à versão {conversation_version}.",
        "Message no. {sequence} of the family received ({source}); the conversation becomes version {conversation_version}.",
    ),
    "message_processed": (
        "Mensagem nº {sequence} processada: {status}.",
        "Message no. {sequence} processed: {status}.",
    ),
    "unusable_item": (
        "Chegou um item que não pode ser usado; foi guardado inteiro para uma pessoa ({reason}).",
        "An item arrived that cannot be used; it was kept whole for a person ({reason}).",
    ),
    "command_accepted": (
        "Pedido {intent} aceito como nº {commit_order} deste contato, pedido por {requested_by}, {confirmed}. "
        "Versões informadas: conversa {conversation_version}, responsáveis {guardian_version}, consulta {entity_version}.{wish}",
        "Request {intent} accepted as no. {commit_order} of this contact, asked by {requested_by}, {confirmed}. "
        "Versions given: conversation {conversation_version}, guardians {guardian_version}, appointment {entity_version}.{wish}",
    ),
    "command_waits": (
        "O pedido nº {commit_order} ainda espera: {status} ({reason}).",
        "Request no. {commit_order} still waits: {status} ({reason}).",
    ),
    "command_parked": (
        "O pedido nº {commit_order} foi parado e guardou o seu lugar.",
        "Request no. {commit_order} was parked and kept its place.",
    ),
    "decided": (
        "Pedido nº {commit_order} decidido: {result} ({reason}). {why} Trava: {lock_mode}; nó {node_id}.",
        "Request no. {commit_order} decided: {result} ({reason}). {why} Lock: {lock_mode}; node {node_id}.",
    ),
    "place_skipped": (
        "O lugar nº {commit_order} ficou vazio: {result} ({reason}).",
        "Place no. {commit_order} stayed empty: {result} ({reason}).",
    ),
    "agenda_changed": (
        "Agenda: consulta {appointment_id} na versão {version}: {before} -> {after} ({status}).",
        "Agenda: appointment {appointment_id} at version {version}: {before} -> {after} ({status}).",
    ),
    "confirmation_asked": (
        "A família precisa responder CONFIRMAR até {expires}.",
        "The family must answer CONFIRMAR by {expires}.",
    ),
    "confirmation_closed": (
        "A pergunta de confirmação foi encerrada: {outcome}.",
        "The question for confirmation was closed: {outcome}.",
    ),
    "delivery_queued": (
        "Mensagem {kind} gravada para envio na mesma transação ({step}).",
        "Message {kind} written for sending in the same transaction ({step}).",
    ),
    "delivery_done": (
        "Mensagem {kind} ({step}): {status} na tentativa {attempt}.",
        "Message {kind} ({step}): {status} at attempt {attempt}.",
    ),
    "delivery_status": (
        "O provedor informou: {status}.",
        "The provider said: {status}.",
    ),
    "task_opened": (
        "Tarefa para uma pessoa: {cause} ({reason}).",
        "Task for a person: {cause} ({reason}).",
    ),
    "task_claimed": ("Tarefa assumida por {by}.", "Task claimed by {by}."),
    "task_resolved": ("Tarefa encerrada: {resolution}.", "Task closed: {resolution}."),
    "ticket_opened": (
        "Chamado {kind} aberto para {level}.",
        "Ticket {kind} opened for {level}.",
    ),
    "ticket_started": ("Chamado assumido por {by}.", "Ticket started by {by}."),
    "ticket_answered": ("A família recebeu resposta de uma pessoa.", "The family was answered by a person."),
    "ticket_closed": ("Chamado encerrado: {status}.", "Ticket closed: {status}."),
    "alert_raised": (
        "Alerta {severity} ({trigger}) para {owner}: {summary}",
        "Alert {severity} ({trigger}) for {owner}: {summary}",
    ),
    "alert_step": (
        "{action} {channel} nº {attempt} para {told}: {status}.",
        "{action} {channel} no. {attempt} to {told}: {status}.",
    ),
    "alert_acknowledged": (
        "{kind} de {by} por {how}, {delay_s} s depois do alerta.",
        "{kind} of {by} by {how}, {delay_s} s after the alert.",
    ),
    "alert_resolved": ("Alerta encerrado por {by}; resultado {result}.", "Alert resolved by {by}; result {result}."),
    "safe_mode": ("Modo seguro: {step} ({by}). {detail}", "Safe mode: {step} ({by}). {detail}"),
    "safe_mode_cause": ("Causa do modo seguro ({kind}): {summary}", "Cause of safe mode ({kind}): {summary}"),
    "family_told": (
        "Aviso de contingência para a família ({intent}): {status}.",
        "Contingency message for the family ({intent}): {status}.",
    ),
    "replay_planned": (
        "Simulação de reenvio: {total} pedidos. Nada foi enviado.",
        "Dry run of a replay: {total} requests. Nothing was sent.",
    ),
    "replay_started": ("Reenvio iniciado por {by}, {rate_per_s} por segundo.", "Replay started by {by}, {rate_per_s} a second."),
    "replay_item": (
        "Item {item}: previsto {predicted}, resultado {result} ({reason}).",
        "Item {item}: predicted {predicted}, result {result} ({reason}).",
    ),
    "replay_ended": (
        "Reenvio terminado: {status}, {done} de {total}, {drifted} diferentes do previsto.",
        "Replay ended: {status}, {done} of {total}, {drifted} different from the prediction.",
    ),
    "day_before": (
        "Confirmação da véspera: {action} ({outcome}).",
        "Day-before confirmation: {action} ({outcome}).",
    ),
    "document": ("Relatório anexado: {about}.", "Report attached: {about}."),
}

_MARKS: Final[Mapping[str, tuple[str, str]]] = {
    "confirmed": ("confirmado pela família", "confirmed by the family"),
    "unconfirmed": ("sem confirmação da família", "not confirmed by the family"),
    "wish": (" Horário desejado: {}.", " Time wanted: {}."),
    "nothing": ("nada", "nothing"),
}


_NAMED: Final = ("intent", "requested_by", "kind", "source")
"""Fields whose codes have words of their own; states and reasons stay exact codes."""
_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "schedule": ("de marcar", "to schedule"),
    "reschedule": ("de remarcar", "to reschedule"),
    "cancel": ("de cancelar", "to cancel"),
    "d1_confirmation": ("de confirmar presença", "to confirm attendance"),
    "follow_up": ("de escrever à família", "to write to the family"),
    "takeover": ("de atendimento por uma pessoa", "for a person to take over"),
    "general": ("geral", "general"),
    "ai": ("robô", "the robot"),
    "human": ("pessoa", "a person"),
    "system": ("sistema", "the system"),
    "whatsapp": ("pelo WhatsApp", "by WhatsApp"),
    "replay": ("por reenvio", "by replay"),
    "family_message": ("à família", "to the family"),
    "contingency_message": ("de contingência à família", "of contingency to the family"),
    "webhook": ("a outro sistema", "to another system"),
    "notice": ("à equipe", "to the staff"),
    "critical": ("crítico", "critical"),
    "ack": ("Confirmação", "Acknowledgement"),
    "pass_on": ("Repasse", "Passing on"),
    "alert": ("alerta", "alert"),
    "manual": ("à mão", "by hand"),
    "stores_down": ("bancos fora do ar", "stores down"),
}


def sentence(event: str, fields: Mapping[str, Any], locale: str, timezone: str) -> str:
    """What a row of the timeline says to a person."""
    index = 1 if locale == "en" else 0
    told = {name: _word(value, timezone) for name, value in fields.items()}
    for name in _NAMED:
        if told.get(name) in _NAMES:
            told[name] = _NAMES[told[name]][index]
    if event == "command_accepted":
        told["confirmed"] = _MARKS["confirmed" if fields.get("confirmed_by_contact") else "unconfirmed"][index]
        told["wish"] = _MARKS["wish"][index].format(told["wanted_start"]) if fields.get("wanted_start") else ""
    elif event == "decided":
        told["why"] = explain(str(fields.get("result")), fields.get("reason"), locale).why
    elif event == "agenda_changed":
        told["before"] = told["old_start"] if fields.get("old_start") else _MARKS["nothing"][index]
        told["after"] = told["new_start"]
    elif event == "confirmation_asked":
        told["expires"] = told["expires_at"]
    return _SENTENCES[event][index].format_map(_Said(told)).strip()


class _Said(dict[str, str]):
    """A field that a row does not have is said as a dash."""

    def __missing__(self, _key: str) -> str:
        return "-"


def _word(value: Any, timezone: str) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, datetime):
        return local_time(value, timezone)
    return str(value)


def local_time(moment: datetime, timezone: str) -> str:
    """Date and time in the clinic's timezone, the same text in both languages."""
    return f"{moment.astimezone(ZoneInfo(timezone)):%d/%m/%Y %H:%M}"
