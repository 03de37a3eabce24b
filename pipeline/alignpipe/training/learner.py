"""A network that learns: gradients micro-batch by micro-batch, and optimiser steps that refuse what is not finite."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from alignpipe.errors import TrainingError
from alignpipe.training.lanes import Copies
from alignpipe.training.ordering import by_length, shares
from alignpipe.training.parallel import Team
from alignpipe.training.sharding import copies_of

R = TypeVar("R")


class AdamWOptions(Protocol):
    """What configs of training stages say of the optimiser."""

    @property
    def adam_eps(self) -> float:
        """AdamW's epsilon."""
        ...

    @property
    def weight_decay(self) -> float:
        """AdamW's decay."""
        ...

    @property
    def max_grad_norm(self) -> float:
        """The norm that gradients are clipped to."""
        ...


@dataclass(frozen=True)
class Learner:
    """A network, its copies for the lanes, its optimiser, its peak learning rate, and where its gradient is clipped."""

    network: nn.Module
    copies: Copies
    optimizer: Optimizer
    lr: float
    max_grad_norm: float

    def set_rate(self, factor: float) -> None:
        """Set the learning rate of the steps to come, as a factor of the peak."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * factor

    def step(self, when: str) -> float:
        """Clip, step, clear; returns the gradient's norm before clipping (D59).

        Raises `TrainingError`, which says `when`, if the gradient is not finite; the weights are then as before.
        """
        norm = self.copies.clip(self.max_grad_norm)
        if not norm < float("inf"):
            raise TrainingError(
                f"the gradient of the {type(self.network).__name__} is not finite at {when}: {self._what_to_do()}"
            )
        self.optimizer.step()
        self.clear()
        return norm

    def _what_to_do(self) -> str:
        # Sharded, the network is empty while it is trained, and this says nothing of its weights.
        for name, weight in self.network.named_parameters():
            if not weight.isfinite().all():
                return (
                    f"its weight {name} is not either: the checkpoint that it began with is damaged, or in half "
                    f"precision a step was too large (learning rate {self.lr:g})"
                )
        return f"lower the learning rate ({self.lr:g})"

    def clear(self) -> None:
        """Drop the gradient without a step."""
        self.optimizer.zero_grad(set_to_none=True)


def by_micro_batches(
    copies: Copies,
    team: Team,
    lengths: Sequence[int],
    micro_batch_size: int,
    backward: Callable[[int, list[int], float], R],
    *,
    rows: Sequence[int] | None = None,
    groups: Sequence[int] | None = None,
) -> list[list[R]]:
    """Compute the gradients of this process's share of a batch; gives what `backward` did, micro-batch by micro-batch.

    `lengths` are the tokens of all rows that there are, `rows` those of the batch (all), `groups` keep rows together
    (`ordering.shares`). `backward` gets a lane, the rows of a micro-batch, and by what to divide its loss once more:
    1, or infinity for a pass that only takes part (`Copies.needs_empty_pass`).
    """
    batch = list(range(len(lengths)) if rows is None else rows)
    own = team.share(lengths, rows=batch, groups=groups)
    parts = shares(lengths, copies.lanes.count, rows=own, groups=groups)
    size = copies.lanes.rows_at_once(micro_batch_size, len(own))

    def of_lane(lane: int) -> list[R]:
        done = [backward(lane, picked, 1.0) for picked in by_length(lengths, size, rows=parts[lane], groups=groups)]
        if copies.needs_empty_pass(len(batch), micro_batch_size):
            backward(lane, batch[:1], math.inf)
        return done

    return copies.map(of_lane)


def adamw(network: nn.Module, options: AdamWOptions, lr: float, team: Team) -> Learner:
    """A learner by AdamW in PyTorch's form, epsilon outside the bias correction's root (D56, D57)."""
    copies = copies_of(network, team)
    optimizer = torch.optim.AdamW(
        copies.trained, lr=lr, eps=options.adam_eps, weight_decay=options.weight_decay, fused=True
    )
    return Learner(network, copies, optimizer, lr, options.max_grad_norm)
