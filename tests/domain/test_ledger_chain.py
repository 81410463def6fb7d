"""The hash chain: one canonical hash, and a proof that names the first entry that is wrong."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.ledger_chain import GENESIS, ChainLink, OrderProof, entry_hash, order_proof
from app.domain.reasons import Reason
from app.domain.states import CommandType, ModeState, State


def chain(length: int) -> list[ChainLink]:
    links: list[ChainLink] = []
    previous = GENESIS
    for order in range(1, length + 1):
        fields: dict[str, Any] = {"commit_order": order, "result": State.APPLIED_ONCE, "late": False}
        links.append(ChainLink(commit_order=order, prev_hash=previous, hash=entry_hash(previous, fields), fields=fields))
        previous = links[-1].hash
    return links


def test_the_hash_is_stable() -> None:
    """A stored ledger must verify with every later version: this value never changes."""
    fields = {"a": 1, "b": None, "c": "é", "d": datetime(2026, 11, 23, 12, tzinfo=UTC), "e": True, "f": 0.5}
    assert entry_hash("p", fields) == "8e78ee875497fa7428743e07b4d19321a8646c066505194132136c081d0428d3"


def test_the_hash_does_not_depend_on_how_a_database_hands_values_back() -> None:
    noon = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
    brasilia = noon.astimezone(timezone(timedelta(hours=-3)))
    ours = {"at": noon, "late": True, "result": State.REPLAYED}
    theirs = {"result": "replayed", "late": 1, "at": brasilia}
    assert entry_hash("x", ours) == entry_hash("x", theirs)


@pytest.mark.parametrize("value", [datetime(2026, 1, 1), b"bytes", ["list"], {"a": 1}, object()])  # noqa: DTZ001
def test_a_value_without_one_canonical_form_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="ledger"):
        entry_hash("", {"field": value})


@given(
    st.text(),
    st.dictionaries(
        st.text(),
        st.none()
        | st.text()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.sampled_from(["\ud800", 1e16, State.REPLAYED, CommandType.CANCEL, Reason.APPLIED, ModeState.NORMAL]),
    ),
)
def test_the_quick_encoder_writes_what_the_plain_one_does(prev_hash: str, fields: dict[str, Any]) -> None:
    text = json.dumps([prev_hash, fields], sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert entry_hash(prev_hash, fields) == sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@given(a=st.dictionaries(st.text(max_size=3), st.integers() | st.text() | st.none(), max_size=4), b=st.text(max_size=3))
def test_any_change_changes_the_hash(a: dict[str, Any], b: str) -> None:
    assert entry_hash("", a) != entry_hash("", a | {b + "!": 1})
    assert entry_hash("", a) != entry_hash("0", a)


@pytest.mark.parametrize("length", [0, 1, 5])
def test_an_untouched_lane_is_proven(length: int) -> None:
    links = chain(length)
    head = links[-1].hash if links else GENESIS
    assert order_proof(links) == OrderProof(valid=True, length=length, head=head)


def test_the_proof_names_the_first_wrong_entry() -> None:
    links = chain(5)
    changed = [*links[:2], replace(links[2], fields={**links[2].fields, "late": True}), *links[3:]]
    removed = [*links[:2], *links[3:]]
    swapped = [links[0], links[2], links[1], *links[3:]]
    foreign = [*links[:3], replace(chain(4)[3], prev_hash="f" * 64), links[4]]
    assert [(p.valid, p.broken_at, p.fault, p.length) for p in map(order_proof, (changed, removed, swapped, foreign))] == [
        (False, 2, "content_changed", 2),
        (False, 2, "not_dense", 2),
        (False, 1, "not_dense", 1),
        (False, 3, "not_chained", 3),
    ]
