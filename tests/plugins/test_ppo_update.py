"""One minibatch's gradients against a formulation with full logits, row by row."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from alignpipe.errors import TrainingError
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.update import Learner, StepStatistics, backward_minibatch
from support import ppo

ROWS = [8, 1, 5, 3, 6]
LOW, HIGH, VALUE = 0.2, 0.3, 0.25


def signals(episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    shape = episodes.mask.shape
    return torch.randn(shape, generator=random), torch.randn(shape, generator=random)


def backward(players: Players, episodes: Episodes, micro: int = 2, **changes: Any) -> StepStatistics:
    statistics = StepStatistics()
    options = {"temperature": players.temperature, "clip_low": LOW, "clip_high": HIGH, "clip_value": VALUE, **changes}
    advantages, returns = signals(episodes)
    backward_minibatch(
        players.network,
        players.critic,
        episodes,
        advantages,
        returns,
        ROWS,
        statistics,
        pad_id=players.pad_id,
        micro_batch_size=micro,
        **options,
    )
    return statistics


def gradients(players: Players) -> list[torch.Tensor]:
    both = [*players.network.parameters(), *players.critic.parameters()]
    found = [parameter.grad.clone() for parameter in both]
    for parameter in both:
        parameter.grad = None
    return found


def naive(players: Players, episodes: Episodes) -> dict[str, float]:
    """The same losses token by token; leaves the gradients and returns the figures."""
    advantages, returns = signals(episodes)
    figures: dict[str, list[torch.Tensor]] = {}
    for row in ROWS:
        prompt, response = episodes.prompts.ids[row], episodes.responses[row].ids
        new = ppo.naive_logprobs(players.network, prompt, response, players.temperature)
        values = ppo.naive_values(players.critic, prompt, response)
        for step in range(len(response)):
            old, advantage = episodes.logprobs[row, step], advantages[row, step]
            ratio = (new[step] - old).exp()
            bounded = ratio if 1 - LOW <= ratio <= 1 + HIGH else torch.tensor(1 - LOW if ratio < 1 else 1 + HIGH)
            plain, limited = -advantage * ratio, -advantage * bounded
            target, before = returns[row, step], episodes.values[row, step]
            moved = values[step] - before
            near = values[step] if abs(moved) <= VALUE else before + VALUE * moved.sign().detach()
            free, held = 0.5 * (values[step] - target) ** 2, 0.5 * (near - target) ** 2
            for name, value in {
                "policy_loss": limited if limited > plain else plain,
                "clipfrac": torch.tensor(float(limited > plain)),
                "value_loss": held if held > free else free,
                "value_clipfrac": torch.tensor(float(held > free)),
                "ratio": ratio,
                "ratio_squared": ratio**2,
                "ratio_gap": (ratio - 1).abs(),
                "approxkl": 0.5 * (new[step] - old) ** 2,
            }.items():
                figures.setdefault(name, []).append(value)
    means = {name: torch.stack(values).mean() for name, values in figures.items()}
    (means["policy_loss"] + means["value_loss"]).backward()
    return {name: float(value.detach()) for name, value in means.items()}


def test_the_gradients_are_those_of_the_token_means() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    statistics = backward(players, episodes)
    found = gradients(players)
    means = naive(players, episodes)
    assert 0 < means["clipfrac"] < 1
    assert 0 < means["value_clipfrac"] < 1
    for one, other in zip(found, gradients(players), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for name, value in means.items():
        assert statistics.mean(name) == pytest.approx(value, abs=1e-5), name
    assert statistics.tokens == sum(len(episodes.responses[row].ids) for row in ROWS)


@pytest.mark.parametrize("micro", [1, 3, 5, 100])
def test_the_micro_batch_size_changes_nothing(micro: int) -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    first = backward(players, episodes, micro=2)
    expected = gradients(players)
    second = backward(players, episodes, micro=micro)
    one, other = (torch.cat([gradient.flatten() for gradient in found]) for found in (gradients(players), expected))
    assert float(other.abs().max()) > 0.05
    assert float((one - other).norm() / other.norm()) < 1e-6
    assert second.tokens == first.tokens
    assert second.sums == pytest.approx(first.sums, abs=1e-4)
    assert second.worst_ratio == pytest.approx(first.worst_ratio, abs=1e-5)


def test_without_value_clipping_the_critic_learns_from_every_token() -> None:
    players = ppo.make_players()
    assert backward(players, ppo.make_episodes(players), clip_value=None).mean("value_clipfrac") == 0


def test_the_worst_ratio_is_that_of_the_tokens_and_never_hides_a_nan() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players, noise=0.0)
    assert backward(players, episodes).worst_ratio < 1e-4
    episodes.logprobs[ROWS[1], 0] += math.log(2)
    assert backward(players, episodes).worst_ratio == pytest.approx(0.5, abs=1e-4)
    episodes.logprobs[ROWS[-1], 0] = float("nan")
    for micro in (1, 100):
        assert math.isnan(backward(players, episodes, micro=micro).worst_ratio)


def test_statistics_merge_by_tokens() -> None:
    first, second = StepStatistics(), StepStatistics()
    first.add(torch.tensor([[True, True]]), loss=torch.tensor([[1.0, 3.0]]))
    second.add(torch.tensor([[True, False]]), loss=torch.tensor([[8.0, 99.0]]))
    first.add_norm("policy", 1.0)
    second.add_norm("policy", 2.0)
    second.worst_ratio = float("nan")
    first.merge(second)
    first.merge(StepStatistics())
    assert first.mean("loss") == pytest.approx(4.0)
    assert first.norms == {"policy": [1.0, 2.0]}
    assert math.isnan(first.worst_ratio)


def learner(rate: float = 0.1, norm: float = 1.0) -> tuple[torch.nn.Linear, Learner]:
    layer = torch.nn.Linear(2, 1, bias=False)
    made = Learner(layer, torch.optim.SGD(layer.parameters(), lr=0.0), norm)
    made.set_rate(rate)
    return layer, made


def test_a_step_clips_and_tells_the_norm_before() -> None:
    layer, made = learner()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert made.step() == pytest.approx(5.0)
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * torch.tensor([[0.6, 0.8]]))
    assert layer.weight.grad is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_never_reaches_the_weights(bad: float) -> None:
    layer, made = learner()
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.tensor([[1.0, bad]])
    with pytest.raises(TrainingError, match="gradient of the Linear is not finite; lower the learning rate"):
        made.step()
    assert torch.equal(layer.weight, before)
