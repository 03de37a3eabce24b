"""The packed forward: the tokens of a batch in one row without padding, spread out for attention only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignpipe.ops.logprobs import entropy, token_logprobs, widened
from alignpipe.ops.vocabulary import is_large, linear_logprobs
from alignpipe.training.packed.functions import norm, rotate, spread, take
from alignpipe.training.packed.layout import Layout, Stand
from alignpipe.training.packed.models import Parts

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [m, heads, d], keys and values [n, kv heads, d] -> what was seen [m, heads * d]; m <= n packed tokens."""
Keep = Callable[[Tensor, Tensor], None]
"""Is given a layer's keys and values [B, kv heads, W, d]."""


def packed_output(parts: Parts, input_ids: Tensor, layout: Layout, keep: Keep | None = None) -> Tensor:
    """What the head says [M, outputs] at the places wanted, in float32 at least; `input_ids` [B, W or more]."""
    return read(parts, _states(parts, input_ids, layout, keep))[: layout.wanted]


def packed_logprobs(
    parts: Parts, input_ids: Tensor, layout: Layout, tokens: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [M] of `tokens` [M] at the places wanted, and the entropies there if asked for."""
    states, head = _states(parts, input_ids, layout), parts.plain_head
    if head is not None and is_large(layout.wanted, len(head.weight), states.device):
        asked = norm(parts.backbone.norm, states)[: layout.wanted]
        return linear_logprobs(asked, head.weight, head.bias, tokens, temperature, with_entropy=with_entropy)
    logits = read(parts, states)[: layout.wanted]
    with torch.no_grad():
        entropies = entropy(logits, temperature) if with_entropy else None
    return token_logprobs(logits, tokens, temperature), entropies


def _states(parts: Parts, input_ids: Tensor, layout: Layout, keep: Keep | None = None) -> Tensor:
    """What the last layer makes [m, H] of the places asked for, before the last norm."""
    x = parts.backbone.embed_tokens(input_ids[:, : layout.width].flatten()[layout.tokens.places])
    angles = rotary(parts, x, layout.tokens.places % layout.width)
    *layers, last = parts.backbone.layers
    for layer in layers:
        x = block(parts, layer, x, angles, _causal(layer, layout, layout.tokens, keep))
    # The last layer: keys and values of all tokens, and from there on only the ones asked for.
    attend = _causal(last, layout, layout.askers, keep)
    return block(parts, last, x, angles, attend, layout.asked)


def read(parts: Parts, x: Tensor) -> Tensor:
    """The head's outputs of the last layer's [m, H], half precision as float32."""
    return widened(parts.head(norm(parts.backbone.norm, x)))


def block(parts: Parts, layer: Any, x: Tensor, angles: Tensor, attend: Attend, asked: Tensor | None = None) -> Tensor:
    """One layer over packed tokens [n, H]; with `asked` [m] only these come out."""
    attention, wide = layer.self_attn, x.dtype
    h = norm(layer.input_layernorm, x).to(parts.linear_dtype)  # once for all that multiply it
    k, v = rotate(_by_head(attention, "k", h, wide), angles), _by_head(attention, "v", h, wide)
    if asked is not None:
        h, x, angles = take(h, asked), take(x, asked), angles.index_select(1, asked)
    q = rotate(_by_head(attention, "q", h, wide), angles)
    x = x + attention.o_proj(attend(q, k, v).to(parts.linear_dtype))
    made: Tensor = layer.mlp(norm(layer.post_attention_layernorm, x).to(parts.linear_dtype))
    return x + made


def _by_head(attention: Any, which: str, h: Tensor, wide: torch.dtype) -> Tensor:
    """Queries, keys or values [n, heads, d] of [n, H]; Qwen3 has norms on queries and keys."""
    made: Tensor = getattr(attention, f"{which}_proj")(h).view(len(h), -1, attention.head_dim).to(wide)
    own = getattr(attention, f"{which}_norm", None)
    return made if own is None else norm(own, made)


def _causal(layer: Any, layout: Layout, askers: Stand, keep: Keep | None) -> Attend:
    """Attention of `askers` to what stands before them in their rows.

    Rows are padded on the right, so a causal mask is enough: pads see, but are not seen.
    """

    def grid(packed: Tensor, stand: Stand) -> Tensor:  # [n, heads, d] -> [B, heads, W, d]
        return spread(packed, stand).view(layout.rows, layout.width, *packed.shape[1:]).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = grid(k, layout.tokens), grid(v, layout.tokens)
        if keep is not None:
            keep(keys, values)
        if q.shape[1] > k.shape[1]:  # grouped queries
            keys, values = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (keys, values))
        scale = layer.self_attn.scaling
        seen = F.scaled_dot_product_attention(grid(q, askers), keys, values, is_causal=True, scale=scale)
        flat: Tensor = seen.transpose(1, 2).flatten(0, 1)
        return take(flat, askers.places).flatten(1)

    return attend


def rotary(parts: Parts, x: Tensor, positions: Tensor) -> Tensor:
    """Cosine and signed sine [2, n, 1, d] of the angles at `positions` [n]."""
    cos, sin = parts.backbone.rotary_emb(x, positions[None])
    low, high = sin.chunk(2, dim=-1)
    return torch.cat((cos, torch.cat((-low, high), dim=-1))).unsqueeze(2)
