"""The sampler: a left-padded decode loop over any causal LM; finished rows leave the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from alignpipe.api import BuildContext
from alignpipe.ops.sampling import inverse_cdf_sample
from alignpipe.training.rollouts import Response
from alignpipe_plugins.rollout_local.config import LocalRolloutConfig


class LocalRollout:
    """Samples with the model at hand."""

    def __init__(self, config: LocalRolloutConfig) -> None:
        self._batch_size = config.batch_size

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        *,
        temperature: float,
        eos_id: int,
    ) -> list[Response]:
        """See `alignpipe.training.rollouts.Rollout`; prompts of like length are sampled together."""
        if len(prompts) != uniforms.shape[0]:
            raise ValueError(f"{len(prompts)} prompts but uniforms for {uniforms.shape[0]}")
        order = sorted(range(len(prompts)), key=lambda index: (len(prompts[index]), index))
        responses: dict[int, Response] = {}
        model.train(False)
        with torch.no_grad():
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                drawn = _decode(model, [prompts[row] for row in rows], uniforms[rows], temperature, eos_id)
                responses.update(zip(rows, drawn, strict=True))
        return [responses[row] for row in range(len(prompts))]


def _decode(
    model: PreTrainedModel, prompts: Sequence[Sequence[int]], uniforms: Tensor, temperature: float, eos_id: int
) -> list[Response]:
    device = next(model.parameters()).device
    width = max(len(prompt) for prompt in prompts)
    # Pads are masked, so any id the embedding knows will do (D01).
    ids = torch.zeros((len(prompts), width), dtype=torch.long, device=device)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt, device=device)
        mask[row, width - len(prompt) :] = 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    uniforms = uniforms.to(device)
    tokens: list[list[int]] = [[] for _ in prompts]
    alive = torch.arange(len(prompts), device=device)
    cache = DynamicCache(config=model.config)
    for step in range(uniforms.shape[1]):
        output = model(
            ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        drawn = inverse_cdf_sample(output.logits[:, -1].float(), uniforms[alive, step], temperature)
        for row, token in zip(alive.tolist(), drawn.tolist(), strict=True):
            tokens[row].append(token)
        going = drawn != eos_id
        if not bool(going.any()):
            break
        if not bool(going.all()):
            kept = going.nonzero().squeeze(1)
            alive, drawn, mask, positions = alive[kept], drawn[kept], mask[kept], positions[kept]
            cache.batch_select_indices(kept)
        ids = drawn[:, None]
        mask = torch.cat([mask, mask.new_ones((len(alive), 1))], dim=1)
        positions = positions[:, -1:] + 1
    return [Response(row, row[-1] == eos_id) for row in tokens]


def build(config: LocalRolloutConfig, context: BuildContext) -> LocalRollout:
    """The component's factory."""
    return LocalRollout(config)
