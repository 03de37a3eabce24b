"""The Hydra application: composes the config, and runs the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra.conf import HydraConf
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alignpipe.cli.folders import discard_unused_run_folder
from alignpipe.cli.help import register_help
from alignpipe.cli.objective import objective_of
from alignpipe.cli.report import JobFailed, RunFailed, message_of, report
from alignpipe.cli.sweeps import command_line, noted_job, sweep_report
from alignpipe.cli.words import in_order, is_sweep
from alignpipe.config.run import run_config
from alignpipe.config.search_path import conf_dir, register
from alignpipe.config.source import SWEEP_CALLBACK
from alignpipe.errors import ConfigError, FolderInUse
from alignpipe.processes import Process, this_process
from alignpipe.registry import registry

NO_FOLDER = ("hydra.run.dir=.", "hydra.output_subdir=null")
"""Overrides for what leaves no run folder: a plan, and the processes that help rank 0."""


def run(argv: list[str]) -> int:
    """Run the pipeline: one job, or with `-m` a sweep, with a table of its jobs at the end."""
    process = this_process()
    _refuse_sweep_of_several(process, argv)
    with sweep_report():
        hydra_main(run_job, [*argv, "hydra.mode=RUN", *NO_FOLDER] if process.follows else argv)
    return 0


def run_job(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """One job, which gives its `objective`; module-level because launchers send it to their workers by name.

    An interruption ends the process with its exit code, and a sweep with it.
    """
    from alignpipe.runner import execute  # not above: `--help` and TAB run nothing, and people wait for them

    hydra_config = HydraConfig.get()
    try:
        with noted_job(hydra_config):
            run = run_config(cfg, hydra_config, registry(), command_line(hydra_config))
            code = execute(run, registry())
            value = None if code or this_process().follows else objective_of(run)
    except Exception as error:
        _fail(error, hydra_config)
    if code:
        sys.exit(code)
    return value


def _fail(error: Exception, hydra_config: HydraConf) -> NoReturn:
    """End a job by its error.

    A job of a sweep raises, so that Hydra counts it as failed and goes on with the others. A single run leaves Hydra at
    once, with what `main` needs to end the process.
    """
    if message_of(error) is None:
        raise error  # a bug of ours or a plugin's: its traceback is wanted
    if hydra_config.mode == RunMode.MULTIRUN:
        report(error)
        raise JobFailed(f"job {hydra_config.job.num} of the sweep failed: {error}") from error
    if not this_process().follows and not isinstance(error, FolderInUse):
        discard_unused_run_folder(Path(hydra_config.runtime.output_dir))
    raise RunFailed(error) from error  # past Hydra, which would print the overrides beside it


def _refuse_sweep_of_several(process: Process, argv: list[str]) -> None:
    """Raise `ConfigError` for a sweep in several processes, which would all start its jobs."""
    if process.world_size > 1 and is_sweep(argv):
        raise ConfigError(
            f"-m starts its jobs in one process, and there are {process.world_size}: leave out torchrun (with "
            "processes=N each job starts its own), or launch one run at a time"
        )


def hydra_main(task: Callable[[DictConfig], Any], argv: list[str]) -> None:
    """Run Hydra's own command line over our config, with the plugins as config source."""
    register()
    register_help()
    application = hydra.main(config_path=str(conf_dir()), config_name="config", **_hydra_options())(task)
    before = sys.argv
    sys.argv = [before[0], *_as_hydra_reads(argv)]
    try:
        application()
    finally:
        sys.argv = before


def _hydra_options() -> dict[str, Any]:
    """Hydra 1.3 warns without a version_base; 1.4 warns with one, and of classes that are not on its whitelist."""
    return {"version_base": "1.3"} if hydra.__version__.startswith("1.3") else {"execution_whitelist": SWEEP_CALLBACK}


def _as_hydra_reads(argv: list[str]) -> list[str]:
    """The words in the order in which Hydra finds them all, without the one `+` that it refuses.

    Its documentation teaches `+experiment=`, but `experiment` is in our defaults list.
    """
    return [word.removeprefix("+") if word.startswith("+experiment=") else word for word in in_order(argv)]
