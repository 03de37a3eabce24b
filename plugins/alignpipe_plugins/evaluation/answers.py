"""One policy's answers to the held-out prompts, and what they look like by themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignpipe.api import Reward, Sample
from alignpipe.dataset import Dataset, Row
from alignpipe.ops.text import distinct_n
from alignpipe.rewarding.scoring import Scored, score
from alignpipe.training.batches import by_length, pad_rows, response_logprobs
from alignpipe.training.models import Policy, context_length
from alignpipe.training.rollouts import Response, Rollout
from alignpipe.training.tokens import decoder, encode_prompt, encode_response, fingerprint, fit_length

_BATCH = 32


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
    policy: Policy, name: str, rows: Sequence[Row], rollout: Rollout, uniforms: Tensor, temperature: float, room: int
) -> Answers:
    """Sample one answer per row, at most `room` tokens each; `uniforms` [B, room] is the random stream.

    Raises `DataError` for a prompt that leaves no room for an answer.
    """
    context = context_length(policy.model)
    prompts = [encode_prompt(policy.tokenizer, row["prompt"], row["messages"]) for row in rows]
    if context is not None:
        for prompt in prompts:
            fit_length(prompt, [], context)
    eos_id = int(policy.tokenizer.eos_token_id)
    responses = rollout.sample(policy.model, prompts, uniforms[:, :room], temperature=temperature, eos_id=eos_id)
    decode, vocabulary = decoder(policy.tokenizer), fingerprint(policy.tokenizer)
    samples = [
        Sample(
            row["prompt"],
            decode(response.ids),
            messages=row["messages"],
            row=Dataset.extras(row),
            prompt_ids=prompt,
            response_ids=response.ids,
            vocabulary=vocabulary,
            ended=response.ended,
        )
        for row, prompt, response in zip(rows, prompts, responses, strict=True)
    ]
    return Answers(name, prompts, responses, samples)


def scores_of(answers: Answers, reward: Reward, name: str) -> Scored:
    """All scores, in batches; raises `RewardError` as `score` does."""
    total: list[float] = []
    parts: dict[str, list[float]] = {}
    for start in range(0, len(answers.samples), _BATCH):
        batch = score(reward, answers.samples[start : start + _BATCH], name)
        total += batch.total
        for part, values in batch.parts.items():
            parts.setdefault(part, []).extend(values)
    return Scored(total, parts)


def kl_to(policy: Policy, other: Policy, answers: Answers, temperature: float, device: str) -> list[float]:
    """KL of each answer to `other`, k1 summed over its tokens, in nats; the two must share their vocabulary."""
    pad_id = int(policy.tokenizer.pad_token_id)
    kl = [0.0] * len(answers.responses)
    lengths = [len(p) + len(r.ids) for p, r in zip(answers.prompts, answers.responses, strict=True)]
    with torch.no_grad():
        for rows in by_length(lengths, _BATCH):
            batch = pad_rows([answers.prompts[row] for row in rows], [answers.responses[row].ids for row in rows], pad_id, device)
            ours, theirs = (response_logprobs(model, batch, temperature)[0] for model in (policy.model, other.model))
            for row, value in zip(rows, (ours - theirs).sum(1).tolist(), strict=True):
                kl[row] = value
    return kl


def perplexity(policy: Policy, rows: Sequence[Row], max_length: int, device: str) -> float:
    """Perplexity of the demonstrations' completions, per token, at temperature 1."""
    pairs = []
    for row in rows:
        prompt = encode_prompt(policy.tokenizer, row["prompt"], row["messages"])
        completion = encode_response(policy.tokenizer, row["completion"])
        pairs.append(fit_length(prompt, completion, max_length) if prompt else (completion[:1], completion[1:max_length]))
    total, tokens = 0.0, 0
    with torch.no_grad():
        for group in by_length([len(prompt) + len(response) for prompt, response in pairs], _BATCH):
            batch = pad_rows(
                [pairs[index][0] for index in group],
                [pairs[index][1] for index in group],
                int(policy.tokenizer.pad_token_id),
                device,
            )
            total -= float(response_logprobs(policy.model, batch)[0].sum())
            tokens += int(batch.response_mask.sum())
    return math.exp(min(total / tokens, 700.0))
