"""What a classifier says of one of its labels."""

from __future__ import annotations

import torch
from torch import Tensor


def softmax_log_odds(logits: Tensor, label: int) -> Tensor:
    """Log-odds of one label against all others, of a softmax over them.

    log(p / (1 - p)) = logits[label] - logsumexp(logits[others]), which is exact where p is 1 for all a float can say.

    Args:
        logits: Shape [B, K], K at least 2.
        label: the label's position, from 0 to K - 1.

    Returns:
        Shape [B]. Its sigmoid is the label's probability.

    Raises:
        ValueError: fewer than two labels, or no such label.
    """
    labels = logits.shape[-1]
    if labels < 2 or not 0 <= label < labels:
        raise ValueError(f"label {label} of {labels}: there must be at least two, counted from 0")
    others = [index for index in range(labels) if index != label]
    return logits[:, label] - torch.logsumexp(logits[:, others], dim=-1)
