"""The function as a reward: loaded when it is first asked, and kept in the artifact with its file."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Awaitable, Sequence
from pathlib import Path
from typing import Any

from alignpipe.api import BuildContext, Reward, Sample
from alignpipe.api.rewards import Answer
from alignpipe.errors import AlignpipeError, RewardError
from alignpipe.functions import FunctionReward
from alignpipe.python_files import Located, find_function, name_in, split
from alignpipe.rewards import Columns, RewardPlugin
from alignpipe_plugins.function_reward.config import FunctionConfig

_FILE = "function.py"
_KEY = "reward.path"


class FileReward:
    """Asks the function; `load` takes it from an artifact, so that a file edited since changes nothing.

    Raises `ConfigError` for a path that leads to no function, `RewardError` for one that cannot be used.
    """

    def __init__(self, config: FunctionConfig, context: BuildContext) -> None:
        self._config = config
        self._context = context
        self._located: Located | None = None
        self._reward: Reward | None = None

    @property
    def columns(self) -> Columns:
        """The columns of the prompts that the function cannot do without."""
        columns: Columns = getattr(self._ready(), "columns", ())
        return columns

    def score(self, samples: Sequence[Sample]) -> Answer | Awaitable[Answer]:
        """What the function says."""
        return self._ready().score(samples)

    def save(self, folder: Path) -> None:
        """Keep the file."""
        self._ready()
        assert self._located is not None
        (folder / _FILE).write_bytes(self._located.source)

    def load(self, folder: Path) -> None:
        """Take the file that was kept."""
        file = folder / _FILE
        if not file.is_file():
            raise RewardError(f"{folder} holds no function reward: it has no {_FILE}")
        source = file.read_bytes()
        _, wanted = split(self._config.path)
        self._located = Located(file, name_in(source, f"{_KEY}={self._config.path}", wanted), source)
        self._reward = None

    def _ready(self) -> Reward:
        if self._reward is None:
            self._located = self._located or find_function(self._config.path, _KEY)
            self._reward = self._made(_import(self._located, self._config.path))
        return self._reward

    def _made(self, function: Any) -> Reward:
        """The reward that a function, or what `@reward` made of one, stands for."""
        at = f"{_KEY}={self._config.path}"
        options = {str(name): value for name, value in self._config.options.items()}
        if isinstance(function, RewardPlugin):
            try:
                return function(function.component.config(**options), self._context)
            except (TypeError, ValueError) as error:
                raise RewardError(f"{at}: reward.options cannot be used: {error}") from error
        if not callable(function):
            raise RewardError(f"{at}: that is a {type(function).__name__}, no function")
        try:
            return FunctionReward(function, options, self._config.form)
        except (TypeError, ValueError) as error:
            raise RewardError(f"{at}: the function cannot be used: {error}") from error


def _import(located: Located, path: str) -> Any:
    """Run the file as a module of its own and take the function out of it.

    The file's folder goes to the end of `sys.path` meanwhile, so that it may import its neighbours.
    """
    name = f"alignpipe_function_{located.revision()['sha256'][:16]}"
    spec = importlib.util.spec_from_file_location(name, located.file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up
    folder = str(located.file.parent)
    sys.path.append(folder)
    try:
        # Not `exec_module`: it would leave a __pycache__ beside the user's file, or in the store.
        exec(compile(located.source, str(located.file), "exec"), module.__dict__)
    except AlignpipeError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        line = next((frame.lineno for frame in reversed(frames) if frame.filename == str(located.file)), None)
        at = f"{_KEY}={path}: running the file failed{f' in line {line}' if line else ''}"
        raise RewardError(f"{at}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(folder)
    if not hasattr(module, located.function):
        raise RewardError(f"{_KEY}={path}: after running the file there is no {located.function!r} in it")
    return getattr(module, located.function)


def build(config: FunctionConfig, context: BuildContext) -> FileReward:
    """The component's factory."""
    return FileReward(config, context)
