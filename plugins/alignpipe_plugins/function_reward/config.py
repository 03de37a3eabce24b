"""Options of reward=function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from alignpipe.functions import Form


@dataclass(frozen=True)
class FunctionConfig:
    """Which function scores, and what else it is given."""

    # Where the file lies is not in the stage key: `revision` says which function it is and what the file holds.
    path: str = field(
        default="???",
        metadata={"help": "file.py:function, relative to where the command is given", "fingerprint": False},
    )
    options: dict[str, Any] = field(
        default_factory=dict, metadata={"help": "further keyword arguments of the function, as {word: thanks}"}
    )
    form: Form = field(
        default=Form.auto,
        metadata={"help": "TRL's signature: prompts and completions as messages, as text, or as the data has them"},
    )

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError("path is empty; give file.py:function")

    def revision(self) -> Mapping[str, str]:
        """Which function it is and what its file holds, for the stage key.

        Raises `ConfigError` for a file or a function that is not there.
        """
        from alignpipe.python_files import find_function

        return find_function(self.path, "reward.path").revision()
