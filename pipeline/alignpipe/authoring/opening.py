"""The reward that a word on the command line names: an option, a stored artifact, or the folder of one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignpipe.api import TrainableReward
from alignpipe.authoring.reward_choice import choose, chosen_settings
from alignpipe.errors import ConfigError, RewardError
from alignpipe.paths import user_path
from alignpipe.registry import registry
from alignpipe.rewarding.artifact import open_stored
from alignpipe.rewarding.judge import Judge
from alignpipe.runner.context import Builder
from alignpipe.store import Store

_STORE = "store:"


def open_named(name: str, overrides: Sequence[str]) -> Judge:
    """The reward `name` with overrides as on the command line of a run.

    `store:<digest>` and the folder of a reward artifact bring their options with them; anything else is an option.

    Raises `ConfigError` for what is not there, `RewardError` for an option that has to be trained first.
    """
    if any(text.startswith("reward=") for text in overrides):
        raise ConfigError("name the reward with --reward; overrides set its keys: reward.<key>=<value>")
    folder = _folder(name, overrides)
    if folder is None:
        chosen = choose(name, overrides)
        reward = chosen.build()
        if isinstance(reward, TrainableReward):
            raise RewardError(
                f"{chosen.label} must be trained before it scores: run 'alignpipe reward={name} "
                "stages=[data,sft,reward]', then give --reward store:<digest> ('alignpipe store ls' lists the digests)"
            )
        return Judge(reward, chosen.label, chosen.settings.scoring)
    given = [text for text in overrides if text.lstrip("+~").startswith("reward.")]
    if given:
        raise ConfigError(f"{' '.join(given)}: a stored reward ({name}) has its options already; leave this out")
    settings = chosen_settings(overrides)
    return open_stored(folder, Builder(registry(), settings), settings.scoring)


def _folder(name: str, overrides: Sequence[str]) -> Path | None:
    """The folder of a reward artifact; None if an option is meant."""
    if name.startswith(_STORE):
        digest = name.removeprefix(_STORE)
        root = Path(chosen_settings(overrides).outputs).absolute() / "store"
        artifacts = Store(root).find(digest) if digest else []
        found = {artifact.digest: artifact.folder for artifact in artifacts if artifact.kind == "reward"}
        if len(found) != 1:
            told = "several rewards begin so" if found else "there is no such reward"
            raise ConfigError(
                f"--reward {name}: {told} in {root}; 'alignpipe store ls' lists the digests, outputs=<folder> names "
                "another store"
            )
        return next(iter(found.values()))  # what has the same digest, from two stages, is the same
    path = user_path(name)
    if path.is_dir() and ("/" in name or (path / "reward.json").is_file()):
        inside = path / "payload"  # of an object's folder in the store
        return inside if (inside / "reward.json").is_file() else path
    if "/" in name:
        raise ConfigError(f"--reward {name}: there is no such folder; name an option, store:<digest>, or the folder")
    return None
