"""The sentence for a lane in which something waits, in the language of the reader."""

from typing import Final

from app.domain.reasons import Reason, explain
from app.domain.states import State
from app.web.api.common import Document

_STATES: Final = {
    "gap": (State.WAITING_PREVIOUS_COMMIT, Reason.PREVIOUS_MISSING),
    "safe_mode": (State.PENDING_SAFE_MODE, Reason.SAFE_MODE_ACTIVE),
    "contingency": (State.PENDING_CONTINGENCY, Reason.CONTINGENCY_ACTIVE),
    "fallback": (State.QUEUED_FOR_DISPATCH, Reason.FALLBACK_THROTTLED),
}
_PLAIN: Final = {
    ("paused", "pt_BR"): "Uma pessoa pausou os pedidos deste contato.",
    ("paused", "en"): "A person paused this contact's requests.",
    ("held", "pt_BR"): "Uma pessoa pausou este tipo de pedido nesta clínica.",
    ("replay", "pt_BR"): "Espera o reenvio dos pedidos anteriores deste contato.",
    ("replay", "en"): "Waits for the replay of this contact's earlier requests.",
    ("held", "en"): "A person paused this kind of request in this clinic.",
    ("locked", "pt_BR"): "O sistema está tratando o pedido agora; no máximo em segundos, segue sozinho.",
    ("locked", "en"): "The system is at this request now; it goes on by itself within seconds.",
    ("dispatch", "pt_BR"): "Nada o impede: sai quando chegar a sua vez na fila.",
    ("dispatch", "en"): "Nothing stops it: it leaves when its turn in the queue comes.",
}


def sentence(cause: str, locale: str) -> str:
    """Why a lane waits; an unknown cause is explained as one that needs a person."""
    said = _PLAIN.get((cause, locale))
    state, reason = _STATES.get(cause, (State.MANUAL_REVIEW_REQUIRED, None))
    return said or explain(state, reason, locale).why


def with_sentence(contact: Document, locale: str) -> Document:
    """A contact whose `lane.why` says it in words too."""
    why = contact["lane"]["why"]
    if why is not None:
        why["sentence"] = sentence(why["cause"], locale)
    return contact
