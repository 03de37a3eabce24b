"""Collecting an update's episodes: sample, then one pass of each frozen model, then the reward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from alignpipe.ops.kl import kl_k1
from alignpipe.ops.shaping import replace_missing_eos
from alignpipe.training.batches import TokenBatch, by_length, pad_rows, response_logprobs, state_values
from alignpipe.training.rollouts import Response
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.episodes import Episodes, Prompts
from alignpipe_plugins.ppo.players import Players, make_samples

_SCORING_BATCH = 32
"""Rows of a forward pass without gradients, which holds no activations."""


def collect(
    players: Players, prompts: Prompts, uniforms: Tensor, *, missing_eos_score: float | None, clock: Clock
) -> Episodes:
    """Collect one update's episodes; `uniforms` [B, most response tokens] are its random stream (D28).

    The log-probabilities of the sampled tokens come from a fresh forward pass in the layout of the training (D27).

    Raises `RewardError` if the reward does not give one finite score per sample.
    """
    # 1. sample, stopping at the end-of-sequence token (D22, D23)
    responses = players.sample(prompts, uniforms)
    clock.lap("generate")
    # 2. the frozen models, once each, over rows of like length
    size = (len(responses), max(len(response.ids) for response in responses))
    mask = torch.zeros(size, dtype=torch.bool, device=players.device)
    logprobs, ref_logprobs, entropies, values = (torch.zeros(size, device=players.device) for _ in range(4))
    temperature = players.temperature
    with torch.no_grad():
        for rows, batch in token_batches(players, prompts, responses):
            width = batch.response_mask.shape[1]
            mask[rows, :width] = batch.response_mask
            logp, entropy = response_logprobs(players.network, batch, temperature, with_entropy=True)
            assert entropy is not None  # it was asked for
            logprobs[rows, :width], entropies[rows, :width] = logp, entropy
            ref_logprobs[rows, :width] = response_logprobs(players.reference, batch, temperature)[0]
            values[rows, :width] = state_values(players.critic, batch)
    clock.lap("forward")
    # 3. the reward
    scored = players.judge.score(make_samples(players.policy, prompts, responses))
    ended = torch.tensor([response.ended for response in responses], device=players.device)
    scores = torch.tensor(scored.total, device=players.device)
    if missing_eos_score is not None:
        scores = replace_missing_eos(scores, ended, missing_eos_score)
    clock.lap("score")
    parts = {name: torch.tensor(column) for name, column in scored.parts.items()}
    return Episodes(prompts, responses, mask, logprobs, ref_logprobs, entropies, values, scores, ended, parts)


def token_batches(
    players: Players, prompts: Prompts, responses: Sequence[Response]
) -> Iterator[tuple[list[int], TokenBatch]]:
    """Rows of like length with their token batch, for forward passes without gradients."""
    lengths = [len(ids) + len(response.ids) for ids, response in zip(prompts.ids, responses, strict=True)]
    for rows in by_length(lengths, _SCORING_BATCH):
        ids = [prompts.ids[row] for row in rows]
        yield rows, pad_rows(ids, [responses[row].ids for row in rows], players.pad_id, players.device)


def reference_kl(players: Players, prompts: Prompts, responses: Sequence[Response]) -> Tensor:
    """KL [B] of each response to the reference, k1 summed over its tokens, in nats (D37)."""
    kl = torch.zeros(len(responses), device=players.device)
    with torch.no_grad():
        for rows, batch in token_batches(players, prompts, responses):
            ours, _ = response_logprobs(players.network, batch, players.temperature)
            theirs, _ = response_logprobs(players.reference, batch, players.temperature)
            kl[rows] = kl_k1(ours, theirs).sum(1)
    return kl
