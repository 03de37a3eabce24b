"""Decoding with any causal LM: its own forward pass and transformers' cache over left-padded rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from alignpipe.ops.logprobs import widened


class GeneralDecoder:
    """Rows of tokens that grow at their ends; to be used without gradients."""

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        device = next(model.parameters()).device
        width = max(len(prompt) for prompt in prompts)
        # Pads are masked, so any id the embedding knows will do (D01).
        ids = torch.zeros((len(prompts), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        self._ids, self._mask = ids.to(device), mask.to(device)
        self._cache = DynamicCache(config=model.config)

    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        return self._forward(self._ids, (self._mask.cumsum(1) - 1).clamp(min=0))

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        self._mask = torch.cat([self._mask, self._mask.new_ones((len(tokens), 1))], dim=1)
        return self._forward(tokens[:, None], self._mask.sum(1, keepdim=True) - 1)

    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self._mask = self._mask[rows]
        self._cache.batch_select_indices(rows)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        output = self._model(
            ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits
        return widened(logits[:, -1])
