"""The training loop: it learns, it resumes to the bit, its options do what they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from alignpipe.errors import RewardError, TrainingError
from alignpipe.ops.kl import kl_k1, kl_k2, kl_k3_clamped
from alignpipe.ops.sampling import inverse_cdf_sample
from alignpipe.options import Schedule
from alignpipe.rewarding.judge import Judge
from alignpipe.training.checkpoint import latest_step
from alignpipe.training.linears import multiply_in_bfloat16
from alignpipe.training.rollouts import Response
from alignpipe_plugins.ppo import advantages, loop, progress
from alignpipe_plugins.ppo.advantages import Targets
from alignpipe_plugins.ppo.config import KLEstimator, Select
from alignpipe_plugins.ppo.loop import minibatch_rows
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.update import PolicyLoss
from alignpipe_plugins.ppo.validation import Validation
from support import ppo
from support.context import FakeContext

pytestmark = pytest.mark.slow


def test_a_random_model_learns_to_write_even_tokens(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(
        tmp_path,
        max_steps=16,
        episodes=32,
        micro_batch_size=32,
        lr=2e-2,
        critic_lr=1e-2,
        kl_coef=0.01,
        schedule=Schedule.constant,
    )
    scores = ctx.series("objective/scores")
    assert scores[0] < 0.6
    assert sum(scores[-3:]) / 3 > 0.85


def test_less_drift_under_a_heavier_penalty(tmp_path: Path) -> None:
    options = {"max_steps": 8, "episodes": 32, "micro_batch_size": 32, "lr": 1e-2, "schedule": Schedule.constant}
    free, held = (
        sum(ppo.train(tmp_path / str(coef), kl_coef=coef, **options)[1].series("objective/kl")[-3:])
        for coef in (0.0, 1.0)
    )
    assert free > 30
    assert held < 0.8 * free


RESUMABLE: dict[str, dict[str, Any]] = {
    "plain": {},
    "kl_target": {"kl_target": 0.5, "kl_horizon": 32},
    "best": {"select": Select.best, "eval_every": 1, "lr": 3e-2},
    "warmup": {"critic_warmup": 2, "warmup_steps": 2, "target_kl": 1e-3},
}


@pytest.mark.parametrize("stop", [0, 3])
@pytest.mark.parametrize("options", RESUMABLE.values(), ids=RESUMABLE)
def test_resuming_equals_not_stopping_to_the_bit(options: dict[str, Any], stop: int, tmp_path: Path) -> None:
    options = {"max_steps": 5, **options}
    straight, whole, _ = ppo.train(tmp_path / "straight", validation=ppo.make_validation(), **options)
    _, first, error = ppo.train(tmp_path / "parts", validation=ppo.make_validation(), stop_after=stop, **options)
    assert str(error) == f"ppo stopped at update {stop + 1} of 5"
    assert latest_step(first.work) == stop + 1
    resumed, second, error = ppo.train(tmp_path / "parts", validation=ppo.make_validation(), **options)
    assert error is None
    assert second.said[0] == f"resumed at update {stop + 1} of 5"
    assert first.logged + second.logged == whole.logged
    assert second.said[1:] == whole.said
    for name in ("network", "critic"):
        assert ppo.same(ppo.weights(getattr(resumed, name)), ppo.weights(getattr(straight, name)))
    if "kl_target" in options:
        assert len(set(whole.series("kl_coef"))) == 5


def test_a_run_killed_between_checkpoints_ends_the_same(tmp_path: Path) -> None:
    options = {"max_steps": 5, "save_every": 2, "select": Select.best, "eval_every": 1, "lr": 3e-2}
    straight, whole, _ = ppo.train(tmp_path / "straight", validation=ppo.make_validation(), **options)

    def dies(sample: Any) -> float:
        if len(rule.seen) > 4 * 24:  # 16 episodes and 8 held-out prompts an update: in the fifth
            raise KeyboardInterrupt
        return float(sum(map(ppo.even, sample.response_ids)) / len(sample.response_ids))

    rule = ppo.Rule(dies)
    with pytest.raises(KeyboardInterrupt):
        ppo.train(tmp_path / "killed", ppo.make_players(rule), ppo.make_validation(), **options)
    resumed, ctx, _ = ppo.train(tmp_path / "killed", validation=ppo.make_validation(), **options)
    assert [step for step, _ in ctx.logged] == [5]
    assert ctx.said[1:] == whole.said
    assert ppo.same(ppo.weights(resumed.network), ppo.weights(straight.network))


def test_a_finished_training_that_is_opened_again_only_restores(tmp_path: Path) -> None:
    options = {"save_every": 4, "select": Select.best, "eval_every": 2, "lr": 3e-2}
    first, _, _ = ppo.train(tmp_path, validation=ppo.make_validation(), **options)
    again, ctx, _ = ppo.train(tmp_path, validation=ppo.make_validation(), **options)
    assert ctx.logged == []
    assert ppo.same(ppo.weights(again.network), ppo.weights(first.network))


def test_the_first_ratio_is_one(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, max_steps=1, epochs=1, minibatches=1)
    first = ctx.logged[0][1]
    assert first["val/ratio"] == pytest.approx(1, abs=1e-6)
    assert first["policy/approxkl_avg"] < 1e-10
    assert first["policy/clipfrac_avg"] == first["val/clipfrac_avg"] == 0
    assert first["loss/policy_avg"] == pytest.approx(0, abs=1e-6)  # whitened advantages have mean 0
    assert first["objective/kl"] == 0


def test_dropout_is_found_out_before_the_first_step(tmp_path: Path) -> None:
    players = ppo.make_players()
    before = ppo.weights(players.network)
    players.network.config.attention_dropout = 0.2  # from here on the model is not run by the path without dropout
    for layer in players.network.model.layers:
        layer.self_attn.attention_dropout = 0.2
    with pytest.raises(TrainingError, match=r"D64 failed.*dropout"):
        ppo.train(tmp_path, players)
    assert ppo.same(ppo.weights(players.network), before)


@pytest.mark.parametrize("products", [False, True])
def test_another_temperature_in_training_is_found_out(
    products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    players = ppo.make_players()
    if products:
        for model in (players.network, players.reference):
            multiply_in_bfloat16(model)
    before = ppo.weights(players.network)
    real = loop.backward_minibatch

    def warmer(learners: Any, loss: PolicyLoss, *rest: Any) -> None:
        real(learners, replace(loss, temperature=0.72), *rest)  # in place of 0.7

    monkeypatch.setattr(loop, "backward_minibatch", warmer)
    with pytest.raises(TrainingError, match="D64 failed"):
        ppo.train(tmp_path, players)
    monkeypatch.setattr(loop, "backward_minibatch", real)
    assert ppo.same(ppo.weights(players.network), before)
    ppo.train(tmp_path / "right", players, max_steps=1)  # rounding alone passes
    assert not ppo.same(ppo.weights(players.network), before)


class Biased:
    """A rollout that does not sample from the policy: at another temperature, or what `keep` leaves of the logits."""

    def __init__(self, warmth: float = 1.0, keep: int | None = None) -> None:
        self.warmth, self.keep = warmth, keep

    def sample(self, model: Any, prompts: Any, uniforms: Any, *, temperature: float, eos_ids: Any) -> list[Response]:
        found = []
        for prompt, row in zip(prompts, uniforms, strict=True):
            ids: list[int] = []
            while len(ids) < len(row) and (not ids or ids[-1] not in eos_ids):
                with torch.no_grad():
                    logits = model(torch.tensor([[*prompt, *ids]])).logits[:, -1]
                if self.keep is not None:
                    logits[logits < logits.topk(self.keep).values[:, -1:]] = -math.inf
                ids += inverse_cdf_sample(logits, row[len(ids)][None], temperature * self.warmth).tolist()
            found.append(Response(ids, ids[-1] in eos_ids))
        return found


@pytest.mark.parametrize(
    ("rollout", "how"), [(Biased(2.0), "less likely"), (Biased(0.6), "likelier"), (Biased(keep=4), "likelier")]
)
def test_a_sampler_that_is_not_the_policy_is_found_out(rollout: Biased, how: str, tmp_path: Path) -> None:
    players = ppo.make_players()
    with torch.no_grad():  # a policy with opinions: a new one gives all tokens much the same chance
        players.network.get_input_embeddings().weight.mul_(2)
        players.reference.get_input_embeddings().weight.mul_(2)
    before = ppo.weights(players.network)
    with pytest.raises(TrainingError, match=f"does not sample from the policy: its tokens are {how}"):
        ppo.train(tmp_path, replace(players, rollout=rollout), episodes=64)
    assert ppo.same(ppo.weights(players.network), before)
    faithful = ppo.train(tmp_path / "faithful", replace(players, rollout=Biased()), max_steps=1)[1].metrics()
    assert abs(faithful["val/sampling_z"]) < 4


@pytest.mark.parametrize("same", [True, False])
def test_a_reference_that_differs_is_found_out_where_it_should_be_the_same(same: bool, tmp_path: Path) -> None:
    players = ppo.make_players(starts_as_reference=same)
    with torch.no_grad():
        players.reference.get_input_embeddings().weight.mul_(1.05)
    if not same:
        assert ppo.train(tmp_path, players, max_steps=1)[1].logged[0][1]["objective/kl"] != 0
        return
    with pytest.raises(TrainingError, match="D65 failed: policy and reference are the same checkpoint"):
        ppo.train(tmp_path, players)


def test_the_critic_alone_learns_during_its_warmup(tmp_path: Path) -> None:
    fresh = ppo.make_players()
    players, ctx, _ = ppo.train(tmp_path, max_steps=3, critic_warmup=2, stop_after=1)
    assert ppo.same(ppo.weights(players.network), ppo.weights(fresh.network))
    assert not ppo.same(ppo.weights(players.critic), ppo.weights(fresh.critic))
    assert "grad_norm/policy" not in ctx.metrics()
    assert ctx.metrics()["grad_norm/value"] > 0
    assert all(parameter.grad is None for parameter in players.network.parameters())
    players, ctx, _ = ppo.train(tmp_path / "one", max_steps=2, critic_warmup=1)
    assert not ppo.same(ppo.weights(players.network), ppo.weights(fresh.network))
    assert ctx.metrics()["grad_norm/policy"] > 0


def test_the_kl_coefficient_rests_while_the_critic_learns_alone(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, max_steps=4, critic_warmup=2, kl_target=1.0)
    first, *waiting, adapted = ctx.series("kl_coef")
    assert waiting == [first, first]
    assert adapted != first


def test_the_value_clip_reaches_the_critic(tmp_path: Path) -> None:
    clipped = {
        clip: ppo.train(tmp_path / str(clip), max_steps=1, clip_range_value=clip)[1].metrics()["val/clipfrac_avg"]
        for clip in (1e-4, None)
    }
    assert clipped[1e-4] > 0.2
    assert clipped[None] == 0


def steps_of_an_update(monkeypatch: pytest.MonkeyPatch, root: Path, **options: Any) -> int:
    """How many minibatches the only update takes."""
    count = 0
    real = loop.backward_minibatch

    def counted(*args: Any, **named: Any) -> None:
        nonlocal count
        count += 1
        real(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "backward_minibatch", counted)
        ppo.train(root, max_steps=1, epochs=4, minibatches=2, **options)
    return count


def test_target_kl_ends_the_epochs_by_the_last_epochs_own_kl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps_of_an_update(monkeypatch, tmp_path / "free") == 8
    assert steps_of_an_update(monkeypatch, tmp_path / "high", target_kl=100.0) == 8
    assert steps_of_an_update(monkeypatch, tmp_path / "low", target_kl=1e-9) == 2
    # Epochs of one minibatch: the first has KL 0, so the running mean is half the second epoch's own.
    alone = [
        ppo.train(tmp_path / f"epochs{epochs}", max_steps=1, epochs=epochs, minibatches=1)[1].metrics()
        for epochs in (1, 2)
    ]
    assert alone[0]["policy/approxkl_avg"] < 1e-10
    own = 2 * alone[1]["policy/approxkl_avg"]
    stopped = ppo.train(tmp_path / "own", max_steps=1, epochs=4, minibatches=1, target_kl=0.9 * own)[1].metrics()
    assert stopped["policy/approxkl_avg"] == alone[1]["policy/approxkl_avg"]


def seen_by_gae(monkeypatch: pytest.MonkeyPatch, root: Path, **options: Any) -> dict[str, torch.Tensor]:
    """What GAE is given and what the update gets, in the only update; the reference is not the policy."""
    seen: dict[str, torch.Tensor] = {}
    real_gae, real_backward = advantages.gae, loop.backward_minibatch

    def gae(rewards: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, gamma: float, lam: float) -> Any:
        raw, returns = real_gae(rewards, values, mask, gamma, lam)
        seen.update(rewards=rewards, mask=mask, raw=raw, returns=returns, values=values)
        return raw, returns

    def backward(learners: Any, loss: Any, episodes: Any, targets: Targets, *rest: Any) -> None:
        seen.update(advantages=targets.advantages, targets=targets.returns)
        seen.update(logprobs=episodes.logprobs, ref=episodes.ref_logprobs, scores=episodes.scores)
        real_backward(learners, loss, episodes, targets, *rest)

    players = ppo.make_players(starts_as_reference=False)
    with torch.no_grad():
        players.reference.get_input_embeddings().weight.mul_(1.1)
    with monkeypatch.context() as patched:
        patched.setattr(advantages, "gae", gae)
        patched.setattr(loop, "backward_minibatch", backward)
        _, ctx, _ = ppo.train(root, players, max_steps=1, **options)
    seen["figures"] = ctx.metrics()
    return seen


def test_advantages_are_whitened_and_returns_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_by_gae(monkeypatch, tmp_path)
    mask = seen["mask"]
    assert seen["advantages"][mask].mean().item() == pytest.approx(0, abs=1e-5)
    assert seen["advantages"][mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert torch.equal(seen["targets"], seen["returns"])
    torch.testing.assert_close(seen["returns"][mask], (seen["raw"] + seen["values"])[mask])
    plain = seen_by_gae(monkeypatch, tmp_path / "plain", whiten_advantages=False)
    assert torch.equal(plain["advantages"], plain["raw"])


def test_whitened_rewards_keep_their_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = seen_by_gae(monkeypatch, tmp_path / "plain")
    scaled = seen_by_gae(monkeypatch, tmp_path / "scaled", whiten_rewards=True)
    mask = plain["mask"]
    assert scaled["rewards"][mask].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert plain["rewards"][mask].std(correction=0).item() < 0.8
    assert scaled["rewards"][mask].mean().item() == pytest.approx(plain["rewards"][mask].mean().item(), abs=1e-5)
    assert scaled["rewards"][~mask].eq(0).all()


ESTIMATORS: dict[KLEstimator, Callable[..., torch.Tensor]] = {
    KLEstimator.k1: kl_k1,
    KLEstimator.k2: kl_k2,
    KLEstimator.k3: kl_k3_clamped,
}


@pytest.mark.parametrize("estimator", KLEstimator)
def test_the_reward_is_the_penalty_on_every_token_and_the_score_on_the_last(
    estimator: KLEstimator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = seen_by_gae(monkeypatch, tmp_path, kl_estimator=estimator, kl_coef=0.3)
    penalty = torch.where(seen["mask"], ESTIMATORS[estimator](seen["logprobs"], seen["ref"]), 0.0)
    expected = -0.3 * penalty
    for row, length in enumerate(seen["mask"].sum(1).tolist()):
        expected[row, length - 1] += seen["scores"][row]
    torch.testing.assert_close(seen["rewards"], expected)
    figures: Any = seen["figures"]
    assert figures["objective/non_score_reward"] == pytest.approx(-0.3 * penalty.sum(1).mean().item(), rel=1e-4)
    k1 = (seen["logprobs"] - seen["ref"]).sum(1).mean().item()
    assert figures["objective/kl"] == pytest.approx(k1, rel=1e-4)  # always nats per sequence, whatever penalises
    assert (estimator is KLEstimator.k1) == (penalty.sum(1).mean().item() == pytest.approx(k1, rel=1e-4))


def test_gamma_and_lambda_reach_gae(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = seen_by_gae(monkeypatch, tmp_path, gamma=0.9, lam=0.5)
    for row, length in enumerate(seen["mask"].sum(1).tolist()):
        rewards, values = (seen[name][row, :length].tolist() for name in ("rewards", "values"))
        after = [*values[1:], 0.0]
        deltas = [rewards[t] + 0.9 * after[t] - values[t] for t in range(length)]
        expected = [sum(0.45 ** (j - t) * deltas[j] for j in range(t, length)) for t in range(length)]
        assert seen["raw"][row, :length].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_the_kl_coefficient_moves_towards_its_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = []
    real = loop.token_rewards

    def token_rewards(episodes: Any, kl: torch.Tensor, kl_coef: float) -> torch.Tensor:
        used.append(kl_coef)
        return real(episodes, kl, kl_coef)

    monkeypatch.setattr(loop, "token_rewards", token_rewards)
    _, above, _ = ppo.train(tmp_path / "above", kl_target=1e-3, kl_horizon=32, kl_coef=0.1)
    # KL 0 at the start is below any target: 0.1 * (1 - 0.2 * 16 / 32); then it is above it: * (1 + 0.2 * 16 / 32)
    assert above.series("kl_coef")[:3] == pytest.approx([0.1, 0.09, 0.099])
    assert used == above.series("kl_coef")
    _, fixed, _ = ppo.train(tmp_path / "fixed", kl_coef=0.1)
    assert set(fixed.series("kl_coef")) == {0.1}


def test_the_kl_coefficient_adapts_to_nats_per_response_whatever_penalises(tmp_path: Path) -> None:
    def far(folder: str, **options: Any) -> FakeContext:
        players = ppo.make_players(starts_as_reference=False)
        with torch.no_grad():
            players.reference.get_input_embeddings().weight.mul_(2)
        return ppo.train(tmp_path / folder, players, kl_coef=0.1, kl_estimator=KLEstimator.k2, **options)[1]

    kl = far("measured", max_steps=1).metrics()["objective/kl"]
    assert kl > 1
    adapting = far("adapting", max_steps=2, kl_target=kl / 1.1, kl_horizon=32)
    assert adapting.series("kl_coef") == pytest.approx([0.1, 0.1 * (1 + 0.1 * 16 / 32)])


def test_both_rates_follow_the_schedule(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    real = torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return real(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    _, ctx, _ = ppo.train(tmp_path, max_steps=2, epochs=2, minibatches=2, lr=4e-3, critic_lr=2e-3)
    # Critic and policy, a step for each minibatch of each epoch; linear to 0.
    assert rates == pytest.approx([2e-3, 4e-3] * 4 + [1e-3, 2e-3] * 4)
    assert ctx.series("lr") == pytest.approx([4e-3, 2e-3])
    assert ctx.series("episode") == [16, 32]


def test_the_rate_rises_over_its_warmup(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, epochs=1, minibatches=1, lr=3e-3, warmup_steps=2)
    assert ctx.series("lr") == pytest.approx([1e-3, 2e-3, 3e-3, 1.5e-3])


def test_the_optimisers_get_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    real = torch.optim.AdamW.__init__

    def init(optimizer: Any, *args: Any, **named: Any) -> None:
        made.append(named)
        real(optimizer, *args, **named)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", init)
    ppo.train(tmp_path, max_steps=1, lr=4e-3, critic_lr=2e-3, adam_eps=1e-4, weight_decay=0.02)
    assert made == [{"lr": lr, "eps": 1e-4, "weight_decay": 0.02, "fused": True} for lr in (4e-3, 2e-3)]
    ppo.train(tmp_path / "alone", config=ppo.GRPO, max_steps=1, adam_eps=1e-4, weight_decay=0.02)
    assert len(made) == 3


def test_held_out_figures_come_when_due_and_at_the_end(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, validation=ppo.make_validation(), max_steps=5, eval_every=2)
    assert [step for step, metrics in ctx.logged if "heldout/reward" in metrics] == [2, 4, 5]
    _, ctx, _ = ppo.train(tmp_path / "without", max_steps=2)
    assert not any(name.startswith("heldout") for name in ctx.metrics())


def test_select_best_ends_with_the_best_held_out_weights(tmp_path: Path) -> None:
    kept = {}
    real, look = progress.Best.offer, Validation.run

    def offer(best: Any, value: float, step: int, network: torch.nn.Module) -> None:
        kept[step] = (value, ppo.weights(network))
        real(best, value, step, network)

    def best_in_the_middle(validation: Validation, players: Players) -> dict[str, float]:
        figures = look(validation, players)
        return figures | {"heldout/reward": figures["heldout/reward"] + 5 * (len(kept) == 3)}

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(progress.Best, "offer", offer)
        patched.setattr(Validation, "run", best_in_the_middle)
        players, ctx, _ = ppo.train(
            tmp_path,
            validation=ppo.make_validation(),
            max_steps=6,
            eval_every=1,
            lr=3e-3,
            select=Select.best,
            kl_coef=0.08,
            kl_target=1e-3,
            kl_horizon=16,
        )
    values = {step: value for step, (value, _) in kept.items()}
    assert max(values, key=lambda step: values[step]) == 4
    assert ctx.said == ["the best policy is that of update 4"]
    assert ppo.same(ppo.weights(players.network), kept[4][1])
    assert not ppo.same(kept[4][1], kept[6][1])
    assert ctx.series("kl_coef")[-1] > 0.1
    for step, metrics in ctx.logged:  # by the option's coefficient, wherever the adapted one is
        assert values[step] == pytest.approx(metrics["heldout/reward"] - 0.08 * metrics["heldout/kl"])


def test_a_missing_end_costs_what_the_config_says(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, max_steps=1, missing_eos_score=-4.0)
    truncated = ctx.metrics()["response_length/truncated_frac"]
    assert truncated > 0.8
    assert -4 <= ctx.metrics()["objective/scores"] < -4 * truncated + 1


def test_a_reward_that_fails_stops_the_training_with_its_name(tmp_path: Path) -> None:
    players = replace(ppo.make_players(), judge=Judge(ppo.Rule(lambda sample: math.inf), "acme"))
    with pytest.raises(RewardError, match=r"acme failed on .*the total is inf"):
        ppo.train(tmp_path, players)


def test_every_epoch_has_a_permutation_of_its_own() -> None:
    for epoch in range(3):
        rows = minibatch_rows(range(12), 3, seed=1, update=2, epoch=epoch)
        assert [len(part) for part in rows] == [4, 4, 4]
        assert sorted(row for part in rows for row in part) == list(range(12))
    orders = [minibatch_rows(range(12), 3, *key) for key in ((1, 2, 0), (1, 2, 1), (1, 3, 0), (2, 2, 0))]
    assert all(first != second for place, first in enumerate(orders) for second in orders[:place])
    assert minibatch_rows(range(12), 3, 1, 2, 0) == orders[0]


@pytest.mark.parametrize(("episodes", "minibatches"), [(57, 8), (49, 16), (9, 8), (5, 8), (1, 2)])
def test_what_failures_leave_is_shared_out_evenly(episodes: int, minibatches: int) -> None:
    """As many steps as there should be, and none from a single left-over episode."""
    parts = minibatch_rows(range(episodes), minibatches, 1, 2, 0)
    sizes = [len(part) for part in parts]
    assert len(sizes) == min(minibatches, episodes)
    assert max(sizes) - min(sizes) <= 1
    assert sorted(row for part in parts for row in part) == list(range(episodes))


def test_a_group_stays_together_where_minibatches_end_between_groups() -> None:
    alike = [0, 0, 0, 3, 3, 3, 6, 6, 6, 9, 9, 9]
    seen = set()
    for epoch in range(6):
        whole = minibatch_rows(alike, 2, seed=1, update=2, epoch=epoch)
        assert sorted(row for part in whole for row in part) == list(range(12))
        assert [len({alike[row] for row in part}) for part in whole] == [2, 2]
        seen.add(tuple(whole[0]))
        cut = minibatch_rows(alike, 3, seed=1, update=2, epoch=epoch)
        assert [len(part) for part in cut] == [4, 4, 4]
        assert sorted(row for part in cut for row in part) == list(range(12))
    assert len(seen) == 6  # the groups, and the order in each, are drawn anew


def test_progress_and_timings(tmp_path: Path) -> None:
    _, ctx, _ = ppo.train(tmp_path, validation=ppo.make_validation(), max_steps=2)
    assert [(done, total, unit) for done, total, _, unit in ctx.shown] == [(1, 2, "update"), (2, 2, "update")]
    assert ctx.shown[-1][2].keys() == {"score", "kl", "held-out"}
    assert ctx.timings[-1][1].keys() == {
        *(f"time/{phase}" for phase in ("generate", "forward", "score", "train", "evaluate", "update")),
        "perf/tokens_per_second",
    }
    assert isinstance(ctx, FakeContext)
