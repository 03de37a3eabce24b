"""`alignpipe plan`: what a run would do and why, and what a sweep would compute."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alignpipe.cli.app import NO_FOLDER, hydra_main
from alignpipe.cli.objective import searches
from alignpipe.cli.report import RunFailed, message_of
from alignpipe.cli.run_table import differences
from alignpipe.cli.sweeps import SweepCallback
from alignpipe.config.command import overrides_of
from alignpipe.config.run import run_config
from alignpipe.errors import ConfigError
from alignpipe.plan import Planner, make_plan
from alignpipe.registry import registry
from alignpipe.store import Store
from alignpipe.tables import show_table

_OF_SWEEPS = ("hydra/launcher=", "hydra.launcher.", "hydra.sweep.")
"""Overrides of how and where a sweep runs, which its plan does not."""
_QUIETLY = ("hydra/launcher=basic", "hydra/hydra_logging=none")


@dataclass(frozen=True)
class _Job:
    """A job of a sweep: for each stage what would be done, and the key that tells its result from others."""

    number: int
    overrides: Sequence[str]
    stages: Mapping[str, tuple[str, str]]


_jobs: list[_Job] = []


def main(argv: list[str]) -> int:
    """Show the plan of the run, or of the sweep, that the same words would start; it leaves no folder.

    Raises what would stop the run before any work.
    """
    words = [word for word in argv if not word.lstrip("+").startswith(_OF_SWEEPS)]
    _jobs.clear()
    with tempfile.TemporaryDirectory(prefix="alignpipe-plan-") as nowhere, ExitStack() as SweepCallback.until_the_end:
        try:
            hydra_main(plan_job, [*words, *NO_FOLDER, *_QUIETLY, f"hydra.sweep.dir={nowhere}"])
        finally:
            SweepCallback.current = None
    if _jobs:
        _show_sweep(_jobs)
    return 0


def plan_job(cfg: DictConfig) -> None:
    """Show the plan of one composed config, or note that of a sweep's job."""
    from alignpipe.runner import show_plan

    hydra = HydraConfig.get()
    try:
        run = run_config(cfg, hydra, registry())
        if hydra.mode != RunMode.MULTIRUN:
            show_plan(run, registry())
            return
        if searches(hydra):
            raise ConfigError(
                "what a search runs depends on what its jobs find: plan one of them without hydra/sweeper and -m"
            )
        planner = Planner(run, registry(), Store(run.outputs / "store"))
        keys = planner.expected_keys()
        stages = {each.spec.name: (each.action, keys[each.spec.name]) for each in make_plan(planner)}
        _jobs.append(_Job(int(hydra.job.num), overrides_of(hydra), stages))
    except Exception as error:
        if message_of(error) is None:
            raise
        raise RunFailed(error) from error


def _show_sweep(jobs: Sequence[_Job]) -> None:
    """A line for each job, and for each stage how many results the sweep needs and how many of them are stored."""
    names = list(dict.fromkeys(stage for job in jobs for stage in job.stages))
    given = differences([job.overrides for job in jobs])
    rows = [
        [str(job.number), " ".join(words), *(job.stages.get(name, ("-", ""))[0] for name in names)]
        for job, words in zip(jobs, given, strict=True)
    ]
    show_table(["job", "overrides", *names], rows, f"{len(jobs)} jobs")
    counts = []
    for name in names:
        found = {job.stages[name][1]: job.stages[name][0] for job in jobs if name in job.stages}
        stored = sum(action == "hit" for action in found.values())
        counts.append([name, str(len(found)), str(stored), str(len(found) - stored)])
    sys.stdout.write("\n")
    show_table(["stage", "results", "stored", "to compute"], counts, figures=True)
    if any(action == "unknown" for job in jobs for action, _ in job.stages.values()):
        sys.stdout.write("\nunknown: to compute, unless the results before it turn out to be known ones\n")
