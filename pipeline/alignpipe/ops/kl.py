"""Per-token estimators of KL(policy || reference) from tokens that the policy sampled (D32, D33, D34, D37).

With d = logp - ref_logp at a token drawn from the policy, E[d] is the KL divergence of that position. The names are
those of J. Schulman, "Approximating KL Divergence" (2020). As a *loss* only k2 has the right gradient (D33), so PPO
puts the penalty into the reward. As a *reward* only k1 has it: with k3 it is that of KL(policy || reference) minus
KL(reference || policy), which near the reference is next to nothing, and k2's is alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_mask, require_same_shape

MAX_LOG_RATIO = 20.0
"""Bound on ref_logp - logp before it is exponentiated (D34)."""

MAX_CLAMPED_KL = 10.0
"""Bound on the clamped k3 estimate of one token (D34)."""


def kl_k1(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """k1 = d = logp - ref_logp: unbiased, negative for single tokens, the highest variance; the default (D32).

    Args:
        logp: Shape [B, T], log-probabilities under the policy.
        ref_logp: Shape [B, T], of the same tokens under the reference.

    Returns:
        Shape [B, T].

    Raises:
        ValueError: the shapes differ.
    """
    require_same_shape(logp=logp, ref_logp=ref_logp)
    return logp - ref_logp


def kl_k2(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """k2 = d^2 / 2: biased in value, never negative, low variance; the right gradient as a loss (D32, D33).

    Args:
        logp: Shape [B, T], log-probabilities under the policy.
        ref_logp: Shape [B, T], of the same tokens under the reference.

    Returns:
        Shape [B, T].

    Raises:
        ValueError: the shapes differ.
    """
    return 0.5 * kl_k1(logp, ref_logp).square()


def kl_k3(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """k3 = exp(-d) - 1 + d: unbiased in value, never negative, lower variance than k1 while d is small (D32).

    Not clamped: it overflows where the reference finds a token far likelier than the policy; see `kl_k3_clamped`.

    Args:
        logp: Shape [B, T], log-probabilities under the policy.
        ref_logp: Shape [B, T], of the same tokens under the reference.

    Returns:
        Shape [B, T].

    Raises:
        ValueError: the shapes differ.
    """
    difference = kl_k1(logp, ref_logp)
    return torch.expm1(-difference) + difference


def kl_k3_clamped(logp: Tensor, ref_logp: Tensor) -> Tensor:
    """k3 with the log-ratio kept within +-20 and the estimate within +-10 (D34, as verl and NeMo RL): finite, biased.

    Args:
        logp: Shape [B, T], log-probabilities under the policy.
        ref_logp: Shape [B, T], of the same tokens under the reference.

    Returns:
        Shape [B, T], between 0 and 10.

    Raises:
        ValueError: the shapes differ.
    """
    difference = kl_k1(logp, ref_logp).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return kl_k3(difference, torch.zeros_like(difference)).clamp(-MAX_CLAMPED_KL, MAX_CLAMPED_KL)


def sequence_kl(kl: Tensor, mask: Tensor) -> Tensor:
    """KL per sequence: the sum over the kept tokens, not the mean (D37: a target of 6 is per sequence).

    Args:
        kl: Shape [B, T], per-token estimates.
        mask: Shape [B, T], boolean.

    Returns:
        Shape [B]; 0 for a sequence without kept tokens.

    Raises:
        ValueError: the shapes differ or the mask is not boolean.
    """
    require_mask(mask)
    require_same_shape(kl=kl, mask=mask)
    return torch.where(mask, kl, 0.0).sum(dim=-1)
