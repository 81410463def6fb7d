"""One correlation id, one trace."""

import pytest

from app.domain.trace_context import span_id_of, trace_id_of, trace_in, traceparent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def test_a_callers_trace_goes_on_through_us() -> None:
    assert trace_in(f"00-{TRACE}-{SPAN}-01") == TRACE
    assert trace_id_of(TRACE) == TRACE
    assert traceparent(TRACE, SPAN) == f"00-{TRACE}-{SPAN}-01"


BROKEN = (
    "",
    "00",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-{SPAN}-01",
    f"00-{TRACE[:-1]}-{SPAN}-01",
    "x" * 500,
)


@pytest.mark.parametrize("header", BROKEN)
def test_a_broken_header_is_no_trace(header: str) -> None:
    assert trace_in(header) is None


def test_any_other_id_has_a_trace_of_its_own_always_the_same() -> None:
    assert trace_id_of("corr-1") == trace_id_of("corr-1") != trace_id_of("corr-2")
    assert trace_id_of("0" * 32) != "0" * 32
    assert len(trace_id_of("corr-1")) == 32
    assert span_id_of("a", "b") == span_id_of("a", "b") != span_id_of("ab")
    assert len(span_id_of("a")) == 16
