"""A queue's alarm begins at its threshold and ends well below it."""

import pytest

from app.domain.queue_alarm import QueueLimits, alarmed

LIMITS = QueueLimits(size=100, alert_share=0.8)


@pytest.mark.parametrize(
    ("length", "before", "now"),
    [(79, False, False), (80, False, True), (79, True, True), (40, True, True), (39, True, False), (0, True, False)],
)
def test_it_begins_at_its_threshold_and_ends_below_half_of_it(length: int, before: bool, now: bool) -> None:
    assert alarmed(length, LIMITS, before=before) is now


@pytest.mark.parametrize("share", [0.0, 0.8])
def test_an_empty_queue_never_alarms_whatever_the_limits_are(share: float) -> None:
    for before in (True, False):
        assert not alarmed(0, QueueLimits(size=0, alert_share=share), before=before)
    assert alarmed(1, QueueLimits(size=0, alert_share=share), before=False)
