"""Does a reward's margin mean what its sigmoid says."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.pairs import wins
from alignpipe.ops.shapes import require_dims


def expected_calibration_error(margins: Tensor, bins: int = 10) -> float:
    """Gap between claimed and real accuracy of a reward's preferences: sum_b n_b / N * |accuracy_b - confidence_b|.

    margin = score(chosen) - score(rejected). The reward prefers the higher score and claims to be right with
    probability sigmoid(|margin|), in [0.5, 1]; it is right where margin > 0, half right at 0. The bins cut
    [0.5, 1] into equal widths. (Over sigmoid(margin) itself the label would be 1 for every pair.)

    Args:
        margins: Shape [N], all finite.
        bins: number of bins, at least 1.

    Returns:
        In [0, 1]; 0 is calibrated. Estimates from few pairs per bin are biased upwards.

    Raises:
        ValueError: margins are not flat, empty or not finite, or bins is below 1.

    References:
        Guo et al., arXiv 1706.04599, eq. 3.
    """
    require_dims(1, margins=margins)
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if margins.numel() == 0 or not bool(torch.isfinite(margins).all()):
        raise ValueError(f"margins must be finite and at least one, got {margins.numel()}")
    wide = margins.double()
    right = wins(wide, torch.zeros_like(wide))
    confidence = torch.sigmoid(wide.abs())
    which = ((confidence - 0.5) * 2.0 * bins).long().clamp(0, bins - 1)
    # n_b * |accuracy_b - confidence_b| is the absolute sum of the differences in the bin, so empty bins need no care.
    gaps = torch.zeros(bins, dtype=torch.float64, device=margins.device).index_add(0, which, right - confidence)
    return float(gaps.abs().sum() / margins.numel())
