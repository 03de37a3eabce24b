"""What the `rollout` slot offers, and responses as rewards are given them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from alignpipe.api import Sample
from alignpipe.dataset import Dataset, Row
from alignpipe.errors import PluginError
from alignpipe.training.tokens import decoder, fingerprint


@dataclass(frozen=True)
class Response:
    """Sampled token ids; `ended` means the last one is an end-of-sequence token, sampled by the policy itself."""

    ids: list[int]
    ended: bool


class Rollout(Protocol):
    """What a component of the `rollout` slot builds."""

    def sample(
        self,
        model: PreTrainedModel,
        prompts: Sequence[Sequence[int]],
        uniforms: Tensor,
        *,
        temperature: float,
        eos_ids: Sequence[int],
    ) -> list[Response]:
        """One response per prompt from the full distribution (D20), at most `uniforms.shape[1]` tokens each.

        It ends with the first token of `eos_ids`.

        `uniforms` [B, T] in [0, 1): token t of response b is drawn by the inverse CDF at `uniforms[b, t]`, so a
        response depends on its own row only, not on the batch it was sampled in.
        """
        ...


def sampled(
    rollout: Rollout,
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    uniforms: Tensor,
    *,
    temperature: float,
    eos_ids: Sequence[int],
) -> list[Response]:
    """What the rollout samples; raises `PluginError` if that is not one response per prompt, none too long."""
    responses = rollout.sample(model, prompts, uniforms, temperature=temperature, eos_ids=eos_ids)
    most, who = uniforms.shape[1], f"the rollout {type(rollout).__module__}.{type(rollout).__qualname__}"
    if len(responses) != len(prompts):
        raise PluginError(f"{who} gave {len(responses)} responses to {len(prompts)} prompts")
    for response in responses:
        if not isinstance(response, Response):
            raise PluginError(f"{who} gave {response!r:.80}, which is no alignpipe.training.rollouts.Response")
        if not 0 < len(response.ids) <= most:
            raise PluginError(f"{who} gave a response of {len(response.ids)} tokens, where 1 to {most} are wanted")
    return responses


def as_samples(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Response],
) -> list[Sample]:
    """What a reward is given: lazily decoded text, the policy's own ids, the prompt row's other columns."""
    decode, vocabulary = decoder(tokenizer), fingerprint(tokenizer)
    return [
        Sample(
            row["prompt"],
            messages=row["messages"],
            row=Dataset.extras(row),
            prompt_ids=ids,
            response_ids=response.ids,
            vocabulary=vocabulary,
            ended=response.ended,
            decode=decode,
        )
        for row, ids, response in zip(rows, prompts, responses, strict=True)
    ]
