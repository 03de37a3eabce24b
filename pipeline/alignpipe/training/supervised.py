"""The one loop of sft and reward training: examples in, weighted losses, a checkpoint now and then.

Of several processes each computes its share of every batch, and all take the same steps (see `parallel`); a process
spreads its share over its lanes (see `lanes`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from alignpipe.api import StageContext
from alignpipe.errors import StageInterrupted
from alignpipe.training.checkpoint import Checkpoints
from alignpipe.training.learner import Learner, adamw, by_micro_batches
from alignpipe.training.ordering import by_length
from alignpipe.training.parallel import Team, added
from alignpipe.training.schedule import rate
from alignpipe.training.streams import batch_indices, global_stream
from alignpipe.training.supervised_config import SupervisedConfig


@dataclass
class LossSums:
    """A micro-batch's loss, summed (not averaged), and sums of the figures to log beside it."""

    loss: Tensor
    figures: Mapping[str, float] = field(default_factory=dict)

    def numbers(self) -> dict[str, float]:
        """All of them as plain numbers."""
        return {"loss": float(self.loss.detach()), **self.figures}


class Example(Protocol):
    """A training example knows its length (for batching) and its weight in the loss (tokens, or 1)."""

    @property
    def length(self) -> int:
        """Tokens to compute."""
        ...

    @property
    def weight(self) -> int:
        """What it counts in the mean."""
        ...


E = TypeVar("E", bound=Example)
Loss = Callable[[nn.Module, Sequence[E]], LossSums]
"""The loss of a micro-batch by the model that it is given: the one in training, or a copy with the same weights."""


def train(
    model: nn.Module,
    examples: Sequence[E],
    loss: Loss[E],
    evaluate: Callable[[], Mapping[str, float]],
    options: SupervisedConfig,
    ctx: StageContext,
    watch: Sequence[str],
    team: Team,
) -> None:
    """Train `model` in place, from the newest checkpoint in `ctx.work` if there is one.

    `options.batch_size` examples make one optimiser step, in micro-batches of at most `options.micro_batch_size`.
    `evaluate` returns the held-out figures; `watch` names the figures of the progress bar. All processes of `team` call
    this, with the same arguments.

    Raises `StageInterrupted` after saving when a stop is requested, `TrainingError` when a gradient is not finite.
    """
    drops = any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())
    if drops and team.lanes.count > 1:  # all lanes draw from one generator, whoever comes first
        ctx.say("dropout: one lane trains, since lanes would draw their masks in any order")
        team = team.with_one_lane()
    team.same_start(model)
    learner = adamw(model, options, options.lr, team)
    checkpoints = Checkpoints(ctx.work, team, ctx.sync_log)
    steps = options.steps(len(examples))
    warmup = round(options.warmup_share * steps)
    start, _ = checkpoints.load({"model": model}, {"optimizer": learner.optimizer})
    if start:
        ctx.say(f"resumed at step {start} of {steps}")
    ctx.rewind(start)
    shown: dict[str, float] = {}
    for step in range(start, steps):
        began = time.perf_counter()
        factor = rate(step, steps, warmup, options.schedule)
        learner.set_rate(factor)
        batch = [examples[index] for index in batch_indices(step, options.batch_size, len(examples), ctx.seed)]
        with global_stream(ctx.device, ctx.seed, "dropout", step, team.rank) if drops else nullcontext():
            metrics = _step(learner, batch, loss, options.micro_batch_size, step, team)
        done = step + 1
        last = done == steps
        if done % options.log_every == 0 or last:
            metrics["lr"] = options.lr * factor
            metrics["epoch"] = done * options.batch_size / len(examples)
            if done % options.eval_every == 0 or last:
                learner.copies.gather()
                metrics.update(evaluate())
            ctx.log(metrics, step=done)
            seconds = time.perf_counter() - began
            ctx.log_timings({"time/step": seconds, "perf/examples_per_second": len(batch) / seconds}, step=done)
            shown.update({name: metrics[name] for name in watch if name in metrics})
        ctx.progress(done, steps, shown)
        stop = team.any(ctx.stop_requested()) and not last
        if done % options.save_every == 0 or stop:
            began = time.perf_counter()
            learner.copies.gather()
            checkpoints.save(done, {"model": model}, {"optimizer": learner.optimizer}, {})
            ctx.log_timings({"time/save": time.perf_counter() - began}, step=done)
        if stop:
            raise StageInterrupted(f"{ctx.stage} stopped at step {done} of {steps}")


def _step(
    learner: Learner, batch: Sequence[E], loss: Loss[E], micro_batch_size: int, step: int, team: Team
) -> dict[str, float]:
    """One optimiser step; figures are means over the whole batch, by weight."""
    copies = learner.copies
    copies.train()
    weight = sum(example.weight for example in batch)

    def backward(lane: int, rows: list[int], more: float) -> dict[str, float]:
        part = loss(copies[lane], [batch[row] for row in rows])
        # Divided by the weight of the whole batch, known before: the micro size changes nothing (D55).
        torch.autograd.backward(part.loss / (weight * more))
        return part.numbers()

    lengths = [example.length for example in batch]
    by_lane = by_micro_batches(copies, team, lengths, micro_batch_size, backward)
    copies.sum_lanes()
    team.sum_gradients(copies.trained)
    sums = team.sum_figures(added(added(figures) for figures in by_lane))
    norm = learner.step(f"step {step + 1}")
    return {**{name: value / weight for name, value in sums.items()}, "grad_norm": norm}


def mean_over(
    examples: Sequence[E],
    size: int,
    loss: Loss[E],
    model: nn.Module,
    team: Team,
) -> dict[str, float]:
    """The loss and figures of all `examples`, as weighted means, without gradients; lanes share `size` rows."""
    model.eval()
    weight = sum(example.weight for example in examples)
    lengths = [example.length for example in examples]
    own = team.share(lengths)
    batches = list(by_length(lengths, team.lanes.rows_at_once(size, len(own)), rows=own))
    with torch.no_grad():
        parts = team.lanes.map(lambda rows: loss(model, [examples[row] for row in rows]).numbers(), batches)
    return {name: value / weight for name, value in team.sum_figures(added(parts)).items()}
