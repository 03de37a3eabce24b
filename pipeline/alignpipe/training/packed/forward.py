"""The packed forward: the tokens of a batch in one row without padding, spread out for attention only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from alignpipe.training.packed.models import Parts


@dataclass(frozen=True)
class Layout:
    """Where N tokens stand in B right-padded rows of W places: `places` [N] into the B * W, in order of row and place.

    `asked` [M] tells which of the N tokens the caller wants to know about.
    """

    places: Tensor
    rows: int
    width: int
    asked: Tensor

    def spread(self, packed: Tensor, places: Tensor) -> Tensor:
        """[n, heads, d] -> [B, heads, W, d], zero where no token stands."""
        grid = packed.new_zeros((self.rows * self.width, *packed.shape[1:])).index_copy(0, places, packed)
        return grid.view(self.rows, self.width, *packed.shape[1:]).transpose(1, 2)


def packed_hidden(parts: Parts, input_ids: Tensor, layout: Layout) -> Tensor:
    """The hidden states [M, H] of the tokens asked for, as they go into the head."""
    backbone = parts.backbone
    x = backbone.embed_tokens(input_ids.flatten()[layout.places])
    rotary = [part.squeeze(0).unsqueeze(1) for part in backbone.rotary_emb(x, (layout.places % layout.width)[None])]
    *layers, last = backbone.layers
    for layer in layers:
        x = _block(layer, x, rotary, layout, None)
    return backbone.norm(_block(last, x, rotary, layout, layout.asked))


def _block(layer: Any, x: Tensor, rotary: list[Tensor], layout: Layout, asked: Tensor | None) -> Tensor:
    attention, places = layer.self_attn, layout.places
    h = layer.input_layernorm(x)
    k = rotate(by_head(attention, "k", h), rotary)
    v = by_head(attention, "v", h)
    if asked is not None:  # the last layer: all keys and values, but only these queries
        h, x, places, rotary = h[asked], x[asked], places[asked], [part[asked] for part in rotary]
    q = rotate(by_head(attention, "q", h), rotary)
    groups = q.shape[1] // k.shape[1]
    k, v = (layout.spread(part, layout.places).repeat_interleave(groups, 1) if groups > 1 else layout.spread(part, layout.places) for part in (k, v))
    seen = F.scaled_dot_product_attention(layout.spread(q, places), k, v, is_causal=True, scale=attention.scaling)
    seen = seen.transpose(1, 2).reshape(layout.rows * layout.width, -1)[places]
    x = x + attention.o_proj(seen)
    return x + layer.mlp(layer.post_attention_layernorm(x))


def by_head(attention: Any, which: str, h: Tensor) -> Tensor:
    """Queries, keys or values [n, heads, d] of hidden states [n, H]."""
    made = getattr(attention, f"{which}_proj")(h).view(len(h), -1, attention.head_dim)
    norm = getattr(attention, f"{which}_norm", None)
    return made if norm is None else norm(made)


def rotate(x: Tensor, rotary: list[Tensor]) -> Tensor:
    """Turn [n, heads, d] by the angles of its positions, `rotary` = cos, sin [n, 1, d]."""
    cos, sin = rotary
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
