"""The stored reward: opened when it is first asked, and kept whole in the artifact of whatever it is a part of."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Sequence
from pathlib import Path

from alignpipe.api import BuildContext, Reward, Sample, Scoring
from alignpipe.api.rewards import Answer
from alignpipe.errors import RewardError
from alignpipe.rewarding.artifact import open_stored
from alignpipe.rewards import Columns
from alignpipe_plugins.stored.config import StoredConfig

_KEPT = "reward"


class StoredReward:
    """Asks the reward of a folder; `load` takes the copy that an artifact holds, so the folder may be gone by then."""

    def __init__(self, config: StoredConfig, context: BuildContext) -> None:
        self._config = config
        self._context = context
        self._folder: Path | None = None
        self._reward: Reward | None = None

    @property
    def columns(self) -> Columns:
        """The columns of the prompt row that it reads."""
        columns: Columns = getattr(self._opened(), "columns", ())
        return columns

    def score(self, samples: Sequence[Sample]) -> Answer | Awaitable[Answer]:
        """What it says."""
        return self._opened().score(samples)

    def save(self, folder: Path) -> None:
        """Copy it."""
        shutil.copytree(self._source(), folder / _KEPT, copy_function=shutil.copyfile)

    def load(self, folder: Path) -> None:
        """Take the copy.

        Raises `RewardError` if there is none.
        """
        if not (folder / _KEPT).is_dir():
            raise RewardError(f"{folder} holds no stored reward: it has no folder {_KEPT}")
        self._folder, self._reward = folder / _KEPT, None

    def _source(self) -> Path:
        self._folder = self._folder or self._config.folder()
        return self._folder

    def _opened(self) -> Reward:
        if self._reward is None:
            self._reward = open_stored(self._source(), self._context, Scoring()).reward
        return self._reward


def build(config: StoredConfig, context: BuildContext) -> StoredReward:
    """The component's factory."""
    return StoredReward(config, context)
