"""Decoding by the packed forward: a key-value cache allocated once, one token per row and step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignpipe.training.packed.forward import Attend, head_output, packed_output, rotary, run_layer
from alignpipe.training.packed.functions import rotate
from alignpipe.training.packed.layout import Layout
from alignpipe.training.packed.models import Parts


class PackedDecoder:
    """Rows of tokens that grow at their ends; in inference mode, so without gradients.

    A step is many small operations whose fixed cost counts, so all rows write their new keys and values into the same
    column of the cache, the first of them behind the longest prompt. `_mask` hides the columns that a shorter prompt
    leaves empty; positions for the rotary embedding have no such gap. With prompts `a b` and `c`:

        column     0 1 2 3
        row 0      a b x y      positions 0 1 2 3
        row 1      c - x y      positions 0   1 2
    """

    def __init__(self, parts: Parts, prompts: Sequence[Sequence[int]], capacity: int) -> None:
        """`capacity` is the columns of the cache: the longest prompt and all that may be appended."""
        self._parts = parts
        self._capacity = capacity
        self._caches: list[tuple[Tensor, Tensor]] = []
        ids = torch.zeros((len(prompts), max(len(prompt) for prompt in prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        weight = parts.backbone.embed_tokens.weight
        self._ids = ids.to(weight.device)
        self._width = ids.shape[1]
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
        gap = torch.arange(capacity, device=weight.device) >= self._lengths[:, None]
        gap[:, self._width :] = False
        self._mask = weight.new_zeros(gap.shape).masked_fill(gap, float("-inf"))

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        layout = Layout.of(self._lengths, self._lengths - 1, self._parts.padding)
        return packed_output(self._parts, self._ids, layout, self._add_to_cache)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        x = self._parts.backbone.embed_tokens(tokens)
        angles = rotary(self._parts, x, self._lengths)
        column, self._width = self._width, self._width + 1
        heads = self._caches[0][0].shape[1]
        mask = self._mask[:, : self._width].repeat_interleave(heads, 0).unsqueeze(1).to(x.dtype)
        for layer, (keys, values) in zip(self._parts.backbone.layers, self._caches, strict=True):
            attend = _attention_to_cache(keys, values, column, mask, layer.self_attn.scaling, angles)
            x = run_layer(self._parts, layer, x, attend)
        self._lengths = self._lengths + 1
        return head_output(self._parts, x)

    @torch.inference_mode()
    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self._lengths, self._mask = self._lengths[rows], self._mask[rows]
        self._caches = [(self._selected(keys, rows), self._selected(values, rows)) for keys, values in self._caches]

    def _selected(self, cache: Tensor, rows: Tensor) -> Tensor:
        """Some rows of a layer's keys or values, in a cache of their own."""
        selected = self._empty_cache(cache, len(rows))
        # Several times as fast as `cache[rows]`, which shows in a short decoding step.
        torch.index_select(cache[:, :, : self._width], 0, rows, out=selected[:, :, : self._width])
        return selected

    def _add_to_cache(self, keys: Tensor, values: Tensor) -> None:
        """Keep a layer's keys and values [B, kv heads, W, d] of the prompts."""
        caches = self._empty_cache(keys, len(keys)), self._empty_cache(values, len(values))
        for cache, prompts in zip(caches, (keys, values), strict=True):
            cache[:, :, : self._width] = prompts
        self._caches.append(caches)

    def _empty_cache(self, like: Tensor, rows: int) -> Tensor:
        """[rows, kv heads, capacity, d], not initialised: no column is read before it is written."""
        return like.new_empty((rows, like.shape[1], self._capacity, like.shape[3]))


def _attention_to_cache(
    keys: Tensor, values: Tensor, column: int, mask: Tensor, scale: float, angles: Tensor
) -> Attend:
    """Attention of one token per row to the cache [B, kv heads, capacity, d]; its own key and value go to `column`.

    `mask` [B * kv heads, 1, column + 1] is -inf where a row has no token, else 0.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        dtype = q.dtype
        q, k = rotate(q.to(keys.dtype), angles), rotate(k.to(keys.dtype), angles)
        keys[:, :, column], values[:, :, column] = k, v
        # One batched product over rows and kv heads.
        past_keys, past_values = (cache.flatten(0, 1)[:, : column + 1] for cache in (keys, values))
        grouped = q.reshape(len(past_keys), -1, q.shape[2])
        weights = torch.baddbmm(mask, grouped, past_keys.transpose(1, 2), alpha=scale).softmax(-1)
        return torch.bmm(weights, past_values).view(len(q), -1).to(dtype)

    return attend
