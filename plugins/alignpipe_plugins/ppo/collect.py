"""Collecting an update's episodes: sample, then one pass of each frozen model, then the reward."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from alignpipe.ops.kl import kl_k1
from alignpipe.ops.sampling import surprise_z
from alignpipe.ops.shaping import clip_scores, last_kept, replace_missing_eos
from alignpipe.rewarding.judge import Scored
from alignpipe.rewarding.tally import costly
from alignpipe.training.batches import (
    TokenBatch,
    pad_rows,
    prompt_groups,
    response_logprobs,
    shared_prompt_groups,
    state_values,
)
from alignpipe.training.ordering import by_length
from alignpipe.training.rollouts import Response
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.episodes import Episodes, Prompts
from alignpipe_plugins.ppo.players import Players, make_samples
from alignpipe_plugins.ppo.together import score_together

_SCORING_BATCH = 32
"""Rows at once in forward passes without gradients, which hold no activations; of all lanes together."""


def collect(
    players: Players,
    prompts: Prompts,
    uniforms: Tensor,
    clock: Clock,
    *,
    score_clip: float | None,
    missing_eos_score: float | None,
) -> Episodes:
    """Collect one update's episodes; `uniforms` [B, most response tokens] are its random stream (D28).

    The log-probabilities of the sampled tokens come from a fresh forward pass in the layout of the training (D27).

    An episode that the reward fails on is counted, and left out unless its score is replaced (D25).

    Raises `RewardError` if it fails on more than `scoring.failure_budget` allows of those whose score is its own,
    `TooFewScores` if no episode has a score.
    """
    # 1. sample, stopping at the end-of-sequence token (D22, D23)
    responses = players.sample(prompts, uniforms)
    clock.tokens += sum(len(response.ids) for response in responses)
    clock.lap("generate")
    # 2. the frozen models, once each, over rows of like length
    size = (len(responses), max(len(response.ids) for response in responses))
    lengths = torch.tensor([len(response.ids) for response in responses], device=players.device)
    mask = torch.arange(size[1], device=players.device) < lengths[:, None]
    logprobs, ref_logprobs, entropies = (torch.zeros(size, device=players.device) for _ in range(3))
    values = None if players.critic is None else torch.zeros(size, device=players.device)
    temperature = players.temperature

    if players.critic is not None:
        players.critic.eval()

    def look(rows: list[int], batch: TokenBatch) -> None:
        width = batch.response_mask.shape[1]
        logp, entropy = response_logprobs(players.network, batch, temperature, with_entropy=True)
        assert entropy is not None  # it was asked for
        logprobs[rows, :width], entropies[rows, :width] = logp, entropy
        ref_logprobs[rows, :width] = response_logprobs(players.reference, batch, temperature)[0]
        if players.critic is not None and values is not None:
            values[rows, :width] = state_values(players.critic, batch)

    for_each_batch(players, prompts, responses, look)
    logprobs, ref_logprobs, entropies = (
        players.team.sum_tensor(table) for table in (logprobs, ref_logprobs, entropies)
    )
    values = None if values is None else players.team.sum_tensor(values)
    clock.lap("forward")
    # 3. the reward
    samples = make_samples(players.policy, prompts, responses)
    ended = torch.tensor([response.ended for response in responses], device=players.device)
    replaced = rows_replaced(responses, missing_eos_score)
    scored = score_together(players.team, players.judge, samples, replaced)
    scores = shape_scores(torch.tensor(scored.total, device=players.device), ended, score_clip, missing_eos_score)
    clock.lap("score")
    episodes = Episodes(
        prompts,
        responses,
        samples,
        mask,
        logprobs,
        ref_logprobs,
        entropies,
        values,
        scores,
        ended,
        parts={name: torch.tensor(column) for name, column in scored.parts.items()},
        token_scores=_split_scores(scored.per_token, scores, mask),
        numbers=range(len(responses)),
        failures=scored.failure_counts(),
        sampling_z=float(surprise_z(logprobs, entropies, mask)),
    )
    kept = rows_with_score(scored, replaced)
    return episodes if len(kept) == len(responses) else episodes.select(kept)


def rows_replaced(responses: Sequence[Response], missing_eos_score: float | None) -> set[int]:
    """The responses whose score is `missing_eos_score`, whatever the reward says of them (D25)."""
    return {row for row, each in enumerate(responses) if missing_eos_score is not None and not each.ended}


def rows_with_score(scored: Scored, replaced: Collection[int]) -> list[int]:
    """The responses that have a score: what the reward failed on has none, unless its score is `replaced`.

    What the reward does not apply to has none in any case.
    """
    missing = costly(scored.failures, replaced)
    return [row for row in range(len(scored.total)) if row not in missing]


def _split_scores(per_token: Sequence[Sequence[float]] | None, scores: Tensor, mask: Tensor) -> Tensor | None:
    """Scores split over tokens [B, T]; what clipping or a missing end changed in a score, on the last token."""
    if per_token is None:
        return None
    split = torch.zeros(mask.shape, device=mask.device)
    for row, values in enumerate(per_token):
        split[row, : len(values)] = torch.tensor(values, device=mask.device)
    last = last_kept(mask).unsqueeze(1)
    return split.scatter_add(1, last, (scores.to(split.dtype) - split.sum(1)).unsqueeze(1))


def shape_scores(scores: Tensor, ended: Tensor, score_clip: float | None, missing_eos_score: float | None) -> Tensor:
    """The scores that are trained on: the reward's, clipped (D39), a missing end replaced (D25); both [B]."""
    if score_clip is not None:
        scores = clip_scores(scores, score_clip)
    return scores if missing_eos_score is None else replace_missing_eos(scores, ended, missing_eos_score)


def for_each_batch(
    players: Players, prompts: Prompts, responses: Sequence[Response], look: Callable[[list[int], TokenBatch], None]
) -> None:
    """Call `look` without gradients for rows of like length and their token batch, until all rows had their turn.

    Each process looks at its share, in its lanes. Tables that are filled so hold zeros in the rows of the other
    processes: their sum over the team is whole.
    """
    lengths = [len(ids) + len(response.ids) for ids, response in zip(prompts.ids, responses, strict=True)]
    lanes, groups = players.team.lanes, shared_prompt_groups(players.network, prompt_groups(prompts.ids))
    own = players.team.share(lengths, groups=groups)
    batches = by_length(lengths, lanes.rows_at_once(_SCORING_BATCH, len(own)), rows=own, groups=groups)

    def look_at(rows: list[int]) -> None:
        ids, answers = [prompts.ids[row] for row in rows], [responses[row].ids for row in rows]
        look(rows, pad_rows(ids, answers, players.pad_id, players.device))

    with torch.no_grad():
        lanes.map(look_at, list(batches))


def reference_kl(players: Players, prompts: Prompts, responses: Sequence[Response]) -> Tensor:
    """KL [B] of each response to the reference, k1 summed over its tokens, in nats (D37)."""
    kl = torch.zeros(len(responses), device=players.device)

    def look(rows: list[int], batch: TokenBatch) -> None:
        ours, _ = response_logprobs(players.network, batch, players.temperature)
        theirs, _ = response_logprobs(players.reference, batch, players.temperature)
        kl[rows] = kl_k1(ours, theirs).sum(1)

    for_each_batch(players, prompts, responses, look)
    return players.team.sum_tensor(kl)
