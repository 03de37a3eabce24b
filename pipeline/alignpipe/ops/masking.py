"""Masked sums, means and variances, and the two ways to rescale a batch (D38, D42, D43, D44)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_dims, require_mask, require_same_shape

MIN_WHITENED = 8
"""Fewest kept values whose standard deviation is worth dividing by (D44)."""

VARIANCE_EPS = 1e-8
"""Added to the variance under the root, as in LHP and N+ (D43)."""


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the kept positions: sum_i m_i x_i; 0 where nothing is kept.

    Selects with `where` instead of multiplying, so that a NaN or inf at a masked position does not spread.

    Args:
        values: Shape [...], floating point.
        mask: Shape [...], boolean.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: the shapes differ or the mask is not boolean.
    """
    require_mask(mask)
    require_same_shape(values=values, mask=mask)
    return torch.where(mask, values, 0.0).sum()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the kept positions: sum_i m_i x_i / sum_i m_i.

    Args:
        values: Shape [...], floating point.
        mask: Shape [...], boolean.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or it keeps nothing.
    """
    total = masked_sum(values, mask)
    return total / _count(mask, at_least=1)


def masked_row_means(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the kept positions of every row: sum_t m_bt x_bt / sum_t m_bt.

    Args:
        values: Shape [B, T], floating point.
        mask: Shape [B, T], boolean; at least one kept position in every row.

    Returns:
        Shape [B].

    Raises:
        ValueError: the shapes differ, the mask is not a boolean matrix, or a row keeps nothing.
    """
    require_mask(mask)
    require_dims(2, mask=mask)
    require_same_shape(values=values, mask=mask)
    counts = mask.sum(dim=1)
    if not bool((counts > 0).all()):
        raise ValueError(f"rows {(counts == 0).nonzero().flatten().tolist()[:8]} of the mask keep nothing")
    return torch.where(mask, values, 0.0).sum(dim=1) / counts


def masked_var(values: Tensor, mask: Tensor) -> Tensor:
    """Biased variance over the kept positions: the mean of (x_i - mean)^2 (D43: no Bessel correction, as N+).

    Args:
        values: Shape [...], floating point.
        mask: Shape [...], boolean.

    Returns:
        A scalar tensor.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or it keeps nothing.
    """
    return masked_mean((values - masked_mean(values, mask)).square(), mask)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Centre and scale to mean 0 and variance 1 over the kept positions: (x - mean) / sqrt(var + 1e-8) (D42, D43).

    Args:
        values: Shape [...], floating point.
        mask: Shape [...], boolean.

    Returns:
        Shape [...], 0 at masked positions.

    Raises:
        ValueError: fewer than 8 kept values (D44), shapes that differ, or a mask that is not boolean.
    """
    return torch.where(mask, _standardised(values, mask), 0.0)


def scale_only(values: Tensor, mask: Tensor) -> Tensor:
    """Scale the spread to variance 1 and leave the mean where it is: (x - mean) / sqrt(var + 1e-8) + mean (D38).

    This is `whiten(shift_mean=False)` of LHP (`utils/core.py`) and N+ (`ppo.py`), under a name of its own.

    Args:
        values: Shape [...], floating point.
        mask: Shape [...], boolean.

    Returns:
        Shape [...], 0 at masked positions.

    Raises:
        ValueError: fewer than 8 kept values (D44), shapes that differ, or a mask that is not boolean.
    """
    return torch.where(mask, _standardised(values, mask) + masked_mean(values, mask), 0.0)


def _standardised(values: Tensor, mask: Tensor) -> Tensor:
    require_mask(mask)
    require_same_shape(values=values, mask=mask)
    _count(mask, at_least=MIN_WHITENED)
    # In float64, where the mean of equal values is that value: a deviation of 0 would scale up what rounding leaves.
    wide = values.double()
    standardised = (wide - masked_mean(wide, mask)) * torch.rsqrt(masked_var(wide, mask) + VARIANCE_EPS)
    return standardised.to(values.dtype)


def _count(mask: Tensor, *, at_least: int) -> int:
    kept = int(mask.sum())
    if kept < at_least:
        raise ValueError(f"the mask keeps {kept} of {mask.numel()} values, at least {at_least} needed")
    return kept
