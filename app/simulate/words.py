"""What families write, in pt-BR as it comes over WhatsApp: short, with typos, emoji and several messages for one thought."""

import random
from typing import Final

GREETINGS: Final = ("Oi", "oii", "Bom dia", "Boa tarde!", "Olá, tudo bem?", "bom dia 🙂", "Oi, boa noite")
SCHEDULE: Final = (
    "Quero marcar uma consulta pro meu filho",
    "vcs tem horario essa semana?",
    "Gostaria de agendar uma avaliação, por favor",
    "tem vaga com a fono?",
    "Bom dia, queria marcar terapia ocupacional",
)
RESCHEDULE: Final = (
    "Preciso remarcar a sessão",
    "da pra mudar o horario de quinta?",
    "Surgiu um imprevisto, podemos trocar o dia da consulta?",
    "queria adiar a terapia pra semana que vem",
)
CANCEL: Final = (
    "Preciso cancelar a consulta",
    "nao vamos conseguir ir amanha 😔",
    "Desmarca por favor",
    "ele tá com febre, não vai poder ir",
)
CONFIRM: Final = ("CONFIRMAR", "Confirmar", "confirmado", "CONFIRMA", "confirmar.")
VAGUE: Final = ("ok", "sim", "👍", "pode ser", "tá bom", "blz", "isso mesmo")
SMALL_TALK: Final = (
    "Obrigada!",
    "vcs aceitam convênio?",
    "Qual o endereço mesmo?",
    "Ele dormiu melhor essa semana",
    "posso levar a avó junto?",
    "segue o laudo",
    "🙏🙏",
    "Ele não gosta de barulho, a sala é tranquila?",
    "já estamos chegando",
    "שלום / مرحبا",
)
PERSON: Final = ("quero falar com uma pessoa", "me passa pra recepção", "Quero falar com atendente por favor")
COMPLAINT: Final = ("Isso é um absurdo, ninguém me responde", "já é a terceira vez que peço")
FOLLOW_UPS: Final = (
    "Passando para saber se ficou alguma dúvida sobre o horário.",
    "Temos uma vaga na terça de manhã, tem interesse?",
    "Lembrete: traga a carteirinha na próxima visita.",
)


def some(dice: random.Random, options: tuple[str, ...]) -> str:
    """One of the options, now and then with the carelessness of a phone's keyboard."""
    text = dice.choice(options)
    if text not in CONFIRM and dice.random() < 0.1:
        text = text.lower().replace("ç", "c").replace("ã", "a")
    return text
