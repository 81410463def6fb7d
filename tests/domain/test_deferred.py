"""The deferred item: two P0 incidents in 14 days, or three critical backlog days in a row, reopen it."""

from datetime import date, timedelta

import pytest

from app.domain.deferred import DeferredState, Incident, evaluate
from tests.domain.cases import NOON

TODAY = NOON.date()


def incident(days_ago: float, number: int = 1) -> Incident:
    return Incident(incident_id=f"i-{number}", at=NOON - timedelta(days=days_ago))


def days(*ago: int) -> set[date]:
    return {TODAY - timedelta(days=n) for n in ago}


@pytest.mark.story("S-PC-P1-001")
@pytest.mark.parametrize(
    ("incidents", "critical", "met", "progress"),
    [
        ([], days(), False, 0.0),
        ([incident(1)], days(), False, 0.5),
        ([incident(1), incident(14, 2)], days(), True, 1.0),
        ([incident(1), incident(14.001, 2)], days(), False, 0.5),
        ([incident(1), incident(-0.1, 2)], days(), False, 0.5),
        ([], days(0, 1), False, 2 / 3),
        ([], days(0, 1, 2), True, 1.0),
        ([], days(0, 1, 3, 4), False, 2 / 3),
        ([], days(12, 13, 14), True, 1.0),
        ([], days(13, 14, 15), False, 2 / 3),
        ([incident(1), incident(2, 2), incident(3, 3)], days(0), True, 1.0),
    ],
)
def test_the_trigger_is_exactly_the_plans(incidents: list[Incident], critical: set[date], met: bool, progress: float) -> None:
    status = evaluate(incidents, critical, NOON)
    assert status.state is (DeferredState.REOPEN_TRIGGERED if met else DeferredState.DEFERRED_WITH_TRIGGER)
    assert status.progress == pytest.approx(progress)


@pytest.mark.story("S-PC-P1-001")
def test_the_evidence_that_met_it_is_named_oldest_first() -> None:
    status = evaluate([incident(1, 2), incident(3, 1), incident(20, 0)], days(0, 1, 5, 6, 7, 8), NOON)
    assert [i.incident_id for i in status.incidents] == ["i-1", "i-2"]
    assert status.streak == tuple(sorted(days(5, 6, 7, 8)))
    assert evaluate([], days(0, 1, 5, 6), NOON).streak == tuple(sorted(days(0, 1))), "the latest of equal runs"
