"""The run's configuration as the rest of alignpipe sees it: typed and complete."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from alignpipe.api import Scoring, Selected


class CodeChange(Enum):
    """What to do when a cached stage's code is not the code installed now."""

    auto = "auto"
    """`rerun` for an editable install, `warn` for a released one."""
    warn = "warn"
    rerun = "rerun"
    ignore = "ignore"


class Kernels(Enum):
    """What computes a Llama-type model's small operations on a CPU, between the matrix products."""

    auto = "auto"
    """C that is compiled on the machine, where there is a compiler; else as `torch`."""
    torch = "torch"


@dataclass
class RunSettings:
    """The top-level keys of the config that are not slots: one default each, here."""

    seed: int = field(default=0, metadata={"help": "seeds every random stream of the run"})
    stages: list[str] = field(
        default_factory=lambda: ["data", "sft", "reward", "ppo", "eval"],
        metadata={"help": "the stages to run, in order; leave some out, or add instances such as ppo_2"},
    )
    inputs: dict[str, dict[str, str]] = field(
        default_factory=dict,
        metadata={"help": "inputs.<stage>.<port>: a stage's name, base, none, store:<digest> or a checkpoint folder"},
    )
    outputs: str = field(default="outputs", metadata={"help": "folder of the runs and of the stage store"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda or cuda:<n>"})
    threads: int | None = field(
        default=None, metadata={"help": "torch threads of a process; unset: torch's own choice, shared by processes"}
    )
    processes: int = field(
        default=1,
        metadata={
            "help": "processes that train sft, reward and ppo together on this machine, each with its GPU or cores"
        },
    )
    lanes: int | None = field(
        default=None,
        metadata={"help": "parts of a batch computed side by side on a CPU; unset: 2, or 1 where threads=1"},
    )
    kernels: Kernels = field(
        default=Kernels.auto,
        metadata={"help": "small operations on a CPU: auto (compiled by the C compiler, if there is one) or torch"},
    )
    scoring: Scoring = field(
        default_factory=Scoring, metadata={"help": "how rewards are asked: deadline, retries, failure_budget"}
    )
    code_change: CodeChange = field(
        default=CodeChange.auto, metadata={"help": "cached stage, changed code: warn, rerun, ignore, or auto"}
    )
    objective: list[str] = field(
        default_factory=list,
        metadata={"help": "final metrics by which a sweeper that searches (Optuna) judges a job: [eval/gold/mean]"},
    )


@dataclass(frozen=True)
class CommandLine:
    """The command line behind a run, in the words that its user would type."""

    overrides: tuple[str, ...] = ()  # those of this run
    again: tuple[str, ...] = ()  # the whole line that repeats what was typed: of a sweep, all its jobs
    alone: tuple[str, ...] = ()  # the whole line that repeats this run only
    cwd: Path = Path()  # the folder in which it was given
    sweep: str | None = None  # for a job of a sweep, the name of the sweep's folder ...
    swept: tuple[str, ...] = ()  # ... and those of its overrides in which the jobs differ


@dataclass(frozen=True)
class RunConfig:
    """The configuration of one run, which may be a job of a sweep."""

    settings: RunSettings
    selected: Mapping[str, Selected]  # the choice of every slot (`model`) and of every further stage (`ppo_2`)
    trackers: Mapping[str, Selected]  # by name (`wandb`)
    resolved: Mapping[str, Any]  # the whole composed config as plain data
    outputs: Path  # absolute, as is the next
    folder: Path
    command: CommandLine = CommandLine()
