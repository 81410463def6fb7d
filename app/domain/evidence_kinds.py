"""What evidence packs are about, and how the time range of one is written."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Final


class EvidenceKind(StrEnum):
    """What a pack is about; the subject's id names which one."""

    FLOW = "flow"
    CONTACT = "contact"
    ALERT = "alert"
    SAFE_MODE = "safe_mode"
    REPLAY = "replay"
    TAKEOVER = "takeover"
    DRILL = "drill"
    DEFERRED = "deferred"


FLOW_OF_KIND: Final = {
    EvidenceKind.FLOW: "F-02",
    EvidenceKind.CONTACT: "F-02",
    EvidenceKind.ALERT: "F-06",
    EvidenceKind.SAFE_MODE: "F-06",
    EvidenceKind.REPLAY: "F-05",
    EvidenceKind.TAKEOVER: "F-04",
    EvidenceKind.DRILL: "F-02",
    EvidenceKind.DEFERRED: "F-05",
}
"""The flow of a pack whose contents do not say it better."""


def stamp(moment: datetime | None) -> str | None:
    """A time as packs write it: RFC 3339 UTC with microseconds, always the same text for the same moment."""
    return None if moment is None else moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def span_of(from_at: datetime | None, until_at: datetime | None) -> str:
    """The time range as a key; '' for everything."""
    return "" if from_at is None and until_at is None else f"{stamp(from_at) or '..'}/{stamp(until_at) or '..'}"
