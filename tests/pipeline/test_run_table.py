"""The table of several runs, and `compare`, which makes it of what runs left in their folders."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest

from alignpipe.cli.compare import main, runs_in
from alignpipe.cli.run_table import Line, differences, show_runs
from alignpipe.errors import ConfigError


def line(name: str, *given: str, status: str = "finished", **metrics: float) -> Line:
    return Line(
        name, given, status, ["ppo", "eval"], {key.replace("_", "/", 1): value for key, value in metrics.items()}
    )


def test_of_what_runs_were_given_that_in_which_they_differ() -> None:
    assert differences([["a=1", "b=1"], ["a=1", "b=2"], ["b=2"]]) == [["a=1", "b=1"], ["a=1", "b=2"], ["b=2"]]
    assert differences([["a=1", "b=1"], ["a=1"]]) == [["b=1"], []]
    assert differences([["a=1"]]) == [["a=1"]]


def test_means_over_seeds_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """2 and 4 have the mean 3 and the deviation sqrt(2); one that failed and one with settings of its own stay out."""
    runs = [
        line("0", "seed=0", "lr=1", eval_kl=2.0),
        line("1", "seed=1", "lr=1", eval_kl=4.0),
        line("2", "seed=2", "lr=1", eval_kl=99.0, status="failed in eval"),
        line("3", "seed=0", "lr=2", eval_kl=7.0),
    ]
    show_runs(runs, "job", "4 runs")
    told = capsys.readouterr().out
    assert told.startswith("4 runs\njob  overrides    status          KL\n0    seed=0 lr=1  finished        2.000\n")
    assert told.endswith("\nmean +- standard deviation\nover seeds  runs  KL\nlr=1        2     3.000 +- 1.414\n")


def test_many_differing_keys_make_no_endless_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Those that are not shown count all the same where runs are held to differ in their seeds only."""
    keys = [f"k{number}=1" for number in range(8)]
    runs = [line("0", *keys, "seed=0", eval_kl=2.0), line("1", *keys, "seed=1", eval_kl=4.0)]
    other = line("2", *(key.replace("=1", "=2") for key in keys), "seed=0", eval_kl=7.0)
    show_runs([*runs, other], "run", "")
    told = capsys.readouterr().out
    assert "0    k0=1 k1=1 k2=1 k3=1 k4=1 k5=1 (and 3 more)  finished" in told
    assert "k0=1 k1=1 k2=1 k3=1 k4=1 k5=1 (and 2 more)  2     3.000 +- 1.414" in told


def test_no_means_where_nothing_was_repeated(capsys: pytest.CaptureFixture[str]) -> None:
    show_runs([line("0", "seed=0", "lr=1", eval_kl=2.0), line("1", "seed=1", "lr=2", eval_kl=4.0)], "job", "")
    show_runs([line("0", "lr=1", eval_kl=2.0), line("1", "lr=2", eval_kl=4.0)], "job", "")
    assert "mean" not in capsys.readouterr().out


def left(folder: Path, config: dict[str, Any] | None, status: str = "finished", **metrics: float) -> Path:
    folder.mkdir(parents=True)
    stages = {"ppo": {"status": "failed" if status == "failed" else "ran"}, "eval": {"status": "skipped"}}
    named = {key.replace("_", "/", 1): value for key, value in metrics.items()}
    content = {"schema": 1, "status": status, "run_key": "k", "stages": stages, "metrics": named}
    (folder / "summary.json").write_text(json.dumps(content))
    if config is not None:
        (folder / "config.yaml").write_text(json.dumps(config))
    return folder


def test_runs_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Keys of one option alone are no difference, and neither is where a run wrote."""
    ppo = {"name": "ppo", "kl_coef": 0.05, "critic_lr": 1e-5}
    one = {"seed": 0, "stages": ["data", "ppo"], "outputs": "a", "ppo": ppo, "reward": {"wanted": None}}
    two = {
        "seed": 0,
        "stages": ["data"],
        "outputs": "b",
        "ppo": {"name": "grpo", "kl_coef": 0.05},
        "reward": {"wanted": True},
    }
    sweep = tmp_path / "sweep"
    left(sweep / "9", one, eval_kl=1.5, ppo_extra=3.0)
    left(sweep / "10", two, status="failed")
    left(tmp_path / "early", None, status="interrupted")
    assert runs_in(sweep) == [sweep / "9", sweep / "10"]
    assert main([str(sweep), str(sweep / "9"), str(tmp_path / "early"), "--out", str(tmp_path / "a" / "b.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [re.split(r"  +", text.rstrip()) for text in lines[:5]] == [
        ["3 runs"],
        ["run", "overrides", "status", "KL"],
        ["9", "stages=[data,ppo] ppo=ppo reward.wanted=null", "finished", "1.500"],
        ["10", "stages=[data] ppo=grpo reward.wanted=true", "failed in ppo", "-"],
        ["early", "interrupted", "-"],
    ]
    with (tmp_path / "a" / "b.csv").open(newline="") as file:
        first, *_ = csv.DictReader(file)
    assert (first["run"], first["ppo"], first["ppo/extra"]) == (str(sweep / "9"), "ppo", "3.0")


def test_folders_without_runs(tmp_path: Path) -> None:
    for folder, why in ((tmp_path, "holds no run"), (tmp_path / "nothing", "there is no such folder")):
        with pytest.raises(ConfigError, match=rf"compare {folder}: {why}.*run folders lie in outputs/runs"):
            main([str(folder)])
