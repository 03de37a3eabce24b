"""Stages: what runs, and the context it is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from alignpipe.api.artifacts import Artifact
from alignpipe.api.components import Selected
from alignpipe.api.scoring import Scoring
from alignpipe.api.tracking import Level


class BuildContext(Protocol):
    """What a factory may use beside its own config."""

    seed: int
    """The run's seed."""

    @property
    def device(self) -> str:
        """A torch device string: `cpu`, `cuda`, `cuda:1`."""
        ...

    @property
    def lanes(self) -> int | None:
        """How many threads may compute parts of a batch side by side on a CPU; None if the user leaves it open."""
        ...

    def build(self, selected: Selected) -> Any:
        """Build another component (a nested reward, the model source ...); configs may be mappings, as in artifacts."""
        ...


class CheckContext(BuildContext, Protocol):
    """What a stage is given to look ahead."""

    stage: str
    """The stage's name in the run (`ppo`, `ppo_2` ...)."""
    slots: Mapping[str, Selected]
    """The slots that `uses` names (`rollout` ...), and `model` if the base model feeds a port."""


class StageContext(CheckContext, Protocol):
    """What a stage is given while it runs."""

    payload: Path
    """The folder to fill: it becomes the artifact when `run` returns, and is empty at the start of every attempt."""
    work: Path
    """A folder that outlives a killed attempt (`state/` of the key's work folder): checkpoints belong here."""
    slots: Mapping[str, Selected]
    """As in `CheckContext`, and each reward that the stage is given, by its stage."""
    scoring: Scoring
    """How the run asks its rewards."""
    rank: int
    """This process's number among those that run the stage together; rank 0 alone writes to `payload` and `work`."""
    world_size: int
    """How many processes run the stage together: 1, unless its component is `parallel`."""

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record deterministic metrics at `step`, by default the step last logged (0 if none was).

        Names are given without the stage's prefix (`objective/kl`).
        """
        ...

    def log_timings(self, timings: Mapping[str, float], step: int) -> None:
        """Record machine-dependent figures (`time/generate`, `perf/tokens_per_second`) at `step`."""
        ...

    def sync_log(self) -> None:
        """Force what was logged to the disk: called before a checkpoint counts, since nothing before it comes again."""
        ...

    def rewind(self, step: int) -> None:
        """Forget what was logged after `step`: called once when a stage resumes from its checkpoint of `step`.

        A stage that does not call it has begun anew, and is not reported as resumed: what an earlier attempt logged is
        dropped at its first `log`.
        """
        ...

    def progress(self, done: int, total: int, figures: Mapping[str, float] | None = None, unit: str = "step") -> None:
        """Show how far the stage is, with the figures people watch."""
        ...

    def say(self, message: str) -> None:
        """Tell the user one line, above the progress bar."""
        ...

    def alert(self, title: str, text: str, level: Level = "warn") -> None:
        """Call for attention: one line on the terminal, and an alert in the trackers that can give one.

        The title is given without the stage's name. With `error` the line is left out: the stage is about to raise what
        will be shown.
        """
        ...

    def stop_requested(self) -> bool:
        """Whether to save and raise :class:`~alignpipe.errors.StageInterrupted` at the next step boundary."""
        ...


class Stage(Protocol):
    """A step of the pipeline: reads artifacts, fills `ctx.payload`."""

    def run(self, inputs: Mapping[str, Artifact], ctx: StageContext) -> None:
        """Do the stage's work; ports that are empty are missing from `inputs`."""
        ...


@runtime_checkable
class CheckedStage(Stage, Protocol):
    """A stage that can say what it could not work with before an earlier stage works for hours."""

    def check_ahead(self, inputs: Mapping[str, Artifact], ctx: CheckContext) -> None:
        """Raise, as `run` would, what its options and `inputs` show to be wrong.

        It is called before each earlier stage works, once its datasets are all there, and not where it has none. In
        place of a policy that is still to be trained there is the one that its maker's port `policy` is fed with:
        training changes neither tokens nor context. A reward that is not there yet is missing. Digests of checkpoint
        folders are not known.
        """
        ...
