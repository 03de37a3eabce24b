"""Sampling by the packed forward: keys and values in tensors made once, a token per row and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from alignpipe.training.packed.forward import Attend, block, packed_output, read, rotary
from alignpipe.training.packed.layout import Layout
from alignpipe.training.packed.models import Parts


class PackedDecoder:
    """Rows of tokens that grow at their ends; to be used without gradients."""

    def __init__(self, parts: Parts, prompts: Sequence[Sequence[int]], longest: int) -> None:
        """`longest` is the most tokens a row will hold."""
        self._parts = parts
        self._longest = longest
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        ids = torch.zeros((len(prompts), max(len(prompt) for prompt in prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        device = parts.backbone.embed_tokens.weight.device
        self._ids = ids.to(device)
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)

    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        layout = Layout.of(self._lengths, self._lengths - 1, self._parts.multiple)
        return packed_output(self._parts, self._ids, layout, self._keep)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        places = self._lengths
        self._lengths = places + 1
        x = self._parts.backbone.embed_tokens(tokens)
        angles = rotary(self._parts, x, places)
        width = int(places.max()) + 1
        ahead = torch.arange(width, device=tokens.device) > places[:, None]
        bias = x.new_zeros(ahead.shape).masked_fill(ahead, float("-inf"))[:, None, None]
        at = (torch.arange(len(places), device=places.device), slice(None), places)
        for layer, keys, values in zip(self._parts.backbone.layers, self._keys, self._values, strict=True):
            x = block(self._parts, layer, x, angles, _to_the_past(layer, keys, values, at, bias))
        return read(self._parts, x)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self._lengths = self._lengths[rows]
        # Several times as fast as `keys[rows]`, and as a decoding step is short, this shows.
        self._keys = [keys.index_select(0, rows) for keys in self._keys]
        self._values = [values.index_select(0, rows) for values in self._values]

    def _keep(self, keys: Tensor, values: Tensor) -> None:
        for kept, part in ((self._keys, keys), (self._values, values)):
            rows, heads, width, size = part.shape
            kept.append(part.new_zeros((rows, heads, self._longest, size)))
            kept[-1][:, :, :width] = part


def _to_the_past(layer: Any, keys: Tensor, values: Tensor, at: Any, bias: Tensor) -> Attend:
    """Attention of one token per row to `keys` and `values` [B, kv heads, longest, d], its own put `at` its place.

    `bias` [B, 1, 1, width] is -inf where a row has no token.
    """
    width = bias.shape[-1]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[at], values[at] = k, v
        grouped = q.view(len(q), k.shape[1], -1, q.shape[2])
        weights = grouped @ keys[:, :, :width].transpose(2, 3) * layer.self_attn.scaling + bias
        seen: Tensor = weights.softmax(-1) @ values[:, :, :width]
        return seen.view(len(q), -1)

    return attend
