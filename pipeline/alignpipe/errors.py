"""Every error a user can cause, as one tree; the command line prints these as one message, without a traceback.

Also two helpers for messages: a suggestion for a misspelt name, the first line of another error.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class AlignpipeError(Exception):
    """Base of the errors that are shown to the user as a sentence: what, where it came from, what to do."""


class ConfigError(AlignpipeError):
    """A config value, key, option or stage list that cannot be run."""


class FolderInUse(ConfigError):
    """The run's folder is another run's, which would be written over."""


class PluginError(AlignpipeError):
    """A plugin that is broken, ambiguous, missing, or written for another API version."""


class DataError(AlignpipeError):
    """The user's data cannot be read or holds nothing usable."""


class ModelError(AlignpipeError):
    """A model, tokenizer or checkpoint folder that cannot be loaded or does not fit the data."""


class TrainingError(AlignpipeError):
    """Training cannot go on: a start check failed, or a loss or a weight is not finite."""


class RewardError(AlignpipeError):
    """A reward returned something that is not one finite number per sample."""


class StoreError(AlignpipeError):
    """The stage store cannot be read, written or locked."""


class ProcessError(AlignpipeError):
    """Another process of the same run has ended, or cannot be reached."""


class StageInterrupted(AlignpipeError):
    """The user or the scheduler asked for a stop; the stage saved its state and can be resumed."""


INTERRUPTIONS = (StageInterrupted, KeyboardInterrupt)
"""What ends a run that has not failed; the second comes of a second signal, for which a stage saves nothing."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """`" (did you mean 'x'?)"` for the name nearest to a misspelt one, or nothing if none is near."""
    near = get_close_matches(word, list(names), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text that is not blank; the error's type if there is none."""
    lines = (line.strip() for line in str(error).splitlines())
    return next(filter(None, lines), type(error).__name__)
