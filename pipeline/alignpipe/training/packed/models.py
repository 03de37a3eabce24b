"""Which models the packed forward can run, and the parts of them that it calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from alignpipe.options import Forward

_FAMILIES = ("Llama", "Mistral", "Qwen2", "Qwen3")
"""Families of transformers with one shape of block; biases and norms of queries and keys are their submodules' own."""
_ROPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that give a position the same values whatever the length of the row."""
_MARK = "_alignpipe_forward"


def choose_forward(model: nn.Module, forward: Forward) -> None:
    """Say how this model is to be run from now on; one of which nobody has said it is run by `Forward.auto`."""
    setattr(model, _MARK, forward)


@dataclass(frozen=True)
class Parts:
    """A Llama-type model taken apart: `backbone` has `embed_tokens`, `layers`, `norm` and `rotary_emb`."""

    backbone: Any
    head: nn.Module


def packable(model: nn.Module, width: int) -> Parts | None:
    """The parts of `model`, if the packed forward computes for rows of `width` tokens what the model's own would.

    Not for other families, other attention than SDPA, rotary embeddings that depend on the row's length, a sliding
    window that would bite, gradient checkpointing, dropout in attention, adapters other than LoRA, hooks on modules
    that are not called here, and where `Forward.general` was chosen.
    """
    inner = cast(Any, model)
    if getattr(model, "peft_type", None) == "LORA":
        inner = inner.get_base_model()
    family = next((family for family in _FAMILIES if type(inner).__name__.startswith(f"{family}For")), None)
    backbone = getattr(inner, "model", None)
    if family is None or type(backbone).__name__ != f"{family}Model" or getattr(inner, _MARK, None) is Forward.general:
        return None
    config = inner.config
    window = getattr(config, "sliding_window", None)
    rope = getattr(config, "rope_parameters", None) or {}
    skipped = [model, inner, backbone]
    for layer in backbone.layers:
        skipped += [layer, layer.self_attn]
    if (
        config._attn_implementation != "sdpa"
        or rope.get("rope_type", "default") not in _ROPES
        or (window is not None and width > window)
        or config.attention_dropout
        or inner.is_gradient_checkpointing
        or any(module._forward_hooks or module._forward_pre_hooks for module in skipped)
    ):
        return None
    return Parts(backbone, inner.lm_head if hasattr(inner, "lm_head") else inner.score)
