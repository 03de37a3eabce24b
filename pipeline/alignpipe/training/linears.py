"""Linear layers that multiply in bfloat16 while their weights stay, and are trained, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from alignpipe.errors import ModelError

_HEADS = ("lm_head", "score")


class BFloat16Linear(nn.Linear):
    """A float32 linear layer that multiplies in bfloat16; what comes out has the type of what went in.

    The cast of the weights is part of the graph, so their gradients are float32. It is made anew in every forward pass:
    next to the products it costs little, and a cached one could be stale.
    """

    _cached: tuple[Tensor, Tensor | None] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        weight, bias = self._cached or self.to_bfloat16()
        return F.linear(input.to(torch.bfloat16), weight, bias).to(input.dtype)

    def to_bfloat16(self) -> tuple[Tensor, Tensor | None]:
        """Weight and bias in bfloat16."""
        bias = cast("Tensor | None", self.bias)
        return self.weight.to(torch.bfloat16), None if bias is None else bias.to(torch.bfloat16)


_LINEAR_TYPES = (nn.Linear, BFloat16Linear)
"""These very classes, no subclasses: layers of adapters have forward passes of their own."""


def multiply_in_bfloat16(model: PreTrainedModel, key: str = "model.linear_dtype") -> None:
    """Turn every linear layer but the head into a `BFloat16Linear`, in place, with the very same float32 parameters.

    Raises `ModelError`, which names the config's `key`, if there is none (GPT-2's layers are of another kind), or the
    weights are not float32.
    """
    _check_weights(model, f"{key}=bfloat16")
    layers = _linears(model)
    if not layers:
        raise ModelError(f"{key}=bfloat16: {type(model).__name__} has no layers of the kind torch calls Linear")
    for layer in layers:
        layer.__class__ = BFloat16Linear


def multiply_in_float32(model: PreTrainedModel, key: str) -> None:
    """Undo `multiply_in_bfloat16`; raises `ModelError` if the weights are not float32."""
    _check_weights(model, f"{key}=float32")
    multiply_as_stored(model)


def multiply_as_stored(model: PreTrainedModel) -> None:
    """Let every linear layer multiply in the type of its weights, as they do in a model that was just loaded."""
    for layer in _linears(model):
        layer.__class__ = nn.Linear


def _check_weights(model: PreTrainedModel, setting: str) -> None:
    if model.dtype != torch.float32:
        raise ModelError(
            f"{setting} is for float32 weights; {type(model).__name__} has {model.dtype}: set model.dtype=float32, or "
            f"leave {setting.partition('=')[0]} as it is by default"
        )


def _linears(model: PreTrainedModel) -> list[nn.Module]:
    heads = [getattr(model, name, None) for name in _HEADS]
    return [module for module in model.modules() if type(module) in _LINEAR_TYPES and module not in heads]


def linear_dtype_of(model: nn.Module) -> torch.dtype:
    """The type in which the linear layers of `model` multiply: bfloat16 if any does, else that of the weights."""
    if any(isinstance(module, BFloat16Linear) for module in model.modules()):
        return torch.bfloat16
    return next(model.parameters()).dtype


@contextmanager
def bfloat16_weights_cached(model: nn.Module) -> Iterator[None]:
    """Cast the weights once for all forward passes inside the block, which must not change them or need gradients."""
    layers = [module for module in model.modules() if isinstance(module, BFloat16Linear)]
    try:
        with torch.no_grad():
            for layer in layers:
                layer._cached = layer.to_bfloat16()
        yield
    finally:
        for layer in layers:
            layer._cached = None
