"""The figure by which a sweeper that searches (Optuna) judges a job."""

from __future__ import annotations

from alignpipe.config.model import RunConfig
from alignpipe.errors import ConfigError, did_you_mean
from alignpipe.processes import this_process
from alignpipe.store.files import read_json


def objective_of(run: RunConfig) -> float | None:
    """The final metric of a finished run that `objective` names; None if it names none.

    Raises `ConfigError` if the run has no such metric, or it is no finite number.
    """
    name = run.settings.objective
    if name is None or this_process().follows:
        return None
    summary = read_json(run.folder / "summary.json")
    metrics = summary["metrics"] if summary else {}
    if (value := metrics.get(name)) is None:  # JSON has no NaN: what was none is null
        why = "it is no finite number" if name in metrics else f"the run has no such metric{did_you_mean(name, metrics)}"
        raise ConfigError(f"objective={name}: {why}; all final metrics are in {run.folder / 'summary.json'}")
    return float(value)
