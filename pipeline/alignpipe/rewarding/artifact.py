"""The reward artifact: which reward it is, with its options, and what a trained one saved.

<payload>/reward.json            {"name", "version", "config"}
<payload>/...                    what `save` of a trainable reward wrote
"""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from alignpipe.api import BuildContext, Reward, Selected, TrainableReward
from alignpipe.errors import RewardError

_FILE = "reward.json"


def save_reward(folder: Path, reward: Reward, selected: Selected, version: int) -> None:
    """Write the reward's identity, and its state if it is a trained one."""
    if isinstance(reward, TrainableReward):
        reward.save(folder)
    record = {"name": selected.name, "version": version, "config": plain(selected.config)}
    (folder / _FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def reward_name(folder: Path) -> str:
    """The option name of a saved reward.

    Raises `RewardError` if the folder is no reward artifact.
    """
    return str(_record(folder)["name"])


def open_reward(folder: Path, context: BuildContext) -> Reward:
    """Build the reward a folder holds, its trained state loaded."""
    record = _record(folder)
    reward: Reward = context.build(Selected("reward", record["name"], record["config"]))
    if isinstance(reward, TrainableReward):
        reward.load(folder)
    return reward


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _FILE
    if not path.is_file():
        raise RewardError(f"{folder} is no reward artifact: it has no {_FILE}")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def plain(value: Any) -> Any:
    """A config as plain data: dataclasses become dicts, enums their names."""
    if isinstance(value, Selected):
        return {"group": value.group, "name": value.name, "config": plain(value.config)}
    if is_dataclass(value) and not isinstance(value, type):
        return {key: plain(item) for key, item in asdict(value).items()}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value
