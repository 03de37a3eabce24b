"""The estimators in the loop: the papers' formulas by hand, groups, no critic where none belongs, and learning."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignpipe.options import Schedule
from alignpipe.training.checkpoint import latest_step
from alignpipe_plugins.ppo import loop
from alignpipe_plugins.ppo.advantages import estimate, token_kl
from alignpipe_plugins.ppo.config import KLEstimator, LoopConfig, ScaleRewards
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.loop import prompt_indices
from support import ppo

BETA = 0.3
CRITIC_FREE = {name: config for name, config in ppo.CONFIGS.items() if name != "ppo"}

pytestmark = pytest.mark.slow


def advantages_of(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Will hold the episodes and advantages of the latest update."""
    seen: dict[str, Any] = {}
    real = loop.estimate

    def watched(config: LoopConfig, episodes: Episodes, *rest: Any) -> Any:
        targets = real(config, episodes, *rest)
        seen.update(episodes=episodes, advantages=targets.advantages)
        return targets

    monkeypatch.setattr(loop, "estimate", watched)
    return seen


def an_update(
    monkeypatch: pytest.MonkeyPatch, root: Path, config: LoopConfig, **changes: Any
) -> tuple[Episodes, list[list[float]]]:
    """The episodes of an only update and the advantages its policy learns from, per kept token."""
    players = ppo.make_players(starts_as_reference=False, critic=config is ppo.CONFIG)
    with torch.no_grad():
        players.reference.get_input_embeddings().weight.mul_(1.1)
        embedding = players.network.get_input_embeddings().weight  # tied: this makes the end likelier everywhere
        embedding[ppo.EOS] *= 3
    seen = advantages_of(monkeypatch)
    ppo.train(root, players, max_steps=1, kl_coef=BETA, config=config, **changes)
    episodes: Episodes = seen["episodes"]
    assert seen["advantages"][~episodes.mask].eq(0).all()
    rows = [row[kept].tolist() for row, kept in zip(seen["advantages"], episodes.mask, strict=True)]
    return episodes, rows


def token_rewards(episodes: Episodes) -> list[list[float]]:
    """By hand: minus beta times the log-ratio at every token, the score on top of the last one's."""
    found = []
    for row, response in enumerate(episodes.responses):
        span = range(len(response.ids))
        rewards = [-BETA * float(episodes.logprobs[row, t] - episodes.ref_logprobs[row, t]) for t in span]
        rewards[-1] += float(episodes.scores[row])
        found.append(rewards)
    assert len({len(rewards) for rewards in found}) > 1
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def deviation(values: Sequence[float]) -> float:
    """Bessel-corrected, as in TRL."""
    return math.sqrt(sum((value - mean(values)) ** 2 for value in values) / (len(values) - 1))


def over_groups(values: Sequence[float], size: int) -> list[tuple[float, list[float]]]:
    """(own value, its group) of every episode."""
    return [(value, list(values[index // size * size :][:size])) for index, value in enumerate(values)]


@pytest.mark.parametrize("scale", ScaleRewards)
def test_grpo_scales_the_score_and_not_the_penalty(
    scale: ScaleRewards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes, rows = an_update(monkeypatch, tmp_path, ppo.GRPO, scale_rewards=scale)
    scores = episodes.scores.tolist()
    penalties = [sum(rewards) - score for rewards, score in zip(token_rewards(episodes), scores, strict=True)]
    assert len(scores) == 16
    assert deviation(penalties) > 0.1 * BETA
    for row, (own, group), (penalty, of_group) in zip(
        rows, over_groups(scores, 4), over_groups(penalties, 4), strict=True
    ):
        divisor = {"group": deviation(group) + 1e-4, "batch": deviation(scores) + 1e-4, "none": 1.0}[scale.value]
        expected = (own - mean(group)) / divisor + penalty - mean(of_group)
        assert row == pytest.approx([expected] * len(row), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("scale", ScaleRewards)
def test_where_all_scores_tie_grpo_weighs_the_penalty_by_its_coefficient(
    scale: ScaleRewards, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that is solved always, or never, gives the penalty's gradient and no more."""
    largest = []
    for coefficient in (0.1, 0.01):
        players = ppo.make_players(ppo.Rule(lambda sample: 1.0), starts_as_reference=False, critic=False)
        with torch.no_grad():
            players.reference.get_input_embeddings().weight.mul_(1.1)
        seen = advantages_of(monkeypatch)
        ppo.train(
            tmp_path / str(coefficient), players, config=ppo.GRPO, max_steps=1, kl_coef=coefficient, scale_rewards=scale
        )
        largest.append(float(seen["advantages"].abs().max()))
    assert 0 < largest[1] < 0.1
    assert largest[0] == pytest.approx(10 * largest[1], rel=1e-3)


def test_a_large_score_leaves_grpo_its_penalty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32 a million plus a hundredth is a million."""
    found = []
    for score in (1.0, 1e6):
        players = ppo.make_players(ppo.Rule(lambda sample, score=score: score), starts_as_reference=False, critic=False)
        with torch.no_grad():
            players.reference.get_input_embeddings().weight.mul_(1.1)
        found.append(advantages_of(monkeypatch))
        ppo.train(tmp_path / str(score), players, config=ppo.GRPO, max_steps=1)
    assert found[0]["advantages"].abs().max() > 1e-3
    torch.testing.assert_close(found[1]["advantages"], found[0]["advantages"], rtol=1e-4, atol=1e-7)


def test_rloo_is_the_whole_reward_minus_the_mean_of_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes, rows = an_update(monkeypatch, tmp_path, ppo.RLOO)
    whole = [sum(rewards) for rewards in token_rewards(episodes)]
    for row, (own, group) in zip(rows, over_groups(whole, 4), strict=True):
        assert row == pytest.approx([own - (sum(group) - own) / 3] * len(row), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("gamma", [1.0, 0.5])
def test_reinforce_pp_is_the_whitened_reward_to_go(
    gamma: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes, rows = an_update(monkeypatch, tmp_path, ppo.REINFORCE_PP, gamma=gamma)
    to_go = [
        [sum(gamma ** (j - t) * rewards[j] for j in range(t, len(rewards))) for t in range(len(rewards))]
        for rewards in token_rewards(episodes)
    ]
    flat = [value for row in to_go for value in row]
    spread = math.sqrt(mean([(value - mean(flat)) ** 2 for value in flat]))
    for row, expected in zip(rows, to_go, strict=True):
        assert row == pytest.approx([(value - mean(flat)) / spread for value in expected], rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("config", CRITIC_FREE.values(), ids=CRITIC_FREE)
def test_without_a_critic_nothing_of_one_is_run_logged_or_saved(config: LoopConfig, tmp_path: Path) -> None:
    players, ctx, _ = ppo.train(tmp_path, config=config, max_steps=2, save_every=1)
    assert players.critic is None
    names = set(ctx.metrics())
    figures = {"loss/value_avg", "val/error", "val/clipfrac_avg", "val/explained_variance", "grad_norm/value"}
    assert not names & figures
    with_critic = set(ppo.train(tmp_path / "ppo", max_steps=2)[1].metrics())
    assert with_critic - names == figures
    (checkpoint,) = (tmp_path / "work" / "checkpoints").iterdir()
    assert {path.name for path in checkpoint.iterdir()} == {"policy.safetensors", "state.pt"}


@pytest.mark.parametrize("config", [ppo.GRPO, ppo.RLOO], ids=["grpo", "rloo"])
def test_a_token_is_credited_with_its_responses_whole_reward(config: LoopConfig) -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    rewards = torch.where(episodes.mask, torch.randn(episodes.mask.shape, generator=torch.Generator()), 0.0)
    _, returns = estimate(ppo.replace(config, episodes=9, group_size=3, minibatches=1), episodes, rewards, rewards)
    for row, kept in enumerate(episodes.mask):
        assert returns[row][kept].tolist() == pytest.approx([float(rewards[row].sum())] * int(kept.sum()))
        assert returns[row][~kept].eq(0).all()


def test_what_reinforce_pp_credits_a_token_with_is_not_whitened() -> None:
    episodes = ppo.make_episodes(ppo.make_players())
    rewards = torch.where(episodes.mask, torch.randn(episodes.mask.shape, generator=torch.Generator()), 0.0)
    config = ppo.replace(ppo.REINFORCE_PP, episodes=9, minibatches=1, gamma=0.5)
    _, returns = estimate(config, episodes, rewards, rewards)
    for row, length in enumerate(episodes.mask.sum(1).tolist()):
        own = rewards[row].tolist()
        expected = [sum(0.5 ** (j - t) * own[j] for j in range(t, length)) for t in range(length)]
        assert returns[row, :length].tolist() == pytest.approx(expected, abs=1e-5)
        assert returns[row, length:].eq(0).all()


def test_a_penalty_by_k3_is_clamped() -> None:
    """One token that the reference finds far likelier would otherwise be the whole update's largest reward."""
    episodes = ppo.make_episodes(ppo.make_players())
    episodes.ref_logprobs[2, 0] = episodes.logprobs[2, 0] + 30.0
    assert token_kl(episodes, KLEstimator.k3)[2, 0] == 10.0


@pytest.mark.parametrize("config", [ppo.GRPO, ppo.RLOO], ids=["grpo", "rloo"])
def test_a_minibatch_has_whole_groups(config: LoopConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[int, int]] = []
    real = loop.backward_minibatch

    def watched(learners: Any, loss: Any, episodes: Episodes, targets: Any, rows: Sequence[int], *rest: Any) -> None:
        seen.append(Counter(episodes.numbers[row] // 4 for row in rows))
        real(learners, loss, episodes, targets, rows, *rest)

    monkeypatch.setattr(loop, "backward_minibatch", watched)
    ppo.train(tmp_path, config=config, max_steps=2)
    assert [list(sizes.values()) for sizes in seen] == [[4, 4]] * 8


def test_a_group_answers_one_prompt_each_with_its_own_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episodes, _ = an_update(monkeypatch, tmp_path, ppo.GRPO)
    prompts = [row["prompt"] for row in episodes.prompts.rows]
    assert [prompts[start : start + 4] for start in range(0, 16, 4)] == [
        [prompts[start]] * 4 for start in (0, 4, 8, 12)
    ]
    assert len(set(prompts)) == 4
    assert len({tuple(response.ids) for response in episodes.responses}) == 16


def test_groups_share_prompts_and_prompts_are_not_repeated_before_all_had_their_turn() -> None:
    assert prompt_indices(6, 1, 12, seed=3, update=0) + prompt_indices(6, 1, 12, seed=3, update=1) != list(range(12))
    alone = prompt_indices(6, 1, 12, seed=3, update=0)
    assert prompt_indices(18, 3, 12, seed=3, update=0) == [index for index in alone for _ in range(3)]
    both = [prompt_indices(18, 3, 12, seed=3, update=update) for update in (0, 1)]
    assert sorted(both[0] + both[1]) == [index for index in range(12) for _ in range(3)]


LEARNS: dict[str, dict[str, Any]] = {
    "grpo": {"config": ppo.GRPO, "group_size": 8},
    "rloo": {"config": ppo.RLOO, "group_size": 8},
    "reinforce_pp": {"config": ppo.REINFORCE_PP},
}


@pytest.mark.parametrize("options", LEARNS.values(), ids=LEARNS)
def test_a_random_model_learns_to_write_even_tokens(options: dict[str, Any], tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(
        tmp_path,
        max_steps=12,
        episodes=32,
        micro_batch_size=32,
        lr=2e-2,
        kl_coef=0.01,
        schedule=Schedule.constant,
        **options,
    )
    scores = ctx.series("objective/scores")
    assert scores[0] < 0.6
    assert sum(scores[-3:]) / 3 > 0.85


@pytest.mark.parametrize("config", CRITIC_FREE.values(), ids=CRITIC_FREE)
def test_resuming_equals_not_stopping_to_the_bit(config: LoopConfig, tmp_path: Path) -> None:
    options: dict[str, Any] = {"config": config, "max_steps": 4, "kl_target": 0.5, "kl_horizon": 32}
    straight, whole, _ = ppo.train(tmp_path / "straight", validation=ppo.make_validation(), **options)
    _, first, error = ppo.train(tmp_path / "parts", validation=ppo.make_validation(), stop_after=1, **options)
    assert str(error) == "ppo stopped at update 2 of 4"
    assert latest_step(first.work) == 2
    resumed, second, _ = ppo.train(tmp_path / "parts", validation=ppo.make_validation(), **options)
    assert first.logged + second.logged == whole.logged
    assert ppo.same(ppo.weights(resumed.network), ppo.weights(straight.network))


def test_a_config_without_an_estimator_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="there is no estimator for a LoopConfig"):
        estimate(LoopConfig(), ppo.make_episodes(ppo.make_players()), torch.zeros(1), torch.zeros(1))
