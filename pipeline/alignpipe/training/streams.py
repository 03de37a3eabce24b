"""Random streams: every draw has a generator of its own, named by what it is for."""

from __future__ import annotations

import torch
from torch import Tensor

from alignpipe.digests import data_digest


def stream(seed: int, purpose: str, *numbers: int) -> torch.Generator:
    """A generator that is a function of its arguments only, so that a killed run draws the same again.

    Another purpose, number or seed gives another stream (D28), but for a chance of 1 in 4 billion for any two:
    `stream(0, "order", 1)` has nothing to do with `stream(1, "order", 0)` or `stream(0, "episodes", 1)`.
    """
    name = data_digest([purpose, seed, *numbers])
    return torch.Generator().manual_seed(int(name[:8], 16))  # torch takes 32 bits on a CPU


def episode_uniforms(generator: torch.Generator, episodes: int, length: int) -> Tensor:
    """What responses are sampled with: [episodes, length] in [0, 1), float64; a row is the same among fewer of them."""
    return torch.rand((episodes, length), generator=generator, dtype=torch.float64)
