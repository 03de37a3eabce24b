"""Options of reward=stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from alignpipe.digests import folder_digest
from alignpipe.errors import ConfigError
from alignpipe.paths import user_path


@dataclass(frozen=True)
class StoredConfig:
    """Which reward."""

    # Where the folder lies is not in the stage key: `revision` says what it holds.
    path: str = field(
        default="???",
        metadata={
            "help": "the folder of a stored reward: outputs/store/objects/reward/<digest>, relative to where the "
            "command is given",
            "fingerprint": False,
        },
    )

    def folder(self) -> Path:
        """The folder with `reward.json`: the one that is named, or the payload in that of a stored object.

        Raises `ConfigError` for a folder that holds no reward.
        """
        named = user_path(self.path).absolute()
        found = next((folder for folder in (named, named / "payload") if (folder / "reward.json").is_file()), None)
        if found is None:
            told = "it holds no reward.json" if named.is_dir() else "there is no such folder"
            raise ConfigError(
                f"reward.path={self.path}: {told}; 'alignpipe store ls' lists the stored rewards, which lie in "
                "<outputs>/store/objects/reward"
            )
        return found

    def revision(self) -> Mapping[str, str]:
        """What the folder holds, for the stage key.

        Raises `ConfigError` as `folder` does.
        """
        return {"reward": folder_digest(self.folder())}
