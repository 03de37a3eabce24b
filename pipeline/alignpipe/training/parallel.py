"""Several processes that train one stage together: who computes what, and how their results become one.

Every process knows the whole batch, computes its share of it, and has the same weights after every step. Alone, every
method gives back what it was given, and Accelerate is not imported.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn

from alignpipe.api import StageContext
from alignpipe.errors import ConfigError, ProcessError
from alignpipe.processes import this_process
from alignpipe.training.lanes import ONE_LANE, Lanes
from alignpipe.training.ordering import shares

T = TypeVar("T")

_PATIENCE = timedelta(minutes=30)
"""How long a process waits for the others at one meeting; rank 0 may be writing a large checkpoint meanwhile."""
_BUCKET = 1 << 24
"""Gradient values that are summed in one message."""


class Team:
    """The processes of one stage; `size` is 1 where a stage runs alone. `lanes` are this process's own.

    With `shard` they split what they train among them (see `sharding`).
    """

    def __init__(self, rank: int = 0, size: int = 1, lanes: Lanes = ONE_LANE, *, shard: bool = False) -> None:
        self.rank = rank
        self.size = size
        self.lanes = lanes
        self.shard = shard

    @property
    def leads(self) -> bool:
        """Whether this process writes what the stage leaves: checkpoints and the payload."""
        return self.rank == 0

    def share(
        self, lengths: Sequence[int], *, rows: Sequence[int] | None = None, groups: Sequence[int] | None = None
    ) -> list[int]:
        """The rows this process computes (`ordering.shares`)."""
        return shares(lengths, self.size, rows=rows, groups=groups)[self.rank]

    def spread(self, lengths: Sequence[int], compute: Callable[[list[int]], Sequence[T]]) -> list[T]:
        """One item per row, in their order; each process computes those of its share, and all get all of them."""
        rows = self.share(lengths)
        items = compute(rows) if rows else []
        by_row = dict(pair for part in self.gather(list(zip(rows, items, strict=True))) for pair in part)
        return [by_row[row] for row in range(len(lengths))]

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every gradient by its sum over the processes; a parameter that has none anywhere keeps none.

        Called once for an optimiser step, after the last micro-batch, of which processes may have different numbers.
        Nothing is left to do with `shard`: every backward pass has summed.
        """
        if self.size == 1 or self.shard:
            return
        for bucket in _buckets(parameter for parameter in parameters if parameter.requires_grad):
            there = torch.tensor([parameter.grad is not None for parameter in bucket], device=bucket[0].device)
            filled = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            summed = self.sum(torch.cat([grad.reshape(-1) for grad in filled]))
            anywhere = self.sum(there.float()).tolist()
            pieces = torch.split(summed, [parameter.numel() for parameter in bucket])
            for parameter, piece, processes in zip(bucket, pieces, anywhere, strict=True):
                if processes:
                    parameter.grad = piece.view_as(parameter)

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor that every process has, on the stage's device."""
        if self.size == 1:
            return tensor
        from accelerate.utils import reduce

        with meeting():
            summed: Tensor = reduce(tensor, reduction="sum")
        return summed

    def sums(self, figures: Mapping[str, float]) -> dict[str, float]:
        """The sums of every process added up, in the order of their ranks, so that all get the very same numbers."""
        return added(self.gather(dict(figures)))

    def gather(self, item: T) -> list[T]:
        """What every process brings, by rank; plain data and CPU tensors."""
        if self.size == 1:
            return [item]
        from accelerate.utils import gather_object

        with meeting():
            gathered: list[T] = gather_object([item])
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether any process says yes: a signal may reach only one of them."""
        return any(self.gather(flag))

    def from_leader(self, item: T) -> T:
        """What rank 0 brings: for what only one may decide, since clocks and folders may differ."""
        return self.gather(item)[0]

    def wait(self) -> None:
        """Wait until all are here: what rank 0 wrote before, the others may read after."""
        self.gather(None)

    def same_start(self, module: nn.Module) -> None:
        """Give all processes rank 0's weights."""
        if self.size == 1:
            return
        from accelerate.utils import broadcast

        with meeting(), torch.no_grad():
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

    Raises `ProcessError` if they cannot be reached, `ConfigError` for `shard` in a process that was launched alone; one
    that runs a stage alone shards nothing.
    """
    lanes = Lanes.of(ctx)
    if shard and this_process().world_size == 1:
        raise ConfigError(
            "model.shard=true splits what is trained over the processes of a launch, and there is only this one: start "
            "several (torchrun --nproc-per-node=2 -m alignpipe ...), or leave model.shard at false"
        )
    if ctx.world_size == 1:
        return Team(lanes=lanes)
    from accelerate import PartialState

    with meeting():
        PartialState(cpu=ctx.device == "cpu", timeout=_PATIENCE)
    return Team(ctx.rank, ctx.world_size, lanes, shard=shard)


@contextmanager
def meeting(*, working: bool = False) -> Iterator[None]:
    """Say in words when the others do not come: torch tells of sockets.

    With `working` more is done inside than to meet, and other errors than those of the connection pass.
    """
    try:
        yield
    except RuntimeError as error:
        if working and not (isinstance(error, torch.distributed.DistError) or "gloo" in str(error)):
            raise
        told = re.sub(r"^\[\S*\] ", "", str(error)).partition(". ")[0].strip()  # without torch's file names and guesses
        raise ProcessError(
            f"another process of this run has ended or cannot be reached ({told}); what was saved is kept: give the "
            "same command again, with as many processes as you like"
        ) from error


def _buckets(parameters: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Parameters of one type in groups that are sent as one."""
    by_type: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter in parameters:
        by_type.setdefault(parameter.dtype, []).append(parameter)
    for alike in by_type.values():
        bucket: list[nn.Parameter] = []
        values = 0
        for parameter in alike:
            if bucket and values + parameter.numel() > _BUCKET:
                yield bucket
                bucket, values = [], 0
            bucket.append(parameter)
            values += parameter.numel()
        yield bucket
