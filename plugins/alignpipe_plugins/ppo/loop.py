"""The training loop, top to bottom: update after update learns (`learn`), and is recorded.

An update samples, shapes rewards, estimates advantages and optimises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from alignpipe.api import StageContext
from alignpipe.errors import StageInterrupted, TrainingError
from alignpipe.ops.control import adaptive_kl_coef
from alignpipe.ops.kl import kl_k1, sequence_kl
from alignpipe.rewarding.judge import Judge, TooFewScores
from alignpipe.training.learner import adamw
from alignpipe.training.schedule import rate
from alignpipe.training.streams import batch_indices, episode_uniforms, stream
from alignpipe_plugins.ppo.advantages import Targets, estimate, group_size, token_kl, token_rewards
from alignpipe_plugins.ppo.alarms import Alarm
from alignpipe_plugins.ppo.checks import check_first_kl, check_first_ratio, check_sampling
from alignpipe_plugins.ppo.clock import Clock
from alignpipe_plugins.ppo.collect import collect
from alignpipe_plugins.ppo.config import LoopConfig, OnAlarm, Select
from alignpipe_plugins.ppo.episodes import Episodes, Prompts
from alignpipe_plugins.ppo.kept import KeptEpisodes
from alignpipe_plugins.ppo.learners import Learners, critic_of
from alignpipe_plugins.ppo.metrics import failure_metrics, update_metrics
from alignpipe_plugins.ppo.players import Players
from alignpipe_plugins.ppo.progress import Progress
from alignpipe_plugins.ppo.update import PolicyLoss, StepStatistics, backward_minibatch
from alignpipe_plugins.ppo.validation import Validation

_SHOWN = {"score": "objective/scores", "kl": "objective/kl", "held-out": "heldout/reward", "gold": "heldout/gold"}
"""The figures of the progress bar, by their names there."""


def train_ppo(
    players: Players, prompts: Prompts, validation: Validation | None, config: LoopConfig, ctx: StageContext
) -> None:
    """Train `players.network` in place for `config.max_steps` updates, from the newest checkpoint if there is one.

    The type of `config` says how advantages are estimated. With `select=best` the network ends with its best held-out
    weights.

    Raises `StageInterrupted` after saving when a stop is requested, `TrainingError` when a start check fails, a
    gradient or a weight is not finite or `on_alarm=stop` meets an alarm, `RewardError` when the reward does not give
    finite scores, or hardly ever gives one.
    """
    team = players.team
    # Copies of the networks learn. From `copies.train()` to `copies.gather()` only the copies may be used.
    learners = Learners(adamw(players.network, config, config.lr, team), critic_of(players.critic, config, team))
    loss = PolicyLoss.of(config, players.temperature)
    for learner in learners:
        team.same_start(learner.network)
    progress = Progress(ctx, learners.named, judges_of(players, validation), config.kl_coef, team)
    start = progress.load()
    if start:
        ctx.say(f"resumed at update {start} of {config.max_steps}")
    ctx.rewind(start)
    kept = KeptEpisodes(ctx.work, team)
    kept.rewind(start)
    shown: dict[str, float] = {}

    for update in range(start, config.max_steps):
        clock = Clock()
        rate_factor = rate(update, config.max_steps, config.warmup_steps, config.schedule)
        for learner in learners:
            learner.set_rate(rate_factor)
        done = update + 1
        last = done == config.max_steps
        metrics = {"lr": config.lr * rate_factor, "episode": float(done * config.episodes)}
        try:
            learnt = learn(players, prompts, learners, loss, config, progress, ctx.seed, update, clock)
        except TooFewScores as nothing:
            progress.nothing_learnt(done, last, nothing)
            ctx.say(f"update {done} of {config.max_steps} learns nothing: {nothing}")
            metrics |= failure_metrics(nothing.failures)
        else:
            metrics |= learnt.metrics
            kept.add(done, learnt.episodes, learnt.kl)

        # Record: evaluate where due, look for alarms, log, save where due.
        if validation is not None and (done % config.eval_every == 0 or last):
            metrics |= evaluate(validation, players, config, progress, done)
            clock.lap("evaluate")
        alarms = progress.watch.look(metrics)
        ctx.log({**metrics, "alarms": float(progress.watch.on)}, step=done)
        shown.update({name: metrics[key] for name, key in _SHOWN.items() if key in metrics})
        ctx.progress(done, config.max_steps, shown, unit="update")
        alarms_stop = config.on_alarm is OnAlarm.stop
        report_alarms(alarms, done, alarms_stop, ctx)
        stopping = team.any(ctx.stop_requested()) and not last
        # A run that an alarm may stop keeps the checkpoint from before the trouble until it is over.
        if stopping or (done % config.save_every == 0 and not (alarms_stop and progress.watch.uneasy)):
            progress.save(done)
            clock.lap("save")
        ctx.log_timings(clock.figures(), step=done)
        if stopping:
            raise StageInterrupted(f"{ctx.stage} stopped at update {done} of {config.max_steps}")

    progress.check(config.max_steps)
    if progress.best.step is not None:
        progress.best.restore(players.network)
        ctx.say(f"the best policy is that of update {progress.best.step}")
    elif config.select is Select.best:
        ctx.say("no evaluation on the way gave a held-out reward, so the last policy is kept")


class Learnt(NamedTuple):
    """What an update has learnt from, and its figures."""

    episodes: Episodes
    kl: Tensor
    """[B] to the reference, in nats per sequence."""
    metrics: dict[str, float]


def learn(
    players: Players,
    prompts: Prompts,
    learners: Learners,
    loss: PolicyLoss,
    config: LoopConfig,
    progress: Progress,
    seed: int,
    update: int,
    clock: Clock,
) -> Learnt:
    """One update: sample, shape rewards, estimate advantages, optimise, adapt the KL coefficient.

    Raises `TooFewScores`, with nothing changed, if too few episodes have a score, `TrainingError` and `RewardError` as
    `train_ppo` does.
    """
    # Sample: an update's episodes, looked at once by the frozen models and the reward. Groups stand together.
    chosen = prompts.select(prompt_indices(config.episodes, group_size(config), len(prompts.ids), seed, update))
    uniforms = episode_uniforms(stream(seed, "episodes", update), config.episodes, config.max_response_tokens)
    episodes = collect(
        players, chosen, uniforms, clock, score_clip=config.score_clip, missing_eos_score=config.missing_eos_score
    )
    kl = sequence_kl(kl_k1(episodes.logprobs, episodes.ref_logprobs), episodes.mask)
    first = progress.learnt_last == 0
    if first:
        check_sampling(episodes.sampling_z)
        if players.starts_as_reference:
            check_first_kl(kl, players.network)

    # Reward: a KL penalty on every token, the score on the last, or where the reward puts it (D30, D31).
    kl_coef = progress.kl_coef
    token_penalty = token_kl(episodes, config.kl_estimator)
    rewards = token_rewards(episodes, token_penalty, kl_coef)

    # Advantage: the one step in which the estimators differ.
    targets = estimate(config, episodes, rewards, -kl_coef * token_penalty)

    # Optimise: epochs of minibatches, one step each.
    statistics = optimise(learners, loss, episodes, targets, config, players, seed, update, first=first)
    progress.learnt_last = update + 1
    clock.lap("train")

    # Adapt the KL coefficient of the next update (D36), unless only the critic has learnt in this one.
    penalty_kl = sequence_kl(token_penalty, episodes.mask)
    metrics = update_metrics(episodes, kl, penalty_kl, targets.returns, statistics, kl_coef, config)
    if config.kl_target is not None and not learners.critic_alone(update):
        progress.kl_coef = adaptive_kl_coef(
            kl_coef, metrics["objective/kl"], config.kl_target, config.episodes, config.kl_horizon
        )
    return Learnt(episodes, kl, metrics)


def optimise(
    learners: Learners,
    loss: PolicyLoss,
    episodes: Episodes,
    targets: Targets,
    config: LoopConfig,
    players: Players,
    seed: int,
    update: int,
    *,
    first: bool,
) -> StepStatistics:
    """Learn from one update's episodes: epochs, minibatches (a step each), micro-batches (`backward_minibatch`).

    Raises `TrainingError` when the ratios of the first minibatch of the `first` update that learns are not 1 (D64), or
    a gradient is not finite.
    """
    statistics, when = StepStatistics(), f"update {update + 1}"
    for learner in learners:
        learner.copies.train()
    together = episodes.prompt_groups if group_size(config) > 1 else range(len(episodes.responses))
    for epoch in range(config.epochs):
        seen = StepStatistics()
        for rows in minibatch_rows(together, config.minibatches, seed, update, epoch):
            backward_minibatch(learners, loss, episodes, targets, rows, seen, players.pad_id, players.team)
            if first and epoch == 0 and not seen.norms:
                check_first_ratio(seen.worst_ratio, seen.mean("ratio_gap"), players.network)
            if learners.critic is not None:
                seen.add_norm("value", learners.critic.learner.step(when))
            if learners.critic_alone(update):
                learners.policy.clear()
            else:
                seen.add_norm("policy", learners.policy.step(when))
        statistics.merge(seen)
        if config.target_kl is not None and seen.mean("approxkl") > config.target_kl:
            break
    for learner in learners:
        learner.copies.gather()
    return statistics


def prompt_indices(episodes: int, group: int, prompts: int, seed: int, update: int) -> list[int]:
    """The prompt of each episode: `group` episodes that stand next to each other share one."""
    return [index for index in batch_indices(update, episodes // group, prompts, seed) for _ in range(group)]


def minibatch_rows(groups: Sequence[int], minibatches: int, seed: int, update: int, epoch: int) -> Sequence[list[int]]:
    """The episodes of each minibatch: a fresh permutation per epoch (D53), a function of (seed, update, epoch).

    Episodes with the same number in `groups` [B] follow each other, so that their prompt is read once; where a
    minibatch ends between them, the others are in the next one. Where failures left episodes that cannot be shared out
    evenly, minibatches differ by one.
    """
    generator = stream(seed, "minibatches", update, epoch)
    drawn: dict[int, list[int]] = {}
    for row in torch.randperm(len(groups), generator=generator).tolist():
        drawn.setdefault(groups[row], []).append(row)
    order = torch.tensor([row for group in drawn.values() for row in group])
    return [part.tolist() for part in order.tensor_split(min(minibatches, len(order)))]


def judges_of(players: Players, validation: Validation | None) -> dict[str, Judge]:
    """Everybody who is asked for scores."""
    gold = None if validation is None else validation.gold
    return {"reward": players.judge} | ({} if gold is None else {"gold": gold})


def evaluate(
    validation: Validation, players: Players, config: LoopConfig, progress: Progress, done: int
) -> dict[str, float]:
    """The held-out figures after `done` updates; with `select=best` the weights are kept where they are the best."""
    figures = validation.run(players)
    if config.select is Select.best and "heldout/reward" in figures:
        value = figures["heldout/reward"] - config.kl_coef * figures["heldout/kl"]
        progress.best.offer(value, done, players.network)
    return figures


def report_alarms(alarms: Sequence[Alarm], update: int, stop: bool, ctx: StageContext) -> None:
    """Pass alarms on to the user, as a `TrainingError` if they end the run (D66)."""
    if not stop:
        for alarm in alarms:
            ctx.alert(alarm.title, f"update {update}: {alarm.text}")
    elif alarms:
        raise TrainingError(
            f"{ctx.stage}.on_alarm=stop: update {update} raised an alarm, {alarms[0].title}: {alarms[0].text}. To go "
            f"on with the same training all the same, add {ctx.stage}.on_alarm=warn"
        )
