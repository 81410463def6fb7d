"""What families write, and what it is taken for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.states import PriorityClass
from app.domain.triage import PRIORITY_OF_INTENT, Intent, Triager, triage

I = Intent  # noqa: E741 - short name of the table below

MESSAGES = {
    I.TAKEOVER_REQUEST: [
        "Quero falar com uma pessoa",
        "me passa para a atendente, por favor",
        "Posso falar com alguém?",
        "preciso falar com a recepção agora",
        "gostaria de conversar com um atendente humano",
        "não quero falar com robô",
        "ATENDENTE",
        "atendimento humano",
        "chama um humano",
        "quero remarcar mas prefiro falar com uma atendente",
    ],
    I.COMPLAINT: [
        "Isso é um absurdo!",
        "ninguém me responde",
        "Já é a terceira vez que explico",
        "vou no procon",
        "vocês não entendem nada",
        "estou muito irritada com vocês",
    ],
    I.CONFIRMATION: ["CONFIRMAR", "confirmado!", "Confirma"],
    I.RESCHEDULE_REQUEST: [
        "preciso remarcar a consulta do meu filho",
        "dá para mudar o horário de quinta?",
        "Quero trocar o dia da sessão",
        "podemos reagendar?",
        "tem como adiar?",
    ],
    I.CANCEL_REQUEST: ["quero cancelar", "preciso desmarcar amanhã", "não vamos poder ir hoje", "Não consigo levar ele na terça"],
    I.SCHEDULE_REQUEST: [
        "gostaria de marcar uma consulta",
        "tem vaga para avaliação?",
        "Quero agendar",
        "quais horários disponíveis?",
    ],
    I.GREETING: ["oi", "Olá, bom dia!", "Boa tarde", "oi, tudo bem?", "Oii"],
    I.OTHER: ["", "👍", "ok", "obrigada", "ele adorou a tia Ana", "segue o laudo", "Ela é uma pessoa ótima", "oi " + "blá " * 50],
}


@pytest.mark.parametrize(("intent", "text"), [(i, t) for i, texts in MESSAGES.items() for t in texts])
def test_a_message_is_taken_for_what_it_asks(intent: Intent, text: str) -> None:
    found = triage(text)
    assert found.intent is intent
    assert found.priority is PRIORITY_OF_INTENT[intent]


@pytest.mark.parametrize(
    ("text", "plain"), [("NÃO VOU PODER IR", "nao vou poder ir"), ("Olá", "ola"), ("remarcação", "REMARCACAO")]
)
def test_case_and_accents_do_not_matter(text: str, plain: str) -> None:
    assert triage(text) == triage(plain)


def test_a_wish_for_a_person_and_anger_are_heard_first() -> None:
    first = {i for i, c in PRIORITY_OF_INTENT.items() if c is PriorityClass.URGENT_TAKEOVER}
    assert first == {I.TAKEOVER_REQUEST, I.COMPLAINT}
    assert PRIORITY_OF_INTENT.keys() == set(Intent)


@given(text=st.text(max_size=400))
def test_every_text_has_one_answer(text: str) -> None:
    rules: Triager = triage
    assert rules(text) == rules(text)


def test_a_very_long_message_is_read_from_its_beginning_only() -> None:
    assert triage("x " * 5_000 + "cancelar").intent is I.OTHER
