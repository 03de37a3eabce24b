"""The packed forward's operations by compiled kernels, for autograd.

Tensors of a CPU, in float32, or in bfloat16 where linear layers multiply in it: what they read and what they give. The
gradients are those of torch's operations but for rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from alignpipe.ops.gradients import refuse_second_order
from alignpipe.training.packed.compiled import Kernels, kernels
from alignpipe.training.packed.layout import GridIndex

_ALONE = 2**18
"""A kernel runs in the thread that calls it. Where torch has several, larger tensors are left to them; not measured."""
Angles = tuple[Tensor, Tensor]
"""Cosines and signed sines [2, m, 1, d] of queries and [2, n, 1, d] of keys."""


class Where(NamedTuple):
    """The cells [m] of the queries in a grid with rows of `width`, and which token each cell [B * width] shows."""

    cells: Tensor
    tokens: Tensor
    width: int


_WIDEST = 512
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


def compiled(x: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether kernels compute what reads `x`, and writes `dtype`."""
    if x.device.type != "cpu" or x.dtype not in _TYPES or dtype not in _TYPES:
        return False
    return (x.numel() <= _ALONE or torch.get_num_threads() == 1) and kernels() is not None


def compiled_attention(queries: Tensor, width: int) -> bool:
    """Whether a kernel computes attention of `queries` in rows of `width` tokens.

    It takes 0.5 to 0.65 of the time of SDPA in rows of up to 512 tokens with one thread, and less than SDPA with two,
    at least up to 256 (`tests/benchmarks/compiled_kernels.py`).
    """
    return width * torch.get_num_threads() <= _WIDEST and compiled(queries, queries.dtype)


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
    """RMS norm, x / rms(x) * weight, in `dtype`; x [..., H] and weight [H] in float32."""
    return applied(_RMSNorm, x, weight, epsilon, dtype)


def place(x: Tensor, index: GridIndex, angles: Tensor | None) -> Tensor:
    """Tokens [n, heads, d] -> cells [B * W, heads, d] in float32, turned by `angles` [2, n, 1, d] if there are some."""
    return applied(_Place, x, index, angles)


def take(grid: Tensor, cells: Tensor, dtype: torch.dtype) -> Tensor:
    """Cells [B * W, heads, d] in float32 -> those of `cells` [n], [n, heads * d] in `dtype`."""
    return applied(_Take, grid, cells, dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, where: Where, angles: Angles, scale: float) -> Tensor:
    """Causal attention [m, heads * d] of queries [m, heads, d], to be turned as the keys are, in their type.

    Keys and values [n, kv heads, d] are of the same type.
    """
    return applied(_Attention, q, k, v, where, angles, scale)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, of one shape and type."""
    return applied(_SwiGLU, gate, up)


def applied(function: type[torch.autograd.Function], *arguments: Any) -> Tensor:
    """The function's result; without gradients its forward pass alone, by a shorter way that counts in small steps."""
    if torch.is_grad_enabled():
        return cast(Tensor, function.apply(*arguments))  # type: ignore[no-untyped-call]
    return cast(Tensor, function.forward(_NothingKept(), *arguments))


class _NothingKept:
    """Stands for the context of a forward pass that no backward pass follows."""

    def save_for_backward(self, *tensors: Tensor) -> None:
        """Keep nothing."""


def _run(kernel: str, dtype: torch.dtype, *arguments: Tensor | float | None) -> None:
    """Call a kernel for linear layers in `dtype`; it sees memory only, so tensors are contiguous."""
    refuse_second_order()  # forward passes get here without gradients
    tensors = [each for each in arguments if isinstance(each, Tensor)]
    assert all(each.is_contiguous() for each in tensors), kernel
    function = cast(Kernels, kernels())[f"{kernel}_{_TYPES[dtype]}"]
    function(*(each.data_ptr() if isinstance(each, Tensor) else each for each in arguments))


def _halves(angles: Tensor | None) -> tuple[Tensor, Tensor] | tuple[None, None]:
    return (None, None) if angles is None else (angles[0], angles[1])


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float, dtype: torch.dtype) -> Tensor:
        x = x.contiguous()
        out, scale = torch.empty_like(x, dtype=dtype), x.new_empty(x.shape[:-1])
        _run("rms_norm", dtype, x, weight, epsilon, out, scale, scale.numel(), x.shape[-1])
        ctx.save_for_backward(x, weight, scale)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad, (x, weight, scale) = grads[0].contiguous(), ctx.saved_tensors
        x_grad, weight_grad = torch.empty_like(x), torch.empty_like(weight)
        size = (scale.numel(), x.shape[-1])
        _run("rms_norm_backward", grad.dtype, grad, x, weight, scale, x_grad, weight_grad, *size)
        return x_grad, weight_grad, None, None


class _Place(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, index: GridIndex, angles: Tensor | None) -> Tensor:
        ctx.index, ctx.angles, ctx.dtype = index, angles, x.dtype
        _, heads, d = x.shape
        out = x.new_empty((len(index.tokens), heads, d), dtype=torch.float32)
        _run("place", x.dtype, x.contiguous(), index.tokens, *_halves(angles), out, len(out), heads, d)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad, index = grads[0].contiguous(), cast(GridIndex, ctx.index)
        _, heads, d = grad.shape
        n, pairs = len(index.cells), (index.shared_tokens, index.shared_cells)
        shared = 0 if pairs[0] is None else len(pairs[0])
        x_grad = grad.new_empty((n, heads, d), dtype=torch.float32 if shared else ctx.dtype)
        turned = _halves(ctx.angles)
        _run("place_backward", x_grad.dtype, grad, index.cells, *pairs, shared, *turned, x_grad, n, heads, d)
        return x_grad.to(ctx.dtype), None, None


class _Take(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, grid: Tensor, cells: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.cells, ctx.shape = cells, grid.shape
        out = grid.new_empty((len(cells), grid.shape[1] * grid.shape[2]), dtype=dtype)
        _run("take", dtype, grid.contiguous(), cells, out, *out.shape)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        grad = grads[0].contiguous()
        grid_grad = grad.new_empty(ctx.shape, dtype=torch.float32)
        _run("take_backward", grad.dtype, grad, ctx.cells, grid_grad, len(grad), len(grid_grad), grad.shape[1])
        return grid_grad, None, None


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, where: Where, angles: Angles, scale: float) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out, log_sums = q.new_empty(len(q), q.shape[1] * q.shape[2]), q.new_empty(q.shape[:2], dtype=torch.float32)
        places = (where.cells, where.tokens, *angles, scale)
        _run("attention", q.dtype, q, k, v, *places, out, log_sums, *_room(q, k, where))
        ctx.save_for_backward(q, k, v, log_sums)
        ctx.where, ctx.angles, ctx.scale = where, angles, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        grad, (q, k, v, log_sums), where = grads[0].contiguous(), ctx.saved_tensors, cast(Where, ctx.where)
        q_grad = torch.empty_like(q)
        k_grad, v_grad = (torch.empty_like(each, dtype=torch.float32) for each in (k, v))
        places = (where.cells, where.tokens, *ctx.angles, ctx.scale)
        made = (q_grad, k_grad, v_grad)
        _run("attention_backward", q.dtype, grad, q, k, v, *places, log_sums, *made, *_room(q, k, where))
        return q_grad, k_grad.to(k.dtype), v_grad.to(v.dtype), None, None, None


def _room(q: Tensor, k: Tensor, where: Where) -> tuple[Tensor | int, ...]:
    """Memory for a kernel of attention, and the sizes it has to know."""
    (m, heads, d), (n, key_heads, _) = q.shape, k.shape
    floats = cast(Kernels, kernels())["attention_room"](where.width, d)
    return q.new_empty(floats, dtype=torch.float32), m, n, heads, key_heads, d, where.width


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        _run("swiglu", gate.dtype, gate, up, out, gate.numel())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        grad, (gate, up) = grads[0].contiguous(), ctx.saved_tensors
        gate_grad, up_grad = torch.empty_like(gate), torch.empty_like(up)
        _run("swiglu_backward", gate.dtype, grad, gate, up, gate_grad, up_grad, gate.numel())
        return gate_grad, up_grad
