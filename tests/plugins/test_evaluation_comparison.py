"""The comparison of two sets of scores, by hand."""

from __future__ import annotations

from statistics import NormalDist
from typing import Any

import pytest

from alignpipe.api import Failure
from alignpipe.rewarding.judge import Scored
from alignpipe_plugins.evaluation.comparison import compare, rows_of

OURS = Scored([1.0, 2.0, 3.0, 0.0], {"tone": [1.0, 1.0, 0.0, 0.0]})
THEIRS = Scored([0.0, 2.0, 4.0, -1.0], {"tone": [0.0, 0.0, 0.0, 1.0]})


def compared(
    ours: Scored = OURS, theirs: Scored | None = THEIRS, other: Scored | None = None, **changes: Any
) -> dict[str, float]:
    return compare(ours, theirs, other, **{"seed": 0, "confidence": 0.95, "resamples": 2000, **changes})


def test_hand_numbers() -> None:
    figures = compared(other=Scored([0.0, 0.0, 1.0, 1.0], {}))
    low, high = figures.pop("win_rate_low"), figures.pop("win_rate_high")
    assert figures == pytest.approx(
        {
            "mean": 1.5,
            "std": 1.25**0.5,
            "part/tone": 0.5,
            "mismatched_mean": 0.5,
            "baseline_mean": 1.25,
            "baseline_part/tone": 0.25,
            "win_rate": 0.625,  # won, tied, lost, won
        }
    )
    assert 0 <= low < 0.625 < high <= 1


def test_without_a_baseline_there_is_nothing_to_win() -> None:
    assert compared(theirs=None).keys() == {"mean", "std", "part/tone"}


def test_ties_count_half() -> None:
    figures = compared(OURS, OURS)
    assert (figures["win_rate"], figures["win_rate_low"], figures["win_rate_high"]) == (0.5, 0.5, 0.5)


def test_the_interval_is_about_that_of_the_normal_distribution() -> None:
    wins = [1.0] * 140 + [0.0] * 60
    figures = compared(Scored(wins, {}), Scored([0.5] * 200, {}), confidence=0.9, resamples=10_000)
    half = NormalDist().inv_cdf(0.95) * (0.7 * 0.3 / 200) ** 0.5
    assert figures["win_rate"] == 0.7
    assert figures["win_rate_low"] == pytest.approx(0.7 - half, abs=0.006)
    assert figures["win_rate_high"] == pytest.approx(0.7 + half, abs=0.006)


def test_the_interval_belongs_to_the_seed() -> None:
    scores = Scored([float(3 * row % 7) for row in range(30)], {}), Scored([float(row % 5) for row in range(30)], {})
    assert compared(*scores, resamples=50) == compared(*scores, resamples=50)
    assert compared(*scores, resamples=50) != compared(*scores, resamples=50, seed=1)


def test_the_lines_of_the_table() -> None:
    figures = compared(other=Scored([0.0, 0.0, 1.0, 1.0], {}))
    interval = f"0.625 [{figures['win_rate_low']:.3f}, {figures['win_rate_high']:.3f}]"
    assert rows_of("gold", figures, 0.95) == [
        ["gold", 1.25, 1.5],
        ["  tone", 0.25, 0.5],
        ["gold win rate [95%]", None, interval],
        ["gold, prompts swapped", None, 0.5],
    ]
    assert rows_of("gold", compared(theirs=None), 0.95) == [["gold", None, 1.5], ["  tone", None, 0.5]]


def test_of_many_parts_eight_are_shown() -> None:
    ours = Scored([1.0, 2.0], {f"part{number}": [float(number)] * 2 for number in range(11)})
    lines = rows_of("reward", compared(ours, theirs=None), 0.95)
    assert [line[0] for line in lines[1:9]] == [f"  part{number}" for number in range(8)]
    assert lines[9:] == [["  ... 3 more in summary.json", "", ""]]


def test_without_a_prompt_that_has_both_scores_nobody_wins() -> None:
    nan, other = float("nan"), Failure("not_applicable", "other rows")
    ours, theirs = Scored([1.0, nan], {}, failures={1: other}), Scored([nan, 2.0], {}, failures={0: other})
    figures = compared(ours, theirs)
    assert (figures["mean"], figures["baseline_mean"], figures["failures"]) == (1.0, 2.0, 2.0)
    assert rows_of("reward", figures, 0.95) == [["reward", 2.0, 1.0]]


def test_an_answer_without_a_score_counts_nowhere() -> None:
    nan, failed = float("nan"), Failure("timeout", "late")
    ours = Scored([1.0, 2.0, nan, 0.0], {"tone": [1.0, 0.0, nan, 0.5]}, failures={2: failed})
    theirs = Scored([0.0, nan, 4.0, 1.0], failures={1: failed})
    figures = compared(ours, theirs)
    assert figures["mean"] == pytest.approx(1.0)
    assert figures["part/tone"] == pytest.approx(0.5)
    assert figures["baseline_mean"] == pytest.approx(5 / 3)
    assert figures["win_rate"] == 0.5, "prompts 0 and 3: one won, one lost"
    assert figures["failures"] == 2
    assert "failures" not in compared()
