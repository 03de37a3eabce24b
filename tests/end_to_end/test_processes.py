"""Two processes on a CPU, started by torchrun or by the run: the figures of one, one writer, and one that is killed."""

from __future__ import annotations

import json
import signal
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
SELF = (sys.executable, "-m", "alignpipe", "processes=2")
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


@pytest.fixture(
    scope="module",
    params=[(*TORCHRUN, *COMMAND), (*SELF, *COMMAND, "model.shard=true")],
    ids=["torchrun, whole", "processes=2, split"],
)
def command(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Two processes of a launcher that hold the whole weights each, or two of the run itself that hold a part each."""
    found: tuple[str, ...] = request.param
    return found


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


def test_every_job_of_a_sweep_starts_its_own(tmp_path: Path) -> None:
    command = ("experiment=smoke", "stages=[data,sft]", "device=cpu", "tracker=[]", "processes=2", "seed=0,1", "-m")
    done = succeed(alignpipe(tmp_path, *command))
    assert "2 of 2 jobs finished" in done.stdout
    jobs = [json.loads(path.read_text()) for path in tmp_path.glob("outputs/sweeps/*/*/summary.json")]
    assert [statuses(summary) for summary in jobs] == [{"data": "ran", "sft": "ran"}] * 2


def test_the_others_end_when_the_first_is_killed(tmp_path: Path) -> None:
    first = start_command(tmp_path, (*SELF, *COMMAND, "sft.max_steps=100000", "tracker=[]"))
    wait_until(lambda: list(tmp_path.glob("outputs/store/work/sft-*/state/checkpoints/step-*")), first)
    second = rank(1, psutil.Process(first.pid))
    first.kill()
    _, said = first.communicate(timeout=60)  # the second writes to the same pipe
    second.wait(20)
    assert said.count(ERROR) == 1
    assert "process 0, which leads the run, has ended" in said


def test_the_first_tells_the_others_of_an_interruption(tmp_path: Path) -> None:
    first = start_command(tmp_path, (*SELF, *COMMAND, "sft.max_steps=100000", "tracker=[]"))
    wait_until(lambda: list(tmp_path.glob("outputs/store/work/sft-*/state/checkpoints/step-*")), first)
    second = rank(1, psutil.Process(first.pid))
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(timeout=60)
    assert first.returncode == 143
    assert not second.is_running()
    assert said.splitlines()[-1].startswith("  alignpipe processes=2 experiment=smoke"), said


def test_a_launcher_and_processes_of_its_own_are_too_many(tmp_path: Path) -> None:
    done = run([*TORCHRUN, "processes=2"], tmp_path)
    assert (
        "processes=2, and a launcher (torchrun, accelerate launch) has started 2: leave one of the two out"
        in done.stderr
    )
    assert not list(tmp_path.glob("outputs/store/*/*"))


def test_one_process_has_nothing_to_split_over(tmp_path: Path) -> None:
    told = complaint(alignpipe(tmp_path, *COMMAND, "model.shard=true"))
    assert "model.shard=true splits what is trained over the processes of a launch, and there is only this one" in told
    assert published(tmp_path) == {"data"}
