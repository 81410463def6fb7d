"""Priority classes and the sets of states that the engine relies on."""

from app.domain.states import (
    EFFECT_RESULTS,
    ENTITY_BOUND,
    PARKED,
    PENDING,
    PRIORITY_BY_RANK,
    PRIORITY_OF_COMMAND,
    SENSITIVE,
    CommandType,
    PriorityClass,
)


def test_classes_are_ranked_as_the_contract_lists_them() -> None:
    assert [c.rank for c in PRIORITY_BY_RANK] == [0, 1, 2, 3]
    assert [str(c) for c in PRIORITY_BY_RANK] == ["urgent_takeover", "confirmation_reschedule", "new_lead", "follow_up"]


def test_every_command_type_has_a_class_and_a_person_comes_first() -> None:
    assert set(PRIORITY_OF_COMMAND) == set(CommandType)
    assert PRIORITY_OF_COMMAND[CommandType.TAKEOVER] is PriorityClass.URGENT_TAKEOVER


def test_the_sets_do_not_contradict_each_other() -> None:
    assert PARKED < PENDING
    assert not PENDING & EFFECT_RESULTS
    assert {CommandType.SCHEDULE, CommandType.RESCHEDULE, CommandType.CANCEL} == SENSITIVE
    assert {CommandType.D1_CONFIRMATION} == ENTITY_BOUND - SENSITIVE
