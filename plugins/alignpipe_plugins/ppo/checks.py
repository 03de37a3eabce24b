"""The checks every training makes before it trusts its own first update (D64, D65)."""

from __future__ import annotations

from torch import Tensor

from alignpipe.errors import TrainingError

_RATIO_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.05}
"""How far the first ratio may be from 1: the same forward pass in another batch differs by rounding only."""
_KL_TOLERANCE = {"float32": 1e-2, "bfloat16": 0.5, "float16": 0.2}
"""How far, in nats per sequence, a policy may be from its own copy."""


def check_first_ratio(worst: float, dtype: str) -> None:
    """Before any step the policy that learns is the policy that sampled: every ratio is 1 (D64).

    Raises `TrainingError` with what to look for.
    """
    if not worst <= _RATIO_TOLERANCE.get(dtype, _RATIO_TOLERANCE["float32"]):
        raise TrainingError(
            f"start check D64 failed: before the first optimiser step a ratio differs from 1 by {worst:.3g}. The policy is not "
            "deterministic (dropout?), or log-probabilities are computed differently in rollout and training; "
            "training on such ratios would be wrong"
        )


def check_first_kl(kl: Tensor, dtype: str) -> None:
    """A policy that starts as its own reference has KL 0 to it; `kl` [B] is summed per sequence (D65).

    Raises `TrainingError` with what to look for.
    """
    worst = float(kl.abs().max())
    if not worst <= _KL_TOLERANCE.get(dtype, _KL_TOLERANCE["float32"]):
        raise TrainingError(
            f"start check D65 failed: policy and reference are the same checkpoint, yet a sequence has KL {worst:.3g} between them. "
            "They are loaded or run differently (dtype, attention, adapters, dropout)"
        )
