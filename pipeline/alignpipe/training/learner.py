"""A network that learns: its copies, its optimiser, and a step that is refused where the gradient is not finite."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from alignpipe.errors import TrainingError
from alignpipe.training.lanes import Copies
from alignpipe.training.parallel import Team
from alignpipe.training.sharding import copies_of


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
                f"the gradient of the {type(self.network).__name__} is not finite at {when}: lower the learning rate "
                f"({self.lr:g})"
            )
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return norm

    def clear(self) -> None:
        """Drop the gradient without a step."""
        self.optimizer.zero_grad(set_to_none=True)


def adamw(network: nn.Module, options: AdamWOptions, lr: float, team: Team) -> Learner:
    """A learner by AdamW in PyTorch's form, epsilon outside the bias correction's root (D56, D57)."""
    copies = copies_of(network, team)
    optimizer = torch.optim.AdamW(
        copies.trained, lr=lr, eps=options.adam_eps, weight_decay=options.weight_decay, fused=True
    )
    return Learner(network, copies, optimizer, lr, options.max_grad_norm)
