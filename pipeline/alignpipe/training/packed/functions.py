"""Steps of the packed forward with a backward pass written out: fewer passes over memory than the derived ones make.

Each equals what PyTorch would derive, but for rounding. Without gradients they cost what their forward does.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignpipe.training.packed.layout import Stand

_WRITTEN_OUT = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms of one formula, x / rms(x) * weight, computed in float32 at least."""


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """The RMS norm [n, ..., H] that `module` is; half precision and what hangs on the module are left to itself."""
    inner = cast(Any, module)
    if (
        type(module).__name__ not in _WRITTEN_OUT
        or x.dtype not in (torch.float32, torch.float64)
        or inner.weight.dtype != x.dtype
        or module._forward_hooks
        or module._forward_pre_hooks
    ):
        made: Tensor = module(x)
        return made
    if torch.is_inference_mode_enabled():
        # Decoding is made of many small steps, of which this is one call in place of seven. It rounds otherwise: who
        # only leaves gradients away gets what training computes, to the bit (D64).
        return F.rms_norm(x, x.shape[-1:], inner.weight, inner.variance_epsilon)
    return _applied(_RMSNorm, x, inner.weight, inner.variance_epsilon)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turn [n, heads, d] by its angles [2, n, 1, d], cosine and signed sine, which get no gradient."""
    return _applied(_Rotate, x, angles) if torch.is_grad_enabled() else _rotated(x, angles)


def spread(packed: Tensor, stand: Stand) -> Tensor:
    """[n, ...] -> [P, ...]: every token where it stands, and some token where none does, which gets no gradient."""
    return _applied(_Spread, packed, stand)


def take(grid: Tensor, places: Tensor) -> Tensor:
    """[P, ...] -> [n, ...], the rows at `places` (each another one)."""
    return _applied(_Take, grid, places)


def _applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]


def _rotated(x: Tensor, angles: Tensor) -> Tensor:
    # A roll: faster than to negate one half and join it to the other.
    return x.roll(x.shape[-1] // 2, -1).mul_(angles[1]).addcmul_(x, angles[0])


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(epsilon).rsqrt_()
        even = x * scale
        ctx.save_for_backward(even, scale, weight)
        made: Tensor = even * weight
        return made

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        (grad,) = grads
        even, scale, weight = ctx.saved_tensors
        by_place = grad * even
        for_weight = by_place.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        share = (by_place @ weight).div_(even.shape[-1]).unsqueeze(-1)
        return (grad * weight).addcmul_(even, share, value=-1).mul_(scale), for_weight, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor) -> Tensor:
        ctx.save_for_backward(angles)
        return _rotated(x, angles)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (angles,) = ctx.saved_tensors
        return (grad * angles[1]).roll(grad.shape[-1] // 2, -1).addcmul_(grad, angles[0]), None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, stand: Stand) -> Tensor:
        ctx.stand = stand
        return packed.index_select(0, stand.source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), stand = grads, cast(Stand, ctx.stand)
        own = grad.index_select(0, stand.places)
        if stand.lent is not None and stand.lenders is not None:
            own.index_add_(0, stand.lenders, grad.index_select(0, stand.lent))
        return own, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.size = len(grid)
        return grid.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (places,) = ctx.saved_tensors
        # No two rows were taken from one place; adding is faster than `index_copy_`.
        return grad.new_zeros((ctx.size, *grad.shape[1:])).index_add_(0, places, grad), None
