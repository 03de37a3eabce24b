"""The sampler: one token per row and step, by whichever decoder the model allows; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel

from alignpipe.api import BuildContext
from alignpipe.ops.sampling import inverse_cdf_sample
from alignpipe.training.lanes import ONE_LANE, Lanes
from alignpipe.training.linears import bfloat16_weights_cached
from alignpipe.training.ordering import by_length
from alignpipe.training.packed.decode import PackedDecoder
from alignpipe.training.packed.models import packable
from alignpipe.training.rollouts import Response
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig
from alignpipe_plugins.rollout_local.general import general_decoder

_FULL = 0.9
"""Finished rows are computed along until fewer than this share of the batch is going on: to leave, all others move."""


class Decoder(Protocol):
    """Rows of tokens that grow at their ends."""

    def start(self) -> Tensor:
        """Read the prompts; returns the next token's logits [B, V]."""
        ...

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token [B] to every row; returns the next one's logits [B, V]."""
        ...

    def select(self, rows: Tensor) -> None:
        """Go on with these rows only, in this order."""
        ...


class LocalRollout:
    """Samples with the model at hand."""

    def __init__(self, config: LocalRolloutConfig, lanes: Lanes = ONE_LANE) -> None:
        self._batch_size = config.batch_size
        self._lanes = lanes

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        *,
        temperature: float,
        eos_ids: Sequence[int],
    ) -> list[Response]:
        """See `alignpipe.training.rollouts.Rollout`; prompts of like length are sampled together."""
        if len(prompts) != uniforms.shape[0]:
            raise ValueError(f"{len(prompts)} prompts but uniforms for {uniforms.shape[0]}")
        size = self._lanes.rows_at_once(self._batch_size, len(prompts))
        groups = list(by_length([len(prompt) for prompt in prompts], size))

        def decode(rows: list[int]) -> list[Response]:
            decoder = _decoder(model, [prompts[row] for row in rows], uniforms.shape[1])
            return _decode(decoder, uniforms[rows], temperature, eos_ids)

        model.train(False)
        with torch.no_grad(), bfloat16_weights_cached(model):
            decoded = self._lanes.map(decode, groups)
        responses = {
            row: response
            for rows, group in zip(groups, decoded, strict=True)
            for row, response in zip(rows, group, strict=True)
        }
        return [responses[row] for row in range(len(prompts))]


def _decoder(model: PreTrainedModel, prompts: Sequence[Sequence[int]], room: int) -> Decoder:
    """The packed decoder where the model allows it for rows this long."""
    longest = max(len(prompt) for prompt in prompts) + room
    parts = packable(model, longest)
    return general_decoder(model, prompts) if parts is None else PackedDecoder(parts, prompts, longest)


def _decode(decoder: Decoder, uniforms: Tensor, temperature: float, eos_ids: Sequence[int]) -> list[Response]:
    """One response per row of `uniforms` [B, T]."""
    logits = decoder.start()
    uniforms = uniforms.to(logits.device)
    tokens = torch.zeros(uniforms.shape, dtype=torch.long, device=logits.device)
    lengths = torch.zeros(len(tokens), dtype=torch.long, device=logits.device)
    rows = torch.arange(len(tokens), device=logits.device)  # which row of the result each row of the batch is
    going = torch.ones_like(rows, dtype=torch.bool)
    for step in range(uniforms.shape[1]):
        drawn = inverse_cdf_sample(logits, uniforms[rows, step], temperature)
        tokens[rows, step] = drawn  # what a finished row draws lies behind its end and is cut off
        lengths[rows] += going
        for end in eos_ids:
            going &= drawn != end  # never back to True
        left = int(going.sum())
        if left == 0 or step + 1 == uniforms.shape[1]:
            break
        if left < _FULL * len(rows):
            kept = going.nonzero().squeeze(1)
            rows, drawn, going = rows[kept], drawn[kept], going[kept]
            decoder.select(kept)
        logits = decoder.step(drawn)
    cut = [ids[:length] for ids, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return [Response(ids, ids[-1] in eos_ids) for ids in cut]


def build(config: LocalRolloutConfig, context: BuildContext) -> LocalRollout:
    """The component's factory."""
    return LocalRollout(config, Lanes.of(context))
