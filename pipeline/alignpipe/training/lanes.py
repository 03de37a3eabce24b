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

_MOST = 2
"""Lanes where the user does not say: every one holds gradients of its own, and more were not measured."""

_here = threading.local()
"""`inside`: whether this thread is a lane."""


class Lanes:
    """The lanes of one process; one lane is the calling thread."""

    def __init__(self, count: int = 1) -> None:
        self.count = count

    @staticmethod
    def of(ctx: BuildContext) -> Lanes:
        """As many as the run's `lanes` says, by default two where torch has two threads or more."""
        if ctx.device != "cpu":
            return ONE_LANE
        return Lanes(ctx.lanes or min(_MOST, torch.get_num_threads()))

    def map(self, compute: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`compute` of every item, in their order; with or without gradients as where this is called.

        Raises what `compute` raised for the first item that it failed on, when all lanes are done.
        """
        if self.count == 1 or len(items) < 2 or getattr(_here, "inside", False):
            return [compute(item) for item in items]
        gradients = torch.is_grad_enabled()  # torch's word for it holds for one thread only

        def inside(item: T) -> R:
            with torch.set_grad_enabled(gradients):
                return compute(item)

        pool = _pool(self.count, max(1, torch.get_num_threads() // self.count))
        jobs = [pool.submit(inside, item) for item in items]
        wait(jobs)
        return [job.result() for job in jobs]

    def share(self, most: int, rows: int) -> int:
        """How many of `rows` to compute at once in one lane, so that all have work and no more than `most` are held."""
        return max(1, -(-min(most, rows) // self.count))


ONE_LANE = Lanes()
"""No threads."""


class Copies:
    """A module once per lane: all have the same weights, each has gradients of its own.

    `trained` are the parameters that an optimiser moves. What is done for processes that split a module among them
    (`sharding`) does nothing here.
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
        """Put all in training mode; until `gather` only the copies may be asked."""
        for module in self._modules:
            module.train()

    def gather(self) -> None:
        """Have the module's weights at hand again, to be read, kept or changed."""

    def map(self, backward: Callable[[int], R]) -> list[R]:
        """What `backward` gives for each lane, whose gradients it computes."""
        return self.lanes.map(backward, range(self.lanes.count))

    def needs_empty_pass(self, rows: int, size: int) -> bool:
        """Whether this process has a backward pass less to make than others, for `rows` in micro-batches of `size`.

        Under sharding all processes must make equally many. The missing one is made with any row, its loss divided by
        infinity, so that it adds nothing.
        """
        return False

    def clip(self, most: float) -> float:
        """Scale the gradient down to the norm `most` if it is longer; gives the norm it had."""
        return float(nn.utils.clip_grad_norm_(self.trained, most))

    def sum_gradients(self) -> None:
        """Give the module itself the sum of all gradients, added in the order of the lanes; the others' are dropped."""
        for own, *others in zip(*(module.parameters() for module in self._modules), strict=True):
            for other in others:
                if other.grad is not None:
                    own.grad = other.grad if own.grad is None else own.grad.add_(other.grad)
                    other.grad = None


def with_weights_of(module: M) -> M:
    """A deep copy of all but the weights, which lie where the module's own do: an optimiser's step moves both."""
    same: dict[int, object] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        same[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
    return copy.deepcopy(module, same)


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    """`count` threads, each of which gives `threads` of torch's to an operation."""
    all_of_them, ready = torch.get_num_threads(), threading.Barrier(count + 1)

    def enter() -> None:
        _here.inside = True
        torch.get_num_threads()  # has torch set up this thread now: it would set it up as the others are at first use
        torch.set_num_threads(threads)
        ready.wait()

    pool = ThreadPoolExecutor(count, "lane", enter)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(all_of_them)  # what a lane sets is also what threads made later begin with
    return pool
