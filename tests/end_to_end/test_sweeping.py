"""Sweeps by other sweepers and launchers than Hydra's own: one that searches, jobs side by side through joblib."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.commands import ERROR, alignpipe, succeed

SFT = ("experiment=smoke", "stages=[data,sft]", "tracker=[]", "threads=1")
SEARCH = ("-m", "hydra/sweeper=searching", "objective=[sft/eval_loss]")
SWEEPER = """
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper

ConfigStore.instance().store("searching", {"_target_": "hydra_plugins.searching.Searching"}, group="hydra/sweeper")


class Searching(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        self.directory = config.hydra.sweep.dir
        self.launcher = Plugins.instance().instantiate_launcher(
            config=config, hydra_context=hydra_context, task_function=task_function
        )

    def sweep(self, arguments):
        rates = ["sft.lr=1e-4", "sft.lr=1e-2"]
        jobs = [[*arguments, rate] for rate in rates]
        losses = [job.return_value for job in self.launcher.launch(jobs, initial_job_idx=0)]
        with open(f"{self.directory}/found", "w") as file:
            file.write(f"{rates[losses.index(min(losses))]} {min(losses)}")
"""
"""A package of `hydra_plugins`, as those of Optuna and Ax are: it finds the rate with the lowest figure."""


@pytest.fixture
def sweeper(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "site" / "hydra_plugins" / "searching"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(SWEEPER)
    return {"PYTHONPATH": str(tmp_path / "site")}


def test_a_search_over_jobs_side_by_side(tmp_path: Path, sweeper: dict[str, str]) -> None:
    """What it finds is what the jobs' own summaries say; the two jobs make their data once."""
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    done = succeed(alignpipe(tmp_path, *SEARCH, *parallel, *SFT, **sweeper))
    (sweep,) = tmp_path.glob("outputs/sweeps/*")
    jobs = json.loads((sweep / "sweep.json").read_text())["jobs"]
    assert [job["status"] for job in jobs] == ["finished", "finished"]
    losses = {job["params"]["sft.lr"]: job["metrics"]["sft/eval_loss"] for job in jobs}
    assert set(losses) == {1e-4, 1e-2}
    assert losses[1e-2] < losses[1e-4]
    assert (sweep / "found").read_text() == f"sft.lr=1e-2 {losses[1e-2]}"
    ways = sorted(json.loads(path.read_text())["stages"]["data"]["status"] for path in sweep.glob("*/summary.json"))
    assert ways == ["cached", "ran"]
    assert "2 of 2 jobs finished" in done.stdout


def test_a_search_for_nothing_and_the_plan_of_one(tmp_path: Path, sweeper: dict[str, str]) -> None:
    refused = alignpipe(tmp_path, *SEARCH, *SFT, "objective=[]", **sweeper)
    assert refused.returncode == 1
    assert f"{ERROR}this sweeper (hydra/sweeper) judges jobs by a figure: name a final metric" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "outputs").exists()
    planned = alignpipe(tmp_path, "plan", *SEARCH, *SFT, **sweeper)
    assert planned.returncode == 1
    assert f"{ERROR}what a search runs depends on what its jobs find" in planned.stderr
