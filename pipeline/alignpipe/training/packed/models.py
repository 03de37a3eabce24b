"""Which models the packed forward can run, and the parts of them that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import PreTrainedModel

from alignpipe.options import Forward, ModelLinearDtype
from alignpipe.training.linears import linear_dtype_of, multiply_in_bfloat16

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families of transformers with one shape of block; biases and norms of queries and keys are their submodules' own."""
_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that give a position the same values whatever the length of the row."""
_FORWARD = "_alignpipe_forward"

M = TypeVar("M", bound=PreTrainedModel)


def set_forward(model: M, forward: Forward, linear_dtype: ModelLinearDtype | None) -> M:
    """Set how this model is run from now on, and in which type its linear layers but the head multiply.

    The default is `Forward.auto`, and the type of the weights.

    Raises `ModelError` if the model has no linear layers that could.
    """
    setattr(model, _FORWARD, forward)
    if linear_dtype is ModelLinearDtype.bfloat16:
        multiply_in_bfloat16(model)
    return model


@dataclass(frozen=True)
class Parts:
    """A Llama-type model taken apart: `backbone` has `embed_tokens`, `layers`, `norm` and `rotary_emb`."""

    backbone: Any
    head: nn.Module
    linear_dtype: torch.dtype

    @property
    def plain_head(self) -> nn.Linear | None:
        """The head, if it is a plain linear layer; one with adapters or hooks has to be called."""
        head = self.head
        hooked = head._forward_hooks or head._forward_pre_hooks
        return head if type(head) is nn.Linear and not hooked else None

    def padding(self, tokens: int) -> int:
        """How many further tokens to compute beside `tokens`, so that batches have one of few numbers of them.

        On a CPU oneDNN multiplies in bfloat16, and compiles code for every shape that it has not met lately. With the
        tiny model this takes longer than the product itself, and batches rarely have the same number of tokens. They
        are rounded up to a multiple of 8 to 64 that is at most a sixteenth of them, where there are 128 or more.
        """
        if self.linear_dtype is not torch.bfloat16:
            return 0
        multiple: int = 2 ** min(6, max(3, tokens.bit_length() - 5))
        return -tokens % multiple


_NARROWEST_FOR_TILES = 256
"""The least hidden size that gains on a processor with AMX: 192 does not, 256 a sixth (`tests/benchmarks/RESULTS.md`).

With tiles a small product takes less time than oneDNN needs to begin it, so that the casts are what counts.
"""


def faster_in_bfloat16(model: PreTrainedModel, device: str) -> bool:
    """Whether linear layers in bfloat16 are faster: measured for the packed forward on x86 with instructions for it.

    Without these oneDNN computes in float32, with casts before and after. Other processors, GPUs and other forwards
    were not measured.
    """
    # torch has no public names for them.
    avx512: bool = getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()
    tiles: bool = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
    if device != "cpu" or model.dtype != torch.float32 or packable(model, 1) is None:
        return False
    return model.config.hidden_size >= _NARROWEST_FOR_TILES if tiles else avx512


def packable(model: nn.Module, width: int) -> Parts | None:
    """The parts of `model`, if the packed forward computes for rows of `width` tokens what the model's own would.

    None for other families, other attention than SDPA, rotary embeddings that depend on the row's length, a sliding
    window shorter than the rows, gradient checkpointing, dropout in attention, adapters other than LoRA, hooks on
    modules that are not called here, and where `Forward.general` is set.
    """
    inner = cast(Any, model)
    if getattr(model, "peft_type", None) == "LORA":
        inner = inner.get_base_model()
    family = next((family for family in _FAMILIES if type(inner).__name__.startswith(f"{family}For")), None)
    backbone = cast(Any, getattr(inner, "model", None))
    if (
        family is None
        or type(backbone).__name__ != f"{family}Model"
        or getattr(inner, _FORWARD, None) is Forward.general
    ):
        return None
    config, layers = inner.config, list(backbone.layers)
    window = getattr(config, "sliding_window", None)
    rope = getattr(config, "rope_parameters", None) or {}
    not_called = [model, inner, backbone, *layers, *(layer.self_attn for layer in layers)]
    if (
        config._attn_implementation != "sdpa"
        or rope.get("rope_type", "default") not in _ROPES
        or (window is not None and width > window)
        or config.attention_dropout
        or any(layer.gradient_checkpointing for layer in layers)
        or any(module._forward_hooks or module._forward_pre_hooks for module in not_called)
    ):
        return None
    head = inner.lm_head if hasattr(inner, "lm_head") else inner.score
    return Parts(backbone, head, linear_dtype_of(layers[0]))
