"""The packed forward: one sequence of all tokens without padding, put into a padded grid for attention at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from alignpipe.ops.logprobs import entropy, token_logprobs, widened
from alignpipe.ops.vocabulary import is_large, linear_logprobs
from alignpipe.training.packed.compiled_functions import Where, attention, compiled_attention
from alignpipe.training.packed.functions import feed_forward, from_grid, norm, to_grid
from alignpipe.training.packed.layout import GridIndex, Layout
from alignpipe.training.packed.models import Parts

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Queries [m, heads, d], keys and values [n, kv heads, d] -> output [m, heads * d], before `o_proj`; m <= n.

Queries and keys come as they were projected: to rotate them is part of it.
"""
KeepKeyValues = Callable[[Tensor, Tensor], None]
"""Takes a layer's keys and values [B, kv heads, W, d]."""


def packed_output(parts: Parts, input_ids: Tensor, layout: Layout, keep: KeepKeyValues | None = None) -> Tensor:
    """The head's outputs [wanted, outputs] at the wanted tokens, in float32 at least; `input_ids` [B, W or more]."""
    return head_output(parts, _last_hidden(parts, input_ids, layout, keep))[: layout.wanted]


def packed_logprobs(
    parts: Parts, input_ids: Tensor, layout: Layout, tokens: Tensor, temperature: float, with_entropy: bool
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [wanted] of `tokens` [wanted], one per wanted token, and the entropies there if asked for."""
    hidden, head = _last_hidden(parts, input_ids, layout), parts.plain_head
    if head is not None and is_large(layout.wanted, len(head.weight), hidden.device):
        wanted = norm(parts.backbone.norm, hidden)[: layout.wanted]
        return linear_logprobs(wanted, head.weight, head.bias, tokens, temperature, with_entropy=with_entropy)
    logits = head_output(parts, hidden)[: layout.wanted]
    with torch.no_grad():
        entropies = entropy(logits, temperature) if with_entropy else None
    return token_logprobs(logits, tokens, temperature), entropies


def _last_hidden(parts: Parts, input_ids: Tensor, layout: Layout, keep: KeepKeyValues | None = None) -> Tensor:
    """Hidden states [M, H] of the queries behind the last layer, before the last norm."""
    x = parts.backbone.embed_tokens(input_ids[:, : layout.width].flatten()[layout.grid.cells])
    angles = rotary(parts, x, layout.grid.cells % layout.width)
    *layers, last = parts.backbone.layers
    for layer in layers:
        x = run_layer(parts, layer, x, _causal(layer, layout, layout.grid, angles, angles, keep))
    # The last layer: keys and values of all tokens, everything else of the queries only.
    of_queries = angles.index_select(1, layout.queries)
    attend = _causal(last, layout, layout.query_grid, angles, of_queries, keep)
    return run_layer(parts, last, x, attend, layout.queries)


def head_output(parts: Parts, x: Tensor) -> Tensor:
    """Last norm and head of hidden states [m, H]; half precision comes out as float32."""
    return widened(parts.head(norm(parts.backbone.norm, x)))


def run_layer(parts: Parts, layer: Any, x: Tensor, attend: Attend, queries: Tensor | None = None) -> Tensor:
    """One decoder layer over packed tokens [n, H]; with `queries` [m], indices of tokens, only these come out."""
    attention = layer.self_attn
    h = norm(layer.input_layernorm, x, parts.linear_dtype)
    k, v = _project(attention, "k", h, x.dtype), _project(attention, "v", h, x.dtype)
    if queries is not None:
        h, x = h.index_select(0, queries), x.index_select(0, queries)
    q = _project(attention, "q", h, x.dtype)
    x = x + attention.o_proj(attend(q, k, v))
    residual = feed_forward(layer.mlp, norm(layer.post_attention_layernorm, x, parts.linear_dtype))
    return x + residual


def _project(attention: Any, which: str, h: Tensor, dtype: torch.dtype) -> Tensor:
    """Queries, keys or values [n, heads, d] of [n, H]; Qwen3 has norms on queries and keys, in `dtype`."""
    by_head: Tensor = getattr(attention, f"{which}_proj")(h).view(len(h), -1, attention.head_dim)
    head_norm = getattr(attention, f"{which}_norm", None)
    return by_head if head_norm is None else norm(head_norm, by_head.to(dtype))


def _causal(
    layer: Any, layout: Layout, queries: GridIndex, angles: Tensor, of_queries: Tensor, keep: KeepKeyValues | None
) -> Attend:
    """Causal attention of `queries` to the tokens before them in their rows; `angles` are those of all tokens.

    By a kernel over packed tokens, or by torch's SDPA over the padded grid, for which they are put there and taken from
    there. Rows are padded on the right, so the causal mask is enough: no token sees padding.
    """
    dtype = angles.dtype
    scale = layer.self_attn.scaling
    where = Where(queries.cells, layout.grid.tokens, layout.width)

    def padded(packed: Tensor, index: GridIndex, angles: Tensor | None) -> Tensor:  # [n, heads, d] -> [B, heads, W, d]
        cells = to_grid(packed, index, angles, dtype)
        return cells.view(layout.rows, layout.width, *packed.shape[1:]).transpose(1, 2)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if keep is None and dtype is torch.float32 and compiled_attention(q, layout.width):
            k, v = k.to(q.dtype), v.to(q.dtype)  # norms of queries and keys give float32
            return attention(q, k, v, where, (of_queries, angles), scale)
        keys, values = padded(k, layout.grid, angles), padded(v, layout.grid, None)
        if keep is not None:
            keep(keys, values)
        if q.shape[1] > k.shape[1]:  # grouped queries
            keys, values = (part.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for part in (keys, values))
        rotated = padded(q, queries, of_queries)
        output = F.scaled_dot_product_attention(rotated, keys, values, is_causal=True, scale=scale)
        return from_grid(output.transpose(1, 2).flatten(0, 1), queries.cells, q.dtype)

    return attend


def rotary(parts: Parts, x: Tensor, positions: Tensor) -> Tensor:
    """Cosine and signed sine [2, n, 1, d] of the angles at `positions` [n]."""
    cos, sin = parts.backbone.rotary_emb(x, positions[None])
    low, high = sin.chunk(2, dim=-1)
    return torch.cat((cos, torch.cat((-low, high), dim=-1))).unsqueeze(2)
