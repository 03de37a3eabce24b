"""Several processes: who is who, what rank 0 tells the others, and how a run ends when one of them fails."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from alignpipe.api import Selected
from alignpipe.cli import app
from alignpipe.config.model import RunSettings
from alignpipe.errors import ConfigError, PluginError, ProcessError
from alignpipe.processes import Process, this_process
from alignpipe.runner import execute, following
from alignpipe.runner.devices import prepare_device
from alignpipe.runner.following import follow
from alignpipe.runner.leading import parts_of
from alignpipe.runner.messages import Messages
from alignpipe.runner.requirements import check_device
from alignpipe.runner.signals import StopSignals
from support.fake_crew import CREW_COMPONENTS, MemoryStore, PairConfig, use_memory
from support.fake_run import make_registry, make_run, metrics_of, statuses, summary_of
from support.fake_torch import use_fake_torch

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}


@pytest.mark.parametrize(
    ("environ", "process"),
    [
        ({}, Process()),
        ({**TORCHRUN, "WORLD_SIZE": "1", "RANK": "0"}, Process()),
        ({"WORLD_SIZE": "4"}, Process()),
        ({"RANK": "1", "WORLD_SIZE": "many"}, Process()),
        (TORCHRUN, Process(3, 4, 1, 2)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, Process(1, 2, 1, 2)),
    ],
)
def test_the_launcher_says_who_this_is(environ: dict[str, str], process: Process) -> None:
    assert this_process(environ) == process


def test_rank_0_leads() -> None:
    assert [Process(rank, 2).follows for rank in range(2)] == [False, True]
    assert str(Process(1, 2)) == "process 1 of 2"


@pytest.mark.parametrize(
    ("device", "gpus", "expected"),
    [("auto", 0, "cpu"), ("cpu", 2, "cpu"), ("auto", 2, "cuda:1"), ("cuda", 2, "cuda:1")],
)
def test_each_process_takes_its_own_gpu(monkeypatch: Any, device: str, gpus: int, expected: str) -> None:
    use_fake_torch(monkeypatch, gpus=gpus)
    assert prepare_device(RunSettings(device=device), Process(1, 2, 1, 2)) == expected


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_too_few_gpus(monkeypatch: Any, device: str) -> None:
    use_fake_torch(monkeypatch, gpus=1)
    with pytest.raises(ConfigError, match="2 processes on this machine, torch sees 1 CUDA devices; start as many"):
        prepare_device(RunSettings(device=device), Process(1, 2, 1, 2))


def test_one_device_for_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="device=cuda:1 with 2 processes"):
        check_device(RunSettings(device="cuda:1"), Process(0, 2))


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("flag", ["-m", "--multirun", "--multi", "hydra.mode=MULTIRUN"])
def test_a_sweep_is_refused(monkeypatch: Any, rank: int, flag: str) -> None:
    monkeypatch.setattr(app, "this_process", lambda: Process(rank, 2))
    with pytest.raises(ConfigError, match=r"-m starts its jobs in one process, and there are 2: leave out torchrun"):
        app.run([flag, "seed=0,1"])


def test_messages_come_in_order_and_everybody_reads_them_all() -> None:
    store = MemoryStore()
    leader, one, two = (Messages(store) for _ in range(3))
    leader.post({"do": "stage", "stage": "sft"})
    leader.post({"do": "end"})
    for reader in (one, two):
        assert [reader.next(lambda: 0)["do"] for _ in range(2)] == ["stage", "end"]
        assert reader.next(lambda: 0) is None
    assert leader.failure() is None
    one.note_failure("no")
    assert leader.failure() == "no"
    store.gone = True
    with pytest.raises(ProcessError, match=r"cannot be reached at MASTER_ADDR=.*: Connection reset by peer$"):
        two.next(lambda: 60)


class Follower(threading.Thread):
    """Process 1 of 2."""

    def __init__(self, run: Any) -> None:
        super().__init__(daemon=True)
        self.run_config = run
        self.ended: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.ended = follow(self.run_config, make_registry(components=CREW_COMPONENTS), Process(1, 2, 1, 2))
        except Exception as error:
            self.ended = error

    def end(self) -> Any:
        self.join(20)
        assert not self.is_alive()
        return self.ended


def pair_run(root: Path, folder: str = "run", **config: Any) -> Any:
    extra = {"sft": Selected("sft", "pair", PairConfig(**config))}
    return make_run(root, folder, extra=extra, stages=["data", "sft", "eval"], seed=3)


def lead(run: Any) -> int:
    return execute(run, make_registry(components=CREW_COMPONENTS))


def test_a_parallel_stage_runs_everywhere_and_all_else_on_rank_0(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    use_memory(monkeypatch)
    monkeypatch.setenv("FAKE_EXECUTIONS", str(tmp_path / "executions"))
    run = pair_run(tmp_path)
    follower = Follower(run)
    assert lead(run) == 0
    assert follower.end() == 0
    assert statuses(run) == {"data": "ran", "sft": "ran", "eval": "ran"}
    assert (tmp_path / "executions").read_text().split() == ["data", "eval"], "the stages that are not parallel"
    payload = Path(summary_of(run)["stages"]["sft"]["artifact"])
    assert sorted(path.name for path in payload.iterdir()) == ["config.json", "rank-0"]
    told = "sft seed 3 ['dataset', 'policy'] ['model']"
    assert (payload / "config.json").read_text().splitlines() == [f"0 of 2: {told}", f"1 of 2: {told}"]
    shown = capfd.readouterr().err
    assert ("said by 0" in shown, "said by 1" in shown, "from: rank 1" in shown) == (True, False, False)
    assert [line["sft/rank"] for line in metrics_of(run) if line["stage"] == "sft"] == [0]


def test_the_others_import_what_they_will_need_while_rank_0_prepares(tmp_path: Path, monkeypatch: Any) -> None:
    """What is broken is left to the stage that needs it."""
    store, loaded = use_memory(monkeypatch), []

    def load(registered: Any) -> None:
        loaded.append(str(registered))
        raise PluginError("cannot be imported")

    monkeypatch.setattr(following, "load_factory", load)
    run = pair_run(tmp_path)
    follower = Follower(run)
    assert lead(run) == 0
    assert follower.end() == 0
    first = json.loads(store.content["message/0"])
    assert (first["do"], first["components"]) == ("load", [["sft", "pair"], ["model", "fake"]])  # of the parallel stage
    assert loaded == ["sft/pair (fake-stages 1.0)", "model/fake (fake-stages 1.0)"]


def test_a_cached_run_needs_nobody(tmp_path: Path, monkeypatch: Any) -> None:
    use_memory(monkeypatch)
    first = pair_run(tmp_path)
    follower = Follower(first)
    lead(first)
    follower.end()
    store = use_memory(monkeypatch)
    again = pair_run(tmp_path, "again")
    assert lead(again) == 0
    assert set(statuses(again).values()) == {"cached"}
    assert list(store.content) == ["message/0"], "only that the run is over"


def test_an_error_of_all_is_told_by_rank_0(tmp_path: Path, monkeypatch: Any) -> None:
    use_memory(monkeypatch)
    run = pair_run(tmp_path, fails="all")
    follower = Follower(run)
    with pytest.raises(ValueError, match="rank 0 cannot"):
        lead(run)
    assert follower.end() == 0
    assert summary_of(run)["status"] == "failed"


def test_an_error_of_one_is_told_by_both(tmp_path: Path, monkeypatch: Any) -> None:
    use_memory(monkeypatch)
    run = pair_run(tmp_path, fails="1")
    follower = Follower(run)
    with pytest.raises(ProcessError, match="process 1 of 2 failed in stage 'sft': ValueError: rank 1 cannot"):
        lead(run)
    assert str(follower.end()) == "rank 1 cannot"
    assert summary_of(run)["stages"]["sft"]["error"].startswith("ProcessError: process 1 of 2 failed")


def test_a_stage_that_exits_in_one_process_is_an_error_of_both(tmp_path: Path, monkeypatch: Any) -> None:
    """To the launcher an exit with 0 would look as if all were well, and rank 0 would wait for half an hour."""
    use_memory(monkeypatch)
    run = pair_run(tmp_path, fails="exit of 1")
    follower = Follower(run)
    with pytest.raises(ProcessError, match=r"process 1 of 2 failed in stage 'sft': .*called sys\.exit\(0\)"):
        lead(run)
    assert "the code of stage 'sft' called sys.exit(0)" in str(follower.end())


def test_an_error_of_rank_0_alone_lets_the_others_go(tmp_path: Path, monkeypatch: Any) -> None:
    use_memory(monkeypatch)
    run = pair_run(tmp_path, fails="0")
    follower = Follower(run)
    with pytest.raises(ValueError, match="rank 0 cannot"):
        lead(run)
    assert follower.end() == 0


def test_an_interruption_names_the_launcher(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    use_memory(monkeypatch)
    run = pair_run(tmp_path, fails="stop")
    follower = Follower(run)
    assert lead(run) == 130
    assert follower.end() == 0
    assert "same command again:\n  torchrun --nproc-per-node=2 -m alignpipe\n" in capfd.readouterr().err


def test_a_follower_with_another_config_ends(tmp_path: Path, monkeypatch: Any) -> None:
    """On another machine the config files may be others."""
    store, run = use_memory(monkeypatch), pair_run(tmp_path)
    Messages(store).post({"do": "load", "components": [], "config": parts_of(run)})
    other = replace(run, resolved={**run.resolved, "seed": 4})
    with pytest.raises(
        ConfigError, match=r"^process 1 of 2 has another configuration than process 0: they differ in seed\."
    ):
        follow(other, make_registry(components=CREW_COMPONENTS), Process(1, 2))


def test_a_result_that_is_gone_since_the_plan_is_made_by_all(tmp_path: Path, monkeypatch: Any) -> None:
    """The plan had nothing for the others to do, so they were not told anything yet."""
    use_memory(monkeypatch)
    first = pair_run(tmp_path)
    follower = Follower(first)
    assert lead(first) == 0
    follower.end()
    use_memory(monkeypatch)
    execute_module = sys.modules["alignpipe.runner.execute"]  # alignpipe.runner has a function of that name
    again, real = pair_run(tmp_path, "again"), execute_module.make_plan

    def plan_then_lose(planner: Any) -> Any:
        decisions = real(planner)
        shutil.rmtree(tmp_path / "store" / "index" / "sft")
        return decisions

    monkeypatch.setattr(execute_module, "make_plan", plan_then_lose)
    follower = Follower(again)
    assert lead(again) == 0
    assert follower.end() == 0
    assert statuses(again)["sft"] == "ran"


@pytest.mark.parametrize(("fails", "well"), [("stop", True), ("at once", False)])
def test_who_leaves_a_stage_at_once_does_not_wait_for_the_others(
    tmp_path: Path, monkeypatch: Any, fails: str, well: bool
) -> None:
    """After a second signal they may be waiting for this process, in vain."""
    store, run = use_memory(monkeypatch), pair_run(tmp_path, fails=fails)
    follower = Follower(run)
    assert lead(run) == 130
    follower.end()
    last = json.loads([content for key, content in store.content.items() if key.startswith("message/")][-1])
    assert last == {"do": "end", "well": well}


def test_silence_ends_a_follower(tmp_path: Path, monkeypatch: Any) -> None:
    use_memory(monkeypatch)
    monkeypatch.setattr("alignpipe.runner.following._LONGEST_STAGE", 0.05)
    with pytest.raises(ProcessError, match="process 1 of 2 has heard nothing from process 0"):
        follow(pair_run(tmp_path), make_registry(components=CREW_COMPONENTS), Process(1, 2))


def test_who_is_asked_to_stop_waits_a_little_longer_for_rank_0(monkeypatch: Any) -> None:
    now = [100.0]
    monkeypatch.setattr(following, "time", SimpleNamespace(monotonic=lambda: now[0]))
    signals = StopSignals(silent=True)
    patience = following._patience(signals)
    assert patience() == following._LONGEST_STAGE
    now[0] = signals.received_at = 700.0  # rank 0 has been at work alone for ten minutes
    assert patience() == 600 + following._AFTER_SIGNAL
    assert following._patience(signals)() == following._AFTER_SIGNAL
