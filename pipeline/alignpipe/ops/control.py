"""The adaptive KL coefficient (D36)."""

from __future__ import annotations

from alignpipe.ops.shapes import require_positive

MAX_ERROR = 0.2
"""Largest proportional error that one update reacts to, either way."""


def adaptive_kl_coef(coef: float, kl: float, target: float, episodes: int, horizon: int) -> float:
    """Move the KL coefficient towards a KL target: coef * (1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon).

    Args:
        coef: the coefficient that the finished update used, greater than 0.
        kl: mean KL per sequence of that update, in nats (D37).
        target: wanted KL per sequence, greater than 0.
        episodes: sequences in that update.
        horizon: episodes over which an error is answered; at least 0.2 * episodes, or the coefficient could turn
            negative.

    Returns:
        The coefficient of the next update.

    Raises:
        ValueError: an argument is not positive, kl is not finite, or the horizon is too short.

    References:
        Ziegler et al., arXiv 1909.08593, section 2.2; LHP `train_policy.py: AdaptiveKLController`.
    """
    require_positive(coef=coef, target=target, episodes=episodes, horizon=horizon)
    if not abs(kl) < float("inf"):
        raise ValueError(f"kl must be finite, got {kl}")
    if horizon <= MAX_ERROR * episodes:
        raise ValueError(f"horizon must be greater than {MAX_ERROR} * episodes = {MAX_ERROR * episodes}, got {horizon}")
    error = min(max(kl / target - 1.0, -MAX_ERROR), MAX_ERROR)
    return coef * (1.0 + error * episodes / horizon)
