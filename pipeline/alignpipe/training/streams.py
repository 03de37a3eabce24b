"""Random streams: every draw has a generator of its own, named by what it is for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

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


@contextmanager
def global_stream(device: str, seed: int, purpose: str, *numbers: int) -> Iterator[None]:
    """In the block torch's own generators draw what the name says (see `stream`); after it they are as before.

    For layers that take no generator. All threads share a device's generator, so one thread draws at a time.
    """
    number = stream(seed, purpose, *numbers).initial_seed()
    with torch.random.fork_rng([device] if torch.device(device).type == "cuda" else []):
        torch.manual_seed(number)
        yield


def batch_indices(step: int, size: int, count: int, seed: int) -> list[int]:
    """The examples of 0-based `step`: fresh permutations one after the other, a function of (seed, step) only."""
    return [
        _order(position // count, count, seed)[position % count] for position in range(step * size, (step + 1) * size)
    ]


@lru_cache(maxsize=4)
def _order(epoch: int, count: int, seed: int) -> list[int]:
    """The order of one epoch; kept for its steps, since drawing it takes as long as the data set is large."""
    order: list[int] = torch.randperm(count, generator=stream(seed, "order", epoch)).tolist()
    return order


def episode_uniforms(generator: torch.Generator, episodes: int, length: int) -> Tensor:
    """What responses are sampled with: [episodes, length] in [0, 1), float64; a row is the same among fewer of them."""
    return torch.rand((episodes, length), generator=generator, dtype=torch.float64)
