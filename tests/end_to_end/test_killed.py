"""Killed with -9 at many moments of sft, reward and ppo: the last attempt ends as a run that nobody touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.commands import alignpipe, start, statuses, succeed, summaries, wait_until

COMMAND = (
    "experiment=smoke",
    "tracker=[]",
    "stages=[data,sft,reward,ppo]",
    "threads=1",
    "lanes=2",
    "sft.max_steps=60",
    "sft.save_every=7",
    "sft.log_every=1",
    "reward.max_steps=40",
    "reward.save_every=8",
    "reward.log_every=1",
    "ppo.max_steps=8",
    "ppo.save_every=2",
    "ppo.eval_every=1",
    "ppo.select=best",
)
MOMENTS = [("sft", 1), ("sft", 30), ("reward", 1), ("reward", 20), ("reward", 40), ("ppo", 1), ("ppo", 4), ("ppo", 7)]
"""Stage, and how many lines of metrics it has logged when the process is killed: before the first checkpoint too, and
at the last step, of which reward has a checkpoint and more to log."""


def lines(folder: Path, stage: str) -> int:
    """What an unfinished stage has logged so far."""
    files = folder.glob(f"outputs/store/work/{stage}-*/**/metrics.jsonl")
    try:
        return sum(path.read_bytes().count(b"\n") for path in files)
    except FileNotFoundError:  # a new attempt is emptying the folder that is being listed: to be asked again
        return 0


def metrics(folder: Path) -> bytes:
    """metrics.jsonl of the newest run."""
    return max(folder.glob("outputs/runs/*/metrics.jsonl")).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    succeed(alignpipe(folder, *COMMAND))
    return folder


@pytest.mark.slow
def test_the_last_attempt_is_the_run_that_nobody_touched(undisturbed: Path, tmp_path: Path) -> None:
    for stage, logged in MOMENTS:
        process = start(tmp_path, *COMMAND)
        wait_until(lambda stage=stage, logged=logged: lines(tmp_path, stage) >= logged, process)
        process.kill()
        process.communicate()
    succeed(alignpipe(tmp_path, *COMMAND))
    last, wanted = summaries(tmp_path)[-1], summaries(undisturbed)[0]
    assert last["attempt"] == len(MOMENTS) + 1
    assert statuses(last) == {"data": "cached", "sft": "cached", "reward": "cached", "ppo": "resumed"}
    for name, stage in wanted["stages"].items():
        assert last["stages"][name]["digest"] == stage["digest"], name
    assert metrics(tmp_path) == metrics(undisturbed)
    assert last["metrics"] == wanted["metrics"]
    assert not list(tmp_path.glob("outputs/store/work/*"))
