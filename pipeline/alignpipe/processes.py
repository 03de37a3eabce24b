"""Which of a run's processes this one is, from the environment variables of torchrun or `accelerate launch`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One process among those of a launch; rank 0 leads the run, the others help it in the stages that train."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank on this machine: the number of its GPU."""
    local_world_size: int = 1

    @property
    def follows(self) -> bool:
        """Whether another process leads the run."""
        return self.rank > 0

    def __str__(self) -> str:
        return f"process {self.rank} of {self.world_size}"


ALONE = Process()
"""A process launched by itself."""


SIZE_TO_COME = "ALIGNPIPE_PROCESSES"
"""The variable that says how many processes a run will have that starts the others itself, before it has done so."""


def launch_size(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes the run has, or will have when a stage needs them."""
    return max(this_process(environ).world_size, _number(environ, SIZE_TO_COME, 1))


def this_process(environ: Mapping[str, str] = os.environ) -> Process:
    """Which process this is."""
    size = _number(environ, "WORLD_SIZE", 1)
    if size <= 1 or "RANK" not in environ:
        return ALONE
    rank = _number(environ, "RANK", 0)
    return Process(rank, size, _number(environ, "LOCAL_RANK", rank), _number(environ, "LOCAL_WORLD_SIZE", size))


def _number(environ: Mapping[str, str], name: str, default: int) -> int:
    """A launcher's variable; one that is no number belongs to something else."""
    value = environ.get(name, "")
    return int(value) if value.isdigit() else default
