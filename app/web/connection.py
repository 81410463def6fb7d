"""A connection to whoever called: it is given up when the other end reads nothing of what it asked for.

Without this a caller that stopped reading (a screen that hangs, an attack that opens streams) would keep its socket and what is
buffered for it as long as its kernel says that it is there, also after its answer was given up: closing waits for the buffer.
"""

import asyncio
import struct
import sys
from typing import Final

import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if sys.platform == "linux":
    import fcntl
    import termios

log = structlog.get_logger("web.connection")

UNREAD_WITHIN_S: Final = 10.0
"""A full buffer of which nothing is read for so long is somebody who does not read; slow reading is fine."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, reset when its full buffer does not shrink for `unread_within_s`."""

    unread_within_s = UNREAD_WITHIN_S
    _look: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The buffer is full."""
        super().pause_writing()
        self._wait(self._unread_bytes())

    def resume_writing(self) -> None:
        """There is room again."""
        self._stop()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whoever ended it."""
        self._stop()
        super().connection_lost(exc)

    def _unread_bytes(self) -> int:
        """What waits here, and where the kernel says it, what the other end has not acknowledged."""
        waiting = self.transport.get_write_buffer_size()
        if sys.platform == "linux":
            handle = self.transport.get_extra_info("socket").fileno()
            waiting += int(struct.unpack("i", fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)))[0])
        return waiting

    def _wait(self, unread_bytes: int) -> None:
        self._stop()
        self._look = self.loop.call_later(self.unread_within_s, self._decide, unread_bytes)

    def _stop(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _decide(self, before_bytes: int) -> None:
        unread_bytes = self._unread_bytes()
        if unread_bytes < before_bytes:
            self._wait(unread_bytes)
            return
        log.warning("connection_not_read", unread_bytes=unread_bytes)
        self.transport.abort()
