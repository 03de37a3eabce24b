"""A reward under test: made afresh as often as a check asks for it, trained first if it can be trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, Reward, Sample, Scoring, Selected, TrainableReward
from alignpipe.authoring import samples as built_in
from alignpipe.authoring.reward_choice import Chosen
from alignpipe.choices import all_selected
from alignpipe.config.model import RunSettings
from alignpipe.dataset import write_dataset
from alignpipe.registry import registry
from alignpipe.rewarding.artifact import open_stored, save_reward
from alignpipe.rewarding.judge import Judge, Scored
from alignpipe.runner.context import Builder, SilentStage

_HELPERS = {"model": "tiny", "rollout": "local"}
"""What fills the other slots that a trained reward reads: options that need no download."""
_PATIENCE = 30.0
"""Seconds a batch may take where `scoring.deadline` is not given: whoever tries a reward out sits before it."""

Say = Callable[[str], None]


class NotTried(Exception):
    """Why a check cannot be made here."""


class Candidate:
    """A chosen reward with the samples it is tried on; `rows` are the pairs that a trained one learns from.

    `say` is told what takes long. A reward that gives no answer in time is not asked again, and one that could not be
    built or trained is not built again: whoever comes first learns the cause, the others `NotTried`.
    """

    def __init__(
        self,
        chosen: Chosen,
        folder: Path,
        samples: Sequence[Sample] | None = None,
        rows: Sequence[dict[str, Any]] | None = None,
        say: Say | None = None,
    ) -> None:
        self.chosen = chosen
        self.own_samples = samples is not None
        self._folder = folder
        self._samples = samples
        self._rows = rows
        self._say = say or (lambda line: None)
        self._first: Scored | None = None
        self._nothing_came = False
        self.told: dict[str, str] = {}
        """What was found wrong so far -> the check that said it."""
        self._silent = False
        given = any(text.lstrip("+").startswith("scoring.deadline=") for text in chosen.overrides)
        deadline = chosen.settings.scoring.deadline if given else _PATIENCE
        self.scoring = replace(chosen.settings.scoring, deadline=deadline, retries=0)

    @cached_property
    def columns(self) -> Mapping[str, Any]:
        """The columns of the prompt row that it says it reads, with an example of each where it gives one."""
        declared = getattr(self.chosen.build(), "columns", ())
        return declared if isinstance(declared, Mapping) else dict.fromkeys(declared)

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """The author's samples, or the built-in ones with the columns that it reads."""
        return built_in.usual(self.columns) if self._samples is None else self._samples

    @cached_property
    def reward(self) -> Reward:
        """The one that most checks ask."""
        return self.fresh()

    def first(self) -> Scored:
        """What `reward` says of the samples when it is first asked.

        Raises what building, training and asking it raise when it is called first, and `NotTried` from then on, also
        if no sample got a score.
        """
        if self._nothing_came:
            raise NotTried("no scores")
        if self._first is None:
            self._nothing_came = True
            self._first = self.ask(self.reward, self.samples)
            self._nothing_came = not self._first.kept
        return self._first

    @cached_property
    def trained(self) -> Reward | None:
        """The one that was trained, once; None if it needs no training.

        Raises `NotTried` if it needs more than pairs of answers.
        """
        reward = self.chosen.build()
        if not isinstance(reward, TrainableReward):
            return None
        # A reward made of others trains them, and so needs what they need.
        components = [registry().get(one.group, one.name).component for one in all_selected(self.chosen.selected)]
        ports = [
            name
            for component in components
            for name, port in component.needs.items()
            if port.required and port.kind != "dataset"
        ]
        uses = [slot for component in components for slot in component.uses]
        unknown = [slot for slot in uses if slot not in _HELPERS]
        if ports or unknown:
            raise NotTried(
                f"training it needs {' and '.join([*ports, *unknown])}; train it in a run, then score with its artifact"
            )
        data = self._folder / "data"
        rows = built_in.rows(self.columns) if self._rows is None else list(self._rows)
        _write_data(data, rows)
        slots = {slot: _default(slot) for slot in uses}
        context = _Training(self.chosen.settings, self._folder / "training", slots, self.scoring, self._say)
        self._say(f"training it on {len(rows)} pairs ...")
        reward.fit({"dataset": Artifact("dataset", "data", data, "check")}, context)
        return reward

    def opened(self, reward: Reward) -> Reward:
        """`reward`, saved into an artifact of its own and opened again."""
        return self._open(self._saved(reward, "again"))

    @cached_property
    def _artifact(self) -> Path | None:
        """Where the trained one is saved, once; None if it needs no training."""
        return None if self.trained is None else self._saved(self.trained, "artifact")

    def _saved(self, reward: Reward, name: str) -> Path:
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        registered = self.chosen.registered
        save_reward(folder, reward, self.chosen.selected, registered.component.version, registered.provider)
        return folder

    def _open(self, folder: Path) -> Reward:
        settings = self.chosen.settings
        return open_stored(folder, Builder(registry(), settings), settings.scoring).reward

    def fresh(self) -> Reward:
        """A new one that can score: built from its options, or opened from what training gave.

        Raises `NotTried` as `trained` does.
        """
        return self.chosen.build() if self._artifact is None else self._open(self._artifact)

    def ask(self, reward: Reward, samples: Sequence[Sample]) -> Scored:
        """Its scores, with everything that goes wrong as a failure; asked once, within the deadline.

        Raises `NotTried` once it has given no answer at all in time.
        """
        if self._silent:
            raise NotTried("not asked any more, since it gave no answer in time")
        scored = Judge(reward, self.chosen.label, self.scoring).score_all(samples)
        self._silent = scored.failure_counts() == {"timeout": len(samples)}
        return scored


class _Training(SilentStage):
    """A stage context for a reward that is trained outside of a run; what it logs is dropped."""

    def __init__(
        self, settings: RunSettings, folder: Path, slots: Mapping[str, Selected], scoring: Scoring, say: Say
    ) -> None:
        super().__init__(registry(), settings)
        self.stage = "reward"
        self.payload, self.work = folder / "payload", folder / "work"
        for path in (self.payload, self.work):
            path.mkdir(parents=True, exist_ok=True)
        self.slots = slots
        self.scoring = scoring
        self.say = say
        self.rank, self.world_size = 0, 1

    def stop_requested(self) -> bool:
        """It goes on to the end."""
        return False


def _default(slot: str) -> Selected:
    option = _HELPERS[slot]
    return Selected(slot, option, registry().get(slot, option).component.config())


def _write_data(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A dataset of pairs, with the demonstrations and prompts that come of them."""
    asked = [{name: value for name, value in row.items() if name not in ("chosen", "rejected")} for row in rows]
    shown = [{**prompt, "completion": row["chosen"]} for prompt, row in zip(asked, rows, strict=True)]
    half = max(1, len(rows) // 2)
    folder.mkdir(parents=True, exist_ok=True)
    write_dataset(
        folder,
        {
            "demonstrations": {"train": shown, "heldout": shown[:half]},
            "preferences": {"train": rows, "heldout": rows[:half]},
            "prompts": {"train": asked, "heldout": asked[:half]},
        },
    )
