"""Sweeps by other sweepers and launchers than Hydra's own: Optuna's search, jobs side by side through joblib."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from support.commands import ERROR, alignpipe, succeed

SFT = ("experiment=smoke", "stages=[data,sft]", "tracker=[]", "threads=1")
SEARCH = ("-m", "hydra/sweeper=optuna", "hydra.sweeper.direction=minimize", "hydra.sweeper.n_trials=2")
RATES = "sft.lr=interval(1e-4,1e-2)"


def test_a_search_side_by_side(tmp_path: Path) -> None:
    """What Optuna holds to be the best is what the jobs' own summaries say; the two jobs make their data once."""
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2")
    done = succeed(alignpipe(tmp_path, *SEARCH, *parallel, *SFT, "objective=[sft/eval_loss]", RATES))
    (sweep,) = tmp_path.glob("outputs/sweeps/*")
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["finished", "finished"]
    losses = {job["params"]["sft.lr"]: job["metrics"]["sft/eval_loss"] for job in jobs}
    found = yaml.safe_load((sweep / "optimization_results.yaml").read_text())
    best = min(losses, key=losses.__getitem__)
    assert (found["best_params"], found["best_value"]) == ({"sft.lr": best}, losses[best])
    ways = sorted(json.loads(path.read_text())["stages"]["data"]["status"] for path in sweep.glob("*/summary.json"))
    assert ways == ["cached", "ran"]
    assert "2 of 2 jobs finished" in done.stdout


def test_a_search_for_nothing_and_the_plan_of_one(tmp_path: Path) -> None:
    refused = alignpipe(tmp_path, *SEARCH, *SFT, RATES)
    assert refused.returncode == 1
    assert f"{ERROR}this sweeper (hydra/sweeper) judges jobs by a figure: name a final metric" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "outputs").exists()
    planned = alignpipe(tmp_path, "plan", *SEARCH, *SFT, "objective=[sft/eval_loss]", RATES)
    assert planned.returncode == 1
    assert f"{ERROR}what a search runs depends on what its jobs find" in planned.stderr
