"""Floating-point operations that a Llama needs, counted by hand, and what the machine can do at best.

Counted are matrix products only, 2 operations per multiply-add, for real tokens: padding, normalisation, softmax and
repeated work are left out, so that a faster way of computing the same never changes the count. A backward pass counts
as two forward passes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A Llama without grouped heads."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int

    @property
    def block_weights(self) -> int:
        """Matrix weights of all blocks: four of attention, three of the feed-forward part, per layer."""
        return self.layers * (4 * self.hidden**2 + 3 * self.hidden * self.intermediate)

    @property
    def parameters(self) -> int:
        """All weights, with tied embeddings."""
        return self.block_weights + (2 * self.layers + 1) * self.hidden + self.vocabulary * self.hidden


def forward_flops(shape: Shape, lengths: Sequence[float], outputs: float) -> float:
    """One forward pass over sequences of `lengths` tokens, with logits at `outputs` positions."""
    tokens = sum(lengths)
    pairs = sum(length * (length + 1) / 2 for length in lengths)  # causal: token t looks at t + 1 tokens
    blocks = 2 * shape.block_weights * tokens
    attention = 4 * shape.layers * shape.hidden * pairs
    return blocks + attention + 2 * shape.hidden * shape.vocabulary * outputs


def ppo_flops(shape: Shape, prompt: float, response: float, episodes: int, epochs: int) -> float:
    """One update of PPO with a value model and a reward model of the policy's size.

    `prompt` and `response` are mean tokens. Passes: generation; policy, reference, value and reward once each without
    gradients; policy and value with gradients, once an epoch.
    """
    lengths, answers = [prompt + response] * episodes, episodes * response
    with_head, without = forward_flops(shape, lengths, answers), forward_flops(shape, lengths, 0)
    return with_head + (2 * with_head + 2 * without) + 3 * epochs * (with_head + without)


def matmul_peak(size: int = 1536, seconds: float = 1.0) -> float:
    """GFLOP/s of a large float32 matrix product with torch's threads in this process: the best of many."""
    import torch

    left, right = torch.randn(size, size), torch.randn(size, size)
    best, begun = float("inf"), time.perf_counter()
    while time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        torch.mm(left, right)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9
