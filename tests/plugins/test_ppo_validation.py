"""Held-out evaluation: the same prompts and draws every time, figures by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge
from support import ppo


def test_the_figures_are_means_over_the_held_out_prompts() -> None:
    rule = ppo.Rule(lambda sample: float(sample.row["case"]))
    gold = ppo.Rule(lambda sample: float(len(sample.response_ids)))
    players = ppo.make_players(rule)
    with torch.no_grad():
        players.network.get_input_embeddings().weight[ppo.EOS] *= 3  # so that some end
    figures = ppo.make_validation(24, Judge(gold, "gold")).run(players)
    lengths = [len(sample.response_ids) for sample in rule.seen]
    ended = [sample.response_ids[-1] == ppo.EOS for sample in rule.seen]
    assert len(set(lengths)) > 1
    assert set(ended) == {True, False}
    assert figures.keys() == {f"heldout/{name}" for name in ("reward", "gold", "kl", "length", "eos_rate")}
    assert figures["heldout/reward"] == pytest.approx(sum(range(26, 50)) / 24)
    assert figures["heldout/gold"] == figures["heldout/length"] == pytest.approx(sum(lengths) / 24)
    assert figures["heldout/eos_rate"] == pytest.approx(sum(ended) / 24)
    kl = 0.0
    for sample in rule.seen:
        for sign, model in ((1, players.network), (-1, players.reference)):
            with torch.no_grad():
                rows = ppo.naive_logprobs(model, sample.prompt_ids, sample.response_ids, players.temperature)
            kl += sign * float(rows.sum()) / 24
    assert figures["heldout/kl"] == pytest.approx(kl, rel=1e-4)
    assert kl > 0.1


def test_a_missing_end_costs_what_it_costs_in_training_but_not_in_gold() -> None:
    rule = ppo.Rule(lambda sample: 2.0)
    players = ppo.make_players(rule)
    figures = ppo.make_validation(8, Judge(rule, "gold"), missing_eos_score=-1.0).run(players)
    share = figures["heldout/eos_rate"]
    assert figures["heldout/reward"] == pytest.approx(2 * share - (1 - share))
    assert share < 1
    assert figures["heldout/gold"] == 2


def test_the_reward_is_clipped_as_in_training_and_gold_is_not() -> None:
    rule = ppo.Rule(lambda sample: 9.0)
    validation = replace(ppo.make_validation(8, Judge(rule, "gold")), score_clip=4.0)
    figures = validation.run(ppo.make_players(rule))
    assert (figures["heldout/reward"], figures["heldout/gold"]) == (4, 9)


def test_it_answers_the_same_way_twice_and_takes_no_part_in_training() -> None:
    players = ppo.make_players()
    before = ppo.weights(players.network)
    validation = ppo.make_validation()
    players.network.train()
    first = validation.run(players)
    assert validation.run(players) == first
    assert first["heldout/kl"] == 0
    assert "heldout/gold" not in first
    assert not players.network.training
    assert ppo.same(ppo.weights(players.network), before)


@pytest.mark.parametrize("who", ["reward", "gold"])
def test_a_judge_without_a_number_is_named(who: str) -> None:
    broken = Judge(ppo.Rule(lambda sample: float("nan")), f"broken_{who}")
    players = ppo.make_players()
    if who == "reward":
        players = replace(players, judge=broken)
    with pytest.raises(RewardError, match=f"broken_{who} failed on .*the total is nan"):
        ppo.make_validation(gold=broken if who == "gold" else None).run(players)
