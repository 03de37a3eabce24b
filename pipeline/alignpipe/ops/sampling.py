"""Sampling by inverting the cumulative distribution: one uniform in, one token out (D20, D21, D28).

A token then depends on its own logits and its own uniform only: not on the batch around it, the rank, or the order of
draws, which is what makes per-episode random streams possible.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.logprobs import tempered
from alignpipe.ops.shapes import require_mask, require_same_shape

_ROUNDING = 1e-3
"""Nats by which a log-probability and an entropy may differ without meaning it."""


def inverse_cdf_sample(logits: Tensor, uniforms: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw the first token whose cumulative probability exceeds the uniform: min {v : sum_{w <= v} p_w > u}.

    The whole distribution, without top-k or top-p (D20). The sums are float64: over a large vocabulary a float32
    cumulative sum loses the rare tokens.

    Args:
        logits: Shape [B, V]; -inf forbids a token. At least one finite logit per row.
        uniforms: Shape [B], each in [0, 1).
        temperature: greater than 0.

    Returns:
        Shape [B], int64. Never a token of probability 0, also where u is 0 or rounds to 1.

    Raises:
        ValueError: the shapes do not fit or temperature is not positive.
    """
    if logits.dim() != 2 or uniforms.shape != logits.shape[:1]:
        raise ValueError(f"needs logits [B, V] and uniforms [B], got {tuple(logits.shape)} and {tuple(uniforms.shape)}")
    scaled = tempered(logits, temperature)
    weights = torch.exp(scaled - scaled.amax(dim=-1, keepdim=True))
    cumulative = torch.cumsum(weights, dim=-1, dtype=torch.float64)
    if cumulative.device.type != "cpu":
        cumulative = _monotone(cumulative, weights)
    total = cumulative[:, -1:].contiguous()
    drawn = torch.searchsorted(cumulative, uniforms.double().unsqueeze(1) * total, right=True)
    # u * total may round up to total, which no prefix exceeds: then it is the last token that added anything.
    last = torch.searchsorted(cumulative, total, right=False)
    return torch.minimum(drawn, last).squeeze(1)


def surprise_z(logprobs: Tensor, entropies: Tensor, mask: Tensor) -> Tensor:
    """How far sampled tokens are from the distributions they are scored under, in standard errors.

        d_t = -log p(y_t) - H_t          z = sum_t d_t / sqrt(sum_t (d_t^2 + 1e-6))

    A token drawn from p surprises by its entropy H on average, whatever came before, so the sum over kept tokens is a
    martingale and z is about standard normal. Below 0 the samples are likelier than they should be (top-p, a lower
    temperature), above 0 less likely (a higher temperature, older weights). Where hardly another token was possible d
    is rounding, of one sign perhaps: the constant, a thousandth of a nat, keeps that from counting.

    Args:
        logprobs: Shape [B, T], of the sampled tokens, at the temperature of the sampling.
        entropies: Shape [B, T], of the distributions they are taken to be drawn from, in nats.
        mask: Shape [B, T], boolean.

    Returns:
        A scalar.

    Raises:
        ValueError: the shapes differ or the mask is not boolean.
    """
    require_mask(mask)
    require_same_shape(mask=mask, logprobs=logprobs, entropies=entropies)
    excess = torch.where(mask, -logprobs.double() - entropies.double(), 0.0)
    return excess.sum() / torch.where(mask, excess.square() + _ROUNDING**2, 0.0).sum().sqrt()


def _monotone(cumulative: Tensor, weights: Tensor) -> Tensor:
    """Repair the prefix sums of a parallel scan: never falling, and never rising at a token of weight 0.

    A GPU sums every prefix in its own order, so rounding may do either. On the CPU the sum is sequential and right as
    it is, and this would cost as much again.
    """
    return torch.where(weights > 0, cumulative, 0.0).cummax(dim=-1).values
