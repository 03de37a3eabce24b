"""Declares `tracker=[wandb]`; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from alignpipe.api import Component, hookimpl
from alignpipe.options import check_at_least, check_positive


class Mode(Enum):
    """Whether the run goes to a W&B server."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass(frozen=True)
class WandbConfig:
    """How a run appears in W&B; what is unset here is taken from the environment, then from the run."""

    mode: Mode | None = field(
        default=None, metadata={"help": "offline, online or disabled; unset: WANDB_MODE, else offline"}
    )
    project: str | None = field(default=None, metadata={"help": "unset: WANDB_PROJECT, else alignpipe"})
    entity: str | None = field(default=None, metadata={"help": "user or team; unset: WANDB_ENTITY, else your default"})
    group: str | None = field(default=None, metadata={"help": "unset: WANDB_RUN_GROUP, else the sweep"})
    run_name: str | None = field(default=None, metadata={"help": "unset: WANDB_NAME, else the overrides of the job"})
    notes: str | None = field(default=None, metadata={"help": "free text; unset: WANDB_NOTES"})
    tags: list[str] = field(default_factory=list, metadata={"help": "empty: WANDB_TAGS"})
    samples: int = field(
        default=0,
        metadata={"help": "rows of an evaluation's samples.jsonl that are sent as a table, texts and all; 0: none"},
    )
    init_timeout: float | None = field(
        default=None, metadata={"help": "seconds to wait for the server at first; unset: WANDB_INIT_TIMEOUT, else 90"}
    )
    finish_timeout: float | None = field(
        default=None, metadata={"help": "seconds to wait for it at the end; unset: WANDB_FINISH_TIMEOUT, else 60"}
    )

    def __post_init__(self) -> None:
        check_at_least(self, 0, "samples")
        check_positive(self, *(name for name in ("init_timeout", "finish_timeout") if getattr(self, name) is not None))


@hookimpl
def alignpipe_components() -> Iterable[Component]:
    """Offer the tracker."""
    yield Component(
        "tracker",
        "wandb",
        WandbConfig,
        "alignpipe_plugins.tracker_wandb.tracker:WandbTracker",
        "Weights & Biases: one run a job, offline unless asked for",
    )
