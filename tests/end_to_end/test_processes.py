"""Two processes of torchrun on the CPU, whole or split: the figures of one, one writer, and a rank that is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psutil
import pytest
import torch

from alignpipe.training.models import load_causal, load_classifier
from support.commands import (
    ERROR,
    alignpipe,
    complaint,
    published,
    run,
    start_command,
    statuses,
    succeed,
    summaries,
    wait_until,
)

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "alignpipe")
COMMAND = ("experiment=smoke", "stages=[data,sft,reward,ppo]", "device=cpu", "threads=1", "sft.save_every=5")

pytestmark = pytest.mark.slow


def rank(number: int, launcher: psutil.Process) -> psutil.Process:
    """One of the processes that a launcher started."""
    return next(child for child in launcher.children() if child.environ().get("RANK") == str(number))


def metrics(folder: Path) -> dict[tuple[str, int, str], float]:
    """The newest run's metrics, by stage, step and name; every line is there once."""
    lines = [json.loads(line) for line in max(folder.glob("outputs/runs/*/metrics.jsonl")).read_text().splitlines()]
    found = [
        (line["stage"], line["step"], name, value) for line in lines for name, value in line.items() if "/" in name
    ]
    assert len(found) == len({entry[:3] for entry in found}), "logged twice"
    return {entry[:3]: float(entry[3]) for entry in found}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    succeed(alignpipe(folder, *COMMAND, "tracker=[]"))
    return folder


@pytest.fixture(scope="module", params=[(), ("model.shard=true",)], ids=["whole", "split"])
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Two processes that hold the whole weights each, or a part of them."""
    return (*TORCHRUN, *COMMAND, *request.param)


@pytest.fixture(scope="module")
def killed(command: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Two processes, one of them killed in sft: the folder, the launcher's status, and what was said."""
    folder = tmp_path_factory.mktemp("together")
    launcher = start_command(folder, command)
    wait_until(lambda: list(folder.glob("outputs/store/work/sft-*/state/checkpoints/step-*")), launcher)
    rank(1, psutil.Process(launcher.pid)).kill()
    _, said = launcher.communicate(timeout=90)
    return folder, launcher.returncode, said


@pytest.fixture(scope="module")
def together(command: tuple[str, ...], killed: tuple[Path, int, str]) -> tuple[Path, str]:
    """The same command again: the folder, and what was said."""
    folder, _, _ = killed
    done = succeed(run(command, folder))
    return folder, done.stdout + done.stderr


def test_a_killed_process_ends_the_others_with_one_message(killed: tuple[Path, int, str]) -> None:
    folder, status, said = killed
    assert status != 0
    told = [line for line in said.splitlines() if line.startswith(ERROR)]
    assert len(told) == 1
    assert "another process of this run has ended" in told[0]
    assert "give the same command again" in told[0]
    (summary,) = summaries(folder)
    assert statuses(summary) == {"data": "ran", "sft": "failed", "reward": "skipped", "ppo": "skipped"}


def test_the_same_command_goes_on(together: tuple[Path, str]) -> None:
    folder, said = together
    summary = summaries(folder)[-1]
    assert statuses(summary) == {"data": "cached", "sft": "resumed", "reward": "ran", "ppo": "ran"}
    assert summary["attempt"] == 2
    assert said.count("reward   done") == 1
    assert not list(folder.glob("outputs/store/work/*"))


def test_the_figures_are_those_of_one_process(alone: Path, together: tuple[Path, str]) -> None:
    wanted, found = metrics(alone), metrics(together[0])
    assert found.keys() == wanted.keys()
    assert {stage for stage, _, _ in found} == {"data", "sft", "reward", "ppo"}
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-3)


def test_the_results_are_ordinary_checkpoints(together: tuple[Path, str]) -> None:
    objects = together[0] / "outputs/store/objects"
    (policy,), (tuned,) = (list(objects.glob(f"{stage}/*/payload")) for stage in ("sft", "ppo"))
    first, second = load_causal(policy).state_dict(), load_causal(tuned).state_dict()
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    (head,) = objects.glob("reward/*/payload/**/normalisation.json")
    load_classifier(head.parent)


def test_one_process_writes(together: tuple[Path, str]) -> None:
    folder, _ = together
    runs = sorted(folder.glob("outputs/runs/*"))
    assert len(runs) == 2, "one for each command"
    assert [len(list(each.glob("wandb/offline-run-*"))) for each in runs] == [1, 1]
    assert {path.name for path in folder.iterdir()} == {"outputs"}


def test_bad_input_is_told_once(tmp_path: Path) -> None:
    done = run([*TORCHRUN, "reward=no-such-thing"], tmp_path)
    assert done.returncode != 0
    (told,) = (line for line in done.stderr.splitlines() if line.startswith(ERROR))
    assert "reward=no-such-thing: there is no such option" in told
    assert not list(tmp_path.iterdir())


def test_one_process_has_nothing_to_split_over(tmp_path: Path) -> None:
    told = complaint(alignpipe(tmp_path, *COMMAND, "model.shard=true"))
    assert "model.shard=true splits what is trained over the processes of a launch, and there is only this one" in told
    assert published(tmp_path) == {"data"}
