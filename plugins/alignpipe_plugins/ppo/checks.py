"""The checks every training makes: before it trusts its own first update (D64, D65), and before it keeps weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from alignpipe.errors import TrainingError
from alignpipe.training.linears import linear_dtype_of

_WORST_RATIO = 1e-3
"""How far any first ratio may be from 1 in float32: the same forward pass in another batch rounds to about 1e-5."""
_MEAN_RATIO = {"bfloat16": 2e-2, "float16": 2e-3, "bfloat16 products": 2e-3}
"""The same for the mean over tokens, where single ones are off by up to 0.1: ten times the most that other batches of
the same rows changed (models of 4 to 32 layers: 2.2e-3, 2.1e-4, 2.8e-4). A temperature of 0.98 in place of 1 makes it
1.6e-2 to 2.7e-2, one of 0.95 4e-2 to 7e-2."""
_WORST_Z = 6.0
"""Standard errors. Chance goes that far in one training of 500 million. Three times 64 answers of the tiny model after
sft gave -1 to 0.8, with top-p 0.9 -10 to -12, top-p 0.95 -5 to -7, a temperature 0.7 of the right one -8 to -11; 0.9 of
it, or top-k 20, -2 to -6: what bends the distribution that little is not told from chance by one update."""
_WORST_KL, _WORST_KL_HALF = 1e-2, 5e-2
"""How far, in nats per sequence, a policy may be from its own copy: in float32, and with anything in half precision.
Both read the same batch by the same forward, and 0 was seen in every type, with adapters too; this is for devices on
which a forward does not repeat itself to the bit."""


def check_first_ratio(worst: float, mean: float, network: nn.Module) -> None:
    """Before any step the log-probabilities of the training are those of the rollout: every ratio is 1 (D64).

    `worst` and `mean` are those of |ratio - 1| over the tokens of the first minibatch.

    Raises `TrainingError` with what to look for.
    """
    precision = _precision(network)
    found, allowed = (mean, _MEAN_RATIO[precision]) if precision in _MEAN_RATIO else (worst, _WORST_RATIO)
    if not found <= allowed:
        raise TrainingError(
            f"start check D64 failed: before the first optimiser step the ratio differs from 1 by {found:.3g} "
            f"(allowed in {precision}: {allowed:g}). The policy is not deterministic (dropout?), or log-probabilities "
            "are computed differently in rollout and training; training on such ratios would be wrong"
        )


def check_sampling(z: float) -> None:
    """The first update's tokens come from the distribution they are scored under; `z` as `ops.sampling.surprise_z`.

    Raises `TrainingError` with what to look for.
    """
    if not abs(z) <= _WORST_Z:
        how = "likelier" if z < 0 else "less likely"
        raise TrainingError(
            "the sampler does not sample from the policy: its tokens are "
            f"{how} under the policy than tokens drawn from it are, by {abs(z):.3g} standard errors ({_WORST_Z:g} are "
            "allowed). Look at the rollout slot: a filter (top-k, top-p, min-p), another temperature, or other weights"
        )


def check_first_kl(kl: Tensor, network: nn.Module) -> None:
    """A policy that starts as its own reference has KL 0 to it; `kl` [B] is summed per sequence (D65).

    Raises `TrainingError` with what to look for.
    """
    worst = float(kl.abs().max())
    if not worst <= (_WORST_KL_HALF if _precision(network) in _MEAN_RATIO else _WORST_KL):
        raise TrainingError(
            "start check D65 failed: policy and reference are the same checkpoint, yet a sequence has KL "
            f"{worst:.3g} between them. They are loaded or run differently (dtype, attention, adapters, dropout)"
        )


def check_finite(networks: Mapping[str, nn.Module], update: int) -> None:
    """Weights that are not finite are never kept, neither as a checkpoint nor as the result.

    Raises `TrainingError` with the network's name.
    """
    for name, network in networks.items():
        if not all(bool(torch.isfinite(value).all()) for value in network.parameters()):
            raise TrainingError(f"the {name}'s weights are not finite after update {update}; lower its learning rate")


def _precision(network: nn.Module) -> str:
    """In which type the network computes: that of its weights, or `bfloat16 products` of float32 weights."""
    weights, linears = next(network.parameters()).dtype, linear_dtype_of(network)
    name = str(linears).removeprefix("torch.")
    return name if weights is linears else f"{name} products"
