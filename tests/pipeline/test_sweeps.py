"""The end of a sweep: which job had which overrides, how it ended, its figures; whatever happened on the way."""

from __future__ import annotations

import json
import pickle
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeperConf
from hydra.types import RunMode
from omegaconf import OmegaConf

from alignpipe.cli.report import RunFailed, message_of
from alignpipe.cli.sweeps import SweepCallback, command_line, noted_job, sweep_report
from alignpipe.errors import ConfigError, FolderInUse


def begin(folder: Path) -> SweepCallback:
    sweep = SweepCallback()
    sweeper = OmegaConf.structured(BasicSweeperConf)
    sweep.on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}, "sweeper": sweeper}}))
    return sweep


def job(sweep: SweepCallback, number: int, *overrides: str, name: str = "", **summary: object) -> None:
    """What a job does that ends with a `summary`, or before it has one."""
    run_folder = sweep.folder / (name or str(number))
    with sweep.notes.job(number, run_folder, overrides):
        run_folder.mkdir(exist_ok=True)
        if summary:
            content = {"schema": 1, "run_key": "k", "status": "finished", "stages": {}, "metrics": {}, **summary}
            (run_folder / "summary.json").write_text(json.dumps(content))


def stages(**statuses: str) -> dict[str, object]:
    return {name: {"status": status, "error": None} for name, status in statuses.items()}


def test_a_line_a_job_and_the_file(tmp_path, capsys):
    figures = {"eval/gold/win_rate": 0.875, "ppo/objective/kl": 9.0, "eval/kl": 2.5, "data/rows": 8}
    ended = {"ppo": {"status": "failed", "error": "TrainingError: NaN"}}
    with sweep_report():
        sweep = begin(tmp_path)
        job(sweep, 10, "seed=2", "ppo.lr=1", status="failed", stages={**stages(data="ran"), **ended})
        job(sweep, 9, "seed=1", "ppo.lr=1", stages=stages(ppo="ran", eval="cached"), metrics=figures)
        job(sweep, 11, "seed=${oc.env:SEED}", "ppo.lr=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:6] == [
        "1 of 3 jobs that were begun finished",
        "job  overrides            status         gold win rate  KL",
        "9    seed=1               finished       0.875          2.500",
        "10   seed=2               failed in ppo  -              -",
        "11   seed=${oc.env:SEED}  interrupted    -              -",
    ]
    assert lines[6:] == [
        "",
        "failed      10: TrainingError: NaN",
        f"jobs        {tmp_path}/<job>",
        f"figures     {tmp_path}/sweep.json",
    ]
    written = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [entry["job"] for entry in written] == ["9", "10", "11"]
    assert written[0]["metrics"] == figures
    assert written[1]["error"] == "TrainingError: NaN"
    assert written[0]["overrides"] == ["seed=1", "ppo.lr=1"]
    assert written[0]["params"] == {"seed": 1, "ppo.lr": 1}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "11", "9", "sweep.json"]


def test_overrides_as_values(tmp_path):
    with sweep_report():
        sweep = begin(tmp_path)
        job(
            sweep, 0, "ppo=grpo", "stages=[data,sft]", "+reward@reward.members.a=acme", "ppo.lr=1e-4", "data.path='a b'"
        )
        assert sweep.jobs()[0]["params"] == {
            "ppo": "grpo",
            "stages": ["data", "sft"],
            "reward": "acme",
            "ppo.lr": 1e-4,
            "data.path": "a b",
        }


def test_a_sweep_that_is_killed_leaves_the_file_of_the_jobs_before(tmp_path):
    with ExitStack() as SweepCallback.until_the_end:
        sweep = begin(tmp_path)
        hydra = OmegaConf.create(
            {
                "mode": RunMode.MULTIRUN,
                "job": {"num": 0},
                "runtime": {"output_dir": str(tmp_path / "0")},
                "overrides": {"task": ["seed=1"]},
            }
        )
        with noted_job(hydra):
            pass
        assert [entry["overrides"] for entry in json.loads((tmp_path / "sweep.json").read_text())["jobs"]] == [
            ["seed=1"]
        ]
        sweep.process = -1  # a job in another process
        (tmp_path / "sweep.json").unlink()
        with noted_job(hydra):
            pass
        assert not (tmp_path / "sweep.json").exists()


def test_a_sweep_all_of_whose_jobs_were_refused_leaves_the_file_of_the_one_before(tmp_path):
    with sweep_report():
        job(begin(tmp_path), 0, "seed=1", status="finished")
    before = (tmp_path / "sweep.json").read_text()
    with sweep_report():
        sweep = begin(tmp_path)
        with pytest.raises(FolderInUse), sweep.notes.job(0, tmp_path / "0", ["seed=2"]):
            raise FolderInUse("holds a finished run of another config")
    assert (tmp_path / "sweep.json").read_text() == before


def test_the_last_stage_that_has_a_figure_counts(tmp_path, capsys):
    metrics = {"eval/kl": 1.0, "eval_2/kl": 2.0, "sft/eval_loss": 3.0, "reward/heldout/accuracy": None}
    with sweep_report():
        job(begin(tmp_path), 0, "seed=1", stages=stages(sft="ran", eval="ran", eval_2="ran"), metrics=metrics)
    assert "0    seed=1     finished  2.000  3.000" in capsys.readouterr().out


def test_what_an_earlier_sweep_left_in_the_folder_is_not_counted(tmp_path):
    with sweep_report():
        earlier = begin(tmp_path)
        job(earlier, 0, "seed=1", status="finished")
        job(earlier, 1, "seed=2", status="finished")
    with sweep_report():
        sweep = begin(tmp_path)
        job(sweep, 0, "seed=3")
        assert [(entry["overrides"], entry["status"]) for entry in sweep.jobs()] == [(["seed=3"], "interrupted")]


def test_the_reason_of_a_job_that_failed_before_its_first_stage(tmp_path, capsys):
    with sweep_report():
        sweep = begin(tmp_path)
        job(sweep, 0, "seed=1", status="finished", metrics={"eval/kl": 1.0})
        with pytest.raises(ConfigError), sweep.notes.job(0, tmp_path / "0", ["lr=-1"]):
            raise ConfigError("lr must be\nat least 0")
        with pytest.raises(ZeroDivisionError), sweep.notes.job(1, tmp_path / "1", ["lr=2"]):
            raise ZeroDivisionError("a bug")
    assert "failed      0: lr must be at least 0\nfailed      1: ZeroDivisionError: a bug\n" in capsys.readouterr().out
    first, second = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert (first["status"], first["failed_stage"], first["metrics"]) == ("failed", None, {})
    assert (first["error"], second["error"]) == ("lr must be\nat least 0", "ZeroDivisionError: a bug")


def test_a_job_whose_process_was_killed(tmp_path):
    with ExitStack() as SweepCallback.until_the_end:
        sweep = begin(tmp_path)
        with sweep.notes.job(0, tmp_path / "0", ["seed=1"]):
            assert sweep.jobs()[0]["error"] == "its process ended before it could say why"


def test_another_sweep_and_a_single_run_below_the_folder_are_not_counted(tmp_path):
    with ExitStack() as SweepCallback.until_the_end:
        sweep, other = begin(tmp_path), begin(tmp_path)
        job(sweep, 0, "seed=1", name="a", status="finished")
        job(other, 0, "seed=2", name="b", status="finished")
        hydra = tmp_path / "runs" / "now" / ".hydra"
        hydra.mkdir(parents=True)
        (hydra / "overrides.yaml").write_text("- seed=3")
        assert [(entry["job"], entry["overrides"]) for entry in sweep.jobs()] == [("a", ["seed=1"])]
        assert [(entry["job"], entry["overrides"]) for entry in other.jobs()] == [("b", ["seed=2"])]


def test_a_folder_is_one_jobs_as_long_as_its_sweep_lives(tmp_path):
    with ExitStack() as SweepCallback.until_the_end:
        sweep = begin(tmp_path)
        job(sweep, 0, "seed=1", name="same", run_key="first")
        for attempt, number, words in ((sweep, 1, "job 0 of this sweep"), (begin(tmp_path), 0, "the sweep in")):
            with pytest.raises(FolderInUse, match=rf"same: .*{words}.* has had .*another hydra\.sweep\.dir"):
                job(attempt, number, "seed=2", name="same", run_key="second")
        assert json.loads((tmp_path / "same" / "summary.json").read_text())["run_key"] == "first"
        refused = sweep.jobs()[1]
        assert (refused["run_key"], refused["status"]) == (None, "failed")
        assert "has had this run folder" in refused["error"]
        job(sweep, 0, "seed=1", name="same", run_key="again")  # a scheduler has put it into the queue again
    with sweep_report():
        job(begin(tmp_path), 0, "seed=1", name="same", run_key="another day")


def test_a_sweep_that_was_killed_holds_no_folder(tmp_path):
    (tmp_path / ".jobs" / "dead").mkdir(parents=True)
    with ExitStack() as SweepCallback.until_the_end:
        sweep = begin(tmp_path)
        job(sweep, 0, "seed=1")
        for claim in tmp_path.glob(".jobs/*/*.claim"):
            (tmp_path / ".jobs" / "dead" / claim.name).write_text("0")
        job(sweep, 0, "seed=1", status="finished")
        assert [entry["status"] for entry in sweep.jobs()] == ["finished"]


def test_a_job_in_a_process_of_its_own_knows_the_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["alignpipe", "-m", "seed=1,2"])
    hydra = OmegaConf.create({"mode": RunMode.MULTIRUN})
    with sweep_report():
        sent = pickle.dumps(begin(tmp_path))
        monkeypatch.setattr(sys, "argv", ["worker"])
        SweepCallback.current = None
        assert command_line(hydra) == ()
        pickle.loads(sent).on_job_start(OmegaConf.create())
        assert command_line(hydra) == ("-m", "seed=1,2")
    assert command_line(OmegaConf.create({"mode": RunMode.RUN})) == ()


def test_an_error_passes_and_no_job_means_no_table(tmp_path, capsys):
    def fail():
        with sweep_report():
            job(begin(tmp_path / "one"), 0, "seed=1", status="interrupted")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert "0    seed=1     interrupted" in capsys.readouterr().out
    with sweep_report():  # no sweep at all
        pass
    with sweep_report():  # one that ended before its first job
        begin(tmp_path / "two" / "three")
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "two").exists()


def test_a_folder_in_which_nothing_can_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(RunFailed) as raised, sweep_report():
        begin(tmp_path / "file" / "below")
    assert f"cannot write {tmp_path}/file/below" in message_of(raised.value.error)
    assert capsys.readouterr() == ("", "")


def test_a_file_that_cannot_be_written_does_not_hide_how_the_sweep_ended(tmp_path, capsys):
    (tmp_path / "sweep.json").mkdir()
    with sweep_report():
        job(begin(tmp_path), 0, "seed=1", status="finished")
    told = capsys.readouterr()
    assert "1 of 1 jobs finished" in told.out
    assert "sweep.json could not be written" in told.err
