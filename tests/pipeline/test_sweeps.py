"""The end of a sweep: which job had which overrides, how it ended, its figures; whatever happened on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from alignpipe.cli.sweeps import SweepCallback, sweep_report


def begin(folder: Path) -> SweepCallback:
    sweep = SweepCallback()
    sweep.on_multirun_start(OmegaConf.create({"hydra": {"sweep": {"dir": str(folder)}}}))
    return sweep


def job(folder: Path, name: str, *overrides: str, **summary: object) -> None:
    """What Hydra and, with a `summary`, a run leave behind."""
    hydra = folder / name / ".hydra"
    hydra.mkdir(parents=True, exist_ok=True)
    (hydra / "overrides.yaml").write_text("".join(f"- '{override}'\n" for override in overrides))
    if summary:
        content = {"schema": 1, "run_key": "k", "status": "finished", "stages": {}, "metrics": {}, **summary}
        (folder / name / "summary.json").write_text(json.dumps(content))


def stages(**statuses: str) -> dict[str, object]:
    return {name: {"status": status, "error": None} for name, status in statuses.items()}


def test_a_line_a_job_and_the_file(tmp_path, capsys):
    figures = {"eval/gold/win_rate": 0.875, "ppo/objective/kl": 9.0, "eval/kl": 2.5, "data/rows": 8}
    ended = {"ppo": {"status": "failed", "error": "TrainingError: NaN"}}
    with sweep_report():
        begin(tmp_path)
        job(tmp_path, "10", "seed=2", "ppo.lr=1", status="failed", stages={**stages(data="ran"), **ended})
        job(tmp_path, "9", "seed=1", "ppo.lr=1", stages=stages(ppo="ran", eval="cached"), metrics=figures)
        job(tmp_path, "11", "seed=${oc.env:SEED}", "ppo.lr=1")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:6] == [
        "1 of 3 jobs finished",
        "job  overrides            status         gold win rate  KL",
        "9    seed=1               finished       0.875          2.500",
        "10   seed=2               failed in ppo  -              -",
        "11   seed=${oc.env:SEED}  failed         -              -",
    ]
    assert lines[-2:] == [f"jobs        {tmp_path}/<job>", f"figures     {tmp_path}/sweep.json"]
    written = json.loads((tmp_path / "sweep.json").read_text())["jobs"]
    assert [entry["job"] for entry in written] == ["9", "10", "11"]
    assert written[0]["metrics"] == figures
    assert written[1]["error"] == "TrainingError: NaN"
    assert written[0]["overrides"] == ["seed=1", "ppo.lr=1"]


def test_the_last_stage_that_has_a_figure_counts(tmp_path, capsys):
    metrics = {"eval/kl": 1.0, "eval_2/kl": 2.0, "sft/eval_loss": 3.0, "reward/heldout/accuracy": None}
    with sweep_report():
        begin(tmp_path)
        job(tmp_path, "0", "seed=1", stages=stages(sft="ran", eval="ran", eval_2="ran"), metrics=metrics)
    assert "0    seed=1     finished  2.000  3.000" in capsys.readouterr().out


def test_what_an_earlier_sweep_left_in_the_folder_is_not_counted(tmp_path):
    job(tmp_path, "0", "seed=1", status="finished")
    job(tmp_path, "1", "seed=2", status="finished")
    for path in tmp_path.glob("**/*.*"):
        os.utime(path, (1, 1))
    sweep = begin(tmp_path)
    job(tmp_path, "0", "seed=3")
    assert [(entry["overrides"], entry["status"]) for entry in sweep.jobs()] == [(["seed=3"], "failed")]


def test_an_error_passes_and_no_job_means_no_table(tmp_path, capsys):
    def fail():
        with sweep_report():
            begin(tmp_path / "one")
            job(tmp_path / "one", "0", "seed=1", status="interrupted")
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
    assert "0    seed=1     interrupted" in capsys.readouterr().out
    for _ in range(2):  # no sweep at all, and one that ended before its first job
        with sweep_report():
            pass
        assert capsys.readouterr().out == ""
        begin(tmp_path / "two")
    assert not (tmp_path / "two").exists()


def test_a_file_that_cannot_be_written_does_not_hide_how_the_sweep_ended(tmp_path, capsys):
    (tmp_path / "sweep.json").mkdir()
    with sweep_report():
        begin(tmp_path)
        job(tmp_path, "0", "seed=1", status="finished")
    told = capsys.readouterr()
    assert "1 of 1 jobs finished" in told.out
    assert "sweep.json could not be written" in told.err
