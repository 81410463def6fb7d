"""Structured logs: one line per event, with the contract's fields, redacted, through a sink that never blocks.

`configure` is called once by the composition root; everything else calls `get_logger()`. Each flow line carries `ts, level,
event, flow_id, correlation_id, tenant_id, contact_id, intent, status` plus what its story names (contract section 9);
missing ones are simply absent. Lines of libraries (standard `logging`) take the same way. Lines that come by the hundred, one
for each command, are written together (`LineKind`): the same bytes for a fraction of the time.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from types import NoneType, TracebackType
from typing import Any, Final, cast

import msgspec
import structlog

from app.domain.redaction import is_open, is_word, redact, redact_text
from app.logsink import LogSink
from app.metrics import Metrics

__all__ = ["FIELDS", "FlowId", "LineKind", "LogSink", "Metrics", "configure", "get_logger"]

Fields = MutableMapping[str, Any]
Logger = structlog.typing.FilteringBoundLogger
Keep = Callable[[Sequence[Mapping[str, Any]]], None]

FIELDS: Final = ("ts", "level", "event", "flow_id", "correlation_id", "tenant_id", "contact_id", "intent", "status")
"""The fields of every flow line, in the order in which they are written."""


_JSON: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), default=str)
_FAST_JSON: Final = msgspec.json.Encoder()
"""Writes what `_looked` lets through in the same bytes as `_JSON`, or raises."""


_WITH_FRACTION: Final = len('"2026-11-23T12:00:00.000000Z"')


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
    keep: Keep | None = None,
) -> LogSink:
    """Send every log line of this process to `fd` (default: standard output), as `json` or `console`.

    Returns the sink, to be closed at the end. `on_failure` gets one sentence per outage of the sink, from another thread.
    `keep` gets every redacted line that belongs to a flow, alone or with those written together with it; it must return at
    once, leave them as they are, and may be called from any thread.
    """
    global _setup  # noqa: PLW0603  # like structlog's own configuration, one for the process
    sink = LogSink(sys.stdout.fileno() if fd is None else fd, on_failure=on_failure)
    render = _render_json if log_format == "json" else _render_console

    def stamp(logger: _SinkLogger, _name: str, fields: Fields) -> Fields:
        fields["ts"] = now()
        if logger.name:
            fields.setdefault("logger", logger.name)
        fields.setdefault("node_id", node_id)
        return fields

    steps: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
        _redacted,
        _kept(keep),
        render,
    ]
    wrapper = structlog.make_filtering_bound_logger(level)

    def factory(*args: Any) -> _SinkLogger:
        return _SinkLogger(sink, args[0] if args else None)

    structlog.configure(
        processors=steps,
        wrapper_class=wrapper,
        logger_factory=factory,
        cache_logger_on_first_use=False,  # a later configure (tests, second start) must reach every module
    )
    _setup = _Setup(now, redact_text(node_id), level, sink, keep, steps, wrapper, factory, is_json=log_format == "json")
    _take_over_logging(level)
    return sink


def get_logger(name: str | None = None, **fields: Any) -> Logger:
    """A logger that adds its name and `fields` to each of its lines; may be made before `configure`."""
    return cast("Logger", structlog.get_logger(*([name] if name else []), **fields))


@dataclass(frozen=True, slots=True)
class _Setup:
    """What `configure` was last told."""

    now: Callable[[], datetime]
    node: str
    level: int
    sink: LogSink
    keep: Keep | None
    steps: list[Any]
    """The list that structlog holds; whoever captures lines changes it in place."""
    wrapper: type
    factory: Callable[..., Any]
    is_json: bool
    own_steps: tuple[Any, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "own_steps", tuple(self.steps))

    def in_force(self) -> bool:
        """Whether structlog still does what `configure` set, and nobody (a test, a benchmark) set anything else since."""
        known = structlog.get_config()
        steps = known["processors"]
        same = known["wrapper_class"] is self.wrapper and known["logger_factory"] is self.factory
        return same and steps is self.steps and tuple(steps) == self.own_steps


_setup: _Setup | None = None


class LineKind:
    """One kind of line that is written for many things at once: `LineKind("engine.dispatch", "decided").info(rows)`.

    What comes out is what `get_logger(logger).info(event, **row)` writes for each row, in the same order, with one time for all
    of them. Done together it costs a fraction: what is common is looked up once, what can hold nothing private (numbers, words
    of our own enums) is not searched, and the sink is woken once. Rows that are not of the plain shape take the usual way,
    and so do all of them while structlog is configured otherwise or the context holds fields.
    """

    def __init__(self, logger: str, event: str) -> None:
        self._logger, self._event = logger, event
        self._head = redact_text(event)
        self._tail = redact_text(logger)

    def info(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one line for each row (its fields, those of the contract first, in their order); none is read below the level."""
        setup = _setup
        if setup is None or not setup.in_force() or structlog.contextvars.get_contextvars():
            logger = structlog.get_logger(self._logger).bind()
            if logger.is_enabled_for(logging.INFO):
                for row in rows:
                    logger.info(self._event, **row)
        elif setup.level <= logging.INFO:
            self._write(setup, rows)

    def _write(self, setup: _Setup, rows: Iterable[Mapping[str, Any]]) -> None:
        head = {"ts": _plain(setup.now()), "level": "info", "event": self._head}
        tail = {"logger": self._tail, "node_id": setup.node}
        lines: list[bytes] = []
        kept: list[dict[str, Any]] = []
        try:
            for row in rows:
                if not _has_plain_shape(tuple(row)):
                    self._hand_over(setup, lines, kept)
                    structlog.get_logger(self._logger).info(self._event, **row)
                    continue
                line = {**head, **row, **tail}
                lines.append(_line_of(line, row, is_json=setup.is_json))
                if line.get("flow_id") is not None and line.get("correlation_id") is not None:
                    kept.append(line)
        finally:
            self._hand_over(setup, lines, kept)

    @staticmethod
    def _hand_over(setup: _Setup, lines: list[bytes], kept: list[dict[str, Any]]) -> None:
        """What is there so far, to the sink and to who keeps it; the lists are empty afterwards."""
        if kept and setup.keep is not None:
            setup.keep(kept.copy())
        if lines:
            setup.sink.emit_all(lines)
        lines.clear()
        kept.clear()


class _Written(dict[type, bool]):
    """Types whose every value is shown as it is and written alike by both encoders: nothing, whole numbers, words of our enums."""

    def __missing__(self, kind: type) -> bool:
        words = [one.value for one in kind] if issubclass(kind, StrEnum) else None
        self[kind] = kind in (NoneType, bool, int) or (words is not None and all(redact_text(w) == w for w in words))
        return self[kind]


_WRITTEN: Final = _Written()
_RESERVED: Final = frozenset({"ts", "level", "event", "logger", "node_id", "exc_info", "exception"})


@lru_cache(maxsize=256)
def _has_plain_shape(names: tuple[str, ...]) -> bool:
    """Whether fields of these names stand in the order in which they are written, and none is one of ours or hidden by its name."""
    return _RESERVED.isdisjoint(names) and is_open(names) and tuple(_ordered(dict.fromkeys(names))) == names


def _line_of(line: dict[str, Any], row: Mapping[str, Any], *, is_json: bool) -> bytes:
    """A line as it is written (without line end); the fields of `row` in it are redacted in place."""
    same = is_json
    for name, value in row.items():
        kind = type(value)
        if _WRITTEN[kind]:
            continue
        if kind is str:
            if not is_word(value):
                line[name] = redact_text(value)
        elif kind is datetime and value.tzinfo is UTC:
            line[name] = _utc(value)
        elif kind is float:
            same = same and (value == 0 or 1e-4 <= abs(value) < 1e16)  # beyond, exponents are written in two ways
        else:
            shown = line[name] = redact(_plain(value), depth=1)
            same = same and type(shown) is str
    if same:
        try:
            return _FAST_JSON.encode(line)
        except UnicodeEncodeError:  # half a character pair: the other encoder leaves it to the sink
            pass
    render = _render_json if is_json else _render_console
    return render(None, "", line).encode("utf-8", "backslashreplace")


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


def _kept(keep: Keep | None) -> Callable[[object, str, Fields], Fields]:
    """A step that hands on the lines of flows, and changes none."""

    def hand_on(_logger: object, _name: str, fields: Fields) -> Fields:
        if keep is not None and fields.get("flow_id") is not None and fields.get("correlation_id") is not None:
            keep([fields])
        return fields

    return hand_on


def _plain(value: Any) -> Any:
    """Times as RFC 3339 UTC; everything else as it is."""
    if type(value) is datetime and value.tzinfo is UTC:
        return _utc(value)
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def _utc(moment: datetime) -> str:
    """A time in UTC, to the millisecond; the encoder writes it in a tenth of the time that `isoformat` takes."""
    written = str(_FAST_JSON.encode(moment), "ascii")
    return f"{written[1:24]}Z" if len(written) == _WITH_FRACTION else f"{written[1:20]}.000Z"


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
