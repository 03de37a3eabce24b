"""Log-probabilities of tokens and the entropy of a policy. Temperature is applied here and in `sampling` (D21)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.ops.shapes import require_positive


def token_logprobs(logits: Tensor, tokens: Tensor, temperature: float = 1.0) -> Tensor:
    """Log-probability of each token: z_a - logsumexp(z) with z = logits / temperature (D21).

    Gather minus logsumexp: no [..., V] log-softmax is made or kept for the backward pass.

    Args:
        logits: Shape [..., V]; half precision is computed in float32.
        tokens: Shape [...], integer, each in [0, V).
        temperature: the one that sampled the tokens; the old, new and reference log-probabilities must share it.

    Returns:
        Shape [...], float32 or float64.

    Raises:
        ValueError: tokens do not have the shape of logits without its last dimension, or temperature is not positive.
    """
    if logits.shape[:-1] != tokens.shape:
        raise ValueError(f"tokens {tuple(tokens.shape)} must have the shape of logits {tuple(logits.shape)} without V")
    scaled = tempered(logits, temperature)
    chosen = scaled.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
    return chosen - torch.logsumexp(scaled, dim=-1)


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Entropy in nats of the distribution at each position: logsumexp(z) - sum_v p_v z_v with z = logits / temperature.

    Args:
        logits: Shape [..., V]; -inf (a forbidden token) counts as probability 0.
        temperature: as in `token_logprobs`.

    Returns:
        Shape [...], between 0 and log V.

    Raises:
        ValueError: temperature is not positive.
    """
    scaled = tempered(logits, temperature)
    log_total = torch.logsumexp(scaled, dim=-1)
    probs = torch.exp(scaled - log_total.unsqueeze(-1))
    # The clamp makes 0 * -inf a 0; every finite logit passes unchanged.
    finite = scaled.clamp(min=torch.finfo(scaled.dtype).min)
    return log_total - (probs * finite).sum(dim=-1)


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits by the temperature, in float32 at least.

    Args:
        logits: Shape [..., V].
        temperature: greater than 0.

    Returns:
        Shape [..., V]; the very same tensor when there is nothing to do, which spares a copy of the largest tensor.

    Raises:
        ValueError: temperature is not positive.
    """
    require_positive(temperature=temperature)
    wide = widened(logits)
    return wide if temperature == 1.0 else wide / temperature


def widened(values: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64, of any shape, are the very same tensor."""
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
