"""How the critic starts (D45): in the reward's own units, or with a head of zeros."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from alignpipe.api import Sample
from alignpipe.rewarding.judge import Judge
from alignpipe.training.batches import last_token_scores, pad_rows, state_values
from alignpipe.training.models import Policy, TokenScorer, load_causal, load_tokenizer
from alignpipe.training.parallel import ALONE
from alignpipe_plugins.model_tiny.config import TinyConfig
from alignpipe_plugins.model_tiny.source import TinySource
from alignpipe_plugins.ppo.critic import start_critic
from alignpipe_plugins.ppo.players import make_samples
from support import ppo, tiny_models

SOURCE = TinySource(TinyConfig())


def start(tmp_path: Path, reward: object, *, folder: Path | None = None, prompts: int = 24) -> TokenScorer:
    policy = Policy(load_causal(tiny_models.llama()), load_tokenizer(tiny_models.llama()))
    payload = folder or tmp_path / "reward"
    payload.mkdir(exist_ok=True)
    if isinstance(reward, ppo.Head):
        reward.save(payload)
        reward.load(payload)
    return start_critic(
        policy, SOURCE, Judge(reward, "head"), payload, ppo.make_prompts(prompts), tmp_path / "work", "cpu", ALONE
    )


def is_zero(critic: TokenScorer) -> bool:
    episodes = ppo.make_episodes(ppo.make_players())
    return bool(state_values(critic, episodes.batch(range(9), 0)).eq(0).all())


@pytest.mark.parametrize(("gain", "bias"), [(1.0, 0.0), (2.5, -3.0)])
def test_it_starts_with_the_rewards_own_scores(gain: float, bias: float, tmp_path: Path) -> None:
    reward = ppo.Head(gain, bias)
    critic = start(tmp_path, reward)
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)  # texts the fit has not seen
    scores = torch.tensor(reward.score(make_samples(players.policy, episodes.prompts, episodes.responses)))
    batch = pad_rows(episodes.prompts.ids, [response.ids for response in episodes.responses], 0, "cpu")
    with torch.no_grad():
        torch.testing.assert_close(last_token_scores(critic, batch), scores, rtol=1e-4, atol=1e-4)
    assert scores.std() > 0.1
    assert all(parameter.requires_grad for parameter in critic.parameters())


def test_a_reward_that_is_not_its_models_head_starts_it_at_zero(tmp_path: Path) -> None:
    critic = start(tmp_path, ppo.Head(shape=lambda raw: (5 * raw).cos()))
    assert is_zero(critic)
    backbone = load_causal(tiny_models.llama()).model.state_dict()
    assert ppo.same(dict(critic.model.model.state_dict()), dict(backbone))  # otherwise it is the policy
    assert critic.model.score.weight.requires_grad


def test_a_reward_that_says_the_opposite_starts_it_at_zero(tmp_path: Path) -> None:
    assert is_zero(start(tmp_path, ppo.Head(gain=-1.0)))


def test_a_constant_reward_or_a_single_prompt_starts_it_at_zero(tmp_path: Path) -> None:
    assert is_zero(start(tmp_path, ppo.Head(shape=torch.zeros_like)))
    assert is_zero(start(tmp_path, ppo.Head(), prompts=1))


def test_a_reward_that_refuses_empty_answers_starts_it_at_zero_and_ends_nothing(tmp_path: Path) -> None:
    class Choosy(ppo.Head):
        def score(self, samples: Sequence[Sample]) -> list[float | None]:
            return [None] * len(samples)

    assert is_zero(start(tmp_path, Choosy()))


def test_a_written_reward_starts_it_at_zero(tmp_path: Path) -> None:
    assert is_zero(start(tmp_path, ppo.Counting()))


def test_a_reward_model_with_other_tokens_starts_it_at_zero(tmp_path: Path) -> None:
    rule = ppo.Rule(lambda sample: pytest.fail("nothing to ask it"))
    assert is_zero(start(tmp_path, rule, folder=tiny_models.with_bos()))
