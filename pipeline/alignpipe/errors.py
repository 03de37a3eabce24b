"""Every error a user can cause, as one tree; the command line prints these as one message, without a traceback."""

from __future__ import annotations


class AlignpipeError(Exception):
    """Base of the errors that are shown to the user as a sentence: what, where it came from, what to do."""


class ConfigError(AlignpipeError):
    """A config value, key, option or stage list that cannot be run."""


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
