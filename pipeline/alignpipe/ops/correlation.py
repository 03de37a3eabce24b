"""Correlation of a reward with something it should, or should not, follow (length, the gold reward)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_dims, require_same_shape


def pearson(first: Tensor, second: Tensor) -> float:
    """Linear correlation: cov(x, y) / (std(x) std(y)).

    Args:
        first: Shape [N], N at least 2.
        second: Shape [N].

    Returns:
        In [-1, 1]; NaN when one side does not vary, for then it is undefined.

    Raises:
        ValueError: the shapes differ, are not flat, hold fewer than 2 values, or values that are not finite.
    """
    require_dims(1, first=first)
    require_same_shape(first=first, second=second)
    if first.numel() < 2:
        raise ValueError(f"a correlation needs at least 2 pairs, got {first.numel()}")
    x, y = first.double(), second.double()
    if not bool(torch.isfinite(x).all() & torch.isfinite(y).all()):
        raise ValueError("a correlation needs finite values")
    # Asked of the values themselves: the rounded mean of equal numbers leaves a spread of 1e-17, not of 0.
    if bool((x == x[0]).all() | (y == y[0]).all()):
        return float("nan")
    dx, dy = x - x.mean(), y - y.mean()
    return float((dx @ dy / (dx.norm() * dy.norm())).clamp(-1.0, 1.0))


def spearman(first: Tensor, second: Tensor) -> float:
    """Rank correlation: the linear correlation of the ranks, ties sharing their mean rank.

    Args:
        first: Shape [N], N at least 2.
        second: Shape [N].

    Returns:
        In [-1, 1]; NaN when one side does not vary.

    Raises:
        ValueError: the shapes differ, are not flat, hold fewer than 2 values, or values that are not finite.
    """
    require_dims(1, first=first, second=second)
    if not bool(torch.isfinite(first).all() & torch.isfinite(second).all()):
        raise ValueError("a correlation needs finite values")
    return pearson(ranks(first), ranks(second))


def ranks(values: Tensor) -> Tensor:
    """Ranks from 1 to N, ties sharing their mean rank: (number below) + (number equal + 1) / 2.

    Args:
        values: Shape [N].

    Returns:
        Shape [N], float64.

    Raises:
        ValueError: values are not flat.
    """
    require_dims(1, values=values)
    _, which, counts = torch.unique(values, return_inverse=True, return_counts=True)
    below = counts.cumsum(0) - counts
    rank_of_value: Tensor = below.double() + (counts.double() + 1.0) / 2.0
    return rank_of_value[which]
