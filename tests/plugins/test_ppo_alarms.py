"""Alarms: when each is raised, that it is raised once, and what a training does with it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from alignpipe.errors import TrainingError
from alignpipe.rewarding.judge import Judge
from alignpipe.training.checkpoint import latest_step
from alignpipe_plugins.ppo import loop
from alignpipe_plugins.ppo.alarms import PATIENCE, Alarm, Watch
from alignpipe_plugins.ppo.config import OnAlarm
from support import ppo

SOUND = {
    "objective/kl": 1.0,
    "policy/entropy_avg": 2.0,
    "response_length/mean": 20.0,
    "val/sampling_z": 0.5,
    "val/missing_eos_frac": 0.2,
    "val/missing_eos_gain": -1.5,
}


def raised(watch: Watch, figure: str, values: Sequence[float]) -> list[int]:
    """The 1-based updates that raise an alarm while `figure` takes `values` and the others stay sound."""
    alarms = [watch.look({**SOUND, figure: value}) for value in values]
    return [update for update, found in enumerate(alarms, 1) if found]


@pytest.mark.parametrize(
    ("figure", "good", "bad", "title"),
    [
        ("objective/kl", -0.09, -0.11, "negative KL"),
        ("policy/entropy_avg", 0.061, 0.059, "entropy collapse"),
        ("response_length/mean", 5.1, 4.9, "length collapse"),
        ("val/sampling_z", 4.9, 5.1, "sampler and policy differ"),
        ("val/sampling_z", -4.9, -5.1, "sampler and policy differ"),
        ("val/missing_eos_frac", 0.99, 1.0, "no answer ends"),
        ("val/missing_eos_gain", -0.1, 0.1, "not ending pays"),
    ],
)
def test_each_figure_has_its_bound(figure: str, good: float, bad: float, title: str) -> None:
    first = SOUND[figure]
    assert raised(Watch(), figure, [first, *[good] * 20]) == []
    watch = Watch()
    assert raised(watch, figure, [first, *[bad] * (PATIENCE - 1)]) == []
    (alarm,) = watch.look({**SOUND, figure: bad})
    assert alarm.title == title
    assert f"now {bad:.3g}" in alarm.text
    assert watch.on == 1


def test_a_figure_that_is_not_defined_says_neither_good_nor_bad() -> None:
    """When no response ends any more there is nothing to compare with, and the trouble is not over."""
    watch = Watch()
    assert raised(watch, "val/missing_eos_gain", [0.1] * (PATIENCE - 1)) == []
    rest = {name: value for name, value in SOUND.items() if name != "val/missing_eos_gain"}
    assert watch.look(rest) == []
    assert raised(watch, "val/missing_eos_gain", [0.1]) == [1]


def test_a_single_good_update_begins_the_count_anew() -> None:
    assert raised(Watch(), "objective/kl", [-1, -1, -1, -1, 0, -1, -1, -1, -1, 0]) == []


def test_an_alarm_is_raised_once_and_again_only_after_the_trouble_was_over() -> None:
    bad, good = [-1.0] * PATIENCE, [0.0] * PATIENCE
    assert raised(Watch(), "objective/kl", bad * 4) == [5]
    assert raised(Watch(), "objective/kl", [*bad, *good[1:], *bad, *bad]) == [5]
    watch = Watch()
    assert raised(watch, "objective/kl", [*bad, *good, *bad]) == [5, 15]
    assert raised(watch, "objective/kl", good) == []
    assert watch.on == 0


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_figure_that_is_not_finite_is_told_at_once(value: float) -> None:
    watch = Watch()
    (alarm,) = watch.look({**SOUND, "val/ratio_var": value})
    assert alarm.title == "figures that are not finite"
    assert f"val/ratio_var ({value})" in alarm.text
    assert watch.look({**SOUND, "val/ratio_var": value}) == []
    assert watch.look(SOUND) == []
    assert len(watch.look({**SOUND, "other": value})) == 1


def test_what_it_remembers_can_be_handed_on_at_any_time() -> None:
    values = [-1, -1, 0, *[-1] * 6, *[0] * 7, *[-1] * 5]
    whole = raised(Watch(), "objective/kl", values)
    assert whole == [8, 21]
    for split in range(len(values)):
        first, second = Watch(), Watch()
        told = raised(first, "objective/kl", values[:split])
        second.restore(first.state())
        told += [split + update for update in raised(second, "objective/kl", values[split:])]
        assert told == whole


def test_uneasy_from_the_first_bad_update_to_the_last() -> None:
    watch = Watch()
    seen = []
    for value in [0, -1, 0, *[-1] * PATIENCE, *[0] * PATIENCE]:
        watch.look({**SOUND, "objective/kl": value})
        seen.append(watch.uneasy)
    assert seen == [False, True, False, *[True] * PATIENCE, *[True] * (PATIENCE - 1), False]


def falling(monkeypatch: pytest.MonkeyPatch, since: int, **figures: float) -> None:
    """From the 1-based update `since` of a training on, the figures of every update are these."""
    real = loop.update_metrics

    def update_metrics(*arguments: Any) -> dict[str, float]:
        made = real(*arguments)
        updates.append(made)
        return {**made, **figures} if len(updates) >= since else made

    updates: list[dict[str, float]] = []
    monkeypatch.setattr(loop, "update_metrics", update_metrics)


def test_a_training_warns_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    falling(monkeypatch, 2, **{"objective/kl": -3.0})
    _, ctx, _ = ppo.train(tmp_path, max_steps=8, epochs=1)
    ((title, text, level),) = ctx.alerts
    assert (title, level) == ("negative KL", "warn")
    assert text.startswith("update 6: the KL to the reference was below -0.1")
    assert ctx.series("alarms") == [0, 0, 0, 0, 0, 1, 1, 1]


def test_a_training_stops_and_leaves_the_checkpoint_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"max_steps": 8, "epochs": 1, "save_every": 1}
    with monkeypatch.context() as patched:
        falling(patched, 3, **{"objective/kl": -3.0})
        with pytest.raises(
            TrainingError, match=r"ppo\.on_alarm=stop: update 7 raised an alarm, negative KL: the KL to"
        ):
            ppo.train(tmp_path, on_alarm=OnAlarm.stop, **options)
    assert latest_step(tmp_path / "work") == 2
    with monkeypatch.context() as patched:
        falling(patched, 1, **{"objective/kl": -3.0})
        with pytest.raises(TrainingError, match="update 7"):  # the same command comes to the same point
            ppo.train(tmp_path, on_alarm=OnAlarm.stop, **options)
    with monkeypatch.context() as patched:
        falling(patched, 1, **{"objective/kl": -3.0})
        _, ctx, _ = ppo.train(tmp_path, **options)
    assert ctx.said[0] == "resumed at update 2 of 8"
    assert [step for step, _ in ctx.logged] == [3, 4, 5, 6, 7, 8]
    assert len(ctx.alerts) == 1


def test_a_trouble_that_passes_only_delays_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = []
    real = loop.Progress.save

    def save(progress: Any, done: int) -> None:
        saved.append(done)
        real(progress, done)

    def look(watch: Watch, figures: Any) -> list[Alarm]:
        watch._streaks["negative KL"] = int(figures["episode"] / 16 in (2, 3))
        return []

    monkeypatch.setattr(loop.Progress, "save", save)
    monkeypatch.setattr(Watch, "look", look)
    ppo.train(tmp_path / "stop", max_steps=5, epochs=1, save_every=1, on_alarm=OnAlarm.stop)
    assert saved == [1, 4, 5]
    saved.clear()
    ppo.train(tmp_path / "warn", max_steps=5, epochs=1, save_every=1)
    assert saved == [1, 2, 3, 4, 5]


def test_alarms_resume_as_if_nothing_had_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        falling(patched, 2, **{"objective/kl": -3.0})
        _, whole, _ = ppo.train(tmp_path / "whole", max_steps=8, epochs=1)
    with monkeypatch.context() as patched:
        falling(patched, 2, **{"objective/kl": -3.0})
        _, first, _ = ppo.train(tmp_path / "parts", max_steps=8, epochs=1, stop_after=3)
    with monkeypatch.context() as patched:
        falling(patched, 1, **{"objective/kl": -3.0})
        _, second, _ = ppo.train(tmp_path / "parts", max_steps=8, epochs=1)
    assert first.alerts + second.alerts == whole.alerts
    assert first.series("alarms") + second.series("alarms") == whole.series("alarms")


def test_weights_that_are_not_finite_are_never_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(optimizer: torch.optim.AdamW) -> None:
        with torch.no_grad():
            optimizer.param_groups[0]["params"][0][0, 0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    options: dict[str, Any] = {"epochs": 1, "minibatches": 1, "save_every": 1}
    with pytest.raises(TrainingError, match="the policy's weights are not finite after update 1; lower its learning"):
        ppo.train(tmp_path / "saved", **options)
    assert latest_step(tmp_path / "saved" / "work") is None
    with pytest.raises(TrainingError, match="weights are not finite after update 1"):
        ppo.train(tmp_path / "result", **{**options, "max_steps": 1, "save_every": 100})


def test_a_gradient_that_is_not_finite_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    players = ppo.make_players()
    real = ppo.Counting().score

    class Poisoned:
        def score(self, samples: Any) -> Any:
            calls.append(1)
            if len(calls) > 2:
                with torch.no_grad():
                    players.network.get_input_embeddings().weight[:, 0] = math.nan
            return real(samples)

    calls: list[int] = []
    poisoned = ppo.replace(players, judge=Judge(Poisoned(), "poisoned"))
    with pytest.raises(TrainingError, match="gradient of the LlamaForCausalLM is not finite"):
        ppo.train(tmp_path, poisoned, save_every=1, epochs=1)
    assert latest_step(tmp_path / "work") == 2
