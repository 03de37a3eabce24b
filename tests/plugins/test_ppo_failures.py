"""Episodes that the reward fails on: out of the update, counted, never worth 0."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from alignpipe.api import Failure, Sample, Scores, Scoring
from alignpipe.api.rewards import FailureKind
from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge
from alignpipe.training.parallel import ALONE
from alignpipe_plugins.ppo import loop
from alignpipe_plugins.ppo.advantages import estimate, groups_of
from alignpipe_plugins.ppo.config import ScaleRewards, Select
from alignpipe_plugins.ppo.kept import KeptEpisodes
from alignpipe_plugins.ppo.players import make_samples
from support import ppo

PATIENT = Scoring(retries=0, failure_budget=0.5)


class Failing:
    """Scores the length of an answer, or what else it is told, and fails on the prompts it is told to."""

    def __init__(self, *cases: int, rule=lambda ids: float(len(ids))) -> None:
        self.cases = cases
        self.rule = rule

    def score(self, samples: list[Sample]) -> Scores:
        failed = [place for place, sample in enumerate(samples) if sample.row["case"] in self.cases]
        failures = {place: Failure("timeout", "late") for place in failed}
        total = [self.rule(sample.response_ids) for sample in samples]
        return Scores(total, parts={"tokens": total}, failures=failures)


def players_with(reward: object, scoring: Scoring = PATIENT, **options: bool):
    return replace(ppo.make_players(**options), judge=Judge(reward, "failing", scoring))


def test_a_failed_episode_takes_no_part_in_the_update(tmp_path: Path) -> None:
    """The update is that of the other episodes alone: the same as if a run had never sampled it."""
    whole = ppo.make_episodes(ppo.make_players())
    kept = [0, 2, 3, 4, 6, 7, 8]
    part = whole.select(kept)
    assert part.numbers == kept
    assert part.mask.shape[0] == part.scores.shape[0] == part.parts["half"].shape[0] == len(part.samples) == 7
    for place, row in enumerate(kept):
        assert part.responses[place] == whole.responses[row]
        length = len(part.responses[place].ids)
        assert int(part.mask[place].sum()) == length
        assert torch.equal(part.logprobs[place, :length], whole.logprobs[row, :length])
        assert part.scores[place] == whole.scores[row]


def test_failures_are_counted_and_means_are_over_the_others(tmp_path: Path) -> None:
    clean = ppo.train(tmp_path / "clean", players_with(Failing()), max_steps=1)[1].metrics()
    some = ppo.train(tmp_path / "some", players_with(Failing(*range(8))), max_steps=1)[1].metrics()
    assert "reward_failures/timeout" not in clean
    assert some["reward_failures/timeout"] >= 1
    assert some["objective/scores"] > 0.5, "a failure counted as 0 would pull it down"
    assert some["objective/scores"] == pytest.approx(some["response_length/mean"])
    assert some["reward/part/tokens"] == pytest.approx(some["response_length/mean"])
    assert all(math.isfinite(value) for value in some.values())


@pytest.mark.parametrize("kind", ["timeout", "not_applicable"])
def test_a_failure_does_not_matter_where_the_score_is_replaced(kind: str, tmp_path: Path) -> None:
    """An answer that was cut costs what it costs, whatever it did to the reward; unless the reward is for others."""

    class Strict(Failing):
        def score(self, samples: list[Sample]) -> Scores:
            cut = [place for place, sample in enumerate(samples) if sample.response_ids[-1] != ppo.EOS]
            failures = {place: Failure(kind, "cut") for place in cut}
            return Scores([0.5] * len(samples), per_token=self.split(samples), failures=failures)

        @staticmethod
        def split(samples: list[Sample]) -> list[list[float]]:
            return [[0.5] + [0.0] * (len(sample.response_ids) - 1) for sample in samples]

    players = players_with(Strict(), Scoring(retries=0, failure_budget=0.0))  # nor does the budget count it
    with torch.no_grad():
        for model in (players.network, players.reference):
            model.get_input_embeddings().weight[ppo.EOS] *= 3  # tied: the end comes often, not always
    validation = ppo.make_validation(missing_eos_score=-1.0)
    figures = ppo.train(tmp_path, players, validation, max_steps=1, missing_eos_score=-1.0)[1].metrics()
    cut = figures[f"reward_failures/{kind}"]
    assert 0 < cut < 16
    if kind == "timeout":
        assert figures["response_length/truncated_frac"] == pytest.approx(cut / 16)
        assert figures["objective/scores"] == pytest.approx(0.5 - 1.5 * cut / 16)
        assert figures["heldout/reward"] < 0.5
    else:
        assert figures["response_length/truncated_frac"] == 0
        assert figures["objective/scores"] == figures["heldout/reward"] == pytest.approx(0.5)


@pytest.mark.parametrize("config", [ppo.CONFIG, ppo.GRPO, ppo.RLOO, ppo.REINFORCE_PP])
def test_a_reward_that_fails_now_and_then_leaves_training_sound(config, tmp_path: Path) -> None:
    critic = config is ppo.CONFIG
    reward = Failing(1, 5, 9, rule=lambda ids: sum(map(ppo.even, ids)) / len(ids))
    players, ctx, _ = ppo.train(tmp_path, players_with(reward, critic=critic), config=config, max_steps=3)
    assert all(math.isfinite(value) for _, metrics in ctx.logged for value in metrics.values())
    assert all(bool(weight.isfinite().all()) for weight in ppo.weights(players.network).values())
    assert sum(ctx.series("reward_failures/timeout")) >= 1
    assert not ppo.same(ppo.weights(players.network), ppo.weights(ppo.make_players().network))


def test_a_resumed_training_judges_failures_as_an_undisturbed_one(tmp_path: Path) -> None:
    """A few failures in 16 are judged together with the updates before them, so a checkpoint must know of those."""

    class Sometimes(Failing):
        """Fails on no sample in the first `calm` updates, then on three of 16."""

        def __init__(self, calm: int) -> None:
            super().__init__()
            self.calm = calm

        def score(self, samples: list[Sample]) -> Scores:
            self.calm -= 1
            failed = range(3) if self.calm < 0 else ()
            return Scores([1.0] * len(samples), failures={place: Failure("timeout", "late") for place in failed})

    scoring = Scoring(retries=0, failure_budget=0.1)
    assert ppo.train(tmp_path, players_with(Sometimes(3), scoring), max_steps=4, stop_after=2)[2] is not None
    _, ctx, _ = ppo.train(tmp_path, players_with(Sometimes(0), scoring), max_steps=4)
    assert ctx.metrics()["reward_failures/timeout"] == 3
    with pytest.raises(RewardError, match="failed on 3 of 16"):
        ppo.train(tmp_path / "new", players_with(Sometimes(0), scoring), max_steps=4)


def test_a_group_keeps_its_other_members() -> None:
    episodes = ppo.make_episodes(ppo.make_players()).select([0, 1, 4, 5, 8])
    assert groups_of(episodes, 3).tolist() == [0, 0, 1, 1, 2]


def test_scores_per_token_stay_where_the_reward_puts_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Steps:
        def score(self, samples: list[Sample]) -> Scores:
            split = [[1.0 + step for step in range(len(sample.response_ids))] for sample in samples]
            return Scores([sum(row) for row in split], per_token=split)

    seen = []

    def watched(config, episodes, rewards, penalties):
        seen.append((episodes, rewards))
        return estimate(config, episodes, rewards, penalties)

    monkeypatch.setattr(loop, "estimate", watched)
    players = players_with(Steps(), starts_as_reference=False)
    with torch.no_grad():
        players.reference.get_input_embeddings().weight.mul_(1.1)
    ppo.train(tmp_path, players, max_steps=1, kl_coef=0.3, missing_eos_score=None)
    (episodes, rewards) = seen[0]
    penalties = -0.3 * (episodes.logprobs - episodes.ref_logprobs)
    assert penalties.abs().max() > 0.01
    for row, penalty, mask in zip(rewards, penalties, episodes.mask, strict=True):
        count = int(mask.sum())
        expected = [1.0 + step + float(penalty[step]) for step in range(count)]
        assert row[:count].tolist() == pytest.approx(expected, abs=1e-5)
        assert not row[count:].any()


def test_some_episodes_of_every_update_are_kept_for_later(tmp_path: Path) -> None:
    players = players_with(Failing(1))
    _, ctx, _ = ppo.train(tmp_path, players, max_steps=3, save_every=1)
    KeptEpisodes(ctx.work, ALONE).write(tmp_path)
    table = pq.read_table(tmp_path / "rollouts.parquet")
    assert set(table["update"].to_pylist()) == {1, 2, 3}
    wanted = {"update", "prompt", "completion", "ended", "reward", "kl", "reward/part/tokens", "case"}
    assert set(table.column_names) == wanted
    assert 1 not in table["case"].to_pylist()
    assert table["reward"].to_pylist() == table["reward/part/tokens"].to_pylist()


@pytest.mark.parametrize("nested", [{}, {"source": {}}, [{}]])
def test_objects_that_parquet_cannot_hold_are_kept_as_json(nested: Any, tmp_path: Path) -> None:
    """A prompt row's columns are the user's, and must not cost a policy at the end of its training."""
    players = ppo.make_players()
    episodes = ppo.make_episodes(players)
    rows = [{**row, "meta": nested, "tags": {"a": 1}} for row in episodes.prompts.rows]
    samples = make_samples(players.policy, replace(episodes.prompts, rows=rows), episodes.responses)
    kept = KeptEpisodes(tmp_path, ALONE)
    kept.add(1, replace(episodes, samples=samples), torch.zeros(9))
    kept.write(tmp_path)
    table = pq.read_table(tmp_path / "rollouts.parquet").to_pylist()
    assert [json.loads(row["meta"]) for row in table] == [nested] * 9
    assert table[0]["tags"] == {"a": 1}


def test_what_was_kept_survives_a_resume_without_doubles(tmp_path: Path) -> None:
    ppo.train(tmp_path / "once", ppo.make_players(), max_steps=4, save_every=1)
    ppo.train(tmp_path / "twice", ppo.make_players(), max_steps=4, save_every=1, stop_after=1)
    path = tmp_path / "twice" / "work" / "rollouts.jsonl"
    assert path.read_text().count('"update": 2') >= 1
    with path.open("a") as file:
        file.write('{"update": 3, "prompt": "left by a ki')  # cut short
    ppo.train(tmp_path / "twice", ppo.make_players(), max_steps=4, save_every=1)
    assert path.read_bytes() == (tmp_path / "once" / "work" / "rollouts.jsonl").read_bytes()


def test_a_checkpoint_from_before_failures_were_remembered_is_taken_up(tmp_path: Path) -> None:
    assert ppo.train(tmp_path, players_with(Failing()), max_steps=2, stop_after=0)[2] is not None
    (path,) = tmp_path.rglob("state.pt")
    state = torch.load(path, weights_only=True)
    del state["extra"]["failures"]
    torch.save(state, path)
    _, ctx, _ = ppo.train(tmp_path, players_with(Failing()), max_steps=2)
    assert ctx.said[0] == "resumed at update 1 of 2"


class Rare:
    """Scores one sample, and says of the others that they failed in some way."""

    def __init__(self, kind: FailureKind) -> None:
        self.kind = kind

    def score(self, samples: list[Sample]) -> Scores:
        failure = Failure(self.kind, "late")
        return Scores([1.0] * len(samples), failures=dict.fromkeys(range(1, len(samples)), failure))


@pytest.mark.parametrize("name", ["ppo", "reinforce_pp"])
@pytest.mark.parametrize(
    ("kind", "advice"),
    [
        ("timeout", r"; a lower scoring\.failure_budget stops at the first failures and quotes one$"),
        ("not_applicable", "$"),
    ],
)
def test_an_update_of_hardly_any_tokens_is_not_whitened(
    name: str, kind: FailureKind, advice: str, tmp_path: Path
) -> None:
    players = players_with(Rare(kind), Scoring(retries=0, failure_budget=0.99), critic=name == "ppo")
    before = ppo.weights(players.network)
    told = rf"hold [1-6] tokens, too few to whiten \(at least 8\); the others have none \({kind} 15\){advice}"
    with pytest.raises(RewardError, match=told):
        ppo.train(tmp_path, players, config=ppo.CONFIGS[name])
    assert ppo.same(ppo.weights(players.network), before)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("ppo", {"whiten_advantages": False}),
        *(("grpo", {"scale_rewards": scale}) for scale in ScaleRewards),
        ("rloo", {}),
    ],
)
def test_what_is_not_whitened_may_have_few_tokens(name: str, changes: dict[str, Any], tmp_path: Path) -> None:
    players = players_with(Rare("timeout"), Scoring(retries=0, failure_budget=0.99), critic=name == "ppo")
    _, ctx, _ = ppo.train(tmp_path, players, config=ppo.CONFIGS[name], max_steps=1, **changes)
    figures = ctx.metrics()
    assert figures["reward_failures/timeout"] == 15
    assert all(math.isfinite(value) for value in figures.values())
    assert (figures["grad_norm/policy"] == 0) == (name != "ppo")  # a response without others is nothing to learn from


class Choosy(Failing):
    """Applies to nothing in the questions `idle`, counted from 1, and to everything in the others."""

    def __init__(self, *idle: int, asked: int = 0) -> None:
        super().__init__(rule=lambda ids: sum(map(ppo.even, ids)) / len(ids))
        self.idle = idle
        self.asked = asked

    def score(self, samples: list[Sample]) -> Scores:
        self.asked += 1
        return Scores([None] * len(samples)) if self.asked in self.idle else super().score(samples)


@pytest.mark.parametrize("name", sorted(ppo.CONFIGS))
def test_an_update_that_the_reward_does_not_apply_to_is_passed_over(name: str, tmp_path: Path) -> None:
    """Nothing moves in it but the rate; the checks of the first update wait for the first that learns."""
    critic, config = name == "ppo", ppo.CONFIGS[name]
    players, ctx, _ = ppo.train(tmp_path / "all", players_with(Choosy(1, 3), critic=critic), config=config)
    assert [step for step, _ in ctx.logged] == [1, 2, 3, 4]
    idle = [metrics for step, metrics in ctx.logged if step in (1, 3)]
    assert [metrics["reward_failures/not_applicable"] for metrics in idle] == [16, 16]
    assert not any("objective/scores" in metrics for metrics in idle)
    assert all(metrics["lr"] > 0 and "alarms" in metrics for metrics in idle)
    assert ctx.said[0].startswith("update 1 of 4 learns nothing: failing applies to none of the 16 samples")
    assert [timings["perf/tokens_per_second"] > 0 for _, timings in ctx.timings] == [True] * 4

    stopped = tmp_path / "stopped"
    choosy = players_with(Choosy(1, 3), critic=critic)
    interrupted = ppo.train(stopped, choosy, config=config, stop_after=2)[2]
    assert interrupted is not None
    resumed, second, _ = ppo.train(stopped, players_with(Choosy(3, asked=3), critic=critic), config=config)
    assert second.said[0] == "resumed at update 3 of 4"
    assert ppo.same(ppo.weights(resumed.network), ppo.weights(players.network))


def test_the_checks_of_the_first_update_wait_for_one_that_learns(tmp_path: Path, monkeypatch) -> None:
    calls: list[str] = []
    for check in ("check_sampling", "check_first_kl", "check_first_ratio"):
        monkeypatch.setattr(loop, check, lambda *_, check=check: calls.append(check))
    ppo.train(tmp_path, players_with(Choosy(1)), max_steps=3)
    assert calls == ["check_sampling", "check_first_kl", "check_first_ratio"]


def test_updates_without_end_that_learn_nothing_end_the_training(tmp_path: Path) -> None:
    players = players_with(Choosy(*range(2, 99)))
    with pytest.raises(RewardError, match=r"^10 updates in a row had no episodes to learn from: .* of the 16 samples"):
        ppo.train(tmp_path / "long", players, max_steps=30)
    with pytest.raises(RewardError, match=r"^3 updates in a row had no episodes to learn from"):
        ppo.train(tmp_path / "short", players_with(Choosy(1, 2, 3)), max_steps=3)


def test_a_judge_that_applies_to_no_held_out_prompt_gives_no_figure(tmp_path: Path) -> None:
    """Questions 3 and 6 are the held-out ones. The best policy is then one that was looked at, or the last."""
    nobody = Judge(Choosy(*range(1, 99)), "gold")
    validation = ppo.make_validation(gold=nobody)
    best = {"select": Select.best}
    _, ctx, _ = ppo.train(tmp_path / "one", players_with(Choosy(6)), validation, **best)
    held_out = [
        {key for key in metrics if key.startswith("heldout/")} for step, metrics in ctx.logged if step in (2, 4)
    ]
    others = {"heldout/kl", "heldout/length", "heldout/eos_rate"}
    assert held_out == [{"heldout/reward", *others}, others]
    assert ctx.said == ["the best policy is that of update 2"]
    _, ctx, _ = ppo.train(tmp_path / "none", players_with(Choosy(3, 6)), validation, **best)
    assert ctx.said == ["no evaluation on the way gave a held-out reward, so the last policy is kept"]
