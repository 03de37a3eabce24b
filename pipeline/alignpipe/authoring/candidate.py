"""A reward under test: made afresh as often as a check asks for it, trained first if it can be trained."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from alignpipe.api import Artifact, Reward, Sample, Scoring, Selected, TrainableReward
from alignpipe.api.rewards import Answer
from alignpipe.authoring import samples as built_in
from alignpipe.authoring.choosing import Bench, Chosen, builder
from alignpipe.dataset import write_dataset
from alignpipe.registry import registry
from alignpipe.rewarding.artifact import open_reward, save_reward
from alignpipe.rewarding.judge import Judge, Scored

_HELPERS = {"model": "tiny", "rollout": "local"}
"""What fills the other slots that a trained reward reads: options that need no download."""


class NotApplicable(Exception):
    """A check that has nothing to look at, and why."""


class Candidate:
    """A chosen reward with the samples it is tried on; `rows` are the pairs that a trained one learns from."""

    def __init__(
        self,
        chosen: Chosen,
        folder: Path,
        samples: Sequence[Sample] | None = None,
        rows: Sequence[dict[str, Any]] | None = None,
    ) -> None:
        self.chosen = chosen
        self.own_samples = samples is not None
        self._folder = folder
        self._samples = samples
        self._rows = rows

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the prompt row that it says it reads."""
        return tuple(getattr(self.chosen.build(), "columns", ()))

    @cached_property
    def samples(self) -> Sequence[Sample]:
        """The author's samples, or the built-in ones with the columns that it reads."""
        return built_in.usual(self.columns) if self._samples is None else self._samples

    @property
    def keeps(self) -> bool:
        """Whether it keeps something in its artifact."""
        reward = self.chosen.build()
        return callable(getattr(reward, "save", None)) and callable(getattr(reward, "load", None))

    @cached_property
    def trained(self) -> Reward | None:
        """The one that was trained, once; None if it needs no training.

        Raises `NotApplicable` if it needs more than pairs of answers.
        """
        reward = self.chosen.build()
        if not isinstance(reward, TrainableReward):
            return None
        component = self.chosen.registered.component
        ports = [name for name, port in component.needs.items() if port.required and port.kind != "dataset"]
        slots = [slot for slot in component.uses if slot not in _HELPERS]
        if ports or slots:
            raise NotApplicable(
                f"training it needs {' and '.join([*ports, *slots])}; train it in a run, then score with its artifact"
            )
        data = self._folder / "data"
        _write_data(data, built_in.rows() if self._rows is None else list(self._rows))
        filled = {slot: _default(slot, _HELPERS[slot]) for slot in component.uses}
        bench = Bench(self.chosen.settings, self._folder / "training", filled)
        reward.fit({"dataset": Artifact("dataset", "data", data, "check")}, bench)
        return reward

    def opened(self, reward: Reward, name: str) -> Reward:
        """`reward`, saved into an artifact and opened again."""
        folder = self._folder / name
        folder.mkdir(parents=True, exist_ok=True)
        registered = self.chosen.registered
        owner = f"{registered.distribution} {registered.version}"
        save_reward(folder, reward, self.chosen.selected, registered.component.version, owner)
        return open_reward(folder, builder(self.chosen.settings))

    def fresh(self) -> Reward:
        """A new one that can score: built from its options, or opened from what training gave.

        Raises `NotApplicable` as `trained` does.
        """
        return self.chosen.build() if self.trained is None else self.opened(self.trained, "artifact")

    def answer(self, reward: Reward, samples: Sequence[Sample]) -> Answer:
        """What it answers, unchecked, awaited if it is `async`."""
        given = reward.score(samples)
        if not inspect.isawaitable(given):
            return given

        async def awaited() -> Answer:
            return await given

        return asyncio.run(awaited())

    def ask(self, reward: Reward, samples: Sequence[Sample]) -> Scored:
        """Its scores, with everything that goes wrong as a failure.

        Raises `RewardError` if no sample gets a score.
        """
        scoring = Scoring(deadline=self.chosen.settings.scoring.deadline, retries=0, failure_budget=0.9999)
        return Judge(reward, self.chosen.label, scoring).score(samples)


def _default(slot: str, option: str) -> Selected:
    return Selected(slot, option, registry().get(slot, option).component.config())


def _write_data(folder: Path, rows: list[dict[str, Any]]) -> None:
    """A dataset of pairs, with the demonstrations and prompts that come of them."""
    asked = [{"prompt": row["prompt"], "messages": row["messages"]} for row in rows]
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
