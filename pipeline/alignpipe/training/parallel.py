"""Several processes that train one stage together: which rows each computes, and how results are combined.

Every process knows the whole batch, computes its share of it, and has the same weights after every step. In a team of
one every method returns what it was given, and Accelerate is not imported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from alignpipe.api import StageContext
from alignpipe.errors import ConfigError, ProcessError
from alignpipe.processes import launch_size, this_process
from alignpipe.training.exchange import LocalExchange, connect_locally, lost
from alignpipe.training.lanes import ONE_LANE, Lanes
from alignpipe.training.ordering import shares
from alignpipe.training.packed.compiled import why_no_kernels

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)
"""How long a process waits for the others in one collective; rank 0 may be writing a large checkpoint meanwhile."""
_BUCKET_VALUES = 1 << 24
"""Gradient values that are summed at once: 64 MiB of float32, joined in a copy where there is no exchange."""


class Team:
    """The processes of one stage; `size` is 1 where a stage runs alone. `lanes` are this process's own.

    With `shard` they split what they train among them (see `sharding`). `exchange` is the quicker way to each other
    that processes on one machine's processor have.
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        lanes: Lanes = ONE_LANE,
        *,
        shard: bool = False,
        exchange: LocalExchange | None = None,
    ) -> None:
        self.rank = rank
        self.size = size
        self.lanes = lanes
        self.shard = shard
        self._exchange = exchange

    @property
    def leads(self) -> bool:
        """Whether this process writes what the stage leaves: checkpoints and the payload."""
        return self.rank == 0

    def with_one_lane(self) -> Team:
        """The same processes, each with one lane."""
        return Team(self.rank, self.size, ONE_LANE, shard=self.shard, exchange=self._exchange)

    def share(
        self, lengths: Sequence[int], *, rows: Sequence[int] | None = None, groups: Sequence[int] | None = None
    ) -> list[int]:
        """The rows that this process computes (see `ordering.shares`)."""
        return shares(lengths, self.size, rows=rows, groups=groups)[self.rank]

    def spread(self, lengths: Sequence[int], compute: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """One item per row, in order: each process computes those of its share, and all processes get all of them."""
        rows = self.share(lengths)
        items = compute(rows) if rows else []
        by_row = dict(pair for part in self.gather(list(zip(rows, items, strict=True))) for pair in part)
        return [by_row[row] for row in range(len(lengths))]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; one that is None in all of them stays None.

        Called once per optimiser step, after the last micro-batch, of which processes may have different numbers. With
        `shard` every backward pass has summed already.
        """
        if self.size == 1 or self.shard:
            return
        for bucket in _buckets(parameter for parameter in parameters if parameter.requires_grad):
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            # With the gradients goes how many processes have each.
            present = grads[0].new_tensor([parameter.grad is not None for parameter in bucket])
            self._sum_in_place([*grads, present])
            for parameter, grad, processes in zip(bucket, grads, present.tolist(), strict=True):
                if processes:
                    parameter.grad = grad

    def _sum_in_place(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors of one type by their sums over the processes."""
        if self._exchange is not None:
            self._exchange.sum_in_place(tensors)
            return
        joined = self.sum_tensor(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, total in zip(tensors, torch.split(joined, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(total.view_as(tensor))

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        """The sum over the processes of a tensor on the stage's device."""
        if self.size == 1:
            return tensor
        if self._exchange is not None:
            return self._exchange.sum(tensor)
        from accelerate.utils import reduce

        with collective():
            summed: Tensor = reduce(tensor, reduction="sum")
        return summed

    def sum_figures(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The figures of all processes added by name, in the order of ranks, so that all get the same bits."""
        return added(self.gather(dict(figures)))

    def gather(self, item: T) -> list[T]:
        """The items of all processes, by rank; plain data and CPU tensors."""
        if self.size == 1:
            return [item]
        return _gathered(item) if self._exchange is None else self._exchange.gather(item)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process: a signal may reach only one of them."""
        return any(self.gather(flag))

    def from_leader(self, item: T) -> T:
        """Rank 0's item: for decisions on which all must agree, though clocks and folders may differ."""
        return self.gather(item)[0]

    def wait(self) -> None:
        """A barrier: what rank 0 wrote before it, the others may read after it."""
        self.gather(None)

    def same_start(self, module: nn.Module) -> None:
        """Copy rank 0's weights and buffers to all processes."""
        if self.size == 1:
            return
        from accelerate.utils import broadcast

        with collective(), torch.no_grad():
            for tensor in [*module.parameters(), *module.buffers()]:
                broadcast(tensor.data)


def added(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Figures of many parts added up by name, one part after the other."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0.0) + value
    return total


ALONE = Team()
"""One process with one lane."""


def join(ctx: StageContext, *, shard: bool = False) -> Team:
    """The team of a stage; the first call in a process connects it with the others.

    A stage that one process of several runs alone is not sharded.

    Raises `ProcessError` if the others cannot be reached, `ConfigError` for `shard` in a launch of one process.
    """
    lanes = Lanes.of(ctx)
    if ctx.rank == 0 and ctx.device == "cpu" and (why := why_no_kernels()):
        ctx.say(f"small operations are torch's, which are slower than compiled ones: {why}")
    if shard and launch_size() == 1:
        raise ConfigError(
            "model.shard=true splits what is trained over the processes of a launch, and there is only this one: start "
            "several (processes=2), or leave model.shard at false"
        )
    if ctx.world_size == 1:
        return Team(lanes=lanes)
    from accelerate import PartialState

    with collective(), _own_threads():
        connected = PartialState(cpu=ctx.device == "cpu", timeout=_TIMEOUT).num_processes
    if connected != ctx.world_size:
        raise ProcessError(
            f"Accelerate was used in {this_process()} before, for {connected} processes, and cannot connect "
            f"{ctx.world_size} any more: leave that to the stages that train"
        )
    exchange = connect_locally(ctx.rank, ctx.world_size, _gathered, _TIMEOUT) if ctx.device == "cpu" else None
    return Team(ctx.rank, ctx.world_size, lanes, shard=shard, exchange=exchange)


@contextmanager
def _own_threads() -> Iterator[None]:
    """Keep torch's threads as the run has set them: Accelerate sets them anew where `OMP_NUM_THREADS` says nothing."""
    unset = "OMP_NUM_THREADS" not in os.environ
    if unset:
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        yield
    finally:
        if unset:
            del os.environ["OMP_NUM_THREADS"]


def _gathered(item: T) -> list[T]:
    """The items of all processes, by rank, over the connection that reaches everywhere."""
    from accelerate.utils import gather_object

    with collective():
        gathered: list[T] = gather_object([item])
    return gathered


@contextmanager
def collective(*, computing: bool = False) -> Iterator[None]:
    """Around collective operations: raise `ProcessError`, in words, where torch reports a broken connection.

    Every `RuntimeError` is taken for that; with `computing`, where other code runs inside too, only those that name the
    connection.
    """
    try:
        yield
    except RuntimeError as error:
        if computing and not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        # Without torch's file names and guesses.
        reason = re.sub(r"^\[\S*\] ", "", str(error)).partition(". ")[0].strip()
        raise lost(reason) from error


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one dtype in groups of at most `_BUCKET_VALUES` values, or of one parameter that has more."""
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_type.setdefault(parameter.dtype, []).append(parameter)
    for same_type in by_type.values():
        bucket: list[nn.Parameter] = []
        values = 0
        for parameter in same_type:
            if bucket and values + parameter.numel() > _BUCKET_VALUES:
                yield bucket
                bucket, values = [], 0
            bucket.append(parameter)
            values += parameter.numel()
        yield bucket
