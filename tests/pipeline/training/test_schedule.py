"""Learning-rate factors, by hand."""

from __future__ import annotations

import math

import pytest

from alignpipe.options import Schedule
from alignpipe.training.schedule import rate


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.linear, [1 / 3, 2 / 3, 1, 0.75, 0.5, 0.25]),
        (Schedule.constant, [1 / 3, 2 / 3, 1, 1, 1, 1]),
        (Schedule.cosine, [1 / 3, 2 / 3, 1, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]),
    ],
)
def test_two_steps_of_warm_up_and_four_down(schedule: Schedule, expected: list[float]) -> None:
    assert [rate(step, 6, 2, schedule) for step in range(6)] == pytest.approx(expected)


@pytest.mark.parametrize("schedule", list(Schedule))
def test_without_warm_up_it_starts_at_the_peak_and_never_stands_still(schedule: Schedule) -> None:
    assert rate(0, 5, 0, schedule) == 1
    assert all(0 < rate(step, 5, 0, schedule) <= 1 for step in range(5))
    assert rate(0, 1, 0, schedule) == 1
