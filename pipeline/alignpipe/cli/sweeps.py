"""The report of a sweep: a table with one line a job, and sweep.json beside Hydra's multirun.yaml.

Everything is read from the jobs' folders, so that it works with every launcher that shares a file system with us.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from alignpipe.errors import StoreError
from alignpipe.store.files import read_json, storing, write_json
from alignpipe.tables import cell, show_table

_WATCHED: Mapping[str, Sequence[str]] = {
    "gold win rate": ("gold/win_rate",),
    "gold": ("gold/mean", "heldout/gold"),
    "reward": ("reward/mean", "heldout/reward", "objective/scores"),
    "KL": ("kl", "heldout/kl", "objective/kl"),
    "pairs right": ("heldout/accuracy",),
    "eval loss": ("eval_loss",),
}
"""The figures that people watch, best source first: of a sweep that ends before `eval`, those of the stages it has."""
_COLUMNS = 4


class SweepCallback(Callback):
    """Called by Hydra in the process that starts the jobs, before the first one.

    Hydra calls back at the end too, but only if no job failed; so `sweep_report` does the rest.
    """

    current: SweepCallback | None = None
    """The sweep that this process is running."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Remember the folder, and what an earlier sweep left in it."""
        self.folder = Path(str(config.hydra.sweep.dir)).absolute()
        self._before = self._ends()
        SweepCallback.current = self

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs that were begun, in their order, as they are written to sweep.json."""
        new = {path for path, moment in self._ends().items() if self._before.get(path) != moment}
        folders = [path.parents[1] for path in new if path.name == "overrides.yaml"]
        return [
            self._job(folder, (folder / "summary.json") in new) for folder in sorted(folders, key=_in_natural_order)
        ]

    def _ends(self) -> dict[Path, int]:
        """When the files were written that Hydra begins a job with, and that a run ends with."""
        found = [*self.folder.glob("**/.hydra/overrides.yaml"), *self.folder.glob("**/summary.json")]
        return {path: path.stat().st_mtime_ns for path in found}

    def _job(self, folder: Path, ended: bool) -> dict[str, Any]:
        summary = read_json(folder / "summary.json") if ended else None
        summary = summary or {"status": "failed", "run_key": None, "stages": {}, "metrics": {}}
        failed = {name: stage["error"] for name, stage in summary["stages"].items() if stage["status"] == "failed"}
        return {
            "job": str(folder.relative_to(self.folder)),
            "overrides": OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "overrides.yaml")),
            "status": summary["status"],
            "failed_stage": next(iter(failed), None),
            "error": next(iter(failed.values()), None),
            "run_key": summary["run_key"],
            "folder": str(folder),
            "stages": list(summary["stages"]),
            "metrics": summary["metrics"],
        }


@contextmanager
def sweep_report() -> Iterator[None]:
    """Print the table of the sweep that the block runs, if it runs one, and write sweep.json, however it ends."""
    try:
        yield
    finally:
        sweep, SweepCallback.current = SweepCallback.current, None
        jobs = sweep.jobs() if sweep is not None else []
        if sweep is not None and jobs:
            _show(sweep.folder, jobs)
            try:
                with storing("writing sweep.json", sweep.folder):
                    write_json(sweep.folder / "sweep.json", {"schema": 1, "jobs": jobs})
            except StoreError as error:  # the sweep's own end matters more
                sys.stderr.write(f"sweep.json could not be written: {error}\n")


def _show(folder: Path, jobs: Sequence[Mapping[str, Any]]) -> None:
    """The table: of the overrides those in which the jobs differ, of the figures those that some job has."""
    shared = set.intersection(*(set(job["overrides"]) for job in jobs)) if len(jobs) > 1 else set()
    figures = {title: [_figure(job, names) for job in jobs] for title, names in _WATCHED.items()}
    shown = [title for title, values in figures.items() if any(value is not None for value in values)][:_COLUMNS]
    rows = [
        [
            job["job"],
            " ".join(override for override in job["overrides"] if override not in shared),
            f"{job['status']} in {job['failed_stage']}" if job["failed_stage"] else job["status"],
            *(cell(figures[title][place]) for title in shown),
        ]
        for place, job in enumerate(jobs)
    ]
    finished = sum(job["status"] == "finished" for job in jobs)
    sys.stdout.write("\n")
    show_table(["job", "overrides", "status", *shown], rows, f"{finished} of {len(jobs)} jobs finished")
    sys.stdout.write(f"\n{'jobs':<12}{folder}/<job>\n{'figures':<12}{folder / 'sweep.json'}\n")
    sys.stdout.flush()


def _figure(job: Mapping[str, Any], names: Sequence[str]) -> float | None:
    """A metric of the last stage that has it."""
    keys = (f"{stage}/{name}" for name in names for stage in reversed(job["stages"]))
    return next((job["metrics"][key] for key in keys if job["metrics"].get(key) is not None), None)


def _in_natural_order(folder: Path) -> list[tuple[int, str]]:
    """Job 10 after job 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", str(folder))]
