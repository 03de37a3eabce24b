"""One update's episodes: what was sampled, and what the frozen models and the reward say of it.

B episodes, T the longest response of the update. Masks are True where a response token counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from alignpipe.api import Sample
from alignpipe.training.batches import TokenBatch, pad_rows, prompt_groups
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
    samples: Sequence[Sample]  # the same as a reward sees it
    mask: Tensor  # [B, T] bool
    # before the update, of the sampled tokens; 0 where the mask is False
    logprobs: Tensor  # [B, T] under the policy that sampled them
    ref_logprobs: Tensor  # [B, T] under the reference
    entropies: Tensor  # [B, T] of the policy, nats
    values: Tensor | None  # [B, T] the critic's, of the states the tokens were chosen in; None without a critic
    # outcomes
    scores: Tensor  # [B] the reward's, clipped (D39), a missing end replaced (D25)
    ended: Tensor  # [B] bool
    parts: Mapping[str, Tensor]  # each [B], NaN where a sample does not have the part
    token_scores: Tensor | None  # [B, T] the scores split over tokens, where the reward does that
    # which of the update's episodes these are: all, but for those that the reward failed on
    numbers: Sequence[int]
    failures: Mapping[str, int]  # how many it failed on, by kind
    sampling_z: float  # of all that were sampled, see `ops.sampling.surprise_z`

    def __post_init__(self) -> None:
        shape = (len(self.responses), max(len(response.ids) for response in self.responses))
        if self.mask.dtype != torch.bool:
            raise ValueError(f"the mask must be boolean, not {self.mask.dtype}")
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Tensor) and value.shape not in (shape, shape[:1]):
                raise ValueError(f"{entry.name} has shape {tuple(value.shape)}, expected {shape} or {shape[:1]}")

    def select(self, rows: Sequence[int]) -> Episodes:
        """Some of the episodes, as an update of their own."""
        width = max(len(self.responses[row].ids) for row in rows)
        index = torch.tensor(rows, device=self.mask.device)

        def cut(value: Tensor) -> Tensor:
            return value[index, :width] if value.dim() > 1 else value[index.to(value.device)]

        tensors: dict[str, Any] = {
            entry.name: cut(value) for entry in fields(self) if isinstance(value := getattr(self, entry.name), Tensor)
        }
        return replace(
            self,
            **tensors,
            prompts=self.prompts.select(rows),
            responses=[self.responses[row] for row in rows],
            samples=[self.samples[row] for row in rows],
            parts={name: cut(values) for name, values in self.parts.items()},
            numbers=[self.numbers[row] for row in rows],
        )

    def batch(self, rows: Sequence[int], pad_id: int) -> TokenBatch:
        """The token batch of some episodes."""
        prompts = [self.prompts.ids[row] for row in rows]
        return pad_rows(prompts, [self.responses[row].ids for row in rows], pad_id, str(self.mask.device))

    @cached_property
    def prompt_groups(self) -> list[int]:
        """For each episode the first one with the same prompt."""
        return prompt_groups(self.prompts.ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of prompt and response, per episode."""
        return [len(p) + len(r.ids) for p, r in zip(self.prompts.ids, self.responses, strict=True)]
