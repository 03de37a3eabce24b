"""PPO's policy and value losses per token, and what to watch beside them (D48, D49, D50, D62, D67).

Per-token tensors come back, never means: the reduction is one explicit call at the use site, weighted by the tokens of
the whole minibatch (D55, D63). Masked positions must hold finite numbers, or their gradient is NaN even when masked.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.kl import kl_k2
from alignpipe.ops.masking import masked_var
from alignpipe.ops.shapes import require_same_shape


def clipped_policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate: max(-A * ratio, -A * clamp(ratio, 1 - clip_low, 1 + clip_high)), ratio = exp(logp - old_logp).

    With a dual clip c the loss of a negative A is at most -A * c: a token that has become far likelier since it was
    sampled and turned out bad would otherwise have a loss, and a gradient, without bound.

    Args:
        logp: Shape [B, T], under the policy being trained; the gradient flows through it.
        old_logp: Shape [B, T], under the policy that sampled.
        advantages: Shape [B, T].
        clip_low: how far the ratio may fall below 1 and still count, in [0, 1]; usually 0.2 (D48).
        clip_high: how far it may rise above 1, at least 0; equal to clip_low unless asymmetric (D49).
        dual_clip: c, greater than 1; 3 is usual; None for no bound (D49).

    Returns:
        loss [B, T], and clipped [B, T], boolean, True where a bound is what counts: there the gradient is 0.

    Raises:
        ValueError: the shapes differ or a clip range is impossible.

    References:
        Schulman et al., arXiv 1707.06347, eq. 7; N+ `ppo.py`. Dual clip: Ye et al., arXiv 1912.09729, eq. 5.
    """
    require_same_shape(logp=logp, old_logp=old_logp, advantages=advantages)
    if not 0.0 <= clip_low <= 1.0 or not clip_high >= 0.0:
        raise ValueError(f"clip_low must be in [0, 1] and clip_high at least 0, got {clip_low} and {clip_high}")
    ratio = torch.exp(logp - old_logp)
    unclipped_loss = -advantages * ratio
    clipped_loss = -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    loss, clipped = torch.maximum(unclipped_loss, clipped_loss), clipped_loss > unclipped_loss
    if dual_clip is None:
        return loss, clipped
    if not dual_clip > 1.0:
        raise ValueError(f"dual_clip must be greater than 1, or None for no bound, got {dual_clip}")
    bound = -advantages * dual_clip
    bounded = (advantages < 0) & (bound < loss)
    return torch.where(bounded, bound, loss), clipped | bounded


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """Clipped value loss: 0.5 * max((V - R)^2, (V_clip - R)^2), V_clip = V kept within old_values +- clip (D50).

    The half belongs to the loss, clipped or not, so that switching the clip off does not change its scale.

    Args:
        values: Shape [B, T], of the critic being trained; the gradient flows through it.
        old_values: Shape [B, T], of the critic when the rollout was made.
        returns: Shape [B, T], the targets (D41).
        clip: largest move that counts, greater than 0, in units of return; None for the plain 0.5 * (V - R)^2.

    Returns:
        loss [B, T], and clipped [B, T], boolean, True where the clipped term is the larger: there the gradient is 0.

    Raises:
        ValueError: the shapes differ or clip is not positive.

    References:
        LHP `train_policy.py`; N+ `ppo.py`.
    """
    require_same_shape(values=values, old_values=old_values, returns=returns)
    unclipped_loss = 0.5 * (values - returns).square()
    if clip is None:
        return unclipped_loss, torch.zeros_like(unclipped_loss, dtype=torch.bool)
    if not clip > 0.0:
        raise ValueError(f"clip must be greater than 0, or None for an unclipped value loss, got {clip}")
    clipped_values = old_values + (values - old_values).clamp(-clip, clip)
    clipped_loss = 0.5 * (clipped_values - returns).square()
    return torch.maximum(unclipped_loss, clipped_loss), clipped_loss > unclipped_loss


def approx_kl(logp: Tensor, old_logp: Tensor) -> Tensor:
    """How far one update has moved the policy, per token: 0.5 * (logp - old_logp)^2 (the k2 form, as LHP, N+ and TRL).

    Not the KL to the reference; this one is 0 before the first step (D64) and stops the epochs early (D62).

    Args:
        logp: Shape [B, T], under the policy being trained.
        old_logp: Shape [B, T], under the policy that sampled.

    Returns:
        Shape [B, T], never negative.

    Raises:
        ValueError: the shapes differ.
    """
    return kl_k2(logp, old_logp)


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> Tensor:
    """Share of the returns' variance that the critic explains: 1 - var(R - V) / var(R) over kept positions (D67).

    Args:
        values: Shape [B, T].
        returns: Shape [B, T].
        mask: Shape [B, T], boolean.

    Returns:
        A scalar tensor: 1 perfect, 0 no better than a constant, negative worse; NaN when the returns do not vary.

    Raises:
        ValueError: the shapes differ, the mask is not boolean, or it keeps nothing.
    """
    require_same_shape(values=values, returns=returns, mask=mask)
    variance = masked_var(returns, mask)
    unexplained = masked_var(returns - values, mask)
    return torch.where(variance > 0, 1.0 - unexplained / variance, torch.nan)
