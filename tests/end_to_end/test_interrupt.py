"""Stopped in the middle of sft, by Ctrl-C, by SIGTERM or by kill -9: the same command goes on and ends the same."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from support.commands import alignpipe, published, start, statuses, succeed, summaries, wait_until

COMMAND = (
    "experiment=smoke",
    "stages=[data,sft]",
    "sft.max_steps=120",
    "sft.eval_every=40",
    "sft.save_every=10",
)


@pytest.fixture(scope="module")
def digest(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What a run that nobody disturbs ends with."""
    folder = tmp_path_factory.mktemp("undisturbed")
    succeed(alignpipe(folder, *COMMAND))
    return str(summaries(folder)[0]["stages"]["sft"]["digest"])


def begin(folder: Path):
    """The command, working on sft with a checkpoint behind it and most steps before it."""
    process = start(folder, *COMMAND)
    wait_until(lambda: list(folder.glob("outputs/store/work/sft-*/state/checkpoints/step-*")), process)
    return process


def goes_on(folder: Path, digest: str) -> None:
    succeed(alignpipe(folder, *COMMAND))
    summary = summaries(folder)[-1]
    assert statuses(summary) == {"data": "cached", "sft": "resumed"}
    assert summary["attempt"] == 2
    assert summary["stages"]["sft"]["digest"] == digest
    assert not list(folder.glob("outputs/store/work/*"))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_signal_ends_the_run_cleanly_and_it_goes_on(tmp_path, digest, number, status):
    process = begin(tmp_path)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "Traceback" not in said
    assert "give the same command again:\n  alignpipe experiment=smoke" in said
    summary = summaries(tmp_path)[0]
    assert summary["status"] == "interrupted"
    assert statuses(summary) == {"data": "ran", "sft": "failed"}
    assert published(tmp_path) == {"data"}
    goes_on(tmp_path, digest)


def test_a_killed_run_leaves_nothing_half_done_and_goes_on(tmp_path, digest):
    process = begin(tmp_path)
    process.kill()
    process.communicate()
    assert published(tmp_path) == {"data"}
    assert not summaries(tmp_path)
    goes_on(tmp_path, digest)
