"""The reward artifact: which reward it is, with its options, and what a trained one saved.

<payload>/reward.json            {"name", "version", "offered_by", "config"[, "revisions"]}
<payload>/...                    what `save` of a reward that has one wrote

What cannot change a score (`fingerprint` False: workers, the folder of a cache ...) is taken from the run that opens
the reward, where that has the same reward; an artifact that is opened by itself has only what `config` says.

`revisions` says in which state the files were that the config names (`revision()` of the config dataclass, of nested
rewards too): without it another state of them would give the same bytes, and whatever follows would count as a hit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, BuildContext, Reward, Scoring, Selected, StageContext
from alignpipe.api.rewards import Kept
from alignpipe.choices import all_selected, is_keyed, plain, revision_of
from alignpipe.dataset import Dataset
from alignpipe.errors import RewardError
from alignpipe.rewarding.judge import Judge

_FILE = "reward.json"


def save_reward(folder: Path, reward: Reward, selected: Selected, version: int, offered_by: str) -> None:
    """Write the reward's identity, and what it keeps (`save`).

    `version` is the component's, `offered_by` the distribution with its version.
    """
    if isinstance(reward, Kept):
        reward.save(folder)
    config = plain(selected.config)
    record = {"name": selected.name, "version": version, "offered_by": offered_by, "config": config}
    revisions = [revision for choice in all_selected(selected) if (revision := revision_of(choice.config))]
    if revisions:
        record["revisions"] = revisions
    (folder / _FILE).write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")


def open_judge(artifact: Artifact, ctx: StageContext) -> Judge:
    """The reward of an artifact, as stages ask it."""
    return open_stored(artifact.folder, ctx, ctx.scoring, ctx.slots.get(artifact.stage))


def open_gold(data: Dataset, ctx: StageContext) -> Judge | None:
    """The reward that knows the truth about the data, if the data names one."""
    if data.gold is None:
        return None
    gold = ctx.build(Selected("reward", data.gold.name, dict(data.gold.config)))
    return Judge(gold, f"the data's gold reward {data.gold.name}", ctx.scoring)


def components_in(artifact: Artifact) -> list[tuple[str, str]]:
    """(group, name) of what scores by an artifact: a reward and what is nested in it, or a dataset's gold reward.

    Raises `RewardError` if the folder is no reward artifact, `DataError` if it is no dataset.
    """
    if artifact.kind == "dataset":
        gold = Dataset(artifact.folder).gold
        return [] if gold is None else [("reward", gold.name), *_nested(dict(gold.config))]
    record = _record(artifact.folder)
    return [("reward", record["name"]), *_nested(record["config"])]


def _nested(config: Any) -> list[tuple[str, str]]:
    """(group, name) of the choices in a stored config."""
    if isinstance(config, Mapping):
        own = [(str(config["group"]), str(config["name"]))] if config.keys() == {"group", "name", "config"} else []
        return [*own, *(found for item in config.values() for found in _nested(item))]
    return [found for item in config for found in _nested(item)] if isinstance(config, list) else []


def label(name: str, offered_by: str) -> str:
    """How messages name a reward."""
    return f"reward {name} ({offered_by})"


def open_stored(folder: Path, context: BuildContext, scoring: Scoring, chosen: Selected | None = None) -> Judge:
    """Build the reward a folder holds, what it kept loaded.

    `chosen` is what the run at hand has in that reward's place: from it come the options that cannot change a score.

    Raises `RewardError` if the folder is no reward artifact.
    """
    record = _record(folder)
    config = record["config"]
    if chosen is not None and chosen.name == record["name"]:
        config = _with_unkeyed(config, chosen.config)
    reward: Reward = context.build(Selected("reward", record["name"], config))
    if isinstance(reward, Kept):
        reward.load(folder)
    return Judge(reward, label(record["name"], record["offered_by"]), scoring)


def _record(folder: Path) -> dict[str, Any]:
    path = folder / _FILE
    if not path.is_file():
        raise RewardError(f"{folder} is no reward artifact: it has no {_FILE}")
    record: dict[str, Any] = json.loads(path.read_text())
    return record


def _with_unkeyed(stored: Any, chosen: Any) -> Any:
    """A stored config with the unkeyed fields of the one chosen now, wherever the two are built alike."""
    if isinstance(chosen, Selected):
        same = isinstance(stored, Mapping) and stored.get("name") == chosen.name
        return {**stored, "config": _with_unkeyed(stored["config"], chosen.config)} if same else stored
    if is_dataclass(chosen) and not isinstance(chosen, type) and isinstance(stored, Mapping):
        unkeyed = {entry.name: plain(getattr(chosen, entry.name)) for entry in fields(chosen) if not is_keyed(entry)}
        kept = {name: _with_unkeyed(item, getattr(chosen, name, None)) for name, item in stored.items()}
        return {**kept, **unkeyed}
    if isinstance(chosen, Mapping) and isinstance(stored, Mapping):
        return {name: _with_unkeyed(item, chosen.get(name)) for name, item in stored.items()}
    if isinstance(chosen, list | tuple) and isinstance(stored, list) and len(chosen) == len(stored):
        return [_with_unkeyed(item, other) for item, other in zip(stored, chosen, strict=True)]
    return stored
