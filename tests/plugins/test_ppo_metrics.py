"""The figures of an update against hand numbers, and their names against the README's table."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import alignpipe_plugins.ppo
from alignpipe.rewarding.judge import Judge
from alignpipe.training.rollouts import Response
from alignpipe_plugins.ppo.config import Select
from alignpipe_plugins.ppo.episodes import Episodes
from alignpipe_plugins.ppo.metrics import update_metrics
from alignpipe_plugins.ppo.update import StepStatistics
from support import ppo

CONFIG = replace(ppo.CONFIG, missing_eos_score=-1.0)
MASK = torch.tensor([[True, True], [True, False]])


def episodes() -> Episodes:
    return Episodes(
        prompts=ppo.make_prompts(2),
        responses=[Response([5, 1], True), Response([6], False)],
        mask=MASK,
        logprobs=torch.tensor([[-1.0, -2.0], [-4.0, 0.0]]),
        ref_logprobs=torch.tensor([[-2.0, -2.0], [-3.0, 0.0]]),
        entropies=torch.tensor([[0.5, 1.0], [3.0, 0.0]]),
        values=torch.tensor([[0.0, 2.0], [3.0, 0.0]]),
        scores=torch.tensor([3.0, 1.0]),
        ended=torch.tensor([True, False]),
        parts={"polite": torch.tensor([0.5, 1.0])},
        samples=[],
        token_scores=None,
        numbers=[0, 2],
        failures={"timeout": 1},
        sampling_z=1.25,
    )


def statistics() -> StepStatistics:
    made = StepStatistics()
    ratios = torch.tensor([[1.0, 1.5], [0.5, 7.0]])
    zero = torch.zeros(2, 2)
    made.add(
        MASK,
        ratio_gap=(ratios - 1).abs(),
        ratio_above=ratios - 1,
        ratio_above_squared=(ratios - 1) ** 2,
        approxkl=zero + 0.25,
        clipfrac=MASK & (ratios > 1.2),
        policy_loss=zero - 1,
        value_loss=zero + 2,
        value_clipfrac=~MASK,
    )
    made.add_norm("policy", 1.0)
    made.add_norm("policy", 2.0)
    return made


def figures(returns: torch.Tensor | None = None) -> dict[str, float]:
    returns = torch.tensor([[2.0, 2.0], [5.0, 0.0]]) if returns is None else returns
    return update_metrics(
        episodes(), torch.tensor([1.0, -0.5]), torch.tensor([0.5, 0.5]), returns, statistics(), 0.1, CONFIG
    )


def test_hand_numbers() -> None:
    expected = {
        "objective/kl": 0.25,
        "objective/entropy": 3.5,  # (1 + 2) and 4
        "objective/non_score_reward": -0.05,
        "objective/rlhf_reward": 1.95,
        "objective/scores": 2.0,
        "policy/approxkl_avg": 0.25,
        "policy/clipfrac_avg": 1 / 3,
        "policy/entropy_avg": 1.5,  # (0.5 + 1 + 3) / 3: padding does not count
        "loss/policy_avg": -1.0,
        "loss/value_avg": 2.0,
        "val/error": 8 / 3,  # 2, 0 and 2, squared
        "val/clipfrac_avg": 0.0,
        "val/ratio": 1.0,
        "val/ratio_var": 0.5 / 3,
        "val/sampling_z": 1.25,
        "val/missing_eos_frac": 0.5,
        "val/missing_eos_gain": -4.0,  # -1 in place of 3
        "val/num_eos_tokens": 1.0,
        "val/explained_variance": 1 - (8 / 9) / 2,  # residuals 2, 0, 2; returns 2, 2, 5
        "val/returns_mean": 3.0,
        "val/returns_var": 2.0,
        "response_length/mean": 1.5,
        "response_length/max": 2.0,
        "response_length/truncated_frac": 0.5,
        "reward/std": 1.0,
        "reward_failures/timeout": 1,
        "reward/part/polite": 0.75,
        "grad_norm/policy": 1.5,
        "kl_coef": 0.1,
    }
    assert figures() == pytest.approx(expected, abs=1e-6)


def test_without_a_critic_its_figures_are_left_out() -> None:
    alone = update_metrics(
        replace(episodes(), values=None),
        torch.zeros(2),
        torch.zeros(2),
        torch.ones(2, 2),
        statistics(),
        0.1,
        ppo.CONFIG,
    )
    of_the_critic = {"loss/value_avg", "val/clipfrac_avg", "val/error", "val/explained_variance"}
    assert figures().keys() - alone.keys() == {*of_the_critic, "val/missing_eos_frac", "val/missing_eos_gain"}
    assert alone["val/returns_mean"] == 1


def test_what_is_not_defined_is_left_out() -> None:
    constant = figures(torch.where(MASK, 2.0, 0.0))
    assert "val/explained_variance" not in constant
    assert "grad_norm/value" not in constant
    assert all(math.isfinite(value) for value in constant.values())


def test_groups_whose_scores_tie_are_counted() -> None:
    def tied(made: Episodes, size: int) -> float:
        config = replace(ppo.RLOO, episodes=6, minibatches=1, group_size=size)
        zero, returns = torch.zeros(len(made.scores)), torch.ones(made.mask.shape)
        return update_metrics(made, zero, zero, returns, statistics(), 0.1, config)["frac_reward_zero_std"]

    assert "frac_reward_zero_std" not in figures()
    assert tied(episodes(), 2) == 1.0  # one answer of each group is left
    assert tied(episodes(), 3) == 0.0  # 3 and 1 in one group
    assert tied(replace(episodes(), scores=torch.tensor([1.0, 1.0])), 3) == 1.0
    uneven = ppo.make_episodes(ppo.make_players()).select([0, 1, 2, 3])
    assert tied(uneven, 3) == 0.5  # of two groups that of one answer, whatever its share of the episodes


def table_names() -> set[str]:
    """The names in the README's table of metrics; `<name>` stands for any."""
    text = (Path(alignpipe_plugins.ppo.__file__).parent / "README.md").read_text()
    section = text.split("\n## Metrics\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([^`]+)` \|", section, flags=re.MULTILINE))


def test_the_names_are_those_of_the_readme(tmp_path: Path) -> None:
    validation = ppo.make_validation(gold=Judge(ppo.Rule(lambda sample: 1.0), "gold"))
    _, ctx, _ = ppo.train(tmp_path, validation=validation, max_steps=2, save_every=1, select=Select.best)
    logged = {re.sub(r"^reward/part/.*", "reward/part/<name>", name) for name in ctx.metrics()}
    logged |= {name for _, timings in ctx.timings for name in timings}
    in_groups = ppo.train(tmp_path / "groups", config=ppo.RLOO, max_steps=1)[1].metrics()
    logged |= in_groups.keys() & {"frac_reward_zero_std"}
    # failures; a score for missing ends, and answers that ended
    where_there_are_any = {"reward_failures/<kind>", "val/missing_eos_frac", "val/missing_eos_gain"}
    assert logged | where_there_are_any == table_names()


def test_parts_are_logged_by_name(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, max_steps=1)
    parts = {name for name in ctx.metrics() if name.startswith("reward/part/")}
    assert parts == {"reward/part/even", "reward/part/small"}
    assert ctx.metrics()["reward/part/even"] == pytest.approx(ctx.metrics()["objective/scores"])
