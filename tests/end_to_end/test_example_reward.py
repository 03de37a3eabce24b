"""plugins/example-reward as a stranger's package: installed by pip, checked, tested by its own tests, and used."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from support.commands import alignpipe, run, statuses, succeed, summaries
from support.distributions import ROOT, write_distribution

EXAMPLE = ROOT / "plugins" / "example-reward"
BROKEN = {"broken": "broken_one"}
CLASH = """
    from alignpipe.rewards import reward
    @reward("rules")
    def score(samples):
        "Takes a name that is taken."
        return [0.0 for _ in samples]
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-compile"]
    succeed(run([*pip, "--target", str(folder), str(EXAMPLE)], folder))
    return folder


def test_its_own_tests_pass(site: Path, tmp_path: Path) -> None:
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(EXAMPLE)]
    done = succeed(run(tests, tmp_path, PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1"))
    assert " passed" in done.stdout


def test_a_sweep_over_it_and_another_with_eval(site: Path, tmp_path: Path) -> None:
    command = ["-m", "experiment=smoke", "stages=[data,sft,reward,eval]", "reward=example_reward,support_gold"]
    succeed(alignpipe(tmp_path, *command, PYTHONPATH=str(site)))
    found = sorted(tmp_path.glob("outputs/sweeps/*/*/summary.json"))
    metrics = [json.loads(path.read_text())["metrics"] for path in found]
    assert len(metrics) == 2
    assert "eval/reward/part/word" in metrics[0]
    assert "eval/reward/part/word" not in metrics[1]
    listed = succeed(alignpipe(tmp_path, "--help", PYTHONPATH=str(site))).stdout
    assert "example_reward" in listed


def test_broken_and_clashing_plugins_harm_nobody_else(site: Path, tmp_path: Path) -> None:
    beside = tmp_path / "beside"
    write_distribution(beside, "broken-reward", "1.0", BROKEN, {"broken_one.py": "import not_there_at_all\n"})
    write_distribution(beside, "clash-reward", "1.0", {"clash": "clash_one:score"}, {"clash_one.py": CLASH})
    path = f"{site}:{beside}"
    command = ["experiment=smoke", "stages=[data,reward]", "reward=example_reward"]
    done = succeed(alignpipe(tmp_path, *command, PYTHONPATH=path))
    assert statuses(summaries(tmp_path)[0]) == {"data": "ran", "reward": "ran"}
    (line,) = [line for line in done.stderr.splitlines() if "warning" in line]
    assert "plugin 'broken' of broken-reward 1.0 is broken and left out: ModuleNotFoundError" in line
    refused = alignpipe(tmp_path, "plan", "reward=rules", PYTHONPATH=path)
    assert refused.returncode == 1
    assert "reward=rules is offered by alignpipe" in refused.stderr
    assert "ALIGNPIPE_BLOCK_PLUGINS=clash-reward" in refused.stderr
