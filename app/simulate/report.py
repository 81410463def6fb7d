"""What a run saw, from the outside."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass(slots=True)
class Report:
    """Counts of answers and the latencies of intake acknowledgements (seconds)."""

    sent: int = 0
    """Items offered, each counted once however often it was sent again."""
    accepted: int = 0
    """Items that got a 2xx answer."""
    statuses: Counter[str] = field(default_factory=Counter)
    results: Counter[str] = field(default_factory=Counter)
    """Terminal results that the orchestrator waited for."""
    http: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Requests without an answer, by kind."""
    retried: int = 0
    abandoned: int = 0
    """Items that never got an answer before the end."""
    elapsed_s: float = 0.0
    ack_s: list[float] = field(default_factory=list)

    def percentile(self, share: float) -> float:
        """The ACK latency that `share` (0..1) of the requests did not exceed, in seconds; 0 without any."""
        if not self.ack_s:
            return 0.0
        ordered = sorted(self.ack_s)
        return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered)) - 1))]

    def text(self) -> str:
        """The report for a terminal."""
        rate = self.accepted / self.elapsed_s if self.elapsed_s else 0.0
        p50, p95, p99 = (self.percentile(share) * 1000 for share in (0.50, 0.95, 0.99))
        longest = max(self.ack_s, default=0.0) * 1000
        lines = [
            f"items     {self.sent} sent, {self.accepted} accepted in {self.elapsed_s:.1f} s ({rate:.0f}/s), "
            f"{self.retried} sent again, {self.abandoned} without an answer",
            f"ACK       p50 {p50:.1f} ms  p95 {p95:.1f} ms  p99 {p99:.1f} ms  max {longest:.1f} ms  ({len(self.ack_s)} requests)",
            f"receipts  {_counts(self.statuses)}",
            f"results   {_counts(self.results)}",
            f"http      {_counts(self.http)}",
        ]
        if self.errors:
            lines.append(f"errors    {_counts(self.errors)}")
        return "\n".join(lines)


def _counts(counter: Counter[Any]) -> str:
    return "  ".join(f"{name} {count}" for name, count in counter.most_common()) or "none"


class Journal:
    """An append-only file of every item that the server said it accepted: the witness against it."""

    def __init__(self, path: Path | None) -> None:
        self._file: IO[str] | None = path.open("a", encoding="utf-8", buffering=1) if path else None

    def write(self, **entry: Any) -> None:
        """One line per item, on its way to the disk before the next request."""
        if self._file is not None:
            self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
