"""The hash chain of one lane's ledger: proof that nothing was changed, taken out, put in or reordered afterwards."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from typing import Any, Final

import msgspec

from app.domain.envelopes import sha256_hex
from app.domain.reasons import Reason
from app.domain.states import CommandType, State

GENESIS: Final = ""
"""`prev_hash` of a lane's first entry."""


_CANONICAL: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_QUICK: Final = msgspec.json.Encoder(order="sorted")
_TEXT_ENUMS: Final = frozenset({State, CommandType, Reason})
"""Enums whose members are texts, which both encoders write as such."""


def entry_hash(prev_hash: str, fields: Mapping[str, Any]) -> str:
    """Hex SHA-256 of an entry's fields and the hash before it.

    Canonical: independent of key order, of a time's offset, of enum or plain string, and of an int or bool as a database
    gives it back. Accepts str, bool, int, float, None, aware datetimes and enums; anything else raises TypeError.
    """
    document: dict[str, str | int | float | None] = {}
    quick = True
    for name, value in fields.items():
        kind = type(value)
        if value is None or kind is str or kind is int or kind in _TEXT_ENUMS:
            document[name] = value
        elif kind is datetime:
            document[name] = _time(value)
        else:
            document[name] = plain = _plain(value)
            quick = quick and type(plain) is not float  # of which the two encoders write some in other ways
    return sha256_hex(_canonical([prev_hash, document], quick=quick))


def _canonical(body: list[Any], *, quick: bool) -> str:
    """JSON with sorted keys and no white space; the same text from both encoders, the quick one where it can."""
    if quick:
        with suppress(UnicodeEncodeError, OverflowError):  # an unpaired surrogate, a number beyond 64 bits
            return _QUICK.encode(body).decode()
    return _CANONICAL.encode(body)


def _plain(value: Any) -> str | int | float | None:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, bool):
        return int(value)  # SQLite hands booleans back as 0 and 1
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, datetime):
        return _time(value)
    raise TypeError(f"a ledger entry cannot hold {type(value).__name__}")


@lru_cache(maxsize=64)
def _time(value: datetime) -> str:
    """The one text of a moment; entries of one transaction share theirs."""
    if value.tzinfo is None:
        raise TypeError("a time in the ledger must be aware")
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainLink:
    """One stored entry as the proof sees it: `fields` are exactly those that the hash covers."""

    commit_order: int
    prev_hash: str
    hash: str
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderProof:
    """Result of walking one lane. `broken_at` is the position in the list (from 0) of the first wrong entry."""

    valid: bool
    length: int
    head: str
    """Hash of the last entry that is right; '' when there is none."""
    broken_at: int | None = None
    fault: str | None = None
    """`not_dense`, `not_chained` or `content_changed`."""


def order_proof(links: Iterable[ChainLink]) -> OrderProof:
    """Check a lane's entries in `commit_order`: numbers 1, 2, 3, ... and every hash over the one before."""
    head, length = GENESIS, 0
    for index, link in enumerate(links):
        fault = _fault(link, index, head)
        if fault is not None:
            return OrderProof(valid=False, length=length, head=head, broken_at=index, fault=fault)
        head, length = link.hash, length + 1
    return OrderProof(valid=True, length=length, head=head)


def _fault(link: ChainLink, index: int, head: str) -> str | None:
    if link.commit_order != index + 1:
        return "not_dense"
    if link.prev_hash != head:
        return "not_chained"
    if link.hash != entry_hash(link.prev_hash, link.fields):
        return "content_changed"
    return None
