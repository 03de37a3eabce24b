"""What is known of a policy before it is made: its tokenizer, and whether prompts leave room for its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alignpipe.api import Artifact
from alignpipe.errors import DataError
from alignpipe.training.models import ModelSource, config_context_length, load_config, load_tokenizer
from alignpipe.training.tokens import encode_prompts

_LONGEST = 1000
"""So many prompts, those with most characters, are encoded: that takes a second, whatever the data."""


def known_tokenizer(source: ModelSource, origin: Artifact | None) -> PreTrainedTokenizerBase | None:
    """The tokenizer of a policy that comes from `origin`; None if it is still to be trained.

    `origin` is None or the artifact `base` where that is the base model.
    """
    folder = _checkpoint(origin)
    if folder is not None:
        return load_tokenizer(folder)
    return None if source.trains_tokenizer else source.tokenizer(())


def check_room(
    source: ModelSource, origin: Artifact | None, rows: Sequence[Mapping[str, Any]], room: int, key: str
) -> None:
    """Refuse prompts that leave less than `room` tokens, set at `key`, of the context of a policy from `origin`.

    Before a tokenizer is trained only a `room` that no prompt could leave is seen.

    Raises `DataError` as `encode_prompts` does.
    """
    folder = _checkpoint(origin)
    context = source.context_length() if folder is None else config_context_length(load_config(folder))
    if context is not None and room >= context:
        raise DataError(f"{key}={room} leaves no room for a prompt in the model's {context} tokens; lower {key}")
    tokenizer = known_tokenizer(source, origin)
    if tokenizer is not None:
        longest = sorted(rows, key=lambda row: len(row["prompt"]), reverse=True)[:_LONGEST]
        encode_prompts(tokenizer, longest, room, context, key)


def _checkpoint(origin: Artifact | None) -> Path | None:
    return None if origin is None or origin.stage == "base" else origin.folder
