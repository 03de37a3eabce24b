"""One minibatch's gradients against a formulation with full logits, row by row."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from alignpipe.options import Forward
from alignpipe.training.batches import TokenBatch, pad_rows
from alignpipe.training.lanes import Lanes
from alignpipe.training.learner import adamw
from alignpipe.training.packed.models import set_forward
from alignpipe.training.parallel import Team
from alignpipe.training.rollouts import Response
from alignpipe.training.streams import episode_uniforms, stream
from alignpipe_plugins.ppo import collect as collecting
from alignpipe_plugins.ppo import episodes as episodes_module
from alignpipe_plugins.ppo.advantages import Targets
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.collect import collect
from alignpipe_plugins.ppo.config import LossAggregation
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.learners import Learners, critic_of
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.update import PolicyLoss, StepStatistics, backward_minibatch
from support import ppo

ROWS = [8, 1, 5, 3, 6]
LOW, HIGH, VALUE = 0.2, 0.3, 0.25


def signals(episodes: Episodes) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    drawn = torch.randn((2, len(episodes.responses), 7), generator=random)  # the same for tables of any width
    return tuple(torch.nn.functional.pad(signal, (0, 9), value=99.0) for signal in drawn)


def backward(
    players: Players,
    episodes: Episodes,
    micro: int = 2,
    *,
    rows: list[int] = ROWS,
    critic: bool = True,
    given: tuple[torch.Tensor, torch.Tensor] | None = None,
    clip_value: float | None = VALUE,
    lanes: int = 1,
    **changes: Any,
) -> StepStatistics:
    statistics = StepStatistics()
    pad_id = changes.pop("pad_id", players.pad_id)
    loss = PolicyLoss(players.temperature, LOW, HIGH, None, sequence_mean=False, micro_batch_size=micro)
    team = changes.pop("team", Team(lanes=Lanes(lanes)))
    backward_minibatch(
        Learners(
            adamw(players.network, ppo.CONFIG, ppo.CONFIG.lr, team),
            replace(critic_of(players.critic, ppo.CONFIG, team), clip_range=clip_value) if critic else None,
        ),
        replace(loss, **changes),
        episodes,
        Targets(*(given or signals(episodes))),
        rows,
        statistics,
        pad_id,
        team,
    )
    return statistics


def test_the_options_of_the_loss_reach_it() -> None:
    config = replace(ppo.CONFIG, clip_range=0.1, dual_clip=3.0, micro_batch_size=7)
    assert PolicyLoss.of(config, 0.9) == PolicyLoss(0.9, 0.1, 0.1, 3.0, False, 7)
    other = replace(config, clip_range_high=0.4, loss_aggregation=LossAggregation.sequence_mean)
    assert PolicyLoss.of(other, 0.9) == PolicyLoss(0.9, 0.1, 0.4, 3.0, True, 7)


def gradients(players: Players) -> list[torch.Tensor]:
    both = [*players.network.parameters(), *players.critic.parameters()]
    found = [parameter.grad.clone() for parameter in both]
    for parameter in both:
        parameter.grad = None
    return found


def naive(players: Players, episodes: Episodes, clip_value: float = VALUE) -> dict[str, float]:
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
            near = values[step] if abs(moved) <= clip_value else before + clip_value * moved.sign().detach()
            free, held = 0.5 * (values[step] - target) ** 2, 0.5 * (near - target) ** 2
            for name, value in {
                "policy_loss": limited if limited > plain else plain,
                "clipfrac": torch.tensor(float(limited > plain)),
                "value_loss": held if held > free else free,
                "value_clipfrac": torch.tensor(float(held > free)),
                "ratio_above": ratio - 1,
                "ratio_above_squared": (ratio - 1) ** 2,
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


def flat(players: Players) -> torch.Tensor:
    """All gradients as one vector; clears them."""
    return torch.cat([gradient.flatten() for gradient in gradients(players)])


def gap(one: torch.Tensor, other: torch.Tensor) -> float:
    """How far apart two gradients are, in shares of their length."""
    assert float(other.abs().max()) > 0.01
    return float((one - other).norm() / other.norm())


def doubled(players: Players, episodes: Episodes) -> tuple[Players, Episodes]:
    """The same in float64."""
    tables = ("logprobs", "ref_logprobs", "entropies", "values", "scores")
    wide = {name: getattr(episodes, name).double() for name in tables}
    network, critic = deepcopy(players.network).double(), deepcopy(players.critic).double()
    return replace(players, network=network, critic=critic), replace(episodes, **wide)


@pytest.fixture(params=["float32", "float64"])
def setting(request) -> tuple[Players, Episodes, torch.Tensor, float]:
    """Players, episodes, the gradient of the minibatch in float64, and how near to it every way of computing must come.

    In float64 nothing but the formula could make a difference. float32 alone rounds by about 1e-6, whatever the order.
    """
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    wide = doubled(players, episodes)
    backward(*wide)
    exact = flat(wide[0])
    return (*wide, exact, 1e-12) if request.param == "float64" else (players, episodes, exact, 2e-6)


@pytest.mark.parametrize(("micro", "lanes"), [(1, 1), (2, 1), (3, 1), (5, 1), (100, 1), (100, 2), (3, 4)])
def test_micro_batches_and_lanes_change_nothing(micro: int, lanes: int, setting) -> None:
    players, episodes, exact, near = setting
    first = backward(players, episodes, micro=2)
    gradients(players)
    second = backward(players, episodes, micro=micro, lanes=lanes)
    assert gap(flat(players), exact) < near
    assert second.tokens == first.tokens
    assert second.sums == pytest.approx(first.sums, abs=1e-4)
    assert second.worst_ratio == pytest.approx(first.worst_ratio, abs=1e-5)


@pytest.mark.parametrize("sequence_mean", [False, True])
def test_order_padding_and_micro_batches_change_no_gradient(sequence_mean: bool, setting) -> None:
    players, episodes, exact, near = setting
    if sequence_mean:
        wide = doubled(players, episodes)
        backward(*wide, sequence_mean=True)
        exact = flat(wide[0])
    # Tables that are wider than any response of the minibatch, with nonsense in what is masked.
    wider = {
        entry: torch.nn.functional.pad(getattr(episodes, entry), (0, 3), value=fill)
        for entry, fill in {"mask": 0, "logprobs": 9.0, "ref_logprobs": 9.0, "entropies": 9.0, "values": 9.0}.items()
    }
    long = Response([5] * wider["mask"].shape[1], True)  # of an episode that is not among the rows
    responses = [long if row == 0 else response for row, response in enumerate(episodes.responses)]
    wider["mask"][0] = True
    in_wider = replace(episodes, responses=responses, **wider)
    for given, changes in (
        (episodes, {"rows": ROWS[::-1]}),
        (episodes, {"rows": sorted(ROWS)}),
        (episodes, {"micro": 1}),  # no padding at all
        (episodes, {"pad_id": 77}),
        (in_wider, {}),
    ):
        backward(players, given, sequence_mean=sequence_mean, **changes)
        assert gap(flat(players), exact) < near, changes


def test_the_order_of_the_whole_batch_changes_no_gradient(setting) -> None:
    players, episodes, exact, near = setting
    order = [4, 0, 8, 3, 7, 1, 6, 2, 5]
    tables = {
        entry: getattr(episodes, entry)[order]
        for entry in ("mask", "logprobs", "ref_logprobs", "entropies", "values", "scores", "ended")
    }
    shuffled = replace(
        episodes,
        prompts=episodes.prompts.select(order),
        responses=[episodes.responses[row] for row in order],
        **tables,
    )
    advantages, returns = (signal[order] for signal in signals(episodes))
    rows = [order.index(row) for row in ROWS]
    backward(players, shuffled, rows=rows, given=(advantages, returns))
    assert gap(flat(players), exact) < near


def test_the_sequence_mean_is_the_mean_of_the_responses_own_means() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    backward(players, episodes, sequence_mean=True, critic=False)
    found = flat_policy(players)
    total = torch.zeros_like(found)
    for row in ROWS:
        backward(players, episodes, rows=[row], critic=False)
        total += flat_policy(players) / len(ROWS)
    assert gap(found, total) < 1e-5
    backward(players, episodes, critic=False)
    assert gap(flat_policy(players), found) > 0.01


class Apart(Team):
    """A process that keeps its gradients to itself."""

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Leave them as they are."""

    def gather(self, item: Any) -> list[Any]:
        """Only its own."""
        return [item]


@pytest.mark.parametrize("sequence_mean", [False, True])
@pytest.mark.parametrize("lanes", [1, 2])
def test_what_processes_compute_adds_up_to_the_gradient_of_one(sequence_mean: bool, lanes: int) -> None:
    """Each divides by the tokens or responses of all, so that an uneven share weighs what it is."""
    single = ppo.make_players()
    players, episodes = doubled(single, ppo.make_episodes(single))
    backward(players, episodes, sequence_mean=sequence_mean)
    whole = flat(players)
    for rank in range(2):
        backward(players, episodes, sequence_mean=sequence_mean, team=Apart(rank, 2, Lanes(lanes)))
    assert gap(flat(players), whole) < 1e-12


def flat_policy(players: Players) -> torch.Tensor:
    found = torch.cat([parameter.grad.flatten() for parameter in players.network.parameters()])
    for parameter in players.network.parameters():
        parameter.grad = None
    return found


def test_without_a_critic_only_the_policy_learns_and_as_it_did() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    statistics = backward(players, episodes, critic=False)
    assert all(parameter.grad is None for parameter in players.critic.parameters())
    assert not {"value_loss", "value_clipfrac"} & statistics.sums.keys()
    alone = flat_policy(players)
    backward(players, episodes)
    assert torch.equal(flat_policy(players), alone)


def test_the_dual_clip_reaches_the_loss() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    episodes.logprobs[episodes.mask] -= 2.0  # every token has become about seven times as likely
    plain, bounded = (backward(players, episodes, dual_clip=dual) for dual in (None, 1.5))
    assert bounded.mean("policy_loss") < plain.mean("policy_loss") - 0.5
    assert bounded.mean("clipfrac") > plain.mean("clipfrac")


def test_without_value_clipping_the_critic_learns_from_every_token() -> None:
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    assert backward(players, episodes, clip_value=None).mean("value_clipfrac") == 0
    found = gradients(players)
    naive(players, episodes, clip_value=math.inf)
    for one, other in zip(found, gradients(players), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


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
    gaps = torch.tensor([[0.5, 7.0]])
    first.add(torch.tensor([[True, True]]), ratio_gap=gaps / 2, loss=torch.tensor([[1.0, 3.0]]))
    second.add(torch.tensor([[True, False]]), ratio_gap=gaps, loss=torch.tensor([[8.0, 99.0]]))
    assert (first.worst_ratio, second.worst_ratio) == (3.5, 0.5)
    first.add_norm("policy", 1.0)
    second.add_norm("policy", 2.0)
    second.worst_ratio = float("nan")
    first.merge(second)
    first.merge(StepStatistics())
    assert first.mean("ratio_gap") == pytest.approx((0.25 + 3.5 + 0.5) / 3)
    assert first.mean("loss") == pytest.approx(4.0)
    assert first.norms == {"policy": [1.0, 2.0]}
    assert math.isnan(first.worst_ratio)


@pytest.mark.parametrize("lanes", [1, 2])
@pytest.mark.parametrize("packed", [True, False])
def test_groups_come_into_one_micro_batch_where_their_prompt_is_read_once(
    packed: bool, lanes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []

    def watched(prompts: Sequence[list[int]], *words: Any) -> TokenBatch:
        seen.append(len(set(map(tuple, prompts))))
        return pad_rows(prompts, *words)

    players = replace(ppo.make_players(), team=Team(lanes=Lanes(lanes)))
    if not packed:
        for model in (players.network, players.reference, players.critic.model):
            set_forward(model, Forward.general, None)
    with torch.no_grad():
        players.network.get_input_embeddings().weight[ppo.EOS] *= 3  # tied: responses of several lengths
    for module in (collecting, episodes_module):
        monkeypatch.setattr(module, "pad_rows", watched)
    monkeypatch.setattr(collecting, "_SCORING_BATCH", 4 * lanes)
    prompts = replace(ppo.make_prompts(4), ids=[[5, 6, 7 + row] for row in range(4)])  # of one length
    prompts = prompts.select([row // 4 for row in range(16)])
    episodes = collect(
        players,
        prompts,
        episode_uniforms(stream(0, "episodes", 0), 16, ppo.ROOM),
        Clock(),
        score_clip=None,
        missing_eos_score=None,
    )
    given = torch.ones(16, episodes.mask.shape[1]), torch.zeros(16, episodes.mask.shape[1])
    mixed = [row for start in range(4) for row in range(start, 16, 4)]
    backward(players, episodes, 4 * lanes, rows=mixed, given=given, lanes=lanes)
    assert len(seen) == 8
    assert (set(seen) == {1}) is packed
