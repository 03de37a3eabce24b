"""Sampling by the packed forward: keys and values in tensors made once, a token per row and step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from alignpipe.training.packed.forward import Attend, block, packed_output, read, rotary
from alignpipe.training.packed.layout import Layout
from alignpipe.training.packed.models import Parts


class PackedDecoder:
    """Rows of tokens that grow at their ends; in inference mode, so what comes out has no gradients.

    A step is made of many small operations, and what each costs beside its arithmetic decides how long it takes. So
    all rows write keys and values at one and the same place, behind the longest prompt, and `_hidden` has the gap
    between a shorter prompt's end and that place; the place of a token in its row, which turns it, is its own.
    """

    def __init__(self, parts: Parts, prompts: Sequence[Sequence[int]], longest: int) -> None:
        """`longest` is the most tokens of a prompt and of what is appended, added up."""
        self._parts = parts
        self._longest = longest
        self._caches: list[tuple[Tensor, Tensor]] = []
        ids = torch.zeros((len(prompts), max(len(prompt) for prompt in prompts)), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        weight = parts.backbone.embed_tokens.weight
        self._ids = ids.to(weight.device)
        self._width = ids.shape[1]
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=weight.device)
        gap = torch.arange(longest, device=weight.device) >= self._lengths[:, None]
        gap[:, self._width :] = False
        self._hidden = weight.new_zeros(gap.shape).masked_fill(gap, float("-inf"))

    @torch.inference_mode()
    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        layout = Layout.of(self._lengths, self._lengths - 1, self._parts.multiple)
        return packed_output(self._parts, self._ids, layout, self._keep)

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        x = self._parts.backbone.embed_tokens(tokens)
        angles = rotary(self._parts, x, self._lengths)
        place, self._width = self._width, self._width + 1
        heads = self._caches[0][0].shape[1]
        hidden = self._hidden[:, : self._width].repeat_interleave(heads, 0).unsqueeze(1).to(x.dtype)
        for layer, (keys, values) in zip(self._parts.backbone.layers, self._caches, strict=True):
            x = block(self._parts, layer, x, angles, _to_the_past(keys, values, place, hidden, layer.self_attn.scaling))
        self._lengths = self._lengths + 1
        return read(self._parts, x)

    @torch.inference_mode()
    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self._lengths, self._hidden = self._lengths[rows], self._hidden[rows]
        self._caches = [(self._moved(keys, rows), self._moved(values, rows)) for keys, values in self._caches]

    def _moved(self, kept: Tensor, rows: Tensor) -> Tensor:
        """Some rows of keys or values, what is written of them, with room for more."""
        moved = self._room(kept, len(rows))
        # Several times as fast as `kept[rows]`, and as a decoding step is short, this shows.
        torch.index_select(kept[:, :, : self._width], 0, rows, out=moved[:, :, : self._width])
        return moved

    def _keep(self, keys: Tensor, values: Tensor) -> None:
        """Take in a layer's keys and values [B, kv heads, W, d] of the prompts."""
        kept = self._room(keys, len(keys)), self._room(values, len(values))
        for room, part in zip(kept, (keys, values), strict=True):
            room[:, :, : self._width] = part
        self._caches.append(kept)

    def _room(self, like: Tensor, rows: int) -> Tensor:
        """Places [rows, kv heads, longest, d]; none is read before it is written."""
        return like.new_empty((rows, like.shape[1], self._longest, like.shape[3]))


def _to_the_past(keys: Tensor, values: Tensor, place: int, hidden: Tensor, scale: float) -> Attend:
    """Attention of one token per row to `keys` and `values` [B, kv heads, longest, d], its own put at `place`.

    `hidden` [B * kv heads, 1, place + 1] is -inf where a row has no token.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys[:, :, place], values[:, :, place] = k, v
        # As one batch of small products, for which torch has a call of its own.
        keys_, values_ = (part.flatten(0, 1)[:, : place + 1] for part in (keys, values))
        grouped = q.reshape(len(keys_), -1, q.shape[2])
        weights = torch.baddbmm(hidden, grouped, keys_.transpose(1, 2), alpha=scale).softmax(-1)
        return torch.bmm(weights, values_).view(len(q), -1)

    return attend
