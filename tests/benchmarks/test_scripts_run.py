"""The scripts that need no TRL, and what judges TRL's policies, run against the product: options get renamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
HERE = Path(__file__).parent
FEW = ["--rounds", "1", "--updates", "1", "--work"]


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The scripts import each other as siblings, as they do when they are run."""
    monkeypatch.syspath_prepend(str(HERE))


def test_a_foreign_checkpoint_is_judged(tmp_path):
    from engines import prepare
    from time_to_quality import judge
    from workloads import SIZES, Recipe

    recipe, size = Recipe(sft_steps=1, reward_steps=1), SIZES["tiny"]
    paths = prepare(tmp_path, "tiny", size, recipe, [])
    base = [*size.overrides(), *recipe.overrides()]

    for reward in ([], [f"store:{Path(paths['reward']).parent.name}"]):
        metrics = judge(tmp_path, paths, recipe, base, paths["base"], paths["sft"], *reward)

        assert metrics["eval/gold/mean"] < 0.2  # a model that has learnt nothing
        assert metrics["eval/kl"] > 0  # the sft model is a step away from the base
        assert ("eval/reward/mean" in metrics) == bool(reward)


def test_phases(tmp_path, capsys):
    import phases

    phases.main([*FEW, str(tmp_path), "--sizes", "tiny", "--train-steps", "1"])

    told = capsys.readouterr().out
    assert "| tiny | default |" in told


def test_compiled_kernels(capsys):
    import compiled_kernels

    before = torch.get_num_threads()
    compiled_kernels.main(["--rounds", "1", "--widths", "8"])
    torch.set_num_threads(before)

    told = capsys.readouterr().out
    assert "| 2 | 8 | 128 |" in told
    assert "| 384 | 8 |" in told


def test_scaling(tmp_path, capsys):
    import scaling

    scaling.main([*FEW, str(tmp_path), "--factors", "response", "--smallest"])

    told = capsys.readouterr().out
    assert "| 16 |" in told
    assert "| 48 |" in told
