"""Checkpoints of a training loop: everything needed to go on, complete or absent.

    <work>/checkpoints/step-00000040/{<module>.safetensors, state.pt}

Every random stream is a function of seed, purpose and step, so a step number stands for all of them. `state.pt` is read
with `weights_only=True`. Of several processes rank 0 writes; what it writes says nothing of how many there were, nor
of whether they had split the weights among them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torch.optim import Optimizer

from alignpipe.syncing import sync, sync_tree
from alignpipe.training.parallel import Team
from alignpipe.training.sharding import load_whole_state, whole_state

_PREFIX = "step-"
_FULL_BELOW = 1 << 20
"""Bytes left on a disk that is called full: the last block of a file may not fit, though some are free."""


class Checkpoints:
    """Writes and reads the checkpoints of one stage; only the newest is kept.

    All processes of `team` call every method; rank 0 writes, and says which checkpoint is the newest. Before one
    counts, what else lies in `work` is on the disk, since it may refer to that, and so is the log (`sync_log`).
    """

    def __init__(self, work: Path, team: Team, sync_log: Callable[[], None] = lambda: None) -> None:
        self._folder = work / "checkpoints"
        self._team = team
        self._sync_log = sync_log

    def latest(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._team.from_leader(latest_step(self._folder.parent))

    def save(
        self, step: int, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer], extra: Mapping[str, Any]
    ) -> None:
        """Write one checkpoint and drop older ones; `extra` holds plain numbers, strings, lists and tensors."""
        states = {name: whole_state(optimizer, self._team) for name, optimizer in optimizers.items()}
        if not self._team.leads:
            return
        target = self._folder / f"{_PREFIX}{step:08d}"
        draft = self._folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        for name, module in modules.items():
            save_model(module, str(draft / f"{name}.safetensors"))
        _save({"optimizers": states, "extra": dict(extra)}, draft / "state.pt")
        sync_tree(draft)
        sync_tree(self._folder.parent, but=self._folder)
        self._sync_log()
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
        sync(self._folder)
        for old in self._folder.glob(f"{_PREFIX}*"):
            if old != target:
                shutil.rmtree(old)

    def load(self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, Optimizer]) -> tuple[int, dict[str, Any]]:
        """Restore the newest checkpoint in place; returns its step and `extra`, 0 and {} if there is none."""
        step = self.latest()
        if step is None:
            return 0, {}
        folder = self._folder / f"{_PREFIX}{step:08d}"
        for name, module in modules.items():
            load_model(module, str(folder / f"{name}.safetensors"))
        # Onto the CPU first: a process has a device of its own, which need not be the one that wrote.
        state = torch.load(folder / "state.pt", weights_only=True, map_location="cpu")
        for name, optimizer in optimizers.items():
            load_whole_state(optimizer, state["optimizers"][name], self._team)
        return step, state["extra"]


def latest_step(work: Path) -> int | None:
    """The step a stage would resume at, from its work folder; None if it would start anew."""
    steps = [int(path.name.removeprefix(_PREFIX)) for path in (work / "checkpoints").glob(f"{_PREFIX}*")]
    return max(steps, default=None)


def _save(state: Mapping[str, Any], path: Path) -> None:
    """Write with torch, whose writer does not say that the disk is full: it raises `basic_ios::clear: iostream error`.

    Raises `OSError` for a full disk.
    """
    try:
        torch.save(state, path)
    except RuntimeError as error:
        if shutil.disk_usage(path.parent).free < _FULL_BELOW:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
        raise
