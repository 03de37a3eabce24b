"""The Hydra application: composes the config, and runs the pipeline or shows its plan."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alignpipe.cli.folders import discard_unused_run_folder
from alignpipe.cli.help import register_help
from alignpipe.cli.report import JobFailed, RunFailed, message_of, report
from alignpipe.cli.sweeps import command_line, noted_job, sweep_report
from alignpipe.cli.words import in_order, is_sweep, keys_with_several_values
from alignpipe.config.run import run_config
from alignpipe.config.search_path import conf_dir, register
from alignpipe.config.source import SWEEP_CALLBACK
from alignpipe.errors import ConfigError, FolderInUse
from alignpipe.processes import this_process
from alignpipe.registry import registry

_NO_FOLDER = ("hydra.run.dir=.", "hydra.output_subdir=null")
"""Overrides for what leaves no run folder: a plan, and the processes that help rank 0."""


def run(argv: list[str]) -> int:
    """Run the pipeline: one job, or with `-m` a sweep, with a table of its jobs at the end.

    Raises `ConfigError` for a sweep in several processes, which would all start its jobs.
    """
    process = this_process()
    if process.world_size > 1 and is_sweep(argv):
        raise ConfigError(
            f"-m starts its jobs in one process, and there are {process.world_size}: leave out torchrun (a sweep's "
            "launcher can start jobs side by side), or launch one run at a time"
        )
    with sweep_report():
        _hydra_main(run_job, [*argv, *_NO_FOLDER] if process.follows else argv)
    return 0


def plan(argv: list[str]) -> int:
    """Show what the same overrides would run, and why; no run folder is made."""
    several = keys_with_several_values(argv)
    if several or is_sweep(argv):
        mode = "leave out -m, and " if is_sweep(argv) else ""
        raise ConfigError(f"plan shows one run: {mode}give {', '.join(several) or 'each key'} one value")
    # A config file of the user's own may ask for a sweep too.
    _hydra_main(plan_job, [*argv, "hydra.mode=RUN", *_NO_FOLDER])
    return 0


def run_job(cfg: DictConfig) -> None:
    """One job; module-level because launchers send it to their workers by name.

    A job of a sweep raises, so that Hydra counts it as failed and goes on with the others; an interruption ends the
    sweep. A single run leaves Hydra at once, with what `main` needs to end the process.
    """
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        from alignpipe.runner import execute

        with noted_job(HydraConfig.get()):
            words = command_line(HydraConfig.get())
            status = execute(run_config(cfg, HydraConfig.get(), registry(), words), registry())
    except Exception as error:
        if message_of(error) is None:
            raise  # a bug of ours or a plugin's: its traceback is wanted
        if not sweep:
            if not this_process().follows and not isinstance(error, FolderInUse):
                discard_unused_run_folder(Path(HydraConfig.get().runtime.output_dir))
            raise RunFailed(error) from error  # past Hydra, which would print the overrides beside it
        report(error)
        raise JobFailed(f"job {HydraConfig.get().job.num} of the sweep failed: {error}") from error
    if status:  # it was interrupted
        sys.exit(status)


def plan_job(cfg: DictConfig) -> None:
    """Show the plan of one composed config."""
    from alignpipe.runner import show_plan

    try:
        show_plan(run_config(cfg, HydraConfig.get(), registry()), registry())
    except Exception as error:
        if message_of(error) is None:
            raise
        raise RunFailed(error) from error


def _hydra_main(task: Callable[[DictConfig], None], argv: list[str]) -> None:
    """Run Hydra's own command line over our config, with the plugins as config source."""
    register()
    register_help()
    # Hydra 1.3 warns without a version_base; 1.4 warns with one, and of classes that are not on its whitelist.
    is_1_3 = hydra.__version__.startswith("1.3")
    options: dict[str, Any] = {"version_base": "1.3"} if is_1_3 else {"execution_whitelist": SWEEP_CALLBACK}
    application = hydra.main(config_path=str(conf_dir()), config_name="config", **options)(task)
    before = sys.argv
    words = in_order(argv)  # flags first: Hydra 1.3 finds overrides nowhere else
    # `experiment` is in our defaults list, where Hydra refuses the `+` that its documentation teaches.
    sys.argv = [before[0], *(word.removeprefix("+") if word.startswith("+experiment=") else word for word in words)]
    try:
        application()
    finally:
        sys.argv = before
