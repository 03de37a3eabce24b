"""Rows of tokens for the supervised loop, and what it is asked to make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from alignpipe.options import Schedule
from alignpipe.training.batches import pad_rows, response_logprobs
from alignpipe.training.supervised import LossSums
from alignpipe.training.supervised_config import SupervisedConfig

OPTIONS = SupervisedConfig(
    max_steps=7,
    batch_size=5,
    micro_batch_size=2,
    lr=0.01,
    warmup_share=0.3,
    schedule=Schedule.cosine,
    max_grad_norm=1.0,
    weight_decay=0.01,
    adam_eps=1e-8,
    eval_every=2,
    save_every=100,
    log_every=1,
)


@dataclass(frozen=True)
class Row:
    prompt: list[int]
    response: list[int]

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.response)

    @property
    def weight(self) -> int:
        return len(self.response)


ROWS = [
    Row([3 + index] * (1 + index % 3), [20 + index + step for step in range(1 + index * 2 % 7)]) for index in range(9)
]


def token_loss(model: nn.Module, batch: Sequence[Row]) -> LossSums:
    """The negative log-likelihood of the responses."""
    tokens = pad_rows([row.prompt for row in batch], [row.response for row in batch], 0, "cpu")
    logp, _ = response_logprobs(model, tokens)
    return LossSums(-logp.sum(), {"tokens": float(tokens.response_mask.sum())})
