"""The format of evidence packs: any changed byte is found and named, a rewritten container too, and the chain is walked."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.evidence import PackFault
from app.domain.evidence_check import MANIFEST, SIGNATURE, Checked, check, content_files, document_of, seal
from app.domain.evidence_html import page
from app.domain.evidence_kinds import EvidenceKind
from app.domain.evidence_pack import LEDGER_FIELDS, assemble, redacted
from app.domain.evidence_schema import PACK_SCHEMA
from app.domain.evidence_zip import CONTAINER, FILES_MAX, SIZE_MAX, read_zip, write_zip
from app.domain.ledger_chain import entry_hash
from app.signing import ALGORITHM, is_signed, key_id_of, signer
from tests.conftest import NOON

pytestmark = pytest.mark.story("S-PC-04-003")

KEY = signer("a secret of enough length for tests", "00" * 32)
OTHER = signer("another secret", "00" * 32)


def entry(order: int, prev_hash: str, **fields: Any) -> dict[str, Any]:
    """A ledger row as the store gives it."""
    said: dict[str, Any] = dict.fromkeys(LEDGER_FIELDS)
    said |= {"tenant_id": "ten-1", "contact_id": "c-1", "commit_order": order, "command_id": f"cmd-{order}", "committed_at": NOON}
    said |= {"command_type": "follow_up", "result": "applied_once", "reason": "applied", "effect_key": f"k-{order}", "late": False}
    said |= {
        "conversation_version": 1,
        "guardian_version": 1,
        "takeover_active": False,
        "mode_epoch": 0,
        "correlation_id": "corr-1",
    }
    said |= fields
    more = {"accepted_at": NOON, "lock_ms": 0.5, "event_age_s": None, "ttl_limit_s": None, "lock_backend": "lock_acquired_primary"}
    more |= {"lock_mode": "database", "node_id": "n-1"}
    return said | more | {"prev_hash": prev_hash, "hash": entry_hash(prev_hash, said)}


def told(**changes: Any) -> dict[str, Any]:
    """A pack of two ledger entries, redacted."""
    first = entry(1, "")
    second = entry(2, first["hash"])
    links = [{name: e[name] for name in ("commit_order", "prev_hash", "hash")} for e in (first, second)]
    head = {"last_committed": 2, "last_assigned": 2, "chain_hash": second["hash"]}
    values: dict[str, Any] = {
        "kind": EvidenceKind.CONTACT,
        "subject": "c-1",
        "tenant_id": "ten-1",
        "correlation_id": "contact-c-1",
        "facts": {"ledger": [first, second]},
        "timezone": "America/Sao_Paulo",
        "around": [],
        "chains": [{"contact_id": "c-1", "first": 1, "head": head, "links": links}],
        "surroundings": [],
        "lines": [],
        "document": None,
    }
    return redacted(assemble(**values | changes), ["Maria da Silva"])


def packed(document: dict[str, Any] | None = None, key: Any = KEY) -> bytes:
    """The signed zip of a pack."""
    document = document or told()
    shown = page(document, result="evidence_pack_generated", missing=(), is_redacted=True)
    files = content_files(document, page=shown, schema=PACK_SCHEMA)
    audit = {"chain": "ten-1", "number": 7, "hash": "ab" * 32}
    about = {"kind": "contact", "subject": "c-1"}
    data, _ = seal(
        files, about=about, audit=audit, key_id=key.key_id, public_key=key.public_key, algorithm=ALGORITHM, sign=key.sign
    )
    return data


def checked(data: bytes, **options: Any) -> Checked:
    return check(data, is_signed, key_id_of=key_id_of, **options)


PACK = packed()


def place_of(data: bytes, at: int) -> str:
    """The file in whose header or content a byte lies; the directory behind them is the container's."""
    end = 0
    for name, content in read_zip(data).files.items():
        end += 30 + len(name.encode()) + len(content)
        if at < end:
            return name
    return CONTAINER


def test_a_pack_is_whole_and_signed_and_equal_facts_give_equal_bytes() -> None:
    found = checked(PACK, public_keys=[KEY.public_key])
    assert (found.faults, found.entries, found.key_id) == ((), 2, KEY.key_id)
    assert packed() == PACK
    document = document_of(PACK)
    assert [row["commit_order"] for row in document["ledger"]] == [1, 2]
    assert document["manifest"]["about"]["audit"]["number"] == 7


@given(at=st.integers(0, len(PACK) - 1), change=st.integers(1, 255))
@settings(max_examples=400, deadline=None)
def test_any_changed_byte_fails_and_is_named(at: int, change: int) -> None:
    data = bytearray(PACK)
    data[at] ^= change
    found = checked(bytes(data))
    assert not found.valid
    names = {fault.name for fault in found.faults}
    place = place_of(PACK, at)
    assert place in names or (place == CONTAINER and names)


def test_every_byte_of_the_container_counts() -> None:
    data = write_zip({"a.txt": b"one", "b.txt": b"two"})
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x01
        opened = read_zip(bytes(changed))
        assert opened.faults or opened.files != {"a.txt": b"one", "b.txt": b"two"}, at


def test_the_changed_row_is_named() -> None:
    was, now = b'"command_type":"follow_up","commit_order":2', b'"command_type":"follow_up","commit_order":3'
    assert PACK.count(was) == 1
    expected = (PackFault("ledger.jsonl", "changed", 2), PackFault("ledger.jsonl", "content_changed", 2))
    assert checked(PACK.replace(was, now)).faults == expected


@pytest.mark.parametrize(
    "rewrite", [lambda f: f | {"more.txt": b"x"}, lambda f: {k: v for k, v in f.items() if k != "ledger.jsonl"}]
)
def test_files_put_in_or_taken_out_are_named(rewrite: Any) -> None:
    data = write_zip(rewrite(read_zip(PACK).files))
    assert {(f.name, f.fault) for f in checked(data).faults} & {("more.txt", "unlisted"), ("ledger.jsonl", "missing")}


@pytest.mark.parametrize(
    "data", [b"", b"PK", b"PK\x03\x04" + b"\x00" * 40, b"not a zip at all" * 10, PACK + b"\x00", PACK[:-1], b"x" + PACK]
)
def test_what_is_no_pack_or_longer_or_shorter_fails(data: bytes) -> None:
    assert not checked(data).valid


def test_a_pack_written_again_by_another_program_is_not_ours() -> None:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in read_zip(PACK).files.items():
            archive.writestr(name, content)
    found = checked(out.getvalue())
    assert found.faults == (PackFault(CONTAINER, "rewritten"),)  # every file is as it was; only the container is another
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("note.txt", "x")
    assert PackFault("note.txt", "unlisted") in checked(out.getvalue()).faults
    with zipfile.ZipFile(many := io.BytesIO(), "w") as archive:
        for n in range(FILES_MAX + 1):
            archive.writestr(str(n), "")
    assert checked(many.getvalue()).faults[0] == PackFault(CONTAINER, "rewritten")
    assert read_zip(bytes(SIZE_MAX + 1)).faults == (PackFault(CONTAINER, "too_large"),)


def test_another_key_is_found_out() -> None:
    forged = packed(key=OTHER)
    assert checked(forged).valid  # in itself it is whole
    assert checked(forged, public_keys=[KEY.public_key]).faults == (PackFault(SIGNATURE, "other_key"),)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        (b'"algorithm":"Ed25519"', b'"algorithm":"Ed25518"', "not_signed"),
        (KEY.key_id.encode(), ("0" * 32).encode(), "changed"),
        (b'"signature":"', b'"signaturf":"', "changed"),
    ],
)
def test_a_signature_file_that_says_something_else_is_refused(old: bytes, new: bytes, fault: str) -> None:
    files = read_zip(PACK).files
    files[SIGNATURE] = files[SIGNATURE].replace(old, new)
    assert PackFault(SIGNATURE, fault) in checked(write_zip(files)).faults


def test_manifest_and_signature_must_be_there_and_readable() -> None:
    files = read_zip(PACK).files
    for name in (MANIFEST, SIGNATURE):
        assert PackFault(name, "missing") in checked(write_zip({k: v for k, v in files.items() if k != name})).faults
        assert PackFault(name, "changed") in checked(write_zip(files | {name: b"[]\n"})).faults
        assert PackFault(name, "changed") in checked(write_zip(files | {name: b"\xff"})).faults
        assert PackFault(name, "changed") in checked(write_zip(files | {name: files[name] + b" "})).faults
    other = files[MANIFEST].replace(b'"number":7', b'"number":8')
    assert PackFault(MANIFEST, "manifest_changed") in checked(write_zip(files | {MANIFEST: other})).faults


def test_a_forger_with_a_key_cannot_hide_a_changed_result_from_the_chain() -> None:
    document = told()
    document["ledger"][0]["result"] = "blocked_unconfirmed"
    assert PackFault("ledger.jsonl", "content_changed", 1) in checked(packed(document)).faults
    document = told()
    document["chains"][0]["links"][1]["prev_hash"] = "00" * 32
    assert PackFault("chains.jsonl", "not_chained", 1) in checked(packed(document)).faults
    document = told()
    document["chains"][0]["head"]["chain_hash"] = "00" * 32
    assert PackFault("chains.jsonl", "not_chained", 1) in checked(packed(document)).faults
    document = told()
    document["chains"][0] = {"contact_id": "c-1", "first": 1, "links": None, "head": None}
    assert PackFault("chains.jsonl", "not_chained", 1) in checked(packed(document)).faults
    document = told()
    document["ledger"][0]["late"] = ["not", "a", "field"]
    assert PackFault("ledger.jsonl", "content_changed", 1) in checked(packed(document)).faults


def test_an_entry_whose_ids_are_hidden_is_proven_by_its_links() -> None:
    first = entry(1, "", contact_id="5511987654321")
    links = [{name: first[name] for name in ("commit_order", "prev_hash", "hash")}]
    chain = {"contact_id": "5511987654321", "first": 1, "head": {"last_committed": 1, "chain_hash": first["hash"]}, "links": links}
    data = packed(told(facts={"ledger": [first]}, chains=[chain]))
    assert b"5511987654321" not in data
    found = checked(data)
    assert (found.faults, found.entries) == ((), 0)


def test_redaction_keeps_ids_and_hides_names_that_somebody_typed() -> None:
    around = {
        "alert_id": "a-1",
        "trigger": "x",
        "severity": "warning",
        "summary": "Maria ligou de +55 11 98765-4321; ver c-maria",
        "status": "open",
        "level": "raised",
        "result": None,
        "owner": "ops",
        "correlation_id": "corr-1",
        "seen_count": 1,
    }
    times = dict.fromkeys(("raised_at", "safe_mode_at", "acked_at", "resolved_at"))
    people = dict.fromkeys(("acked_by", "ack_how", "ack_delay_s", "resolved_by"))
    (shown,) = told(around=[around | times | people])["alerts"]
    assert shown["summary"] == "[name] ligou de [phone]; ver c-maria"
    handed = told(
        kind=EvidenceKind.DRILL, document={"result": "drill_passed_controlled_continuity", "note": "Maria", "words": ["Maria"]}
    )
    assert handed["document"] == {"result": "drill_passed_controlled_continuity", "note": "[redacted]", "words": ["[name]"]}
    assert handed["terminal_state"] == "drill_passed_controlled_continuity"


def test_the_schema_in_the_documentation_is_the_one_in_the_packs() -> None:
    stored = Path(__file__).resolve().parents[2] / "docs/evidence-pack.schema.json"
    assert json.loads(stored.read_text(encoding="utf-8")) == PACK_SCHEMA
    assert json.loads(read_zip(PACK).files["schema.json"]) == PACK_SCHEMA


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
        max_leaves=8,
    )
)
@settings(max_examples=60, deadline=None)
def test_whatever_somebody_puts_into_a_file_is_judged_and_nothing_breaks(value: Any) -> None:
    row = json.dumps({"contact_id": value, "commit_order": value, "links": value, "head": {}, "hash": value}).encode() + b"\n"
    files = read_zip(PACK).files
    for name in ("ledger.jsonl", "chains.jsonl"):
        assert not checked(write_zip(files | {name: row})).valid
    for name in (MANIFEST, SIGNATURE, "pack.json"):
        assert not checked(write_zip(files | {name: json.dumps(value).encode()})).valid


@pytest.mark.parametrize(
    "content", [b'"\\ud800"', b"[" * 100_000, b'{"root":"\\ud800"}', b'{"files":[]}', b'{"files":{"ledger.jsonl":7}}']
)
def test_a_manifest_that_is_no_text_or_has_no_end_is_refused(content: bytes) -> None:
    files = read_zip(PACK).files
    assert not checked(write_zip(files | {MANIFEST: content})).valid
    assert not checked(write_zip(files | {SIGNATURE: content})).valid


def test_links_that_skip_a_number_or_contradict_an_entry_are_named() -> None:
    for change in ({"commit_order": 3}, {"commit_order": "2"}, {"hash": "00" * 32}):
        document = told()
        document["chains"][0]["links"][1] |= change
        document["chains"][0]["head"] = {}
        assert PackFault("chains.jsonl", "not_chained", 1) in checked(packed(document)).faults
