"""Lanes: threads of one process that compute parts of a batch side by side, each with its share of torch's threads.

Small models leave a processor idle: what lies between their matrix products is done by one thread. Lanes need no
launcher, no messages between processes and no second copy of the weights. On a CPU only; a GPU is one lane.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

import torch
from torch import nn

from alignpipe.api import BuildContext

T = TypeVar("T")
R = TypeVar("R")
M = TypeVar("M", bound=nn.Module)

_DEFAULT = 2
"""Lanes where `lanes` is not set: each holds gradients of its own, and more were not measured."""

_here = threading.local()
"""`inside`: whether this thread is a lane."""


class Lanes:
    """The lanes of one process; a single lane is the calling thread itself."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    @staticmethod
    def of(ctx: BuildContext) -> Lanes:
        """As many as the run's `lanes` says, by default two where torch has two threads or more."""
        if ctx.device != "cpu":
            return ONE_LANE
        return Lanes(ctx.lanes or min(_DEFAULT, torch.get_num_threads()))

    def map(self, compute: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`compute` of every item, in order; gradients are on or off as in the calling thread.

        Raises what `compute` raised for the first item that it failed on, when all lanes are done.
        """
        if self.count == 1 or len(items) < 2 or getattr(_here, "inside", False):
            return [compute(item) for item in items]
        gradients = torch.is_grad_enabled()  # a setting of this thread only

        def inside(item: T) -> R:
            with torch.set_grad_enabled(gradients):
                return compute(item)

        pool = _pool(self.count, max(1, torch.get_num_threads() // self.count))
        jobs = [pool.submit(inside, item) for item in items]
        wait(jobs)
        return [job.result() for job in jobs]

    def rows_at_once(self, most: int, rows: int) -> int:
        """How many of `rows` to compute at once in a lane: all have work, and hold `most` (rounded up per lane)."""
        return max(1, -(-min(most, rows) // self.count))


ONE_LANE = Lanes()
"""No threads."""


class Copies:
    """A module once per lane: all share its weights, each has gradients of its own.

    `trained` are the parameters for the optimiser. `gather` and `needs_empty_pass` are for sharding, which overrides
    them.
    """

    def __init__(self, module: nn.Module, lanes: Lanes) -> None:
        self.lanes = lanes
        self.trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._modules = [module, *(with_weights_of(module) for _ in range(lanes.count - 1))]

    def __getitem__(self, lane: int) -> nn.Module:
        return self._modules[lane]

    def __iter__(self) -> Iterator[nn.Module]:
        return iter(self._modules)

    def train(self) -> None:
        """Put all copies in training mode; until `gather` the module itself must not be used."""
        for module in self._modules:
            module.train()

    def gather(self) -> None:
        """Make the module itself usable again, with the trained weights."""

    def map(self, backward: Callable[[int], R]) -> list[R]:
        """Run `backward`, which computes the gradients of one lane's copy, for every lane; its results, by lane."""
        return self.lanes.map(backward, range(self.lanes.count))

    def needs_empty_pass(self, rows: int, size: int) -> bool:
        """Whether this process makes one backward pass fewer than others, for `rows` in micro-batches of `size`.

        Under sharding all processes must make equally many. The missing one is made with any row, its loss divided by
        infinity, so that it adds nothing.
        """
        return False

    def clip(self, most: float) -> float:
        """Clip the gradient to the norm `most`; returns the norm it had."""
        return float(nn.utils.clip_grad_norm_(self.trained, most))

    def sum_lanes(self) -> None:
        """Add the copies' gradients to those of the first, the module itself, in the order of lanes; then drop them."""
        for own, *others in zip(*(module.parameters() for module in self._modules), strict=True):
            for other in others:
                if other.grad is not None:
                    own.grad = other.grad if own.grad is None else own.grad.add_(other.grad)
                    other.grad = None


def with_weights_of(module: M) -> M:
    """A deep copy that shares the storage of weights and buffers: an optimiser step on one moves both."""
    same: dict[int, object] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        same[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, same)


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    """`count` threads, each of which runs a torch operation with `threads` of torch's threads."""
    all_of_them, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def enter() -> None:
        _here.inside = True
        torch.get_num_threads()  # torch sets up a thread at first use, which would undo the next line
        torch.set_num_threads(threads)
        ready.wait()

    pool = ThreadPoolExecutor(count, "lane", enter)
    for _ in range(count):
        pool.submit(int)  # the executor starts a thread for each task that finds none free; all wait in `enter`
    ready.wait()
    torch.set_num_threads(all_of_them)  # a lane's setting is also the default of threads made later
    return pool
