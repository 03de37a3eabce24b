"""An update's episodes against forward passes of single rows without padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from alignpipe.api import Sample, Scores
from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe.training.tokens import fingerprint
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.collect import collect, reference_kl
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.players import Players
from support import ppo

ROWS = 20


def players_apart() -> Players:
    """A policy that is not its reference, and ends some of its responses."""
    players = ppo.make_players(starts_as_reference=False)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in players.network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=noise)
        embedding = players.network.get_input_embeddings().weight  # tied: this makes the end likelier everywhere
        embedding[ppo.EOS] *= 3
    return players


def gather(players: Players, missing: float | None = None, seed: int = 0, score_clip: float | None = None) -> Episodes:
    uniforms = episode_uniforms(stream(seed, "episodes", 0), ROWS, ppo.ROOM)
    prompts = ppo.make_prompts(ROWS)
    return collect(players, prompts, uniforms, Clock(), score_clip=score_clip, missing_eos_score=missing)


@pytest.fixture(scope="module")
def players() -> Players:
    return players_apart()


@pytest.fixture(scope="module")
def episodes(players: Players) -> Episodes:
    return gather(players)


def test_some_responses_end_and_others_are_cut(episodes: Episodes) -> None:
    assert set(episodes.ended.tolist()) == {True, False}
    assert len({len(response.ids) for response in episodes.responses}) > 2


def test_the_tables_are_those_of_the_rows_alone(players: Players, episodes: Episodes) -> None:
    for row, response in enumerate(episodes.responses):
        prompt, length = episodes.prompts.ids[row], len(response.ids)
        assert episodes.mask[row].tolist() == [step < length for step in range(episodes.mask.shape[1])]
        with torch.no_grad():
            expected = {
                "logprobs": ppo.naive_logprobs(players.network, prompt, response.ids, players.temperature),
                "ref_logprobs": ppo.naive_logprobs(players.reference, prompt, response.ids, players.temperature),
                "values": ppo.naive_values(players.critic, prompt, response.ids),
            }
            logits = players.network(torch.tensor([prompt + response.ids])).logits[0, len(prompt) - 1 : -1]
            expected["entropies"] = torch.distributions.Categorical(logits=logits / players.temperature).entropy()
        for name, values in expected.items():
            table = getattr(episodes, name)[row]
            torch.testing.assert_close(table[:length], values, rtol=1e-4, atol=1e-4)
            assert table[length:].eq(0).all()
    assert (episodes.logprobs - episodes.ref_logprobs).abs().max() > 0.05


def test_the_same_stream_gives_the_same_episodes(players: Players, episodes: Episodes) -> None:
    assert gather(players).responses == episodes.responses
    assert gather(players, seed=1).responses != episodes.responses


def test_a_missing_end_replaces_the_score(players: Players, episodes: Episodes) -> None:
    replaced = gather(players, missing=-7.5)
    for plain, score, ended in zip(episodes.scores, replaced.scores, episodes.ended, strict=True):
        assert score == (plain if ended else -7.5)


def test_scores_are_clipped_and_the_missing_ends_own_score_is_not(players: Players, episodes: Episodes) -> None:
    clipped = gather(players, missing=-7.5, score_clip=0.4)
    assert float(episodes.scores.max()) > 0.4
    for plain, score, ended in zip(episodes.scores, clipped.scores, episodes.ended, strict=True):
        assert score == (plain.clamp(-0.4, 0.4) if ended else -7.5)


def test_what_shaping_changes_in_a_score_stands_on_the_last_token(players: Players) -> None:
    class Split:
        def score(self, samples: Sequence[Sample]) -> Scores:
            split = [[0.75] * len(sample.response_ids or ()) for sample in samples]
            return Scores([sum(row) for row in split], per_token=split)

    found = gather(replace(players, judge=Judge(Split(), "split")), missing=-7.5, score_clip=2.0)
    assert found.token_scores is not None
    for row, score, response in zip(found.token_scores.tolist(), found.scores.tolist(), found.responses, strict=True):
        total = 0.75 * len(response.ids)
        assert score == (min(total, 2.0) if response.ended else -7.5)
        expected = [*[0.75] * (len(response.ids) - 1), 0.75 + score - total]
        assert row == expected + [0.0] * (len(row) - len(expected))
    assert any(response.ended and len(response.ids) > 2 for response in found.responses)


def test_without_a_critic_there_are_no_values(players: Players, episodes: Episodes) -> None:
    alone = gather(replace(players, critic=None))
    assert alone.values is None
    assert torch.equal(alone.logprobs, episodes.logprobs)


def test_parts_are_kept_apart(episodes: Episodes) -> None:
    assert episodes.parts.keys() == {"even", "small"}
    assert torch.equal(episodes.parts["even"], episodes.scores)


def test_what_the_reward_is_given(players: Players) -> None:
    rule = ppo.Rule(lambda sample: float(len(sample.response_ids)))
    episodes = gather(replace(players, judge=Judge(rule, "rule")))
    assert episodes.scores.tolist() == [len(response.ids) for response in episodes.responses]
    vocabulary = fingerprint(players.policy.tokenizer)
    for row, (sample, response) in enumerate(zip(rule.seen, episodes.responses, strict=True)):
        assert (sample.prompt, sample.row) == (f"prompt {row}", {"case": row})
        assert sample.prompt_ids == episodes.prompts.ids[row]
        assert (sample.response_ids, sample.ended) == (response.ids, response.ended)
        assert sample.response == players.policy.tokenizer.decode(response.ids, skip_special_tokens=True)
        assert sample.vocabulary == vocabulary


def test_a_reward_without_a_number_is_named(players: Players) -> None:
    judge = Judge(ppo.Rule(lambda sample: float("nan")), "odd")
    with pytest.raises(RewardError, match=r"odd failed on 20 of 20 samples \(nan: 20\)"):
        gather(replace(players, judge=judge))


def test_collecting_switches_training_mode_off() -> None:
    players = ppo.make_players()
    players.network.train()
    gather(players)
    assert not players.network.training


def test_no_gradient_is_kept(episodes: Episodes) -> None:
    assert not any(
        getattr(episodes, name).requires_grad for name in ("logprobs", "ref_logprobs", "values", "entropies")
    )


def test_the_reference_kl_is_the_sum_over_tokens(players: Players, episodes: Episodes) -> None:
    kl = reference_kl(players, episodes.prompts, episodes.responses)
    torch.testing.assert_close(kl, (episodes.logprobs - episodes.ref_logprobs).sum(1), rtol=1e-4, atol=1e-4)
    assert reference_kl(ppo.make_players(), episodes.prompts, episodes.responses).abs().max() == 0
