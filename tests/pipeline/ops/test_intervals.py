"""Confidence intervals: known numbers, coverage, and reproducibility."""

from __future__ import annotations

import math

import pytest
import torch

from alignpipe.ops import intervals
from alignpipe.ops.intervals import bootstrap_interval, wilson_interval


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_wilson_known_numbers():
    # 8 of 10 at 95 %: (0.4902, 0.9433), the usual textbook example
    assert wilson_interval(8, 10) == pytest.approx((0.490162, 0.943318), abs=1e-6)
    z = 1.959963984540054
    assert wilson_interval(0, 20) == pytest.approx((0.0, z**2 / (20 + z**2)), rel=1e-6)
    assert wilson_interval(20, 20) == pytest.approx((20 / (20 + z**2), 1.0), rel=1e-6)


def test_wilson_ends_solve_the_score_equation():
    low, high = wilson_interval(37.5, 90, confidence=0.9)
    for end in (low, high):
        assert abs(37.5 / 90 - end) / math.sqrt(end * (1 - end) / 90) == pytest.approx(1.6448536, rel=1e-6)
    assert low < 37.5 / 90 < high


def test_bootstrap_is_near_the_normal_interval_of_a_large_sample():
    values = torch.randn(2000, generator=seeded(1), dtype=torch.float64) * 2 + 5
    low, high = bootstrap_interval(values, seeded(), resamples=4000)
    error = values.std().item() / math.sqrt(2000)
    assert low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.15 * error)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    draws = torch.rand(200, 60, generator=seeded(2)).lt(0.7).double()
    covered = 0
    for row in draws:
        low, high = bootstrap_interval(row, seeded(3), confidence=0.8, resamples=400)
        covered += low <= 0.7 <= high
    assert 0.72 <= covered / 200 <= 0.88


def test_bootstrap_agrees_with_the_exact_distribution_of_two_values():
    # 0 and 1: a resample's mean is 0, 0.5 or 1 with probability 1/4, 1/2, 1/4
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), seeded(), confidence=0.6) == (0.0, 1.0)
    assert bootstrap_interval(torch.tensor([0.0, 1.0]), seeded(), confidence=0.4) == (0.5, 0.5)


def test_bootstrap_is_reproducible_and_does_not_depend_on_its_chunks(monkeypatch):
    values = torch.arange(50.0)
    first = bootstrap_interval(values, seeded(4), resamples=500)
    assert bootstrap_interval(values, seeded(4), resamples=500) == first
    assert bootstrap_interval(values, seeded(5), resamples=500) != first
    few = bootstrap_interval(values, seeded(4), resamples=25)
    monkeypatch.setattr(intervals, "MAX_DRAWS", 1000)  # 20 rows at a time
    assert bootstrap_interval(values, seeded(4), resamples=500) == first
    assert bootstrap_interval(values, seeded(4), resamples=25) == few


def test_bootstrap_of_a_constant_has_no_width():
    assert bootstrap_interval(torch.full((9,), 0.5), seeded(), resamples=50) == (0.5, 0.5)


def test_refusals():
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval(torch.zeros(0), seeded())
    with pytest.raises(ValueError, match="one resample, got 3 and 0"):
        bootstrap_interval(torch.zeros(3), seeded(), resamples=0)
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval(torch.tensor([0.0, torch.nan]), seeded())
    with pytest.raises(ValueError, match="1 dimension"):
        bootstrap_interval(torch.zeros(2, 2), seeded())
    with pytest.raises(ValueError, match="confidence must be between 0 and 1, got 95"):
        wilson_interval(1, 2, confidence=95)
    with pytest.raises(ValueError, match="got 3 of 2"):
        wilson_interval(3, 2)
    with pytest.raises(ValueError, match="got 0 of 0"):
        wilson_interval(0, 0)
