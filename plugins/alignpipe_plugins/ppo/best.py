"""The best policy of a training, by held-out reward minus the KL penalty."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_model, save_model
from torch import nn


class Best:
    """The best weights so far, kept in a file of the work folder."""

    def __init__(self, work: Path) -> None:
        self._path = work / "best.safetensors"
        self.value: float | None = None
        self.step: int | None = None

    def offer(self, value: float, step: int, network: nn.Module) -> None:
        """Keep the network's weights if `value` beats the best; a step offered again (after a resume) is kept anew."""
        if self.value is None or value > self.value or step == self.step:
            draft = self._path.with_suffix(".draft")
            save_model(network, str(draft))
            draft.replace(self._path)
            self.value, self.step = value, step

    def restore(self, network: nn.Module) -> None:
        """Load the kept weights."""
        load_model(network, str(self._path))
