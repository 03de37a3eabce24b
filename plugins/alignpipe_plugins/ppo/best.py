"""The best policy of a training, by held-out reward minus the KL penalty."""

from __future__ import annotations

import math
from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn

from alignpipe.training.parallel import Team


class Best:
    """The best weights so far, kept in the work folder, one file per step.

    A checkpoint remembers `value` and `step` only, so the file it means must stay until the next checkpoint is there
    (`saved`), beside that of the best so far. Of the processes of `team` rank 0 has the files; all know value and step.
    """

    def __init__(self, work: Path, team: Team) -> None:
        self._folder = work / "best"
        self._leads = team.leads
        self.value: float | None = None
        self.step: int | None = None
        self._saved: int | None = None
        """The step that the newest checkpoint remembers."""

    def resume(self, value: float | None, step: int | None) -> None:
        """Take up what a checkpoint remembers."""
        self.value, self.step = value, step
        self._saved = step

    def saved(self) -> None:
        """A checkpoint remembers `value` and `step`, and none any others."""
        self._saved = self.step
        self._drop_others()

    def offer(self, value: float, step: int, network: nn.Module) -> None:
        """Keep the network's weights if `value` beats the best; a value that is not finite never does."""
        if not math.isfinite(value) or (self.value is not None and value <= self.value):
            return
        if self._leads:
            self._folder.mkdir(exist_ok=True)
            draft = self._folder / "draft"
            save_model(network, str(draft))
            draft.replace(self._file(step))
        self.value, self.step = value, step
        self._drop_others()

    def restore(self, network: nn.Module) -> None:
        """Load the kept weights, on rank 0; raises `ValueError` if none were kept."""
        if self.step is None:
            raise ValueError("no weights were kept: nothing was offered")
        if self._leads:
            load_model(network, str(self._file(self.step)))

    def _drop_others(self) -> None:
        """Delete the weights that have been beaten and that no checkpoint means."""
        if not self._leads:
            return
        wanted = [self._file(step) for step in (self.step, self._saved) if step is not None]
        for path in self._folder.glob("step-*"):
            if path not in wanted:
                path.unlink()

    def _file(self, step: int) -> Path:
        return self._folder / f"step-{step:08d}.safetensors"
