"""The training loop of PPO, top to bottom: sample, shape rewards, estimate advantages, optimise, record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
from alignpipe.training.models import Policy, TokenScorer
from alignpipe.training.rollouts import episode_uniforms
from alignpipe.training.schedule import rate
from alignpipe.training.supervised import batch_indices

from alignpipe_plugins.ppo.best import Best
from alignpipe_plugins.ppo.checks import check_first_kl, check_first_ratio
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.collect import Judge, Sampler, collect
from alignpipe_plugins.ppo.config import KLEstimator, PPOConfig, Select
from alignpipe_plugins.ppo.episodes import Prompts
from alignpipe_plugins.ppo.metrics import update_metrics
from alignpipe_plugins.ppo.update import Learner, StepStatistics, backward_minibatch
from alignpipe_plugins.ppo.validation import Validation

_ESTIMATORS = {KLEstimator.k1: kl_k1, KLEstimator.k2: kl_k2, KLEstimator.k3: kl_k3_clamped}


@dataclass(frozen=True)
class Players:
    """The models of a PPO training.

    `network` is what is trained in the policy's place (the policy itself, or with adapters); `starts_as_reference` says
    that policy and reference come from the same checkpoint, so that D65 applies.
    """

    policy: Policy
    network: nn.Module
    reference: nn.Module
    critic: TokenScorer
    judge: Judge
    sampler: Sampler
    starts_as_reference: bool


def train_ppo(players: Players, prompts: Prompts, validation: Validation | None, config: PPOConfig, ctx: StageContext) -> None:
    """Train `players.network` in place for `config.max_steps` updates, from the newest checkpoint if there is one.

    With `select=best` the network ends with its best held-out weights.

    Raises `StageInterrupted` after saving when a stop is requested, `TrainingError` when a start check fails or a
    gradient is not finite, `RewardError` when the reward does not give finite scores.
    """
    pad_id = int(players.policy.tokenizer.pad_token_id)
    policy = Learner(players.network, _adamw(players.network, config.lr, config), config.max_grad_norm)
    critic = Learner(players.critic, _adamw(players.critic, config.critic_lr, config), config.max_grad_norm)
    modules = {"policy": policy.network, "critic": critic.network}
    optimizers = {"policy": policy.optimizer, "critic": critic.optimizer}
    checkpoints = Checkpoints(ctx.work)
    best = Best(ctx.work)
    start, kl_coef = 0, config.kl_coef
    if checkpoints.latest() is not None:
        start, extra = checkpoints.load(modules, optimizers)
        kl_coef, best.value, best.step = extra["kl_coef"], extra["best_value"], extra["best_step"]
        ctx.say(f"{ctx.stage}: resumed at update {start} of {config.max_steps}")
    ctx.rewind(start)
    shown: dict[str, float] = {}

    for update in range(start, config.max_steps):
        clock = Clock()
        # Sample an update's episodes and let the frozen models and the reward look at them once.
        factor = rate(update, config.max_steps, config.warmup_steps, config.schedule)
        policy.optimizer.param_groups[0]["lr"] = config.lr * factor
        critic.optimizer.param_groups[0]["lr"] = config.critic_lr * factor
        chosen = prompts.select(batch_indices(update, config.episodes, len(prompts.ids), ctx.seed))
        episodes = collect(
            players.policy,
            players.network,
            players.reference,
            players.critic,
            players.judge,
            players.sampler,
            chosen,
            episode_uniforms(ctx.seed, update, config.episodes, config.max_response_tokens),
            missing_eos_score=config.missing_eos_score,
            clock=clock,
        )

        # Reward: a KL penalty on every token, the score on the last (D30, D31).
        mask = episodes.mask
        kl = _ESTIMATORS[config.kl_estimator](episodes.logprobs, episodes.ref_logprobs)
        rewards = add_score_to_kl_penalty(episodes.scores, kl, mask, kl_coef)
        if config.whiten_rewards:
            rewards = scale_only(rewards, mask)
        sequence = sequence_kl(kl_k1(episodes.logprobs, episodes.ref_logprobs), mask)
        if update == 0 and players.starts_as_reference:
            check_first_kl(sequence, _dtype(players.network))

        # Advantage: GAE, then whitening over the whole update; returns are taken before it (D41, D42).
        advantages, returns = gae(rewards, episodes.values, mask, config.gamma, config.lam)
        if config.whiten_advantages:
            advantages = whiten(advantages, mask)

        # Optimise: epochs, minibatches (one step each), micro-batches (inside `backward_minibatch`).
        statistics = StepStatistics()
        norms: dict[str, list[float]] = {"policy": [], "value": []}
        players.network.train()
        for epoch in range(config.epochs):
            for rows in minibatch_rows(config.episodes, config.minibatches, ctx.seed, update, epoch):
                backward_minibatch(
                    players.network,
                    players.critic,
                    episodes,
                    advantages,
                    returns,
                    rows,
                    statistics,
                    pad_id=pad_id,
                    micro_batch_size=config.micro_batch_size,
                    temperature=config.temperature,
                    clip_low=config.clip_range,
                    clip_high=config.clip_range if config.clip_range_high is None else config.clip_range_high,
                    clip_value=config.clip_range_value,
                )
                if update == 0 and not norms["value"]:
                    check_first_ratio(statistics.worst_ratio, _dtype(players.network))
                norms["value"].append(critic.step())
                if update < config.critic_warmup:
                    policy.clear()
                else:
                    norms["policy"].append(policy.step())
            if config.target_kl is not None and statistics.mean("approxkl") > config.target_kl:
                break
        clock.lap("train")

        # Record, adapt the KL coefficient, evaluate and save where due.
        done = update + 1
        metrics = update_metrics(episodes, sequence, returns, statistics, norms, kl_coef)
        metrics.update({"lr": config.lr * factor, "episode": float(done * config.episodes)})
        if config.kl_target is not None:
            kl_coef = adaptive_kl_coef(kl_coef, float(sequence.mean()), config.kl_target, config.episodes, config.kl_horizon)
        if validation is not None and (done % config.eval_every == 0 or done == config.max_steps):
            metrics.update(validation.run(players.policy, players.network, players.reference, players.sampler))
            if config.select is Select.best:
                best.offer(metrics["heldout/reward"] - config.kl_coef * metrics["heldout/kl"], done, players.network)
            clock.lap("evaluate")
        ctx.log(metrics, step=done)
        ctx.log_timings(clock.figures(tokens=int(mask.sum())), step=done)
        shown.update({name: metrics[key] for name, key in _SHOWN.items() if key in metrics})
        ctx.progress(done, config.max_steps, shown, unit="update")
        stop = ctx.stop_requested() and done < config.max_steps
        if done % config.save_every == 0 or stop:
            extra = {"kl_coef": kl_coef, "best_value": best.value, "best_step": best.step}
            checkpoints.save(done, modules, optimizers, extra)
        if stop:
            raise StageInterrupted(f"{ctx.stage} stopped at update {done} of {config.max_steps}")

    if best.step is not None:
        best.restore(players.network)
        ctx.say(f"{ctx.stage}: the best policy is that of update {best.step}")


_SHOWN = {"score": "objective/scores", "kl": "objective/kl", "held-out": "heldout/reward", "gold": "heldout/gold"}


def minibatch_rows(episodes: int, minibatches: int, seed: int, update: int, epoch: int) -> Sequence[list[int]]:
    """The episodes of each minibatch: a fresh permutation per epoch (D53), a function of (seed, update, epoch)."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + update * 7_919 + epoch * 31 + 2) % 2**63)
    order: Tensor = torch.randperm(episodes, generator=generator)
    return [chunk.tolist() for chunk in order.chunk(minibatches)]


def _adamw(network: nn.Module, lr: float, config: PPOConfig) -> torch.optim.AdamW:
    """AdamW in PyTorch's form, epsilon outside the bias correction's root (D56, D57)."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=lr, eps=config.adam_eps, weight_decay=config.weight_decay)


def _dtype(network: nn.Module) -> str:
    return str(next(network.parameters()).dtype).removeprefix("torch.")
