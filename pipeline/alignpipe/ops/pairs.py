"""Preference pairs: the Bradley-Terry loss and who wins (D12, D18)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from alignpipe.ops.shapes import require_dims, require_same_shape


def bradley_terry_loss(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Negative log-likelihood of each preference: -log sigmoid(chosen - rejected) (D12).

    Args:
        chosen: Shape [N], scores of the preferred responses.
        rejected: Shape [N], scores of the others.

    Returns:
        Shape [N], per pair, log 2 at equal scores.

    Raises:
        ValueError: the shapes differ or are not flat.

    References:
        Christiano et al., arXiv 1706.03741, eq. 1; Stiennon et al., arXiv 2009.01325, section 3.4.
    """
    require_dims(1, chosen=chosen)
    require_same_shape(chosen=chosen, rejected=rejected)
    return functional.softplus(rejected - chosen)


def wins(first: Tensor, second: Tensor) -> Tensor:
    """Outcome of each comparison for the first: 1 where first > second, 0.5 at a tie, 0 otherwise.

    Its mean is the accuracy of a reward on pairs (D18) or a win rate. A tie is a half, which keeps a constant reward at
    0.5, where counting it as right or wrong would flatter or damn it.

    Args:
        first: Shape [N].
        second: Shape [N].

    Returns:
        Shape [N], float64.

    Raises:
        ValueError: the shapes differ, are not flat or empty, or a number is NaN (which would count as a loss).
    """
    require_dims(1, first=first)
    require_same_shape(first=first, second=second)
    if first.numel() == 0:
        raise ValueError("nothing to compare: both sides are empty")
    if bool(torch.isnan(first).any() | torch.isnan(second).any()):
        raise ValueError("NaN cannot be compared; one of the two sides holds one")
    return (first > second).double() + 0.5 * (first == second).double()
