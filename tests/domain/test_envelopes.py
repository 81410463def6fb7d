"""Reading what comes in: lenient, item by item, total; and what each bad field says."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.envelopes import Command, Malformed, Message, canonical_json, parse_command, parse_event, parse_time
from app.domain.states import CommandType, PriorityClass, RequestedBy, Source

COMMAND: dict[str, Any] = {
    "contact_id": "c-maria",
    "conversation_id": "conv-1",
    "command_type": "schedule",
    "patient_id": "p-pedro",
    "requested_by": "human",
    "confirmed_by_contact": True,
    "guardian_version": 1,
    "conversation_version": 1,
    "as_of": "2026-11-23T12:00:00Z",
    "occurred_at": "2026-11-23T09:00:00-03:00",
    "idempotency_key": "k-1",
    "correlation_id": "corr-1",
    "command_id": "cmd-1",
    "commit_order": 3,
    "payload": {"appointment_id": "a-1", "therapist_id": "t-ana"},
}
EVENT: dict[str, Any] = {
    "contact_id": "c-maria",
    "external_id": "wamid.1",
    "event_type": "message",
    "occurred_at": "2026-11-23T12:00:00Z",
    "payload": {"text": "Olá"},
}
NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def read_command(**changes: Any) -> Command | Malformed:
    return parse_command(COMMAND | changes, tenant_id="ten-sol", new_id="new-1")


def read_event(**changes: Any) -> Message | Malformed:
    return parse_event(EVENT | changes, tenant_id="ten-sol", new_id="new-1")


def good(item: Command | Malformed) -> Command:
    assert isinstance(item, Command), item
    return item


def heard(item: Message | Malformed) -> Message:
    assert isinstance(item, Message), item
    return item


def bad(item: Command | Message | Malformed) -> Malformed:
    assert isinstance(item, Malformed), item
    return item


# --- times --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23T12:00:00Z",
        "2026-11-23T09:00:00-03:00",
        "2026-11-23t12:00:00z",
        "2026-11-23 12:00:00Z",
        "2026-11-23T12:00:00.000000000Z",
    ],
)
def test_a_time_with_an_offset_is_read_as_utc(text: str) -> None:
    assert parse_time(text) == NOON
    assert parse_time(text).tzinfo is UTC


def test_digits_beyond_microseconds_are_cut() -> None:
    assert parse_time("2026-11-23T12:00:00.1234567Z").microsecond == 123456


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("2026-11-23T12:00:00", "offset"),
        ("2026-11-23", "offset"),
        ("", "offset"),
        (1_700_000_000, "offset"),
        (None, "offset"),
        ("9999-12-31T23:59:59Z", "2100"),
        ("1999-12-31T23:59:59Z", "2000"),
        ("9999-12-31T23:59:59-14:00", "not a real time"),
        ("2026-02-30T12:00:00Z", "not a real time"),
        ("2026-11-23T12:00:00+99:00", "not a real time"),
    ],
)
def test_a_time_that_cannot_be_used_says_why(value: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_time(value)


@given(
    text=st.one_of(st.text(max_size=40), st.from_regex(r"\A\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,9})?(Z|[+-]\d{2}:\d{2})\Z"))
)
def test_reading_a_time_gives_utc_or_a_value_error(text: str) -> None:
    try:
        moment = parse_time(text)
    except ValueError:
        return
    assert moment.tzinfo is UTC


# --- commands -----------------------------------------------------------------------------------------------------------


def test_a_whole_command_is_read_as_sent() -> None:
    item = good(read_command())
    assert (item.command_id, item.command_type, item.requested_by) == ("cmd-1", CommandType.SCHEDULE, RequestedBy.HUMAN)
    assert (item.occurred_at, item.as_of, item.commit_order) == (NOON, NOON, 3)
    assert (item.idempotency_key, item.correlation_id, item.correlation_generated) == ("k-1", "corr-1", False)
    assert (item.priority, item.appointment_id) == (PriorityClass.NEW_LEAD, "a-1")


def test_what_is_missing_is_generated_or_defaulted() -> None:
    item = good(parse_command({"contact_id": "c", "command_type": "takeover"}, tenant_id="t", new_id="new-1"))
    assert (item.command_id, item.correlation_id, item.correlation_generated) == ("new-1", "corr-new-1", True)
    assert (item.requested_by, item.source, item.confirmed_by_contact) == (RequestedBy.AI, Source.WHATSAPP, False)
    assert (item.occurred_at, item.conversation_version, item.payload, item.appointment_id) == (None, None, {}, None)


def test_a_schedule_without_an_appointment_id_derives_one_from_the_command() -> None:
    assert good(read_command(payload={"therapist_id": "t-ana"})).appointment_id == "apt-cmd-1"
    assert good(read_command(command_type="cancel", payload={})).appointment_id is None


@pytest.mark.story("S-PC-01-003")
def test_a_missing_key_is_derived_from_the_request_so_that_a_repeat_finds_it() -> None:
    first, repeat = good(read_command(idempotency_key=None)), good(read_command(idempotency_key=None, command_id="cmd-2"))
    later = good(read_command(idempotency_key=None, occurred_at="2026-11-23T12:00:01Z", conversation_version=9))
    assert first.idempotency_key == repeat.idempotency_key == later.idempotency_key
    assert first.idempotency_key.startswith("auto:")
    others: list[dict[str, Any]] = [
        {"payload": {}},
        {"external_id": "x-1"},
        {"contact_id": "c-2"},
        {"command_type": "cancel"},
    ]
    keys = {good(read_command(idempotency_key=None, **change)).idempotency_key for change in others}
    assert len(keys) == 4
    assert first.idempotency_key not in keys


def test_the_fingerprint_says_what_is_asked_and_nothing_else() -> None:
    base = good(read_command()).fingerprint
    assert base == good(read_command(command_id="other", correlation_id="other", conversation_version=9)).fingerprint
    assert base != good(read_command(payload={"appointment_id": "a-2"})).fingerprint
    assert base != good(read_command(patient_id="p-2")).fingerprint


def test_canonical_json_ignores_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": [1, "é"]}) == canonical_json({"a": [1, "é"], "b": 1}) == '{"a":[1,"é"],"b":1}'


DEEP: dict[str, Any] = {}
for _ in range(17):
    DEEP = {"x": DEEP}

BAD_FIELDS: list[tuple[str, Any, str]] = [
    ("contact_id", 7, "must be a string"),
    ("contact_id", "x" * 201, "at most 200"),
    ("contact_id", "c\x00", "null byte"),
    ("contact_id", "c\ud800", "surrogate"),
    ("command_type", "explode", "must be one of"),
    ("command_type", None, "must be one of"),
    ("requested_by", "robot", "must be one of"),
    ("source", 4, "must be one of"),
    ("confirmed_by_contact", "true", "true or false"),
    ("guardian_version", -1, "whole number"),
    ("conversation_version", 1.5, "whole number"),
    ("entity_version", True, "whole number"),
    ("commit_order", 0, "whole number from 1"),
    ("commit_order", 2**53, "whole number"),
    ("as_of", "yesterday", "RFC 3339"),
    ("occurred_at", "2026-11-23T12:00:00", "offset"),
    ("payload", [], "must be an object"),
    ("payload", {"text": "a\x00b"}, "null byte"),
    ("payload", {"k\x00": 1}, "null byte"),
    ("payload", {"n": 2**60}, "2^53"),
    ("payload", {"n": float("nan")}, "2^53"),
    ("payload", {"n": float("inf")}, "2^53"),
    ("payload", {"list": [{"x": "\ud800"}]}, "broken character"),
    ("payload", {"odd": {1, 2}}, "broken character"),
    ("payload", {1: "x"}, "broken character"),
    ("payload", DEEP, "levels"),
]


@pytest.mark.story("S-PC-01-001")
@pytest.mark.parametrize(("name", "value", "why"), BAD_FIELDS)
def test_a_bad_field_is_named_and_the_item_is_kept_whole(name: str, value: Any, why: str) -> None:
    item = bad(read_command(**{name: value}))
    assert item.reason == "bad_field"
    assert [e.pointer for e in item.errors] == [f"/{name}"]
    assert why in item.errors[0].detail
    assert item.raw[name] is value
    assert item.correlation_id == "corr-1"


def test_all_bad_fields_are_named_at_once() -> None:
    item = bad(read_command(command_type="x", as_of=1, payload=1))
    assert {e.pointer for e in item.errors} == {"/command_type", "/as_of", "/payload"}


@pytest.mark.parametrize("value", [None, ""])
def test_a_missing_contact_has_its_own_reason(value: Any) -> None:
    assert bad(read_command(contact_id=value)).reason == "missing_contact_id"
    assert bad(read_event(contact_id=value)).reason == "missing_contact_id"


@pytest.mark.parametrize("raw", [None, [], "text", 5, True])
def test_something_that_is_no_object_is_kept_too(raw: object) -> None:
    for item in (parse_command(raw, tenant_id="t", new_id="n"), parse_event(raw, tenant_id="t", new_id="n")):
        assert (bad(item).reason, bad(item).raw, bad(item).errors[0].pointer) == ("not_an_object", raw, "")


def test_payload_values_of_every_json_kind_are_accepted() -> None:
    payload = {"a": None, "b": True, "c": 1, "d": 1.5, "e": "é 👍 שלום", "f": [1, {"g": "h"}]}
    assert good(read_command(payload=payload)).payload == payload


# --- events -------------------------------------------------------------------------------------------------------------


def test_a_whole_event_is_read_as_sent() -> None:
    item = heard(read_event(event_id="e-1", sequence=4, payload_version=2, source="system", correlation_id="corr-9"))
    assert (item.event_id, item.external_id, item.sequence, item.payload_version) == ("e-1", "wamid.1", 4, 2)
    assert (item.source, item.channel, item.text, item.occurred_at) == (Source.SYSTEM, "api", "Olá", NOON)
    assert not item.correlation_generated


def test_an_event_without_ids_gets_them_and_without_words_has_none() -> None:
    item = heard(read_event(external_id=None, payload={"text": 5}))
    assert (item.event_id, item.external_id, item.correlation_id, item.text) == ("new-1", "new-1", "corr-new-1", "")
    assert item.correlation_generated


@pytest.mark.parametrize(
    ("change", "pointer"),
    [
        ({"occurred_at": None}, "/occurred_at"),
        ({"occurred_at": "soon"}, "/occurred_at"),
        ({"event_type": None}, "/event_type"),
        ({"source": "pigeon"}, "/source"),
        ({"sequence": 0}, "/sequence"),
        ({"payload": "x"}, "/payload"),
    ],
)
def test_a_bad_event_names_its_field(change: dict[str, Any], pointer: str) -> None:
    item = bad(read_event(**change))
    assert [e.pointer for e in item.errors] == [pointer]
    assert (item.kind, item.contact_id) == ("message", "c-maria")


# --- total --------------------------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
fields = st.sampled_from([*COMMAND, *EVENT, "sequence", "source", "entity_version", "causation_id", "payload_version"])


@settings(max_examples=500)
@given(
    raw=st.one_of(
        json_values,
        st.dictionaries(fields, json_values, max_size=6).map(lambda change: COMMAND | change),
        st.dictionaries(fields, json_values, max_size=6).map(lambda change: EVENT | change),
    )
)
def test_reading_never_raises_and_never_loses_the_item(raw: Any) -> None:
    for item in (parse_command(raw, tenant_id="t", new_id="n"), parse_event(raw, tenant_id="t", new_id="n")):
        if isinstance(item, Malformed):
            assert item.raw is raw
            assert item.errors
        else:
            assert item.tenant_id == "t"
            assert item.contact_id
            assert item.correlation_id
