"""Structured logs: one line per event, with the contract's fields, redacted, through a sink that never blocks.

`configure` is called once by the composition root; everything else calls `get_logger()`. Each flow line carries `ts, level,
event, flow_id, correlation_id, tenant_id, contact_id, intent, status` plus what its story names (contract section 9);
missing ones are simply absent. Lines of libraries (standard `logging`) take the same way.
"""

import json
import logging
import sys
from collections.abc import Callable, Mapping, MutableMapping
from datetime import UTC, datetime
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, cast

import structlog

from app.domain.redaction import redact
from app.logsink import LogSink
from app.metrics import Metrics

__all__ = ["FIELDS", "FlowId", "LogSink", "Metrics", "configure", "get_logger"]

Fields = MutableMapping[str, Any]
Logger = structlog.typing.FilteringBoundLogger

FIELDS: Final = ("ts", "level", "event", "flow_id", "correlation_id", "tenant_id", "contact_id", "intent", "status")
"""The fields of every flow line, in the order in which they are written."""


_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)


class FlowId(StrEnum):
    """The six flows of the contract (section 7)."""

    INGRESS = "F-01"
    SCHEDULING = "F-02"
    D1_CONFIRMATION = "F-03"
    TAKEOVER = "F-04"
    CONTINGENCY_REPLAY = "F-05"
    SAFE_MODE = "F-06"


def configure(
    *,
    log_format: str,
    now: Callable[[], datetime],
    node_id: str,
    fd: int | None = None,
    level: int = logging.INFO,
    on_failure: Callable[[str], None] | None = None,
    keep: Callable[[Mapping[str, Any]], None] | None = None,
) -> LogSink:
    """Send every log line of this process to `fd` (default: standard output), as `json` or `console`.

    Returns the sink, to be closed at the end. `on_failure` gets one sentence per outage of the sink, from another thread.
    `keep` gets every redacted line that belongs to a flow; it must return at once and may be called from any thread.
    """
    sink = LogSink(sys.stdout.fileno() if fd is None else fd, on_failure=on_failure)
    render = _render_json if log_format == "json" else _render_console

    def stamp(logger: _SinkLogger, _name: str, fields: Fields) -> Fields:
        fields["ts"] = now()
        if logger.name:
            fields.setdefault("logger", logger.name)
        fields.setdefault("node_id", node_id)
        return fields

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            stamp,
            structlog.processors.format_exc_info,
            _redacted,
            _kept(keep),
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *args: _SinkLogger(sink, args[0] if args else None),
        cache_logger_on_first_use=False,  # a later configure (tests, second start) must reach every module
    )
    _take_over_logging(level)
    return sink


def get_logger(name: str | None = None, **fields: Any) -> Logger:
    """A logger that adds its name and `fields` to each of its lines; may be made before `configure`."""
    return cast("Logger", structlog.get_logger(*([name] if name else []), **fields))


class _SinkLogger:
    """What structlog calls with the rendered line."""

    def __init__(self, sink: LogSink, name: str | None) -> None:
        self.name = name
        self._sink = sink

    def msg(self, line: str) -> None:
        self._sink.emit(line)

    debug = info = warning = error = critical = exception = log = msg


class _Bridge(logging.Handler):
    """Lines of libraries that use the standard logging, into the same sink."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = get_logger(record.name)
        exc = cast("tuple[type[BaseException], BaseException, TracebackType | None] | None", record.exc_info or None)
        logger.log(max(record.levelno, logging.DEBUG), record.getMessage(), **({"exc_info": exc} if exc else {}))


def _take_over_logging(level: int) -> None:
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, _Bridge)]:
        root.removeHandler(handler)
    root.addHandler(_Bridge())
    root.setLevel(max(level, logging.WARNING))
    logging.getLogger("uvicorn.error").setLevel(logging.INFO)
    # apprise names targets in its own lines; what we want to know about a delivery is in our records
    logging.getLogger("apprise").setLevel(logging.CRITICAL)


def _redacted(_logger: object, _name: str, fields: Fields) -> Fields:
    ts, level = fields.pop("ts"), fields.pop("level")
    clean: dict[str, Any] = redact({k: v if type(v) is str else _plain(v) for k, v in fields.items()})
    clean["ts"] = _plain(ts)
    clean["level"] = level
    return clean


def _kept(keep: Callable[[Mapping[str, Any]], None] | None) -> Callable[[object, str, Fields], Fields]:
    """A step that hands on the lines of flows, and changes none."""

    def hand_on(_logger: object, _name: str, fields: Fields) -> Fields:
        if keep is not None and fields.get("flow_id") is not None and fields.get("correlation_id") is not None:
            keep(fields)
        return fields

    return hand_on


def _plain(value: Any) -> Any:
    """Times as RFC 3339 UTC; everything else as it is."""
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def _ordered(fields: Mapping[str, Any]) -> dict[str, Any]:
    first = {name: fields[name] for name in FIELDS if name in fields}
    return first | {k: v for k, v in fields.items() if k not in first}


def _render_json(_logger: object, _name: str, fields: Fields) -> str:
    return _JSON.encode(_ordered(fields))


def _render_console(_logger: object, _name: str, fields: Fields) -> str:
    """One line for a person: time, level, event, then key=value; line ends inside values are escaped."""
    rest = {k: v for k, v in _ordered(fields).items() if k not in ("ts", "level", "event", "node_id", "exception")}
    words = " ".join(f"{k}={v if _is_word(v) else json.dumps(v, ensure_ascii=False, default=str)}" for k, v in rest.items())
    event = str(fields.get("event", "")).replace("\r", "\\r").replace("\n", "\\n")
    line = f"{str(fields['ts'])[11:23]} {fields['level']:8} {event} {words}".rstrip()
    trace = fields.get("exception")
    return f"{line}\n{trace}" if trace else line


def _is_word(value: object) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and value.isprintable() and " " not in value and value != "")
