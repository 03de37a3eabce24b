"""The options of `data=files`; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class OnMalformed(Enum):
    """What to do with a row that cannot be read."""

    error = "error"
    skip = "skip"


class OnUnusable(Enum):
    """What to do with a row that can be read, but must not be trained on."""

    drop = "drop"
    error = "error"


def _source(text: str) -> dict[str, Any]:
    # The path is not in the stage key: `revision` puts what the files hold there, so a moved file is still a cache hit.
    return {"help": f"{text}; a file, a glob, hub:owner/name[:split], or a list of those", "fingerprint": False}


def _help(text: str) -> dict[str, Any]:
    return {"help": text}


@dataclass(frozen=True)
class FilesConfig:
    """Where the rows come from, what their columns are called, and how they are cleaned and split."""

    demonstrations: Any = field(
        default=None,
        metadata=_source("prompts with the answer to imitate (unset: chosen answers of the preferences)"),
    )
    preferences: Any = field(
        default=None, metadata=_source("prompts with a better and a worse answer (unset: no preferences)")
    )
    prompts: Any = field(
        default=None,
        metadata=_source("prompts to practise on (unset: those of the preferences or demonstrations)"),
    )
    heldout_demonstrations: Any = field(
        default=None,
        metadata=_source("held-out demonstrations (unset: derived like the others, or a share of them)"),
    )
    heldout_preferences: Any = field(
        default=None, metadata=_source("held-out preferences (unset: a share of the preferences)")
    )
    heldout_prompts: Any = field(
        default=None, metadata=_source("held-out prompts (unset: derived like the others, or a share of them)")
    )
    columns: dict[str, str] = field(
        default_factory=dict, metadata=_help("your names of our columns, as {prompt: question, completion: answer}")
    )
    drop_columns: list[str] = field(
        default_factory=list, metadata=_help("columns to leave out; all other extra columns reach the rewards")
    )
    hub_subset: str | None = field(default=None, metadata=_help("hub data sets: the name of the subset"))
    hub_split: str = field(
        default="train", metadata=_help("hub data sets: the split, where the source does not end in :split")
    )
    hub_revision: str | None = field(
        default=None, metadata=_help("hub data sets: commit, tag or branch; pin a commit, or a new version goes unseen")
    )
    heldout_share: float = field(
        default=0.1, metadata=_help("share of the prompts held out where there is no held-out file; 0: none")
    )
    heldout_max: int | None = field(
        default=500, metadata=_help("most prompts of a table that are held out by share; null: any number")
    )
    split_seed: int = field(
        default=0,
        metadata=_help("chooses the held-out share; it is not seed, so all seeds are judged alike"),
    )
    max_prompt_tokens: int | None = field(
        default=512, metadata=_help("rows with a longer prompt are unusable; null: prompts are not counted")
    )
    deduplicate: bool = field(
        default=True, metadata=_help("keep only the first of the rows with the same prompt and answers")
    )
    malformed: OnMalformed = field(
        default=OnMalformed.error,
        metadata=_help("rows that cannot be read: error lists them, skip counts them"),
    )
    unusable: OnUnusable = field(
        default=OnUnusable.drop,
        metadata=_help("rows that cannot be trained on: drop counts them, error lists them"),
    )
    leakage: OnUnusable = field(
        default=OnUnusable.drop,
        metadata=_help("training rows with a held-out prompt: drop counts them, error lists them"),
    )

    def revision(self) -> Mapping[str, str]:
        """What the data is, for the stage key: size and sha256 of every local file, name and revision of a hub one.

        Raises `ConfigError` for a key that cannot be right and `DataError` for a file that is not there.
        """
        from alignpipe_plugins.files.sources import find_sources

        return {
            f"{key}[{number}]": source.revision()
            for key, sources in find_sources(self).items()
            for number, source in enumerate(sources)
        }
