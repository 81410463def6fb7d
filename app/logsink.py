"""Where log lines go: a bounded buffer in memory, written by one thread, so that no caller ever waits for a disk or pipe.

A sink that fails (reader gone, disk full) does not break the product: lines stay in the buffer, the oldest give way when it
is full, everything is counted, the alert callback is called once per outage, and writing goes on by itself when the sink
is back (S-PC-04-001: `log_emitted_structured`, `log_emit_failed_alerted`).
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Final

CAPACITY: Final = 10_000
"""Lines kept while the sink does not take them."""
CHUNK_BYTES: Final = 64 * 1024
STUCK_S: Final = 30.0
"""How long a write may hang (a pipe that nobody reads is full and says nothing) before that is an outage too."""
GATHER_S: Final = 0.005
RETRY_FIRST_S: Final = 0.05
RETRY_LAST_S: Final = 2.0


class LogState(StrEnum):
    """Terminal states of the story."""

    LOG_EMITTED_STRUCTURED = "log_emitted_structured"
    LOG_EMIT_FAILED_ALERTED = "log_emit_failed_alerted"


class LogSink:
    """Writes lines to a file descriptor. `emit` and `emit_all` may be called from any thread; they never block on I/O or raise."""

    def __init__(
        self,
        fd: int,
        *,
        capacity: int = CAPACITY,
        stuck_s: float = STUCK_S,
        on_failure: Callable[[str], None] | None = None,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.emitted = 0
        """Lines that the sink took."""
        self.failed = 0
        """Attempts to write that failed."""
        self.dropped = 0
        """Lines that gave way because the buffer was full."""
        self.alert_failed = 0
        """Calls of `on_failure` that failed themselves."""
        self._fd = fd
        self._capacity = capacity
        self._stuck_s = stuck_s
        self._writing_since: float | None = None
        self._on_failure = on_failure
        self._write = write
        self._lines: deque[bytes] = deque()
        self._changed = threading.Condition()
        self._rest = b""
        self._rest_lines = 0
        self._alerted = False
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log-sink", daemon=True)
        self._thread.start()

    @property
    def state(self) -> LogState:
        """Whether lines arrive, or an outage was alerted."""
        return LogState.LOG_EMIT_FAILED_ALERTED if self._alerted else LogState.LOG_EMITTED_STRUCTURED

    @property
    def buffered(self) -> int:
        """Lines not yet taken by the sink."""
        return len(self._lines) + self._rest_lines

    def emit(self, line: str) -> None:
        """Queue one line (without line end)."""
        self.emit_all((line.encode("utf-8", "backslashreplace"),))

    def emit_all(self, lines: Sequence[bytes]) -> None:
        """Queue lines (without line ends) that belong together; where they are too many, the oldest give way one by one."""
        since = self._writing_since
        with self._changed:
            idle = not self._lines
            self._lines.extend(lines)
            overflow = len(self._lines) - self._capacity
            for _ in range(overflow):
                self._lines.popleft()
            if overflow > 0:
                self.dropped += overflow
            if idle:
                self._changed.notify_all()
        if overflow > 0:
            self._alert("the log buffer is full: the sink does not take lines")
        elif since is not None and time.monotonic() - since > self._stuck_s:
            self._alert(f"log lines have waited for more than {self._stuck_s:g} s: the sink does not take them")

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything queued so far was taken; False when it was not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self.buffered == 0, timeout_s)

    def close(self, timeout_s: float = 1.0) -> bool:
        """Write what is left, within the time given, and stop; False when lines were lost."""
        done = self.flush(timeout_s)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(0.2)  # a thread stuck in a blocked write is left behind: it is a daemon
        return done

    def _run(self) -> None:
        delay_s = RETRY_FIRST_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._lines or self._rest or self._closing)
                if self._closing:
                    return
                if not self._rest:
                    # one write for what a busy moment says, not a thread switch per line
                    self._changed.wait_for(lambda: self._closing, GATHER_S)
                    self._take_chunk()
            self._writing_since = time.monotonic()
            try:
                written = self._write(self._fd, self._rest)
            except (OSError, ValueError) as error:
                self.failed += 1
                self._alert(f"log lines cannot be written: {error}")
                with self._changed:
                    self._changed.wait_for(lambda: self._closing, delay_s)
                delay_s = min(delay_s * 2, RETRY_LAST_S)
                continue
            finally:
                self._writing_since = None
            delay_s = RETRY_FIRST_S
            with self._changed:
                self._rest = self._rest[written:]
                if not self._rest:
                    self.emitted += self._rest_lines
                    self._rest_lines = 0
                    self._alerted = False
                self._changed.notify_all()

    def _take_chunk(self) -> None:
        """Move lines from the buffer to the chunk that is being written (the lock is held)."""
        taken: list[bytes] = []
        size = 0
        while self._lines and size < CHUNK_BYTES:
            line = self._lines.popleft()
            taken.append(line)
            size += len(line) + 1
        self._rest, self._rest_lines = b"\n".join((*taken, b"")), len(taken)

    def _alert(self, sentence: str) -> None:
        """Tell once per outage; whatever happens there must not come back to the caller."""
        with self._changed:
            if self._alerted:
                return
            self._alerted = True
        if self._on_failure is not None:
            try:
                self._on_failure(sentence)
            except Exception:  # noqa: BLE001 - logging must never break what it logs; the failure is counted
                self.alert_failed += 1
