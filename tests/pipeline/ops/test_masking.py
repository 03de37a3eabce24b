"""Masked statistics against hand numbers, a plain-Python second formulation, and invariances."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from alignpipe.ops.masking import masked_mean, masked_row_means, masked_sum, masked_var, scale_only, whiten

VALUES = torch.tensor([[1.0, 2.0, 100.0], [4.0, -50.0, 5.0]])
MASK = torch.tensor([[True, True, False], [True, False, True]])


def test_hand_numbers():
    # kept: 1 2 4 5; sum 12, mean 3, squared deviations 4 1 1 4
    torch.testing.assert_close(masked_sum(VALUES, MASK), torch.tensor(12.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(masked_mean(VALUES, MASK), torch.tensor(3.0), rtol=1e-6, atol=0)
    torch.testing.assert_close(masked_var(VALUES, MASK), torch.tensor(2.5), rtol=1e-6, atol=0)  # biased: / 4, not / 3


def test_row_means_hand_numbers():
    assert masked_row_means(VALUES, MASK).tolist() == [1.5, 4.5]
    with pytest.raises(ValueError, match=r"rows \[1\] of the mask keep nothing"):
        masked_row_means(VALUES, torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(ValueError, match="2 dimension"):
        masked_row_means(VALUES[0], MASK[0])
    with pytest.raises(ValueError, match="shapes must be equal"):
        masked_row_means(VALUES[:, :2], MASK)


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 999), st.integers(0, 3))
@settings(deadline=None, max_examples=40)
def test_row_means_agree_with_plain_python_whatever_the_padding(rows, columns, seed, pads):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    mask = torch.rand(rows, columns, generator=generator) < 0.6
    mask[:, 0] = True
    values[~mask] = torch.nan
    padded = torch.nn.functional.pad(values, (0, pads), value=torch.inf), torch.nn.functional.pad(mask, (0, pads))
    for row, found in enumerate(masked_row_means(*padded).tolist()):
        kept = values[row][mask[row]].tolist()
        assert found == pytest.approx(sum(kept) / len(kept), abs=1e-12)


def test_whiten_hand_numbers():
    values = torch.tensor([[1.0, 1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 5.0, 77.0]], dtype=torch.float64)
    mask = torch.tensor([[True] * 8 + [False]])
    scale = 2.0 / math.sqrt(4.0 + 1e-8)  # mean 3, variance 4
    expected = torch.tensor([[-scale] * 4 + [scale] * 4 + [0.0]], dtype=torch.float64)
    torch.testing.assert_close(whiten(values, mask), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(scale_only(values, mask), (expected + 3.0) * mask, rtol=1e-12, atol=0)


def test_eps_stands_inside_the_root():
    values = torch.full((1, 8), 2.0, dtype=torch.float64)
    values[0, 0] += 1e-4
    mask = torch.ones(1, 8, dtype=torch.bool)
    variance = (1e-4) ** 2 * (1 / 8) * (7 / 8)
    expected = 1e-4 * (7 / 8) / math.sqrt(variance + 1e-8)
    assert whiten(values, mask)[0, 0].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("value", [0.7, 100.1, 12345.6])
def test_what_does_not_vary_is_whitened_to_nothing(value):
    """Not to what rounding leaves of it, which the small deviation would scale up, with one sign for all tokens."""
    values, mask = torch.full((20, 40), value), torch.rand(20, 40, generator=torch.Generator().manual_seed(0)) < 0.9
    assert not whiten(values, mask).any()
    torch.testing.assert_close(scale_only(values, mask), values * mask, rtol=1e-6, atol=0)


@given(st.lists(st.tuples(st.floats(-50, 50), st.booleans()), min_size=1, max_size=40))
@settings(deadline=None, max_examples=60)
def test_agrees_with_plain_python(pairs):
    values = torch.tensor([v for v, _ in pairs], dtype=torch.float64)
    mask = torch.tensor([m for _, m in pairs])
    kept = [v for v, m in pairs if m]
    assert masked_sum(values, mask).item() == pytest.approx(sum(kept), abs=1e-9)
    if not kept:
        with pytest.raises(ValueError, match="keeps 0 of"):
            masked_mean(values, mask)
        return
    mean = sum(kept) / len(kept)
    variance = sum((v - mean) ** 2 for v in kept) / len(kept)
    assert masked_mean(values, mask).item() == pytest.approx(mean, abs=1e-9)
    assert masked_var(values, mask).item() == pytest.approx(variance, abs=1e-9)
    if len(kept) >= 8:
        white = [w for w, m in zip(whiten(values, mask).tolist(), mask.tolist(), strict=True) if m]
        assert white == pytest.approx([(v - mean) / math.sqrt(variance + 1e-8) for v in kept], abs=1e-7)
        scaled = scale_only(values, mask)
        assert masked_mean(scaled, mask).item() == pytest.approx(mean, abs=1e-7)


@pytest.mark.parametrize("function", [masked_mean, masked_var, whiten, scale_only])
def test_padding_and_permutation_change_nothing(function):
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    padded_values = torch.cat([values, torch.full((6, 3), torch.nan, dtype=torch.float64)], dim=1)
    padded_mask = torch.cat([mask, torch.zeros(6, 3, dtype=torch.bool)], dim=1)
    order = torch.randperm(6, generator=generator)
    plain, padded, permuted = (
        function(values, mask),
        function(padded_values, padded_mask),
        function(values[order], mask[order]),
    )
    if plain.dim():
        padded, plain_permuted = padded[:, :5], plain[order]
    else:
        plain_permuted = plain
    torch.testing.assert_close(padded, plain, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(permuted, plain_permuted, rtol=1e-12, atol=1e-14)


def test_no_gradient_and_no_nan_from_masked_positions():
    values = torch.tensor([[1.0, torch.inf, 3.0]], requires_grad=True)
    masked_mean(values, torch.tensor([[True, False, True]])).backward()
    assert values.grad.tolist() == [[0.5, 0.0, 0.5]]


@pytest.mark.parametrize("function", [whiten, scale_only])
def test_whitening_refuses_fewer_than_eight(function):
    values, mask = torch.arange(9.0).unsqueeze(0), torch.ones(1, 9, dtype=torch.bool)
    mask[0, 0] = False
    function(values, mask)
    mask[0, 1] = False
    with pytest.raises(ValueError, match="keeps 7 of 9 values, at least 8"):
        function(values, mask)


@pytest.mark.parametrize("function", [masked_sum, masked_mean, masked_var, whiten, scale_only])
def test_refuses_other_masks(function):
    with pytest.raises(ValueError, match="boolean"):
        function(torch.ones(2, 8), torch.ones(2, 8))
    with pytest.raises(ValueError, match="shapes must be equal"):
        function(torch.ones(2, 8), torch.ones(8, dtype=torch.bool))  # would broadcast
