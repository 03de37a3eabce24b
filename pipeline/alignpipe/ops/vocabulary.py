"""Log-probabilities and entropies from hidden states, without ever holding the logits of a large vocabulary.

With tens of thousands of tokens the logits are by far the largest tensor of a training step, and passing over them
again and again takes longer than the head's products. Here one block of the vocabulary after the other is computed,
used while it lies in the cache, and computed again in the backward pass.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from alignpipe.ops.gradients import refuse_second_order
from alignpipe.ops.logprobs import tempered
from alignpipe.ops.shapes import require_positive

_BLOCK, _BLOCK_ELSEWHERE = 1 << 19, 1 << 24
"""Logits in a block on a CPU, 2 MiB of float32, which is about what a core keeps near; and on other devices."""
_NARROWEST = 256
"""Tokens of the vocabulary in a block at least, however many rows there are."""
_LARGE, _LARGE_ELSEWHERE = 1 << 23, 1 << 28
"""So many logits were seen to cost more than computing them twice: the C library takes 32 MiB and more anew from the
system each time."""


def is_large(rows: int, vocabulary: int, device: torch.device) -> bool:
    """Whether so many logits are better computed by `linear_logprobs`.

    Measured on a CPU (`tests/benchmarks/RESULTS.md`); elsewhere the bound of 1 GiB of float32 is for memory's sake.
    """
    return rows * vocabulary > (_LARGE if device.type == "cpu" else _LARGE_ELSEWHERE)


def linear_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    temperature: float = 1.0,
    *,
    with_entropy: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`token_logprobs` and `entropy` of the logits `hidden @ weight.T + bias`, which are never held as a whole.

    Memory is that of a few blocks of logits; the backward pass computes the products once more. Half precision is
    multiplied as it is, and all that follows in float32. Entropies are without gradients. Logits must be finite.

    Args:
        hidden: Shape [M, H].
        weight: Shape [V, H].
        bias: Shape [V], or None.
        tokens: Shape [M], integer, each in [0, V).
        temperature: as in `token_logprobs`.
        with_entropy: whether entropies are wanted too.

    Returns:
        Log-probabilities [M], float32 or float64, and the entropies [M] or None.

    Raises:
        ValueError: the shapes do not fit each other, or temperature is not positive.
    """
    require_positive(temperature=temperature)
    if hidden.ndim != 2 or weight.ndim != 2 or hidden.shape[1] != weight.shape[1] or tokens.shape != hidden.shape[:1]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)}, weight {tuple(weight.shape)} and tokens {tuple(tokens.shape)} must have "
            "the shapes [M, H], [V, H] and [M]"
        )
    logp, entropies = cast(Any, _LinearLogprobs.apply)(hidden, weight, bias, tokens, temperature, with_entropy)
    return logp, entropies


class _LinearLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        temperature: float,
        with_entropy: bool,
    ) -> tuple[Tensor, Tensor | None]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        highest = hidden.new_full(tokens.shape, -math.inf, dtype=wide)
        total, moment, chosen = (torch.zeros_like(highest) for _ in range(3))
        for block in _blocks(hidden, weight):
            logits = _logits(hidden, weight, bias, block, temperature)
            inside, column = _within(tokens, block)
            chosen = torch.where(inside, logits.gather(1, column).squeeze(1), chosen)
            before, highest = highest, torch.maximum(highest, logits.amax(1))
            shrunk = torch.exp(before - highest)  # sums are of exp(z - highest), so that none overflows
            weights = torch.exp(logits - highest[:, None])
            total = total * shrunk + weights.sum(1)
            if with_entropy:
                moment = moment * shrunk + (weights * logits).sum(1)
        log_total = highest + torch.log(total)
        ctx.save_for_backward(hidden, weight, bias, tokens, log_total)
        ctx.temperature = temperature
        if not with_entropy:
            return chosen - log_total, None
        entropies = log_total - moment / total
        ctx.mark_non_differentiable(entropies)
        return chosen - log_total, entropies

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
        """With p = softmax(z), z = (h W' + b) / T: d logp_a / dz_v = [v = a] - p_v."""
        refuse_second_order()
        hidden, weight, bias, tokens, log_total = ctx.saved_tensors
        of_hidden, of_weight, of_bias = ctx.needs_input_grad[:3]
        scaled = gradient / ctx.temperature
        hidden_grad = torch.zeros(hidden.shape, dtype=scaled.dtype, device=hidden.device) if of_hidden else None
        weight_grad = torch.empty_like(weight) if of_weight else None
        bias_grad = torch.empty_like(bias) if of_bias else None
        for block in _blocks(hidden, weight):
            logits = _logits(hidden, weight, bias, block, ctx.temperature)
            change = torch.exp(logits - log_total[:, None]) * -scaled[:, None]
            inside, column = _within(tokens, block)
            # Before anything is rounded to half precision, in which a likely token's p is 1.
            change.scatter_add_(1, column, torch.where(inside, scaled, 0.0)[:, None])
            product = change.to(weight.dtype)
            if hidden_grad is not None:
                hidden_grad += product @ weight[block]
            if weight_grad is not None:
                torch.mm(product.t(), hidden, out=weight_grad[block])
            if bias_grad is not None:
                bias_grad[block] = change.sum(0)
        given = hidden_grad.to(hidden.dtype) if hidden_grad is not None else None
        return given, weight_grad, bias_grad, None, None, None


def _blocks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    elements = _BLOCK if hidden.device.type == "cpu" else _BLOCK_ELSEWHERE
    width = max(_NARROWEST, elements // max(1, len(hidden)))
    for start in range(0, len(weight), width):
        yield slice(start, min(start + width, len(weight)))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, block: slice, temperature: float) -> Tensor:
    return tempered(F.linear(hidden, weight[block], None if bias is None else bias[block]), temperature)


def _within(tokens: Tensor, block: slice) -> tuple[Tensor, Tensor]:
    """Which tokens [M] lie in a block of the vocabulary, and the column [M, 1] of each there, any for the others."""
    column = tokens - block.start
    width = block.stop - block.start
    return (column >= 0) & (column < width), column.clamp(0, width - 1)[:, None]
