"""One circuit per target: a target that keeps failing is left alone for a while, so that it costs others nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

FAILURES_TO_OPEN: Final = 5
OPEN_S: Final = 10.0
OPEN_MAX_S: Final = 300.0


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until: float = 0.0
    open_s: float = OPEN_S
    probing: bool = False


class Circuits:
    """Circuits by target key; `monotonic` gives seconds that only grow."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._circuits: dict[str, _Circuit] = {}

    def wait_s(self, key: str) -> float:
        """Seconds until the target may be tried (0 = now). After an open time, one probe at a time may pass."""
        circuit = self._circuits.get(key)
        if circuit is None or circuit.failures < FAILURES_TO_OPEN:
            return max(0.0, circuit.open_until - self._monotonic()) if circuit else 0.0
        left = circuit.open_until - self._monotonic()
        return left if left > 0 else (1.0 if circuit.probing else 0.0)

    def begin(self, key: str) -> None:
        """A call starts."""
        circuit = self._circuits.get(key)
        if circuit is not None and circuit.failures >= FAILURES_TO_OPEN:
            circuit.probing = True

    def succeeded(self, key: str) -> None:
        """The target answered (also a refusal is an answer)."""
        self._circuits.pop(key, None)

    def failed(self, key: str, retry_after_s: float | None = None) -> None:
        """The target did not do its work; `retry_after_s` is its own wish."""
        circuit = self._circuits.setdefault(key, _Circuit())
        circuit.failures += 1
        circuit.probing = False
        now = self._monotonic()
        if circuit.failures >= FAILURES_TO_OPEN:
            circuit.open_until = now + circuit.open_s
            circuit.open_s = min(circuit.open_s * 2, OPEN_MAX_S)
        if retry_after_s is not None:
            circuit.open_until = max(circuit.open_until, now + retry_after_s)

    def abandoned(self, key: str) -> None:
        """A call ended without any verdict (the process is stopping)."""
        circuit = self._circuits.get(key)
        if circuit is not None:
            circuit.probing = False

    def open_targets(self) -> list[str]:
        """Targets that are being left alone."""
        now = self._monotonic()
        return sorted(k for k, c in self._circuits.items() if c.open_until > now)
