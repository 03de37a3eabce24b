"""Sharded training (`model.shard`, FSDP2): weights, gradients and optimiser states split over the processes of a team.

In training each process holds a part of every weight; the blocks of the model are gathered one by one as a forward or
backward pass reaches them. To sample, evaluate and save, every process has the whole weights for a while, in an
ordinary module. Without sharding only `copies_of` matters here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from alignpipe.errors import ConfigError
from alignpipe.training.lanes import ONE_LANE, Copies, with_weights_of
from alignpipe.training.parallel import Team, collective

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

R = TypeVar("R")


def copies_of(module: nn.Module, team: Team) -> Copies:
    """What is trained instead of the module: copies for this process's lanes, or its part of one copy."""
    return Shards(module, team) if team.shard else Copies(module, team.lanes)


class Shards(Copies):
    """One copy, split over the processes; the module itself has no weights from `train` to `gather`.

    In every pass processes communicate, so all make equally many (`needs_empty_pass`). One lane, as a pass keeps its
    state in the copy.
    """

    def __init__(self, module: nn.Module, team: Team) -> None:
        super().__init__(_split(with_weights_of(module), team), ONE_LANE)
        self._module = module
        self._team = team
        self._gathered = True

    def train(self) -> None:
        """Move the module's weights into the sharded copy; the module is empty until `gather`."""
        super().train()
        if self._gathered:
            with torch.no_grad():
                for whole, part in self._pairs():
                    part.copy_(_like(part, whole.detach()))
                    whole.data = whole.data.new_empty(0)
        self._gathered = False

    def gather(self) -> None:
        """Fill the module with the weights that the copy has now."""
        if not self._gathered:
            with collective(computing=True), torch.no_grad():
                for whole, part in self._pairs():
                    whole.data = _whole(part)
        self._gathered = True

    def map(self, backward: Callable[[int], R]) -> list[R]:
        """See `Copies.map`; raises `ProcessError` if another process is gone."""
        with collective(computing=True):
            return [backward(0)]

    def needs_empty_pass(self, rows: int, size: int) -> bool:
        """See `Copies`: shares differ by a row at most, and rank 0 has the most (`ordering.shares`)."""
        most, own = (len(range(rank, rows, self._team.size)) for rank in (0, self._team.rank))
        return -(-own // size) < -(-most // size)

    def clip(self, most: float) -> float:
        """See `Copies.clip`; the norm is that of all parts together."""
        with collective(computing=True):
            norm = cast("DTensor", nn.utils.clip_grad_norm_(self.trained, most))
            return float(norm.full_tensor())

    def _pairs(self) -> Iterator[tuple[nn.Parameter, DTensor]]:
        """Every parameter of the module with that of the copy."""
        return zip(self._module.parameters(), cast("Iterator[DTensor]", self[0].parameters()), strict=True)


def whole_state(optimizer: Optimizer, team: Team) -> dict[str, Any]:
    """The optimiser's state with unsharded tensors; all processes call this, and only rank 0's is complete."""
    state = optimizer.state_dict()
    if not team.shard:
        return state

    def whole(value: Any) -> Any:
        if not hasattr(value, "full_tensor"):
            return value
        tensor = _whole(cast("DTensor", value))
        return tensor.cpu() if team.leads else None  # one at a time on the device

    with collective(computing=True):
        state["state"] = {
            number: {name: whole(value) for name, value in entries.items()}
            for number, entries in state["state"].items()
        }
    return state


def load_whole_state(optimizer: Optimizer, state: dict[str, Any], team: Team) -> None:
    """Load what `whole_state` returned on rank 0 into the optimiser; every process has read it from the checkpoint."""
    if team.shard:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, entries in state["state"].items():
            for name, value in entries.items():
                if value.shape == parameters[number].shape:
                    entries[name] = _like(parameters[number], value)
    optimizer.load_state_dict(state)


def _whole(part: DTensor) -> Tensor:
    """The full tensor, in a storage of its own: of unequal parts torch gives a view of a longer one."""
    return part.full_tensor().clone()


def _like(part: DTensor, whole: Tensor) -> DTensor:
    """A tensor that every process has, sharded as `part` is; nothing is sent."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(whole, part.device_mesh, part.placements, src_data_rank=None)


def _split(module: nn.Module, team: Team) -> nn.Module:
    """Shard a module over the team, in place, its blocks one by one.

    Raises `ConfigError` for weights of several types, which one message cannot sum.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    types = {str(weight.dtype).removeprefix("torch.") for weight in module.parameters() if weight.requires_grad}
    if len(types) > 1:
        raise ConfigError(
            f"model.shard=true needs trained weights of one type, and these are {' and '.join(sorted(types))}: set "
            "model.dtype to one of them, or leave model.shard at false"
        )
    kinds = {kind for part in module.modules() for kind in getattr(part, "_no_split_modules", None) or ()}
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in lists for block in part if type(block).__name__ in kinds]
    with collective(computing=True):
        mesh = init_device_mesh(next(module.parameters()).device.type, (team.size,))
    for part in (*blocks, module):
        unit = fully_shard(part, mesh=mesh)
        # Sums, not means: every loss is divided by the weight of the whole batch.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    return module
