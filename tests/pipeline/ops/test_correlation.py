"""Correlations against hand numbers and plain-Python second formulations."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.correlation import pearson, ranks, spearman


def test_hand_numbers():
    x, y = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 3.0, 2.0, 100.0])
    # x deviations -1.5 -0.5 0.5 1.5; y mean 26.5
    covariance = -1.5 * -25.5 + -0.5 * -23.5 + 0.5 * -24.5 + 1.5 * 73.5
    norm = math.sqrt(5.0 * (25.5**2 + 23.5**2 + 24.5**2 + 73.5**2))
    assert pearson(x, y) == pytest.approx(covariance / norm, rel=1e-6)
    assert spearman(x, y) == pytest.approx(1 - 6 * 2 / (4 * 15), rel=1e-6)  # rank differences 0 1 1 0
    assert pearson(x, -2 * x + 7) == pytest.approx(-1.0, rel=1e-12)
    assert spearman(x, x.exp()) == pytest.approx(1.0, rel=1e-12)


def test_ties_share_their_mean_rank():
    assert ranks(torch.tensor([10.0, 20.0, 20.0, 5.0, 20.0])).tolist() == [2.0, 4.0, 4.0, 1.0, 4.0]


@given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4)), min_size=2, max_size=25))
@settings(deadline=None, max_examples=60)
def test_agrees_with_numpy(pairs):
    x, y = (torch.tensor(side, dtype=torch.float32) for side in zip(*pairs, strict=True))
    counted = [[sum(b < a for b in s) + (sum(b == a for b in s) + 1) / 2 for a in s] for s in (x.tolist(), y.tolist())]
    assert [ranks(x).tolist(), ranks(y).tolist()] == counted
    if len(set(x.tolist())) == 1 or len(set(y.tolist())) == 1:
        assert math.isnan(pearson(x, y))
        assert math.isnan(spearman(x, y))
        return
    assert pearson(x, y) == pytest.approx(numpy.corrcoef(x.numpy(), y.numpy())[0, 1], abs=1e-9)
    assert spearman(x, y) == pytest.approx(numpy.corrcoef(*counted)[0, 1], abs=1e-9)


def test_a_constant_side_has_no_correlation():
    for count in range(2, 40):  # for some counts the rounded mean of equal numbers is not that number
        constant = torch.full((count,), 0.1, dtype=torch.float64)
        assert math.isnan(pearson(constant, torch.arange(count)))
        assert math.isnan(pearson(torch.arange(count), constant))


def test_refusals():
    for function in (pearson, spearman):
        with pytest.raises(ValueError, match="shapes must be equal"):
            function(torch.zeros(3), torch.zeros(2))
        with pytest.raises(ValueError, match="at least 2 pairs, got 1"):
            function(torch.zeros(1), torch.zeros(1))
        with pytest.raises(ValueError, match="1 dimension"):
            function(torch.zeros(2, 2), torch.zeros(2, 2))
        with pytest.raises(ValueError, match="finite"):
            function(torch.tensor([1.0, torch.nan]), torch.zeros(2))
