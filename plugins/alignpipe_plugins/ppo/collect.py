"""Collecting an update's episodes: sample, then one pass of each frozen model, then the reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from alignpipe.api import Reward, Sample
from alignpipe.dataset import Dataset
from alignpipe.ops.shaping import replace_missing_eos
from alignpipe.rewarding.scoring import score
from alignpipe.training.batches import TokenBatch, by_length, pad_rows, response_logprobs, state_values
from alignpipe.training.models import Policy, TokenScorer
from alignpipe.training.rollouts import Response, Rollout
from alignpipe.training.tokens import decoder, fingerprint

from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.episodes import Episodes, Prompts

_SCORING_BATCH = 32
"""Rows of a forward pass without gradients, which holds no activations."""


@dataclass(frozen=True)
class Judge:
    """A reward with its option's name, for messages."""

    reward: Reward
    name: str


@dataclass(frozen=True)
class Sampler:
    """How responses are sampled, in training and in validation."""

    rollout: Rollout
    temperature: float
    device: str

    def sample(self, policy: Policy, network: nn.Module, prompts: Prompts, uniforms: Tensor) -> list[Response]:
        """One response per prompt, by the `network` that stands in for the policy (it may carry adapters)."""
        eos_id = int(policy.tokenizer.eos_token_id)
        return self.rollout.sample(network, prompts.ids, uniforms, temperature=self.temperature, eos_id=eos_id)  # type: ignore[arg-type]


def make_samples(policy: Policy, prompts: Prompts, responses: Sequence[Response]) -> list[Sample]:
    """What a reward is given: lazily decoded text, the policy's own ids, the prompt row's other columns."""
    decode, vocabulary = decoder(policy.tokenizer), fingerprint(policy.tokenizer)
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
        for row, ids, response in zip(prompts.rows, prompts.ids, responses, strict=True)
    ]


def collect(
    policy: Policy,
    network: nn.Module,
    reference: nn.Module,
    critic: TokenScorer,
    judge: Judge,
    sampler: Sampler,
    prompts: Prompts,
    uniforms: Tensor,
    *,
    missing_eos_score: float | None,
    clock: Clock,
) -> Episodes:
    """Collect one update's episodes; `uniforms` [B, most response tokens] are its random stream (D28).

    The log-probabilities of the sampled tokens come from a fresh forward pass in the layout of the training (D27).

    Raises `RewardError` if the reward does not give one finite score per sample.
    """
    # 1. sample, stopping at the end-of-sequence token (D22, D23)
    responses = sampler.sample(policy, network, prompts, uniforms)
    clock.lap("generate")
    # 2. the frozen models, once each, over rows of like length
    pad_id = int(policy.tokenizer.pad_token_id)
    size = (len(responses), max(len(response.ids) for response in responses))
    mask = torch.zeros(size, dtype=torch.bool, device=sampler.device)
    logprobs, ref_logprobs, entropies, values = (torch.zeros(size, device=sampler.device) for _ in range(4))
    lengths = [len(ids) + len(response.ids) for ids, response in zip(prompts.ids, responses, strict=True)]
    with torch.no_grad():
        for rows in by_length(lengths, _SCORING_BATCH):
            batch = pad_rows([prompts.ids[row] for row in rows], [responses[row].ids for row in rows], pad_id, sampler.device)
            width = batch.response_mask.shape[1]
            mask[rows, :width] = batch.response_mask
            logp, entropy = response_logprobs(network, batch, sampler.temperature, with_entropy=True)
            logprobs[rows, :width] = logp
            entropies[rows, :width] = entropy if entropy is not None else logp
            ref_logprobs[rows, :width] = response_logprobs(reference, batch, sampler.temperature)[0]
            values[rows, :width] = state_values(critic, batch)
    clock.lap("forward")
    # 3. the reward
    scored = score(judge.reward, make_samples(policy, prompts, responses), judge.name)
    scores = torch.tensor(scored.total, device=sampler.device)
    ended = torch.tensor([response.ended for response in responses], device=sampler.device)
    if missing_eos_score is not None:
        scores = replace_missing_eos(scores, ended, missing_eos_score)
    clock.lap("score")
    parts = {name: torch.tensor(column) for name, column in scored.parts.items()}
    return Episodes(prompts, responses, mask, logprobs, ref_logprobs, entropies, values, scores, ended, parts)


def reference_kl(network: nn.Module, reference: nn.Module, batches: Sequence[TokenBatch], temperature: float) -> Tensor:
    """KL [B] of each response to the reference, k1 summed over its tokens, in nats (D37)."""
    with torch.no_grad():
        return torch.cat(
            [
                (response_logprobs(network, batch, temperature)[0] - response_logprobs(reference, batch, temperature)[0]).sum(1)
                for batch in batches
            ]
        )
