"""Operations of the packed forward with a backward pass by hand, which passes over memory less often than autograd's.

The gradients are the same but for rounding.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignpipe.ops.gradients import refuse_second_order
from alignpipe.training.packed.compiled_functions import applied, compiled, place, rms_norm, swiglu, take
from alignpipe.training.packed.layout import GridIndex

_RMS_NORMS = ("LlamaRMSNorm", "MistralRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")
"""Norms of one formula, x / rms(x) * weight, computed in float32 at least."""
_GATED = ("LlamaMLP", "MistralMLP", "Qwen2MLP", "Qwen3MLP")
"""Feed-forward parts of one formula: down(act(gate(x)) * up(x))."""
_SILU = ("SiLU", "SiLUActivation")
"""torch's and transformers' modules of x * sigmoid(x)."""


def norm(module: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """`module(x)` [n, ..., H], in `dtype` if that is given.

    An RMS norm is computed here; one in half precision, with hooks or of another kind is just called.
    """
    inner = cast(Any, module)
    dtype = dtype or x.dtype
    if (
        type(module).__name__ not in _RMS_NORMS
        or x.dtype not in (torch.float32, torch.float64)
        or inner.weight.dtype != x.dtype
        or _hooked(module)
    ):
        output: Tensor = module(x)
        return output.to(dtype)
    if compiled(x, dtype):
        return rms_norm(x, inner.weight, inner.variance_epsilon, dtype)
    if torch.is_inference_mode_enabled():
        # One call in place of seven, which counts in the small steps of decoding. It rounds differently, so without
        # gradients outside of inference mode the result stays that of training, to the bit (D64).
        return F.rms_norm(x, x.shape[-1:], inner.weight, inner.variance_epsilon).to(dtype)
    return applied(_RMSNorm, x, inner.weight, inner.variance_epsilon).to(dtype)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary embedding of [n, heads, d] by `angles` [2, n, 1, d]: cosine and signed sine, which get no gradient."""
    return applied(_Rotate, x, angles)


def to_grid(packed: Tensor, index: GridIndex, angles: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Packed tokens [n, heads, d] -> cells [B * W, heads, d] in `dtype`, rotated by `angles` if there are some.

    What lies in padding is any token, and gives it no gradient.
    """
    if dtype is torch.float32 and compiled(packed):
        return place(packed, index, angles)
    packed = packed.to(dtype)
    return applied(_ToGrid, packed if angles is None else rotate(packed, angles), index)


def from_grid(grid: Tensor, cells: Tensor, dtype: torch.dtype) -> Tensor:
    """Cells [B * W, heads, d] -> the tokens of `cells` [n], [n, heads * d] in `dtype`."""
    if grid.dtype is torch.float32 and compiled(grid, dtype):
        return take(grid, cells, dtype)
    return grid.index_select(0, cells).flatten(1).to(dtype)


def feed_forward(module: nn.Module, x: Tensor) -> Tensor:
    """`module(x)` [n, H] for the block's feed-forward part."""
    inner = cast(Any, module)
    output: Tensor
    known = type(module).__name__ in _GATED and type(inner.act_fn).__name__ in _SILU
    if known and not _hooked(module) and not _hooked(inner.act_fn) and compiled(x):
        gate, up = inner.gate_proj(x), inner.up_proj(x)
        fused = gate.dtype is up.dtype and compiled(gate)  # which is wider than x
        output = inner.down_proj(swiglu(gate, up) if fused else F.silu(gate) * up)
    else:
        output = module(x)
    return output


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        size = x.shape[-1]
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(size).add_(epsilon).rsqrt_()
        normalised = x * scale
        ctx.save_for_backward(normalised, scale, weight)
        output: Tensor = normalised * weight
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, None]:
        refuse_second_order()
        (grad,) = grads
        normalised, scale, weight = ctx.saved_tensors
        product = grad * normalised
        weight_grad = product.flatten(0, -2).sum(0) if ctx.needs_input_grad[1] else None
        projection = (product @ weight).div_(normalised.shape[-1]).unsqueeze(-1)
        return (grad * weight).addcmul_(normalised, projection, value=-1).mul_(scale), weight_grad, None


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, angles: Tensor) -> Tensor:
        ctx.save_for_backward(angles)
        # A roll: faster than to negate one half and join it to the other.
        return x.roll(x.shape[-1] // 2, -1).mul_(angles[1]).addcmul_(x, angles[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,) = grads
        (angles,) = ctx.saved_tensors
        return (grad * angles[1]).roll(grad.shape[-1] // 2, -1).addcmul_(grad, angles[0]), None


class _ToGrid(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, packed: Tensor, index: GridIndex) -> Tensor:
        ctx.index = index
        return packed.index_select(0, index.tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), index = grads, cast(GridIndex, ctx.index)
        of_tokens = grad.index_select(0, index.cells)
        if index.shared_cells is not None and index.shared_tokens is not None:
            of_tokens.index_add_(0, index.shared_tokens, grad.index_select(0, index.shared_cells))
        return of_tokens, None
