"""Stopped in the middle of sft, by Ctrl-C, by SIGTERM or by kill -9: the same command goes on and ends the same."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest

from support.commands import alignpipe, published, run, start, statuses, succeed, summaries, wait_until

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


def sent(folder: Path) -> list[tuple[str, int]]:
    """(metric, step) of every value in the W&B parts of all attempts, timings aside."""
    found = []
    for part in sorted(folder.glob("outputs/runs/*/wandb/offline-run-*")):
        done = run([sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(part)], folder)
        for line in succeed(done).stdout.splitlines():
            row = json.loads(line).get("history", {}).get("item", {})
            names = [name for name in row if "/" in name and not name.endswith("/step")]
            found += [
                (name, row[f"{name.split('/')[0]}/step"])
                for name in names
                if not name.split("/")[1].startswith(("time", "perf"))
            ]
    return found


def logged(folder: Path) -> list[tuple[str, int]]:
    """(metric, step) of every line in the newest metrics.jsonl."""
    lines = [json.loads(line) for line in max(folder.glob("outputs/runs/*/metrics.jsonl")).read_text().splitlines()]
    return [(name, line["step"]) for line in lines for name in line if "/" in name]


def goes_on(folder: Path, digest: str) -> None:
    done = succeed(alignpipe(folder, *COMMAND))
    parts = sorted(folder.glob("outputs/runs/*/wandb/offline-run-*"))
    assert f"wandb sync {parts[0]} {parts[1]}" in done.stderr
    assert len(sent(folder)) == len(set(sent(folder))), "told twice"
    assert len(logged(folder)) == len(set(logged(folder)))
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
    assert sorted(sent(tmp_path)) == sorted(logged(tmp_path)), "each value is in one part or the other"


def test_a_killed_run_leaves_nothing_half_done_and_goes_on(tmp_path, digest):
    process = begin(tmp_path)
    process.kill()
    process.communicate()
    assert published(tmp_path) == {"data"}
    assert not summaries(tmp_path)
    goes_on(tmp_path, digest)
