"""When a family has been misunderstood often enough."""

from datetime import UTC, datetime, timedelta

import pytest

from app.domain.frustration import FrustrationPolicy, Said, frustration_policy, is_frustrated
from app.domain.triage import triage

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
POLICY = FrustrationPolicy()


def talk(*texts: str, apart_s: float = 60) -> list[Said]:
    return [
        Said(at=NOON + timedelta(seconds=i * apart_s), intent=str(triage(text).intent), text=text) for i, text in enumerate(texts)
    ]


def frustrated(*texts: str, apart_s: float = 60, policy: FrustrationPolicy = POLICY) -> bool:
    said = talk(*texts, apart_s=apart_s)
    return is_frustrated(said, said[-1].at if said else NOON, policy)


STRANGE = ("meu filho bateu a cabeça ontem", "não foi isso que perguntei", "é sobre a escola dele")


@pytest.mark.parametrize(
    "texts",
    [
        STRANGE,
        ("isso é um absurdo", "a professora pediu um relatório"),
        ("isso é um absurdo", "cansei de esperar"),
        ("meu filho bateu a cabeça ontem", "ok", "não foi isso que perguntei", "oi", "é sobre a escola dele"),
    ],
)
def test_three_messages_that_nobody_understood_are_enough(texts: tuple[str, ...]) -> None:
    assert frustrated(*texts)


@pytest.mark.parametrize(
    "texts",
    [
        (),
        STRANGE[:2],
        ("ok", "obrigada", "tudo bem", "até amanhã, obrigada", "kkkk"),
        ("", "", "", ""),
        (*STRANGE[:2], "quero remarcar a consulta", STRANGE[2]),
        (*STRANGE, "obrigada"),
        ("oi", "bom dia", "boa tarde", "olá"),
    ],
)
def test_small_talk_and_what_is_understood_are_not(texts: tuple[str, ...]) -> None:
    assert not frustrated(*texts)


def test_only_messages_within_the_window_count() -> None:
    assert frustrated(*STRANGE, apart_s=15 * 60)
    assert not frustrated(*STRANGE, apart_s=15 * 60 + 1)


def test_a_clinic_chooses_its_own_numbers() -> None:
    strict = frustration_policy({"frustration": {"messages": 1, "window_min": 5}})
    assert strict == FrustrationPolicy(messages=1, window=timedelta(minutes=5))
    assert frustrated(STRANGE[0], policy=strict)
    assert not frustrated(*STRANGE, policy=frustration_policy({"frustration": {"messages": 0}}))
    assert frustration_policy({}) == POLICY


def test_a_message_without_an_intent_counts_as_not_understood() -> None:
    said = [Said(at=NOON, intent=None, text=text) for text in STRANGE]
    assert is_frustrated(said, NOON, POLICY)
