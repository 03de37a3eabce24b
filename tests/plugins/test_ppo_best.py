"""The best weights: kept when better, never lost to a crash between two checkpoints."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from alignpipe.training.parallel import ALONE, Team
from alignpipe_plugins.ppo.best import Best


def layer(value: float) -> torch.nn.Linear:
    made = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(made.weight, value)
    return made


def restored(best: Best) -> float:
    made = layer(0.0)
    best.restore(made)
    return made.weight.item()


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "best").iterdir())


def test_the_best_is_kept(tmp_path: Path) -> None:
    best = Best(tmp_path, ALONE)
    for step, value in enumerate((0.1, 0.5, 0.5, float("nan"), -1.0), start=1):
        best.offer(value, step, layer(float(step)))
    assert (best.value, best.step) == (0.5, 2)
    assert restored(best) == 2.0
    best.saved()
    assert files(tmp_path) == ["step-00000002.safetensors"]
    assert restored(best) == 2.0


def test_what_is_not_finite_is_never_the_best(tmp_path: Path) -> None:
    best = Best(tmp_path, ALONE)
    for step, value in enumerate((float("nan"), float("inf"), -3.0), start=1):
        best.offer(value, step, layer(float(step)))
    assert (best.value, best.step) == (-3.0, 3)


def test_nothing_was_offered(tmp_path: Path) -> None:
    best = Best(tmp_path, ALONE)
    best.saved()
    with pytest.raises(ValueError, match="nothing was offered"):
        best.restore(layer(0.0))


def test_a_killed_run_finds_the_weights_its_checkpoint_means(tmp_path: Path) -> None:
    best = Best(tmp_path, ALONE)
    best.offer(0.1, 1, layer(1.0))
    best.saved()  # a checkpoint: value 0.1, step 1
    best.offer(0.2, 2, layer(2.0))  # and then killed
    resumed = Best(tmp_path, ALONE)
    resumed.resume(0.1, 1)
    assert restored(resumed) == 1.0
    resumed.saved()
    assert files(tmp_path) == ["step-00000001.safetensors"]


def test_beaten_weights_go_at_once_but_those_that_a_checkpoint_means(tmp_path: Path) -> None:
    """Each is a whole policy, and `save_every` may be long."""
    best = Best(tmp_path, ALONE)
    for step in (1, 2, 3):
        best.offer(step / 10, step, layer(float(step)))
    assert files(tmp_path) == ["step-00000003.safetensors"]
    best.saved()
    for step in (4, 5):
        best.offer(step / 10, step, layer(float(step)))
    assert files(tmp_path) == ["step-00000003.safetensors", "step-00000005.safetensors"]
    resumed = Best(tmp_path, ALONE)
    resumed.resume(0.3, 3)
    resumed.offer(0.4, 4, layer(4.0))
    assert files(tmp_path) == ["step-00000003.safetensors", "step-00000004.safetensors"]
    assert restored(resumed) == 4.0


def test_of_several_processes_one_has_the_file_and_all_know_of_it(tmp_path: Path) -> None:
    helper, network = Best(tmp_path, Team(1, 2)), layer(1.0)
    helper.offer(0.1, 1, network)
    assert (helper.value, helper.step) == (0.1, 1)
    assert not (tmp_path / "best").exists()
    Best(tmp_path, Team(0, 2)).offer(0.1, 1, layer(3.0))
    helper.offer(0.2, 2, network)
    helper.saved()
    helper.restore(network)
    assert files(tmp_path) == ["step-00000001.safetensors"]
    assert network.weight.item() == 1.0, "its weights are nobody's result"
