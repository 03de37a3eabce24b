"""One policy's answers to the held-out prompts, and what they look like by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignpipe.api import Sample
from alignpipe.dataset import Row
from alignpipe.ops.kl import kl_k1
from alignpipe.ops.text import distinct_n
from alignpipe.training.batches import TokenBatch, pad_rows, response_logprobs
from alignpipe.training.lanes import ONE_LANE, Lanes
from alignpipe.training.models import Policy, context_length
from alignpipe.training.ordering import by_length
from alignpipe.training.rollouts import Response, Rollout, as_samples, sampled
from alignpipe.training.tokens import encode_prompts, fit_length, prompt_ids, response_ids

_BATCH = 32
_UNKNOWN_CONTEXT = 1024
"""Tokens of a demonstration read for the perplexity where the model does not say how many it can."""


@dataclass(frozen=True)
class Answers:
    """What one policy sampled: token ids, and the samples the rewards see."""

    name: str
    prompts: Sequence[list[int]]
    responses: Sequence[Response]
    samples: Sequence[Sample]

    def figures(self) -> dict[str, float]:
        """Length in tokens, share that ended by itself, and how varied the words are."""
        words = [sample.response.split() for sample in self.samples]
        lengths = [len(response.ids) for response in self.responses]
        return {
            "length": sum(lengths) / len(lengths),
            "eos_rate": sum(response.ended for response in self.responses) / len(self.responses),
            "distinct_1": distinct_n(words, 1),
            "distinct_2": distinct_n(words, 2),
        }


def answer(
    policy: Policy, name: str, rows: Sequence[Row], rollout: Rollout, uniforms: Tensor, temperature: float, key: str
) -> Answers:
    """Sample one answer per row; `uniforms` [B, most tokens] is the random stream, `key` says where its width is set.

    Raises `DataError` for an empty prompt, or one that leaves too little of the context.
    """
    prompts = encode_prompts(policy.tokenizer, rows, uniforms.shape[1], context_length(policy.model), key)
    responses = sampled(rollout, policy.model, prompts, uniforms, temperature=temperature, eos_ids=policy.eos_ids)
    return Answers(name, prompts, responses, as_samples(policy.tokenizer, rows, prompts, responses))


def swapped(samples: Sequence[Sample]) -> list[Sample]:
    """Every response with the prompt, messages, row and prompt ids of the next sample; the last takes the first's."""
    return [
        Sample(
            other.prompt,
            own.response,
            messages=other.messages,
            row=other.row,
            prompt_ids=other.prompt_ids,
            response_ids=own.response_ids,
            vocabulary=own.vocabulary,
            ended=own.ended,
        )
        for own, other in zip(samples, [*samples[1:], *samples[:1]], strict=True)
    ]


def kl_to(
    policy: Policy, other: Policy, answers: Answers, temperature: float, device: str, lanes: Lanes = ONE_LANE
) -> list[float]:
    """KL of each answer to `other`, k1 summed over its tokens, in nats; the two must share their vocabulary."""
    kl = [0.0] * len(answers.responses)
    pairs = [(prompt, response.ids) for prompt, response in zip(answers.prompts, answers.responses, strict=True)]

    def look(rows: list[int]) -> None:
        batch = _batch(policy, [pairs[row] for row in rows], device)
        ours, theirs = (response_logprobs(model, batch, temperature)[0] for model in (policy.model, other.model))
        for row, value in zip(rows, kl_k1(ours, theirs).sum(1).tolist(), strict=True):
            kl[row] = value

    with torch.no_grad():
        lanes.map(look, _groups(pairs, lanes))
    return kl


def perplexity(policy: Policy, rows: Sequence[Row], device: str, lanes: Lanes = ONE_LANE) -> float | None:
    """Perplexity of the demonstrations' completions, per token, at temperature 1; None if no token can be predicted.

    Raises `DataError` for a prompt that fills the model's context.
    """
    length = context_length(policy.model) or _UNKNOWN_CONTEXT
    pairs = []
    completions = response_ids(policy.tokenizer, [row["completion"] for row in rows])
    for prompt, completion in zip(prompt_ids(policy.tokenizer, rows), completions, strict=True):
        # Without a prompt nothing comes before the first token, so it cannot be predicted.
        pair = fit_length(prompt, completion, length) if prompt else (completion[:1], completion[1:length])
        if pair[1]:
            pairs.append(pair)
    if not pairs:
        return None

    def loss_and_tokens(group: list[int]) -> tuple[float, int]:
        batch = _batch(policy, [pairs[index] for index in group], device)
        return -float(response_logprobs(policy.model, batch)[0].sum()), int(batch.response_mask.sum())

    with torch.no_grad():
        losses, tokens = zip(*lanes.map(loss_and_tokens, _groups(pairs, lanes)), strict=True)
    return math.exp(min(sum(losses) / sum(tokens), 700.0))  # above that a float overflows


def _groups(pairs: Sequence[tuple[Sequence[int], Sequence[int]]], lanes: Lanes) -> list[list[int]]:
    """The pairs in groups of like length, each for one forward pass."""
    lengths = [len(prompt) + len(response) for prompt, response in pairs]
    return list(by_length(lengths, lanes.rows_at_once(_BATCH, len(pairs))))


def _batch(policy: Policy, pairs: Sequence[tuple[list[int], list[int]]], device: str) -> TokenBatch:
    prompts, responses = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return pad_rows(prompts, responses, int(policy.tokenizer.pad_token_id), device)
