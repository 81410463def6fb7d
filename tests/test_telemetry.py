"""S-PC-04-001: every flow line has the contract's fields, carries no personal data, and never breaks the main flow."""

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from app.domain.redaction import REDACTED, redact, redact_text
from app.logsink import LogSink
from app.metrics import Metrics
from app.telemetry import FIELDS, FlowId, LineKind, configure, get_logger
from tests.conftest import NOON
from tests.services import busy, wait_until

pytestmark = pytest.mark.story("S-PC-04-001")


class Log:
    """A file that the logs of this process go to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.sink: LogSink

    def text(self) -> str:
        assert self.sink.flush(5)
        return self.path.read_text(encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def make_log(tmp_path: Path) -> Iterator[Callable[..., Log]]:
    made: list[Log] = []

    def make(log_format: str = "json", **options: Any) -> Log:
        log = Log(tmp_path / f"log-{len(made)}")
        log.sink = configure(log_format=log_format, now=lambda: NOON, node_id="n1", fd=log.fd, **options)
        made.append(log)
        return log

    yield make
    structlog.reset_defaults()
    root = logging.getLogger()
    for handler in [h for h in root.handlers if type(h).__module__ == "app.telemetry"]:
        root.removeHandler(handler)
    for log in made:
        log.sink.close(1)
        os.close(log.fd)


def test_a_flow_line_has_the_fields_of_the_contract_first(make_log: Callable[..., Log]) -> None:
    log = make_log()
    get_logger("engine.dispatch").info(
        "decided",
        commit_order=3,
        flow_id=FlowId.SCHEDULING,
        correlation_id="corr-1",
        tenant_id="ten-sol",
        contact_id="c-maria",
        intent="reschedule",
        status="committed_causal",
    )
    line = log.lines()[0]
    assert tuple(line)[: len(FIELDS)] == FIELDS
    assert line["ts"] == "2026-11-23T12:00:00.000Z"
    assert line["flow_id"] == "F-02"
    assert line | {"commit_order": 3, "node_id": "n1", "logger": "engine.dispatch", "level": "info"} == line


def test_a_logger_made_before_the_configuration_uses_it(make_log: Callable[..., Log]) -> None:
    logger = structlog.get_logger("app")
    log = make_log()
    logger.warning("late")
    assert [line["event"] for line in log.lines()] == ["late"]


def test_context_travels_to_every_line(make_log: Callable[..., Log]) -> None:
    log = make_log()
    with structlog.contextvars.bound_contextvars(correlation_id="corr-9"):
        get_logger().info("inside")
    get_logger().info("outside")
    inside, outside = log.lines()
    assert inside["correlation_id"] == "corr-9"
    assert "correlation_id" not in outside


def test_lines_of_libraries_take_the_same_way_and_are_redacted(make_log: Callable[..., Log]) -> None:
    log = make_log()
    logging.getLogger("some.library").warning("sent to %s", "+5511987654321")
    (line,) = log.lines()
    assert line["event"] == "sent to [phone]"
    assert line["logger"] == "some.library"


def test_an_exception_is_logged_with_its_trace_but_without_the_row_that_caused_it(make_log: Callable[..., Log]) -> None:
    log = make_log()
    try:
        raise ValueError("insert failed\nDETAIL:  Key (phone)=(+5511987654321) already exists.\n[parameters: ('Maria', 'oi')]")
    except ValueError:
        get_logger().exception("failed")
    (line,) = log.lines()
    assert "Traceback" in line["exception"]
    assert "insert failed" in line["exception"]
    for private in ("Maria", "987654321", "oi'"):
        assert private not in line["exception"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_line_end_inside_a_value_cannot_forge_a_line(make_log: Callable[..., Log], log_format: str) -> None:
    evil = 'x\n{"level":"error","event":"forged"}'
    log = make_log(log_format)
    get_logger().info(evil, status=evil)
    assert log.text().count("\n") == 1


def test_the_console_format_is_one_readable_line(make_log: Callable[..., Log]) -> None:
    log = make_log("console")
    get_logger().info("accepted", status="queued_for_dispatch", reason="two words")
    assert log.text() == '12:00:00.000 info     accepted status=queued_for_dispatch reason="two words"\n'


# --- lines written together -------------------------------------------------------------------------------------------------


class Word(StrEnum):
    """Words as our enums have them."""

    FIRST = "queued_for_dispatch"
    SECOND = "new_lead"


class Odd(StrEnum):
    """A word that no enum of ours should have."""

    NUMBER = "+55 11 98765-4321"


class Named(str):
    """A text that is not quite one."""


KIND = LineKind("engine.dispatch", "decided")
HARD: list[Any] = [
    *("half a pair \ud83d", '\x00\x1f\x7f\n"\\/\u2028', "ana@clinica.com.br", "é ção", "Bearer abcdef123", "", "+55 11 98765-4321"),
    *("5511987654321", "-5511987654321", "c-maria", "corr-019ab2c3d4e57f8091a2b3c4d5e6f708", "019ab2c3d4e57f8091a2b3c4d5e6f708"),
    *(None, True, 0, 2**63, 2**65, -(2**70), 0.0, -0.0, 1e-4, 9.99e-5, 1e15, 1e16, 1e300, 5e-324, float("nan"), float("-inf")),
    *(Word.FIRST, Word.SECOND, Odd.NUMBER, FlowId.INGRESS, Named("c-1"), Named("11987654321"), b"x", Decimal("1.50")),
    *(NOON, NOON + timedelta(microseconds=1), NOON.replace(tzinfo=None), NOON.astimezone(timezone(timedelta(hours=-3)))),
    *({"text": "oi", "n": 1}, {"at": NOON}, ["11987654321", 1.5], (NOON,), {1}, [[[[[[[["as deep as it is shown"]]]]]]]]),
]
VALUES = st.sampled_from(HARD) | st.text(max_size=8) | st.floats() | st.integers() | st.datetimes(timezones=st.just(UTC))


def rows_of(value: object) -> list[dict[str, Any]]:
    """A value in a line that is kept, in one out of order, and in fields that are hidden by their name."""
    return [
        {"flow_id": "F-02", "correlation_id": value, "status": value, "commit_order": 1, "result": value},
        {"flow_id": value, "correlation_id": "corr-1"},
        {"result": value, "status": value, "flow_id": "F-02"},
        {"flow_id": "F-02", "guardian_phone": value, "text": value},
    ]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_lines_written_together_are_those_written_one_by_one(make_log: Callable[..., Log], log_format: str) -> None:
    kept: list[Mapping[str, Any]] = []
    log = make_log(log_format, keep=kept.extend)
    read = 0

    def same(rows: list[dict[str, Any]]) -> None:
        nonlocal read
        told = []
        for write in (
            lambda: [get_logger("engine.dispatch").info("decided", **row) for row in rows],
            lambda: KIND.info(iter(rows)),
        ):
            write()
            told.append([repr(sorted(line.items())) for line in kept])
            kept.clear()
        assert told[0] == told[1]
        assert log.sink.flush(5)
        said = log.path.read_bytes()[read:]
        read += len(said)
        assert said[: len(said) // 2] == said[len(said) // 2 :]

    @settings(max_examples=40, deadline=None)
    @given(values=st.lists(VALUES, min_size=1, max_size=5))
    def drawn(values: list[Any]) -> None:
        same([row for value in values for row in rows_of(value)])

    for value in HARD:
        same(rows_of(value))
    drawn()
    with structlog.contextvars.bound_contextvars(contact_id="c-1", request="5511987654321"):
        same(rows_of("c-maria"))


def test_lines_written_together_have_one_time_and_keep_their_order_whatever_stands_among_them(tmp_path: Path) -> None:
    looked = iter(NOON + timedelta(seconds=n) for n in range(10))
    fd = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    sink = configure(log_format="json", now=lambda: next(looked), node_id="n1", fd=fd)
    plain = [{"flow_id": "F-02", "correlation_id": f"corr-{n}", "commit_order": n} for n in range(5)]
    KIND.info(plain)
    KIND.info([*plain[:2], {"commit_order": 2, "flow_id": "F-02", "phone": "Maria"}, *plain[3:]])
    structlog.reset_defaults()
    sink.close(5)
    os.close(fd)
    lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [line["commit_order"] for line in lines] == [0, 1, 2, 3, 4] * 2
    assert [line["ts"][17:19] for line in lines] == ["00"] * 5 + ["01", "01", "02", "01", "01"]
    assert (lines[7]["phone"], lines[8]["correlation_id"]) == (REDACTED, "corr-3")


def test_rows_that_nobody_wants_are_not_even_made(make_log: Callable[..., Log]) -> None:
    def rows(made: list[int]) -> Iterator[dict[str, Any]]:
        for n in range(2):
            made.append(n)
            yield {"flow_id": "F-02", "commit_order": n}

    made: list[int] = []
    log = make_log(level=logging.WARNING)
    KIND.info(rows(made))
    assert (made, log.text()) == ([], "")
    log = make_log()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    KIND.info(rows(made))
    assert (made, log.text()) == ([], "")

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    with capture_logs() as seen:
        KIND.info(rows(made))
    assert seen == [{"event": "decided", "log_level": "info", "flow_id": "F-02", "commit_order": n} for n in made]
    log = make_log()
    with capture_logs() as seen:
        KIND.info(rows(made))
    assert ([line["commit_order"] for line in seen], log.text()) == ([0, 1], "")
    KIND.info(rows(made))
    assert [line["commit_order"] for line in log.lines()] == [0, 1]
    said: list[str] = []
    structlog.configure(logger_factory=lambda name: SimpleNamespace(name=name, info=said.append))
    KIND.info(rows(made))
    assert [json.loads(line)["commit_order"] for line in said] == [0, 1]


def test_what_was_made_before_a_row_failed_is_written(make_log: Callable[..., Log]) -> None:
    log = make_log()
    with pytest.raises(ZeroDivisionError):
        KIND.info({"commit_order": 1 // n} for n in (1, 1, 0, 1))
    assert [line["commit_order"] for line in log.lines()] == [1, 1]


@pytest.mark.parametrize(
    "private",
    [
        "+5511987654321",
        "+55 11 98765-4321",
        "5511987654321",
        "551187654321",
        "11987654321",
        "(11) 98765-4321",
        "(11) 8765-4321",
        "5511987654321@s.whatsapp.net",
        "maria.silva@example.com",
        "123.456.789-09",
        "Bearer kora_live_abcdefgh12345678",
        "sha256=0123456789abcdef0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abcdefgh",
    ],
)
def test_what_looks_private_is_replaced_inside_any_text(private: str) -> None:
    clean = redact_text(f"before {private} after")
    assert private not in clean
    assert clean.startswith(("before [", "before Bearer [", "before sha256=["))
    assert clean.endswith("after")


@pytest.mark.parametrize(
    "harmless",
    [
        "2026-11-23T12:00:00.123456Z",
        "019ab2c3d4e57f8091a2b3c4d5e6f708",
        "corr-019ab2c3d4e57f8091a2b3c4d5e6f708",
        "1732363200",
        "wamid.HBgNNTUxMTk4NzY1NDMyMRUCABIYFDNBN0",
        "commit_order 12 of 40, 3.141592653589793 s",
        "http://127.0.0.1:8000/api/v1/contacts/c-maria",
    ],
)
def test_ids_times_and_numbers_stay_readable(harmless: str) -> None:
    assert redact_text(harmless) == harmless


def test_secrets_in_addresses_are_replaced() -> None:
    assert redact_text("json://user:pass@host/x?token=abc123&x=1") == "json://[secret]@host/x?token=[token]&x=1"
    assert redact_text("GET /ack/Zm9vYmFyYmF6cXV4 200") == "GET /ack/[token] 200"


def test_private_fields_are_replaced_by_name_at_any_depth() -> None:
    fields = {
        "contact_id": "c-1",
        "phone": "x",
        "items": [{"profile_name": "Maria", "status": "ok", "access_token": "t"}],
        "text": "",
    }
    assert redact(fields) == {
        "contact_id": "c-1",
        "phone": REDACTED,
        "items": [{"profile_name": REDACTED, "status": "ok", "access_token": REDACTED}],
        "text": "",
    }


def test_redaction_is_bounded() -> None:
    deep: Any = "end"
    for _ in range(50):
        deep = {"x": deep}
    assert "too deep" in json.dumps(redact(deep))
    assert redact(list(range(1000)))[-1] == "[800 more]"


# --- the sink ---------------------------------------------------------------------------------------------------------------


class Target:
    """Stands where the operating system's write is; can refuse, hang and write only part."""

    def __init__(self) -> None:
        self.data = b""
        self.error: OSError | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def write(self, _fd: int, data: bytes) -> int:
        self.entered.set()
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        part = data[: max(1, len(data) // 2)]
        self.data += part
        return len(part)


@pytest.mark.parametrize("code", [errno.EPIPE, errno.ENOSPC])
def test_a_sink_that_fails_is_alerted_once_and_nothing_is_lost_when_it_is_back(code: int) -> None:
    target, alerts = Target(), list[str]()
    target.error = OSError(code, os.strerror(code))
    sink = LogSink(1, write=target.write, on_failure=alerts.append)
    sink.emit("first")
    wait_until(lambda: sink.failed >= 2, "the sink must have failed twice")
    sink.emit("second")
    assert len(alerts) == 1
    assert os.strerror(code) in alerts[0]
    assert sink.state == "log_emit_failed_alerted"
    target.error = None
    assert sink.close(5)
    assert target.data == b"first\nsecond\n"
    assert (sink.emitted, sink.dropped, sink.state) == (2, 0, "log_emitted_structured")


def test_a_second_outage_is_alerted_again() -> None:
    target, alerts = Target(), list[str]()
    sink = LogSink(1, write=target.write, on_failure=alerts.append)
    for number in (1, 2):
        target.error = OSError(errno.EPIPE, "gone")
        sink.emit(f"line {number}")
        wait_until(lambda n=number: len(alerts) == n, "the outage must be alerted")  # type: ignore[misc]
        target.error = None
        assert sink.flush(5)
    sink.close()


def test_a_reader_that_stops_reading_is_alerted_long_before_the_buffer_is_full() -> None:
    target, alerts = Target(), list[str]()
    target.gate.clear()
    sink = LogSink(1, write=target.write, stuck_s=0.05, on_failure=alerts.append)
    sink.emit("stuck")
    assert target.entered.wait(5)

    def alerted() -> bool:
        sink.emit("later")
        return bool(alerts)

    wait_until(alerted, "a write that hangs must be alerted")
    assert (len(alerts), sink.dropped, sink.state) == (1, 0, "log_emit_failed_alerted")
    target.gate.set()
    assert sink.close(5)
    assert sink.state == "log_emitted_structured"


def test_a_sink_that_hangs_never_holds_the_caller_and_the_buffer_is_bounded() -> None:
    target, alerts = Target(), list[str]()
    target.gate.clear()
    sink = LogSink(1, write=target.write, capacity=100, on_failure=alerts.append)
    sink.emit("stuck")
    assert target.entered.wait(5)
    started = time.perf_counter()
    for number in range(1000):
        sink.emit(f"line {number}")
    took_s = time.perf_counter() - started
    assert took_s < 0.5 * busy()
    assert (sink.buffered, sink.dropped) == (101, 900)
    assert len(alerts) == 1
    target.gate.set()
    assert sink.close(5)
    assert target.data.splitlines()[0] == b"stuck"
    assert target.data.splitlines()[1:] == [f"line {n}".encode() for n in range(900, 1000)]


def test_of_lines_that_come_together_the_oldest_give_way_too() -> None:
    target, alerts = Target(), list[str]()
    target.gate.clear()
    sink = LogSink(1, write=target.write, capacity=100, on_failure=alerts.append)
    sink.emit("stuck")
    assert target.entered.wait(5)
    sink.emit_all([f"line {n}".encode() for n in range(90)])
    assert (sink.dropped, alerts) == (0, [])
    sink.emit_all([f"line {n}".encode() for n in range(90, 240)])
    assert (sink.buffered, sink.dropped, len(alerts)) == (101, 140, 1)
    target.gate.set()
    assert sink.close(5)
    assert target.data.splitlines() == [b"stuck", *(f"line {n}".encode() for n in range(140, 240))]
    assert sink.emitted == 101


def test_an_alert_that_fails_itself_breaks_nothing() -> None:
    def explode(_sentence: str) -> None:
        raise RuntimeError("no way to alert")

    target = Target()
    target.error = OSError(errno.EPIPE, "gone")
    sink = LogSink(1, write=target.write, on_failure=explode)
    sink.emit("line")
    wait_until(lambda: sink.alert_failed == 1, "the failed alert must be counted")
    target.error = None
    assert sink.close(5)
    assert target.data == b"line\n"


def test_a_real_pipe_without_a_reader_does_not_end_the_process(make_log: Callable[..., Log]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    sink = LogSink(write_end)
    sink.emit("nobody reads this")
    wait_until(lambda: sink.failed > 0, "writing must have failed")
    assert not sink.close(0.1)
    os.close(write_end)


def test_what_the_sink_lost_is_counted_in_the_metrics() -> None:
    metrics, target = Metrics(), Target()
    target.error = OSError(errno.ENOSPC, "full")
    sink = LogSink(1, write=target.write)
    metrics.watch_sink(sink)
    sink.emit("line")
    wait_until(lambda: sink.failed > 0, "writing must have failed")
    text = metrics.render()[0].decode()
    failed = next(line for line in text.splitlines() if line.startswith("kora_log_emit_failed_total"))
    assert float(failed.split()[1]) >= 1
    sink.close(0.05)


# --- metrics ----------------------------------------------------------------------------------------------------------------


def test_what_is_counted_is_shown() -> None:
    metrics = Metrics()
    metrics.accepted("command", "queued_for_dispatch")
    metrics.accepted("message", "duplicate_ignored")
    metrics.done("applied_once", "new_lead", 0.2)
    metrics.done("applied_once", "new_lead", 0.25, 3)
    metrics.done("applied_once", "new_lead", 999.0, 2)
    metrics.delivered("sent")
    metrics.lock("primary", 3.0, 5)
    text = metrics.render()[0].decode()
    for line in (
        'kora_commands_accepted_total{status="queued_for_dispatch"} 1.0',
        'kora_events_accepted_total{status="duplicate_ignored"} 1.0',
        'kora_commands_done_total{result="applied_once"} 6.0',
        'kora_accept_to_commit_seconds_bucket{le="0.1",priority="new_lead"} 0.0',
        'kora_accept_to_commit_seconds_bucket{le="0.25",priority="new_lead"} 4.0',
        'kora_accept_to_commit_seconds_bucket{le="300.0",priority="new_lead"} 4.0',
        'kora_accept_to_commit_seconds_bucket{le="+Inf",priority="new_lead"} 6.0',
        'kora_accept_to_commit_seconds_count{priority="new_lead"} 6.0',
        'kora_outbox_total{status="sent"} 1.0',
        'kora_lock_acquired_total{mode="primary"} 5.0',
    ):
        assert line in text.splitlines()


def test_a_scraper_may_ask_for_openmetrics() -> None:
    body, content_type = Metrics().render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_two_processes_in_one_test_do_not_share_counters() -> None:
    first, second = Metrics(), Metrics()
    first.accepted("command", "queued_for_dispatch")
    assert "queued_for_dispatch" not in second.render()[0].decode()


def test_labels_never_carry_personal_data() -> None:
    allowed = {
        "status",
        "result",
        "priority",
        "mode",
        "loop",
        "kind",
        "intent",
        "method",
        "route",
        "le",
        "generation",
        "check",
        "answer",
        "outcome",
        "signal",
        "level",
        "pack",
    }
    names = {label for family in Metrics().registry.collect() for sample in family.samples for label in sample.labels} | {
        name for metric in vars(Metrics()).values() for name in getattr(metric, "_labelnames", ())
    }
    assert names <= allowed
