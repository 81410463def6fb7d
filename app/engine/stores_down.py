"""A note beside the process that Redis and the database were both silent: neither of them can keep it."""

import hashlib
from datetime import datetime
from pathlib import Path

import structlog

log = structlog.get_logger("engine.stores_down")


class Marker:
    """One small file for each database; processes on one machine share it, as they share what happened."""

    def __init__(self, folder: Path, database_url: str) -> None:
        self._path = folder / f"stores-down-{hashlib.sha256(database_url.encode()).hexdigest()[:12]}"

    def read(self) -> datetime | None:
        """Since when both were silent; None when nothing is noted, or the note cannot be read."""
        try:
            return datetime.fromisoformat(self._path.read_text("ascii").strip())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.critical("note_unreadable", flow_id="F-06", status="failed", reason=type(error).__name__)
            return None

    def write(self, since: datetime) -> None:
        """Note it; the first note stays. Where the file cannot be written either, this process alone knows."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("x", encoding="ascii") as file:
                file.write(since.isoformat())
        except FileExistsError:
            return
        except OSError as error:
            log.critical("note_not_written", flow_id="F-06", status="failed", reason=type(error).__name__)

    def clear(self) -> None:
        """Safe mode has been entered because of it."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            log.critical("note_not_cleared", flow_id="F-06", status="failed", reason=type(error).__name__)
