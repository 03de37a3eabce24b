"""The benchmarks' own arithmetic against hand numbers, and that every script tells its options."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = ("phases", "against_trl", "time_to_quality", "same_start", "scaling", "learning")


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    """The scripts import each other as siblings, as they do when they are run."""
    monkeypatch.syspath_prepend(str(HERE))


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_shown_at_once(script):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(HERE / f"{script}.py"), "--help"], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "--work" in done.stdout
    assert not [line for line in done.stderr.splitlines() if line.split("|")[-1].strip() in ("torch", "transformers")]


def test_the_operations_of_a_small_llama_by_hand():
    from flops import Shape, forward_flops, ppo_flops

    shape = Shape(hidden=2, layers=1, intermediate=3, vocabulary=5)
    # weights: attention 4 * 2 * 2 = 16, feed-forward 3 * 2 * 3 = 18, embedding 5 * 2 = 10, norms (2 + 1) * 2 = 6
    assert shape.block_weights == 34
    assert shape.parameters == 50
    # two tokens: 2 * 34 * 2 = 136; pairs 1 + 2 = 3, each 2 * 2 for the score and 2 * 2 for the sum: 24; head 2 * 10
    assert forward_flops(shape, [2], outputs=1) == 136 + 24 + 20
    # one episode of 1 + 1 tokens: generation 180, policy and reference 360, value and reward 320, training 3 * 340
    assert ppo_flops(shape, prompt=1, response=1, episodes=1, epochs=1) == 180 + 360 + 320 + 1020


def test_the_sizes_have_the_parameters_of_the_reference_point():
    from workloads import SIZES

    assert SIZES["tiny"].shape(615).parameters / 1e6 == pytest.approx(1.13, abs=0.005)
    assert SIZES["small"].shape(615).parameters / 1e6 == pytest.approx(10.9, abs=0.05)


def test_a_table_and_its_medians_and_ratios():
    from figures import median_of, ratio, spread, table

    assert table(["a", "b", "c"], [["x", 0.12345, None], ["y", 1234.5, 7]]).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| x | 0.123 | - |",
        "| y | 1234 | 7 |",
    ]
    assert median_of([{"s": 3.0}, {"s": 1.0}, {"s": 2.5}], "s") == 2.5
    assert median_of([{"s": 3.0}, {}], "s") is None
    assert ratio(3.0, 2.0) == "x1.50"
    assert ratio(None, 2.0) == "-"
    assert spread([2.0, 1.0, 1.5]) == "x1.50 (1.00 to 2.00)"


def test_a_level_is_reached_between_two_points_or_never():
    from figures import at_level

    assert at_level([0, 2, 4], [10, 20, 40], 3) == 30
    assert at_level([1, 3, 2, 5], [1, 2, 3, 4], 2.5) == 1.75  # the first time, though it falls again
    assert at_level([5, 6], [1, 2], 3) == 1
    assert at_level([0, 1], [1, 2], 3) is None


def test_the_cost_of_an_update_leaves_out_measuring_and_what_comes_after():
    from figures import cost_at

    # 20 s: 5 before, three steps of 4 s, 3 s of evaluations
    assert cost_at(20, [4, 4, 4], apart=3, done=1) == 9
    assert cost_at(20, [4, 4, 4], apart=3, done=3) == 17


def test_results_are_kept_until_what_is_measured_changes(tmp_path):
    from running import once

    calls = []

    def measure():
        calls.append(1)
        return {"seconds": len(calls)}

    assert once(tmp_path, "a", {"overrides": ["x=1"]}, measure) == {"seconds": 1}
    assert once(tmp_path, "a", {"overrides": ["x=1"]}, measure) == {"seconds": 1}
    assert once(tmp_path, "a", {"overrides": ["x=2"]}, measure) == {"seconds": 2}


def test_variants_are_names_with_overrides():
    from running import variants

    assert variants([]) == {"default": []}
    assert variants(["float32=", "bf16=a.b=c d=1"]) == {"float32": [], "bf16": ["a.b=c", "d=1"]}


def test_a_command_that_fails_ends_the_script_with_its_last_words(tmp_path):
    from running import process

    with pytest.raises(SystemExit, match=r"status 3; the end of .*log:\nno luck"):
        process([sys.executable, "-c", "print('no luck'); raise SystemExit(3)"], tmp_path / "log")
