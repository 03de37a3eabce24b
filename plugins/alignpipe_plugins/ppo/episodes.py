"""One update's episodes: what was sampled, and what the frozen models and the reward say of it.

B episodes, T the longest response of the update. Masks are True where a response token counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from alignpipe.training.batches import TokenBatch, pad_rows
from alignpipe.training.rollouts import Response


@dataclass(frozen=True)
class Prompts:
    """Tokenised prompt rows: `ids` ragged, `rows` as they stand in the dataset."""

    rows: Sequence[Mapping[str, Any]]
    ids: Sequence[list[int]]

    def select(self, indices: Sequence[int]) -> Prompts:
        """The prompts at `indices`."""
        return Prompts([self.rows[index] for index in indices], [self.ids[index] for index in indices])


@dataclass(frozen=True)
class Episodes:
    """Everything an update learns from."""

    # what was sampled
    prompts: Prompts
    responses: Sequence[Response]
    mask: Tensor  # [B, T] bool
    # before the update, of the sampled tokens; 0 where the mask is False
    logprobs: Tensor  # [B, T] under the policy that sampled them
    ref_logprobs: Tensor  # [B, T] under the reference
    entropies: Tensor  # [B, T] of the policy, nats
    values: Tensor  # [B, T] the critic's, of the states the tokens were chosen in
    # outcomes
    scores: Tensor  # [B] the reward's, a missing end replaced (D25)
    ended: Tensor  # [B] bool
    parts: Mapping[str, Tensor]  # each [B]

    def __post_init__(self) -> None:
        shape = (len(self.responses), max(len(response.ids) for response in self.responses))
        if self.mask.dtype != torch.bool:
            raise ValueError(f"the mask must be boolean, not {self.mask.dtype}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor) and value.shape not in (shape, shape[:1]):
                raise ValueError(f"{entry.name} has shape {tuple(value.shape)}, expected {shape} or {shape[:1]}")

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The token batch of some episodes."""
        prompts = [self.prompts.ids[row] for row in rows]
        return pad_rows(prompts, [self.responses[row].ids for row in rows], pad_id, str(self.mask.device))

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and response, per episode."""
        return [len(p) + len(r.ids) for p, r in zip(self.prompts.ids, self.responses, strict=True)]
