"""Expected calibration error."""

from __future__ import annotations

import math

import pytest
import torch

from alignpipe.ops.calibration import expected_calibration_error


def margin(confidence):
    return math.log(confidence / (1 - confidence))


def test_hand_numbers():
    # One bin of two pairs at confidence 0.73, half of them right; one of three at 0.96, all right.
    margins = torch.tensor([margin(0.73), -margin(0.73), *[margin(0.96)] * 3], dtype=torch.float64)
    expected = 2 / 5 * abs(0.5 - 0.73) + 3 / 5 * abs(1.0 - 0.96)
    assert expected_calibration_error(margins) == pytest.approx(expected, rel=1e-6)


def test_bins_average_before_the_absolute_value():
    # 0.52 (wrong: gap -0.52) and 0.54 (right: gap 0.46): one bin of ten, but two of fifty
    margins = torch.tensor([-margin(0.52), margin(0.54)], dtype=torch.float64)
    assert expected_calibration_error(margins, bins=10) == pytest.approx(abs(1.0 - 0.52 - 0.54) / 2, rel=1e-6)
    assert expected_calibration_error(margins, bins=50) == pytest.approx((0.52 + 0.46) / 2, rel=1e-6)


def test_bins_cut_the_half_range():
    # ten bins of 0.05 from 0.5: 0.51 (wrong) and 0.57 (right) do not share one
    margins = torch.tensor([-margin(0.51), margin(0.57)], dtype=torch.float64)
    assert expected_calibration_error(margins, bins=10) == pytest.approx((0.51 + 0.43) / 2, rel=1e-6)


def test_a_calibrated_reward_has_a_small_error_and_an_overconfident_one_does_not():
    generator = torch.Generator().manual_seed(0)
    size = (2 * torch.randn(40_000, generator=generator)).abs()
    right = torch.rand(40_000, generator=generator) < torch.sigmoid(size)
    margins = torch.where(right, size, -size)
    assert expected_calibration_error(margins) < 0.01
    assert expected_calibration_error(5 * margins) > 0.1


def test_ends_of_the_range():
    assert expected_calibration_error(torch.zeros(4)) == 0.0  # claims nothing, half right
    assert expected_calibration_error(torch.full((4,), 1000.0)) == 0.0
    assert expected_calibration_error(torch.full((4,), -1000.0)) == 1.0


def test_refusals():
    with pytest.raises(ValueError, match="at least one, got 0"):
        expected_calibration_error(torch.zeros(0))
    with pytest.raises(ValueError, match="finite"):
        expected_calibration_error(torch.tensor([torch.nan]))
    with pytest.raises(ValueError, match="bins must be at least 1"):
        expected_calibration_error(torch.zeros(2), bins=0)
    with pytest.raises(ValueError, match="1 dimension"):
        expected_calibration_error(torch.zeros(2, 2))
