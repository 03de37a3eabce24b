"""Decoding with any causal LM: its own forward pass, with a cache where keys and values are all it remembers."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from alignpipe.ops.logprobs import widened


def general_decoder(model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> GeneralDecoder | RecomputingDecoder:
    """The decoder with a cache, or for recurrent and hybrid models the one without."""
    return GeneralDecoder(model, prompts) if _only_attends(model) else RecomputingDecoder(model, prompts)


def _only_attends(model: PreTrainedModel) -> bool:
    """Whether keys and values are all that the model remembers of the tokens before.

    A recurrent state cannot do without left padding, or rows that leave; and Mamba takes no `past_key_values` at all.
    """
    if getattr(model, "_is_stateful", False) or "past_key_values" not in inspect.signature(model.forward).parameters:
        return False
    return all(isinstance(layer, DynamicLayer) for layer in DynamicCache(config=model.config).layers)


class GeneralDecoder:
    """Rows of tokens that grow at their ends, padded on the left; to be used without gradients."""

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


class RecomputingDecoder:
    """The same without a cache: all tokens are read anew at every step, padded on the right as in training.

    Slow, and right for every causal model: what follows a token cannot change what is predicted there.
    """

    def __init__(self, model: PreTrainedModel, prompts: Sequence[Sequence[int]]) -> None:
        self._model = model
        device = next(model.parameters()).device
        self._lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        ids = torch.zeros((len(prompts), int(self._lengths.max())), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
        self._ids = ids.to(device)

    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        last = self._lengths - 1
        mask = torch.arange(self._ids.shape[1], device=last.device) < self._lengths[:, None]
        wanted, column = torch.unique(last, return_inverse=True)  # the logits of all positions are not held
        output = self._model(self._ids, attention_mask=mask.long(), use_cache=False, logits_to_keep=wanted)
        logits: Tensor = output.logits[torch.arange(len(last), device=last.device), column]
        return widened(logits)

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        if int(self._lengths.max()) == self._ids.shape[1]:
            self._ids = torch.cat([self._ids, torch.zeros_like(self._ids[:, :1])], dim=1)
        self._ids[torch.arange(len(tokens), device=tokens.device), self._lengths] = tokens
        self._lengths = self._lengths + 1
        return self.start()

    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        self._lengths = self._lengths[rows]
        self._ids = self._ids[rows, : int(self._lengths.max())]
