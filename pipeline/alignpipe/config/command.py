"""The command line that gives a run again, in the words its user would type."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from alignpipe.config.model import CommandLine

_CONFIG_FLAGS = ("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd")
"""Hydra's flags that say where configs come from; each takes a value."""
_OF_SWEEPS = ("hydra.sweep", "hydra/sweeper", "hydra.launcher", "hydra/launcher", "hydra.mode")


def command_of(hydra: HydraConf, words: Sequence[str]) -> CommandLine:
    """The command line behind a run or a job; `words` are those typed, for a job its sweep's, or none if not known."""
    overrides, cwd = overrides_of(hydra), Path(str(hydra.runtime.cwd)).absolute()
    if hydra.mode != RunMode.MULTIRUN:
        typed = tuple(words) or overrides
        return CommandLine(overrides, again=typed, alone=typed, cwd=cwd)
    folder = Path(os.path.abspath(cwd / str(hydra.sweep.dir)))  # `.` has no name
    return CommandLine(
        overrides,
        again=_sweep_again(words or ("-m", *overrides), folder),
        alone=_job_alone(words, overrides),
        cwd=cwd,
        sweep=folder.name,
        swept=swept(words, OmegaConf.select(hydra.sweeper, "params") or (), overrides),
    )


def overrides_of(hydra: HydraConf) -> tuple[str, ...]:
    """The overrides of a job as they were typed: `${...}` in them is not looked up, and Hydra's escapes are gone."""
    given = OmegaConf.to_container(OmegaConf.create(hydra.overrides.task), resolve=False)
    assert isinstance(given, list)
    return tuple(as_typed(str(override)) for override in given)


def _sweep_again(words: Sequence[str], folder: Path) -> tuple[str, ...]:
    """A sweep's command line with its folder, by default a new one each time: only there do its jobs go on."""
    kept = (word for word in words if _key(word) != "hydra.sweep.dir")
    return (*kept, _quoted("hydra.sweep.dir", str(folder)))


def _job_alone(words: Sequence[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """The command line that runs one job of a sweep by itself; `words` are the sweep's, `overrides` the job's."""
    return (*config_flags(words), *(word for word in words if _is_for_hydra(word)), *overrides)


def swept(words: Sequence[str], params: Collection[str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Those of a job's overrides in which its sweep's jobs differ; `params` are the keys of `hydra.sweeper.params`."""
    read = ((word, read_override(word)) for word in words)
    several = {_key(word) for word, override in read if override is not None and _has_several(override)}
    keys = several | {key.lstrip("+~") for key in params}
    return tuple(override for override in overrides if _key(override) in keys)


def _has_several(override: Override) -> bool:
    """Whether an override stands for several values; a choice among one does not (`cli/words.py`)."""
    value = override.value()
    return override.is_sweep_override() and not (isinstance(value, ChoiceSweep) and len(value.list) == 1)


def config_flags(words: Sequence[str]) -> Iterator[str]:
    """Of the words the flags that say where configs come from, with their values."""
    rest = iter(words)
    for word in rest:
        if word in _CONFIG_FLAGS:
            yield from (word, next(rest, ""))
        elif word.startswith("--config-"):  # --config-dir=here
            yield word


def _is_for_hydra(word: str) -> bool:
    """Whether an override sets something of Hydra's own that does not only concern sweeps."""
    key = _key(word)
    return key.startswith(("hydra.", "hydra/")) and not key.startswith(_OF_SWEEPS)


def _key(word: str) -> str:
    return word.lstrip("+~").partition("=")[0]


def _quoted(key: str, value: str) -> str:
    """An override with quotes that Hydra's grammar takes off again, if it needs them."""
    plain = read_override(f"{key}={value}")
    if plain is not None and plain.value() == value:
        return f"{key}={value}"
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def read_override(word: str) -> Override | None:
    """A word as Hydra's grammar reads it; None for one that is no override (a flag, or what needs quotes)."""
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:  # what a wrong character raises is no OverrideParseException
        return None


def as_typed(override: str) -> str:
    """An override of a sweep's job without the backslashes that Hydra puts in, as far as it means the same without."""
    plain = re.sub(r"\\([\\()\[\]{}:=, \t])", r"\1", override)
    return plain if plain == override or _meaning(plain) == _meaning(override) else override


def _meaning(override: str) -> tuple[str, str, object] | None:
    read = read_override(override)
    return None if read is None else (read.get_key_element(), str(read.type), read.value())
