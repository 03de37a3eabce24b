"""The training loop of PPO, top to bottom: sample, shape rewards, estimate advantages, optimise, record."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from alignpipe.api import StageContext
from alignpipe.errors import StageInterrupted
from alignpipe.ops.advantages import gae
from alignpipe.ops.control import adaptive_kl_coef
from alignpipe.ops.kl import kl_k1, kl_k2, kl_k3_clamped, sequence_kl
from alignpipe.ops.masking import scale_only, whiten
from alignpipe.ops.shaping import add_score_to_kl_penalty
from alignpipe.training.checkpoint import Checkpoints
from alignpipe.training.rollouts import episode_uniforms
from alignpipe.training.schedule import rate
from alignpipe.training.supervised import batch_indices
from alignpipe_plugins.ppo.best import Best
from alignpipe_plugins.ppo.checks import check_first_kl, check_first_ratio
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.collect import collect
from alignpipe_plugins.ppo.config import KLEstimator, PPOConfig, Select
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.metrics import update_metrics
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.update import Learner, StepStatistics, backward_minibatch
from alignpipe_plugins.ppo.validation import Validation

_ESTIMATORS = {KLEstimator.k1: kl_k1, KLEstimator.k2: kl_k2, KLEstimator.k3: kl_k3_clamped}


def train_ppo(  # noqa: C901  one loop, to be read from top to bottom
    players: Players, prompts: Prompts, validation: Validation | None, config: PPOConfig, ctx: StageContext
) -> None:
    """Train `players.network` in place for `config.max_steps` updates, from the newest checkpoint if there is one.

    With `select=best` the network ends with its best held-out weights.

    Raises `StageInterrupted` after saving when a stop is requested, `TrainingError` when a start check fails or a
    gradient is not finite, `RewardError` when the reward does not give finite scores.
    """
    policy = Learner(players.network, _adamw(players.network, config), config.max_grad_norm)
    critic = Learner(players.critic, _adamw(players.critic, config), config.max_grad_norm)
    modules = {"policy": policy.network, "critic": critic.network}
    optimizers = {"policy": policy.optimizer, "critic": critic.optimizer}
    checkpoints, best = Checkpoints(ctx.work), Best(ctx.work)
    start, kl_coef = 0, config.kl_coef
    if checkpoints.latest() is not None:
        start, extra = checkpoints.load(modules, optimizers)
        kl_coef, best.value, best.step = extra["kl_coef"], extra["best_value"], extra["best_step"]
        ctx.say(f"resumed at update {start} of {config.max_steps}")
    ctx.rewind(start)
    shown: dict[str, float] = {}

    for update in range(start, config.max_steps):
        clock = Clock()
        factor = rate(update, config.max_steps, config.warmup_steps, config.schedule)
        policy.set_rate(config.lr * factor)
        critic.set_rate(config.critic_lr * factor)

        # Sample: an update's episodes, looked at once by the frozen models and the reward.
        chosen = prompts.select(batch_indices(update, config.episodes, len(prompts.ids), ctx.seed))
        uniforms = episode_uniforms(ctx.seed, update, config.episodes, config.max_response_tokens)
        episodes = collect(players, chosen, uniforms, missing_eos_score=config.missing_eos_score, clock=clock)
        mask = episodes.mask
        sequence = sequence_kl(kl_k1(episodes.logprobs, episodes.ref_logprobs), mask)
        if update == 0 and players.starts_as_reference:
            check_first_kl(sequence, players.network)

        # Reward: a KL penalty on every token, the score on the last (D30, D31).
        penalty = _ESTIMATORS[config.kl_estimator](episodes.logprobs, episodes.ref_logprobs)
        rewards = add_score_to_kl_penalty(episodes.scores, penalty, mask, kl_coef)
        if config.whiten_rewards:
            rewards = scale_only(rewards, mask)

        # Advantage: GAE, then whitening over the whole update; returns are taken before it (D41, D42).
        advantages, returns = gae(rewards, episodes.values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        # Optimise: epochs, minibatches (one step each), micro-batches (inside `backward_minibatch`).
        statistics = StepStatistics()
        players.network.train()
        for epoch in range(config.epochs):
            seen = StepStatistics()
            for rows in minibatch_rows(config.episodes, config.minibatches, ctx.seed, update, epoch):
                backward_minibatch(
                    policy.network,
                    players.critic,
                    episodes,
                    advantages,
                    returns,
                    rows,
                    seen,
                    pad_id=players.pad_id,
                    micro_batch_size=config.micro_batch_size,
                    temperature=players.temperature,
                    clip_low=config.clip_range,
                    clip_high=config.clip_range if config.clip_range_high is None else config.clip_range_high,
                    clip_value=config.clip_range_value,
                )
                if update == 0 and epoch == 0 and not seen.norms:
                    check_first_ratio(seen.worst_ratio, seen.mean("ratio_gap"), players.network)
                seen.add_norm("value", critic.step())
                if update < config.critic_warmup:
                    policy.clear()
                else:
                    seen.add_norm("policy", policy.step())
            statistics.merge(seen)
            if config.target_kl is not None and seen.mean("approxkl") > config.target_kl:
                break
        clock.lap("train")

        # Record, adapt the KL coefficient, evaluate and save where due.
        done = update + 1
        last = done == config.max_steps
        metrics = update_metrics(episodes, sequence, sequence_kl(penalty, mask), returns, statistics, kl_coef)
        metrics.update({"lr": config.lr * factor, "episode": float(done * config.episodes)})
        if config.kl_target is not None:
            kl = metrics["objective/kl"]
            kl_coef = adaptive_kl_coef(kl_coef, kl, config.kl_target, config.episodes, config.kl_horizon)
        if validation is not None and (done % config.eval_every == 0 or last):
            metrics.update(validation.run(players))
            if config.select is Select.best:
                best.offer(metrics["heldout/reward"] - config.kl_coef * metrics["heldout/kl"], done, players.network)
            clock.lap("evaluate")
        ctx.log(metrics, step=done)
        ctx.log_timings(clock.figures(tokens=int(mask.sum())), step=done)
        shown.update({name: metrics[key] for name, key in _SHOWN.items() if key in metrics})
        ctx.progress(done, config.max_steps, shown, unit="update")
        stop = ctx.stop_requested() and not last
        if done % config.save_every == 0 or stop:
            state = {"kl_coef": kl_coef, "best_value": best.value, "best_step": best.step}
            checkpoints.save(done, modules, optimizers, state)
            best.drop_others()
        if stop:
            raise StageInterrupted(f"{ctx.stage} stopped at update {done} of {config.max_steps}")

    if best.step is not None:
        best.restore(players.network)
        ctx.say(f"the best policy is that of update {best.step}")


_SHOWN = {"score": "objective/scores", "kl": "objective/kl", "held-out": "heldout/reward", "gold": "heldout/gold"}


def minibatch_rows(episodes: int, minibatches: int, seed: int, update: int, epoch: int) -> Sequence[list[int]]:
    """The episodes of each minibatch: a fresh permutation per epoch (D53), a function of (seed, update, epoch)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + update * 7_919 + epoch * 31 + 2) % 2**63)
    order: Tensor = torch.randperm(episodes, generator=generator)
    return [chunk.tolist() for chunk in order.chunk(minibatches)]


def _adamw(network: nn.Module, config: PPOConfig) -> torch.optim.AdamW:
    """AdamW in PyTorch's form, epsilon outside the bias correction's root (D56, D57); every update sets its rate."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, eps=config.adam_eps, weight_decay=config.weight_decay)
