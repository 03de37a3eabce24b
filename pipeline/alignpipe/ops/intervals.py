"""Confidence intervals for the numbers that a comparison rests on."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_dims

MAX_DRAWS = 4_000_000
"""Resampled indices held at once (32 MB), whatever the number of prompts."""


def bootstrap_interval(
    values: Tensor, generator: torch.Generator, confidence: float = 0.95, resamples: int = 10_000
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean: quantiles of the means of `resamples` samples of N with replacement.

    Args:
        values: Shape [N], one value per prompt (the unit that is resampled), all finite.
        generator: source of the draws, on the CPU; the same seed gives the same interval.
        confidence: in (0, 1).
        resamples: number of bootstrap samples.

    Returns:
        Lower and upper end; for win rates values are 0, 0.5 and 1 (`pairs.wins`).

    Raises:
        ValueError: values are not flat, empty or not finite, or a parameter is out of range.

    References:
        Efron and Tibshirani (1993), chapter 13.
    """
    require_dims(1, values=values)
    _require_confidence(confidence)
    if values.numel() == 0 or resamples < 1:
        raise ValueError(f"needs at least one value and one resample, got {values.numel()} and {resamples}")
    sample = values.detach().double().cpu()
    if not bool(torch.isfinite(sample).all()):
        raise ValueError("values must be finite; a mean over NaN or inf has no interval")
    count = sample.numel()
    rows = max(1, MAX_DRAWS // count)
    means = [
        sample[torch.randint(count, (min(rows, resamples - done), count), generator=generator)].mean(dim=1)
        for done in range(0, resamples, rows)
    ]
    tail = (1.0 - confidence) / 2.0
    ends = torch.quantile(torch.cat(means), torch.tensor([tail, 1.0 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])


def wilson_interval(successes: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share p = successes / total.

        (p + z^2 / 2n -+ z * sqrt(p (1 - p) / n + z^2 / 4n^2)) / (1 + z^2 / n)

    Args:
        successes: number of successes, in [0, total]; ties may count half.
        total: n, at least 1.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, inside [0, 1] also where p is 0 or 1.

    Raises:
        ValueError: the counts are impossible or confidence is out of range.

    References:
        Wilson (1927), JASA 22.
    """
    _require_confidence(confidence)
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"needs 0 <= successes <= total and total >= 1, got {successes} of {total}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    share = successes / total
    centre = share + z * z / (2 * total)
    half = z * sqrt(share * (1.0 - share) / total + z * z / (4 * total * total))
    scale = 1.0 + z * z / total
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _require_confidence(confidence: float) -> None:
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}")
