"""Evidence packs: when they are complete, and that no byte can change unseen."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.evidence import REQUIRED_PARTS, EvidenceResult, PackFault, check_pack, completeness, manifest, retry_s

R = EvidenceResult
PARTS: dict[str, Any] = {
    "flow_id": "F-02",
    "correlation_id": "corr-1",
    "logs": [{"event": "decided"}],
    "metrics": {"waited_s": 1},
    "alerts": [],
    "terminal_state": "committed_causal",
    "timeline": [{"at": "2026-11-23T12:00:00Z"}],
    "ledger": [],
    "attempts": [],
}
FILES = {"logs.json": b"[1]", "timeline.json": b"[]", "index.html": "<p>é</p>".encode()}


def without(*names: str) -> dict[str, Any]:
    return {k: v for k, v in PARTS.items() if k not in names}


@pytest.mark.story("S-PC-04-003")
def test_a_pack_with_every_part_is_generated_also_where_there_were_no_alerts() -> None:
    found = completeness(PARTS)
    assert (found.result, found.share, found.missing, found.needs_retry) == (R.EVIDENCE_PACK_GENERATED, 1.0, (), False)
    assert set(PARTS) == set(REQUIRED_PARTS)


@pytest.mark.story("S-PC-04-003")
@pytest.mark.parametrize(
    ("missing", "result"),
    [
        (("metrics",), R.EVIDENCE_PACK_PARTIAL),
        (("metrics", "logs"), R.EVIDENCE_PACK_PARTIAL),
        (("metrics", "logs", "ledger"), R.EVIDENCE_PACK_FAILED_ALERTED),
        (tuple(PARTS), R.EVIDENCE_PACK_FAILED_ALERTED),
    ],
)
def test_seventy_percent_of_the_parts_make_a_partial_pack_and_less_a_failed_one(missing: tuple[str, ...], result: R) -> None:
    found = completeness(without(*missing))
    assert (found.result, set(found.missing), found.needs_retry) == (result, set(missing), True)


def test_none_is_missing_and_empty_logs_are_no_logs() -> None:
    assert completeness(PARTS | {"alerts": None}).missing == ("alerts",)
    assert completeness(PARTS | {"logs": [], "terminal_state": ""}).missing == ("logs", "terminal_state")


@pytest.mark.parametrize(
    ("cut", "missing"),
    [
        (["ledger"], ("ledger",)),
        (["messages", "tickets"], ("timeline",)),
        (["alerts", "commands", "ledger", "messages", "outbox"], ("alerts", "timeline", "ledger", "attempts")),
        (["chains"], ()),
    ],
)
def test_a_part_that_was_cut_is_there_and_the_pack_is_not_complete(cut: list[str], missing: tuple[str, ...]) -> None:
    found = completeness(PARTS | {"cut": cut})
    assert (found.missing, found.share, found.needs_retry) == (missing, 1.0, bool(missing))
    assert found.result is (R.EVIDENCE_PACK_PARTIAL if missing else R.EVIDENCE_PACK_GENERATED)
    worse = completeness(without("metrics", "logs", "terminal_state") | {"cut": cut})
    assert worse.result is R.EVIDENCE_PACK_FAILED_ALERTED


def test_retries_are_bounded() -> None:
    assert [retry_s(n) for n in range(5)] == [None, 60, 300, 900, None]


def made() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(manifest(FILES, about={"correlation_id": "corr-1"}, audit_head="h")))
    return document


@pytest.mark.story("S-PC-04-003")
def test_a_whole_pack_verifies_after_a_round_through_json() -> None:
    assert check_pack(made(), FILES) == ()


@given(name=st.sampled_from(sorted(FILES)), data=st.data())
def test_any_changed_byte_is_named(name: str, data: st.DataObject) -> None:
    content = bytearray(FILES[name])
    index = data.draw(st.integers(0, len(content) - 1))
    content[index] ^= data.draw(st.integers(1, 255))
    assert check_pack(made(), FILES | {name: bytes(content)}) == (PackFault(name, "changed"),)


def test_missing_added_and_relabelled_files_are_named() -> None:
    others = {k: v for k, v in FILES.items() if k != "logs.json"} | {"extra.txt": b""}
    assert check_pack(made(), others) == (PackFault("extra.txt", "unlisted"), PackFault("logs.json", "missing"))


@pytest.mark.parametrize("change", [{"audit_head": "other"}, {"about": {}}, {"schema_version": 2}, {"root": "0"}, {"new": 1}])
def test_a_changed_manifest_is_named(change: dict[str, Any]) -> None:
    assert PackFault("manifest.json", "manifest_changed") in check_pack(made() | change, FILES)


@pytest.mark.parametrize("document", [{}, {"files": []}, {"root": 5, "files": None}])
def test_a_manifest_that_is_none_is_said_so(document: dict[str, Any]) -> None:
    assert [f.fault for f in check_pack(document, FILES)] == ["manifest_changed", "manifest_unreadable"]
